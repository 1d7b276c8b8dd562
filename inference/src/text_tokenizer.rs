//! Tokenizers of models that embed or paint: a `tokenizer.json` as the library `tokenizers` defines it.

use std::sync::Arc;

use tokenizers::{TruncationParams, TruncationStrategy};

use crate::{MAX_TEXT_BYTES, TokenizerError};

/// The tokenizer of a model that embeds or paints, which only goes from text to token ids; a clone is a pointer.
#[derive(Debug, Clone)]
pub struct TextTokenizer(Arc<tokenizers::Tokenizer>);

impl TextTokenizer {
    /// Reads a `tokenizer.json`; texts are cut at `max_tokens`, special tokens included, and are not padded, whatever the
    /// file says of both. Its ids must be below `vocab_size`.
    pub fn from_json(json: &[u8], max_tokens: u32, vocab_size: u32) -> Result<Self, TokenizerError> {
        let malformed = |error: tokenizers::Error| TokenizerError::Malformed(error.to_string());
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(malformed)?;
        let size = tokenizer.get_vocab_size(true);
        if size > vocab_size as usize {
            return Err(TokenizerError::Malformed(format!("{size} tokens, the model has {vocab_size}")));
        }
        let truncation = TruncationParams {
            max_length: max_tokens as usize,
            strategy: TruncationStrategy::LongestFirst,
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(malformed)?;
        tokenizer.with_padding(None);
        Ok(Self(Arc::new(tokenizer)))
    }

    /// The token ids of a text, with the special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TooLong(text.len()));
        }
        let encoding = self.0.encode_fast(text, true);
        let encoding = encoding.map_err(|error| TokenizerError::Malformed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}
