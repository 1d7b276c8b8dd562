//! Manifests of weights that come without one.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;

use crate::decoder::DecoderConfig;
use crate::gguf::Gguf;
use crate::open::eos;
use crate::safetensors::Safetensors;
use crate::{LoadError, MAX_EMBED_TOKENS, Manifest, ModelFile, SHARD_INDEX, ShardIndex, Tokenizer, Workload};

/// Candidates of each position that a transcript records, where nobody has said otherwise.
const TOP_K: u32 = 16;
/// Work units of a prompt token and of an output token, likewise.
const WEIGHT_IN: u32 = 1;
const WEIGHT_OUT: u32 = 4;
const BERT: &str = "bert";
/// The tokens at which sentence-transformers cuts a text.
const SENTENCE_CONFIG: &str = "sentence_bert_config.json";

/// Files of a model, from which its manifest is made.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// What jobs are to call it.
    pub name: &'a str,
    /// Where the files are.
    pub folder: &'a Path,
    /// The weights: GGUF or safetensors; of several files the first.
    pub weights: ModelFile,
    /// The others of them.
    pub shards: Vec<ModelFile>,
    /// What belongs to safetensors: `config.json` and `tokenizer.json`, and the index of several files.
    pub files: Vec<ModelFile>,
    /// SPDX expression of the licence, if it is known; else what the weights say of it.
    pub licence: Option<String>,
}

/// What is read of a `config.json`.
#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

#[derive(Deserialize)]
struct Bert {
    hidden_size: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
}

#[derive(Deserialize)]
struct Sentences {
    max_seq_length: Option<u32>,
}

impl Manifest {
    /// Makes the manifest of files that have none, from what they say of themselves: headers, configuration and tokenizer
    /// are read, weights are not. Numbers that no file states are those of the built-in model, and no tolerance is stated.
    pub fn describe(found: Found<'_>) -> Result<Self, LoadError> {
        if !found.shards.is_empty() {
            check_index(&found)?;
        }
        let manifest = match found.weights.file.ends_with(".gguf") {
            true => of_gguf(found)?,
            false => of_safetensors(found)?,
        };
        // What is made here has to pass where it is read.
        let json = serde_json::to_string(&manifest).map_err(|error| LoadError::Prepare(error.to_string()))?;
        Ok(Self::from_json(&json)?)
    }

    fn plain(found: Found<'_>, workload: Workload, architecture: String) -> Self {
        Self {
            name: found.name.to_owned(),
            workload,
            file: found.weights.file,
            size: found.weights.size,
            blake3: found.weights.blake3,
            shards: found.shards,
            files: found.files,
            architecture,
            context_length: 0,
            vocab_size: 0,
            top_k: 0,
            dimensions: 0,
            weight_in: WEIGHT_IN,
            weight_out: WEIGHT_OUT,
            licence: found.licence.unwrap_or_else(|| "LicenseRef-unknown".to_owned()),
            tolerance: None,
        }
    }
}

/// Whether the index of several files says of each tensor where it is; of the files the headers are read.
fn check_index(found: &Found<'_>) -> Result<(), LoadError> {
    let names: Vec<&str> =
        std::iter::once(&found.weights).chain(&found.shards).map(|file| file.file.as_str()).collect();
    let open = |name: &&str| {
        let file = File::open(found.folder.join(name)).map_err(|error| unusable(name, &error))?;
        Ok::<_, LoadError>(BufReader::new(file))
    };
    let files = Safetensors::open(names.iter().map(open).collect::<Result<_, _>>()?)?;
    Ok(ShardIndex::from_json(&read(found, SHARD_INDEX)?)?.check(&names, &files)?)
}

fn of_gguf(mut found: Found<'_>) -> Result<Manifest, LoadError> {
    let path = found.folder.join(&found.weights.file);
    let file = File::open(&path).map_err(|error| LoadError::Prepare(error.to_string()))?;
    let gguf = Gguf::open(BufReader::new(file))?;
    let architecture = gguf.str("general.architecture")?.to_owned();
    let shape = DecoderConfig::from_metadata(&gguf)?;
    // One that cannot be read now is no use later.
    Tokenizer::from_metadata(&gguf)?;
    if found.licence.is_none() {
        found.licence = gguf.optional_str("general.license")?.map(spdx);
    }
    let (context_length, vocab_size) = (size(shape.context_length), size(shape.vocab_size));
    let top_k = TOP_K.min(vocab_size);
    Ok(Manifest {
        context_length,
        vocab_size,
        top_k,
        ..Manifest::plain(found, Workload::LlmGen, architecture)
    })
}

fn of_safetensors(found: Found<'_>) -> Result<Manifest, LoadError> {
    let Kind { model_type } = read_json(&found, "config.json")?;
    match model_type == BERT {
        true => of_bert(found),
        false => of_decoder(found),
    }
}

fn of_decoder(found: Found<'_>) -> Result<Manifest, LoadError> {
    let config = read(&found, "config.json")?;
    let shape = DecoderConfig::from_json(&config)?;
    let architecture = shape.architecture.name().to_owned();
    let (context_length, vocab_size) = (size(shape.context_length), size(shape.vocab_size));
    Tokenizer::from_json(&read(&found, "tokenizer.json")?, vocab_size, eos(&config)?)?;
    let top_k = TOP_K.min(vocab_size);
    Ok(Manifest {
        context_length,
        vocab_size,
        top_k,
        ..Manifest::plain(found, Workload::LlmGen, architecture)
    })
}

fn size(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn of_bert(found: Found<'_>) -> Result<Manifest, LoadError> {
    let config: Bert = read_json(&found, "config.json")?;
    let stated = match found.files.iter().any(|file| file.file == SENTENCE_CONFIG) {
        true => read_json::<Sentences>(&found, SENTENCE_CONFIG)?.max_seq_length,
        false => None,
    };
    let longest = config.max_position_embeddings.min(MAX_EMBED_TOKENS);
    let context_length = stated.map_or(longest, |stated| stated.min(longest));
    let (vocab_size, dimensions) = (config.vocab_size, config.hidden_size);
    Ok(Manifest {
        context_length,
        vocab_size,
        dimensions,
        weight_out: WEIGHT_IN,
        ..Manifest::plain(found, Workload::Embed, BERT.to_owned())
    })
}

fn read_json<T: for<'a> Deserialize<'a>>(found: &Found<'_>, file: &str) -> Result<T, LoadError> {
    serde_json::from_slice(&read(found, file)?).map_err(|error| unusable(file, &error))
}

fn read(found: &Found<'_>, file: &str) -> Result<Vec<u8>, LoadError> {
    std::fs::read(found.folder.join(file)).map_err(|error| unusable(file, &error))
}

fn unusable(file: &str, why: &dyn std::fmt::Display) -> LoadError {
    LoadError::Unsupported(format!("the {file} is not usable: {why}"))
}

/// An SPDX expression for how hubs of models name a licence.
pub fn spdx(licence: &str) -> String {
    let known =
        [("apache-2.0", "Apache-2.0"), ("mit", "MIT"), ("cc0-1.0", "CC0-1.0"), ("cc-by-4.0", "CC-BY-4.0")];
    let named = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(licence));
    named.map_or_else(|| reference(licence), |(_, spdx)| (*spdx).to_owned())
}

/// A licence that SPDX has no name for.
fn reference(licence: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '-' };
    format!("LicenseRef-{}", licence.chars().take(64).map(plain).collect::<String>())
}
