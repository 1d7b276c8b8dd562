//! The provider `candle`: models on this machine's processor, in this process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::generate::{Predictor, generate};
use crate::gguf::Gguf;
use crate::{
    CancelToken, Candidate, Compute, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Generation,
    Hardware, Interrupt, Llama, LoadError, Manifest, Provider, Stats, Step, Support, TokenSampler, Tokenizer,
    candidates,
};

/// Runs Llama models from GGUF files on the CPU through candle.
#[derive(Debug, Default)]
pub struct Candle {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stopped: CancelToken,
    stats: Stats,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider for Candle {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn detect(&self, hardware: &Hardware, model: &Manifest) -> Support {
        if model.architecture != "llama" {
            return Support::Unsupported(format!("the architecture {} is not supported", model.architecture));
        }
        if model.size > hardware.memory_bytes {
            return Support::Unsupported(format!(
                "the weights have {} bytes, {} bytes of memory are available",
                model.size, hardware.memory_bytes
            ));
        }
        Support::Supported
    }

    fn start(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        let (llama, tokenizer) = load(config)?;
        let mut state = lock(&self.state);
        state.stats.engines += 1;
        state.stats.weight_bytes += llama.weight_bytes();
        Ok(Box::new(CandleEngine {
            manifest: config.model.manifest.clone(),
            tokenizer,
            llama,
            stopped: state.stopped.clone(),
            state: self.state.clone(),
        }))
    }

    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped.cancel();
        state.stopped = CancelToken::new();
        state.stats.engines = 0;
        state.stats.weight_bytes = 0;
    }

    fn is_running(&self) -> bool {
        lock(&self.state).stats.engines > 0
    }

    fn stats(&self) -> Stats {
        lock(&self.state).stats
    }
}

fn load(config: &EngineConfig) -> Result<(Llama, Tokenizer), LoadError> {
    let manifest = &config.model.manifest;
    within(manifest.size, config.max_memory_bytes)?;
    let mut gguf = Gguf::open(config.model.open()?)?;
    agree("architecture", manifest.architecture.as_str(), gguf.str("general.architecture")?)?;
    let tokenizer = Tokenizer::from_metadata(&gguf)?;
    let compute = Compute::for_parameters(gguf.parameters());
    let llama = Llama::load(&mut gguf, compute)?;
    let shape = llama.config();
    agree("context length", manifest.context_length as usize, shape.context_length)?;
    agree("vocabulary size", manifest.vocab_size as usize, shape.vocab_size)?;
    within(llama.weight_bytes(), config.max_memory_bytes)?;
    tracing::debug!(model = manifest.name, bytes = llama.weight_bytes(), "model loaded");
    Ok((llama, tokenizer))
}

fn within(needed: u64, allowed: Option<u64>) -> Result<(), LoadError> {
    match allowed {
        Some(allowed) if needed > allowed => Err(LoadError::Memory { needed, allowed }),
        _ => Ok(()),
    }
}

fn agree<T: ToString>(what: &'static str, manifest: T, file: T) -> Result<(), LoadError> {
    let (manifest, file) = (manifest.to_string(), file.to_string());
    if manifest == file {
        return Ok(());
    }
    Err(LoadError::Contradiction { what, manifest, file })
}

struct CandleEngine {
    manifest: Manifest,
    tokenizer: Tokenizer,
    llama: Llama,
    stopped: CancelToken,
    state: Arc<Mutex<State>>,
}

impl Engine for CandleEngine {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let result = self.run(request, sampler, cancel, sink);
        self.llama.forget();
        let stats = &mut lock(&self.state).stats;
        match &result {
            Ok(generation) => {
                stats.finished += 1;
                stats.prompt_tokens += request.prompt_ids.len() as u64;
                stats.output_tokens += generation.ids.len() as u64;
                stats.prompt_time += generation.prompt_time;
                stats.decode_time += generation.decode_time;
            }
            Err(_) => stats.failed += 1,
        }
        result
    }
}

impl CandleEngine {
    fn run(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        self.check_memory(request)?;
        let cancels = [cancel, &self.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let mut predictor = Prediction { llama: &mut self.llama, top_k: self.manifest.top_k as usize };
        let context = self.manifest.context_length;
        generate(&mut predictor, &self.tokenizer, context, request, interrupt, sampler, sink)
    }

    fn check_memory(&self, request: &GenerateRequest) -> Result<(), EngineError> {
        let Some(allowed) = request.max_memory_bytes else {
            return Ok(());
        };
        let tokens = request.prompt_ids.len().saturating_add(request.max_tokens as usize);
        let needed = self.llama.weight_bytes() + self.llama.sequence_bytes(tokens);
        if needed <= allowed {
            return Ok(());
        }
        Err(EngineError::Memory { needed, allowed })
    }
}

impl Drop for CandleEngine {
    fn drop(&mut self) {
        let stats = &mut lock(&self.state).stats;
        if !self.stopped.is_cancelled() {
            stats.engines -= 1;
            stats.weight_bytes -= self.llama.weight_bytes();
        }
    }
}

struct Prediction<'a> {
    llama: &'a mut Llama,
    top_k: usize,
}

impl Predictor for Prediction<'_> {
    fn feed(&mut self, tokens: &[u32], position: usize, interrupt: Interrupt<'_>) -> Result<(), EngineError> {
        self.llama.feed(tokens, position, interrupt)
    }

    fn predict(
        &mut self,
        tokens: &[u32],
        position: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Candidate>, EngineError> {
        candidates(&self.llama.forward(tokens, position, interrupt)?, self.top_k)
    }
}
