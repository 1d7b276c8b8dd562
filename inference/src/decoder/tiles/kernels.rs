//! What a row of tiles makes of inputs, up to eight at a time.
//!
//! Weights come from memory once for each pass. Where several inputs share them a processor has work enough that it no
//! longer looks far ahead by itself, so that it is told what comes next.
//!
//! Products of integers are exact. The order of what is rounded, and with it every bit, depends neither on the number of
//! inputs nor on which of them are taken together: for each run of columns, in their order, one fused multiplication and
//! addition, and a second one for the minima of `Q4_K`.

use archmage::{X64V4xToken, arcane};

use super::formats::{Packed, Q4Tile, Q6Tile, Q8Tile};
use super::inputs::{Block, EMPTY};
use super::{BLOCK, Lane};

/// How many tiles ahead weights are asked for, into the second cache.
const AHEAD: usize = 4;

/// A row of tiles.
pub(super) struct Row<'a, T> {
    tiles: &'a [T],
    /// What is to be asked for beside each of them, as long as there is something.
    ahead: &'a [T],
}

impl<'a, T> Row<'a, T> {
    /// The first `count` of these; the others follow in memory.
    pub(super) fn new(tiles: &'a [T], count: usize) -> Self {
        Self { tiles: &tiles[..count], ahead: tiles.get(AHEAD..).unwrap_or_default() }
    }
}

/// Weights that can be multiplied with inputs.
pub(super) trait Tile: Packed {
    /// With `M` inputs: of each the blocks, and the place for what comes of it.
    fn multiply<const M: usize>(
        token: X64V4xToken,
        row: &Row<'_, Self>,
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    );
}

/// A row with all inputs, whose blocks are as many for each.
pub(super) fn multiply<T: Tile>(
    token: X64V4xToken,
    mut row: Row<'_, T>,
    inputs: &[Block],
    lanes: &mut [Lane],
) {
    let (mut blocks, mut lanes) = (inputs, lanes);
    (blocks, lanes) = some::<T, 8>(token, &mut row, blocks, lanes);
    (blocks, lanes) = some::<T, 4>(token, &mut row, blocks, lanes);
    (blocks, lanes) = some::<T, 2>(token, &mut row, blocks, lanes);
    some::<T, 1>(token, &mut row, blocks, lanes);
}

/// `M` inputs at a time, as long as there are so many; what is left.
fn some<'a, 'b, T: Tile, const M: usize>(
    token: X64V4xToken,
    row: &mut Row<'_, T>,
    blocks: &'a [Block],
    lanes: &'b mut [Lane],
) -> (&'a [Block], &'b mut [Lane]) {
    let (groups, rest) = lanes.as_chunks_mut::<M>();
    let count = row.tiles.len();
    let (own, others) = blocks.split_at(groups.len() * M * count);
    for (lanes, blocks) in groups.iter_mut().zip(own.chunks_exact(M * count)) {
        let inputs = std::array::from_fn(|input| &blocks[input * count..][..count]);
        T::multiply::<M>(token, row, inputs, lanes);
        // Once is enough.
        row.ahead = &[];
    }
    (others, rest)
}

impl Tile for Q4Tile {
    fn multiply<const M: usize>(
        token: X64V4xToken,
        row: &Row<'_, Self>,
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    ) {
        q4(token, row, inputs, lanes);
    }
}

impl Tile for Q6Tile {
    fn multiply<const M: usize>(
        token: X64V4xToken,
        row: &Row<'_, Self>,
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    ) {
        q6(token, row, inputs, lanes);
    }
}

impl Tile for Q8Tile {
    fn multiply<const M: usize>(
        token: X64V4xToken,
        row: &Row<'_, Self>,
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    ) {
        q8(token, row, inputs, lanes);
    }
}

/// The block of each input at `index`; a loop, which unlike a closure has the caller's instructions.
#[inline(always)]
fn at<const M: usize>(inputs: [&[Block]; M], index: usize) -> [&Block; M] {
    let mut blocks = [&EMPTY; M];
    for (block, input) in blocks.iter_mut().zip(inputs) {
        *block = &input[index];
    }
    blocks
}

