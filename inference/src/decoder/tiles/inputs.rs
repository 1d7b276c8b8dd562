//! Inputs as integers, GGML's `Q8_K`: 256 numbers are 8-bit integers times the largest of them over -127.

use archmage::{X64V4xToken, arcane};

use super::BLOCK;

/// [`BLOCK`] numbers of an input.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Block {
    /// Four integers in each.
    pub(super) fours: [i32; BLOCK / 4],
    /// Sums of 16.
    pub(super) sums: [i32; BLOCK / 16],
    /// Sums of 32.
    pub(super) double_sums: [i32; BLOCK / 32],
    /// The same times the scale.
    pub(super) scaled_sums: [f32; BLOCK / 32],
    pub(super) scale: f32,
}

/// Of zeros.
pub(super) static EMPTY: Block =
    Block { fours: [0; _], sums: [0; _], double_sums: [0; _], scaled_sums: [0.0; _], scale: 0.0 };

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
        let (runs, _) = integers.as_chunks::<16>();
        for (sum, integers) in block.sums.iter_mut().zip(runs) {
            *sum = integers.iter().map(|integer| i32::from(*integer)).sum();
        }
        for run in 0..BLOCK / 32 {
            let sum = block.sums[2 * run] + block.sums[2 * run + 1];
            block.double_sums[run] = sum;
            block.scaled_sums[run] = block.scale * sum as f32;
        }
    }
}
