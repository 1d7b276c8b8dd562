//! The engine's end: one model, many tasks at once, orders on one pipe and reports on another.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;

use super::frame::{self, Order, PIPE_VERSION, Report, Task};
use crate::lock::lock;
use crate::{
    Asked, BenchRequest, CancelToken, Candidate, EmbedRequest, Engine, EngineConfig, EngineError, Flow,
    GenerateRequest, Hardware, MAX_BATCH_SEQUENCES, Model, PaintRequest, Provider, Registry, RescoreRequest,
    Rescored, TokenSampler,
};

/// Between two looks at whether a sequence is over while its token is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Tasks at once: those of a whole batch, and as many that are about to end.
const MAX_TASKS: usize = 2 * MAX_BATCH_SEQUENCES;

/// Why an engine stopped before it was told to.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The pipe broke or carried what is no order.
    #[error("the pipe to the node failed: {0}")]
    Pipe(#[from] io::Error),
    /// An order came that may not come then.
    #[error("the node gave an order out of turn: {0}")]
    OutOfTurn(&'static str),
}

/// Serves one node until `input` ends: what `swarm-engine` does with its standard input and output.
pub fn serve(
    input: &mut impl Read,
    output: impl Write + Send + 'static,
    providers: &Registry,
) -> Result<(), ServeError> {
    let reports = Reports(Arc::new(Mutex::new(Box::new(output))));
    let program = format!("swarm-engine {}", env!("CARGO_PKG_VERSION"));
    reports.say(&Report::Hello { pipe: PIPE_VERSION, program })?;
    let mut desk = Desk { reports, loading: false, loaded: Arc::default(), tasks: Arc::default() };
    while let Some(order) = frame::read(input)? {
        desk.take(order, providers)?;
    }
    Ok(())
}

/// Where all threads report; a report is written whole.
#[derive(Clone)]
struct Reports(Arc<Mutex<Box<dyn Write + Send>>>);

impl Reports {
    fn say(&self, report: &Report) -> io::Result<()> {
        frame::write(&mut *lock(&self.0), report)
    }
}

type Tasks = Arc<Mutex<BTreeMap<u64, Running>>>;

/// A task as orders find it.
struct Running {
    taken: SyncSender<u32>,
    over: CancelToken,
}

/// What starts engines of the loaded model, which share its weights.
struct Loaded {
    provider: Arc<dyn Provider>,
    config: EngineConfig,
    idle: Mutex<Vec<Box<dyn Engine>>>,
}

/// Takes orders and never waits for what they ask.
struct Desk {
    reports: Reports,
    loading: bool,
    loaded: Arc<Mutex<Option<Arc<Loaded>>>>,
    tasks: Tasks,
}

impl Desk {
    fn take(&mut self, order: Order, providers: &Registry) -> Result<(), ServeError> {
        match order {
            Order::Load { .. } if self.loading => return Err(ServeError::OutOfTurn("a second model")),
            Order::Load { model, max_memory_bytes } => {
                self.loading = true;
                self.load(model.model(), max_memory_bytes, providers.clone());
            }
            Order::Begin { id, task, max_memory_bytes } => self.begin(id, task, max_memory_bytes)?,
            Order::Take { id, token } => {
                if let Some(running) = lock(&self.tasks).get(&id) {
                    // Whoever takes twice for one offer is ended.
                    if running.taken.try_send(token).is_err() {
                        running.over.cancel();
                    }
                }
            }
            Order::End { id } => {
                if let Some(running) = lock(&self.tasks).get(&id) {
                    running.over.cancel();
                }
            }
            Order::Ping => self.reports.say(&Report::Pong)?,
        }
        Ok(())
    }

    fn load(&self, model: Model, max_memory_bytes: Option<u64>, providers: Registry) {
        let (reports, loaded) = (self.reports.clone(), self.loaded.clone());
        std::thread::spawn(move || {
            let report = match load(model, max_memory_bytes, &providers) {
                Ok(ready) => {
                    let weight_bytes = ready.provider.stats().weight_bytes;
                    *lock(&loaded) = Some(Arc::new(ready));
                    Report::Loaded { weight_bytes }
                }
                Err(why) => Report::NotLoaded { why },
            };
            // A node that is gone has closed the input too.
            let _ = reports.say(&report);
        });
    }

    fn begin(&self, id: u64, task: Task, max_memory_bytes: Option<u64>) -> Result<(), ServeError> {
        let loaded = lock(&self.loaded).clone().ok_or(ServeError::OutOfTurn("no model is loaded"))?;
        let mut tasks = lock(&self.tasks);
        if tasks.len() >= MAX_TASKS {
            let why = Some(format!("{MAX_TASKS} tasks are under way already"));
            return Ok(self.reports.say(&Report::Ended { id, why, at_fault: false })?);
        }
        let (taken, takes) = sync_channel(1);
        let over = CancelToken::new();
        if tasks.insert(id, Running { taken, over: over.clone() }).is_some() {
            return Err(ServeError::OutOfTurn("a task of that number is under way"));
        }
        drop(tasks);
        let (reports, tasks) = (self.reports.clone(), self.tasks.clone());
        std::thread::spawn(move || {
            let work = Work { id, reports: reports.clone(), over };
            // An engine that panicked was not put back, and another takes its place.
            let run = || work.run(&loaded, task, takes, max_memory_bytes);
            let (why, at_fault) = match catch_unwind(AssertUnwindSafe(run)) {
                Ok(Ok(())) => (None, false),
                Ok(Err(error)) => (Some(error.to_string()), error.is_fault()),
                Err(_) => (Some("the engine panicked".to_owned()), true),
            };
            lock(&tasks).remove(&id);
            // A node that is gone has closed the input too.
            let _ = reports.say(&Report::Ended { id, why, at_fault });
        });
        Ok(())
    }
}

fn load(model: Model, max_memory_bytes: Option<u64>, providers: &Registry) -> Result<Loaded, String> {
    let provider = providers.find(&Hardware::probe(), &model.manifest).map_err(|error| error.to_string())?;
    let config = EngineConfig { model, max_memory_bytes };
    let engine = provider.start(&config).map_err(|error| error.to_string())?;
    Ok(Loaded { provider, config, idle: Mutex::new(vec![engine]) })
}

/// One task on its own thread.
#[derive(Clone)]
struct Work {
    id: u64,
    reports: Reports,
    over: CancelToken,
}

impl Work {
    fn run(
        &self,
        loaded: &Loaded,
        task: Task,
        takes: Receiver<u32>,
        max_memory_bytes: Option<u64>,
    ) -> Result<(), EngineError> {
        let idle = lock(&loaded.idle).pop();
        let mut engine = match idle {
            Some(engine) => engine,
            None => loaded.provider.start(&loaded.config)?,
        };
        let result = self.carry_out(engine.as_mut(), task, takes, max_memory_bytes);
        lock(&loaded.idle).push(engine);
        result
    }

    fn carry_out(
        &self,
        engine: &mut dyn Engine,
        task: Task,
        takes: Receiver<u32>,
        max_memory_bytes: Option<u64>,
    ) -> Result<(), EngineError> {
        let id = self.id;
        match task {
            Task::Generate { prompt: prompt_ids, max_new: max_tokens } => {
                let request = GenerateRequest {
                    prompt_ids,
                    max_tokens,
                    max_memory_bytes,
                    ..GenerateRequest::default()
                };
                let mut sampler = Asking { work: self.clone(), takes };
                let mut go_on = |_: &_| self.flow();
                engine.generate(&request, &mut sampler, &self.over, &mut go_on).map(|_| ())
            }
            Task::Rescore { prompt: prompt_ids, output, top_k } => {
                let output = output.into_iter().map(|(token, tokens)| Asked { token, tokens }).collect();
                let request = RescoreRequest { prompt_ids, output, top_k, deadline: None, max_memory_bytes };
                for Rescored { costs, top } in engine.rescore(&request, &self.over)? {
                    self.say(&Report::Scored { id, costs, top: frame::pairs(&top) });
                }
                Ok(())
            }
            Task::Embed { texts } => {
                let request = EmbedRequest { texts, deadline: None, max_memory_bytes };
                engine.embed(&request, &self.over, &mut |vector| {
                    self.say(&Report::Vector { id, numbers: vector.iter().map(|n| n.to_bits()).collect() })
                })
            }
            Task::Paint { prompt: prompt_ids, width, height, steps, guidance, seed } => {
                let deadline = None;
                let request = PaintRequest {
                    prompt_ids,
                    width,
                    height,
                    steps,
                    guidance,
                    seed,
                    deadline,
                    max_memory_bytes,
                };
                let png = engine.paint(&request, &self.over, &mut |summary| {
                    self.say(&Report::Summary { id, numbers: summary.to_vec() })
                })?;
                self.say(&Report::Picture { id, png: png.into() });
                Ok(())
            }
            Task::Multiply { dtype, m, n, k, repeats, seed } => {
                let request =
                    BenchRequest { dtype, m, n, k, repeats, seed, deadline: None, max_memory_bytes };
                engine.benchmark(&request, &self.over, &mut |lap| {
                    let nanoseconds = u64::try_from(lap.time.as_nanos()).unwrap_or(u64::MAX);
                    self.say(&Report::Lap { id, nanoseconds, checksum: lap.checksum })
                })
            }
        }
    }

    fn say(&self, report: &Report) -> Flow {
        if self.reports.say(report).is_err() {
            self.over.cancel();
        }
        self.flow()
    }

    fn flow(&self) -> Flow {
        if self.over.is_cancelled() { Flow::Stop } else { Flow::Continue }
    }
}

/// A sampler that asks the node.
struct Asking {
    work: Work,
    takes: Receiver<u32>,
}

impl TokenSampler for Asking {
    fn sample(&mut self, _position: u32, candidates: &[Candidate]) -> u32 {
        let over = &self.work.over;
        self.work.say(&Report::Offer { id: self.work.id, candidates: frame::pairs(candidates) });
        while !over.is_cancelled() {
            match self.takes.recv_timeout(LOOK_INTERVAL) {
                Ok(token) => return token,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => over.cancel(),
            }
        }
        // Nobody sees it: the task is over.
        candidates.first().map_or(0, |candidate| candidate.token)
    }
}
