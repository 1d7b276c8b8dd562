//! How weights lie in tiles, in the order in which they are read, and how they come there from a file's blocks.
//!
//! The formats of the blocks are GGML's (`block_q4_K`, `block_q6_K`, `block_q8_0` of `ggml-common.h`).

use mem_prefetch::prefetch_read_data;

use super::{BLOCK, TILE_ROWS};

/// Four columns of all rows of a tile: a byte each.
pub(super) type Fours = [u8; 4 * TILE_ROWS];
/// A 16-bit float of each row, as its bits.
pub(super) type Halves = [u16; TILE_ROWS];

/// `Q4_K`: a weight is `scale * scales * quant - min * mins`.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Q4Tile {
    pub(super) scale: Halves,
    pub(super) min: Halves,
    /// Of each run of 32 columns.
    pub(super) scales: [[u8; TILE_ROWS]; BLOCK / 32],
    pub(super) mins: [[u8; TILE_ROWS]; BLOCK / 32],
    /// Of each run of 8 columns the first four in the low halves of bytes, the others in the high ones.
    pub(super) quants: [Fours; BLOCK / 8],
}

/// `Q6_K`: a weight is `scale * scales * (quant - 32)`.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Q6Tile {
    pub(super) scale: Halves,
    /// Of each run of 16 columns.
    pub(super) scales: [[i8; TILE_ROWS]; BLOCK / 16],
    /// The upper two bits: of each run of 16 columns the first four in the lowest bits.
    pub(super) high: [Fours; BLOCK / 16],
    /// The lower four bits, as in [`Q4Tile`].
    pub(super) low: [Fours; BLOCK / 8],
}

/// `Q8_0`: a weight is `scales * (quant - 128)`.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Q8Tile {
    /// Of each run of 32 columns.
    pub(super) scales: [Halves; BLOCK / 32],
    pub(super) quants: [Fours; BLOCK / 4],
}

/// A tile as a file's blocks fill it.
pub(super) trait Packed: Clone {
    /// Bytes of [`BLOCK`] columns of a row in the file.
    const FILE_BYTES: usize;
    /// Nothing in it yet.
    const EMPTY: Self;

    /// Takes the row's columns.
    fn put(&mut self, row: usize, bytes: &[u8]);
}

// A tile's parts are asked for as they are used, so that not all of them are waited for at once.
impl Q4Tile {
    /// Has the processor fetch what a run of 32 columns needs, of eight.
    #[inline(always)]
    pub(super) fn bring(&self, run: usize) {
        self.quants[4 * run..][..4].iter().for_each(bring);
        // Four runs of each lie in a line.
        match run {
            0 => bring(&self.scale),
            1 | 2 => bring(&self.scales[4 * (run - 1)]),
            3 | 4 => bring(&self.mins[4 * (run - 3)]),
            _ => {}
        }
    }
}

impl Q6Tile {
    /// Has the processor fetch what a run of 16 columns needs, of sixteen.
    #[inline(always)]
    pub(super) fn bring(&self, run: usize) {
        self.low[2 * run..][..2].iter().for_each(bring);
        bring(&self.high[run]);
        match run {
            0 => bring(&self.scale),
            1..=4 => bring(&self.scales[4 * (run - 1)]),
            _ => {}
        }
    }
}

impl Q8Tile {
    /// Has the processor fetch what a run of 32 columns needs, of eight.
    #[inline(always)]
    pub(super) fn bring(&self, run: usize) {
        self.quants[8 * run..][..8].iter().for_each(bring);
        // Two runs' scales lie in a line.
        if run.is_multiple_of(2) {
            bring(&self.scales[run]);
        }
    }
}

/// The line that this begins in, into the second cache: the first has no room for so much.
#[inline(always)]
fn bring<T>(part: &T) {
    prefetch_read_data::<T, 2>(part);
}

