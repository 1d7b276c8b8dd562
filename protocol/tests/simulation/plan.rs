//! What a seed stands for: who takes part, which numbers are posted, how bad the world is.

use crate::rng::Rng;
use crate::seeds::number;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::planted::Bug;
use swarm_protocol::{Millis, Posted};

/// Everything that is decided before a run begins. Times are in milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) bug: Option<Bug>,
    /// Whether everybody signs with a scribble that is believed: signatures are three quarters of a run's cost.
    pub(crate) vouch: bool,
    pub(crate) miners: usize,
    pub(crate) clients: usize,
    pub(crate) liars: usize,
    /// Jobs per honest client.
    pub(crate) jobs: u64,
    pub(crate) posted: Posted,
    /// What the operator wants to have put into the reserve.
    pub(crate) reserve: MicroUsdc,
    /// When the faults stop.
    pub(crate) calm_at: u64,
    /// Whether two more epochs are awaited after the last job.
    pub(crate) settle: bool,
    pub(crate) network: Weather,
    /// Crashes of the operator at a random time.
    pub(crate) crashes: u64,
    /// The operator crashes at these effects, counted over the run.
    pub(crate) crash_at_effects: Vec<u64>,
    pub(crate) partitions: u64,
    pub(crate) jumps: u64,
    pub(crate) miner_crashes: u64,
    pub(crate) client_crashes: u64,
    /// How far apart clocks are.
    pub(crate) skew: i64,
    /// Engines, fetches and examinations that fail or are late, in a thousand.
    pub(crate) mishaps: u64,
}

/// Fewest miners where proofs are audited: who proves, who looks, and two for a second opinion.
const AUDITING_MINERS: usize = 4;

/// What happens to a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// In a thousand.
    pub(crate) loss: u64,
    /// In a thousand.
    pub(crate) twice: u64,
    /// Packets in a thousand that are seconds late.
    pub(crate) strays: u64,
    pub(crate) delay: (u64, u64),
}

impl Weather {
    pub(crate) const CALM: Self = Self { loss: 0, twice: 0, strays: 0, delay: (1, 20) };
}

impl Plan {
    pub(crate) fn of(seed: u64, bug: Option<Bug>) -> Self {
        let rng = &mut Rng::new(seed);
        let mut often = |most: u64| if rng.chance(600) { rng.below(most + 1) } else { 0 };
        let (crashes, effects, partitions, jumps) = (often(2), often(3), often(3), often(2));
        let (miner_crashes, client_crashes, mishaps) = (often(2), often(2), often(120));
        let weather =
            Weather { loss: often(200), twice: often(200), strays: often(60), delay: (1, 5 + often(300)) };
        let (miners, clients, liars, jobs) =
            (rng.range(1, 4) as usize, rng.range(1, 3) as usize, rng.range(0, 2) as usize, rng.range(1, 4));
        let (posted, audited) = audited(seed, posted(rng));
        let miners = if posted.audit_rate > 0 { miners.max(AUDITING_MINERS) } else { miners };
        Self {
            seed,
            bug,
            vouch: number("SIM_VOUCH").is_some(),
            miners,
            clients,
            liars,
            jobs,
            posted,
            calm_at: rng.range(15_000, 40_000),
            settle: rng.chance(250) || audited,
            network: weather,
            crashes,
            crash_at_effects: (0..effects).map(|_| rng.below(250)).collect(),
            partitions,
            jumps,
            miner_crashes,
            client_crashes,
            skew: if rng.chance(500) { 8_000 } else { 0 },
            mishaps,
            reserve: MicroUsdc(if rng.chance(500) { rng.below(2_000_000) } else { 0 }),
        }
    }

    /// A plan in which nothing goes wrong but what the caller adds.
    pub(crate) fn quiet(seed: u64) -> Self {
        let plan = Self::of(seed, None);
        Self {
            miners: 2,
            clients: 2,
            liars: 0,
            jobs: 2,
            calm_at: 12_000,
            settle: false,
            network: Weather { delay: (1, 30), ..Weather::CALM },
            crashes: 0,
            crash_at_effects: Vec::new(),
            partitions: 0,
            jumps: 0,
            miner_crashes: 0,
            client_crashes: 0,
            skew: 0,
            mishaps: 0,
            ..plan
        }
    }
}

/// In half of the runs proofs are audited, in most of these by whoever is on the roster, and some of them last until all audits
/// have ended. Drawn apart from the rest of the plan.
fn audited(seed: u64, posted: Posted) -> (Posted, bool) {
    let rng = &mut Rng::new(seed ^ 0x0a0d_1750);
    let audit_rate = *rng.pick(&[0, 0, 4_000, 10_000]);
    let by_all = audit_rate > 0 && rng.chance(700);
    let established = if by_all { MicroUsdc(0) } else { posted.established };
    (Posted { audit_rate, established, ..posted }, audit_rate > 0 && rng.chance(600))
}

fn posted(rng: &mut Rng) -> Posted {
    let window = [0, 100, 400, 400][usize::try_from(rng.below(4)).expect("small")];
    Posted {
        epoch: Millis(rng.range(4_000, 15_000)),
        window: Millis(window),
        lease: Millis(rng.range(4_000, 15_000)),
        first_progress: Millis(rng.range(1_500, 5_000)),
        progress: Millis(rng.range(1_500, 5_000)),
        fetch: Millis(rng.range(1_000, 6_000)),
        heartbeat: Millis(rng.range(3_000, 6_000)),
        cooldown: Millis(rng.range(200, 3_000)),
        max_cooldown: Millis(10_000),
        established: MicroUsdc(*rng.pick(&[30, 200, 1_000_000])),
        fee_unit: MicroUsdc(*rng.pick(&[20, 100, 250_000])),
        test_credit: MicroUsdc(*rng.pick(&[900, 3_000, 100_000_000])),
        audit_rate: 0,
        max_open_jobs: if rng.chance(100) { 2 } else { 10_000 },
        ..Posted::default()
    }
}
