//! How fast a job of text went, and what it took.

use serde::{Deserialize, Serialize};
use std::fmt;
use swarm_inference::Generation;

/// Of one job. `docs/status.md` describes its JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    pub tokens: u64,
    /// Until the first of them.
    pub first_token_s: f64,
    /// Of those after the first.
    pub tokens_per_s: f64,
    /// Where the machine tells what it uses.
    pub tokens_per_kj: Option<f64>,
    /// Tokens a second for each 10^12 operations a second of the last benchmark that this miner has run.
    pub tokens_per_tflop_s: Option<f64>,
}

impl Pace {
    pub(super) fn of(made: &Generation) -> Self {
        let (tokens, rest) = (made.ids.len(), made.decode_time.as_secs_f64());
        // The first token was there when the rest began.
        let after = tokens.saturating_sub(1) as f64;
        Self {
            tokens: tokens as u64,
            first_token_s: made.prompt_time.as_secs_f64(),
            tokens_per_s: if rest > 0.0 { after / rest } else { 0.0 },
            tokens_per_kj: None,
            tokens_per_tflop_s: None,
        }
    }

    /// The same with what the machine used, and with what a benchmark found.
    pub(super) fn with(self, joules: Option<f64>, gflop_s: Option<f64>) -> Self {
        let per = |amount: f64, of: f64| if of > 0.0 { amount / of } else { 0.0 };
        Self {
            tokens_per_kj: joules.map(|joules| per(self.tokens as f64, joules / 1e3)),
            tokens_per_tflop_s: gflop_s.map(|gflop_s| per(self.tokens_per_s, gflop_s / 1e3)),
            ..self
        }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, first_token_s, tokens_per_s, .. } = self;
        write!(
            f,
            "the first of {tokens} tokens after {first_token_s:.2} s, then {tokens_per_s:.0} a second"
        )?;
        self.tokens_per_kj.map_or(Ok(()), |per_kj| write!(f, ", {per_kj:.0} for a kilojoule"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use swarm_inference::StopReason;

    #[test]
    fn rates_are_of_what_came_after_the_first_token() {
        let made = Generation {
            ids: vec![1; 41],
            prompt_time: Duration::from_millis(250),
            decode_time: Duration::from_secs(2),
            stop_reason: StopReason::MaxTokens,
            output: Vec::new(),
        };
        let pace = Pace::of(&made);
        assert_eq!((pace.tokens, pace.first_token_s, pace.tokens_per_s), (41, 0.25, 20.0));
        let pace = pace.with(Some(500.0), Some(4000.0));
        assert_eq!((pace.tokens_per_kj, pace.tokens_per_tflop_s), (Some(82.0), Some(5.0)));
        let told = "the first of 41 tokens after 0.25 s, then 20 a second, 82 for a kilojoule";
        assert_eq!(pace.to_string(), told);
    }
}
