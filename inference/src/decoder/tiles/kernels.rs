//! What a row of tiles makes of inputs, up to eight at a time.
//!
//! Products of integers are exact. The order of what is rounded, and with it every bit, depends neither on the number of
//! inputs nor on which of them are taken together: for each run of columns, in their order, one fused multiplication and
//! addition, and a second one for the minima of `Q4_K`.

use archmage::{X64V4xToken, arcane};

use super::formats::{Packed, Q4Tile, Q6Tile, Q8Tile};
use super::inputs::{Block, EMPTY};
use super::{BLOCK, Lane};

/// Weights that can be multiplied with inputs.
pub(super) trait Tile: Packed {
    /// With `M` inputs: of each the blocks, and the place for what comes of it.
    fn multiply<const M: usize>(
        token: X64V4xToken,
        tiles: &[Self],
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    );
}

/// A row of tiles with all inputs, whose blocks are as many for each.
pub(super) fn multiply<T: Tile>(token: X64V4xToken, tiles: &[T], inputs: &[Block], lanes: &mut [Lane]) {
    let (mut blocks, mut lanes) = (inputs, lanes);
    (blocks, lanes) = some::<T, 8>(token, tiles, blocks, lanes);
    (blocks, lanes) = some::<T, 4>(token, tiles, blocks, lanes);
    (blocks, lanes) = some::<T, 2>(token, tiles, blocks, lanes);
    some::<T, 1>(token, tiles, blocks, lanes);
}

/// `M` inputs at a time, as long as there are so many; what is left.
fn some<'a, 'b, T: Tile, const M: usize>(
    token: X64V4xToken,
    tiles: &[T],
    blocks: &'a [Block],
    lanes: &'b mut [Lane],
) -> (&'a [Block], &'b mut [Lane]) {
    let (groups, rest) = lanes.as_chunks_mut::<M>();
    let (own, others) = blocks.split_at(groups.len() * M * tiles.len());
    for (lanes, blocks) in groups.iter_mut().zip(own.chunks_exact(M * tiles.len())) {
        let inputs = std::array::from_fn(|input| &blocks[input * tiles.len()..][..tiles.len()]);
        T::multiply::<M>(token, tiles, inputs, lanes);
    }
    (others, rest)
}

impl Tile for Q4Tile {
    fn multiply<const M: usize>(
        token: X64V4xToken,
        tiles: &[Self],
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    ) {
        q4(token, tiles, inputs, lanes);
    }
}

impl Tile for Q6Tile {
    fn multiply<const M: usize>(
        token: X64V4xToken,
        tiles: &[Self],
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    ) {
        q6(token, tiles, inputs, lanes);
    }
}

impl Tile for Q8Tile {
    fn multiply<const M: usize>(
        token: X64V4xToken,
        tiles: &[Self],
        inputs: [&[Block]; M],
        lanes: &mut [Lane; M],
    ) {
        q8(token, tiles, inputs, lanes);
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
fn q4<const M: usize>(_token: X64V4xToken, tiles: &[Q4Tile], inputs: [&[Block]; M], lanes: &mut [Lane; M]) {
    let nibble = _mm512_set1_epi8(15);
    let mut totals = [_mm512_setzero_ps(); M];
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = at(inputs, index);
        let scale = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.scale));
        let min = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.min));
        for run in 0..BLOCK / 32 {
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
fn q6<const M: usize>(_token: X64V4xToken, tiles: &[Q6Tile], inputs: [&[Block]; M], lanes: &mut [Lane; M]) {
    let nibble = _mm512_set1_epi8(15);
    let upper = _mm512_set1_epi8(0x30);
    let mut totals = [_mm512_setzero_ps(); M];
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = at(inputs, index);
        let scale = _mm512_cvtph_ps(_mm256_loadu_si256(&tile.scale));
        for run in 0..BLOCK / 16 {
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
fn q8<const M: usize>(_token: X64V4xToken, tiles: &[Q8Tile], inputs: [&[Block]; M], lanes: &mut [Lane; M]) {
    let mut totals = [_mm512_setzero_ps(); M];
    for (index, tile) in tiles.iter().enumerate() {
        let blocks = at(inputs, index);
        for run in 0..BLOCK / 32 {
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
