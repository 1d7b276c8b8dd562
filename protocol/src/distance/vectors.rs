//! Check B of `embed`: the vectors that were signed, and those of the auditor's own run.

use super::{Distances, Mismatch, Position, count};
use crate::workload::embed::{NUMBER_BYTES, magnitude};

/// From the fixed point of numbers, 2^−30, to that of distances, 2^−16.
const TO_DISTANCE: u32 = 14;

/// Compares two outputs of `embed`, of vectors of so many numbers: the distance of a text is `⌊|a − b| · 2^16⌋`, the length of
/// what is between its two vectors, which are of length one each.
pub fn vectors(signed: &[u8], own: &[u8], dimensions: u32) -> Result<Distances, Mismatch> {
    let bytes = NUMBER_BYTES * dimensions as usize;
    if bytes == 0 || signed.len() != own.len() || !signed.len().is_multiple_of(bytes) {
        return Err(Mismatch::Vectors { signed: signed.len(), recomputed: own.len() });
    }
    let pairs = signed.chunks_exact(bytes).zip(own.chunks_exact(bytes)).enumerate();
    let apart = |(n, (signed, own))| between(signed, own).map(Position::apart).ok_or(Mismatch::Vector(n));
    Ok(Distances::of(pairs.map(apart).collect::<Result<_, _>>()?, 0))
}

/// Nothing where a number is not finite, or 2 and more.
fn between(signed: &[u8], own: &[u8]) -> Option<u32> {
    let mut squares = 0u64;
    for (signed, own) in numbers(signed).zip(numbers(own)) {
        let difference = signed?.abs_diff(own?);
        squares = squares.saturating_add(difference * difference);
    }
    Some(count(usize::try_from(squares.isqrt() >> TO_DISTANCE).unwrap_or(usize::MAX)))
}

/// The numbers of a vector in 2^−30, each rounded towards zero.
fn numbers(vector: &[u8]) -> impl Iterator<Item = Option<i64>> {
    let (numbers, _) = vector.as_chunks::<NUMBER_BYTES>();
    numbers.iter().map(|number| {
        let bits = u32::from_le_bytes(*number);
        let size = i64::try_from(magnitude(bits)?).ok()?;
        Some(if bits >> 31 == 1 { -size } else { size })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn a_distance_is_the_length_between_two_vectors() {
        let mut state = 1u32;
        let mut unit = || {
            let mut numbers = [0f64; 6];
            for number in &mut numbers {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *number = f64::from(state) / f64::from(u32::MAX) - 0.5;
            }
            let length = numbers.iter().map(|n| n * n).sum::<f64>().sqrt();
            numbers.map(|number| (number / length) as f32)
        };
        for _ in 0..1_000 {
            let (a, b) = (unit(), unit());
            let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(b)).powi(2));
            let due = squares.sum::<f64>().sqrt() * 65_536.0;
            let found = vectors(&bytes(&a), &bytes(&b), 6).unwrap().worst;
            assert!((f64::from(found) - due.floor()).abs() <= 1.0, "{found} is not {due}");
            assert_eq!(vectors(&bytes(&a), &bytes(&a), 6).unwrap().worst, 0);
        }
        assert_eq!(vectors(&bytes(&[1.0, 0.0]), &bytes(&[-1.0, 0.0]), 2).unwrap().worst, 2 << 16);
    }

    #[test]
    fn what_is_not_of_the_same_texts_is_a_mismatch() {
        let two = bytes(&[1.0, 0.0, 0.0, 1.0]);
        let told = |own: &[u8], dimensions| vectors(&two, own, dimensions).unwrap_err();
        assert_eq!(told(&two[..8], 2), Mismatch::Vectors { signed: 16, recomputed: 8 });
        assert_eq!(told(&two, 3), Mismatch::Vectors { signed: 16, recomputed: 16 });
        assert_eq!(told(&two, 0), Mismatch::Vectors { signed: 16, recomputed: 16 });
        assert_eq!(told(&bytes(&[1.0, 0.0, f32::NAN, 1.0]), 2), Mismatch::Vector(1));
        assert_eq!(told(&bytes(&[f32::MAX, 0.0, 0.0, 1.0]), 2), Mismatch::Vector(0));
    }
}
