//! Products of quantised matrices on processors that multiply bytes by fours (AVX-512 as Ice Lake and Zen 4 have it).
//!
//! Weights lie in tiles of [`TILE_ROWS`] rows by [`BLOCK`] columns, so that one instruction takes four columns of all
//! rows. Inputs are made integers as GGML does (`Q8_K`: 256 at a time, by their largest). Every number is what candle's
//! own kernels for these processors make of the same file, to the bit; here the sums of up to eight inputs stay in
//! registers, and weights take no more memory than in the file, or little.

mod formats;
mod inputs;
mod kernels;

use archmage::{SimdToken, X64V4xToken};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor, bail};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use self::formats::{Q4Tile, Q6Tile, Q8Tile};
use self::inputs::{Block, quantised};
use self::kernels::{Row, Tile};

/// Rows of a matrix that are computed together.
const TILE_ROWS: usize = 16;
/// Columns that share a scale of the input's, and in `Q4_K` and `Q6_K` of the weights'.
const BLOCK: usize = 256;
/// Multiplications for which it is worth waking other cores.
const MIN_SHARED_WORK: usize = 1 << 18;

/// What comes of one tile's rows for one input.
type Lane = [f32; TILE_ROWS];

/// A matrix of weights in tiles.
pub(super) struct Tiles {
    rows: usize,
    columns: usize,
    format: Format,
    token: X64V4xToken,
}

/// All tiles of the first rows, then of the next.
enum Format {
    Q4K(Vec<Q4Tile>),
    Q6K(Vec<Q6Tile>),
    Q8_0(Vec<Q8Tile>),
}

impl Tiles {
    /// Memory of the tiles of a matrix of `[rows, columns]`, if this processor, its format and its shape allow them.
    pub(super) fn bytes(format: GgmlDType, [rows, columns]: [usize; 2]) -> Option<u64> {
        X64V4xToken::summon()?;
        let tile = match format {
            GgmlDType::Q4K => size_of::<Q4Tile>(),
            GgmlDType::Q6K => size_of::<Q6Tile>(),
            GgmlDType::Q8_0 => size_of::<Q8Tile>(),
            _ => return None,
        };
        let whole = rows.is_multiple_of(TILE_ROWS) && columns.is_multiple_of(BLOCK);
        whole.then_some((rows / TILE_ROWS * (columns / BLOCK) * tile) as u64)
    }

    /// The same weights, if this processor and their format and shape allow.
    pub(super) fn of(matrix: &QTensor) -> Result<Option<Self>> {
        let (rows, columns) = matrix.shape().dims2()?;
        let Some(token) = X64V4xToken::summon() else { return Ok(None) };
        if Self::bytes(matrix.dtype(), [rows, columns]).is_none() {
            return Ok(None);
        }
        let format = match matrix.dtype() {
            GgmlDType::Q4K => Format::Q4K(formats::tiled(&matrix.data()?, columns)),
            GgmlDType::Q6K => Format::Q6K(formats::tiled(&matrix.data()?, columns)),
            GgmlDType::Q8_0 => Format::Q8_0(formats::tiled(&matrix.data()?, columns)),
            _ => return Ok(None),
        };
        Ok(Some(Self { rows, columns, format, token }))
    }

    /// From `(length, columns)` to `(length, rows)` for each of the matrices, one at least, whose columns are as many: each
    /// row as if it were alone.
    pub(super) fn products<const N: usize>(matrices: [&Self; N], x: &Tensor) -> Result<[Tensor; N]> {
        let (length, columns) = x.dims2()?;
        if length == 0 || matrices.iter().any(|matrix| matrix.columns != columns) {
            bail!("{length} rows of {columns} columns do not fit the matrices")
        }
        let inputs = quantised(matrices[0].token, &x.flatten_all()?.to_vec1()?);
        let tile_rows: usize = matrices.iter().map(|matrix| matrix.rows / TILE_ROWS).sum();
        let mut lanes = vec![[0.0; TILE_ROWS]; tile_rows * length];
        let one = |(index, lanes): (usize, &mut [Lane])| {
            let mut index = index;
            for matrix in matrices {
                let own = matrix.rows / TILE_ROWS;
                if index < own {
                    return matrix.multiply(index, &inputs, lanes);
                }
                index -= own;
            }
        };
        if tile_rows * TILE_ROWS * length * columns >= MIN_SHARED_WORK && rayon::current_num_threads() > 1 {
            lanes.par_chunks_mut(length).enumerate().for_each(one);
        } else {
            lanes.chunks_mut(length).enumerate().for_each(one);
        }
        let mut made = Vec::with_capacity(N);
        let mut rest = lanes.as_slice();
        for matrix in matrices {
            let (own, others) = rest.split_at(matrix.rows / TILE_ROWS * length);
            made.push(Tensor::from_vec(by_input(own, length), (length, matrix.rows), &Device::Cpu)?);
            rest = others;
        }
        made.try_into().map_err(|_| candle_core::Error::msg("as many results as matrices"))
    }

    /// What the rows of one tile make of all inputs.
    fn multiply(&self, tile_row: usize, inputs: &[Block], lanes: &mut [Lane]) {
        match &self.format {
            Format::Q4K(tiles) => self.multiply_by(tiles, tile_row, inputs, lanes),
            Format::Q6K(tiles) => self.multiply_by(tiles, tile_row, inputs, lanes),
            Format::Q8_0(tiles) => self.multiply_by(tiles, tile_row, inputs, lanes),
        }
    }

