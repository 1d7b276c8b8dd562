//! The race for a job: who draws what, who claims when, and who wins.

use crate::codec::{JobId, Link, hash, keyed};
use crate::money::MicroUsdc;
use crate::statement::PayoutMode;
use crate::{Millis, Posted, Timestamp};
use serde::{Deserialize, Serialize};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Context, Digest};

/// The most weight a wallet can have.
pub const MAX_WEIGHT: u32 = 16;
/// Class-2 miners claim this many windows later.
pub const CLASS_2_DELAY: u32 = 2;
/// Claimants wanted in the first step.
const FIRST_STEP: u64 = 4;
/// The longest window, by rule.
pub const MAX_WINDOW: Millis = Millis(2000);

/// A wallet in the roster of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterEntry {
    /// The wallet.
    pub wallet: Address,
    /// Its weight, 1 to 16.
    pub w: u32,
    /// Operator fees of its upheld proofs in the last 168 epochs.
    pub fee168: MicroUsdc,
    /// Losses in the last 24 epochs, in halves.
    pub loss24: u32,
    /// Whether it is established: class 1.
    pub established: bool,
    /// Models it serves.
    pub models: Vec<String>,
    /// Jobs it runs at once.
    pub slots: u32,
    /// How it is paid in this epoch.
    pub mode: PayoutMode,
}

/// The wallets alive at a boundary, by wallet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roster(pub Vec<RosterEntry>);

impl Roster {
    /// The entry of `wallet`.
    pub fn get(&self, wallet: &Address) -> Option<&RosterEntry> {
        self.place(wallet).map(|place| &self.0[place])
    }

    /// Where the entry of `wallet` is.
    pub fn place(&self, wallet: &Address) -> Option<usize> {
        self.0.binary_search_by(|entry| entry.wallet.cmp(wallet)).ok()
    }

    /// The roster's block.
    pub fn encode(&self) -> Vec<u8> {
        crate::codec::encode(self)
    }

    /// The link to the roster's block.
    pub fn link(&self) -> Link {
        Link::of(&self.encode())
    }
}

/// `w = 1 + ⌊log2(1 + fee/unit)⌋`, at most 16, halved per whole loss, at least 1. `halves` counts half losses.
pub fn weight(fee: MicroUsdc, unit: MicroUsdc, halves: u32) -> u32 {
    let units = fee.0 / unit.0.max(1);
    let grown = (1 + units.saturating_add(1).ilog2()).min(MAX_WEIGHT);
    grown.checked_shr(halves / 2).unwrap_or(0).max(1)
}

/// `draw seed = keyed(s_N; job, attempt)`.
pub fn draw_seed(epoch_secret: &[u8; 32], job: &JobId, attempt: u32) -> Digest {
    keyed(epoch_secret, &(job, attempt))
}

/// `s_N = keyed(pool secret; pool id, N)`.
pub fn epoch_secret(pool_secret: &[u8; 32], pool: &swarm_crypto::address::PoolId, epoch: u64) -> Digest {
    keyed(pool_secret, &(pool, epoch))
}

/// `H(s_N)`.
pub fn secret_commitment(secret: &Digest) -> Digest {
    hash(Context::EpochSecret, &(secret,))
}

/// `draw(wallet) = min over t < w of H(seed, job, wallet, t)`; digests compare as 256-bit integers.
pub fn draw(seed: &Digest, job: &JobId, wallet: &Address, w: u32) -> Digest {
    (0..w.clamp(1, MAX_WEIGHT))
        .map(|t| hash(Context::Draw, &(seed, job, wallet, t)))
        .min()
        .expect("at least one draw")
}

/// A claimant's place in a race; the least wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// 1 established, 2 the rest.
    pub class: u8,
    /// Its draw.
    pub draw: Digest,
    /// Breaks the tie that will not happen.
    pub wallet: Address,
}

impl Rank {
    /// The place of `wallet` in the race of `seed`, given its roster entry and whether class 1 is open to all.
    pub fn of(
        seed: &Digest,
        job: &JobId,
        wallet: Address,
        entry: Option<&RosterEntry>,
        all_class_1: bool,
    ) -> Self {
        let established = entry.is_some_and(|e| e.established);
        let class = if all_class_1 || established { 1 } else { 2 };
        Self { class, draw: draw(seed, job, &wallet, entry.map_or(1, |e| e.w)), wallet }
    }
}

/// True if the seed opens class 1 to everybody: `seed mod 10 = 0` over the digest as a big-endian integer.
pub fn opens_class_1(seed: &Digest) -> bool {
    seed.0.iter().fold(0u32, |rest, byte| (rest * 256 + u32::from(*byte)) % 10) == 0
}

