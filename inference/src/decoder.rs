//! Decoder-only transformers: Llama, Qwen2 and Qwen3, quantised or not, from GGUF or safetensors files.
//!
//! RMS norm, rotary positions, grouped-query attention and a SwiGLU feed-forward, as in
//! <https://arxiv.org/abs/2302.13971> and <https://arxiv.org/abs/2305.13245>. Norms, attention and logits are f32.
//!
//! A [`Decoder`] is weights only. What it has seen of a text is in a [`Sequence`], and one pass takes runs of tokens
//! of many sequences: the matrices are read once for all of them. A row's result does not depend on the other rows
//! of its pass, so that a token's logits are the same to the bit alone, in a batch, after a prefix from the cache or
//! in one pass over the whole text. Where candle multiplies few rows in another order, few rows are made more.
//!
//! That is so on a processor. A device ([`Compute::Device`]) chooses its kernels by the number of rows, and a row is
//! what it would be alone but for rounding.

mod attention;
mod buffers;
mod cache;
mod compute;
mod config;
mod layer;
mod matrix;
mod mix;
mod one_core;
mod products;
mod score;
mod table;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(not(target_arch = "x86_64"))]
#[path = "decoder/no_tiles.rs"]
mod tiles;
mod weights;

use std::io::{Read, Seek};

use candle_core::Tensor;
use candle_nn::ops;

use self::attention::{Loops, Rotation, Row};
use self::layer::{Attention, Layer};
use self::matrix::Matrix;
use self::products::Products;
use self::table::Table;
use self::weights::{Source, Weights};
use crate::gguf::Gguf;
use crate::safetensors::Safetensors;
use crate::{EngineError, Interrupt, LoadError};

pub(crate) use self::cache::Block;
pub use self::cache::{BLOCK_POSITIONS, Sequence};
pub use self::compute::{Compute, MAX_ONE_CORE_PARAMETERS};
pub use self::config::{Architecture, DecoderConfig, Llama3Scaling, MAX_CONFIG_BYTES, RotaryPairs};
pub use self::score::Show;

/// A loaded model.
pub struct Decoder {
    config: DecoderConfig,
    compute: Compute,
    embedding: Table,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Matrix,
    frequencies: Vec<f64>,
    weight_bytes: u64,
}

