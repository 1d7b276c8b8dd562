//! Many jobs of one wallet: one miss decides nothing.

use super::{Distances, SHARE, Tolerance, count};
use serde::{Deserialize, Serialize};

/// How one wallet's audited jobs look together: how far its misses and strays are beyond what honest ones come to.
///
/// Two cumulative sums of likelihood ratios in 1/4096 bit, <https://doi.org/10.1093/biomet/41.1-2.100>, of misses
/// against 64 times the honest rate, of strays against 4 times, never below 0. Each of an honest wallet passes [`SCORE_LIMIT`]
/// once in 2^17 jobs on average or more rarely, however long it lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Of jobs that were not within the tolerance.
    pub misses: u64,
    /// Of tokens that the seed would not have picked.
    pub strays: u64,
}

/// A score beyond this is not one of an honest wallet: 17 bits.
pub const SCORE_LIMIT: u64 = 17 << 12;
/// Of honest jobs that are not within a tolerance, as a share of [`SHARE`]: what tolerances are calibrated for.
pub const MISS_SHARE: u32 = 10;
/// The rate of misses that a score looks for, in honest ones, as a power of two.
pub(super) const MISS_FACTOR: u32 = 6;
/// The rate of strays that a score looks for, in honest ones, as a power of two.
pub(super) const STRAY_FACTOR: u32 = 2;
/// log₂ e in 1/4096 bit, rounded up.
const LOG2_E: u64 = 5910;

impl Score {
    /// Takes the next audited job.
    pub fn push(&mut self, found: &Distances, tolerance: &Tolerance) {
        let missed = u32::from(found.judge(tolerance).is_err());
        self.misses = cumulated(self.misses, missed, MISS_SHARE, 1, MISS_FACTOR);
        let tokens = count(found.positions.len());
        self.strays = cumulated(self.strays, found.strays, tolerance.strays, tokens, STRAY_FACTOR);
    }

    /// Whether they are too many to be honest.
    pub fn is_beyond(&self) -> bool {
        self.misses.max(self.strays) > SCORE_LIMIT
    }
}

/// `hits` of `n` where an honest share would be `share`, against 2^`factor` times that: each hit is worth `factor` bits,
/// and all that were expected take off as much as makes an honest sum's exponential shrink (`1 + x ≤ e^x`).
pub(super) fn cumulated(sum: u64, hits: u32, share: u32, n: u32, factor: u32) -> u64 {
    let gain = u64::from(hits) * (u64::from(factor) << 12);
    let expected = u128::from(n) * u128::from(share) * ((1 << factor) - 1);
    let loss = (expected * u128::from(LOG2_E)).div_ceil(u128::from(SHARE));
    sum.saturating_add(gain).saturating_sub(u64::try_from(loss).unwrap_or(u64::MAX))
}
