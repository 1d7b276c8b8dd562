//! The provider `candle`: models on this machine's GPU or processor, in this process.

mod batched;
mod bench;
mod diffusion;
mod embed;

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use self::batched::{Batched, Worker};
use self::bench::Bench;
use self::diffusion::{Painter, Painting};
use self::embed::{Embedder, Embedding};
use crate::generate::{Predictor, generate};
use crate::lock::lock;
use crate::open;
use crate::{
    Architecture, CancelToken, Candidate, Compute, Decoder, Engine, EngineConfig, EngineError, Flow,
    GenerateRequest, Generation, Hardware, Interrupt, LoadError, Manifest, PREFILL_CHUNK, Provider,
    RescoreRequest, Rescored, Sequence, Stats, Step, Support, TokenSampler, Tokenizer, Workload, candidates,
};

/// Runs Llama, Qwen2 and Qwen3 models, Stable Diffusion, BERT models and the benchmark `matmul`: on a GPU where it was built
/// for one and there is one, else on the processor, through candle.
///
/// Engines of one model share its weights. Unless those are computed on one core, they also share every pass: what
/// their requests take at a time is one batch.
#[derive(Debug, Default)]
pub struct Candle {
    /// How text models compute, if not as suits them here.
    compute: Option<Compute>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    stopped: CancelToken,
    stats: Stats,
    loaded: Vec<Weak<Loaded>>,
    embedders: Vec<Weak<Embedder>>,
    painters: Vec<Weak<Painter>>,
}

/// A model in memory.
#[derive(Debug)]
struct Loaded {
    manifest: Manifest,
    tokenizer: Tokenizer,
    decoder: Arc<Decoder>,
    /// What computes all requests together, on models that take more than one core.
    worker: Option<Worker>,
}

impl State {
    fn find(&mut self, manifest: &Manifest) -> Option<Arc<Loaded>> {
        self.loaded.retain(|loaded| loaded.strong_count() > 0);
        self.loaded.iter().filter_map(Weak::upgrade).find(|loaded| loaded.manifest == *manifest)
    }

    fn find_embedder(&mut self, manifest: &Manifest) -> Option<Arc<Embedder>> {
        self.embedders.retain(|embedder| embedder.strong_count() > 0);
        self.embedders.iter().filter_map(Weak::upgrade).find(|embedder| embedder.manifest() == manifest)
    }

    fn find_painter(&mut self, manifest: &Manifest) -> Option<Arc<Painter>> {
        self.painters.retain(|painter| painter.strong_count() > 0);
        self.painters.iter().filter_map(Weak::upgrade).find(|painter| painter.manifest() == manifest)
    }
}

impl Provider for Candle {
    fn name(&self) -> &'static str {
        "candle"
    }

    fn detect(&self, hardware: &Hardware, model: &Manifest) -> Support {
        let known = match model.workload {
            Workload::LlmGen => Architecture::named(&model.architecture).is_some(),
            Workload::Embed => model.architecture == embed::ARCHITECTURE,
            Workload::SdInfer => model.architecture == diffusion::ARCHITECTURE,
            Workload::TorchBench => model.architecture == bench::ARCHITECTURE,
        };
        if !known {
            let (what, for_what) = (&model.architecture, model.workload.as_str());
            return Support::Unsupported(match model.workload {
                Workload::LlmGen => format!("the architecture {what} is not supported"),
                _ => format!("the architecture {what} is not supported for {for_what}"),
            });
        }
        let weights = model.weight_bytes();
        if weights > hardware.memory_bytes {
            return Support::Unsupported(format!(
                "the weights have {weights} bytes, {} bytes of memory are available",
                hardware.memory_bytes
            ));
        }
        Support::Supported
    }

    fn start(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        match config.model.manifest.workload {
            Workload::LlmGen => self.start_decoder(config),
            Workload::Embed => {
                let shared = lock(&self.state).find_embedder(&config.model.manifest);
                let embedder = shared.map_or_else(|| Embedder::load(config).map(Arc::new), Ok)?;
                within(embedder.weight_bytes(), config.max_memory_bytes)?;
                lock(&self.state).embedders.push(Arc::downgrade(&embedder));
                Ok(Box::new(Embedding::new(embedder, Place::take(&self.state))))
            }
            Workload::SdInfer => {
                let shared = lock(&self.state).find_painter(&config.model.manifest);
                let painter = shared.map_or_else(|| Painter::load(config).map(Arc::new), Ok)?;
                within(painter.weight_bytes(), config.max_memory_bytes)?;
                lock(&self.state).painters.push(Arc::downgrade(&painter));
                Ok(Box::new(Painting::new(painter, Place::take(&self.state))))
            }
            Workload::TorchBench => Ok(Box::new(Bench::new(&config.model, Place::take(&self.state))?)),
        }
    }

    fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped.cancel();
        state.stopped = CancelToken::new();
        state.stats.engines = 0;
        state.loaded.clear();
        state.embedders.clear();
        state.painters.clear();
    }

    fn is_running(&self) -> bool {
        lock(&self.state).stats.engines > 0
    }

    fn stats(&self) -> Stats {
        let state = lock(&self.state);
        let decoders = alive(&state.loaded, |loaded| loaded.decoder.weight_bytes());
        let embedders = alive(&state.embedders, Embedder::weight_bytes);
        let painters = alive(&state.painters, Painter::weight_bytes);
        Stats { weight_bytes: decoders + embedders + painters, ..state.stats }
    }
}

