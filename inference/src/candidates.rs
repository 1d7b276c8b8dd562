//! Quantised log-probabilities: what a sampler sees of a model's logits.

use std::f64::consts::LN_2;

use crate::EngineError;

/// Units of [`Candidate::cost`] in one bit.
pub const COST_SCALE: u32 = 4096;

/// The greatest [`Candidate::cost`]; less likely tokens are saturated to it.
pub const MAX_COST: u32 = 1 << 20;

/// A token that may come next, and its quantised negative log2-probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Candidate {
    /// `round(-log2(p) * 4096)` over the whole vocabulary, at most [`MAX_COST`].
    pub cost: u32,
    /// Token id.
    pub token: u32,
}

/// The `top_k` likeliest tokens of a full softmax over `logits`, ordered by cost and then by token id.
///
/// The softmax is taken in f64 with the maximum subtracted; logits that are not numbers are an error.
pub fn candidates(logits: &[f32], top_k: usize) -> Result<Vec<Candidate>, EngineError> {
    Ok(Softmax::of(logits)?.top(top_k))
}

/// The distribution that logits stand for.
pub(crate) struct Softmax<'a> {
    logits: &'a [f32],
    max: f64,
    log_sum: f64,
}

impl<'a> Softmax<'a> {
    pub(crate) fn of(logits: &'a [f32]) -> Result<Self, EngineError> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !max.is_finite() || logits.iter().any(|logit| logit.is_nan()) {
            return Err(EngineError::NotFinite);
        }
        let max = f64::from(max);
        let log_sum = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum::<f64>().ln();
        Ok(Self { logits, max, log_sum })
    }

    /// The natural log-probability of a token that the model has.
    pub(crate) fn log_probability(&self, token: u32) -> Option<f64> {
        self.logits.get(token as usize).map(|&logit| f64::from(logit) - self.max - self.log_sum)
    }

    fn cost(&self, logit: f32) -> u32 {
        cost(self.log_sum - (f64::from(logit) - self.max))
    }

    pub(crate) fn cost_of(&self, token: u32) -> Option<u32> {
        self.logits.get(token as usize).map(|&logit| self.cost(logit))
    }

    pub(crate) fn top(&self, top_k: usize) -> Vec<Candidate> {
        if top_k == 0 {
            return Vec::new();
        }
        let mut all: Vec<Candidate> = (0u32..)
            .zip(self.logits)
            .map(|(token, &logit)| Candidate { token, cost: self.cost(logit) })
            .collect();
        if top_k < all.len() {
            all.select_nth_unstable(top_k - 1);
            all.truncate(top_k);
        }
        all.sort_unstable();
        all
    }
}

fn cost(nats: f64) -> u32 {
    let units = (nats / LN_2 * f64::from(COST_SCALE)).round();
    units.clamp(0.0, f64::from(MAX_COST)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(found: &[Candidate]) -> Vec<u32> {
        found.iter().map(|candidate| candidate.token).collect()
    }

    #[test]
    fn a_uniform_distribution_costs_its_bits() {
        let found = candidates(&[3.5; 8], 8).unwrap();
        assert!(found.iter().all(|candidate| candidate.cost == 3 * 4096));
        assert_eq!(tokens(&found), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn costs_are_normalised_over_the_whole_vocabulary() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37 % 101) as f32) / 11.0).collect();
        let all = candidates(&logits, logits.len()).unwrap();
        let sum: f64 = all.iter().map(|c| (-f64::from(c.cost) / 4096.0).exp2()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "sum {sum}");
        let few = candidates(&logits, 7).unwrap();
        assert_eq!(few, all[..7]);
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn ties_at_the_cut_go_to_the_lower_token() {
        let found = candidates(&[0.0, 5.0, 5.0, 5.0, 9.0], 3).unwrap();
        assert_eq!(tokens(&found), [4, 1, 2]);
    }

    #[test]
    fn impossible_tokens_saturate_and_broken_logits_are_refused() {
        let found = candidates(&[0.0, f32::NEG_INFINITY, -1e30], 3).unwrap();
        assert_eq!(found[0], Candidate { token: 0, cost: 0 });
        assert_eq!(found[1], Candidate { token: 1, cost: MAX_COST });
        assert_eq!(found[2], Candidate { token: 2, cost: MAX_COST });
        for broken in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[]] {
            assert!(matches!(candidates(broken, 2), Err(EngineError::NotFinite)));
        }
    }
}
