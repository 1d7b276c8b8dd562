//! Byte-level BPE from a GGUF file's metadata or a `tokenizer.json`: text to token ids and back, without the model's weights.

mod json;
mod pre;

use std::collections::HashMap;
use std::io::{Read, Seek};
use std::sync::Arc;

use thiserror::Error;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

pub(crate) use self::pre::Pre;
use crate::gguf::{Gguf, GgufError};
use crate::manifest::MAX_VOCAB_SIZE;

/// The longest text that is tokenised, in bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

const NORMAL: i32 = 1;
const USER_DEFINED: i32 = 4;

/// Why a tokenizer cannot be built or a text cannot be tokenised.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// The file is not usable GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file's tokenizer is of a kind that is not supported.
    #[error("the tokenizer's {what} is {found:?}, only {supported:?} is supported")]
    Unsupported {
        /// Which setting.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What would be supported.
        supported: &'static str,
    },
    /// The vocabulary or the merges contradict themselves.
    #[error("the tokenizer is malformed: {0}")]
    Malformed(String),
    /// The text is longer than [`MAX_TEXT_BYTES`].
    #[error("the text has {0} bytes, at most {MAX_TEXT_BYTES} can be tokenised")]
    TooLong(usize),
}

/// A byte-level BPE tokenizer as GPT-2 defined it; a clone is a pointer.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    bpe: tokenizers::Tokenizer,
    pieces: Vec<Vec<u8>>,
    eos: Option<u32>,
    bos: Option<u32>,
}

/// A vocabulary as GGUF stores it.
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokens: Vec<&'a str>,
    pub(crate) merges: Vec<&'a str>,
    pub(crate) types: Vec<i32>,
    pub(crate) eos: Option<u32>,
    pub(crate) bos: Option<u32>,
    pub(crate) pre: Pre,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.0.pieces.len())
    }
}

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes; no weights are read.
    ///
    /// `tokenizer.ggml.model` must be `gpt2`, and `tokenizer.ggml.pre` that of GPT-2, Llama 3 or Qwen2.
    pub fn from_gguf(reader: &mut (impl Read + Seek)) -> Result<Self, TokenizerError> {
        Self::from_metadata(&Gguf::open(reader)?)
    }

    pub(crate) fn from_metadata<R: Read + Seek>(gguf: &Gguf<R>) -> Result<Self, TokenizerError> {
        supported("model", gguf.str("tokenizer.ggml.model")?, "gpt2")?;
        let name = gguf.str("tokenizer.ggml.pre")?;
        let pre = Pre::named(name).ok_or_else(|| TokenizerError::Unsupported {
            what: "pre",
            found: name.chars().take(64).collect(),
            supported: "gpt-2, llama-bpe and qwen2",
        })?;
        let bos = gguf.optional_u32("tokenizer.ggml.bos_token_id")?;
        let add_bos = gguf.optional_bool("tokenizer.ggml.add_bos_token")?;
        Self::new(&Vocabulary {
            tokens: gguf.strings("tokenizer.ggml.tokens")?,
            merges: gguf.strings("tokenizer.ggml.merges")?,
            types: gguf.i32s("tokenizer.ggml.token_type")?,
            eos: gguf.optional_u32("tokenizer.ggml.eos_token_id")?,
            bos: bos.filter(|_| add_bos == Some(true)),
            pre,
        })
    }

    pub(crate) fn new(vocabulary: &Vocabulary<'_>) -> Result<Self, TokenizerError> {
        let Vocabulary { tokens, types, .. } = vocabulary;
        check_vocabulary(vocabulary)?;
        let bytes_of = bytes_of_chars();
        let mut ids = HashMap::new();
        let mut pieces = Vec::with_capacity(tokens.len());
        for (id, (token, kind)) in (0u32..).zip(tokens.iter().zip(types)) {
            pieces.push(piece(token, *kind, &bytes_of)?);
            if *kind == NORMAL && ids.insert((*token).to_owned(), id).is_some() {
                return Err(malformed(format!("token {token:?} occurs twice")));
            }
        }
        if !bytes_of.keys().all(|c| ids.contains_key(c.encode_utf8(&mut [0; 4]) as &str)) {
            return Err(malformed("not every byte has a token".into()));
        }
        let merges = split_merges(&vocabulary.merges, &ids)?;
        let bpe = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<Vocab>(), merges)
            .cache_capacity(0)
            .ignore_merges(vocabulary.pre.takes_whole_words())
            .build()
            .map_err(|error| malformed(error.to_string()))?;
        let mut bpe = tokenizers::Tokenizer::new(bpe);
        bpe.with_pre_tokenizer(Some(vocabulary.pre.build()?));
        Ok(Self(Arc::new(Inner { bpe, pieces, eos: vocabulary.eos, bos: vocabulary.bos })))
    }

    /// The token ids of a text, without a beginning-of-text token; the names of control tokens are plain text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TooLong(text.len()));
        }
        let encoding = self.0.bpe.encode_fast(text, false);
        let encoding = encoding.map_err(|error| malformed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token ids that the model is to be given for a text: [`Tokenizer::bos`], if any, and [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids: Vec<u32> = self.0.bos.into_iter().collect();
        ids.extend(self.encode(text)?);
        Ok(ids)
    }

    /// The bytes of a sequence of tokens; control tokens and ids outside the vocabulary have none.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.piece(id)).copied().collect()
    }

    /// The bytes of one token, which may be part of a UTF-8 character; empty as in [`Tokenizer::decode`].
    pub fn piece(&self, id: u32) -> &[u8] {
        self.0.pieces.get(id as usize).map_or(&[], Vec::as_slice)
    }

    /// Number of token ids; valid ids are below it.
    pub fn vocab_size(&self) -> u32 {
        self.0.pieces.len() as u32
    }

    /// The token that ends a text, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    /// The token that every prompt begins with, if the model wants one.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }
}

