//! The Llama architecture, quantised or not, from a GGUF file.
//!
//! RMS norm, rotary positions on interleaved pairs (llama.cpp permutes the rows of the query and key weights for
//! them), grouped-query attention and a SwiGLU feed-forward, as in <https://arxiv.org/abs/2302.13971> and
//! <https://arxiv.org/abs/2305.13245>. Norms, attention and logits are f32.

mod config;
mod layer;
mod one_core;

use std::collections::BTreeSet;
use std::io::{Read, Seek};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::ops;

use self::layer::{CACHE_GROWTH, Cache, Layer, PositionStep, mask};
use self::one_core::product;
use crate::gguf::Gguf;
use crate::{EngineError, Interrupt, LoadError};

pub use self::config::LlamaConfig;

/// The most parameters with which [`Compute::for_parameters`] keeps to one core.
pub const MAX_ONE_CORE_PARAMETERS: u64 = 16 << 20;

/// How a loaded model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// With quantised weights as the file has them, and others as f32, on all cores.
    AllCores,
    /// With all weights as f32, on one core.
    ///
    /// A small model is quickest so: a layer takes less time than waking another core, and much less than waiting
    /// for one that is busy.
    OneCore,
}

impl Compute {
    /// What suits a model of so many parameters.
    pub fn for_parameters(parameters: u64) -> Self {
        if parameters <= MAX_ONE_CORE_PARAMETERS { Self::OneCore } else { Self::AllCores }
    }
}

/// A loaded model with the keys and values of the sequence that it has seen.
pub struct Llama {
    config: LlamaConfig,
    compute: Compute,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Matrix,
    cos: Tensor,
    sin: Tensor,
    cached: usize,
    weight_bytes: u64,
}

impl std::fmt::Debug for Llama {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Llama")
            .field("config", &self.config)
            .field("cached", &self.cached)
            .finish_non_exhaustive()
    }
}

impl Llama {
    /// Loads the weights of a GGUF file of architecture `llama` into memory.
    pub fn from_gguf(reader: &mut (impl Read + Seek), compute: Compute) -> Result<Self, LoadError> {
        Self::load(&mut Gguf::open(reader)?, compute)
    }

    pub(crate) fn load<R: Read + Seek>(gguf: &mut Gguf<R>, compute: Compute) -> Result<Self, LoadError> {
        let config = LlamaConfig::from_metadata(gguf)?;
        let mut unused: BTreeSet<String> = gguf.tensor_names().map(str::to_owned).collect();
        let tied = !unused.contains("output.weight");
        let mut weights = Weights { gguf, compute, unused: &mut unused, bytes: 0 };
        let table = [config.vocab_size, config.width];
        let embedding = weights.matrix("token_embd.weight", &table)?;
        let output = match tied {
            true => embedding.clone(),
            false => weights.matrix("output.weight", &table)?,
        };
        let norm = weights.vector("output_norm.weight", config.width)?;
        let layers = (0..config.layers)
            .map(|index| Layer::load(&mut weights, &config, index))
            .collect::<Result<_, _>>()?;
        let weight_bytes = weights.bytes;
        if let Some(name) = unused.first() {
            return Err(LoadError::Unsupported(format!("the tensor {name:?} is unknown")));
        }
        let (cos, sin) = rotations(&config)?;
        Ok(Self { config, compute, embedding, layers, norm, output, cos, sin, cached: 0, weight_bytes })
    }

    /// The model's shape.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Memory that the weights take, in bytes, an upper estimate.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Memory that a sequence of `tokens` takes beside the weights, in bytes, an upper estimate.
    pub fn sequence_bytes(&self, tokens: usize) -> u64 {
        let LlamaConfig { layers, kv_heads, head_width, width, hidden, vocab_size, heads, .. } = self.config;
        let positions = tokens.min(self.config.context_length).next_multiple_of(CACHE_GROWTH);
        let cache = 2 * layers * kv_heads * head_width * positions;
        let work = crate::PREFILL_CHUNK * (8 * width + 4 * hidden + 3 * heads * positions) + 4 * vocab_size;
        4 * (cache as u64 + work as u64)
    }

    /// Takes `tokens` at `position`, forgetting what was at or after it, and returns the logits after the last one.
    ///
    /// `position` is at most the number of tokens seen before; the result has `vocab_size` numbers.
    pub fn forward(
        &mut self,
        tokens: &[u32],
        position: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let logits = self.run(tokens, position, interrupt, Ask::Last)?;
        Ok(logits.into_iter().next_back().unwrap_or_default())
    }

    /// Like [`Llama::forward`], with the logits after every one of `tokens`.
    pub fn forward_all(
        &mut self,
        tokens: &[u32],
        position: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.run(tokens, position, interrupt, Ask::All)
    }

