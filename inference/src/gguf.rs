//! GGUF files, read within bounds.
//!
//! Every count and length of the header is checked before the parser allocates anything for it, so that a hostile
//! file costs no more memory than a small multiple of its header. The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::io::{self, BufReader, Read, Seek};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use thiserror::Error;

/// The longest GGUF header that is read, in bytes.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;
/// The most tensors in a GGUF file.
pub const MAX_TENSORS: u64 = 16_384;
/// The most metadata entries in a GGUF file.
pub const MAX_METADATA: u64 = 1_024;
/// The longest string in a GGUF header, in bytes.
pub const MAX_STRING_BYTES: u64 = 1 << 20;
/// The longest array in a GGUF header, in elements.
pub const MAX_ARRAY_LENGTH: u64 = 1 << 20;
/// The most elements in one tensor.
pub const MAX_TENSOR_ELEMENTS: u64 = 1 << 38;

const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: u32 = 4_096;
const TYPE_U32: u32 = 4;
const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

/// Why a GGUF file is refused.
#[derive(Debug, Error)]
pub enum GgufError {
    /// Not a GGUF file of version 2 or 3.
    #[error("not a GGUF file of version 2 or 3")]
    Format,
    /// A count or length of the header is beyond its limit.
    #[error("the GGUF header states {found} {what}, the limit is {max}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The stated count.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The header is malformed.
    #[error("the GGUF header is malformed: {0}")]
    Malformed(&'static str),
    /// A metadata entry is missing or of another type.
    #[error("the GGUF metadata has no usable {0}")]
    Metadata(String),
    /// A tensor is missing or has another shape.
    #[error("the GGUF file has no tensor {name} of shape {shape:?}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// The shape that the model needs, rows first.
        shape: Vec<usize>,
    },
    /// The parser refused the file.
    #[error("the GGUF file cannot be parsed: {0}")]
    Parse(String),
    /// The file could not be read.
    #[error("the GGUF file cannot be read: {0}")]
    Read(#[from] io::Error),
}

/// An opened GGUF file: its header in memory, its tensors read on demand.
pub(crate) struct Gguf<R> {
    content: Content,
    reader: R,
}

impl<R: Read + Seek> Gguf<R> {
    /// Reads the header from the reader's first byte.
    pub(crate) fn open(mut reader: R) -> Result<Self, GgufError> {
        reader.rewind()?;
        Scan { reader: BufReader::new(&mut reader), left: MAX_HEADER_BYTES }.header()?;
        reader.rewind()?;
        let content = Content::read(&mut BufReader::new(&mut reader)).map_err(parse)?;
        Ok(Self { content, reader })
    }

    pub(crate) fn optional_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let Some(value) = self.content.metadata.get(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::U32(v) => Some(*v),
            Value::I32(v) => u32::try_from(*v).ok(),
            Value::U64(v) => u32::try_from(*v).ok(),
            _ => None,
        };
        number.map(Some).ok_or_else(|| unusable(key))
    }

    pub(crate) fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.optional_u32(key)?.ok_or_else(|| unusable(key))
    }

    pub(crate) fn optional_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::F32(v)) if v.is_finite() => Ok(Some(*v)),
            Some(_) => Err(unusable(key)),
        }
    }

    pub(crate) fn optional_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(_) => Err(unusable(key)),
        }
    }

    pub(crate) fn optional_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(_) => Err(unusable(key)),
        }
    }

    pub(crate) fn str(&self, key: &str) -> Result<&str, GgufError> {
        self.optional_str(key)?.ok_or_else(|| unusable(key))
    }

    pub(crate) fn strings(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        let string = |value: &'_ Value| matches!(value, Value::String(_));
        match self.content.metadata.get(key) {
            Some(Value::Array(values)) if values.iter().all(string) => {
                Ok(values.iter().filter_map(|value| value.to_string().ok().map(String::as_str)).collect())
            }
            _ => Err(unusable(key)),
        }
    }

    pub(crate) fn i32s(&self, key: &str) -> Result<Vec<i32>, GgufError> {
        let Some(Value::Array(values)) = self.content.metadata.get(key) else {
            return Err(unusable(key));
        };
        let number = |value: &Value| match value {
            Value::I32(v) => Ok(*v),
            Value::U32(v) => i32::try_from(*v).map_err(|_| unusable(key)),
            _ => Err(unusable(key)),
        };
        values.iter().map(number).collect()
    }

    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// Elements of all tensors together.
    pub(crate) fn parameters(&self) -> u64 {
        let sizes = self.content.tensor_infos.values().map(|info| info.shape.elem_count() as u64);
        sizes.fold(0, u64::saturating_add)
    }

    /// The format of most elements.
    pub(crate) fn main_format(&self) -> Option<GgmlDType> {
        let mut counts: Vec<(GgmlDType, usize)> = Vec::new();
        for info in self.content.tensor_infos.values() {
            let count = info.shape.elem_count();
            match counts.iter_mut().find(|(format, _)| *format == info.ggml_dtype) {
                Some((_, sum)) => *sum = sum.saturating_add(count),
                None => counts.push((info.ggml_dtype, count)),
            }
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(format, _)| format)
    }

    /// How a tensor is stored, if the file has it.
    pub(crate) fn dtype(&self, name: &str) -> Option<GgmlDType> {
        self.content.tensor_infos.get(name).map(|info| info.ggml_dtype)
    }

    /// Reads one tensor, which must have exactly this shape, rows first, onto a device.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<QTensor, GgufError> {
        let info = self.content.tensor_infos.get(name);
        let Some(info) = info.filter(|info| info.shape.dims() == shape) else {
            return Err(GgufError::Tensor { name: name.to_owned(), shape: shape.to_vec() });
        };
        if info.offset.checked_add(self.content.tensor_data_offset).is_none() {
            return Err(GgufError::Malformed("a tensor lies beyond the file"));
        }
        info.read(&mut self.reader, self.content.tensor_data_offset, device).map_err(parse)
    }
}

