use crate::Millis;
use crate::money::MicroUsdc;
use serde::{Deserialize, Serialize};

/// The numbers a pool posts (marked ° in the specification), fixed for one epoch by the record that opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Posted {
    /// Length of an epoch, by record time.
    pub epoch: Millis,
    /// Length of a claim window; 0 means first come, first served.
    pub window: Millis,
    /// The longest lease.
    pub lease: Millis,
    /// How soon after the lease the first progress is due.
    pub first_progress: Millis,
    /// How soon after one progress the next is due.
    pub progress: Millis,
    /// The longest fetch of a proof's content.
    pub fetch: Millis,
    /// Time between two heartbeats of one miner.
    pub heartbeat: Millis,
    /// First cooldown after a lost lease; doubles with each further loss.
    pub cooldown: Millis,
    /// The longest cooldown.
    pub max_cooldown: Millis,
    /// Reputation from which a wallet is established.
    pub established: MicroUsdc,
    /// Operator fees per doubling of a wallet's weight.
    pub fee_unit: MicroUsdc,
    /// What a new client of a test pool starts with.
    pub test_credit: MicroUsdc,
    /// Open jobs one client may have at once.
    pub max_open_jobs: u32,
    /// The PPS rate's share of the average, in percent.
    pub pps_percent: u32,
    /// Share of accepted proofs audited, in 1/10000.
    pub audit_rate: u32,
}

impl Default for Posted {
    fn default() -> Self {
        Self {
            epoch: Millis::from_secs(3600),
            window: Millis(400),
            lease: Millis::from_secs(300),
            first_progress: Millis::from_secs(30),
            progress: Millis::from_secs(30),
            fetch: Millis::from_secs(30),
            heartbeat: Millis::from_secs(30),
            cooldown: Millis::from_secs(30),
            max_cooldown: Millis::from_secs(3600),
            established: MicroUsdc(1_000_000),
            fee_unit: MicroUsdc(250_000),
            test_credit: MicroUsdc(100_000_000),
            max_open_jobs: 10_000,
            pps_percent: 95,
            audit_rate: 500,
        }
    }
}
