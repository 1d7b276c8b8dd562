//! Matrices of weights, and products whose rows do not depend on each other.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Error, Result, Tensor};

use super::Compute;
use super::one_core::product;
use super::table::Table;
use super::tiles::Tiles;

/// candle multiplies f32 matrices in an order that depends on the number of rows, so that they always have this many.
const WHOLE_ROWS: usize = 8;
/// With fewer rows than this, candle multiplies 6-bit blocks in another order.
const MIN_Q6K_ROWS: usize = 2;

/// A matrix of weights, `(rows, columns)`.
pub(super) enum Matrix {
    /// In tiles, on all cores.
    Tiled(Tiles),
    /// As the file has it.
    Quantised(Arc<QTensor>),
    /// f32, on all cores.
    Whole(Tensor),
    /// f32, on one core.
    OneCore(Tensor),
    /// f32, on a device.
    Device(Tensor),
}

impl Matrix {
    /// Of a table's weights.
    pub(super) fn of(table: Table, compute: Compute) -> Result<Self> {
        match (table, compute) {
            (Table::Quantised(tensor), Compute::AllCores) => Ok(match Tiles::of(&tensor)? {
                Some(tiles) => Self::Tiled(tiles),
                None => Self::Quantised(tensor),
            }),
            (Table::Quantised(tensor), Compute::OneCore | Compute::Device) => Ok(Self::Quantised(tensor)),
            (Table::Whole(tensor), Compute::AllCores) => Ok(Self::Whole(tensor)),
            (Table::Whole(tensor), Compute::OneCore) => Ok(Self::OneCore(tensor)),
            (Table::Whole(tensor), Compute::Device) => Ok(Self::Device(tensor)),
        }
    }

    /// From `(length, columns)` to `(length, rows)`, on a processor each row as if it were alone.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Tiled(tiles) => Tiles::products([tiles], x).map(|[made]| made),
            Self::Quantised(matrix) if matrix.dtype() == GgmlDType::Q6K && x.device().is_cpu() => {
                with_rows(x, MIN_Q6K_ROWS, |x| x.apply_op1_no_bwd(matrix.as_ref()))
            }
            Self::Quantised(matrix) => x.apply_op1_no_bwd(matrix.as_ref()),
            Self::Whole(matrix) => in_groups(x, &matrix.t()?),
            Self::OneCore(matrix) => product(x, matrix),
            Self::Device(matrix) => x.matmul(&matrix.t()?),
        }
    }

    /// What each of these makes of the same rows, as if it were alone; the rows are made integers once for all if all are in tiles.
    pub(super) fn forward_each<const N: usize>(matrices: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let tiles: Vec<&Tiles> = matrices.iter().filter_map(|matrix| matrix.as_tiles()).collect();
        if let Ok(tiles) = tiles.try_into() {
            return Tiles::products::<N>(tiles, x);
        }
        let made = matrices.iter().map(|matrix| matrix.forward(x)).collect::<Result<Vec<_>>>()?;
        made.try_into().map_err(|_| Error::msg("as many results as matrices"))
    }

    fn as_tiles(&self) -> Option<&Tiles> {
        match self {
            Self::Tiled(tiles) => Some(tiles),
            Self::Quantised(_) | Self::Whole(_) | Self::OneCore(_) | Self::Device(_) => None,
        }
    }
}

/// `x` times `matrix`, [`WHOLE_ROWS`] rows at a time.
fn in_groups(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    let length = x.dim(0)?;
    let x = with_zeros(x, length.next_multiple_of(WHOLE_ROWS))?;
    let groups: Vec<Tensor> = (0..length)
        .step_by(WHOLE_ROWS)
        .map(|start| x.narrow(0, start, WHOLE_ROWS)?.matmul(matrix))
        .collect::<Result<_>>()?;
    Tensor::cat(&groups, 0)?.narrow(0, 0, length)
}

/// What `multiply` makes of `x` once that has at least `min` rows, without the rows that were added.
fn with_rows(x: &Tensor, min: usize, multiply: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    let length = x.dim(0)?;
    multiply(&with_zeros(x, length.max(min))?)?.narrow(0, 0, length)
}

fn with_zeros(x: &Tensor, rows: usize) -> Result<Tensor> {
    let (length, columns) = x.dims2()?;
    if length == rows {
        return Ok(x.clone());
    }
    Tensor::cat(&[x, &Tensor::zeros((rows - length, columns), DType::F32, &Device::Cpu)?], 0)
}
