//! The miner's engines: one for each slot and model, each busy with one job at a time.

use super::pace::Pace;
use super::power::Power;
use crate::metrics::MinerMetrics;
use crate::miner::work::{Made, Task, carry_out};
use crate::words::{best_rate, short_job};
use crate::workload::{KnownModel, Models};
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use swarm_inference::{CancelToken, Engine, Hardware, Registry};
use swarm_protocol::miner::Run;
use swarm_protocol::statement::{Assurance, JobType};
use swarm_protocol::workload::bench::Figures;

/// How long a job waits for an engine that is about to be free.
const MAX_IDLE_WAIT: Duration = Duration::from_secs(2);

type Idle = Arc<Mutex<BTreeMap<String, Vec<Box<dyn Engine>>>>>;

/// Engines that wait for work.
#[derive(Clone)]
pub struct Engines {
    idle: Idle,
    freed: Arc<Condvar>,
    models: Arc<BTreeMap<String, Vec<Assurance>>>,
    /// As it was before any model was loaded.
    hardware: Hardware,
    providers: Registry,
    metrics: MinerMetrics,
    power: Power,
    /// Of the last benchmark.
    gflop_s: Arc<Mutex<Option<f64>>>,
}

/// Says which models a processor computes slowly for the format of their weights.
pub fn warn_of_slow_formats(models: &Models) {
    for name in models.names() {
        if let Some(slow) = models.get(name).and_then(|model| model.slow_format()) {
            tracing::warn!("{name}: {slow}");
        }
    }
}

impl Engines {
    /// Loads every model once for each slot.
    pub fn start(models: &Models, slots: u32, providers: &Registry, power: Power) -> Result<Self> {
        let mut idle: BTreeMap<String, Vec<Box<dyn Engine>>> = BTreeMap::new();
        let hardware = Hardware::probe();
        for name in models.names() {
            let model = models.get(name).context("a model that was just named")?;
            for _ in 0..slots {
                idle.entry(name.clone()).or_default().push(model.start_on(&hardware, providers)?);
            }
        }
        let models =
            Arc::new(idle.iter().map(|(name, engines)| (name.clone(), assurances(engines))).collect());
        let metrics = MinerMetrics::default();
        metrics.has_engines(slots);
        let providers = providers.clone();
        Ok(Self {
            idle: Arc::new(Mutex::new(idle)),
            freed: Arc::default(),
            models,
            hardware,
            providers,
            metrics,
            power,
            gflop_s: Arc::default(),
        })
    }

    /// The models they run, and how checkable their answers are.
    pub fn models(&self) -> &BTreeMap<String, Vec<Assurance>> {
        &self.models
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
        progress: &mut dyn FnMut(&[u8], u64, swarm_crypto::digest::Digest),
    ) -> Result<Made> {
        let mut engine = self.take(&run.job.model)?;
        let (_work, usage) = (self.metrics.work(), self.power.begin());
        let mut progress = |text: &[u8], units, prefix| {
            self.metrics.token();
            progress(text, units, prefix);
        };
        let task = Task { run, model, within, cancel };
        let work = || carry_out(engine.as_mut(), &task, &mut progress);
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // What panicked is in no known state: another takes its place.
        let next = if made.is_ok() { engine } else { model.start_on(&self.hardware, &self.providers)? };
        self.give_back(&run.job.model, next);
        let joules = usage.joules();
        self.metrics.used(joules);
        let made = made.unwrap_or_else(|_| Err(anyhow!("the engine panicked")))?;
        Ok(Made { pace: self.measured(run, &made, joules), ..made })
    }

    /// How fast a text was made, or what a benchmark found, is counted and kept.
    fn measured(&self, run: &Run, made: &Made, joules: Option<f64>) -> Option<Pace> {
        let mut benchmark = self.gflop_s.lock().unwrap_or_else(PoisonError::into_inner);
        if run.job.job_type == JobType::TorchBench {
            *benchmark = Figures::decode(&made.output).ok().map(|figures| best_rate(&figures));
        }
        let pace = made.pace?.with(joules, *benchmark);
        self.metrics.went(&pace);
        tracing::info!("{}: {pace}", short_job(&run.id));
        Some(pace)
    }

    /// An engine beside those of the slots: who audits goes on earning.
    pub fn beside(&self, model: &KnownModel) -> Result<Box<dyn Engine>> {
        model.start_on(&self.hardware, &self.providers)
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

/// What samples by itself can be compared with the model, and not be repeated draw by draw.
fn assurances(engines: &[Box<dyn Engine>]) -> Vec<Assurance> {
    match engines.iter().any(|engine| engine.samples_itself()) {
        true => vec![Assurance::Distance],
        false => vec![Assurance::Seeded, Assurance::Distance],
    }
}
