//! A provider whose engines are processes.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::frame::{Described, Task};
use super::host::Host;
use super::hosts::{Hosts, Running, Subject, Tallies};
use super::process::{Process, Reply};
use super::program::Program;
use crate::generate::{Predictor, generate};
use crate::lock::lock;
use crate::picture::MAX_PICTURE_BYTES;
use crate::{
    BenchRequest, CancelToken, Candidate, DeviceStats, EmbedRequest, Engine, EngineConfig, EngineError, Flow,
    GenerateRequest, Generation, Hardware, Interrupt, Lap, Manifest, PaintRequest, Provider, RescoreRequest,
    Rescored, SUMMARY_NUMBERS, Stats, Step, Support, TokenSampler, Tokenizer, Workload,
};

/// Between two looks at a request's cancel token.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Runs what another provider would run in this process, in processes of `swarm-engine`: one for each model and device.
///
/// Each request goes to the device with the fewest requests whose process is up; one whose process fails requests is passed
/// over for a while. Whatever becomes of a process, its
/// requests fail with a reason and another is started, after a pause that doubles up to 30 seconds while processes end
/// without having been of use.
pub struct Isolated {
    inside: Arc<dyn Provider>,
    programs: Vec<Program>,
    tallies: Tallies,
    watcher: Watcher,
    state: Arc<Mutex<State>>,
}

/// Is told a model's name and a device's number when a process is up, and why when it is gone.
#[derive(Clone)]
pub(super) struct Watcher(Arc<Tell>);

type Tell = dyn Fn(&str, usize, Option<&str>) + Send + Sync;

impl Watcher {
    pub(super) fn tell(&self, model: &str, device: usize, gone: Option<&str>) {
        self.0(model, device, gone);
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

#[derive(Debug, Default)]
struct State {
    stopped: CancelToken,
    stats: Stats,
    /// Of each model.
    hosts: Vec<Weak<Hosts>>,
}

impl State {
    fn hosts(&self) -> impl Iterator<Item = Arc<Hosts>> {
        self.hosts.iter().filter_map(Weak::upgrade)
    }
}

impl std::fmt::Debug for Isolated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Isolated({} by {:?})", self.inside.name(), self.programs)
    }
}

impl Isolated {
    /// Has these programs, one for each device, run what `inside` supports; `inside` itself runs nothing.
    ///
    /// `watcher` is told a model's name and a program's index when a process is up, and also why when it is gone.
    pub fn new(
        inside: Arc<dyn Provider>,
        programs: Vec<Program>,
        watcher: impl Fn(&str, usize, Option<&str>) + Send + Sync + 'static,
    ) -> Self {
        let tallies = Tallies::of(programs.len());
        Self { inside, programs, tallies, watcher: Watcher(Arc::new(watcher)), state: Arc::default() }
    }

    fn hosts(&self, config: &EngineConfig) -> Result<Arc<Hosts>, EngineError> {
        let manifest = &config.model.manifest;
        let found = lock(&self.state).hosts().find(|hosts| hosts.manifest() == manifest);
        if let Some(hosts) = found {
            return Ok(hosts);
        }
        let tokenizer = match manifest.workload {
            Workload::LlmGen => Some(config.model.tokenizer()?),
            Workload::Embed | Workload::SdInfer | Workload::TorchBench => None,
        };
        let described = Described::of(&config.model)
            .map_err(|why| EngineError::Process(format!("{} cannot be given to it: {why}", manifest.name)))?;
        let within = |program: &Program| {
            let max_memory_bytes = config.max_memory_bytes.or(program.max_memory_bytes);
            Program { max_memory_bytes, ..program.clone() }
        };
        let programs: Vec<_> = self.programs.iter().map(within).collect();
        let subject = Subject { manifest: manifest.clone(), tokenizer, described };
        let hosts = Hosts::start(&programs, subject, self.tallies.clone(), &self.watcher);
        let hosts = Arc::new(hosts.map_err(EngineError::Process)?);
        let mut state = lock(&self.state);
        state.hosts.retain(|hosts| hosts.strong_count() > 0);
        state.hosts.push(Arc::downgrade(&hosts));
        Ok(hosts)
    }
}

