//! The tensors of a model by GGUF's names, from either kind of file.

use std::collections::BTreeSet;
use std::io::{Read, Seek};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::Compute;
use super::matrix::Matrix;
use super::table::Table;
use super::tiles::Tiles;
use crate::LoadError;
use crate::gguf::Gguf;
use crate::safetensors::Safetensors;

/// GGUF's name of each part of a block, and that in safetensors.
const PARTS: [(&str, &str); 14] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
];
const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Where tensors come from.
pub(super) enum Source<'a, R> {
    Gguf(&'a mut Gguf<R>),
    Safetensors(&'a mut Safetensors<R>),
}

impl<R: Read + Seek> Source<'_, R> {
    fn names(&self) -> BTreeSet<String> {
        match self {
            Self::Gguf(gguf) => gguf.tensor_names().map(str::to_owned).collect(),
            Self::Safetensors(files) => {
                files.names().map(|name| gguf_name(name).unwrap_or_else(|| name.to_owned())).collect()
            }
        }
    }

    fn dtype(&self, name: &str) -> Option<GgmlDType> {
        match self {
            Self::Gguf(gguf) => gguf.dtype(name),
            Self::Safetensors(_) => None,
        }
    }

    fn read(&mut self, name: &str, shape: &[usize], device: &Device) -> Result<Stored, LoadError> {
        match self {
            Self::Gguf(gguf) => Ok(Stored::Quantised(gguf.tensor(name, shape, device)?)),
            Self::Safetensors(files) => {
                let theirs = safetensors_name(name).unwrap_or_else(|| name.to_owned());
                Ok(Stored::Whole(files.tensor(&theirs, shape)?))
            }
        }
    }
}

enum Stored {
    Quantised(QTensor),
    Whole(Tensor),
}

/// Reads each tensor once and says which were never asked for.
pub(super) struct Weights<'a, R> {
    source: Source<'a, R>,
    compute: Compute,
    max_bytes: Option<u64>,
    unused: BTreeSet<String>,
    bytes: u64,
}

impl<'a, R: Read + Seek> Weights<'a, R> {
    pub(super) fn new(source: Source<'a, R>, compute: Compute, max_bytes: Option<u64>) -> Self {
        let unused = source.names();
        Self { source, compute, max_bytes, unused, bytes: 0 }
    }

    pub(super) fn compute(&self) -> Compute {
        self.compute
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.unused.contains(name)
    }

    pub(super) fn skip(&mut self, name: &str) {
        self.unused.remove(name);
    }

    /// A matrix to look rows up in.
    pub(super) fn table(&mut self, name: &str, shape: &[usize; 2]) -> Result<Table, LoadError> {
        self.spend(self.file_bytes(name, shape))?;
        self.read_table(name, shape)
    }

    /// A matrix to multiply by.
    pub(super) fn matrix(&mut self, name: &str, shape: &[usize; 2]) -> Result<Matrix, LoadError> {
        let file = self.file_bytes(name, shape);
        // Tiles take the place of the file's order; candle's kernels keep theirs beside it.
        self.spend(match self.kept(name) {
            Some(format) => self.tile_bytes(format, *shape).unwrap_or(file + self.copy_bytes(format, file)),
            None => file,
        })?;
        let table = self.read_table(name, shape)?;
        Ok(Matrix::of(table, self.compute)?)
    }

    /// A table to multiply by.
    pub(super) fn matrix_of(&mut self, table: &Table) -> Result<Matrix, LoadError> {
        if let Table::Quantised(tensor) = table {
            let copy = self.copy_bytes(tensor.dtype(), tensor.storage_size_in_bytes() as u64);
            let tiles = self.tile_bytes(tensor.dtype(), tensor.shape().dims2()?.into());
            self.spend(tiles.unwrap_or(copy))?;
        }
        Ok(Matrix::of(table.clone(), self.compute)?)
    }

    pub(super) fn vector(&mut self, name: &str, length: usize) -> Result<Tensor, LoadError> {
        self.spend(self.file_bytes(name, &[length]))?;
        let device = self.compute.device();
        match self.read(name, &[length])? {
            Stored::Quantised(tensor) => Ok(tensor.dequantize(device)?),
            Stored::Whole(tensor) => Ok(tensor.to_device(device)?),
        }
    }

    /// Memory of what was read, in bytes, or an error if the file has tensors that nobody asked for.
    pub(super) fn finish(self) -> Result<u64, LoadError> {
        match self.unused.first() {
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                Err(LoadError::Unsupported(format!("the tensor {name:?} is unknown")))
            }
            None => Ok(self.bytes),
        }
    }

    fn read_table(&mut self, name: &str, shape: &[usize; 2]) -> Result<Table, LoadError> {
        match self.read(name, shape)? {
            Stored::Quantised(tensor) => Ok(Table::quantised(tensor, self.compute)?),
            Stored::Whole(tensor) => Ok(Table::whole(&tensor, self.compute)?),
        }
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Stored, LoadError> {
        self.unused.remove(name);
        let device = if self.kept(name).is_some() { self.compute.device() } else { &Device::Cpu };
        self.source.read(name, shape, device)
    }

    fn tile_bytes(&self, format: GgmlDType, shape: [usize; 2]) -> Option<u64> {
        Tiles::bytes(format, shape).filter(|_| self.compute == Compute::AllCores)
    }

    /// Memory of the order in which candle's kernels for processors have a matrix of so many bytes, with scales as f32.
    fn copy_bytes(&self, format: GgmlDType, file: u64) -> u64 {
        match format {
            _ if !self.compute.device().is_cpu() => 0,
            GgmlDType::Q4K => (4 * file).div_ceil(3),
            GgmlDType::Q6K => (32 * file).div_ceil(21),
            _ => file,
        }
    }

    /// The tensor's format, if it stays as it is.
    fn kept(&self, name: &str) -> Option<GgmlDType> {
        self.source.dtype(name).filter(|format| self.compute.keeps(*format))
    }

    /// Memory of the tensor as it is in the file, or as f32.
    fn file_bytes(&self, name: &str, shape: &[usize]) -> u64 {
        let elements = shape.iter().map(|&size| size as u64).product::<u64>();
        match self.kept(name) {
            Some(format) => elements.div_ceil(format.block_size() as u64) * format.type_size() as u64,
            None => 4 * elements,
        }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), LoadError> {
        self.bytes += bytes;
        match self.max_bytes {
            Some(allowed) if self.bytes > allowed => Err(LoadError::Memory { needed: self.bytes, allowed }),
            _ => Ok(()),
        }
    }
}

fn safetensors_name(gguf: &str) -> Option<String> {
    if let Some((_, theirs)) = WHOLE.iter().find(|(ours, _)| *ours == gguf) {
        return Some((*theirs).to_owned());
    }
    let (index, part) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let (_, theirs) = PARTS.iter().find(|(ours, _)| *ours == part)?;
    Some(format!("model.layers.{index}.{theirs}"))
}

fn gguf_name(safetensors: &str) -> Option<String> {
    if let Some((ours, _)) = WHOLE.iter().find(|(_, theirs)| *theirs == safetensors) {
        return Some((*ours).to_owned());
    }
    let (index, part) = safetensors.strip_prefix("model.layers.")?.split_once('.')?;
    let (ours, _) = PARTS.iter().find(|(_, theirs)| *theirs == part)?;
    Some(format!("blk.{index}.{ours}"))
}
