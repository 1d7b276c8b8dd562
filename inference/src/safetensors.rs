//! Safetensors files, read within bounds and without mapping them.
//!
//! The header is checked against the file's length before anything is allocated for a tensor. The format:
//! <https://github.com/huggingface/safetensors#format>.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use thiserror::Error;

/// The longest safetensors header that is read, in bytes.
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 16 << 20;
/// The most files that one model may consist of.
pub const MAX_SAFETENSORS_FILES: usize = 256;

const LENGTH_BYTES: u64 = 8;
const METADATA: &str = "__metadata__";

/// Why a safetensors file is refused.
#[derive(Debug, Error)]
pub enum SafetensorsError {
    /// The header's length is beyond the file or its limit.
    #[error("the safetensors header states {found} bytes, the limit is {max}")]
    TooLong {
        /// The stated length.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The header is not the JSON that it has to be.
    #[error("the safetensors header is malformed: {0}")]
    Malformed(String),
    /// More files than a model may have.
    #[error("the model has {0} safetensors files, the limit is 256")]
    Files(usize),
    /// The index of several files is not what it has to be, or says otherwise than they do.
    #[error("the model.safetensors.index.json {0}")]
    Index(String),
    /// A tensor is missing or has another shape.
    #[error("the safetensors files have no tensor {name} of shape {shape:?}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// The shape that the model needs, rows first.
        shape: Vec<usize>,
    },
    /// The file could not be read.
    #[error("the safetensors file cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// Opened safetensors files: their headers in memory, their tensors read on demand.
pub(crate) struct Safetensors<R> {
    readers: Vec<R>,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    file: usize,
    dtype: DType,
    shape: Vec<usize>,
    /// Bytes from the beginning of the file.
    start: u64,
    length: usize,
}

#[derive(Deserialize)]
struct Stated {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl<R: Read + Seek> Safetensors<R> {
    /// Reads the headers of all files of a model; a name may occur once.
    pub(crate) fn open(mut readers: Vec<R>) -> Result<Self, SafetensorsError> {
        if readers.len() > MAX_SAFETENSORS_FILES {
            return Err(SafetensorsError::Files(readers.len()));
        }
        let mut entries = BTreeMap::new();
        for (file, reader) in readers.iter_mut().enumerate() {
            for (name, entry) in header(reader, file)? {
                if entries.insert(name.clone(), entry).is_some() {
                    return Err(SafetensorsError::Malformed(format!("the tensor {name:?} is there twice")));
                }
            }
        }
        Ok(Self { readers, entries })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The tensors, and in which of the files each is.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, usize)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry.file))
    }

    /// Elements of all tensors together.
    pub(crate) fn parameters(&self) -> u64 {
        let elements =
            |entry: &Entry| entry.shape.iter().map(|&size| size as u64).fold(1, u64::saturating_mul);
        self.entries.values().map(elements).fold(0, u64::saturating_add)
    }

    /// Reads one tensor as f32, which must have exactly this shape, rows first.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, SafetensorsError> {
        let Some(entry) = self.entries.get(name).filter(|entry| entry.shape == shape) else {
            return Err(SafetensorsError::Tensor { name: name.to_owned(), shape: shape.to_vec() });
        };
        let reader = &mut self.readers[entry.file];
        reader.seek(SeekFrom::Start(entry.start))?;
        let mut bytes = vec![0; entry.length];
        reader.read_exact(&mut bytes)?;
        let tensor = Tensor::from_raw_buffer(&bytes, entry.dtype, shape, &Device::Cpu);
        tensor.and_then(|tensor| tensor.to_dtype(DType::F32)).map_err(malformed)
    }
}

fn header(reader: &mut (impl Read + Seek), file: usize) -> Result<Vec<(String, Entry)>, SafetensorsError> {
    let file_length = reader.seek(SeekFrom::End(0))?;
    reader.rewind()?;
    let mut length = [0; LENGTH_BYTES as usize];
    reader.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let max = MAX_SAFETENSORS_HEADER_BYTES.min(file_length - LENGTH_BYTES);
    if length > max {
        return Err(SafetensorsError::TooLong { found: length, max });
    }
    let mut json = vec![0; length as usize];
    reader.read_exact(&mut json)?;
    let stated: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&json).map_err(malformed)?;
    let data = LENGTH_BYTES + length;
    let tensors = stated.into_iter().filter(|(name, _)| name != METADATA);
    tensors
        .map(|(name, value)| {
            let stated: Stated = serde_json::from_value(value).map_err(malformed)?;
            let entry = stated.within(file, data, file_length).map_err(|why| {
                SafetensorsError::Malformed(format!(
                    "the tensor {:?} {why}",
                    name.chars().take(64).collect::<String>()
                ))
            })?;
            Ok((name, entry))
        })
        .collect()
}

impl Stated {
    fn within(self, file: usize, data: u64, file_length: u64) -> Result<Entry, &'static str> {
        let dtype = match self.dtype.as_str() {
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            _ => return Err("is neither F32 nor F16 nor BF16"),
        };
        let [begin, end] = self.data_offsets;
        let length = end.checked_sub(begin).filter(|_| end <= file_length - data);
        let length = length.ok_or("lies beyond the file")?;
        let sizes = self.shape.iter().map(|&size| size as u64);
        let needed = sizes.chain([dtype.size_in_bytes() as u64]).try_fold(1u64, u64::checked_mul);
        if needed != Some(length) {
            return Err("has another length than its shape");
        }
        Ok(Entry { file, dtype, shape: self.shape, start: data + begin, length: length as usize })
    }
}

fn malformed(error: impl std::fmt::Display) -> SafetensorsError {
    SafetensorsError::Malformed(error.to_string())
}
