//! The shape of a model, from GGUF metadata or from a `config.json`.

mod gguf;
mod json;

use crate::{LoadError, MAX_CONTEXT_LENGTH, MAX_VOCAB_SIZE};

pub use self::json::MAX_CONFIG_BYTES;

const MAX_LAYERS: usize = 256;
const MAX_WIDTH: usize = 1 << 16;
const MAX_HEADS: usize = 1 << 10;
const MAX_HEAD_WIDTH: usize = 1 << 10;

/// Whose layout the weights have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3, <https://arxiv.org/abs/2407.21783>.
    Llama,
    /// Llama with biases on queries, keys and values, <https://arxiv.org/abs/2407.10671>.
    Qwen2,
    /// Llama with norms on queries and keys, <https://arxiv.org/abs/2505.09388>.
    Qwen3,
}

impl Architecture {
    /// The architecture of this name in GGUF files, manifests and as `model_type` of a `config.json`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// That name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Which two numbers of a head turn together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryPairs {
    /// `2i` and `2i + 1`: llama.cpp permutes the rows of Llama's query and key weights for it.
    Neighbours,
    /// `i` and `i + head_width / 2`: everybody else.
    Halves,
}

/// Frequencies lowered for contexts longer than those trained on, as in Llama 3.1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// By what low frequencies are divided.
    pub factor: f64,
    /// Wavelengths above `original_context / low_frequency` are divided by the whole factor.
    pub low_frequency: f64,
    /// Wavelengths below `original_context / high_frequency` stay.
    pub high_frequency: f64,
    /// Positions trained on.
    pub original_context: f64,
}

/// The shape of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecoderConfig {
    /// Whose layout the weights have.
    pub architecture: Architecture,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_width: usize,
    /// Most positions.
    pub context_length: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Added to the mean square in norms.
    pub rms_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Which numbers turn together.
    pub rope_pairs: RotaryPairs,
    /// How the frequencies are lowered; GGUF files carry the result as a tensor instead.
    pub rope_scaling: Option<Llama3Scaling>,
    /// Whether the output matrix is the embedding, even if the file has another.
    pub tied: bool,
}

impl DecoderConfig {
    fn checked(self) -> Result<Self, LoadError> {
        let limits = [
            ("number of layers", self.layers, MAX_LAYERS),
            ("width", self.width, MAX_WIDTH),
            ("width of the feed-forward", self.hidden, 4 * MAX_WIDTH),
            ("number of heads", self.heads, MAX_HEADS),
            ("number of key and value heads", self.kv_heads, MAX_HEADS),
            ("width of a head", self.head_width, MAX_HEAD_WIDTH),
            ("context length", self.context_length, MAX_CONTEXT_LENGTH as usize),
            ("vocabulary size", self.vocab_size, MAX_VOCAB_SIZE as usize),
        ];
        for (what, found, max) in limits {
            if !(1..=max).contains(&found) {
                return Err(unsupported(what, &found.to_string()));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(unsupported("number of heads", &format!("{} and {}", self.heads, self.kv_heads)));
        }
        if !self.head_width.is_multiple_of(2) {
            return Err(unsupported("width of a head", &self.head_width.to_string()));
        }
        if !(self.rms_epsilon >= 0.0 && self.rope_base.is_finite() && self.rope_base > 0.0) {
            return Err(unsupported("rope base", &self.rope_base.to_string()));
        }
        Ok(self)
    }

    /// Radians per position of each rotary pair, `head_width / 2` of them.
    pub(super) fn frequencies(&self) -> Vec<f64> {
        let plain = |pair: usize| self.rope_base.powf(-2.0 * pair as f64 / self.head_width as f64);
        let scaled = |frequency: f64| self.rope_scaling.map_or(frequency, |scaling| scaling.scale(frequency));
        (0..self.head_width / 2).map(plain).map(scaled).collect()
    }

    pub(super) fn query_width(&self) -> usize {
        self.heads * self.head_width
    }

    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = std::f64::consts::TAU / frequency;
        let turns = self.original_context / wavelength;
        let kept =
            ((turns - self.low_frequency) / (self.high_frequency - self.low_frequency)).clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / self.factor)
    }
}

fn unsupported(what: &str, found: &str) -> LoadError {
    let found: String = found.chars().take(64).collect();
    LoadError::Unsupported(format!("{what} {found:?} is not supported"))
}
