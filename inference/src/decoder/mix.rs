//! What rows that follow each other in a sequence mix of its values.
//!
//! The order of every sum is fixed and a row's own: over the columns of a key, over the positions of a column. It is the same
//! with whatever instructions this is compiled for, and whatever is computed beside it. Blocks are read in the order in which they
//! lie in memory, for all heads, and once for all who ask a head.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::DecoderConfig;
use super::cache::{BLOCK_POSITIONS, Place, Sequence};

/// Askers that are taken at once, as long as there are so many.
const ASKERS: usize = 4;
/// Registers of sums for each of them.
const PARTS: usize = 2;

/// For each query the values of the first positions, weighed by the softmax of its scaled products with their keys.
///
/// Askers of a head of keys are the query heads that share it, of the first row, then of the next.
pub(super) struct Mix<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) sequence: &'a Sequence,
    pub(super) layer: usize,
    /// Those that are asked.
    pub(super) kv_heads: Range<usize>,
    /// Of the rows, `(row, head, head_width)`, all heads.
    pub(super) queries: &'a [f32],
    /// Positions that the first row sees; each other row sees one more than the row before.
    pub(super) positions: usize,
}

impl WithSimd for Mix<'_> {
    /// `(kv_head, asker, head_width)`.
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let queries = self.gathered();
        let (askers, room) = (self.askers(), self.seen().next_multiple_of(BLOCK_POSITIONS));
        let mut weights = vec![0.0; self.kv_heads.len() * askers * room];
        for block in 0..room / BLOCK_POSITIONS {
            for (index, kv_head) in self.kv_heads.clone().enumerate() {
                let (keys, _) = self.read(kv_head, block);
                let weights = &mut weights[index * askers * room..][..askers * room];
                let queries = &queries[index * askers * self.config.head_width..];
                self.products(simd, block, queries, keys, weights);
            }
        }
        weights.chunks_exact_mut(askers * room).for_each(|weights| self.softmaxes(weights));
        let mut mixed = vec![0.0; queries.len()];
        for block in 0..room / BLOCK_POSITIONS {
            for (index, kv_head) in self.kv_heads.clone().enumerate() {
                let (_, values) = self.read(kv_head, block);
                let weights = &weights[index * askers * room..][..askers * room];
                let mixed = &mut mixed[index * askers * self.config.head_width..];
                self.mix(simd, block, weights, values, mixed);
            }
        }
        mixed
    }
}

// Loops rather than closures: what is not compiled into its caller is compiled without its caller's instructions.
impl Mix<'_> {
    fn sharing(&self) -> usize {
        self.config.heads / self.config.kv_heads
    }

    fn rows(&self) -> usize {
        self.queries.len() / self.config.query_width()
    }

    fn askers(&self) -> usize {
        self.rows() * self.sharing()
    }

    /// Positions that the last row sees.
    fn seen(&self) -> usize {
        self.positions + self.rows() - 1
    }

    fn read(&self, kv_head: usize, block: usize) -> (&[f32], &[f32]) {
        self.sequence.read(self.config, Place { layer: self.layer, kv_head }, block, self.seen())
    }

    /// The queries of the heads that are asked, `(kv_head, asker, head_width)`.
    fn gathered(&self) -> Vec<f32> {
        let shared = self.sharing() * self.config.head_width;
        let mut cells = Vec::with_capacity(self.kv_heads.len() * self.rows() * shared);
        for kv_head in self.kv_heads.clone() {
            for row in self.queries.chunks_exact(self.config.query_width()) {
                cells.extend_from_slice(&row[kv_head * shared..][..shared]);
            }
        }
        cells
    }

    /// Products with the keys of a block, into a head's weights: for some askers at a time `(position, asker)`.
    #[inline(always)]
    fn products<S: Simd>(&self, simd: S, block: usize, queries: &[f32], keys: &[f32], weights: &mut [f32]) {
        let (askers, width) = (self.askers(), self.config.head_width);
        let room = weights.len() / askers;
        let mut first = 0;
        while first < askers {
            let queries = &queries[first * width..];
            let weights = &mut weights[first * room..];
            if askers - first >= ASKERS {
                products::<S, ASKERS>(simd, block, &queries[..ASKERS * width], keys, weights);
                first += ASKERS;
            } else {
                products::<S, 1>(simd, block, &queries[..width], keys, weights);
                first += 1;
            }
        }
    }

    fn softmaxes(&self, weights: &mut [f32]) {
        let (askers, scale) = (self.askers(), 1.0 / (self.config.head_width as f32).sqrt());
        let room = weights.len() / askers;
        let together = askers - askers % ASKERS;
        for asker in 0..askers {
            let seen = self.positions + asker / self.sharing();
            if asker < together {
                let own = &mut weights[asker / ASKERS * ASKERS * room..][..ASKERS * room];
                softmax(own.as_chunks_mut::<ASKERS>().0, asker % ASKERS, seen, scale);
            } else {
                softmax(weights[asker * room..][..room].as_chunks_mut::<1>().0, 0, seen, scale);
            }
        }
    }

    /// Adds a block's values by a head's weights.
    #[inline(always)]
    fn mix<S: Simd>(&self, simd: S, block: usize, weights: &[f32], values: &[f32], mixed: &mut [f32]) {
        let (askers, width) = (self.askers(), self.config.head_width);
        let room = weights.len() / askers;
        let mut first = 0;
        while first < askers {
            let weights = &weights[first * room..];
            let mixed = &mut mixed[first * width..];
            if askers - first >= ASKERS {
                mix::<S, ASKERS>(simd, block, weights, values, &mut mixed[..ASKERS * width]);
                first += ASKERS;
            } else {
                mix::<S, 1>(simd, block, weights, values, &mut mixed[..width]);
                first += 1;
            }
        }
    }
}

