//! The provider `openai`: models behind any server that speaks OpenAI's completions, such as vLLM, llama.cpp or SGLang.

mod http;
mod process;
mod reading;
mod run;
mod server;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use thiserror::Error;

pub use self::http::MAX_EVENT_BYTES;
use self::reading::Reading;
use self::run::Runner;
use self::server::Server;
use crate::{
    CancelToken, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Generation, Hardware, Interrupt,
    Manifest, Provider, Stats, Step, Support, TokenSampler, Tokenizer,
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

/// What a server did instead of what it was asked for.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address is none.
    #[error(
        "the server's address {0:?} cannot be used: it has to be http:// and a host, and a port where it is not 80"
    )]
    Address(String),
    /// There is nothing to start.
    #[error("the command that starts the server is empty")]
    NoCommand,
    /// The program could not be started.
    #[error("the server {program:?} cannot be started: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else listens where the server is to.
    #[error("something answers at {0} before the server is started: stop it, or name it by its address")]
    Taken(String),
    /// The process ended.
    #[error("the server's process has ended; what it said last: {0}")]
    Exited(String),
    /// It did not answer in time.
    #[error("the server was not ready within {within:?}: {why}")]
    NotReady {
        /// The time that it had.
        within: Duration,
        /// What the last question got.
        why: String,
    },
    /// Another engine is starting it.
    #[error("the server is being started")]
    Starting,
    /// It does not have the model.
    #[error("the server has no model {wanted:?}; it has {found}")]
    NoModel {
        /// The model's name there.
        wanted: String,
        /// The names of what it has.
        found: String,
    },
    /// No answer came at all.
    #[error("the server could not be reached: {0}")]
    Unreachable(String),
    /// It answered with another status than 200.
    #[error("the server answered {status}: {said}")]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// What else it said.
        said: String,
    },
    /// It answered with something else than a stream of events.
    #[error("the server answered with {found} instead of a stream of events: {said}")]
    NoStream {
        /// The type of what it sent.
        found: String,
        /// How that begins.
        said: String,
    },
    /// Its answer is not whole.
    #[error("the server broke off: {0}")]
    BrokeOff(String),
    /// It sent nothing new for this long.
    #[error("the server sent no token for {0:?}")]
    Silent(Duration),
    /// An event has no end.
    #[error("the server sent an event of more than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// An event cannot be read.
    #[error("the server sent an event that cannot be used: {0}")]
    Malformed(String),
    /// It reported an error in the middle.
    #[error("the server failed: {0}")]
    Reported(String),
    /// It sends text alone.
    #[error("the server states no log-probabilities, without which nobody can check what it says")]
    NoLogProbabilities,
    /// A token or its candidates cannot be right.
    #[error("token {position} of the server {why}")]
    Token {
        /// Its position in the output, counted from 0.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// It read another prompt.
    #[error(
        "the server was given other tokens than it read as the prompt: its tokenizer or its template differs"
    )]
    OtherPrompt,
    /// Tokens and text do not belong together.
    #[error(
        "the server's text is not what its tokens spell, after {tokens} tokens: it left some out, or its tokenizer differs"
    )]
    OtherText {
        /// Tokens told of.
        tokens: usize,
    },
    /// It counted other tokens than it told of.
    #[error("the server counted {counted} tokens and told of {told}")]
    Miscounted {
        /// Tokens that it counted.
        counted: u64,
        /// Tokens that it told of.
        told: usize,
    },
    /// It ended where no rule ends an output.
    #[error("the server ended after {tokens} tokens, where nothing ends the output: {finish}")]
    EndedEarly {
        /// Tokens told of.
        tokens: usize,
        /// What the server gave as the reason.
        finish: String,
    },
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

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenAi {
    /// The provider of one server; nothing is started or asked.
    pub fn new(config: ServerConfig) -> Self {
        Self { config: Arc::new(config), state: Arc::default() }
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
        let mut engine = OpenAiEngine {
            reading: Reading::new(tokenizer.clone(), manifest.top_k),
            manifest: manifest.clone(),
            tokenizer,
            model: name.clone(),
            config: self.config.clone(),
            server,
            stopped,
            state: self.state.clone(),
            counted: false,
        };
        engine.try_one_token()?;
        engine.counted = true;
        lock(&self.state).stats.engines += 1;
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

/// A model on a server.
struct OpenAiEngine {
    manifest: Manifest,
    tokenizer: Tokenizer,
    reading: Reading,
    /// What the server calls the model.
    model: String,
    config: Arc<ServerConfig>,
    server: Arc<Server>,
    stopped: CancelToken,
    state: Arc<Mutex<State>>,
    counted: bool,
}

impl Engine for OpenAiEngine {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn samples_itself(&self) -> bool {
        true
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        _: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let cancels = [cancel, &self.stopped];
        let result = self.run(request, Interrupt::new(&cancels, request.deadline), sink);
        lock(&self.state).stats.count(request, &result);
        result
    }
}

impl OpenAiEngine {
    fn run(
        &self,
        request: &GenerateRequest,
        interrupt: Interrupt<'_>,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        interrupt.check()?;
        self.server.ready(interrupt)?;
        let runner = Runner {
            endpoint: self.server.endpoint(),
            times: &self.config.times,
            manifest: &self.manifest,
            tokenizer: &self.tokenizer,
            reading: &self.reading,
            model: &self.model,
            log_probabilities: self.manifest.top_k.min(self.config.max_log_probabilities),
        };
        runner.run(request, interrupt, sink)
    }

    /// Whether the server takes token ids and states log-probabilities, before any job depends on it.
    fn try_one_token(&self) -> Result<(), EngineError> {
        let id =
            (0..self.tokenizer.vocab_size()).find(|&id| !self.tokenizer.piece(id).is_empty()).unwrap_or(0);
        let prompt_ids = self.tokenizer.bos().into_iter().chain([id]).collect();
        let request = GenerateRequest { prompt_ids, max_tokens: 1, ..GenerateRequest::default() };
        let cancels = [&self.stopped];
        self.run(&request, Interrupt::new(&cancels, None), &mut |_| Flow::Continue).map(|_| ())
    }
}

impl Drop for OpenAiEngine {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if self.counted && !self.stopped.is_cancelled() {
            state.stats.engines -= 1;
        }
    }
}
