//! What a text model consists of, from either kind of file: GGUF, or safetensors with `config.json` and `tokenizer.json`.

use serde::Deserialize;
use serde_json::Value;

use crate::decoder::DecoderConfig;
use crate::gguf::Gguf;
use crate::safetensors::Safetensors;
use crate::{Compute, Decoder, LoadError, Model, ModelReader, SHARD_INDEX, ShardIndex, Tokenizer};

/// What a `config.json` says of the end of a text.
#[derive(Deserialize)]
struct Ends {
    eos_token_id: Option<Value>,
}

impl Model {
    /// The model's tokenizer, from files that equal the manifest, without loading the weights.
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        if self.manifest.is_gguf() {
            return Ok(Tokenizer::from_gguf(&mut self.open()?)?);
        }
        let eos = eos(&self.file("config.json")?)?;
        Ok(Tokenizer::from_json(&self.file("tokenizer.json")?, self.manifest.vocab_size, eos)?)
    }

    /// The model's weights in memory, from files that equal the manifest; computed as suits their number, or as stated.
    ///
    /// Weights over `max_bytes` are refused before they are read.
    pub fn decoder(&self, compute: Option<Compute>, max_bytes: Option<u64>) -> Result<Decoder, LoadError> {
        if self.manifest.is_gguf() {
            let mut gguf = Gguf::open(self.open()?)?;
            let compute = compute.unwrap_or_else(|| Compute::for_parameters(gguf.parameters()));
            return Decoder::load_gguf(&mut gguf, compute, max_bytes);
        }
        let config = DecoderConfig::from_json(&self.file("config.json")?)?;
        Decoder::load_safetensors(config, &mut self.safetensors()?, compute, max_bytes)
    }

    /// The tensors of the weights, from files that equal the manifest; of several files each is where their index says.
    fn safetensors(&self) -> Result<Safetensors<ModelReader>, LoadError> {
        let files = Safetensors::open(self.open_all()?)?;
        if !self.manifest.shards.is_empty() {
            let names: Vec<&str> = self.manifest.weight_files().map(|(name, ..)| name).collect();
            ShardIndex::from_json(&self.file(SHARD_INDEX)?)?.check(&names, &files)?;
        }
        Ok(files)
    }
}

/// The weights in memory, computed as suits their number or as stated, and the tokenizer; the weights' digest is compared
/// once.
pub(crate) fn load(
    model: &Model,
    compute: Option<Compute>,
    max_bytes: Option<u64>,
) -> Result<(Decoder, Tokenizer), LoadError> {
    if !model.manifest.is_gguf() {
        return Ok((model.decoder(compute, max_bytes)?, model.tokenizer()?));
    }
    let mut gguf = Gguf::open(model.open()?)?;
    let tokenizer = Tokenizer::from_metadata(&gguf)?;
    let compute = compute.unwrap_or_else(|| Compute::for_parameters(gguf.parameters()));
    Ok((Decoder::load_gguf(&mut gguf, compute, max_bytes)?, tokenizer))
}

/// The token that ends a text; of several the last, which in models for conversations ends a turn.
pub(crate) fn eos(config: &[u8]) -> Result<Option<u32>, LoadError> {
    let ends: Ends = serde_json::from_slice(config)
        .map_err(|error| LoadError::Unsupported(format!("the config.json is not usable: {error}")))?;
    let last = match &ends.eos_token_id {
        Some(Value::Array(ids)) => ids.last(),
        other => other.as_ref(),
    };
    Ok(last.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()))
}
