//! The normative sampler: quantised log-probabilities and one 64-bit draw per position give a token, in integers only.
//!
//! Every node that repeats it gets the same token to the bit, whatever its hardware: this is what makes an answer of
//! assurance *seeded* checkable without the model.

use crate::codec::{hash, keyed};
use swarm_crypto::digest::{Context, Digest};

/// Most candidates of one position; a manifest's K is at most this.
pub const MAX_TOP_K: usize = 256;
/// The highest cost of a candidate, 256 bits; less likely tokens saturate here.
pub const MAX_COST: u32 = 1 << 20;
/// The weight of probability 1: weights are fixed-point numbers with 32 fractional bits.
pub const ONE: u64 = 1 << 32;

/// 1/10000 is the unit of temperature and top-p.
const UNIT: u64 = 10_000;
/// 1/4096 of a bit is the unit of a cost.
const COST_BITS: u32 = 12;

/// `2^(−2^−k)` for k = 1 to 12 in units of 2^−64: `c₁ = ⌊√2^127⌋`, `cₖ₊₁ = ⌊√(cₖ · 2^64)⌋`.
const ROOTS: [u64; COST_BITS as usize] = [
    0xb504_f333_f9de_6484,
    0xd744_fcca_d69d_6af4,
    0xeac0_c6e7_dd24_392e,
    0xf525_7d15_2486_cc2c,
    0xfa83_b2db_722a_033a,
    0xfd3e_0c0c_f486_c174,
    0xfe9e_115c_7b8f_884b,
    0xff4e_cb59_511e_c8a4,
    0xffa7_5652_1c8d_aed1,
    0xffd3_a751_c0f7_e10b,
    0xffe9_d2b2_f7db_2755,
    0xfff4_e91b_ff1b_8c3d,
];

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// `−log2` of its probability under the model's own distribution, in 1/4096 bit, rounded to the nearest.
    pub cost: u32,
}

/// `sampling seed = H(lease id, params.seed)`, an omitted seed being 0.
pub fn sampling_seed(lease: &Digest, seed: Option<u64>) -> Digest {
    hash(Context::Sampling, &(lease, seed.unwrap_or(0)))
}

/// The draw of output position `position`, counted from 0: the first 64 bits of `keyed(sampling seed; position)`.
pub fn draw(seed: &Digest, position: u64) -> u64 {
    keyed(&seed.0, &(position,)).first_u64_be()
}

/// The token that `draw` picks from `candidates`, which ascend by (cost, token); `None` without candidates.
///
/// Temperature and top-p are in 1/10000; temperature 0 takes the first candidate. Top-p is a share of the candidates'
/// weight after the temperature.
pub fn sample(temperature: u32, top_p: u32, draw: u64, candidates: &[Candidate]) -> Option<u32> {
    let first = candidates.first()?;
    if temperature == 0 {
        return Some(first.token);
    }
    pick(temperature, top_p, draw, first.cost, candidates)
}

/// The same for a temperature over 0 and candidates in any order, `least` being the lowest of their costs.
pub(crate) fn pick(
    temperature: u32,
    top_p: u32,
    draw: u64,
    least: u32,
    candidates: &[Candidate],
) -> Option<u32> {
    let weights = || candidates.iter().map(|c| tempered(c.cost.saturating_sub(least), temperature));
    let total: u64 = weights().sum();
    let wanted = share(total, top_p);
    let kept = prefix_sums(weights()).find(|sum| *sum >= wanted).unwrap_or(total);
    let target = u64::try_from((u128::from(draw) * u128::from(kept)) >> 64).expect("below the kept weight");
    let picked = prefix_sums(weights()).position(|sum| sum > target)?;
    Some(candidates[picked].token)
}

/// `⌊2^(32 − distance/4096)⌋` as the normative product of roots: the weight of a token `distance` behind certainty.
pub fn weight(distance: u64) -> u64 {
    let whole = distance >> COST_BITS;
    if whole > 32 {
        return 0;
    }
    let mut fraction = 1u64 << 63;
    for (k, root) in ROOTS.iter().enumerate() {
        if distance >> (COST_BITS as usize - 1 - k) & 1 == 1 {
            fraction = u64::try_from((u128::from(fraction) * u128::from(*root)) >> 64).expect("below 2^63");
        }
    }
    fraction >> (31 + whole)
}

fn tempered(difference: u32, temperature: u32) -> u64 {
    weight(u64::from(difference) * UNIT / u64::from(temperature))
}