/// Products of `A` queries, `(asker, column)`, with a block of keys, `(column, position)`.
#[inline(always)]
fn products<S: Simd, const A: usize>(
    simd: S,
    block: usize,
    queries: &[f32],
    keys: &[f32],
    weights: &mut [f32],
) {
    let width = queries.len() / A;
    let (keys, _) = keys.as_chunks::<BLOCK_POSITIONS>();
    let weights = &mut weights.as_chunks_mut::<A>().0[block * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
    for part in (0..BLOCK_POSITIONS / S::F32_LANES).step_by(PARTS) {
        let mut sums = [[simd.splat_f32s(0.0); PARTS]; A];
        for (column, keys) in keys.iter().enumerate() {
            let (keys, _) = S::as_simd_f32s(keys);
            for asker in 0..A {
                let query = simd.splat_f32s(queries[asker * width + column]);
                for register in 0..PARTS {
                    let product = simd.mul_f32s(query, keys[part + register]);
                    sums[asker][register] = simd.add_f32s(sums[asker][register], product);
                }
            }
        }
        for asker in 0..A {
            let mut lanes = [0.0; BLOCK_POSITIONS];
            let (registers, _) = S::as_mut_simd_f32s(&mut lanes);
            registers[..PARTS].copy_from_slice(&sums[asker]);
            let own = weights[part * S::F32_LANES..].iter_mut().take(PARTS * S::F32_LANES);
            for (weights, lane) in own.zip(lanes) {
                weights[asker] = lane;
            }
        }
    }
}

/// Makes an asker's products with the first positions weights, and all others nothing.
fn softmax<const A: usize>(weights: &mut [[f32; A]], asker: usize, positions: usize, scale: f32) {
    let (seen, later) = weights.split_at_mut(positions);
    let mut max = f32::NEG_INFINITY;
    for weight in seen.iter_mut() {
        weight[asker] *= scale;
        max = max.max(weight[asker]);
    }
    let mut sum = 0.0;
    for weight in seen.iter_mut() {
        weight[asker] = (weight[asker] - max).exp();
        sum += weight[asker];
    }
    for weight in seen {
        weight[asker] /= sum;
    }
    for weight in later {
        weight[asker] = 0.0;
    }
}

/// Adds a block's values, `(position, column)`, to what `A` askers mix, `(asker, column)`.
#[inline(always)]
fn mix<S: Simd, const A: usize>(simd: S, block: usize, weights: &[f32], values: &[f32], mixed: &mut [f32]) {
    let width = mixed.len() / A;
    let weights = &weights.as_chunks::<A>().0[block * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
    let at_once = PARTS * S::F32_LANES;
    let whole = width - width % at_once;
    for first in (0..whole).step_by(at_once) {
        let mut sums = [[simd.splat_f32s(0.0); PARTS]; A];
        for asker in 0..A {
            let (registers, _) = S::as_simd_f32s(&mixed[asker * width + first..][..at_once]);
            sums[asker].copy_from_slice(registers);
        }
        for (values, weights) in values.chunks_exact(width).zip(weights) {
            let (values, _) = S::as_simd_f32s(&values[first..first + at_once]);
            for asker in 0..A {
                let weight = simd.splat_f32s(weights[asker]);
                for register in 0..PARTS {
                    let product = simd.mul_f32s(weight, values[register]);
                    sums[asker][register] = simd.add_f32s(sums[asker][register], product);
                }
            }
        }
        for asker in 0..A {
            let (registers, _) = S::as_mut_simd_f32s(&mut mixed[asker * width + first..][..at_once]);
            registers.copy_from_slice(&sums[asker]);
        }
    }
    for (values, weights) in values.chunks_exact(width).zip(weights) {
        for (mixed, weight) in mixed.chunks_exact_mut(width).zip(weights) {
            for (sum, value) in mixed[whole..].iter_mut().zip(&values[whole..]) {
                *sum += weight * value;
            }
        }
    }
}
