//! The miner's engines: one for each slot and model, each busy with one job at a time.

use crate::metrics::MinerMetrics;
use crate::workload::{KnownModel, Models, NormativeSampler, step, stop_reason};
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use swarm_inference::{CancelToken, Engine, Flow, GenerateRequest, Registry};
use swarm_protocol::miner::Run;
use swarm_protocol::transcript::{PrefixDigest, Transcript};

/// How long a job waits for an engine that is about to be free.
const MAX_IDLE_WAIT: Duration = Duration::from_secs(2);

type Idle = Arc<Mutex<BTreeMap<String, Vec<Box<dyn Engine>>>>>;

/// Engines that wait for work.
#[derive(Clone)]
pub struct Engines {
    idle: Idle,
    freed: Arc<Condvar>,
    models: Arc<Vec<String>>,
    metrics: MinerMetrics,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Made {
    /// The transcript's block.
    pub transcript: Vec<u8>,
    /// The output.
    pub output: Vec<u8>,
}

impl Engines {
    /// Loads every model once for each slot.
    pub fn start(models: &Models, slots: u32, providers: &Registry) -> Result<Self> {
        let mut idle: BTreeMap<String, Vec<Box<dyn Engine>>> = BTreeMap::new();
        for name in models.names() {
            let model = models.get(name).context("a model that was just named")?;
            for _ in 0..slots {
                idle.entry(name.clone()).or_default().push(model.start(providers)?);
            }
        }
        let models = Arc::new(idle.keys().cloned().collect());
        let metrics = MinerMetrics::default();
        metrics.has_engines(slots);
        Ok(Self { idle: Arc::new(Mutex::new(idle)), freed: Arc::default(), models, metrics })
    }

    /// The models they run.
    pub fn models(&self) -> impl Iterator<Item = &String> {
        self.models.iter()
    }

    /// What they, and the miner around them, count.
    pub fn metrics(&self) -> &MinerMetrics {
        &self.metrics
    }

    /// Runs one job on an idle engine; blocks until it is done. `progress` hears of every token.
    pub fn run(
        &self,
        run: &Run,
        model: &KnownModel,
        within: Duration,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(u64, swarm_crypto::digest::Digest),
    ) -> Result<Made> {
        let mut engine = self.take(&run.job.model)?;
        let _work = self.metrics.work();
        let mut progress = |units, prefix| {
            self.metrics.token();
            progress(units, prefix);
        };
        let generate = || generate(engine.as_mut(), run, model, within, cancel, &mut progress);
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(generate));
        // What panicked is in no known state: another takes its place.
        let next = if made.is_ok() { engine } else { model.start(&Registry::standard())? };
        self.give_back(&run.job.model, next);
        made.unwrap_or_else(|_| Err(anyhow!("the engine panicked")))
    }

    fn take(&self, model: &str) -> Result<Box<dyn Engine>> {
        let none =
            |idle: &mut BTreeMap<String, Vec<Box<dyn Engine>>>| idle.get(model).is_none_or(Vec::is_empty);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // An engine that was told to stop is free within a token or two.
        let waited = self.freed.wait_timeout_while(idle, MAX_IDLE_WAIT, none);
        let (mut idle, _) = waited.unwrap_or_else(PoisonError::into_inner);
        idle.get_mut(model).and_then(Vec::pop).ok_or_else(|| anyhow!("no engine for {model} is idle"))
    }

    fn give_back(&self, model: &str, engine: Box<dyn Engine>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.entry(model.to_owned()).or_default().push(engine);
        self.freed.notify_all();
    }
}

fn generate(
    engine: &mut dyn Engine,
    run: &Run,
    model: &KnownModel,
    within: Duration,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(u64, swarm_crypto::digest::Digest),
) -> Result<Made> {
    let prompt = model.prompt_ids(&run.job, run.linked.as_deref())?;
    let request = GenerateRequest {
        prompt_ids: prompt.clone(),
        max_tokens: run.job.params.max_tokens,
        stop: run.job.params.stop.clone(),
        deadline: Some(Instant::now() + within),
        max_memory_bytes: None,
    };
    let mut prefix = PrefixDigest::new(&run.lease, &model.digest(), &prompt);
    let mut steps = Vec::new();
    let mut sampler = NormativeSampler::new(&run.job, run.seed);
    let mut sink = |made: &swarm_inference::Step| {
        let made = step(made);
        prefix.push(&made);
        steps.push(made);
        progress(prefix.steps(), prefix.digest());
        std::thread::sleep(token_pause());
        Flow::Continue
    };
    let generation = engine.generate(&request, &mut sampler, cancel, &mut sink)?;
    let transcript = Transcript {
        model: run.job.model.clone(),
        model_digest: model.digest(),
        prompt,
        steps,
        stop: stop_reason(generation.stop_reason),
    };
    Ok(Made { transcript: transcript.encode(), output: generation.output })
}

/// `SWARMPOOL_TOKEN_PAUSE_MS` makes jobs of small models long in debug builds, for tests.
#[cfg(debug_assertions)]
fn token_pause() -> Duration {
    let pause = std::env::var("SWARMPOOL_TOKEN_PAUSE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(pause.unwrap_or(0))
}

#[cfg(not(debug_assertions))]
fn token_pause() -> Duration {
    Duration::ZERO
}