impl Provider for Isolated {
    fn name(&self) -> &'static str {
        self.inside.name()
    }

    fn detect(&self, hardware: &Hardware, model: &Manifest) -> Support {
        self.inside.detect(hardware, model)
    }

    fn start(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        let hosts = self.hosts(config)?;
        let mut state = lock(&self.state);
        state.stats.engines += 1;
        Ok(Box::new(Proxy { hosts, stopped: state.stopped.clone(), state: self.state.clone() }))
    }

    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped.cancel();
        state.stopped = CancelToken::new();
        state.stats.engines = 0;
        state.hosts().for_each(|hosts| hosts.stop());
        state.hosts.clear();
    }

    fn is_running(&self) -> bool {
        lock(&self.state).hosts().any(|hosts| hosts.hosts().iter().any(Host::is_up))
    }

    fn stats(&self) -> Stats {
        let state = lock(&self.state);
        let mut stats = state.stats;
        for hosts in state.hosts() {
            for (weight_bytes, restarts) in hosts.hosts().iter().map(Host::standing) {
                stats.weight_bytes += weight_bytes;
                stats.restarts += restarts;
            }
        }
        stats
    }

    fn devices(&self) -> Vec<DeviceStats> {
        let models: Vec<_> = lock(&self.state).hosts().collect();
        let is_up = |device| {
            let mut here = models.iter().filter_map(|hosts| hosts.hosts().get(device)).peekable();
            here.peek().is_some() && here.all(Host::is_up)
        };
        let stats = |(device, (running, begun))| {
            let name = self.programs.get(device).map(|program: &Program| program.device_name.clone());
            let name = name.unwrap_or_default();
            DeviceStats { name, is_up: is_up(device), running, begun }
        };
        self.tallies.read().into_iter().enumerate().map(stats).collect()
    }
}

/// A slot of a model's processes.
struct Proxy {
    hosts: Arc<Hosts>,
    stopped: CancelToken,
    state: Arc<Mutex<State>>,
}

