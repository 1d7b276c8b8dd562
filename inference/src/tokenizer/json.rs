//! Byte-level BPE from a `tokenizer.json`, as the library `tokenizers` writes it.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Pre, Tokenizer, TokenizerError, Vocabulary, malformed};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

#[derive(Deserialize)]
struct Json {
    model: Bpe,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Value,
    post_processor: Option<Value>,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Text(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    special: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that a `tokenizer.json` describes for a model with so many token ids, of which `eos` ends a text.
    ///
    /// It must be byte-level BPE with the words of GPT-2, Llama 3 or Qwen2. A text is taken as it is: where the file asks
    /// for normal form C, texts that have another get other tokens, and survive.
    pub fn from_json(json: &[u8], vocab_size: u32, eos: Option<u32>) -> Result<Self, TokenizerError> {
        let json: Json = serde_json::from_slice(json).map_err(|error| malformed(error.to_string()))?;
        let pre = json.pre()?;
        if json.model.byte_fallback {
            return Err(unsupported("bytes", "byte_fallback", "byte-level BPE"));
        }
        if let Some(kind) = kind(json.normalizer.as_ref()).filter(|kind| *kind != "NFC") {
            return Err(unsupported("normalizer", kind, "NFC"));
        }
        let bos = json.bos();
        let merges: Vec<String> = json.model.merges.into_iter().map(Merge::text).collect();
        let mut tokens = vec![(String::new(), UNUSED); vocab_size.min(crate::MAX_VOCAB_SIZE) as usize];
        let added = json.added_tokens.into_iter();
        let added =
            added.map(|added| (added.content, added.id, if added.special { CONTROL } else { USER_DEFINED }));
        let normal = json.model.vocab.into_iter().map(|(token, id)| (token, id, NORMAL));
        // Those that were added last, as some files list them in both places.
        for (token, id, kind) in normal.chain(added) {
            let place = tokens.get_mut(id as usize);
            *place.ok_or_else(|| malformed(format!("token {id} is outside the vocabulary")))? = (token, kind);
        }
        Self::new(&Vocabulary {
            tokens: tokens.iter().map(|(token, _)| token.as_str()).collect(),
            merges: merges.iter().map(String::as_str).collect(),
            types: tokens.iter().map(|(_, kind)| *kind).collect(),
            eos,
            bos,
            pre,
        })
    }
}

impl Merge {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

impl Json {
    fn pre(&self) -> Result<Pre, TokenizerError> {
        let words = &self.pre_tokenizer;
        let found = match kind(Some(words)) {
            Some("ByteLevel") if words["use_regex"] != false && words["add_prefix_space"] != true => {
                Some(Pre::Gpt2)
            }
            Some("Sequence") => words
                .pointer("/pretokenizers/0/pattern/Regex")
                .and_then(Value::as_str)
                .and_then(Pre::of_pattern),
            _ => None,
        };
        found.ok_or_else(|| unsupported("words", &words.to_string(), "those of GPT-2, Llama 3 and Qwen2 are"))
    }

    /// The token that the file puts before every text.
    fn bos(&self) -> Option<u32> {
        let mut steps = self.post_processor.iter().flat_map(|step| match step["processors"].as_array() {
            Some(steps) => steps.iter().collect(),
            None => vec![step],
        });
        let name =
            steps.find_map(|step| step.pointer("/single/0/SpecialToken/id").and_then(Value::as_str))?;
        self.added_tokens.iter().find(|added| added.content == name).map(|added| added.id)
    }
}

fn kind(step: Option<&Value>) -> Option<&str> {
    step?["type"].as_str()
}

fn unsupported(what: &'static str, found: &str, supported: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { what, found: found.chars().take(64).collect(), supported }
}
