//! What one core computes by itself: plain loops over f32 in a fixed order.
//!
//! No other thread is woken or waited for, and nothing but `exp` can differ between machines.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};

const LANES: usize = 16;

/// `x` of `(length, columns)` times the transpose of `matrix`, `(rows, columns)`: `(length, rows)`.
pub(super) fn product(x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
    x.apply_op2_no_bwd(matrix, &Product)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        matrix: &CpuStorage,
        matrix_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (length, columns) = x_layout.shape().dims2()?;
        let (rows, same) = matrix_layout.shape().dims2()?;
        if same != columns {
            bail!("{columns} columns times {same}")
        }
        let x = contiguous(x, x_layout)?;
        let matrix = contiguous(matrix, matrix_layout)?;
        let mut out = vec![0.0; length * rows];
        Arch::new().dispatch(Products { x, matrix, columns, rows, out: &mut out });
        Ok((CpuStorage::F32(out), Shape::from((length, rows))))
    }
}

/// All products of the rows of `x` and of `matrix`.
struct Products<'a> {
    x: &'a [f32],
    matrix: &'a [f32],
    columns: usize,
    rows: usize,
    out: &'a mut [f32],
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { x, matrix, columns, rows, out } = self;
        for (row, weights) in matrix.chunks_exact(columns).enumerate() {
            for (place, x) in x.chunks_exact(columns).enumerate() {
                out[place * rows + row] = dot(x, weights);
            }
        }
    }
}

/// The same to the bit with whatever instructions its caller is compiled for: sums and their order are fixed.
#[inline(always)]
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("not contiguous"),
    }
}