    fn multiply_by<T: Tile>(&self, tiles: &[T], tile_row: usize, inputs: &[Block], lanes: &mut [Lane]) {
        let blocks = self.columns / BLOCK;
        kernels::multiply(self.token, Row::new(&tiles[tile_row * blocks..], blocks), inputs, lanes);
    }
}

/// From the lanes of all inputs for each tile's rows to `(input, row)`.
fn by_input(lanes: &[Lane], length: usize) -> Vec<f32> {
    let rows = lanes.len() / length * TILE_ROWS;
    let mut cells = vec![0.0; lanes.len() * TILE_ROWS];
    for (tile_row, lanes) in lanes.chunks_exact(length).enumerate() {
        for (input, lane) in lanes.iter().enumerate() {
            cells[input * rows + tile_row * TILE_ROWS..][..TILE_ROWS].copy_from_slice(lane);
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMATS: [GgmlDType; 3] = [GgmlDType::Q4K, GgmlDType::Q6K, GgmlDType::Q8_0];

    /// Numbers between -1 and 1, some of them far smaller than the others.
    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|index| next() * if index % 7 == 0 { 0.01 } else { 1.0 }).collect()
    }

    fn tensor(seed: u64, shape: (usize, usize)) -> Tensor {
        Tensor::from_vec(numbers(seed, shape.0 * shape.1), shape, &Device::Cpu).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    /// The tiles of a matrix and the matrix; nothing where the processor lacks the instructions.
    fn both(format: GgmlDType, shape: (usize, usize)) -> Option<(Tiles, QTensor)> {
        let matrix = QTensor::quantize(&tensor(7, shape), format).unwrap();
        let tiles = Tiles::of(&matrix).unwrap();
        if tiles.is_none() {
            println!("skipped: this processor has no AVX-512 as Ice Lake has it");
        }
        Some((tiles?, matrix))
    }

    #[test]
    fn products_are_those_of_candles_kernels_to_the_bit() {
        for format in FORMATS {
            for shape in [(16, 256), (48, 768), (272, 1024)] {
                let Some((tiles, matrix)) = both(format, shape) else { return };
                // candle multiplies a single input with 6-bit blocks in another order.
                for length in 2..20 {
                    let x = tensor(length as u64, (length, shape.1));
                    let [ours] = Tiles::products([&tiles], &x).unwrap();
                    let theirs = x.apply_op1_no_bwd(&matrix).unwrap();
                    assert_eq!(bits(&ours), bits(&theirs), "{format:?} {shape:?} {length}");
                }
            }
        }
    }

    #[test]
    fn a_row_is_what_it_is_alone_and_whatever_else_is_multiplied() {
        let shapes = [(32, 512), (16, 512), (160, 512)];
        let Some((tiles, _)) = both(GgmlDType::Q6K, shapes[0]) else { return };
        let others = [GgmlDType::Q4K, GgmlDType::Q8_0].iter().zip(&shapes[1..]);
        let others: Vec<Tiles> = others.map(|(format, shape)| both(*format, *shape).unwrap().0).collect();
        let matrices = [&others[0], &tiles, &others[1]];
        let mut x = numbers(3, 15 * 512);
        x[4 * 512..5 * 512].fill(0.0);
        let x = Tensor::from_vec(x, (15, 512), &Device::Cpu).unwrap();
        let together = Tiles::products(matrices, &x).unwrap();
        for (matrix, together) in matrices.into_iter().zip(&together) {
            assert_eq!(together.dims(), [15, matrix.rows]);
            for row in 0..15 {
                let [alone] = Tiles::products([matrix], &x.narrow(0, row, 1).unwrap()).unwrap();
                assert_eq!(bits(&alone), bits(&together.narrow(0, row, 1).unwrap()), "row {row}");
            }
        }
    }

    #[test]
    fn numbers_that_are_none_and_halves_are_rounded_as_candle_does() {
        let Some((tiles, matrix)) = both(GgmlDType::Q8_0, (16, 256)) else { return };
        let mut x = numbers(11, 4 * 256);
        // The scale is a power of two, so that these are halves.
        (0..256).for_each(|column| x[column] = (column as f32 - 127.0) / 2.0);
        x[0] = -127.0;
        (x[256], x[300], x[512]) = (f32::NAN, f32::NEG_INFINITY, 1e-42);
        let x = Tensor::from_vec(x, (4, 256), &Device::Cpu).unwrap();
        let [ours] = Tiles::products([&tiles], &x).unwrap();
        assert_eq!(bits(&ours), bits(&x.apply_op1_no_bwd(&matrix).unwrap()));
    }

    #[test]
    fn what_does_not_fit_into_tiles_is_left_to_candle() {
        for (format, shape) in
            [(GgmlDType::Q8_0, (24, 256)), (GgmlDType::Q8_0, (16, 288)), (GgmlDType::Q5K, (16, 256))]
        {
            let matrix = QTensor::quantize(&tensor(7, shape), format).unwrap();
            assert!(Tiles::of(&matrix).unwrap().is_none(), "{format:?} {shape:?}");
        }
    }
}