/// The bytes of what is still held, each once.
fn alive<T>(held: &[Weak<T>], bytes: impl Fn(&T) -> u64) -> u64 {
    let mut held: Vec<_> = held.iter().filter_map(Weak::upgrade).collect();
    held.sort_unstable_by_key(Arc::as_ptr);
    held.dedup_by_key(|held| Arc::as_ptr(held));
    held.iter().map(|held| bytes(held)).sum()
}

impl Candle {
    /// Has all text models compute in this way.
    pub fn computing(compute: Compute) -> Self {
        Self { compute: Some(compute), ..Self::default() }
    }

    fn start_decoder(&self, config: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        let shared = lock(&self.state).find(&config.model.manifest);
        let loaded = match shared {
            Some(loaded) => loaded,
            None => Arc::new(load(config, self.compute)?),
        };
        within(loaded.decoder.weight_bytes(), config.max_memory_bytes)?;
        // Of two that loaded the same at the same time, those who come later find the first.
        lock(&self.state).loaded.push(Arc::downgrade(&loaded));
        Ok(Box::new(CandleEngine { loaded, place: Place::take(&self.state) }))
    }
}

/// What an engine of any workload has of its provider; the engine counts as running until this is dropped.
struct Place {
    stopped: CancelToken,
    state: Arc<Mutex<State>>,
}

impl Place {
    fn take(state: &Arc<Mutex<State>>) -> Self {
        let mut held = lock(state);
        held.stats.engines += 1;
        Self { stopped: held.stopped.clone(), state: state.clone() }
    }

    /// Counts a request without output tokens.
    fn count<T>(&self, result: &Result<T, EngineError>, prompt_tokens: usize, time: Duration) {
        lock(&self.state).stats.count_without_output(result, prompt_tokens, time);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stats = &mut lock(&self.state).stats;
        if !self.stopped.is_cancelled() {
            stats.engines -= 1;
        }
    }
}

fn load(config: &EngineConfig, compute: Option<Compute>) -> Result<Loaded, LoadError> {
    let manifest = &config.model.manifest;
    within(manifest.weight_bytes(), config.max_memory_bytes)?;
    let (decoder, tokenizer) = open::load(&config.model, compute, config.max_memory_bytes)?;
    let decoder = Arc::new(decoder);
    let (shape, compute) = (*decoder.config(), decoder.compute());
    agree("architecture", manifest.architecture.as_str(), shape.architecture.name())?;
    agree("context length", manifest.context_length as usize, shape.context_length)?;
    agree("vocabulary size", manifest.vocab_size as usize, shape.vocab_size)?;
    let device = compute.device_name();
    tracing::debug!(model = manifest.name, bytes = decoder.weight_bytes(), device, "model loaded");
    let worker = match compute {
        Compute::AllCores | Compute::Device => Some(Worker::start(decoder.clone())?),
        Compute::OneCore => None,
    };
    Ok(Loaded { manifest: manifest.clone(), tokenizer, decoder, worker })
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
    loaded: Arc<Loaded>,
    place: Place,
}

impl Engine for CandleEngine {
    fn manifest(&self) -> &Manifest {
        &self.loaded.manifest
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(&self.loaded.tokenizer)
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let result = self.run(request, sampler, cancel, sink);
        lock(&self.place.state).stats.count(request, &result);
        result
    }

    fn rescore(
        &mut self,
        request: &RescoreRequest,
        cancel: &CancelToken,
    ) -> Result<Vec<Rescored>, EngineError> {
        let decoder = &self.loaded.decoder;
        self.check_memory(decoder.rescore_bytes(request), request.max_memory_bytes)?;
        let cancels = [cancel, &self.place.stopped];
        decoder.rescore(request, Interrupt::new(&cancels, request.deadline))
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
        let tokens = request.prompt_ids.len().saturating_add(request.max_tokens as usize);
        self.check_memory(self.loaded.decoder.sequence_bytes(tokens), request.max_memory_bytes)?;
        let cancels = [cancel, &self.place.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let Loaded { manifest, tokenizer, decoder, worker } = self.loaded.as_ref();
        let top_k = manifest.top_k as usize;
        let mut predictor: Box<dyn Predictor> = match worker {
            Some(worker) => Box::new(Batched::new(worker, top_k)),
            None => Box::new(Alone { decoder, sequence: Sequence::default(), top_k }),
        };
        let context = manifest.context_length;
        generate(predictor.as_mut(), tokenizer, context, request, interrupt, sampler, sink)
    }

    /// Refuses a request that takes `more` beside the weights, if that is over what is allowed.
    fn check_memory(&self, more: u64, allowed: Option<u64>) -> Result<(), EngineError> {
        let needed = self.loaded.decoder.weight_bytes() + more;
        match allowed {
            Some(allowed) if needed > allowed => Err(EngineError::Memory { needed, allowed }),
            _ => Ok(()),
        }
    }
}

/// A request on a model that no other request shares a pass with.
struct Alone<'a> {
    decoder: &'a Decoder,
    sequence: Sequence,
    top_k: usize,
}

impl Predictor for Alone<'_> {
    fn begin(
        &mut self,
        prompt: &[u32],
        _: u32,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Candidate>, EngineError> {
        let last = prompt.len().saturating_sub(1) / PREFILL_CHUNK * PREFILL_CHUNK;
        let (first, last) = prompt.split_at(last);
        for chunk in first.chunks(PREFILL_CHUNK) {
            self.decoder.feed(&mut self.sequence, chunk, interrupt)?;
        }
        candidates(&self.decoder.forward(&mut self.sequence, last, interrupt)?, self.top_k)
    }

    fn next(&mut self, token: u32, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        candidates(&self.decoder.forward(&mut self.sequence, &[token], interrupt)?, self.top_k)
    }
}
