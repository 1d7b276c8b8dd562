//! No tiles: other processors have candle's kernels.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Result, Tensor};

/// There are none.
pub(super) enum Tiles {}

impl Tiles {
    pub(super) fn bytes(_: GgmlDType, _: [usize; 2]) -> Option<u64> {
        None
    }

    pub(super) fn of(_: &QTensor) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn products<const N: usize>(matrices: [&Self; N], _: &Tensor) -> Result<[Tensor; N]> {
        match *matrices[0] {}
    }
}