/// `⌈top_p × total / 10000⌉`.
fn share(total: u64, top_p: u32) -> u64 {
    let exact = (u128::from(total) * u128::from(top_p)).div_ceil(u128::from(UNIT));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

fn prefix_sums(weights: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    weights.scan(0u64, |sum, weight| {
        *sum += weight;
        Some(*sum)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(costs: &[u32]) -> Vec<Candidate> {
        (100..).zip(costs).map(|(token, &cost)| Candidate { token, cost }).collect()
    }

    #[test]
    fn the_roots_are_what_integer_square_roots_say() {
        let mut root = (1u128 << 127).isqrt();
        for (k, written) in ROOTS.iter().enumerate() {
            assert_eq!(u128::from(*written), root, "root {}", k + 1);
            let exact = (-(0.5f64.powi(k as i32 + 1))).exp2();
            assert!((*written as f64 / 2f64.powi(64) - exact).abs() < 1e-15, "root {}", k + 1);
            root = (root << 64).isqrt();
        }
    }

    #[test]
    fn weights_fall_strictly_until_they_vanish_and_are_powers_of_two_at_whole_bits() {
        for bits in 0..=32 {
            assert_eq!(weight(bits << COST_BITS), ONE >> bits);
        }
        assert_eq!(weight((32 << COST_BITS) + 1), 0);
        assert_eq!(weight(u64::MAX), 0);
        for distance in 0..(34u64 << COST_BITS) {
            let (here, next) = (weight(distance), weight(distance + 1));
            assert!(next <= here && (next < here || distance > 19 << COST_BITS), "{distance}");
            let exact = (32.0 - distance as f64 / 4096.0).exp2();
            assert!(here as f64 <= exact && exact - (here as f64) < 1.001, "{distance}");
        }
    }

    #[test]
    fn the_draw_walks_through_the_candidates_in_order() {
        let all = candidates(&[4096, 8192, 12288, 12288]);
        let mut before = 0;
        for step in 0..4096u64 {
            let token = sample(10_000, 10_000, step << 52, &all).unwrap();
            assert!(token >= before);
            before = token;
        }
        assert_eq!(sample(10_000, 10_000, 0, &all), Some(100));
        assert_eq!(sample(10_000, 10_000, u64::MAX, &all), Some(103));
        let at = |share: u64| sample(10_000, 10_000, share << 61, &all).unwrap();
        assert_eq!([at(0), at(3), at(4), at(5), at(6), at(7)], [100, 100, 101, 101, 102, 103]);
    }

    #[test]
    fn top_p_keeps_the_shortest_prefix_that_reaches_it() {
        let all = candidates(&[4096, 8192, 12288, 12288]);
        for (top_p, last) in
            [(1, 100), (5000, 100), (5001, 101), (7500, 101), (7501, 102), (8751, 103), (10_000, 103)]
        {
            assert_eq!(sample(10_000, top_p, u64::MAX, &all), Some(last), "top_p {top_p}");
        }
    }

    #[test]
    fn extremes_pick_what_they_must() {
        let all = candidates(&[0, 1, 4096, MAX_COST]);
        for draw in [0, 1 << 63, u64::MAX] {
            assert_eq!(sample(0, 1, draw, &all), Some(100), "greedy");
            assert_eq!(sample(1, 10_000, draw, &candidates(&[0, 64])), Some(100), "nearly greedy");
            assert_eq!(sample(100_000, 1, draw, &all), Some(100));
            assert_eq!(sample(777, 10_000, draw, &candidates(&[MAX_COST])), Some(100), "alone");
            assert_eq!(sample(10_000, 10_000, draw, &[]), None);
        }
        let far = candidates(&[MAX_COST; MAX_TOP_K]);
        assert_eq!(sample(100_000, 10_000, u64::MAX, &far), Some(100 + MAX_TOP_K as u32 - 1));
        assert_eq!(sample(100_000, 10_000, u64::MAX, &all), Some(103), "256 bits at a tenth are 25.6");
        assert_eq!(sample(10_000, 10_000, u64::MAX, &all), Some(102), "256 bits are never drawn");
        assert_eq!(sample(1, 10_000, u64::MAX, &candidates(&[0, u32::MAX])), Some(100));
    }

    #[test]
    fn frequencies_are_those_of_the_tempered_distribution() {
        const DRAWS: u64 = 40_000;
        let all = candidates(&[3000, 5000, 9000, 9001, 14_000, 17_000, 22_000, 26_000]);
        for (case, (temperature, top_p)) in
            [(10_000, 10_000), (7_000, 10_000), (25_000, 10_000), (10_000, 8_000), (100_000, 9_000)]
                .into_iter()
                .enumerate()
        {
            let seed = sampling_seed(&Digest([case as u8; 32]), Some(7));
            let mut seen = vec![0u64; all.len()];
            for position in 0..DRAWS {
                let token = sample(temperature, top_p, draw(&seed, position), &all).unwrap();
                seen[token as usize - 100] += 1;
            }
            let expected = expected(temperature, top_p, &all);
            let mut chi = 0.0;
            for (seen, share) in seen.iter().zip(&expected) {
                let mean = share * DRAWS as f64;
                assert!(mean > 0.0 || *seen == 0, "outside top-p");
                chi += if mean > 0.0 { (*seen as f64 - mean).powi(2) / mean } else { 0.0 };
            }
            assert!(
                chi < 29.9,
                "chi-square {chi} of 7 degrees of freedom is beyond 1 in 10,000, case {case}"
            );
        }
    }

    /// The distribution as anybody would write it in floats.
    fn expected(temperature: u32, top_p: u32, all: &[Candidate]) -> Vec<f64> {
        let exponent = |c: &Candidate| -f64::from(c.cost) / 4096.0 * 10_000.0 / f64::from(temperature);
        let weights: Vec<f64> = all.iter().map(|c| exponent(c).exp2()).collect();
        let wanted = weights.iter().sum::<f64>() * f64::from(top_p) / 10_000.0;
        let mut kept = 0.0;
        let cut: Vec<f64> = weights
            .iter()
            .map(|w| {
                let keep = if kept < wanted { *w } else { 0.0 };
                kept += w;
                keep
            })
            .collect();
        let total: f64 = cut.iter().sum();
        cut.iter().map(|w| w / total).collect()
    }
}
