//! Check B of `sd_infer`: the steps and the pixels that were signed, and those of the auditor's own run.

use super::{Distances, Mismatch, Position, count};
use crate::workload::image::{SIDE_STEP, SUMMARY_NUMBERS, Spec, Summary};
use crate::workload::png::{self, BYTES_PER_PIXEL};

/// One shade of a colour, in the unit of a tile's distance.
const SHADE: u64 = 256;
/// Shades of all pixels of a tile.
const TILE_SHADES: u64 = SIDE_STEP as u64 * SIDE_STEP as u64 * BYTES_PER_PIXEL as u64;

/// What is left of a run's steps, and its picture as PNG.
pub type Painted<'a> = (&'a [Summary], &'a [u8]);

/// Compares two runs of `sd_infer` that were to paint `spec`: first the steps, each as far apart as its numbers in the mean,
/// in 1/4096; then the tiles of 64 by 64 pixels, row by row, each as far apart as its shades in the mean, in 1/256 of a shade.
pub fn pictures(spec: &Spec, signed: Painted<'_>, own: Painted<'_>) -> Result<Distances, Mismatch> {
    if signed.0.len() != own.0.len() {
        return Err(Mismatch::Steps { signed: signed.0.len(), recomputed: own.0.len() });
    }
    let steps = signed.0.iter().zip(own.0).enumerate();
    let steps = steps.map(|(n, (signed, own))| step(signed, own).ok_or(Mismatch::Step(n)));
    let mut distances = steps.collect::<Result<Vec<_>, _>>()?;
    let pixels = |file| png::pixels(file, spec.width, spec.height).map_err(|_| Mismatch::Picture);
    distances.extend(tiles(spec, &pixels(signed.1)?, &pixels(own.1)?));
    Ok(Distances::of(distances.into_iter().map(Position::apart).collect(), 0))
}

fn step(signed: &[i32], own: &[i32]) -> Option<u32> {
    if signed.len() != SUMMARY_NUMBERS || own.len() != SUMMARY_NUMBERS {
        return None;
    }
    let sum: u64 = signed.iter().zip(own).map(|(signed, own)| u64::from(signed.abs_diff(*own))).sum();
    Some(small(sum / SUMMARY_NUMBERS as u64))
}

fn tiles(spec: &Spec, signed: &[u8], own: &[u8]) -> Vec<u32> {
    let (side, across) = (SIDE_STEP as usize, (spec.width / SIDE_STEP) as usize);
    let mut sums = vec![0u64; across * (spec.height / SIDE_STEP) as usize];
    let pairs = signed.as_chunks::<BYTES_PER_PIXEL>().0.iter().zip(own.as_chunks::<BYTES_PER_PIXEL>().0);
    for (at, (signed, own)) in pairs.enumerate() {
        let (x, y) = (at % spec.width as usize, at / spec.width as usize);
        let shades = signed.iter().zip(own).map(|(signed, own)| u64::from(signed.abs_diff(*own)));
        sums[y / side * across + x / side] += shades.sum::<u64>();
    }
    sums.into_iter().map(|sum| small(sum * SHADE / TILE_SHADES)).collect()
}

fn small(distance: u64) -> u32 {
    count(usize::try_from(distance).unwrap_or(usize::MAX))
}