/// The tiles of a matrix whose rows have so many columns; whole tiles of them.
pub(super) fn tiled<T: Packed>(file: &[u8], columns: usize) -> Vec<T> {
    let blocks = columns / BLOCK;
    let tile_rows = file.chunks_exact(TILE_ROWS * blocks * T::FILE_BYTES);
    let mut tiles = Vec::with_capacity(tile_rows.len() * blocks);
    for rows in tile_rows {
        let first = tiles.len();
        tiles.resize(first + blocks, T::EMPTY);
        for (index, bytes) in rows.chunks_exact(T::FILE_BYTES).enumerate() {
            tiles[first + index % blocks].put(index / blocks, bytes);
        }
    }
    tiles
}

impl Packed for Q4Tile {
    const FILE_BYTES: usize = 144;
    const EMPTY: Self =
        Self { quants: [[0; _]; _], scales: [[0; _]; _], mins: [[0; _]; _], scale: [0; _], min: [0; _] };

    fn put(&mut self, row: usize, bytes: &[u8]) {
        self.scale[row] = half(bytes, 0);
        self.min[row] = half(bytes, 2);
        let packed = &bytes[4..16];
        for run in 0..BLOCK / 32 {
            (self.scales[run][row], self.mins[run][row]) = six_bits(packed, run);
        }
        let quant = |column: usize| {
            let byte = bytes[16 + column / 64 * 32 + column % 32];
            if column % 64 < 32 { byte & 15 } else { byte >> 4 }
        };
        put_nibbles(&mut self.quants, row, quant);
    }
}

impl Packed for Q6Tile {
    const FILE_BYTES: usize = 210;
    const EMPTY: Self = Self { low: [[0; _]; _], high: [[0; _]; _], scales: [[0; _]; _], scale: [0; _] };

    fn put(&mut self, row: usize, bytes: &[u8]) {
        let (low, high) = (&bytes[..128], &bytes[128..192]);
        // Of a half's 128 columns, 32 at a time share bytes.
        let four = |column: usize| {
            let byte = low[column / 128 * 64 + column % 64];
            if column % 128 < 64 { byte & 15 } else { byte >> 4 }
        };
        let two = |column: usize| high[column / 128 * 32 + column % 32] >> (column % 128 / 32 * 2) & 3;
        put_nibbles(&mut self.low, row, four);
        for column in 0..BLOCK {
            self.high[column / 16][4 * row + column % 4] |= two(column) << (column % 16 / 4 * 2);
        }
        for (scales, byte) in self.scales.iter_mut().zip(&bytes[192..208]) {
            scales[row] = byte.cast_signed();
        }
        self.scale[row] = half(bytes, 208);
    }
}

impl Packed for Q8Tile {
    const FILE_BYTES: usize = 8 * 34;
    const EMPTY: Self = Self { quants: [[0; _]; _], scales: [[0; _]; _] };

    fn put(&mut self, row: usize, bytes: &[u8]) {
        for (run, bytes) in bytes.chunks_exact(34).enumerate() {
            self.scales[run][row] = half(bytes, 0);
            for (column, byte) in bytes[2..].iter().enumerate() {
                // From -128..128 to 0..256.
                self.quants[8 * run + column / 4][4 * row + column % 4] = byte ^ 0x80;
            }
        }
    }
}

fn put_nibbles(quants: &mut [Fours; BLOCK / 8], row: usize, quant: impl Fn(usize) -> u8) {
    for (run, fours) in quants.iter_mut().enumerate() {
        for column in 0..4 {
            fours[4 * row + column] = quant(8 * run + column) | quant(8 * run + 4 + column) << 4;
        }
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The scale and the minimum of a run, of the twelve bytes that hold eight of each.
fn six_bits(packed: &[u8], run: usize) -> (u8, u8) {
    match run {
        0..4 => (packed[run] & 63, packed[run + 4] & 63),
        _ => {
            let both = packed[run + 4];
            ((both & 15) | packed[run - 4] >> 6 << 4, both >> 4 | packed[run] >> 6 << 4)
        }
    }
}
