//! The checklist: a good model passes, and each fault is found by the line that is there for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use swarm_inference::testing::{Shape, model};
use swarm_inference::{
    CancelToken, Candle, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Generation, Hardware,
    Manifest, Provider, Registry, Stats, Step, Support, TokenSampler, Tokenizer, ValidateError, Validation,
    queenbee, validate,
};

const TEXT: &str = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in \
                    want of a wife. However little known the feelings or views of such a man may be, this truth is so well \
                    fixed in the minds of the surrounding families, that he is considered as their rightful property.";

fn failures(found: &Validation) -> Vec<&'static str> {
    found.checks.iter().filter(|item| !item.passed).map(|item| item.check).collect()
}

#[test]
fn the_built_in_model_can_be_offered() {
    let found = validate(&Registry::standard(), &queenbee(), TEXT).unwrap();
    assert!(found.passed && failures(&found).is_empty(), "{found:?}");
    assert_eq!((found.checks.len(), found.provider.as_str()), (7, "candle"));
    assert!(found.perplexity > 1.0 && found.perplexity < 60.0, "{found:?}");
}

#[test]
fn random_weights_do_no_better_than_chance() {
    let noise = model("noise", Shape { context_length: 64, ..Shape::default() }).unwrap();
    let found = validate(&Registry::standard(), &noise, TEXT).unwrap();
    assert_eq!((found.passed, failures(&found)), (false, vec!["perplexity"]), "{found:?}");
}

#[test]
fn other_weights_than_the_manifest_names_and_too_short_a_text_are_refused() {
    let mut other = queenbee();
    other.manifest.blake3 = "00".repeat(32);
    assert!(matches!(validate(&Registry::standard(), &other, TEXT), Err(ValidateError::Load(_))));
    let short = validate(&Registry::standard(), &queenbee(), "It is");
    assert!(matches!(short, Err(ValidateError::Short(_))), "{short:?}");
    let nobody = validate(&Registry::empty(), &queenbee(), TEXT);
    assert!(matches!(nobody, Err(ValidateError::Provider(_))), "{nobody:?}");
}

/// What is wrong with an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Each run is offered something a little else.
    Restless,
    /// What is offered is not what the weights say.
    Biased,
    /// Answers are others while several run.
    Crowded,
}

struct Faulty {
    inner: Candle,
    fault: Fault,
    runs: Arc<AtomicU32>,
    engines: Arc<AtomicU32>,
}

struct FaultyEngine {
    inner: Box<dyn Engine>,
    fault: Fault,
    runs: Arc<AtomicU32>,
    engines: Arc<AtomicU32>,
}

impl Drop for FaultyEngine {
    fn drop(&mut self) {
        self.engines.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Provider for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn detect(&self, hardware: &Hardware, model: &Manifest) -> Support {
        self.inner.detect(hardware, model)
    }

    fn start(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        self.engines.fetch_add(1, Ordering::SeqCst);
        let (fault, runs, engines) = (self.fault, self.runs.clone(), self.engines.clone());
        Ok(Box::new(FaultyEngine { inner: self.inner.start(config)?, fault, runs, engines }))
    }

    fn stop(&self) {
        self.inner.stop();
    }

    fn is_running(&self) -> bool {
        self.inner.is_running()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

/// Takes the likeliest but one.
struct Second;

impl TokenSampler for Second {
    fn sample(&mut self, _: u32, candidates: &[swarm_inference::Candidate]) -> u32 {
        candidates[1].token
    }
}

impl Engine for FaultyEngine {
    fn manifest(&self) -> &Manifest {
        self.inner.manifest()
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.inner.tokenizer()
    }

    fn samples_itself(&self) -> bool {
        self.inner.samples_itself()
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let crowded = self.engines.load(Ordering::SeqCst) > 1;
        let off = match self.fault {
            Fault::Restless => run,
            Fault::Biased => 300,
            Fault::Crowded => 0,
        };
        let mut altered = |step: &Step| {
            let mut step = step.clone();
            step.candidates.iter_mut().for_each(|candidate| candidate.cost += off);
            sink(&step)
        };
        if self.fault == Fault::Crowded && crowded {
            return self.inner.generate(request, &mut Second, cancel, &mut altered);
        }
        self.inner.generate(request, sampler, cancel, &mut altered)
    }
}

#[test]
fn each_fault_of_an_engine_is_found_by_its_line() {
    for (fault, line) in [(Fault::Restless, "repeat"), (Fault::Biased, "one pass"), (Fault::Crowded, "batch")]
    {
        let mut registry = Registry::empty();
        let (inner, runs, engines) = (Candle::default(), Arc::default(), Arc::default());
        registry.register(Arc::new(Faulty { inner, fault, runs, engines }));
        let found = validate(&registry, &queenbee(), TEXT).unwrap();
        assert_eq!((found.passed, failures(&found)), (false, vec![line]), "{fault:?}: {found:?}");
    }
}
