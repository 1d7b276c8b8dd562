//! What a model is: a manifest that names its weights by size and digest, and the weights.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{LoadError, MAX_COST, MAX_SAFETENSORS_FILES, TextTokenizer};

/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 64 * 1024;
/// The largest file of weights that a manifest may name, in bytes.
pub const MAX_MODEL_BYTES: u64 = 1 << 40;
/// The longest context that a manifest may state, in tokens.
pub const MAX_CONTEXT_LENGTH: u32 = 1 << 17;
/// The largest vocabulary that a manifest may state, in tokens.
pub const MAX_VOCAB_SIZE: u32 = 1 << 18;
/// The most candidates per position that a manifest may ask for.
pub const MAX_TOP_K: u32 = 256;

/// The most files that a manifest may name beside the weights.
pub const MAX_MODEL_FILES: usize = 16;
/// The largest of them, in bytes.
pub const MAX_MODEL_FILE_BYTES: u64 = 64 << 20;
/// The most files that weights may be cut into, beside the first.
pub const MAX_MODEL_SHARDS: usize = MAX_SAFETENSORS_FILES - 1;
/// The file that says which tensor lies in which, where weights were cut into several files.
pub const SHARD_INDEX: &str = "model.safetensors.index.json";
/// The most numbers of an embedding vector.
pub const MAX_DIMENSIONS: u32 = 1024;
/// The most tokens of a text that is embedded, and of a picture's prompt.
pub const MAX_EMBED_TOKENS: u32 = 512;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    /// Text by a language model.
    #[default]
    LlmGen,
    /// Embedding vectors.
    Embed,
    /// Pictures by a diffusion model.
    SdInfer,
    /// A matrix-product benchmark, which has no weights.
    TorchBench,
}

impl Workload {
    /// Its name in manifests and jobs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlmGen => "llm_gen",
            Self::Embed => "embed",
            Self::SdInfer => "sd_infer",
            Self::TorchBench => "torch_bench",
        }
    }

    fn is_text(&self) -> bool {
        *self == Self::LlmGen
    }
}

/// A further file of a model: of its weights, or beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Its name, without folders.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its blake3 digest, 64 lower-case hex digits.
    pub blake3: String,
}

/// The description of a model by which everybody means the same weights and the same price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What jobs call the model.
    pub name: String,
    /// What it is for; where a manifest says nothing, text.
    #[serde(default, skip_serializing_if = "Workload::is_text")]
    pub workload: Workload,
    /// Name of the weights' file beside the manifest, without folders; of several the first.
    pub file: String,
    /// Size of that file in bytes.
    pub size: u64,
    /// blake3 digest of that file, 64 lower-case hex digits.
    pub blake3: String,
    /// The other files of weights that were cut into several; `files` names their index then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shards: Vec<ModelFile>,
    /// Further files beside the weights: `tokenizer.json` and `config.json` where these are safetensors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ModelFile>,
    /// GGUF's `general.architecture`; `bert` of embedding models, `stable-diffusion` of those that paint.
    pub architecture: String,
    /// Most tokens of prompt and output together, of one text that is embedded, or of a picture's prompt; 0 for benchmarks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub context_length: u32,
    /// Number of token ids; 0 for benchmarks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vocab_size: u32,
    /// Candidates per position that a sampler sees; 0 where nothing is sampled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub top_k: u32,
    /// Numbers of an embedding vector; 0 for all other models.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dimensions: u32,
    /// Work units per prompt token.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub weight_in: u32,
    /// Work units per output token, embedded text, step and latent of one channel, or million operations.
    pub weight_out: u32,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// How far apart honest runs of these weights may be; without it, as far as those of the built-in model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
}

/// How far apart honest runs of a model are, as audits compare them: costs in [`crate::Candidate::cost`]'s unit, shares in
/// 1/10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Of the mean distance of a long run.
    pub mean: u32,
    /// Of the distance of one position.
    pub worst: u32,
    /// Share of candidates that another run does not offer at all.
    pub strangers: u32,
    /// Share of tokens that the sampler picks otherwise from what another run offers.
    pub strays: u32,
}

