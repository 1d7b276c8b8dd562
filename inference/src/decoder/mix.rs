//! What rows that follow each other mix of one head's values.
//!
//! The order of every sum is fixed and a row's own: over the columns of a key, over the positions of a column. It is the same
//! with whatever instructions this is compiled for, and however many rows are taken at once.

use pulp::{Simd, WithSimd};

use super::DecoderConfig;
use super::cache::{BLOCK_POSITIONS, Place, Sequence};

/// Rows that are taken at once, as long as there are so many.
const ROWS: usize = 4;
/// Registers of sums for each of them.
const PARTS: usize = 2;

/// Sets `mixed` to the values of the first positions, weighed by the softmax of the scaled products of `queries` with their keys.
pub(super) struct Mix<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) sequence: &'a Sequence,
    pub(super) place: Place,
    /// `(row, head_width)`.
    pub(super) queries: Vec<f32>,
    /// Positions that the first row sees; each other row sees one more than the row before.
    pub(super) positions: usize,
    /// `(row, head_width)`.
    pub(super) mixed: &'a mut [f32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.queries.len() / self.config.head_width;
        let together = rows - rows % ROWS;
        for first in (0..together).step_by(ROWS) {
            self.some::<S, ROWS>(simd, first);
        }
        for first in together..rows {
            self.some::<S, 1>(simd, first);
        }
    }
}

// Loops rather than closures: what is not compiled into its caller is compiled without its caller's instructions.
impl Mix<'_> {
    /// `R` rows.
    #[inline(always)]
    fn some<S: Simd, const R: usize>(&mut self, simd: S, first: usize) {
        let width = self.config.head_width;
        let positions = self.positions + first;
        let seen_by_last = positions + R - 1;
        let mut weights = vec![[0.0; R]; seen_by_last.next_multiple_of(BLOCK_POSITIONS)];
        let queries = &self.queries[first * width..][..R * width];
        let blocks = self.sequence.read(self.config, self.place, seen_by_last);
        for ((keys, _), weights) in blocks.clone().zip(weights.chunks_exact_mut(BLOCK_POSITIONS)) {
            products(simd, queries, keys, weights);
        }
        let scale = 1.0 / (width as f32).sqrt();
        for row in 0..R {
            softmax(&mut weights, row, positions + row, scale);
        }
        let mixed = &mut self.mixed[first * width..][..R * width];
        mix(simd, mixed, &weights, blocks);
    }
}

/// Products of `R` queries, `(row, column)`, with a block of keys, `(column, position)`.
#[inline(always)]
fn products<S: Simd, const R: usize>(simd: S, queries: &[f32], keys: &[f32], products: &mut [[f32; R]]) {
    let width = queries.len() / R;
    let (keys, _) = keys.as_chunks::<BLOCK_POSITIONS>();
    for part in (0..BLOCK_POSITIONS / S::F32_LANES).step_by(PARTS) {
        let mut sums = [[simd.splat_f32s(0.0); PARTS]; R];
        for (column, keys) in keys.iter().enumerate() {
            let (keys, _) = S::as_simd_f32s(keys);
            for row in 0..R {
                let query = simd.splat_f32s(queries[row * width + column]);
                for register in 0..PARTS {
                    let product = simd.mul_f32s(query, keys[part + register]);
                    sums[row][register] = simd.add_f32s(sums[row][register], product);
                }
            }
        }
        for row in 0..R {
            let mut lanes = [0.0; BLOCK_POSITIONS];
            let (registers, _) = S::as_mut_simd_f32s(&mut lanes);
            registers[..PARTS].copy_from_slice(&sums[row]);
            let own = products[part * S::F32_LANES..].iter_mut().take(PARTS * S::F32_LANES);
            for (products, lane) in own.zip(lanes) {
                products[row] = lane;
            }
        }
    }
}

/// Makes a row's products with the first positions weights, and all others nothing.
#[inline(always)]
fn softmax<const R: usize>(weights: &mut [[f32; R]], row: usize, positions: usize, scale: f32) {
    let (seen, later) = weights.split_at_mut(positions);
    let mut max = f32::NEG_INFINITY;
    for weight in seen.iter_mut() {
        weight[row] *= scale;
        max = max.max(weight[row]);
    }
    let mut sum = 0.0;
    for weight in seen.iter_mut() {
        weight[row] = (weight[row] - max).exp();
        sum += weight[row];
    }
    for weight in seen {
        weight[row] /= sum;
    }
    for weight in later {
        weight[row] = 0.0;
    }
}

/// Values of `blocks`, `(position, column)` each, by the weights of `R` rows.
#[inline(always)]
fn mix<'a, S: Simd, const R: usize>(
    simd: S,
    mixed: &mut [f32],
    weights: &[[f32; R]],
    blocks: impl Iterator<Item = (&'a [f32], &'a [f32])> + Clone,
) {
    let width = mixed.len() / R;
    let at_once = PARTS * S::F32_LANES;
    let whole = width - width % at_once;
    for first in (0..whole).step_by(at_once) {
        let mut sums = [[simd.splat_f32s(0.0); PARTS]; R];
        for ((_, values), weights) in blocks.clone().zip(weights.chunks_exact(BLOCK_POSITIONS)) {
            for (values, weights) in values.chunks_exact(width).zip(weights) {
                let (values, _) = S::as_simd_f32s(&values[first..first + at_once]);
                for row in 0..R {
                    let weight = simd.splat_f32s(weights[row]);
                    for register in 0..PARTS {
                        let product = simd.mul_f32s(weight, values[register]);
                        sums[row][register] = simd.add_f32s(sums[row][register], product);
                    }
                }
            }
        }
        for row in 0..R {
            let (registers, _) = S::as_mut_simd_f32s(&mut mixed[row * width + first..][..at_once]);
            registers.copy_from_slice(&sums[row]);
        }
    }
    for ((_, values), weights) in blocks.zip(weights.chunks_exact(BLOCK_POSITIONS)) {
        for (values, weights) in values.chunks_exact(width).zip(weights) {
            for (mixed, weight) in mixed.chunks_exact_mut(width).zip(weights) {
                for (sum, value) in mixed[whole..].iter_mut().zip(&values[whole..]) {
                    *sum += weight * value;
                }
            }
        }
    }
}
