//! A model on each of a node's devices, and which of them a request goes to.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::frame::Described;
use super::host::{Host, Ready};
use super::isolated::Watcher;
use super::process::Process;
use super::program::Program;
use crate::lock::lock;
use crate::{EngineError, Interrupt, Manifest, Tokenizer};

/// How long a request waits for a process that is being started.
const MAX_START_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at a request's cancel token, and at which processes are up.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What processes are to run.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) manifest: Manifest,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) described: Described,
}

/// A model that a process on each device runs; dropping it ends them.
#[derive(Debug)]
pub(super) struct Hosts {
    subject: Arc<Subject>,
    hosts: Vec<Host>,
    tallies: Tallies,
}

/// Requests of all models, by device.
#[derive(Debug, Clone)]
pub(super) struct Tallies(Arc<Mutex<Vec<Tally>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    running: u32,
    begun: u64,
}

/// A request on a device, until it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    tallies: Tallies,
    device: usize,
}

impl Hosts {
    /// Starts a process on each device, all at once, and waits until they have loaded the model.
    pub(super) fn start(
        programs: &[Program],
        subject: Subject,
        tallies: Tallies,
        watcher: &Watcher,
    ) -> Result<Self, String> {
        let subject = Arc::new(subject);
        let start = |device: usize| {
            let (program, subject, watcher) = (&programs[device], subject.clone(), watcher.clone());
            Host::start(program, device, subject, watcher).map_err(|why| program.says(&why))
        };
        let started: Vec<_> = std::thread::scope(|threads| {
            let starting: Vec<_> =
                (0..programs.len()).map(|device| threads.spawn(move || start(device))).collect();
            let ended = |_| Err("its supervisor ended".to_owned());
            starting.into_iter().map(|host| host.join().unwrap_or_else(ended)).collect()
        });
        let hosts = started.into_iter().collect::<Result<_, _>>()?;
        Ok(Self { subject, hosts, tallies })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.subject.manifest
    }

    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.subject.tokenizer.as_ref()
    }

    /// A process that can take a request, on the device with the fewest; waits a little while none can.
    pub(super) fn process(&self, interrupt: Interrupt<'_>) -> Result<(Arc<Process>, Running), EngineError> {
        let until = Instant::now() + MAX_START_WAIT;
        loop {
            interrupt.check()?;
            let (mut up, mut why_not) = (Vec::new(), "there is no device".to_owned());
            for (device, host) in self.hosts.iter().enumerate() {
                match host.ready() {
                    Ready::Up(process) => up.push((device, process)),
                    Ready::NotYet(why) => why_not = host.program().says(&why),
                    Ready::Stopped => return Err(EngineError::Cancelled),
                }
            }
            match (self.tallies.begin(up), self.hosts.first()) {
                (Some(begun), _) => return Ok(begun),
                (None, Some(first)) if Instant::now() < until => first.wait(LOOK_INTERVAL),
                (None, _) => return Err(EngineError::Process(why_not)),
            }
        }
    }

    /// What a request was told on its device, with the name of that.
    pub(super) fn says(&self, on: &Running, why: &str) -> String {
        self.hosts.get(on.device).map_or_else(|| why.to_owned(), |host| host.program().says(why))
    }

    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(super) fn stop(&self) {
        self.hosts.iter().for_each(Host::stop);
    }
}

impl Tallies {
    pub(super) fn of(devices: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Tally::default(); devices])))
    }

    /// Begins a request on the device with the fewest, and of several with the one that has had the fewest so far.
    fn begin<T>(&self, devices: Vec<(usize, T)>) -> Option<(T, Running)> {
        let mut tallies = lock(&self.0);
        let least = |(device, _): &(usize, T)| tallies.get(*device).map(|tally| (tally.running, tally.begun));
        let (device, chosen) = devices.into_iter().min_by_key(least)?;
        let tally = tallies.get_mut(device)?;
        tally.running += 1;
        tally.begun += 1;
        Some((chosen, Running { tallies: self.clone(), device }))
    }

    /// How many run on each device, and how many were begun there.
    pub(super) fn read(&self) -> Vec<(u32, u64)> {
        lock(&self.0).iter().map(|tally| (tally.running, tally.begun)).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(tally) = lock(&self.tallies.0).get_mut(self.device) {
            tally.running -= 1;
        }
    }
}
