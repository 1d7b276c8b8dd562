//! The engine's end: one model, many sequences at once, orders on one pipe and reports on another.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;

use super::frame::{self, Order, PIPE_VERSION, Report};
use crate::{
    CancelToken, Candidate, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Hardware,
    MAX_BATCH_SEQUENCES, Model, Provider, Registry, TokenSampler,
};

/// Between two looks at whether a sequence is over while its token is awaited.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

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
    let mut desk = Desk { reports, loading: false, loaded: Arc::default(), sequences: Arc::default() };
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

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Sequences = Arc<Mutex<BTreeMap<u64, Sequence>>>;

/// A sequence as orders find it.
struct Sequence {
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
    sequences: Sequences,
}

impl Desk {
    fn take(&mut self, order: Order, providers: &Registry) -> Result<(), ServeError> {
        match order {
            Order::Load { .. } if self.loading => return Err(ServeError::OutOfTurn("a second model")),
            Order::Load { model, max_memory_bytes } => {
                self.loading = true;
                self.load(model.model(), max_memory_bytes, providers.clone());
            }
            Order::Begin { id, prompt, max_new, max_memory_bytes } => {
                let request = GenerateRequest {
                    prompt_ids: prompt,
                    max_tokens: max_new,
                    max_memory_bytes,
                    ..GenerateRequest::default()
                };
                self.begin(id, request)?;
            }
            Order::Take { id, token } => {
                if let Some(sequence) = lock(&self.sequences).get(&id) {
                    // Whoever takes twice for one offer is ended.
                    if sequence.taken.try_send(token).is_err() {
                        sequence.over.cancel();
                    }
                }
            }
            Order::End { id } => {
                if let Some(sequence) = lock(&self.sequences).get(&id) {
                    sequence.over.cancel();
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

    fn begin(&self, id: u64, request: GenerateRequest) -> Result<(), ServeError> {
        let loaded = lock(&self.loaded).clone().ok_or(ServeError::OutOfTurn("no model is loaded"))?;
        let mut sequences = lock(&self.sequences);
        if sequences.len() >= MAX_BATCH_SEQUENCES {
            let why = Some(format!("{MAX_BATCH_SEQUENCES} sequences are under way already"));
            return Ok(self.reports.say(&Report::Ended { id, why })?);
        }
        let (taken, takes) = sync_channel(1);
        let over = CancelToken::new();
        if sequences.insert(id, Sequence { taken, over: over.clone() }).is_some() {
            return Err(ServeError::OutOfTurn("a sequence of that number is under way"));
        }
        drop(sequences);
        let (reports, sequences) = (self.reports.clone(), self.sequences.clone());
        std::thread::spawn(move || {
            let sampler = Asking { id, reports: reports.clone(), takes, over: over.clone() };
            let why = run(&loaded, &request, sampler, &over).err().map(|error| error.to_string());
            lock(&sequences).remove(&id);
            // A node that is gone has closed the input too.
            let _ = reports.say(&Report::Ended { id, why });
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

fn run(
    loaded: &Loaded,
    request: &GenerateRequest,
    mut sampler: Asking,
    over: &CancelToken,
) -> Result<(), EngineError> {
    let idle = lock(&loaded.idle).pop();
    let mut engine = match idle {
        Some(engine) => engine,
        None => loaded.provider.start(&loaded.config)?,
    };
    let result = engine.generate(request, &mut sampler, over, &mut |_| match over.is_cancelled() {
        true => Flow::Stop,
        false => Flow::Continue,
    });
    lock(&loaded.idle).push(engine);
    result.map(|_| ())
}

/// A sampler that asks the node.
struct Asking {
    id: u64,
    reports: Reports,
    takes: Receiver<u32>,
    over: CancelToken,
}

impl TokenSampler for Asking {
    fn sample(&mut self, _position: u32, candidates: &[Candidate]) -> u32 {
        let offer = Report::Offer { id: self.id, candidates: frame::pairs(candidates) };
        if self.reports.say(&offer).is_err() {
            self.over.cancel();
        }
        while !self.over.is_cancelled() {
            match self.takes.recv_timeout(LOOK_INTERVAL) {
                Ok(token) => return token,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.over.cancel(),
            }
        }
        // Nobody sees it: the sequence is over.
        candidates.first().map_or(0, |candidate| candidate.token)
    }
}
