use std::sync::Arc;

use swarm_inference::testing::{Shape, manifest, model};
use swarm_inference::{
    CancelToken, Candle, EngineConfig, EngineError, Flow, GenerateRequest, Greedy, Hardware, LoadError,
    Manifest, Model, Provider, Registry, Stats, Support,
};

const MACHINE: Hardware = Hardware { memory_bytes: 1 << 30, cores: 2 };

fn config() -> EngineConfig {
    EngineConfig { model: model("tiny", Shape::default()).unwrap(), max_memory_bytes: None }
}

#[test]
fn registering_twice_is_harmless() {
    let mut registry = Registry::empty();
    let first: Arc<dyn Provider> = Arc::new(Candle::default());
    assert!(registry.register(first.clone()));
    assert!(!registry.register(Arc::new(Candle::default())));
    assert_eq!(registry.providers().count(), 1);
    assert!(Arc::ptr_eq(registry.providers().next().unwrap(), &first));
}

#[test]
fn detection_says_why_not() {
    let candle = Candle::default();
    assert_eq!(candle.detect(&MACHINE, &manifest("some")), Support::Supported);
    let other = Manifest { architecture: "mamba".into(), ..manifest("other") };
    let error = Registry::standard().find(&MACHINE, &other).err().unwrap();
    assert_eq!(
        error.to_string(),
        "no provider can run the model other: candle: the architecture mamba is not supported"
    );
    let large = Manifest { size: 1 << 31, ..manifest("large") };
    assert!(matches!(candle.detect(&MACHINE, &large), Support::Unsupported(_)));
}

#[test]
fn engines_are_counted_until_dropped_or_stopped() {
    let candle = Candle::default();
    assert!(!candle.is_running());
    let mut engine = candle.start(&config()).unwrap();
    assert!(candle.is_running());
    let request = GenerateRequest { prompt_ids: vec![1, 2, 3], max_tokens: 4, ..GenerateRequest::default() };
    let run = |engine: &mut dyn swarm_inference::Engine| {
        engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue)
    };
    let generation = run(&mut *engine).unwrap();
    let stats = candle.stats();
    assert_eq!((stats.engines, stats.finished, stats.prompt_tokens), (1, 1, 3));
    assert_eq!(stats.output_tokens, generation.ids.len() as u64);
    candle.stop();
    assert!(!candle.is_running());
    assert!(matches!(run(&mut *engine), Err(EngineError::Cancelled)));
    assert_eq!(candle.stats().failed, 1);
    let mut after = candle.start(&config()).unwrap();
    drop(engine);
    assert!(run(&mut *after).is_ok());
    drop(after);
    let Stats { engines, weight_bytes, .. } = candle.stats();
    assert_eq!((engines, weight_bytes), (0, 0));
}

#[test]
fn a_manifest_that_contradicts_its_file_is_refused() {
    let right = config().model;
    let wrong = [
        Manifest { context_length: 1, ..right.manifest.clone() },
        Manifest { vocab_size: 262, ..right.manifest.clone() },
        Manifest { architecture: "llama2".into(), ..right.manifest.clone() },
    ];
    for manifest in wrong {
        let model = Model { manifest, ..right.clone() };
        let result = Candle::default().start(&EngineConfig { model, max_memory_bytes: None });
        let error = result.err().unwrap();
        assert!(matches!(error, EngineError::Load(LoadError::Contradiction { .. })), "{error}");
    }
    let small = EngineConfig { max_memory_bytes: Some(10_000), ..config() };
    let error = Candle::default().start(&small).err().unwrap();
    assert!(matches!(error, EngineError::Load(LoadError::Memory { .. })), "{error}");
}
