//! The node's clock: wall time at the start, monotonic from there, so that a clock set while it runs moves nothing.

use std::time::{Instant, SystemTime, UNIX_EPOCH};
use swarm_protocol::Timestamp;

/// A clock that never jumps.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started_at: Timestamp,
    started: Instant,
}

impl Clock {
    /// Reads the wall clock once. `SWARMPOOL_CLOCK_OFFSET_MS` shifts it in debug builds, for tests.
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        Self { started_at: Timestamp(wall.saturating_add_signed(offset())), started: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Timestamp(self.started_at.0.saturating_add(elapsed))
    }

    /// When `at` is, for timers.
    pub fn instant(&self, at: Timestamp) -> tokio::time::Instant {
        let ahead = at.since(self.started_at).0.min(365 * 24 * 3600 * 1000);
        tokio::time::Instant::from_std(self.started + std::time::Duration::from_millis(ahead))
    }
}

#[cfg(debug_assertions)]
fn offset() -> i64 {
    std::env::var("SWARMPOOL_CLOCK_OFFSET_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(not(debug_assertions))]
fn offset() -> i64 {
    0
}
