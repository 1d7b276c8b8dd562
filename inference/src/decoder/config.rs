//! The shape of a Llama model.

use std::io::{Read, Seek};

use crate::gguf::{Gguf, GgufError};
use crate::{LoadError, MAX_CONTEXT_LENGTH, MAX_VOCAB_SIZE};

const MAX_LAYERS: u32 = 256;
const MAX_WIDTH: u32 = 1 << 16;
const MAX_HEADS: u32 = 1 << 10;

/// The shape of a Llama model, from GGUF metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LlamaConfig {
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
    pub rope_base: f32,
}

impl LlamaConfig {
    pub(super) fn from_metadata<R: Read + Seek>(gguf: &Gguf<R>) -> Result<Self, LoadError> {
        let architecture = gguf.str("general.architecture")?;
        if architecture != "llama" {
            return Err(unsupported("architecture", architecture));
        }
        if let Some(scaling) = gguf.optional_str("llama.rope.scaling.type")?
            && scaling != "none"
        {
            return Err(unsupported("rope scaling", scaling));
        }
        let number = |key: &str, max: u32| bounded(key, gguf.u32(key)?, max);
        let width = number("llama.embedding_length", MAX_WIDTH)?;
        let heads = number("llama.attention.head_count", MAX_HEADS)?;
        let kv_heads = match gguf.optional_u32("llama.attention.head_count_kv")? {
            Some(found) => bounded("llama.attention.head_count_kv", found, MAX_HEADS)?,
            None => heads,
        };
        let config = Self {
            layers: number("llama.block_count", MAX_LAYERS)?,
            width,
            hidden: number("llama.feed_forward_length", 4 * MAX_WIDTH)?,
            heads,
            kv_heads,
            head_width: width / heads,
            context_length: number("llama.context_length", MAX_CONTEXT_LENGTH)?,
            vocab_size: bounded(
                "tokens",
                gguf.strings("tokenizer.ggml.tokens")?.len() as u32,
                MAX_VOCAB_SIZE,
            )?,
            rms_epsilon: gguf
                .optional_f32("llama.attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| GgufError::Metadata("llama.attention.layer_norm_rms_epsilon".into()))?,
            rope_base: gguf.optional_f32("llama.rope.freq_base")?.unwrap_or(10_000.0),
        };
        config.check_heads(gguf)?;
        Ok(config)
    }

    fn check_heads<R: Read + Seek>(&self, gguf: &Gguf<R>) -> Result<(), LoadError> {
        let whole = self.heads * self.head_width == self.width && self.heads.is_multiple_of(self.kv_heads);
        if !whole || !self.head_width.is_multiple_of(2) {
            return Err(unsupported("number of heads", &format!("{} and {}", self.heads, self.kv_heads)));
        }
        let same_width =
            ["llama.rope.dimension_count", "llama.attention.key_length", "llama.attention.value_length"];
        for key in same_width {
            if let Some(found) = gguf.optional_u32(key)?
                && found as usize != self.head_width
            {
                return Err(unsupported(key, &found.to_string()));
            }
        }
        Ok(())
    }
}

fn unsupported(what: &str, found: &str) -> LoadError {
    let found: String = found.chars().take(64).collect();
    LoadError::Unsupported(format!("{what} {found:?} is not supported"))
}

fn bounded(key: &str, found: u32, max: u32) -> Result<usize, LoadError> {
    if (1..=max).contains(&found) {
        return Ok(found as usize);
    }
    Err(unsupported(key, &found.to_string()))
}