fn parse(error: candle_core::Error) -> GgufError {
    GgufError::Parse(error.to_string())
}

fn unusable(key: &str) -> GgufError {
    GgufError::Metadata(key.to_owned())
}

/// Walks a header without keeping any of it.
struct Scan<R> {
    reader: R,
    left: u64,
}

impl<R: Read + Seek> Scan<R> {
    fn header(mut self) -> Result<(), GgufError> {
        if &self.bytes::<4>()? != b"GGUF" || !matches!(self.u32()?, 2 | 3) {
            return Err(GgufError::Format);
        }
        let tensors = self.u64()?;
        let metadata = self.u64()?;
        at_most("tensors", tensors, MAX_TENSORS)?;
        at_most("metadata entries", metadata, MAX_METADATA)?;
        for _ in 0..metadata {
            self.metadata()?;
        }
        for _ in 0..tensors {
            self.tensor()?;
        }
        Ok(())
    }

    fn metadata(&mut self) -> Result<(), GgufError> {
        let key = self.string()?;
        let kind = self.u32()?;
        let end = key.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if &key[..end] == b"general.alignment" {
            return self.alignment(kind);
        }
        match kind {
            TYPE_STRING => self.skip_string(),
            TYPE_ARRAY => self.array(),
            scalar => self.skip(scalar_size(scalar)?),
        }
    }

    fn alignment(&mut self, kind: u32) -> Result<(), GgufError> {
        let value = self.u32()?;
        if kind == TYPE_U32 && value.is_power_of_two() && value <= MAX_ALIGNMENT {
            return Ok(());
        }
        Err(GgufError::Malformed("the alignment is not a power of two"))
    }

    fn array(&mut self) -> Result<(), GgufError> {
        let kind = self.u32()?;
        let length = self.u64()?;
        at_most("array elements", length, MAX_ARRAY_LENGTH)?;
        match kind {
            TYPE_ARRAY => Err(GgufError::Malformed("arrays of arrays")),
            TYPE_STRING => (0..length).try_for_each(|_| self.skip_string()),
            scalar => self.skip(length * scalar_size(scalar)?),
        }
    }

    fn tensor(&mut self) -> Result<(), GgufError> {
        self.skip_string()?;
        let dimensions = self.u32()?;
        at_most("dimensions", dimensions.into(), MAX_DIMENSIONS.into())?;
        let mut elements = 1u64;
        for _ in 0..dimensions {
            let dimension = self.u64()?;
            elements = elements.saturating_mul(dimension);
            at_most("elements of a tensor", dimension.max(elements), MAX_TENSOR_ELEMENTS)?;
        }
        self.skip(4 + 8)
    }

    fn string(&mut self) -> Result<Vec<u8>, GgufError> {
        let length = self.string_length()?;
        self.spend(length)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_string(&mut self) -> Result<(), GgufError> {
        let length = self.string_length()?;
        self.skip(length)
    }

    fn string_length(&mut self) -> Result<u64, GgufError> {
        let length = self.u64()?;
        at_most("bytes of a string", length, MAX_STRING_BYTES)?;
        Ok(length)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.spend(bytes)?;
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes {
            return Ok(());
        }
        Err(GgufError::Malformed("the file ends inside the header"))
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.spend(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), GgufError> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or(GgufError::Malformed("the header is too long"))?;
        Ok(())
    }
}

fn at_most(what: &'static str, found: u64, max: u64) -> Result<(), GgufError> {
    if found <= max {
        return Ok(());
    }
    Err(GgufError::TooMany { what, found, max })
}

fn scalar_size(kind: u32) -> Result<u64, GgufError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(GgufError::Malformed("an unknown type of value")),
    }
}
