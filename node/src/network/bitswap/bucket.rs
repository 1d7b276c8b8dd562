//! A budget that refills with time.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// Tokens of a billionth of a unit, so that no refill is lost to rounding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    tokens: i128,
    filled_at: Duration,
    per_second: u64,
    burst: u64,
}

impl Bucket {
    pub(super) fn new(per_second: u64, burst: u64, now: Duration) -> Self {
        Self { tokens: nanos(burst), filled_at: now, per_second, burst }
    }

    /// Whether anything is left.
    pub(super) fn has_some(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens > 0
    }

    /// Takes more than there is too: what follows waits the longer.
    pub(super) fn charge(&mut self, units: u64) {
        self.tokens -= nanos(units);
    }

    /// Takes these units if they are there.
    pub(super) fn try_charge(&mut self, units: u64, now: Duration) -> bool {
        self.refill(now);
        let enough = self.tokens >= nanos(units);
        if enough {
            self.charge(units);
        }
        enough
    }

    /// When there will be something again.
    pub(super) fn refilled_at(&self) -> Duration {
        let lacking = u128::try_from(1 - self.tokens).unwrap_or(0);
        let wait = lacking.div_ceil(u128::from(self.per_second));
        self.filled_at + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_nanos().min(NANOS * 86_400);
        let fresh = (passed * u128::from(self.per_second)).cast_signed();
        self.tokens = (self.tokens + fresh).min(nanos(self.burst));
        self.filled_at = self.filled_at.max(now);
    }
}

fn nanos(units: u64) -> i128 {
    i128::from(units) * NANOS.cast_signed()
}