/// Step k is the least k with `draw < 2^k · 4 · 2^256 / R`, saturating; compared on the draw's first 64 bits.
pub fn step(draw: &Digest, free_weight: u64) -> u32 {
    let top = u128::from(draw.first_u64_be());
    let mut bound = (u128::from(FIRST_STEP) << 64) / u128::from(free_weight.max(1));
    let mut k = 0;
    while top >= bound {
        bound *= 2;
        k += 1;
    }
    k
}

/// The step that admits every draw.
pub fn last_step(free_weight: u64) -> u32 {
    step(&Digest([0xff; 32]), free_weight)
}

/// How many windows a race among so much free weight of both classes has, until all have had their turn.
pub fn windows((first, second): (u64, u64)) -> u32 {
    let late = if second == 0 { 0 } else { last_step(second) + 1 + CLASS_2_DELAY };
    late.max(last_step(first) + 1)
}

/// How long after the listing a claimant speaks.
pub fn claim_delay(rank: &Rank, free: (u64, u64), registered_later: bool, window: Millis) -> Millis {
    let free_weight = if rank.class == 1 { free.0 } else { free.1 };
    let late = if rank.class == 1 { 0 } else { CLASS_2_DELAY };
    let k = if registered_later { last_step(free_weight) + 1 } else { step(&rank.draw, free_weight) };
    window.times(u64::from(k + late))
}

/// Index of the window that is open at `now`.
pub fn window_index(listed_at: Timestamp, now: Timestamp, window: Millis) -> u32 {
    let elapsed = now.since(listed_at).0;
    u32::try_from(elapsed.checked_div(window.0).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// When window `index` closes; with no window it never opened.
pub fn window_close(listed_at: Timestamp, index: u32, window: Millis) -> Timestamp {
    listed_at + window.times(u64::from(index) + 1)
}

/// The window to post: the p99 of listing-to-claim times, at least the posted minimum, at most two seconds.
pub fn posted_window(least: Millis, claim_p99: Millis) -> Millis {
    if least.0 == 0 { least } else { claim_p99.max(least).min(MAX_WINDOW) }
}

/// Where in a queue of `length` a wallet starts reading: `H(wallet, turn) mod length`; the operator's turn moves on.
pub fn queue_start(wallet: &Address, turn: u64, length: u64) -> u64 {
    hash(Context::Queue, &(wallet, turn)).first_u64_be() % length.max(1)
}

/// How long after its `losses`-th loss a wallet waits: the base, doubled each time, up to the cap.
pub fn cooldown(posted: &Posted, losses: u32) -> Millis {
    let doubled =
        posted.cooldown.0.saturating_mul(1u64.checked_shl(losses.saturating_sub(1)).unwrap_or(u64::MAX));
    Millis(doubled.min(posted.max_cooldown.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(first: u64) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&first.to_be_bytes());
        Digest(bytes)
    }

    #[test]
    fn weights_grow_by_doublings_and_shrink_by_losses() {
        let unit = MicroUsdc(250_000);
        let cases = [
            (0, 0, 1),
            (249_999, 0, 1),
            (250_000, 0, 2),
            (750_000, 0, 3),
            (u64::MAX, 0, 16),
            (u64::MAX, 1, 16),
        ];
        for (fee, halves, w) in cases {
            assert_eq!(weight(MicroUsdc(fee), unit, halves), w, "{fee} {halves}");
        }
        assert_eq!(weight(MicroUsdc(u64::MAX), unit, 2), 8);
        assert_eq!(weight(MicroUsdc(u64::MAX), unit, 200), 1);
    }

    #[test]
    fn four_claim_at_first_and_twice_as_many_each_step() {
        assert_eq!(step(&digest(u64::MAX), 4), 0);
        assert_eq!(step(&digest(u64::MAX), 8), 1);
        assert_eq!(step(&digest(u64::MAX / 1024), 4096), 0);
        assert_eq!(step(&digest(u64::MAX / 1024 + 2), 4096), 1);
        assert_eq!(last_step(4096), 10);
    }

    #[test]
    fn a_race_has_a_window_for_every_step_of_either_class() {
        for (free, expected) in
            [((0, 0), 1), ((1, 0), 1), ((4096, 0), 11), ((4, 1), 3), ((4096, 4), 11), ((4, 4096), 13)]
        {
            assert_eq!(windows(free), expected, "{free:?}");
        }
    }

    #[test]
    fn more_weight_never_draws_worse() {
        let job = Link([7; 32]);
        let wallet = Address([9; 20]);
        for seed in 0..50 {
            let seed = digest(seed);
            assert!(draw(&seed, &job, &wallet, 16) <= draw(&seed, &job, &wallet, 1));
        }
    }

    #[test]
    fn one_seed_in_ten_opens_class_1() {
        assert!(opens_class_1(&Digest::ZERO));
        let mut ten = Digest::ZERO;
        ten.0[31] = 10;
        assert!(opens_class_1(&ten));
        ten.0[30] = 1;
        assert_eq!(opens_class_1(&ten), (256 + 10) % 10 == 0);
    }
}
