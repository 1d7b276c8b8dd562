//! The server that all engines of a provider share: found ready, or started, started again and stopped.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::http::{Endpoint, plain};
use super::process::Process;
use super::{ServerAt, ServerConfig, ServerError, ServerTimes};
use crate::lock::lock;
use crate::{EngineError, Interrupt};

/// Between two questions whether a server is ready.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long one such question may take.
const ASK: Duration = Duration::from_secs(2);
/// The shortest time between two starts of a process; it doubles with each failure up to the longest.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// A server, and its process if it is this side's to run.
#[derive(Debug)]
pub(super) struct Server {
    endpoint: Endpoint,
    times: ServerTimes,
    owned: Option<Owned>,
}

#[derive(Debug)]
struct Owned {
    command: Vec<String>,
    life: Mutex<Life>,
}

#[derive(Debug, Default)]
struct Life {
    process: Option<Process>,
    /// Whether it has answered since its process began.
    ready: bool,
    /// What the process before said last.
    last_words: String,
    /// Until when a process that was started may load.
    ready_by: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
    stopped: bool,
}

impl Life {
    fn is_ready(&mut self) {
        (self.ready, self.failures) = (true, 0);
        self.not_before = Some(Instant::now() + MIN_PAUSE);
    }

    /// Ends what was started in vain; the next start has to wait.
    fn fails(&mut self, error: ServerError) -> EngineError {
        self.process = None;
        self.failures += 1;
        let pause = MIN_PAUSE.saturating_mul(1 << self.failures.min(16)).min(MAX_PAUSE);
        self.not_before = Some(Instant::now() + pause);
        self.last_words = match &error {
            ServerError::Exited(words) => words.clone(),
            other => other.to_string(),
        };
        error.into()
    }
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
}

impl Server {
    pub(super) fn new(config: &ServerConfig) -> Result<Self, ServerError> {
        let endpoint = Endpoint::new(config.at.url(), config.key.as_deref(), config.times.connect)?;
        let owned = match &config.at {
            ServerAt::Url(_) => None,
            ServerAt::Command { command, .. } => {
                Some(Owned { command: command.clone(), life: Mutex::default() })
            }
        };
        Ok(Self { endpoint, times: config.times, owned })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Makes sure that a process that is this side's to run is there and answers; nothing is asked of others.
    pub(super) fn ready(&self, interrupt: Interrupt<'_>) -> Result<(), EngineError> {
        let Some(owned) = &self.owned else {
            return Ok(());
        };
        let mut life = self.wait_for(&owned.life, interrupt)?;
        if life.stopped {
            return Err(EngineError::Cancelled);
        }
        if life.ready && life.process.as_ref().is_some_and(|process| !process.has_ended()) {
            return Ok(());
        }
        self.start_again(owned, &mut life, interrupt)
    }

    /// The life of the process, once no other engine is about to start it.
    fn wait_for<'a>(
        &self,
        life: &'a Mutex<Life>,
        interrupt: Interrupt<'_>,
    ) -> Result<MutexGuard<'a, Life>, EngineError> {
        let until = Instant::now() + self.times.ready;
        while Instant::now() < until {
            match life.try_lock() {
                Ok(life) => return Ok(life),
                Err(TryLockError::Poisoned(life)) => return Ok(life.into_inner()),
                Err(TryLockError::WouldBlock) => interrupt.check()?,
            }
            std::thread::sleep(ASK_AGAIN);
        }
        Err(ServerError::Starting.into())
    }

    /// Goes on with a start that is under way, or begins one; who loses patience leaves it to the next.
    fn start_again(
        &self,
        owned: &Owned,
        life: &mut Life,
        interrupt: Interrupt<'_>,
    ) -> Result<(), EngineError> {
        if life.process.as_ref().is_none_or(Process::has_ended) {
            self.begin(owned, life, interrupt)?;
        }
        self.await_ready(life, interrupt)
    }

    fn begin(&self, owned: &Owned, life: &mut Life, interrupt: Interrupt<'_>) -> Result<(), EngineError> {
        if let Some(mut ended) = life.process.take() {
            life.last_words = ended.last_words();
        }
        if life.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(ServerError::Exited(life.last_words.clone()).into());
        }
        if !matches!(self.models(interrupt), Err(EngineError::Server(ServerError::Unreachable(_)))) {
            interrupt.check()?;
            return Err(life.fails(ServerError::Taken(self.endpoint.url().to_owned())));
        }
        match Process::start(&owned.command) {
            Ok(process) => (life.process, life.ready) = (Some(process), false),
            Err(error) => return Err(life.fails(error)),
        }
        life.ready_by = Some(Instant::now() + self.times.ready);
        Ok(())
    }

    fn await_ready(&self, life: &mut Life, interrupt: Interrupt<'_>) -> Result<(), EngineError> {
        loop {
            let Some(process) = life.process.as_mut() else {
                return Err(EngineError::Cancelled);
            };
            if process.has_ended() {
                let words = process.last_words();
                return Err(life.fails(ServerError::Exited(words)));
            }
            let why = match self.models(interrupt) {
                Ok(_) => {
                    life.is_ready();
                    return Ok(());
                }
                Err(EngineError::Server(error)) => error,
                Err(error) => return Err(error),
            };
            if life.ready_by.is_none_or(|until| Instant::now() >= until) {
                let why = format!("{why}; what it said last: {}", process.tail());
                return Err(life.fails(ServerError::NotReady { within: self.times.ready, why }));
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }

    /// Refuses a server that does not list `model`.
    pub(super) fn check_model(&self, interrupt: Interrupt<'_>, model: &str) -> Result<(), EngineError> {
        let found = self.models(interrupt)?;
        if found.iter().any(|name| name == model) {
            return Ok(());
        }
        let found = found.iter().take(8).map(|name| plain(name)).collect::<Vec<_>>().join(", ");
        let found = if found.is_empty() { "none".into() } else { found };
        Err(ServerError::NoModel { wanted: model.to_owned(), found }.into())
    }

    /// The names of the models that the server says it has.
    fn models(&self, interrupt: Interrupt<'_>) -> Result<Vec<String>, EngineError> {
        let exchange = self.endpoint.get("/v1/models");
        let body = exchange.next(interrupt, Instant::now() + ASK, ASK)?;
        let broke_off = || ServerError::BrokeOff("its list of models is empty".into());
        let models: Models = serde_json::from_str(&body.ok_or_else(broke_off)?)
            .map_err(|error| ServerError::Malformed(format!("its list of models: {error}")))?;
        Ok(models.data.into_iter().flat_map(|named| [vec![named.id], named.aliases].concat()).collect())
    }

    /// Ends the process for good.
    pub(super) fn stop(&self) {
        if let Some(owned) = &self.owned {
            let mut life = lock(&owned.life);
            life.stopped = true;
            if let Some(mut process) = life.process.take() {
                process.stop(self.times.stop);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
