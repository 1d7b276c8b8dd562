//! Inputs as integers, GGML's `Q8_K`: 256 numbers are 8-bit integers times the largest of them over -127.

use archmage::{X64V4xToken, arcane};

use super::BLOCK;

/// [`BLOCK`] numbers of an input.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Block {
    /// Four integers in each.
    pub(super) fours: [i32; BLOCK / 4],
    /// What makes up for quants that are 32 too large: sums of 16 times -32.
    pub(super) less_32: [i32; BLOCK / 16],
    /// And for those that are 128 too large: sums of 32 times -128.
    pub(super) less_128: [i32; BLOCK / 32],
    /// Sums of 32 times the scale.
    pub(super) scaled_sums: [f32; BLOCK / 32],
    pub(super) scale: f32,
}

/// Of zeros.
pub(super) static EMPTY: Block =
    Block { fours: [0; _], less_32: [0; _], less_128: [0; _], scaled_sums: [0.0; _], scale: 0.0 };

/// Of rows whose columns are a multiple of [`BLOCK`]: the blocks of the first, then of the next.
pub(super) fn quantised(token: X64V4xToken, cells: &[f32]) -> Vec<Block> {
    let (cells, _) = cells.as_chunks::<BLOCK>();
    let mut blocks = vec![EMPTY.clone(); cells.len()];
    fill(token, cells, &mut blocks);
    blocks
}

/// Plain loops, for which the compiler knows the instructions that this processor has.
#[arcane]
fn fill(_token: X64V4xToken, cells: &[[f32; BLOCK]], blocks: &mut [Block]) {
    for (cells, block) in cells.iter().zip(blocks) {
        let largest = cells.iter().fold(0.0f32, |largest, cell| largest.max(cell.abs()));
        // The first of several that are as large.
        let Some(first) = cells.iter().find(|cell| cell.abs() == largest && largest > 0.0) else { continue };
        let inverse = -127.0 / first;
        let mut integers = [0i8; BLOCK];
        for (integer, cell) in integers.iter_mut().zip(cells) {
            *integer = (inverse * cell).round().clamp(-128.0, 127.0) as i8;
        }
        block.scale = 1.0 / inverse;
        let (fours, _) = integers.as_chunks::<4>();
        for (four, integers) in block.fours.iter_mut().zip(fours) {
            *four = i32::from_le_bytes(integers.map(i8::cast_unsigned));
        }
        let mut sums = [0; BLOCK / 16];
        let (runs, _) = integers.as_chunks::<16>();
        for (sum, integers) in sums.iter_mut().zip(runs) {
            *sum = integers.iter().map(|integer| i32::from(*integer)).sum();
        }
        block.less_32 = sums.map(|sum| -32 * sum);
        for (run, [first, second]) in sums.as_chunks::<2>().0.iter().enumerate() {
            block.less_128[run] = -128 * (first + second);
            block.scaled_sums[run] = block.scale * (first + second) as f32;
        }
    }
}
