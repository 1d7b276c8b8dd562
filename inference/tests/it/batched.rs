//! Many jobs in one engine: what each is offered and says is what it would be alone.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use swarm_inference::testing::{Shape, Storage, model};
use swarm_inference::{
    CancelToken, Candidate, Candle, Engine, EngineConfig, EngineError, Flow, GenerateRequest,
    MAX_ONE_CORE_PARAMETERS, Provider, Step, TokenSampler,
};

const JOBS: usize = 8;

/// A little more than one core is given.
const SHAPE: Shape = Shape {
    layers: 7,
    width: 512,
    hidden: 1280,
    heads: 8,
    kv_heads: 4,
    context_length: 512,
    storage: Storage::Q8_0,
    seed: 1,
};

fn config() -> EngineConfig {
    let attention =
        2 * SHAPE.width * SHAPE.width + 2 * SHAPE.width * SHAPE.width * SHAPE.kv_heads / SHAPE.heads;
    let parameters = SHAPE.layers * (attention + 3 * SHAPE.width * SHAPE.hidden);
    assert!(parameters as u64 > MAX_ONE_CORE_PARAMETERS, "{parameters}");
    EngineConfig { model: model("wide", SHAPE).unwrap(), max_memory_bytes: None }
}

/// Takes tokens by a seed, the likelier ones more often.
struct Seeded(u64);

impl TokenSampler for Seeded {
    fn sample(&mut self, _position: u32, candidates: &[Candidate]) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        candidates[(self.0 >> 33) as usize % candidates.len().min(4)].token
    }
}

fn request(job: usize) -> GenerateRequest {
    let prompt_ids = (0..5 + 23 * job).map(|i| ((i * (7 + job)) % 250) as u32).collect();
    GenerateRequest { prompt_ids, max_tokens: 6 + (job % 3) as u32 * 5, ..GenerateRequest::default() }
}

fn run(engine: &mut dyn Engine, job: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut sink = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    engine.generate(&request(job), &mut Seeded(job as u64), &CancelToken::new(), &mut sink).unwrap();
    steps
}

#[test]
fn eight_jobs_in_one_engine_give_what_eight_jobs_give_one_by_one() {
    let config = config();
    let candle = Candle::default();
    let mut engines: Vec<_> = (0..JOBS).map(|_| candle.start(&config).unwrap()).collect();
    let alone: Vec<Vec<Step>> = (0..JOBS).map(|job| run(&mut *engines[0], job)).collect();
    let together: Vec<Vec<Step>> = std::thread::scope(|scope| {
        let begin = |(job, engine): (usize, Box<dyn Engine>)| {
            let mut engine = engine;
            scope.spawn(move || run(&mut *engine, job))
        };
        let threads: Vec<_> = engines.into_iter().enumerate().map(begin).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (job, (together, alone)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(together, alone, "job {job}");
    }
}

#[test]
fn engines_of_one_model_share_its_weights() {
    let config = config();
    let candle = Candle::default();
    let one = candle.start(&config).unwrap();
    let bytes = candle.stats().weight_bytes;
    let others: Vec<_> = (1..JOBS).map(|_| candle.start(&config).unwrap()).collect();
    assert_eq!((candle.stats().engines, candle.stats().weight_bytes), (8, bytes));
    drop(one);
    assert_eq!((candle.stats().engines, candle.stats().weight_bytes), (7, bytes));
    drop(others);
    assert_eq!((candle.stats().engines, candle.stats().weight_bytes), (0, 0));
}

/// Holds its job between an offer and its answer.
struct Held<'a>(&'a Barrier);

impl TokenSampler for Held<'_> {
    fn sample(&mut self, position: u32, candidates: &[Candidate]) -> u32 {
        if position == 1 {
            self.0.wait();
            self.0.wait();
        }
        candidates[0].token
    }
}

#[test]
fn a_job_that_hesitates_and_a_job_that_is_cancelled_hold_up_nobody() {
    let config = config();
    let candle = Candle::default();
    let [mut held, mut cancelled, mut other] = [(); 3].map(|()| candle.start(&config).unwrap());
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| {
            held.generate(&request(2), &mut Held(&barrier), &CancelToken::new(), &mut |_| Flow::Continue)
        });
        barrier.wait();
        let mut seen = 0;
        let cancel = CancelToken::new();
        let result = cancelled.generate(&request(5), &mut Seeded(5), &cancel, &mut |_| {
            seen += 1;
            cancel.cancel();
            Flow::Continue
        });
        assert!(matches!(result, Err(EngineError::Cancelled)));
        assert_eq!(seen, 1);
        let late = GenerateRequest {
            deadline: Some(Instant::now() + Duration::from_millis(1)),
            max_tokens: 400,
            ..request(1)
        };
        let result = cancelled.generate(&late, &mut Seeded(1), &CancelToken::new(), &mut |_| Flow::Continue);
        assert!(matches!(result, Err(EngineError::Deadline)));
        assert_eq!(run(&mut *other, 3).len(), 6);
        barrier.wait();
        assert_eq!(holder.join().unwrap().unwrap().ids.len(), 16);
    });
}
