//! A finished text, scored: what one pass says is what was offered token by token, within the bounds that were set.

use std::time::{Duration, Instant};

use swarm_inference::testing::{Change, Scripted, Shape, Storage, changed, model};
use swarm_inference::{
    Asked, CancelToken, Candle, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Greedy, MAX_TOP_K,
    Model, Provider, RescoreRequest, Step, queenbee,
};

fn engine(model: &Model) -> Box<dyn Engine> {
    Candle::default().start(&EngineConfig { model: model.clone(), max_memory_bytes: None }).unwrap()
}

/// A run of `tokens` tokens, and the request that checks it.
fn made(engine: &mut dyn Engine, prompt: &[u32], tokens: u32) -> (Vec<Step>, RescoreRequest) {
    let request = GenerateRequest { prompt_ids: prompt.to_vec(), max_tokens: tokens, ..Default::default() };
    let mut steps = Vec::new();
    let mut sink = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut sink).unwrap();
    let asked = |step: &Step| Asked {
        token: step.token,
        tokens: step.candidates.iter().map(|candidate| candidate.token).collect(),
    };
    let output = steps.iter().map(asked).collect();
    let top_k = 2 * engine.manifest().top_k;
    (steps, RescoreRequest { prompt_ids: prompt.to_vec(), output, top_k, ..RescoreRequest::default() })
}

fn prompt(length: usize) -> Vec<u32> {
    (0..length).map(|n| (n * 31 % 250) as u32).collect()
}

#[test]
fn one_pass_says_what_was_offered_token_by_token() {
    // Alone on one core; and in a batch on all, as large models are, with a text over several chunks.
    let large = Shape {
        layers: 4,
        width: 512,
        hidden: 2048,
        heads: 8,
        kv_heads: 8,
        storage: Storage::Q8_0,
        ..Shape::default()
    };
    for (model, length, tokens) in
        [(queenbee(), 1, 40), (queenbee(), 70, 90), (model("large", large).unwrap(), 33, 9)]
    {
        let mut engine = engine(&model);
        let (steps, request) = made(engine.as_mut(), &prompt(length), tokens);
        let found = engine.rescore(&request, &CancelToken::new()).unwrap();
        assert_eq!(found.len(), steps.len());
        for (step, found) in steps.iter().zip(&found) {
            let costs: Vec<u32> = step.candidates.iter().map(|candidate| candidate.cost).collect();
            assert_eq!(found.costs, costs, "{} of {}", step.position, model.manifest.name);
            assert_eq!(found.top.len(), 2 * step.candidates.len());
            assert_eq!(found.top[..step.candidates.len()], step.candidates);
        }
    }
}

#[test]
fn tokens_that_are_hardly_possible_have_costs_too() {
    let mut engine = engine(&queenbee());
    let asked = Asked { token: 5, tokens: (0..200).collect() };
    let request =
        RescoreRequest { prompt_ids: vec![9, 8, 7], output: vec![asked; 3], ..RescoreRequest::default() };
    let found = engine.rescore(&request, &CancelToken::new()).unwrap();
    assert!(found.iter().all(|found| found.costs.len() == 200 && found.top.is_empty()));
    assert!(found[0].costs.iter().any(|cost| *cost > 12 * 4096), "{found:?}");
}

#[test]
fn coarser_weights_say_something_else() {
    let (steps, request) = made(engine(&queenbee()).as_mut(), &prompt(9), 20);
    let coarse = changed(&queenbee(), Change::Stored(Storage::Q4_0)).unwrap();
    let found = engine(&coarse).rescore(&request, &CancelToken::new()).unwrap();
    let apart =
        steps.iter().zip(&found).map(|(step, found)| step.candidates[0].cost.abs_diff(found.costs[0]));
    assert!(apart.sum::<u32>() / 20 > 200);
    let short = changed(&queenbee(), Change::Shortened(3)).unwrap();
    assert!(short.manifest.size < queenbee().manifest.size * 2 / 3);
    assert_ne!(engine(&short).rescore(&request, &CancelToken::new()).unwrap(), found);
}

#[test]
fn its_bounds_are_obeyed_and_the_engine_goes_on() {
    let mut engine = engine(&queenbee());
    let (_, good) = made(engine.as_mut(), &prompt(9), 20);
    let refused = |engine: &mut dyn Engine, request: &RescoreRequest| {
        engine.rescore(request, &CancelToken::new()).unwrap_err().to_string()
    };
    let with = |change: &dyn Fn(&mut RescoreRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let told = [
        (with(&|r| r.prompt_ids.clear()), "the prompt is empty"),
        (with(&|r| r.output.clear()), "there is no output to score"),
        (with(&|r| r.output[3].token = 2048), "token 2048 is not in the model's vocabulary"),
        (with(&|r| r.output[3].tokens[2] = 2048), "token 2048 is not in the model's vocabulary"),
        (with(&|r| r.output[3].tokens = vec![1; 257]), "at most 256 costs"),
        (with(&|r| r.top_k = 2 * MAX_TOP_K + 1), "at most 512 candidates"),
        (with(&|r| r.output = vec![Asked::default(); 260]), "the model's context holds 256"),
        (with(&|r| r.max_memory_bytes = Some(1 << 20)), "1048576 are allowed"),
        (with(&|r| r.deadline = Some(Instant::now() - Duration::from_secs(1))), "the deadline passed"),
    ];
    for (request, expected) in told {
        let told = refused(engine.as_mut(), &request);
        assert!(told.contains(expected), "{told}");
    }
    let cancelled = CancelToken::new();
    cancelled.cancel();
    assert!(matches!(engine.rescore(&good, &cancelled), Err(EngineError::Cancelled)));
    assert_eq!(engine.rescore(&good, &CancelToken::new()).unwrap().len(), 20);
    let enough = with(&|r| r.max_memory_bytes = Some(64 << 20));
    assert!(engine.rescore(&enough, &CancelToken::new()).is_ok());
}

#[test]
fn an_engine_that_cannot_says_so() {
    let told = Scripted::letters("letters").rescore(&RescoreRequest::default(), &CancelToken::new());
    assert_eq!(told.unwrap_err().to_string(), "this engine cannot rescore");
}