fn supported(what: &'static str, found: &str, supported: &'static str) -> Result<(), TokenizerError> {
    if found == supported {
        return Ok(());
    }
    Err(TokenizerError::Unsupported { what, found: found.chars().take(64).collect(), supported })
}

fn malformed(why: String) -> TokenizerError {
    TokenizerError::Malformed(why)
}

fn check_vocabulary(vocabulary: &Vocabulary<'_>) -> Result<(), TokenizerError> {
    let size = vocabulary.tokens.len();
    if size > MAX_VOCAB_SIZE as usize || vocabulary.types.len() != size {
        return Err(malformed(format!("{size} tokens and {} token types", vocabulary.types.len())));
    }
    let mut special = vocabulary.eos.into_iter().chain(vocabulary.bos);
    match special.find(|&id| id as usize >= size) {
        Some(id) => Err(malformed(format!("token {id} is outside the vocabulary"))),
        None => Ok(()),
    }
}

fn piece(token: &str, kind: i32, bytes_of: &HashMap<char, u8>) -> Result<Vec<u8>, TokenizerError> {
    match kind {
        NORMAL => token
            .chars()
            .map(|c| bytes_of.get(&c).copied())
            .collect::<Option<_>>()
            .filter(|bytes: &Vec<u8>| !bytes.is_empty())
            .ok_or_else(|| malformed(format!("token {token:?} is not made of bytes"))),
        USER_DEFINED => Ok(token.as_bytes().to_vec()),
        _ => Ok(Vec::new()),
    }
}

fn split_merges(merges: &[&str], ids: &HashMap<String, u32>) -> Result<Merges, TokenizerError> {
    let split = |merge: &&str| {
        let known = |text: &str| ids.contains_key(text);
        match merge.split_once(' ') {
            Some((left, right)) if known(left) && known(right) && known(&[left, right].concat()) => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(malformed(format!("merge {merge:?} is not of known tokens"))),
        }
    };
    merges.iter().map(split).collect()
}

/// GPT-2's printable stand-ins: bytes that print stand for themselves, the others for U+0100 onward in order.
pub(crate) fn chars_of_bytes() -> [char; 256] {
    let mut next = 0x100u16;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(u32::from(next) - 1).expect("U+0100 to U+0143 are characters")
    })
}

fn bytes_of_chars() -> HashMap<char, u8> {
    chars_of_bytes().into_iter().zip(0u8..=255).collect()
}
