//! How a text is cut into words before merges are applied within them.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::{TokenizerError, malformed};

/// Words of Llama 3: at most three digits at a time.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words of Qwen2 and Qwen3: each digit by itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whose words a text is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pre {
    /// GPT-2's.
    Gpt2,
    /// Llama 3's.
    Llama3,
    /// Qwen2's, which Qwen3 has too.
    Qwen2,
}

impl Pre {
    /// By the name that llama.cpp gives it in GGUF's `tokenizer.ggml.pre`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "gpt-2" => Some(Self::Gpt2),
            "llama-bpe" | "llama3" | "llama-v3" => Some(Self::Llama3),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        }
    }

    /// By the pattern in a `tokenizer.json`.
    pub(super) fn of_pattern(pattern: &str) -> Option<Self> {
        match pattern {
            LLAMA3 => Some(Self::Llama3),
            QWEN2 => Some(Self::Qwen2),
            _ => None,
        }
    }

    /// Whether a word that is a token is that token, whatever the merges say.
    pub(super) fn takes_whole_words(self) -> bool {
        self == Self::Llama3
    }

    pub(super) fn build(self) -> Result<PreTokenizerWrapper, TokenizerError> {
        let pattern = match self {
            Self::Gpt2 => return Ok(ByteLevel::new(false, false, true).into()),
            Self::Llama3 => LLAMA3,
            Self::Qwen2 => QWEN2,
        };
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|error| malformed(error.to_string()))?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()]).into())
    }
}