impl Tolerance {
    fn is_valid(&self) -> bool {
        self.mean.max(self.worst) <= MAX_COST && self.strangers.max(self.strays) <= 10_000
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Why a manifest or the weights that it names are refused.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The manifest is not the JSON that it should be.
    #[error("the manifest is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// A field of the manifest is out of its range.
    #[error("the manifest is not valid: {field} {rule}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What the field should have been.
        rule: &'static str,
    },
    /// The weights are of another size.
    #[error("the weights of {model} have {found} bytes, the manifest says {expected}; fetch the file again")]
    Size {
        /// Name of the model.
        model: String,
        /// Bytes stated by the manifest.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The weights have another digest.
    #[error(
        "the weights of {model} have blake3 digest {found}, the manifest says {expected}; fetch the file again"
    )]
    Digest {
        /// Name of the model.
        model: String,
        /// Digest stated by the manifest, in hex.
        expected: String,
        /// Digest found, in hex.
        found: String,
    },
    /// A file beside the weights is not the one that the manifest names.
    #[error("the file {file} of {model} is not the one that the manifest names; fetch the file again")]
    File {
        /// Name of the model.
        model: String,
        /// Name of the file.
        file: String,
    },
    /// The manifest names no such file.
    #[error("the manifest of {model} names no file {file}")]
    NoFile {
        /// Name of the model.
        model: String,
        /// Name of the file.
        file: String,
    },
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Manifest {
    /// Parses and validates a manifest; unknown fields and values out of range are errors.
    pub fn from_json(json: &str) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_str(json)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The blake3 digest that names the whole model, in hex: that of its weights, or, with further files, of what `b3sum`
    /// prints of all files in their order, the weights first: `digest`, two spaces, `name`, a line feed.
    pub fn digest(&self) -> String {
        if self.files.is_empty() && self.shards.is_empty() {
            return self.blake3.clone();
        }
        let lines = self.all_files().map(|(file, _, digest)| format!("{digest}  {file}\n"));
        blake3::hash(lines.collect::<String>().as_bytes()).to_hex().to_string()
    }

    /// Names, sizes in bytes and blake3 digests of the files that hold the weights, in their order.
    pub fn weight_files(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        let first = (self.file.as_str(), self.size, self.blake3.as_str());
        std::iter::once(first).chain(self.shards.iter().map(ModelFile::stated))
    }

    /// The same of all files, those of the weights first.
    pub fn all_files(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.weight_files().chain(self.files.iter().map(ModelFile::stated))
    }

    /// Bytes of all files that hold the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_files().map(|(_, size, _)| size).fold(0, u64::saturating_add)
    }

    /// The blake3 digest of the weights, in hex; of several files the model's.
    pub fn weights_digest(&self) -> String {
        if self.shards.is_empty() { self.blake3.clone() } else { self.digest() }
    }

    /// Whether the weights are GGUF; if not, they are safetensors, with `config.json` and `tokenizer.json` beside them.
    pub fn is_gguf(&self) -> bool {
        !self.file.ends_with(".safetensors")
    }

    fn validate(&self) -> Result<(), ManifestError> {
        let rules = [
            ("name", !self.name.is_empty() && self.name.len() <= 128, "must have 1 to 128 bytes"),
            ("file", is_plain(&self.file), "must be a file name without folders"),
            ("size", (1..=MAX_MODEL_BYTES).contains(&self.size), "must be 1 to 2^40 bytes"),
            ("blake3", is_digest(&self.blake3), "must be 64 lower-case hex digits"),
            ("files", self.has_good_files(), "must be at most 16 of at most 64 MiB, each once, with digests"),
            (
                "shards",
                self.has_good_shards(),
                "must be at most 255 files of safetensors, each once, 2^40 bytes together, of a text model with an index",
            ),
            (
                "tolerance",
                self.tolerance.is_none_or(|t| t.is_valid()),
                "has a share over 10000 or a cost over 2^20",
            ),
        ];
        let of_workload: &[_] = match self.workload {
            Workload::LlmGen => &[
                self.within("context_length", self.context_length, MAX_CONTEXT_LENGTH, "must be 1 to 131072"),
                self.within("vocab_size", self.vocab_size, MAX_VOCAB_SIZE, "must be 1 to 262144"),
                self.within(
                    "top_k",
                    self.top_k,
                    MAX_TOP_K.min(self.vocab_size),
                    "must be 1 to 256, within the vocabulary",
                ),
            ],
            Workload::Embed => &[
                self.within("context_length", self.context_length, MAX_EMBED_TOKENS, "must be 1 to 512"),
                self.within("vocab_size", self.vocab_size, MAX_VOCAB_SIZE, "must be 1 to 262144"),
                self.within("dimensions", self.dimensions, MAX_DIMENSIONS, "must be 1 to 1024"),
            ],
            Workload::SdInfer => &[
                self.within("context_length", self.context_length, MAX_EMBED_TOKENS, "must be 1 to 512"),
                self.within("vocab_size", self.vocab_size, MAX_VOCAB_SIZE, "must be 1 to 262144"),
            ],
            Workload::TorchBench => &[],
        };
        match rules.iter().chain(of_workload).find(|(_, holds, _)| !holds) {
            Some((field, _, rule)) => Err(ManifestError::Field { field, rule }),
            None => Ok(()),
        }
    }

    fn within(
        &self,
        field: &'static str,
        value: u32,
        most: u32,
        rule: &'static str,
    ) -> (&'static str, bool, &'static str) {
        (field, (1..=most).contains(&value), rule)
    }

    fn has_good_files(&self) -> bool {
        let small = self.files.iter().all(|file| (1..=MAX_MODEL_FILE_BYTES).contains(&file.size));
        small && self.files.len() <= MAX_MODEL_FILES && self.files.iter().all(|file| self.is_good(file))
    }

    fn has_good_shards(&self) -> bool {
        if self.shards.is_empty() {
            return true;
        }
        let whole = self.shards.iter().all(|shard| shard.size > 0) && self.weight_bytes() <= MAX_MODEL_BYTES;
        let safetensors = self.weight_files().all(|(file, ..)| is_shard(file));
        let has_index = self.files.iter().any(|file| file.file == SHARD_INDEX);
        let few = self.shards.len() <= MAX_MODEL_SHARDS;
        let for_text = self.workload == Workload::LlmGen;
        few && for_text && whole && safetensors && has_index && self.shards.iter().all(|s| self.is_good(s))
    }

    fn is_good(&self, file: &ModelFile) -> bool {
        let once = self.all_files().filter(|(name, ..)| *name == file.file).count() == 1;
        once && is_plain(&file.file) && is_digest(&file.blake3)
    }
}

