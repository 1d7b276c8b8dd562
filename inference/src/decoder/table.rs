//! Vectors of tokens.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};

use super::Compute;

/// A matrix whose rows are looked up, `(rows, columns)`.
#[derive(Clone)]
pub(super) enum Table {
    /// As the file has it.
    Quantised(Arc<QTensor>),
    /// f32.
    Whole(Tensor),
}

impl Table {
    pub(super) fn quantised(tensor: QTensor, compute: Compute) -> Result<Self> {
        if compute.keeps(tensor.dtype()) {
            return Ok(Self::Quantised(Arc::new(tensor)));
        }
        Self::whole(&tensor.dequantize(&Device::Cpu)?, compute)
    }

    pub(super) fn whole(tensor: &Tensor, compute: Compute) -> Result<Self> {
        Ok(Self::Whole(tensor.to_device(compute.device())?))
    }

    /// The rows of these indices.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantised(matrix) => matrix.embedding(ids),
            Self::Whole(matrix) => matrix.index_select(ids, 0),
        }
    }
}
