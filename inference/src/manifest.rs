//! What a model is: a manifest that names its weights by size and digest, and the weights.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{LoadError, MAX_COST, Tokenizer};

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

/// The description of a model by which everybody means the same weights and the same price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What jobs call the model.
    pub name: String,
    /// Name of the weights' file beside the manifest, without folders.
    pub file: String,
    /// Size of the weights' file in bytes.
    pub size: u64,
    /// blake3 digest of the weights' file, 64 lower-case hex digits.
    pub blake3: String,
    /// GGUF's `general.architecture`.
    pub architecture: String,
    /// Most tokens of prompt and output together.
    pub context_length: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Candidates per position that a sampler sees.
    pub top_k: u32,
    /// Work units per prompt token.
    pub weight_in: u32,
    /// Work units per output token.
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

    fn validate(&self) -> Result<(), ManifestError> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let plain = !self.file.contains(['/', '\\']) && !matches!(self.file.as_str(), "" | "." | "..");
        let rules = [
            ("name", !self.name.is_empty() && self.name.len() <= 128, "must have 1 to 128 bytes"),
            ("file", plain, "must be a file name without folders"),
            ("size", (1..=MAX_MODEL_BYTES).contains(&self.size), "must be 1 to 2^40 bytes"),
            (
                "blake3",
                self.blake3.len() == 64 && self.blake3.bytes().all(hex),
                "must be 64 lower-case hex digits",
            ),
            (
                "context_length",
                (1..=MAX_CONTEXT_LENGTH).contains(&self.context_length),
                "must be 1 to 131072",
            ),
            ("vocab_size", (1..=MAX_VOCAB_SIZE).contains(&self.vocab_size), "must be 1 to 262144"),
            (
                "top_k",
                (1..=MAX_TOP_K.min(self.vocab_size)).contains(&self.top_k),
                "must be 1 to 256, within the vocabulary",
            ),
            (
                "tolerance",
                self.tolerance.is_none_or(|t| t.is_valid()),
                "has a share over 10000 or a cost over 2^20",
            ),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, rule)) => Err(ManifestError::Field { field, rule }),
            None => Ok(()),
        }
    }
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

    /// Opens the weights after comparing their size and blake3 digest with the manifest.
    pub fn open(&self) -> Result<ModelReader, ManifestError> {
        match &self.weights {
            Weights::Embedded(bytes) => self.check_bytes(*bytes),
            Weights::Memory(bytes) => self.check_bytes(bytes.clone()),
            Weights::File(path) => self.open_file(path).map_err(|error| match error {
                OpenError::Io(source) => ManifestError::Read { path: path.clone(), source },
                OpenError::Manifest(error) => error,
            }),
        }
    }

    /// The model's tokenizer, from weights that equal the manifest, without loading them.
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        Ok(Tokenizer::from_gguf(&mut self.open()?)?)
    }

    fn check_bytes<B>(&self, bytes: B) -> Result<ModelReader, ManifestError>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        self.check_size(bytes.as_ref().len() as u64)?;
        self.check_digest(blake3::hash(bytes.as_ref()))?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn open_file(&self, path: &Path) -> Result<ModelReader, OpenError> {
        let mut file = File::open(path)?;
        self.check_size(file.metadata()?.len())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file)?;
        self.check_digest(hasher.finalize())?;
        file.rewind()?;
        Ok(Box::new(BufReader::new(file)))
    }

    fn check_size(&self, found: u64) -> Result<(), ManifestError> {
        if found == self.manifest.size {
            return Ok(());
        }
        Err(ManifestError::Size { model: self.manifest.name.clone(), expected: self.manifest.size, found })
    }

    fn check_digest(&self, found: blake3::Hash) -> Result<(), ManifestError> {
        let found = found.to_hex();
        if found.as_str() == self.manifest.blake3 {
            return Ok(());
        }
        Err(ManifestError::Digest {
            model: self.manifest.name.clone(),
            expected: self.manifest.blake3.clone(),
            found: found.to_string(),
        })
    }
}

enum OpenError {
    Io(io::Error),
    Manifest(ManifestError),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ManifestError> for OpenError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(error)
    }
}
