//! GGUF metadata, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::{Read, Seek};

use super::{Architecture, DecoderConfig, RotaryPairs, unsupported};
use crate::LoadError;
use crate::gguf::{Gguf, GgufError};

impl DecoderConfig {
    pub(crate) fn from_metadata<R: Read + Seek>(gguf: &Gguf<R>) -> Result<Self, LoadError> {
        let name = gguf.str("general.architecture")?;
        let architecture = Architecture::named(name).ok_or_else(|| unsupported("architecture", name))?;
        let keys = Keys { gguf, architecture: name };
        if let Some(scaling) = gguf.optional_str(&keys.key("rope.scaling.type"))?
            && scaling != "none"
        {
            return Err(unsupported("rope scaling", scaling));
        }
        let width = keys.number("embedding_length")?;
        let heads = keys.number("attention.head_count")?;
        let rms_key = keys.key("attention.layer_norm_rms_epsilon");
        let rms_epsilon = gguf.optional_f32(&rms_key)?.ok_or(GgufError::Metadata(rms_key))?;
        let base = gguf.optional_f32(&keys.key("rope.freq_base"))?;
        Self {
            architecture,
            layers: keys.number("block_count")?,
            width,
            hidden: keys.number("feed_forward_length")?,
            heads,
            kv_heads: keys.optional("attention.head_count_kv")?.unwrap_or(heads),
            head_width: keys.head_width(width, heads)?,
            context_length: keys.number("context_length")?,
            vocab_size: gguf.strings("tokenizer.ggml.tokens")?.len(),
            rms_epsilon,
            rope_base: base.map_or(10_000.0, f64::from),
            rope_pairs: match architecture {
                Architecture::Llama => RotaryPairs::Neighbours,
                Architecture::Qwen2 | Architecture::Qwen3 => RotaryPairs::Halves,
            },
            rope_scaling: None,
            tied: false,
        }
        .checked()
    }
}

/// The metadata under the architecture's name.
struct Keys<'a, R> {
    gguf: &'a Gguf<R>,
    architecture: &'a str,
}

impl<R: Read + Seek> Keys<'_, R> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn optional(&self, key: &str) -> Result<Option<usize>, LoadError> {
        Ok(self.gguf.optional_u32(&self.key(key))?.map(|found| found as usize))
    }

    fn number(&self, key: &str) -> Result<usize, LoadError> {
        Ok(self.gguf.u32(&self.key(key))? as usize)
    }

    /// Keys, values and what turns of them have one width, by default what the heads divide the width into.
    fn head_width(&self, width: usize, heads: usize) -> Result<usize, LoadError> {
        let widths = ["attention.key_length", "attention.value_length", "rope.dimension_count"];
        let stated = widths.map(|key| self.optional(key));
        let [key, value, turned] = stated;
        let (key, value, turned) = (key?, value?, turned?);
        let head_width = match key {
            Some(key) => key,
            None if heads > 0 && width.is_multiple_of(heads) => width / heads,
            None => return Err(unsupported("number of heads", &heads.to_string())),
        };
        match [value, turned].into_iter().flatten().find(|&other| other != head_width) {
            Some(other) => Err(unsupported("width of a head", &format!("{head_width} and {other}"))),
            None => Ok(head_width),
        }
    }
}
