//! Who runs models: the contract of providers, and the registry of those that exist.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::{Candle, Engine, EngineError, GenerateRequest, Generation, Manifest, Model};

/// What a machine has to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware {
    /// Memory that models may use, in bytes.
    pub memory_bytes: u64,
    /// Processor cores.
    pub cores: u32,
}

impl Hardware {
    /// This machine: the cores and the memory that are free now; memory counts as unlimited where the system does not say.
    pub fn probe() -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            memory_bytes: available(&meminfo).unwrap_or(u64::MAX),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        }
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Whether a provider can run a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Supported,
    /// It cannot, and why.
    Unsupported(String),
}

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The model to run.
    pub model: Model,
    /// The most memory that the weights may take, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// What a provider's engines have done since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Engines running now.
    pub engines: u32,
    /// Memory of their weights, in bytes.
    pub weight_bytes: u64,
    /// Requests finished.
    pub finished: u64,
    /// Requests that ended with an error, cancelled ones among them.
    pub failed: u64,
    /// Prompt tokens of finished requests.
    pub prompt_tokens: u64,
    /// Output tokens of finished requests.
    pub output_tokens: u64,
    /// Time until the first token, over finished requests.
    pub prompt_time: Duration,
    /// Time after the first token, over finished requests.
    pub decode_time: Duration,
    /// Engines that ended by themselves and were started again.
    pub restarts: u64,
}

impl Stats {
    /// Counts one request and what became of it.
    pub fn count(&mut self, request: &GenerateRequest, result: &Result<Generation, EngineError>) {
        match result {
            Ok(generation) => {
                self.finished += 1;
                self.prompt_tokens += request.prompt_ids.len() as u64;
                self.output_tokens += generation.ids.len() as u64;
                self.prompt_time += generation.prompt_time;
                self.decode_time += generation.decode_time;
            }
            Err(_) => self.failed += 1,
        }
    }

    /// Counts a request without output tokens that took so long, and what became of it.
    pub fn count_without_output<T>(
        &mut self,
        result: &Result<T, EngineError>,
        prompt_tokens: usize,
        time: Duration,
    ) {
        if result.is_err() {
            self.failed += 1;
            return;
        }
        self.finished += 1;
        self.prompt_tokens += prompt_tokens as u64;
        self.prompt_time += time;
    }
}

/// How a device that engines compute on is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStats {
    /// Its name, such as `gpu 1`; empty where there is no other.
    pub name: String,
    /// Whether all models can be run on it now.
    pub is_up: bool,
    /// Requests that run on it.
    pub running: u32,
    /// Requests that were begun on it since the process began.
    pub begun: u64,
}

/// Finds, starts and stops engines of one kind.
pub trait Provider: Send + Sync {
    /// The provider's name, unique in a [`Registry`].
    fn name(&self) -> &'static str;

    /// Whether it can run a model on some hardware; looks at nothing but its arguments.
    fn detect(&self, hardware: &Hardware, model: &Manifest) -> Support;

    /// Loads a model; the engine lives until it is dropped or the provider is stopped.
    fn start(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError>;

    /// Cancels what its engines run and refuses further requests on them; engines started later work.
    fn stop(&self);

    /// Whether any of its engines can take requests.
    fn is_running(&self) -> bool;

    /// What its engines have done.
    fn stats(&self) -> Stats;

    /// The devices that its engines compute on, each in a process of its own; none where it knows of none.
    fn devices(&self) -> Vec<DeviceStats> {
        Vec::new()
    }

    /// The URL of the server that its engines use, while they do; nothing where they compute by themselves.
    fn endpoint(&self) -> Option<String> {
        None
    }
}

/// The providers that exist, in the order in which they were registered.
#[derive(Clone, Default)]
pub struct Registry(Vec<Arc<dyn Provider>>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|provider| provider.name())).finish()
    }
}

/// No registered provider can run a model.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no provider can run the model {model}: {}", reasons.join("; "))]
pub struct NoProvider {
    /// Name of the model.
    pub model: String,
    /// `provider: reason` of each.
    pub reasons: Vec<String>,
}

impl Registry {
    /// A registry without providers.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The providers of this crate: `candle`.
    pub fn standard() -> Self {
        let mut registry = Self::empty();
        registry.register(Arc::new(Candle::default()));
        registry
    }

    /// Adds a provider; one that is registered under the same name already stays, and false is returned.
    pub fn register(&mut self, provider: Arc<dyn Provider>) -> bool {
        let new = self.0.iter().all(|known| known.name() != provider.name());
        if new {
            self.0.push(provider);
        }
        new
    }

    /// All providers.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.0.iter()
    }

    /// The first provider that can run a model, or the reason of each why it cannot.
    pub fn find(&self, hardware: &Hardware, model: &Manifest) -> Result<Arc<dyn Provider>, NoProvider> {
        let mut reasons = Vec::new();
        for provider in &self.0 {
            match provider.detect(hardware, model) {
                Support::Supported => return Ok(provider.clone()),
                Support::Unsupported(reason) => reasons.push(format!("{}: {reason}", provider.name())),
            }
        }
        Err(NoProvider { model: model.name.clone(), reasons })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(available("MemTotal: 5 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(available("MemTotal: 5 kB\n"), None);
    }
}
