//! The provider `openai`: models behind any server that speaks OpenAI's completions, such as vLLM, llama.cpp or SGLang.

mod engine;
mod error;
mod http;
mod process;
mod reading;
mod run;
mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use self::engine::OpenAiEngine;
pub use self::error::ServerError;
pub use self::http::MAX_EVENT_BYTES;
use self::reading::Reading;
use self::server::Server;
use crate::lock::lock;
use crate::{
    CancelToken, Engine, EngineConfig, EngineError, Hardware, Interrupt, Manifest, Provider, Stats, Support,
};

/// What a server may have to be asked for at most to state log-probabilities: vLLM's limit unless told otherwise.
const LOG_PROBABILITIES: u32 = 20;

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAt {
    /// It runs already, on somebody else's account.
    Url(String),
    /// This program and its arguments start it, without a shell; it then listens at the URL.
    Command {
        /// The program and its arguments.
        command: Vec<String>,
        /// Where it will listen.
        url: String,
    },
}

impl ServerAt {
    fn url(&self) -> &str {
        match self {
            Self::Url(url) | Self::Command { url, .. } => url,
        }
    }
}

/// How long a server may take for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerTimes {
    /// To take a connection.
    pub connect: Duration,
    /// From a request to its first token.
    pub first_token: Duration,
    /// From one token to the next.
    pub next_token: Duration,
    /// From the start of its process until it answers.
    pub ready: Duration,
    /// To end when it is asked to.
    pub stop: Duration,
}

impl Default for ServerTimes {
    /// 5 s to connect, 2 minutes to the first token, 30 s to each other one, 10 minutes to load, 10 s to end.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(120),
            next_token: Duration::from_secs(30),
            ready: Duration::from_secs(600),
            stop: Duration::from_secs(10),
        }
    }
}

/// A server and what it runs.
#[derive(Clone)]
pub struct ServerConfig {
    /// Where it is.
    pub at: ServerAt,
    /// The models that it runs: names by manifest, and what the server calls them.
    pub models: BTreeMap<String, String>,
    /// What it wants to see as a bearer token.
    pub key: Option<String>,
    /// The most log-probabilities at a position that it states when asked; fewer are asked for where K is less.
    pub max_log_probabilities: u32,
    /// How long it may take.
    pub times: ServerTimes,
}

impl ServerConfig {
    /// A server that calls `model` as the manifest does, with the times and limits that most have.
    pub fn new(at: ServerAt, model: &str) -> Self {
        Self {
            at,
            models: BTreeMap::from([(model.to_owned(), model.to_owned())]),
            key: None,
            max_log_probabilities: LOG_PROBABILITIES,
            times: ServerTimes::default(),
        }
    }
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_struct("ServerConfig")
            .field("at", &self.at)
            .field("models", &self.models)
            .finish_non_exhaustive()
    }
}

/// Runs models on a server that samples them itself.
///
/// All engines share one server. If a command starts it, it is there from the first engine's start until the last
/// engine is dropped or the provider is stopped, and is started again for the next request if its process ends.
#[derive(Debug)]
pub struct OpenAi {
    config: Arc<ServerConfig>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stopped: CancelToken,
    stats: Stats,
    server: Weak<Server>,
}

impl OpenAi {
    /// The provider of one server; nothing is started or asked.
    pub fn new(config: ServerConfig) -> Self {
        Self { config: Arc::new(config), state: Arc::default() }
    }

    /// Counts an engine that is about to be there, unless the provider was stopped meanwhile.
    fn count(&self, stopped: &CancelToken) -> Result<(), EngineError> {
        let mut state = lock(&self.state);
        if stopped.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        state.stats.engines += 1;
        Ok(())
    }

    /// The server that all engines share.
    fn server(&self) -> Result<Arc<Server>, ServerError> {
        let mut state = lock(&self.state);
        if let Some(server) = state.server.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Server::new(&self.config)?);
        state.server = Arc::downgrade(&server);
        Ok(server)
    }
}

impl Provider for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn detect(&self, _: &Hardware, model: &Manifest) -> Support {
        if self.config.models.contains_key(&model.name) {
            return Support::Supported;
        }
        let url = self.config.at.url();
        Support::Unsupported(format!("the server at {url} is not set up for the model {}", model.name))
    }

    fn start(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        let manifest = &config.model.manifest;
        let Some(name) = self.config.models.get(&manifest.name) else {
            let found = self.config.models.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(ServerError::NoModel { wanted: manifest.name.clone(), found }.into());
        };
        let tokenizer = config.model.tokenizer()?;
        let stopped = lock(&self.state).stopped.clone();
        let cancels = [&stopped];
        let server = self.server()?;
        let interrupt = Interrupt::new(&cancels, None);
        server.ready(interrupt)?;
        server.check_model(interrupt, name)?;
        self.count(&stopped)?;
        let engine = OpenAiEngine {
            reading: Reading::new(tokenizer.clone(), manifest.top_k),
            manifest: manifest.clone(),
            tokenizer,
            model: name.clone(),
            config: self.config.clone(),
            server,
            stopped,
            state: self.state.clone(),
        };
        engine.try_one_token()?;
        Ok(Box::new(engine))
    }

    fn stop(&self) {
        let server = {
            let mut state = lock(&self.state);
            state.stopped.cancel();
            state.stopped = CancelToken::new();
            state.stats.engines = 0;
            std::mem::take(&mut state.server).upgrade()
        };
        if let Some(server) = server {
            server.stop();
        }
    }

    fn is_running(&self) -> bool {
        lock(&self.state).stats.engines > 0
    }

    fn stats(&self) -> Stats {
        lock(&self.state).stats
    }

    fn endpoint(&self) -> Option<String> {
        self.is_running().then(|| self.config.at.url().to_owned())
    }
}