#[arcane(import_intrinsics)]
fn q4<const M: usize>(
    _token: X64V4xToken,
    row: &Row<'_, Q4Tile>,
    inputs: [&[Block]; M],
    lanes: &mut [Lane; M],
) {
    let nibble = _mm512_set1_epi8(15);
    let mut totals = [_mm512_setzero_ps(); M];
    for (index, tile) in row.tiles.iter().enumerate() {
        let (blocks, ahead) = (at(inputs, index), row.ahead.get(index));
        let scale = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.scale));
        let min = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.min));
        for run in 0..BLOCK / 32 {
            if let Some(ahead) = ahead {
                ahead.bring(run);
            }
            let mut sums = [_mm512_setzero_si512(); M];
            for four in 4 * run..4 * run + 4 {
                let both = _mm512_loadu_si512(&tile.quants[four]);
                let low = _mm512_and_si512(both, nibble);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), nibble);
                for input in 0..M {
                    let fours = &blocks[input].fours;
                    sums[input] = _mm512_dpbusd_epi32(sums[input], low, _mm512_set1_epi32(fours[2 * four]));
                    sums[input] =
                        _mm512_dpbusd_epi32(sums[input], high, _mm512_set1_epi32(fours[2 * four + 1]));
                }
            }
            let scales = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(&tile.scales[run])));
            let scales = _mm512_mul_ps(scale, scales);
            let mins = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(&tile.mins[run])));
            let mins = _mm512_mul_ps(min, mins);
            for input in 0..M {
                let block = blocks[input];
                let scales = _mm512_mul_ps(scales, _mm512_set1_ps(block.scale));
                let total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[input]), scales, totals[input]);
                totals[input] = _mm512_fnmadd_ps(mins, _mm512_set1_ps(block.scaled_sums[run]), total);
            }
        }
    }
    for input in 0..M {
        _mm512_storeu_ps(&mut lanes[input], totals[input]);
    }
}

#[arcane(import_intrinsics)]
fn q6<const M: usize>(
    _token: X64V4xToken,
    row: &Row<'_, Q6Tile>,
    inputs: [&[Block]; M],
    lanes: &mut [Lane; M],
) {
    let nibble = _mm512_set1_epi8(15);
    let upper = _mm512_set1_epi8(0x30);
    let mut totals = [_mm512_setzero_ps(); M];
    for (index, tile) in row.tiles.iter().enumerate() {
        let (blocks, ahead) = (at(inputs, index), row.ahead.get(index));
        let scale = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.scale));
        for run in 0..BLOCK / 16 {
            if let Some(ahead) = ahead {
                ahead.bring(run);
            }
            let high = _mm512_loadu_si512(&tile.high[run]);
            let lows = [_mm512_loadu_si512(&tile.low[2 * run]), _mm512_loadu_si512(&tile.low[2 * run + 1])];
            let shifted = lows.map(|low| _mm512_srli_epi16::<4>(low));
            let quants = [
                (lows[0], _mm512_slli_epi16::<4>(high)),
                (shifted[0], _mm512_slli_epi16::<2>(high)),
                (lows[1], high),
                (shifted[1], _mm512_srli_epi16::<2>(high)),
            ]
            .map(|(low, high)| _mm512_or_si512(_mm512_and_si512(low, nibble), _mm512_and_si512(high, upper)));
            let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(&tile.scales[run])));
            let scales = _mm512_mul_ps(scale, scales);
            for input in 0..M {
                let block = blocks[input];
                // The quants are 32 too large.
                let mut sum = _mm512_set1_epi32(block.less_32[run]);
                for (quants, four) in quants.into_iter().zip(&block.fours[4 * run..4 * run + 4]) {
                    sum = _mm512_dpbusd_epi32(sum, quants, _mm512_set1_epi32(*four));
                }
                let scales = _mm512_mul_ps(scales, _mm512_set1_ps(block.scale));
                totals[input] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scales, totals[input]);
            }
        }
    }
    for input in 0..M {
        _mm512_storeu_ps(&mut lanes[input], totals[input]);
    }
}

#[arcane(import_intrinsics)]
fn q8<const M: usize>(
    _token: X64V4xToken,
    row: &Row<'_, Q8Tile>,
    inputs: [&[Block]; M],
    lanes: &mut [Lane; M],
) {
    let mut totals = [_mm512_setzero_ps(); M];
    for (index, tile) in row.tiles.iter().enumerate() {
        let (blocks, ahead) = (at(inputs, index), row.ahead.get(index));
        for run in 0..BLOCK / 32 {
            if let Some(ahead) = ahead {
                ahead.bring(run);
            }
            // The quants are 128 too large.
            let mut sums = [_mm512_setzero_si512(); M];
            for input in 0..M {
                sums[input] = _mm512_set1_epi32(blocks[input].less_128[run]);
            }
            for four in 8 * run..8 * run + 8 {
                let quants = _mm512_loadu_si512(&tile.quants[four]);
                for input in 0..M {
                    sums[input] = _mm512_dpbusd_epi32(
                        sums[input],
                        quants,
                        _mm512_set1_epi32(blocks[input].fours[four]),
                    );
                }
            }
            let scales = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.scales[run]));
            for input in 0..M {
                let scales = _mm512_mul_ps(scales, _mm512_set1_ps(blocks[input].scale));
                totals[input] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[input]), scales, totals[input]);
            }
        }
    }
    for input in 0..M {
        _mm512_storeu_ps(&mut lanes[input], totals[input]);
    }
}
