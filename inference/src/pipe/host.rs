//! Keeps a process of `swarm-engine` running for one model on one device, and starts another when it ends.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::hosts::Subject;
use super::isolated::Watcher;
use super::process::{Process, Started};
use super::program::Program;
use crate::lock::lock;

/// How long is waited after a process has ended, doubling with each that was of no use.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A model that a process of its own runs; dropping it ends the process.
#[derive(Debug)]
pub(super) struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    subject: Arc<Subject>,
    program: Program,
    device: usize,
    watcher: Watcher,
    life: Mutex<Life>,
    changed: Condvar,
}

#[derive(Debug)]
struct Life {
    now: Now,
    weight_bytes: u64,
    restarts: u64,
}

/// Whether there is a process for a request.
pub(super) enum Ready {
    Up(Arc<Process>),
    /// Why not, in a line.
    NotYet(String),
    Stopped,
}

#[derive(Debug)]
enum Now {
    Starting,
    Up(Arc<Process>),
    /// It ended, for this reason, and is started again after a while.
    Down(String),
    Stopped,
}

impl Host {
    /// Starts a process and waits until it has loaded the model.
    pub(super) fn start(
        program: &Program,
        device: usize,
        subject: Arc<Subject>,
        watcher: Watcher,
    ) -> Result<Self, String> {
        let life = Mutex::new(Life { now: Now::Starting, weight_bytes: 0, restarts: 0 });
        let (program, changed) = (program.clone(), Condvar::new());
        let inner = Arc::new(Inner { subject, program, device, watcher, life, changed });
        let (first, outcome) = sync_channel(1);
        let supervised = inner.clone();
        let supervise = move || supervised.supervise(&first);
        let named = std::thread::Builder::new().name("engine".to_owned());
        named.spawn(supervise).map_err(|error| error.to_string())?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(Self(inner)),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("its supervisor ended".to_owned()),
        }
    }

    pub(super) fn program(&self) -> &Program {
        &self.0.program
    }

    /// Whether a process can take requests now.
    pub(super) fn is_up(&self) -> bool {
        matches!(lock(&self.0.life).now, Now::Up(_))
    }

    /// Bytes of the weights in memory, and how often a process was started again.
    pub(super) fn standing(&self) -> (u64, u64) {
        let life = lock(&self.0.life);
        (life.weight_bytes, life.restarts)
    }

    /// The process, if it is up.
    pub(super) fn ready(&self) -> Ready {
        match &lock(&self.0.life).now {
            Now::Up(process) if !process.is_over() => Ready::Up(process.clone()),
            Now::Up(_) => Ready::NotYet("it has just ended".to_owned()),
            Now::Starting => Ready::NotYet("it is still being started".to_owned()),
            Now::Down(why) => Ready::NotYet(why.clone()),
            Now::Stopped => Ready::Stopped,
        }
    }

    /// Waits until something has changed, or so long.
    pub(super) fn wait(&self, time: Duration) {
        // Whoever waits looks again at what there is.
        drop(self.0.changed.wait_timeout(lock(&self.0.life), time));
    }

    /// Ends the process for good.
    pub(super) fn stop(&self) {
        let before = std::mem::replace(&mut lock(&self.0.life).now, Now::Stopped);
        if let Now::Up(process) = before {
            process.give_up("it was stopped");
        }
        self.0.changed.notify_all();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Inner {
    fn supervise(&self, first: &SyncSender<Result<(), String>>) {
        let mut useless = 0;
        loop {
            let why = match Started::start(&self.program, self.subject.described.clone()) {
                Ok((started, weight_bytes)) => {
                    let process = started.process.clone();
                    if !self.is_now(Now::Up(process.clone()), weight_bytes) {
                        process.give_up("it was stopped");
                    }
                    // Only the first start is waited for.
                    let _ = first.try_send(Ok(()));
                    let why = started.serve();
                    useless = if process.was_of_use() { 0 } else { useless + 1 };
                    why
                }
                Err(why) if first.try_send(Err(why.clone())).is_ok() => return,
                Err(why) => {
                    useless += 1;
                    why
                }
            };
            if !self.is_now(Now::Down(why.clone()), 0) {
                return;
            }
            let backoff = MIN_BACKOFF.saturating_mul(1 << useless.min(16)).min(MAX_BACKOFF);
            tracing::warn!(
                "the engine of {}{} is gone: {why}; another is started in {:.1} s",
                self.subject.manifest.name,
                self.program.on(),
                backoff.as_secs_f64()
            );
            if !self.rest(backoff) || !self.is_now(Now::Starting, 0) {
                return;
            }
        }
    }

    /// Notes how it stands, unless it was stopped.
    fn is_now(&self, now: Now, weight_bytes: u64) -> bool {
        let mut life = lock(&self.life);
        if matches!(life.now, Now::Stopped) {
            return false;
        }
        life.restarts += u64::from(matches!(now, Now::Starting));
        let name = &self.subject.manifest.name;
        match &now {
            Now::Up(_) => self.watcher.tell(name, self.device, None),
            Now::Down(why) => self.watcher.tell(name, self.device, Some(why)),
            Now::Starting | Now::Stopped => {}
        }
        life.now = now;
        life.weight_bytes = weight_bytes;
        self.changed.notify_all();
        true
    }

    /// Waits, unless it is stopped meanwhile.
    fn rest(&self, backoff: Duration) -> bool {
        let until = Instant::now() + backoff;
        let mut life = lock(&self.life);
        while !matches!(life.now, Now::Stopped) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(life, left);
            life = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}