/// Tokens that follow what a sequence has seen.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) sequence: &'a mut Sequence,
    pub(crate) tokens: &'a [u32],
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl AsRef<Self> for Decoder {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Decoder {
    /// Loads the weights of a GGUF file into memory.
    pub fn from_gguf(reader: &mut (impl Read + Seek), compute: Compute) -> Result<Self, LoadError> {
        Self::load_gguf(&mut Gguf::open(reader)?, compute, None)
    }

    /// Loads the weights of one or more safetensors files into memory as f32; `config` is the model's `config.json`.
    ///
    /// Weights over `max_bytes` are refused before they are read.
    pub fn from_safetensors(
        config: &[u8],
        readers: Vec<impl Read + Seek>,
        compute: Compute,
        max_bytes: Option<u64>,
    ) -> Result<Self, LoadError> {
        let mut files = Safetensors::open(readers)?;
        Self::load_safetensors(DecoderConfig::from_json(config)?, &mut files, Some(compute), max_bytes)
    }

    pub(crate) fn load_safetensors<R: Read + Seek>(
        config: DecoderConfig,
        files: &mut Safetensors<R>,
        compute: Option<Compute>,
        max_bytes: Option<u64>,
    ) -> Result<Self, LoadError> {
        let compute = compute.unwrap_or_else(|| Compute::for_parameters(files.parameters()));
        Self::load(Weights::new(Source::Safetensors(files), compute, max_bytes), config)
    }

    pub(crate) fn load_gguf<R: Read + Seek>(
        gguf: &mut Gguf<R>,
        compute: Compute,
        max_bytes: Option<u64>,
    ) -> Result<Self, LoadError> {
        let config = DecoderConfig::from_metadata(gguf)?;
        Self::load(Weights::new(Source::Gguf(gguf), compute, max_bytes), config)
    }

    fn load<R: Read + Seek>(mut weights: Weights<'_, R>, config: DecoderConfig) -> Result<Self, LoadError> {
        let compute = weights.compute();
        let table = [config.vocab_size, config.width];
        let tied = config.tied || !weights.has("output.weight");
        let embedding = weights.table("token_embd.weight", &table)?;
        let output = match tied {
            true => weights.matrix_of(&embedding)?,
            false => weights.matrix("output.weight", &table)?,
        };
        weights.skip("output.weight");
        let frequencies = frequencies(&mut weights, &config)?;
        let norm = weights.vector("output_norm.weight", config.width)?;
        let layers = (0..config.layers)
            .map(|index| Layer::load(&mut weights, &config, index))
            .collect::<Result<_, _>>()?;
        let weight_bytes = weights.finish()?;
        Ok(Self { config, compute, embedding, layers, norm, output, frequencies, weight_bytes })
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// How it computes.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Memory that the weights take, in bytes, an upper estimate.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Memory that keys and values of one position take, in bytes.
    pub fn position_bytes(&self) -> u64 {
        4 * 2 * (self.config.layers * self.config.kv_width()) as u64
    }

    /// Memory that a sequence of `tokens` takes beside the weights, in bytes, an upper estimate.
    pub fn sequence_bytes(&self, tokens: usize) -> u64 {
        let DecoderConfig { width, hidden, vocab_size, context_length, .. } = self.config;
        let positions = tokens.min(context_length).next_multiple_of(BLOCK_POSITIONS);
        let row = 8 * width + 6 * self.config.query_width() + 4 * hidden;
        let scores = match self.compute {
            Compute::AllCores | Compute::OneCore => self.config.heads * positions,
            // Those of all heads, as they are, masked and as weights, and the mask.
            Compute::Device => (3 * self.config.heads + 1) * positions,
        };
        let work = self.compute.chunk() * (row + scores) + 4 * vocab_size;
        self.position_bytes() * positions as u64 + 4 * work as u64
    }

    /// Takes `tokens` after what `sequence` has seen and returns the logits after the last one, `vocab_size` numbers.
    ///
    /// After an error the sequence is as it was.
    pub fn forward(
        &self,
        sequence: &mut Sequence,
        tokens: &[u32],
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let hidden = self.advance(&mut [Run { sequence, tokens }], interrupt)?;
        let last = hidden.narrow(0, tokens.len() - 1, 1)?;
        Ok(self.logits(&last)?.into_iter().next_back().unwrap_or_default())
    }

    /// Like [`Decoder::forward`], with the logits after every one of `tokens`.
    pub fn forward_all(
        &self,
        sequence: &mut Sequence,
        tokens: &[u32],
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        self.logits(&self.advance(&mut [Run { sequence, tokens }], interrupt)?)
    }

    /// Like [`Decoder::forward`], without any logits.
    pub fn feed(
        &self,
        sequence: &mut Sequence,
        tokens: &[u32],
        interrupt: Interrupt<'_>,
    ) -> Result<(), EngineError> {
        self.advance(&mut [Run { sequence, tokens }], interrupt).map(|_| ())
    }

    /// Takes all runs in one pass; the result has a row for every token, in the order of the runs.
    pub(crate) fn advance(
        &self,
        runs: &mut [Run<'_>],
        interrupt: Interrupt<'_>,
    ) -> Result<Tensor, EngineError> {
        let hidden = self.run_layers(runs, self.config.layers, interrupt)?;
        runs.iter_mut().for_each(|run| run.sequence.advance(run.tokens.len()));
        Ok(hidden)
    }

    /// Logits of rows of the last layer, `(rows, vocab_size)`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(self.output.forward(&self.normed(hidden)?)?.to_vec2()?)
    }

    fn normed(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        ops::rms_norm(&hidden.contiguous()?, &self.norm, self.config.rms_epsilon)
    }

    fn run_layers(
        &self,
        runs: &mut [Run<'_>],
        layers: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Tensor, EngineError> {
        let rows = self.rows(runs)?;
        let ids: Vec<u32> = runs.iter().flat_map(|run| run.tokens).copied().collect();
        let mut attention = self.attention(&rows, runs)?;
        let mut x = self.embedding.rows(&Tensor::new(ids, self.compute.device())?)?;
        for layer in &self.layers[..layers] {
            interrupt.check()?;
            x = layer.forward(&x, &self.config, attention.as_mut())?;
        }
        Ok(x)
    }

    fn attention<'a>(
        &'a self,
        rows: &'a [Row],
        runs: &'a mut [Run<'_>],
    ) -> Result<Box<dyn Attention + 'a>, EngineError> {
        let (config, compute) = (&self.config, self.compute);
        let rotation = Rotation::new(&self.frequencies, rows);
        Ok(match compute {
            Compute::AllCores | Compute::OneCore => {
                Box::new(Loops::new(config, compute, rows, rotation, runs))
            }
            Compute::Device => Box::new(Products::new(config, compute.device(), &rotation, runs)?),
        })
    }

    fn rows(&self, runs: &[Run<'_>]) -> Result<Vec<Row>, EngineError> {
        let mut rows = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            let seen = run.sequence.len();
            self.check(run.tokens, seen)?;
            if !run.sequence.is_held_for(self.compute) {
                return Err(EngineError::Request("the sequence was begun on another device"));
            }
            rows.extend((seen..seen + run.tokens.len()).map(|position| Row { run: index, position }));
        }
        Ok(rows)
    }

    /// Whether these tokens can follow `seen` others.
    pub(crate) fn check(&self, tokens: &[u32], seen: usize) -> Result<(), EngineError> {
        let context = self.config.context_length;
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if seen + tokens.len() > context {
            return Err(EngineError::PromptTooLong { tokens: seen + tokens.len(), context: context as u32 });
        }
        match tokens.iter().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(&id) => Err(EngineError::UnknownToken(id)),
            None => Ok(()),
        }
    }
}

/// Radians per position of each rotary pair, lowered by the factors that a GGUF file may carry.
fn frequencies<R: Read + Seek>(
    weights: &mut Weights<'_, R>,
    config: &DecoderConfig,
) -> Result<Vec<f64>, LoadError> {
    let mut frequencies = config.frequencies();
    if weights.has("rope_freqs.weight") {
        let factors = weights.vector("rope_freqs.weight", frequencies.len())?.to_vec1::<f32>()?;
        if !factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
            return Err(LoadError::Unsupported("a rotary factor is not positive".to_owned()));
        }
        frequencies.iter_mut().zip(factors).for_each(|(frequency, factor)| *frequency /= f64::from(factor));
    }
    Ok(frequencies)
}
