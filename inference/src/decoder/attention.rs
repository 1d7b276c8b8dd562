//! Attention of many sequences at once, each to its own cache: plain loops over f32 in a fixed order.
//!
//! What a row gets depends on nothing but its own sequence, whoever else is in the batch, however the sequence was
//! cut into runs, and whether its beginning was computed now or before.

use candle_core::{Device, Result, Tensor};
use pulp::Arch;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::cache::Place;
use super::layer::Attention;
use super::mix::Mix;
use super::{Compute, DecoderConfig, RotaryPairs, Run, Sequence};

/// Multiplications for which it is worth waking other cores.
const MIN_SHARED_WORK: usize = 1 << 18;
/// Rows that are given to one core together.
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
    let DecoderConfig { heads, kv_heads, head_width, .. } = *config;
    // A head's rows that follow each other in one sequence meet its keys and values together.
    let groups: Vec<&[Row]> =
        rows.chunk_by(|row, next| row.run == next.run).flat_map(|run| run.chunks(MAX_ROWS)).collect();
    let mut cells = vec![0.0; queries.len()];
    let mut rest = cells.as_mut_slice();
    let mut mixes = Vec::with_capacity(heads * groups.len());
    for head in 0..heads {
        let mut first = 0;
        for group in &groups {
            let (mixed, others) = rest.split_at_mut(group.len() * head_width);
            rest = others;
            let own = queries[first * config.query_width()..].chunks(config.query_width());
            let own = own.take(group.len()).flat_map(|row| &row[head * head_width..][..head_width]);
            mixes.push(Mix {
                config,
                sequence: &*sequences[group[0].run],
                place: Place { layer, kv_head: head * kv_heads / heads },
                queries: own.copied().collect(),
                positions: group[0].position + 1,
                mixed,
            });
            first += group.len();
        }
    }
    let arch = Arch::new();
    let work: usize = rows.iter().map(|row| 2 * (row.position + 1) * config.query_width()).sum();
    if compute == Compute::AllCores && work >= MIN_SHARED_WORK {
        mixes.into_par_iter().for_each(|mix| arch.dispatch(mix));
    } else {
        mixes.into_iter().for_each(|mix| arch.dispatch(mix));
    }
    // From `(head, row, head_width)`.
    let head_cells = rows.len() * head_width;
    (0..rows.len() * heads)
        .flat_map(|index| &cells[index % heads * head_cells + index / heads * head_width..][..head_width])
        .copied()
        .collect()
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
