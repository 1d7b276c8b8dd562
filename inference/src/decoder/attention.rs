//! Attention of many sequences at once, each to its own cache: plain loops over f32 in a fixed order.
//!
//! What a row gets depends on nothing but its own sequence, whoever else is in the batch, however the sequence was
//! cut into runs, and whether its beginning was computed now or before.

use candle_core::{Device, Result, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::cache::{BLOCK_POSITIONS, Place};
use super::layer::Attention;
use super::{Compute, DecoderConfig, RotaryPairs, Run, Sequence};

/// Multiplications for which it is worth waking other cores.
const MIN_SHARED_WORK: usize = 1 << 18;
/// Columns of values that are summed at a time: as many as stay in registers.
const COLUMNS: usize = 32;

/// A row of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Index of its sequence in the batch.
    pub(super) run: usize,
    /// Its position in that sequence.
    pub(super) position: usize,
}

/// The rows of a pass on a processor.
pub(super) struct Loops<'a> {
    config: &'a DecoderConfig,
    compute: Compute,
    rows: &'a [Row],
    rotation: Rotation,
    sequences: Vec<&'a mut Sequence>,
}

impl<'a> Loops<'a> {
    /// Makes room for the runs' keys and values.
    pub(super) fn new(
        config: &'a DecoderConfig,
        compute: Compute,
        rows: &'a [Row],
        rotation: Rotation,
        runs: &'a mut [Run<'_>],
    ) -> Self {
        let mut sequences: Vec<&mut Sequence> = Vec::with_capacity(runs.len());
        for run in runs {
            run.sequence.reserve(run.tokens.len(), config);
            sequences.push(run.sequence);
        }
        Self { config, compute, rows, rotation, sequences }
    }
}

impl Attention for Loops<'_> {
    fn attend(&mut self, layer: usize, queries: Tensor, keys: Tensor, values: Tensor) -> Result<Tensor> {
        let cells = |rows: Tensor| rows.flatten_all()?.to_vec1::<f32>();
        let (mut queries, mut keys, values) = (cells(queries)?, cells(keys)?, cells(values)?);
        let Self { config, compute, rows, .. } = *self;
        self.rotation.turn(config, config.heads, &mut queries);
        self.rotation.turn(config, config.kv_heads, &mut keys);
        let kv_width = config.kv_width();
        let places = keys.chunks_exact(kv_width).zip(values.chunks_exact(kv_width));
        for (row, (keys, values)) in rows.iter().zip(places) {
            self.sequences[row.run].write(config, layer, row.position, keys, values);
        }
        let mixed = attention(config, compute, layer, rows, &self.sequences, &queries);
        Tensor::from_vec(mixed, (rows.len(), config.query_width()), &Device::Cpu)
    }
}

/// Causal attention of `queries`, `(row, head, head_width)`, to what the rows' sequences hold: shaped like `queries`.
fn attention(
    config: &DecoderConfig,
    compute: Compute,
    layer: usize,
    rows: &[Row],
    sequences: &[&mut Sequence],
    queries: &[f32],
) -> Vec<f32> {
    let DecoderConfig { heads, kv_heads, head_width, .. } = *config;
    let mut out = vec![0.0; queries.len()];
    let arch = Arch::new();
    let one = |(index, mixed): (usize, &mut [f32])| {
        let row = rows[index / heads];
        let place = Place { layer, kv_head: index % heads * kv_heads / heads };
        let query = &queries[index * head_width..][..head_width];
        let (sequence, positions) = (&*sequences[row.run], row.position + 1);
        arch.dispatch(Mix { config, query, sequence, place, positions, mixed });
    };
    let work: usize = rows.iter().map(|row| 2 * (row.position + 1) * config.query_width()).sum();
    if compute == Compute::AllCores && work >= MIN_SHARED_WORK {
        out.par_chunks_mut(head_width).enumerate().for_each(one);
    } else {
        out.chunks_mut(head_width).enumerate().for_each(one);
    }
    out
}

/// Sets `mixed` to the values of the first positions, weighed by the softmax of the scaled products of `query` with their keys.
struct Mix<'a> {
    config: &'a DecoderConfig,
    query: &'a [f32],
    sequence: &'a Sequence,
    place: Place,
    positions: usize,
    mixed: &'a mut [f32],
}

