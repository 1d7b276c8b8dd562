//! The provider `openai` against servers on this machine: honest ones, hostile ones, and one that it runs itself.

mod honest;
mod hostile;
mod loopback;
mod process;
mod real;
mod wire;

use std::time::Duration;

use swarm_inference::testing::{Shape, model};
use swarm_inference::{
    CancelToken, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Generation, Greedy, OpenAi,
    Provider, ServerAt, ServerConfig, ServerTimes, Step,
};

const MODEL: &str = "tiny";

/// Enough for a busy machine; no test waits it out.
const TIMES: ServerTimes = ServerTimes {
    connect: Duration::from_secs(10),
    first_token: Duration::from_secs(30),
    next_token: Duration::from_secs(30),
    ready: Duration::from_secs(60),
    stop: Duration::from_secs(10),
};

fn config() -> EngineConfig {
    EngineConfig { model: model(MODEL, Shape::default()).unwrap(), max_memory_bytes: None }
}

fn server_at(url: &str) -> ServerConfig {
    let config = ServerConfig::new(ServerAt::Url(url.to_owned()), MODEL);
    ServerConfig { max_log_probabilities: 256, times: TIMES, ..config }
}

fn provider(url: &str) -> OpenAi {
    OpenAi::new(server_at(url))
}

fn request(max_tokens: u32) -> GenerateRequest {
    GenerateRequest { prompt_ids: vec![84, 104, 101], max_tokens, ..GenerateRequest::default() }
}

/// A generation and its steps.
fn run(engine: &mut dyn Engine, request: &GenerateRequest) -> Result<(Generation, Vec<Step>), EngineError> {
    let mut steps = Vec::new();
    let made = engine.generate(request, &mut Greedy, &CancelToken::new(), &mut |step| {
        steps.push(step.clone());
        Flow::Continue
    })?;
    Ok((made, steps))
}

fn start(provider: &dyn Provider) -> Box<dyn Engine> {
    provider.start(&config()).unwrap()
}
