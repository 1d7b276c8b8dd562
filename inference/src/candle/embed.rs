//! Embeddings by BERT models: the mean of the last layer over all tokens of a text, of unit length.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};

use super::{Place, agree, within};
use crate::device::device;
use crate::{
    CancelToken, EmbedRequest, Engine, EngineConfig, EngineError, Flow, Interrupt, LoadError, Manifest,
};

/// What manifests of such models name as their architecture.
pub(super) const ARCHITECTURE: &str = "bert";

/// A BERT model in memory.
pub(super) struct Embedder {
    manifest: Manifest,
    shape: Config,
    model: BertModel,
}

impl std::fmt::Debug for Embedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embedder({})", self.manifest.name)
    }
}

impl Embedder {
    pub(super) fn load(config: &EngineConfig) -> Result<Self, LoadError> {
        let manifest = &config.model.manifest;
        within(manifest.size, config.max_memory_bytes)?;
        let shape = config.model.file("config.json")?;
        let shape: Config = serde_json::from_slice(&shape)
            .map_err(|error| LoadError::Unsupported(format!("config.json is no BERT model's: {error}")))?;
        agree("vocabulary size", manifest.vocab_size as usize, shape.vocab_size)?;
        agree("dimensions", manifest.dimensions as usize, shape.hidden_size)?;
        if manifest.context_length as usize > shape.max_position_embeddings {
            agree("context length", manifest.context_length as usize, shape.max_position_embeddings)?;
        }
        if shape.num_attention_heads == 0 || !shape.hidden_size.is_multiple_of(shape.num_attention_heads) {
            return Err(LoadError::Unsupported("the heads do not share the hidden size".to_owned()));
        }
        let mut bytes = Vec::new();
        let read = config.model.open()?.read_to_end(&mut bytes);
        read.map_err(|error| LoadError::Prepare(error.to_string()))?;
        let tensors = VarBuilder::from_buffered_safetensors(bytes, DType::F32, device())?;
        let model = BertModel::load(tensors, &shape)?;
        tracing::debug!(model = manifest.name, bytes = manifest.size, "model loaded");
        Ok(Self { manifest: manifest.clone(), shape, model })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.manifest.size
    }

    /// Scores of all heads and the widest rows, for the longest text of a request.
    fn working_bytes(&self, tokens: usize) -> u64 {
        let Config { num_attention_heads, hidden_size, intermediate_size, .. } = self.shape;
        4 * tokens as u64
            * (3 * num_attention_heads * tokens + 8 * hidden_size + 2 * intermediate_size) as u64
    }

    /// One text at a time: its vector then depends on no other, and needs neither padding nor mask.
    fn embed(&self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        let ids = Tensor::new(ids, device())?.unsqueeze(0)?;
        let states = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let mean: Vec<f32> = states.mean(1)?.squeeze(0)?.to_vec1()?;
        let length = mean.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
        if !length.is_finite() || length == 0.0 {
            return Err(EngineError::NotFinite);
        }
        Ok(mean.into_iter().map(|number| (f64::from(number) / length) as f32).collect())
    }
}

/// One engine of such a model.
pub(super) struct Embedding {
    embedder: Arc<Embedder>,
    place: Place,
}

impl Embedding {
    pub(super) fn new(embedder: Arc<Embedder>, place: Place) -> Self {
        Self { embedder, place }
    }

    fn run(
        &self,
        request: &EmbedRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[f32]) -> Flow,
    ) -> Result<(), EngineError> {
        self.check(request)?;
        let cancels = [cancel, &self.place.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        for ids in &request.texts {
            interrupt.check()?;
            if sink(&self.embedder.embed(ids)?) == Flow::Stop {
                return Err(EngineError::Cancelled);
            }
        }
        interrupt.check()
    }

    fn check(&self, request: &EmbedRequest) -> Result<(), EngineError> {
        let manifest = &self.embedder.manifest;
        for ids in &request.texts {
            if ids.is_empty() {
                return Err(EngineError::EmptyPrompt);
            }
            if ids.len() > manifest.context_length as usize {
                return Err(EngineError::Request("a text is longer than the model's context"));
            }
            if let Some(unknown) = ids.iter().find(|id| **id >= manifest.vocab_size) {
                return Err(EngineError::UnknownToken(*unknown));
            }
        }
        let longest = request.texts.iter().map(Vec::len).max().unwrap_or(0);
        let needed = self.embedder.weight_bytes() + self.embedder.working_bytes(longest);
        match request.max_memory_bytes {
            Some(allowed) if needed > allowed => Err(EngineError::Memory { needed, allowed }),
            _ => Ok(()),
        }
    }
}

impl Engine for Embedding {
    fn manifest(&self) -> &Manifest {
        &self.embedder.manifest
    }

    fn embed(
        &mut self,
        request: &EmbedRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[f32]) -> Flow,
    ) -> Result<(), EngineError> {
        let begun = Instant::now();
        let result = self.run(request, cancel, sink);
        let tokens = request.texts.iter().map(Vec::len).sum();
        self.place.count(&result, tokens, begun.elapsed());
        result
    }
}