impl ModelFile {
    fn stated(&self) -> (&str, u64, &str) {
        (&self.file, self.size, &self.blake3)
    }
}

/// Whether a file of weights that were cut into several can be called so.
pub(crate) fn is_shard(file: &str) -> bool {
    is_plain(file) && file.ends_with(".safetensors")
}

fn is_plain(file: &str) -> bool {
    !file.contains(['/', '\\']) && !matches!(file, "" | "." | "..")
}

fn is_digest(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Where a model's weights are.
#[derive(Clone)]
pub enum Weights {
    /// In the executable.
    Embedded(&'static [u8]),
    /// In memory.
    Memory(Arc<[u8]>),
    /// In a file.
    File(PathBuf),
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(bytes) => write!(f, "Embedded({} bytes)", bytes.len()),
            Self::Memory(bytes) => write!(f, "Memory({} bytes)", bytes.len()),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// A manifest and the weights that it names, not yet compared.
#[derive(Debug, Clone)]
pub struct Model {
    /// What the weights should be.
    pub manifest: Manifest,
    /// Where the weights are.
    pub weights: Weights,
}

/// Something that can be read at any place.
pub trait ReadSeek: Read + Seek + Send {}

impl<T: Read + Seek + Send> ReadSeek for T {}

/// Weights that equal their manifest, opened at their first byte.
pub type ModelReader = Box<dyn ReadSeek>;

impl Model {
    /// A model from a `manifest.json`, its weights in the same folder; nothing but the manifest is read.
    pub fn from_manifest_file(path: &Path) -> Result<Self, ManifestError> {
        let read = |source| ManifestError::Read { path: path.to_owned(), source };
        let mut json = String::new();
        let file = File::open(path).map_err(read)?;
        file.take(MAX_MANIFEST_BYTES).read_to_string(&mut json).map_err(read)?;
        let manifest = Manifest::from_json(&json)?;
        let weights = Weights::File(path.with_file_name(&manifest.file));
        Ok(Self { manifest, weights })
    }

    /// Opens the weights, of several files the first, after comparing size and blake3 digest with the manifest.
    pub fn open(&self) -> Result<ModelReader, ManifestError> {
        let Manifest { file, size, blake3, .. } = &self.manifest;
        let first = (file.as_str(), *size, blake3.as_str());
        match &self.weights {
            Weights::Embedded(bytes) => self.check_bytes(first, *bytes),
            Weights::Memory(bytes) => self.check_bytes(first, bytes.clone()),
            Weights::File(path) => self.open_file(first, path),
        }
    }

    /// Opens all files of the weights, in the manifest's order, each after the same comparison.
    pub fn open_all(&self) -> Result<Vec<ModelReader>, ManifestError> {
        let shard = |stated: (&str, u64, &str)| match &self.weights {
            Weights::File(first) => self.open_file(stated, &first.with_file_name(stated.0)),
            Weights::Embedded(_) | Weights::Memory(_) => {
                Err(ManifestError::NoFile { model: self.manifest.name.clone(), file: stated.0.to_owned() })
            }
        };
        let shards = self.manifest.weight_files().skip(1).map(shard);
        std::iter::once(self.open()).chain(shards).collect()
    }

    /// The bytes of a file beside the weights, after comparing its size and blake3 digest with the manifest.
    pub fn file(&self, name: &str) -> Result<Vec<u8>, ManifestError> {
        let (model, file) = (self.manifest.name.clone(), name.to_owned());
        let Some(entry) = self.manifest.files.iter().find(|entry| entry.file == name) else {
            return Err(ManifestError::NoFile { model, file });
        };
        let Weights::File(weights) = &self.weights else {
            return Err(ManifestError::NoFile { model, file });
        };
        let path = weights.with_file_name(name);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|open| open.take(entry.size + 1).read_to_end(&mut bytes));
        read.map_err(|source| ManifestError::Read { path, source })?;
        if bytes.len() as u64 != entry.size || blake3::hash(&bytes).to_hex().as_str() != entry.blake3 {
            return Err(ManifestError::File { model, file });
        }
        Ok(bytes)
    }

    /// The tokenizer of a model that embeds or paints, from a `tokenizer.json` that equals the manifest.
    pub fn text_tokenizer(&self) -> Result<TextTokenizer, LoadError> {
        let json = self.file("tokenizer.json")?;
        Ok(TextTokenizer::from_json(&json, self.manifest.context_length, self.manifest.vocab_size)?)
    }

    fn check_bytes<B>(&self, stated: (&str, u64, &str), bytes: B) -> Result<ModelReader, ManifestError>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        self.check_size(stated, bytes.as_ref().len() as u64)?;
        self.check_digest(stated, blake3::hash(bytes.as_ref()))?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn open_file(&self, stated: (&str, u64, &str), path: &Path) -> Result<ModelReader, ManifestError> {
        let read = |source| ManifestError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(read)?;
        self.check_size(stated, file.metadata().map_err(read)?.len())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file).map_err(read)?;
        self.check_digest(stated, hasher.finalize())?;
        file.rewind().map_err(read)?;
        Ok(Box::new(BufReader::new(file)))
    }

    fn check_size(&self, stated: (&str, u64, &str), found: u64) -> Result<(), ManifestError> {
        let (file, expected, _) = stated;
        if found == expected {
            return Ok(());
        }
        Err(ManifestError::Size { model: self.called(file), expected, found })
    }

    fn check_digest(&self, stated: (&str, u64, &str), found: blake3::Hash) -> Result<(), ManifestError> {
        let ((file, _, expected), found) = (stated, found.to_hex());
        if found.as_str() == expected {
            return Ok(());
        }
        let (expected, found) = (expected.to_owned(), found.to_string());
        Err(ManifestError::Digest { model: self.called(file), expected, found })
    }

    /// The model, and where it has several files of weights which of them.
    fn called(&self, file: &str) -> String {
        let name = &self.manifest.name;
        if self.manifest.shards.is_empty() { name.clone() } else { format!("{name} in {file}") }
    }
}
