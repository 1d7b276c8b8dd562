//! Attention of many sequences at once, each to its own cache: plain loops over f32 in a fixed order.
//!
//! What a row gets depends on nothing but its own sequence, whoever else is in the batch, however the sequence was
//! cut into runs, and whether its beginning was computed now or before.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use pulp::Arch;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::layer::Attention;
use super::mix::Mix;
use super::{Compute, DecoderConfig, RotaryPairs, Run, Sequence};

/// Multiplications for which it is worth waking other cores.
const MIN_SHARED_WORK: usize = 1 << 18;
/// Rows of a sequence that are given to one core together.
const MAX_ROWS: usize = 8;

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
    let query_width = config.query_width();
    let work: usize = rows.iter().map(|row| 2 * (row.position + 1) * query_width).sum();
    let cores = match compute {
        Compute::AllCores if work >= MIN_SHARED_WORK => rayon::current_num_threads(),
        _ => 1,
    };
    let heads_each = config.kv_heads.div_ceil(cores);
    let mut mixes = Vec::new();
    let mut first = 0;
    for rows in rows.chunk_by(|row, next| row.run == next.run).flat_map(|run| run.chunks(MAX_ROWS)) {
        let queries = &queries[first * query_width..][..rows.len() * query_width];
        for kv_head in (0..config.kv_heads).step_by(heads_each) {
            let kv_heads = kv_head..(kv_head + heads_each).min(config.kv_heads);
            let (sequence, positions) = (&*sequences[rows[0].run], rows[0].position + 1);
            mixes.push((first, Mix { config, sequence, layer, kv_heads, queries, positions }));
        }
        first += rows.len();
    }
    let arch = Arch::new();
    let one = |(first, mix): (usize, Mix<'_>)| (first, mix.kv_heads.clone(), arch.dispatch(mix));
    let mixed: Vec<_> = match cores {
        1 => mixes.into_iter().map(one).collect(),
        _ => mixes.into_par_iter().map(one).collect(),
    };
    in_rows(config, rows.len(), &mixed)
}

/// From what was mixed of some heads for the rows from the first named, `(kv_head, row, head, head_width)` each, to
/// `(row, head, head_width)`.
fn in_rows(config: &DecoderConfig, rows: usize, mixed: &[(usize, Range<usize>, Vec<f32>)]) -> Vec<f32> {
    let (query_width, shared) = (config.query_width(), config.query_width() / config.kv_heads);
    let mut cells = vec![0.0; rows * query_width];
    for (first, kv_heads, mixed) in mixed {
        let rows = mixed.len() / kv_heads.len() / shared;
        for (index, mixed) in mixed.chunks_exact(shared).enumerate() {
            let (kv_head, row) = (kv_heads.start + index / rows, first + index % rows);
            cells[row * query_width + kv_head * shared..][..shared].copy_from_slice(mixed);
        }
    }
    cells
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