impl WithSimd for Mix<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { config, query, sequence, place, positions, mixed } = self;
        let width = config.head_width;
        let scale = 1.0 / (width as f32).sqrt();
        let mut weights = vec![0.0; positions];
        // Loops rather than closures: what is not compiled into this function is compiled without its caller's instructions.
        for ((keys, _), weights) in
            sequence.read(config, place, positions).zip(weights.chunks_mut(BLOCK_POSITIONS))
        {
            let mut products = [0.0; BLOCK_POSITIONS];
            for (query, keys) in query.iter().zip(keys.as_chunks::<BLOCK_POSITIONS>().0) {
                for (product, key) in products.iter_mut().zip(keys) {
                    *product += query * key;
                }
            }
            for (weight, product) in weights.iter_mut().zip(products) {
                *weight = product * scale;
            }
        }
        let max = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for weight in &mut weights {
            *weight = (*weight - max).exp();
            sum += *weight;
        }
        for weight in &mut weights {
            *weight /= sum;
        }
        let weighed = || sequence.read(config, place, positions).zip(weights.chunks(BLOCK_POSITIONS));
        let (columns, others) = mixed.as_chunks_mut::<COLUMNS>();
        for (index, columns) in columns.iter_mut().enumerate() {
            let mut sums = [0.0; COLUMNS];
            for ((_, values), weights) in weighed() {
                for (values, weight) in values.chunks_exact(width).zip(weights) {
                    for (sum, value) in sums.iter_mut().zip(&values.as_chunks::<COLUMNS>().0[index]) {
                        *sum += weight * value;
                    }
                }
            }
            *columns = sums;
        }
        let first = width - others.len();
        for ((_, values), weights) in weighed() {
            for (values, weight) in values.chunks_exact(width).zip(weights) {
                for (sum, value) in others.iter_mut().zip(&values[first..]) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// Cosine and sine of every row's angles, `(row, head_width / 2)`.
pub(super) struct Rotation(Vec<(f32, f32)>);

impl Rotation {
    pub(super) fn new(frequencies: &[f64], rows: &[Row]) -> Self {
        let angles = rows
            .iter()
            .flat_map(|row| frequencies.iter().map(move |frequency| row.position as f64 * frequency));
        Self(angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).collect())
    }

    /// Cosines and sines on a device, `(row, 1, pair)` each.
    pub(super) fn tensors(&self, pairs: usize, device: &Device) -> Result<[Tensor; 2]> {
        let (cos, sin): (Vec<f32>, Vec<f32>) = self.0.iter().copied().unzip();
        let tensor = |turns: Vec<f32>| Tensor::from_vec(turns, ((), 1, pairs), device);
        Ok([tensor(cos)?, tensor(sin)?])
    }

    /// Turns the heads of all rows, `(row, head, head_width)`.
    fn turn(&self, config: &DecoderConfig, heads: usize, cells: &mut [f32]) {
        let width = config.head_width;
        let rows = cells.chunks_exact_mut(heads * width).zip(self.0.chunks_exact(width / 2));
        for (row, turns) in rows {
            for head in row.chunks_exact_mut(width) {
                match config.rope_pairs {
                    RotaryPairs::Neighbours => turn_neighbours(head, turns),
                    RotaryPairs::Halves => turn_halves(head, turns),
                }
            }
        }
    }
}

fn turn_neighbours(head: &mut [f32], turns: &[(f32, f32)]) {
    let (pairs, _) = head.as_chunks_mut::<2>();
    for ([x, y], turn) in pairs.iter_mut().zip(turns) {
        (*x, *y) = turned(*x, *y, *turn);
    }
}

fn turn_halves(head: &mut [f32], turns: &[(f32, f32)]) {
    let (left, right) = head.split_at_mut(turns.len());
    for ((x, y), turn) in left.iter_mut().zip(right).zip(turns) {
        (*x, *y) = turned(*x, *y, *turn);
    }
}

fn turned(x: f32, y: f32, (cos, sin): (f32, f32)) -> (f32, f32) {
    (x * cos - y * sin, x * sin + y * cos)
}