impl Engine for Proxy {
    fn manifest(&self) -> &Manifest {
        self.hosts.manifest()
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.hosts.tokenizer()
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let tokenizer = self.hosts.tokenizer().ok_or(EngineError::Unsupported(Workload::LlmGen))?;
        let cancels = [cancel, &self.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let context = self.hosts.manifest().context_length;
        let mut remote = Remote::of(&self.hosts, request.max_memory_bytes);
        let result = generate(&mut remote, tokenizer, context, request, interrupt, sampler, sink);
        remote.close(&result);
        lock(&self.state).stats.count(request, &result);
        result
    }

    fn rescore(
        &mut self,
        request: &RescoreRequest,
        cancel: &CancelToken,
    ) -> Result<Vec<Rescored>, EngineError> {
        let cancels = [cancel, &self.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let output: Vec<_> = request.output.iter().map(|asked| (asked.token, asked.tokens.clone())).collect();
        let tokens = request.prompt_ids.len() + output.len();
        let task = Task::Rescore { prompt: request.prompt_ids.clone(), output, top_k: request.top_k };
        let mut found = Vec::with_capacity(request.output.len());
        self.work(task, request.max_memory_bytes, tokens, interrupt, &mut |reply| match reply {
            Reply::Scored(scored) if is_answer(&scored, request, found.len()) => {
                found.push(scored);
                Some(Flow::Continue)
            }
            Reply::Scored(_)
            | Reply::Vector(_)
            | Reply::Offer(_)
            | Reply::Lap(_)
            | Reply::Summary(_)
            | Reply::Picture(_)
            | Reply::Ended { .. } => None,
        })?;
        Ok(found)
    }

    fn embed(
        &mut self,
        request: &EmbedRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[f32]) -> Flow,
    ) -> Result<(), EngineError> {
        let cancels = [cancel, &self.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let dimensions = self.hosts.manifest().dimensions as usize;
        let task = Task::Embed { texts: request.texts.clone() };
        let tokens = request.texts.iter().map(Vec::len).sum();
        self.work(task, request.max_memory_bytes, tokens, interrupt, &mut |reply| match reply {
            Reply::Vector(vector) if vector.len() == dimensions => Some(sink(&vector)),
            Reply::Vector(_)
            | Reply::Scored(_)
            | Reply::Offer(_)
            | Reply::Lap(_)
            | Reply::Summary(_)
            | Reply::Picture(_)
            | Reply::Ended { .. } => None,
        })
    }

    fn benchmark(
        &mut self,
        request: &BenchRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(Lap) -> Flow,
    ) -> Result<(), EngineError> {
        let cancels = [cancel, &self.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let BenchRequest { dtype, m, n, k, repeats, seed, .. } = *request;
        let task = Task::Multiply { dtype, m, n, k, repeats, seed };
        self.work(task, request.max_memory_bytes, 0, interrupt, &mut |reply| match reply {
            Reply::Lap(lap) => Some(sink(lap)),
            Reply::Vector(_)
            | Reply::Scored(_)
            | Reply::Offer(_)
            | Reply::Summary(_)
            | Reply::Picture(_)
            | Reply::Ended { .. } => None,
        })
    }

    fn paint(
        &mut self,
        request: &PaintRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[i32]) -> Flow,
    ) -> Result<Vec<u8>, EngineError> {
        let cancels = [cancel, &self.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let PaintRequest { width, height, steps, guidance, seed, .. } = *request;
        let prompt = request.prompt_ids.clone();
        let tokens = prompt.len();
        let task = Task::Paint { prompt, width, height, steps, guidance, seed };
        let (mut told, mut picture) = (0, None);
        self.work(task, request.max_memory_bytes, tokens, interrupt, &mut |reply| match reply {
            Reply::Summary(numbers) if numbers.len() == SUMMARY_NUMBERS && told < steps => {
                told += 1;
                Some(sink(&numbers))
            }
            Reply::Picture(png) if told == steps && png.len() <= MAX_PICTURE_BYTES => {
                picture = Some(png);
                Some(Flow::Continue)
            }
            Reply::Vector(_)
            | Reply::Scored(_)
            | Reply::Offer(_)
            | Reply::Lap(_)
            | Reply::Summary(_)
            | Reply::Picture(_)
            | Reply::Ended { .. } => None,
        })?;
        picture.ok_or_else(|| gone("it told of no picture"))
    }
}

/// Whether this answers what was asked of the next token.
fn is_answer(scored: &Rescored, request: &RescoreRequest, place: usize) -> bool {
    let asked = request.output.get(place).map(|asked| asked.tokens.len());
    asked == Some(scored.costs.len()) && scored.top.len() <= request.top_k as usize
}

impl Proxy {
    /// Has a task done whose results come by themselves; `take` gives nothing for what is none.
    fn work(
        &self,
        task: Task,
        max_memory_bytes: Option<u64>,
        prompt_tokens: usize,
        interrupt: Interrupt<'_>,
        take: &mut dyn FnMut(Reply) -> Option<Flow>,
    ) -> Result<(), EngineError> {
        let started = Instant::now();
        let mut remote = Remote::of(&self.hosts, max_memory_bytes);
        let mut results = task.results();
        let mut work = || {
            remote.order(task.clone(), interrupt)?;
            loop {
                match remote.reply(interrupt)? {
                    Reply::Ended { why, .. } if why.is_empty() && results == 0 => return Ok(()),
                    Reply::Ended { why, .. } => return Err(ended(why)),
                    reply if results > 0 => match take(reply) {
                        Some(Flow::Continue) => results -= 1,
                        Some(Flow::Stop) => return Err(EngineError::Cancelled),
                        None => return Err(gone("it told what was not asked for")),
                    },
                    _ => return Err(gone("it told more than was asked for")),
                }
            }
        };
        let result = work();
        remote.close(&result);
        lock(&self.state).stats.count_without_output(&result, prompt_tokens, started.elapsed());
        result
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let stats = &mut lock(&self.state).stats;
        if !self.stopped.is_cancelled() {
            stats.engines -= 1;
        }
    }
}

/// A task in another process.
struct Remote<'a> {
    hosts: &'a Hosts,
    max_memory_bytes: Option<u64>,
    begun: Option<Begun>,
    /// Whether it ended as it did by no fault of its device: it was refused, or its process is gone and started again.
    blameless: bool,
}

struct Begun {
    process: Arc<Process>,
    id: u64,
    replies: Receiver<Reply>,
    running: Running,
}

impl<'a> Remote<'a> {
    fn of(hosts: &'a Hosts, max_memory_bytes: Option<u64>) -> Self {
        Self { hosts, max_memory_bytes, begun: None, blameless: false }
    }

    fn order(&mut self, task: Task, interrupt: Interrupt<'_>) -> Result<(), EngineError> {
        let (process, running) = self.hosts.process(interrupt)?;
        let begun = process.begin(task, self.max_memory_bytes);
        let (id, replies) = begun.map_err(|why| EngineError::Process(self.hosts.says(&running, &why)))?;
        self.begun = Some(Begun { process, id, replies, running });
        Ok(())
    }

    /// Ends it, and notes what it says of its device.
    fn close<T>(self, result: &Result<T, EngineError>) {
        match (&self.begun, result) {
            (Some(begun), Ok(_)) => begun.running.worked(),
            (Some(begun), Err(EngineError::Process(_))) if !self.blameless => {
                self.hosts.failed(&begun.running)
            }
            // Who asked ended it, or it has not begun.
            (Some(_), Err(_)) | (None, _) => {}
        }
    }

    fn reply(&mut self, interrupt: Interrupt<'_>) -> Result<Reply, EngineError> {
        let Some(Begun { replies, running, .. }) = &self.begun else {
            return Err(EngineError::Request("the task has not begun"));
        };
        loop {
            interrupt.check()?;
            match replies.recv_timeout(LOOK_INTERVAL) {
                Ok(Reply::Ended { why, at_fault }) if !why.is_empty() => {
                    self.blameless = !at_fault;
                    return Ok(Reply::Ended { why: self.hosts.says(running, &why), at_fault });
                }
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.blameless = true;
                    return Err(gone("it is gone"));
                }
            }
        }
    }

    fn offered(&mut self, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        match self.reply(interrupt)? {
            Reply::Offer(candidates) => self.checked(candidates),
            Reply::Ended { why, .. } => Err(ended(why)),
            Reply::Vector(_) | Reply::Scored(_) | Reply::Lap(_) | Reply::Summary(_) | Reply::Picture(_) => {
                Err(gone("it told what was not asked for"))
            }
        }
    }

    /// What another process says is looked at before anybody relies on it.
    fn checked(&self, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, EngineError> {
        let manifest = self.hosts.manifest();
        let known = candidates.iter().all(|candidate| candidate.token < manifest.vocab_size);
        let sorted = candidates.is_sorted_by(|a, b| a < b);
        match known && sorted && candidates.len() == manifest.top_k as usize {
            true => Ok(candidates),
            false => Err(gone("its offer is not one of this model's")),
        }
    }
}

fn gone(why: &str) -> EngineError {
    EngineError::Process(why.to_owned())
}

fn ended(why: String) -> EngineError {
    if why.is_empty() { gone("it ended the job too early") } else { EngineError::Process(why) }
}

impl Predictor for Remote<'_> {
    fn begin(
        &mut self,
        prompt: &[u32],
        max_new: u32,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Candidate>, EngineError> {
        self.order(Task::Generate { prompt: prompt.to_vec(), max_new }, interrupt)?;
        self.offered(interrupt)
    }

    fn next(&mut self, token: u32, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        if let Some(Begun { process, id, .. }) = &self.begun {
            // One that cannot be told is ending, and its end says why.
            let _ = process.take(*id, token);
        }
        self.offered(interrupt)
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        if let Some(Begun { process, id, .. }) = &self.begun {
            process.leave(*id);
        }
    }
}