    /// Like [`Llama::forward`], without any logits.
    pub fn feed(
        &mut self,
        tokens: &[u32],
        position: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<(), EngineError> {
        self.run(tokens, position, interrupt, Ask::Nothing).map(|_| ())
    }

    /// Forgets the sequence seen and frees its memory.
    pub fn forget(&mut self) {
        self.cached = 0;
        for layer in &mut self.layers {
            layer.cache = Cache::default();
        }
    }

    fn run(
        &mut self,
        tokens: &[u32],
        position: usize,
        interrupt: Interrupt<'_>,
        ask: Ask,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        let hidden = self.advance(tokens, position, interrupt)?;
        let asked = match ask {
            Ask::Nothing => return Ok(Vec::new()),
            Ask::Last => hidden.narrow(0, tokens.len() - 1, 1)?,
            Ask::All => hidden,
        };
        let normed = ops::rms_norm(&asked.contiguous()?, &self.norm, self.config.rms_epsilon)?;
        Ok(self.output.forward(&normed)?.to_vec2()?)
    }

    fn advance(
        &mut self,
        tokens: &[u32],
        position: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Tensor, EngineError> {
        self.check(tokens, position)?;
        self.cached = position;
        let length = tokens.len();
        let step = PositionStep {
            compute: self.compute,
            position,
            cos: self.cos.narrow(0, position, length)?,
            sin: self.sin.narrow(0, position, length)?,
            mask: mask(position, length)?,
        };
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        let mut x = self.embedding.rows(&ids)?;
        for layer in &mut self.layers {
            interrupt.check()?;
            x = layer.forward(&x, &self.config, &step)?;
        }
        self.cached = position + length;
        Ok(x)
    }

    fn check(&self, tokens: &[u32], position: usize) -> Result<(), EngineError> {
        let context = self.config.context_length;
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if position > self.cached {
            return Err(EngineError::Request("the position is beyond the tokens seen"));
        }
        if position + tokens.len() > context {
            return Err(EngineError::PromptTooLong {
                tokens: position + tokens.len(),
                context: context as u32,
            });
        }
        match tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(&id) => Err(EngineError::UnknownToken(id)),
            None => Ok(()),
        }
    }
}

/// A matrix of weights, `(rows, columns)`.
#[derive(Clone)]
enum Matrix {
    Shared(QMatMul),
    Plain(Tensor),
}

impl Matrix {
    /// From `(length, columns)` to `(length, rows)`.
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Shared(matrix) => matrix.forward(x),
            Self::Plain(matrix) => product(x, matrix),
        }
    }

    fn rows(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Shared(matrix) => matrix.embedding(ids),
            Self::Plain(matrix) => matrix.index_select(ids, 0),
        }
    }
}

/// Which logits are wanted.
#[derive(Clone, Copy)]
enum Ask {
    Nothing,
    Last,
    All,
}

struct Weights<'a, R> {
    gguf: &'a mut Gguf<R>,
    compute: Compute,
    unused: &'a mut BTreeSet<String>,
    bytes: u64,
}

impl<R: Read + Seek> Weights<'_, R> {
    fn matrix(&mut self, name: &str, shape: &[usize; 2]) -> Result<Matrix, LoadError> {
        let tensor = self.read(name, shape)?;
        match self.compute {
            Compute::AllCores => Ok(Matrix::Shared(QMatMul::from_qtensor(tensor)?)),
            Compute::OneCore => Ok(Matrix::Plain(tensor.dequantize(&Device::Cpu)?)),
        }
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, LoadError> {
        let tensor = self.read(name, &[length])?;
        Ok(tensor.dequantize(&Device::Cpu)?.to_dtype(DType::F32)?)
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<QTensor, LoadError> {
        let tensor = self.gguf.tensor(name, shape)?;
        self.unused.remove(name);
        let whole = matches!(tensor.dtype(), GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        self.bytes += match self.compute {
            // Kernels may keep a second copy in another order.
            Compute::AllCores if !whole => 2 * tensor.storage_size_in_bytes() as u64,
            Compute::AllCores | Compute::OneCore => 4 * tensor.shape().elem_count() as u64,
        };
        Ok(tensor)
    }
}

/// Cosines and sines of every position and frequency, each `(context_length, head_width / 2)`.
fn rotations(config: &LlamaConfig) -> candle_core::Result<(Tensor, Tensor)> {
    let pairs = config.head_width / 2;
    let frequency =
        |pair: usize| f64::from(config.rope_base).powf(-2.0 * pair as f64 / config.head_width as f64);
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let angles =
        (0..config.context_length).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    let (cos, sin): (Vec<f32>, Vec<f32>) =
        angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
    let shape = (config.context_length, pairs);
    Ok((Tensor::from_vec(cos, shape, &Device::Cpu)?, Tensor::from_vec(sin, shape, &Device::Cpu)?))
}
