//! What rows that follow each other in a sequence mix of its values.
//!
//! The order of every sum is fixed and a row's own: over the columns of a key, over the positions of a column. It is the same
//! with whatever instructions this is compiled for, and whatever is computed beside it. Blocks are read in the order in which they
//! lie in memory, for all heads, and once for every four who ask a head.

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
            let start = block * BLOCK_POSITIONS;
            if askers - first >= ASKERS {
                let (weights, seen) = (&weights.as_chunks::<ASKERS>().0[start..], self.seen_by(first, start));
                mix(simd, seen, weights, values, &mut mixed[..ASKERS * width]);
                first += ASKERS;
            } else {
                let (weights, seen) = (&weights.as_chunks::<1>().0[start..], self.seen_by(first, start));
                mix(simd, seen, weights, values, &mut mixed[..width]);
                first += 1;
            }
        }
    }

    /// Positions from `start` on that each asker sees.
    #[inline(always)]
    fn seen_by<const A: usize>(&self, first: usize, start: usize) -> [usize; A] {
        let mut seen = [0; A];
        for (index, seen) in seen.iter_mut().enumerate() {
            *seen = (self.positions + (first + index) / self.sharing()).saturating_sub(start);
        }
        seen
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

/// Makes an asker's products with the first positions weights.
fn softmax<const A: usize>(weights: &mut [[f32; A]], asker: usize, positions: usize, scale: f32) {
    let weights = &mut weights[..positions];
    let mut max = f32::NEG_INFINITY;
    for weight in weights.iter_mut() {
        weight[asker] *= scale;
        max = max.max(weight[asker]);
    }
    let mut sum = 0.0;
    for weight in weights.iter_mut() {
        weight[asker] = (weight[asker] - max).exp();
        sum += weight[asker];
    }
    for weight in weights {
        weight[asker] /= sum;
    }
}

/// Adds to what `A` askers mix, `(asker, column)`, the values of the next positions, `(position, column)`: as many as each sees.
#[inline(always)]
fn mix<S: Simd, const A: usize>(
    simd: S,
    seen: [usize; A],
    weights: &[[f32; A]],
    values: &[f32],
    mixed: &mut [f32],
) {
    let width = mixed.len() / A;
    let at_once = PARTS * S::F32_LANES;
    let whole = width - width % at_once;
    for first in (0..whole).step_by(at_once) {
        let mut sums = [[simd.splat_f32s(0.0); PARTS]; A];
        for asker in 0..A {
            let (registers, _) = S::as_simd_f32s(&mixed[asker * width + first..][..at_once]);
            sums[asker].copy_from_slice(registers);
        }
        for (position, (values, weights)) in values.chunks_exact(width).zip(weights).enumerate() {
            let (values, _) = S::as_simd_f32s(&values[first..first + at_once]);
            for asker in 0..A {
                if position < seen[asker] {
                    let weight = simd.splat_f32s(weights[asker]);
                    for register in 0..PARTS {
                        let product = simd.mul_f32s(weight, values[register]);
                        sums[asker][register] = simd.add_f32s(sums[asker][register], product);
                    }
                }
            }
        }
        for asker in 0..A {
            let (registers, _) = S::as_mut_simd_f32s(&mut mixed[asker * width + first..][..at_once]);
            registers.copy_from_slice(&sums[asker]);
        }
    }
    for (asker, mixed) in mixed.chunks_exact_mut(width).enumerate() {
        for (values, weights) in values.chunks_exact(width).zip(weights).take(seen[asker]) {
            for (sum, value) in mixed[whole..].iter_mut().zip(&values[whole..]) {
                *sum += weights[asker] * value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, Scalar};

    use super::super::{Architecture, RotaryPairs};
    use super::*;

    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn config(kv_heads: usize, sharing: usize, head_width: usize) -> DecoderConfig {
        DecoderConfig {
            architecture: Architecture::Llama,
            layers: 2,
            width: 8,
            hidden: 8,
            heads: kv_heads * sharing,
            kv_heads,
            head_width,
            vocab_size: 8,
            context_length: 128,
            rope_pairs: RotaryPairs::Halves,
            rope_base: 10_000.0,
            rope_scaling: None,
            rms_epsilon: 1e-5,
            tied: true,
        }
    }

    /// What one query mixes, in loops as plain as can be.
    fn plainly(query: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f32> {
        let scale = 1.0 / (query.len() as f32).sqrt();
        let product = |key: &&[f32]| query.iter().zip(*key).fold(0.0, |sum, (query, key)| sum + query * key);
        let products: Vec<f32> = keys.iter().map(|key| product(key) * scale).collect();
        let max = products.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f32> = products.iter().map(|product| (product - max).exp()).collect();
        let sum = powers.iter().fold(0.0, |sum, power| sum + power);
        let mix = |column: usize| {
            powers.iter().zip(values).fold(0.0, |mixed, (power, value)| mixed + power / sum * value[column])
        };
        (0..query.len()).map(mix).collect()
    }

    fn bits(cells: &[f32]) -> Vec<u32> {
        cells.iter().map(|cell| cell.to_bits()).collect()
    }

    #[test]
    fn rows_mix_what_plain_loops_do_whatever_they_are_compiled_for_and_none_what_comes_after_it() {
        for width in [2, 16, 40, 96] {
            for sharing in [1, 3, 4] {
                for (rows, first) in [(1, 0), (1, 31), (1, 32), (5, 30), (8, 0), (8, 57)] {
                    compare(&config(2, sharing, width), rows, first);
                }
            }
        }
    }

    fn compare(config: &DecoderConfig, rows: usize, first: usize) {
        let (width, all) = (config.head_width, first + rows);
        let (keys, mut values) = (numbers(1, all * config.kv_width()), numbers(2, all * config.kv_width()));
        // Nobody but the last row sees this one.
        values[(all - 1) * config.kv_width()..].fill(f32::INFINITY);
        let mut sequence = Sequence::default();
        sequence.reserve(all, config);
        let cells = |cells: &'_ [f32], position: usize| {
            cells[position * config.kv_width()..][..config.kv_width()].to_vec()
        };
        for position in 0..all {
            sequence.write(config, 1, position, &cells(&keys, position), &cells(&values, position));
        }
        let queries = numbers(3, rows * config.query_width());
        let mix = |kv_heads: Range<usize>| Mix {
            config,
            sequence: &sequence,
            layer: 1,
            kv_heads,
            queries: &queries,
            positions: first + 1,
        };
        let mut due = Vec::new();
        for kv_head in 0..2 {
            let of = |cells: &'_ [f32]| -> Vec<Vec<f32>> {
                cells.chunks(config.kv_width()).map(|row| row[kv_head * width..][..width].to_vec()).collect()
            };
            let (keys, values) = (of(&keys), of(&values));
            for row in 0..rows {
                let seen = first + row + 1;
                let keys: Vec<&[f32]> = keys[..seen].iter().map(Vec::as_slice).collect();
                let values: Vec<&[f32]> = values[..seen].iter().map(Vec::as_slice).collect();
                for head in 0..config.heads / 2 {
                    let query = row * config.query_width() + (kv_head * (config.heads / 2) + head) * width;
                    due.extend(plainly(&queries[query..][..width], &keys, &values));
                }
            }
        }
        let case = format!("width {width}, {} heads, {rows} rows from {first}", config.heads);
        assert_eq!(bits(&Arch::new().dispatch(mix(0..2))), bits(&due), "{case}");
        assert_eq!(bits(&Scalar.vectorize(mix(0..2))), bits(&due), "{case}, one lane");
        assert_eq!(bits(&Arch::new().dispatch(mix(1..2))), bits(&due[due.len() / 2..]), "{case}, one head");
    }
}
