//! How much is taken of anybody at once: token buckets, in bounded memory, time passed in.
//!
//! Three things are told apart. A **known signer** (the caller says who is known: wallets with money in the pool, on
//! its roster or with a lease) has a bucket of its own for each class of kinds, charged only once its signature has
//! been verified and only for what is new: nobody else can empty it, neither with forgeries in its name nor by
//! repeating what it said. **Strangers** cost nothing to make, so they have no bucket each; all that one peer brings
//! share a small one, charged before the signature is looked at. What a peer **hands over** itself has buckets apart
//! from what it forwards, so a peer through whom others flood still gets its own words in. The operator's statements
//! are never counted.
//!
//! The least recently used bucket is forgotten first, which fills it again: memory can be bounded only so, and an
//! attacker gains nothing by it that as many fresh peers would not give it.

use crate::statement::Kind;
use crate::{Rejection, Timestamp};
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// Buckets remembered.
pub const MAX_BUCKETS: usize = 65_536;

/// How much is taken: at once, and lasting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// After a pause.
    pub burst: u32,
    /// In the long run.
    pub per_second: u32,
}

/// Jobs and cancellations of one client: ten thousand open jobs are legal, and take it three minutes.
pub const ORDERS: Rate = Rate { burst: 1000, per_second: 50 };
/// Claims, releases and proofs of one miner, which has 256 slots at most.
pub const RACE: Rate = Rate { burst: 2048, per_second: 256 };
/// Heartbeats of one miner; ordinarily one in 30 s, in tests several a second.
pub const PRESENCE: Rate = Rate { burst: 64, per_second: 4 };
/// Progress of one miner: one a second of each of 256 leases, and as much again.
pub const PROGRESS: Rate = Rate { burst: 1024, per_second: 512 };
/// Statements by all strangers together that one peer forwards, and as many that it hands over.
pub const STRANGERS: Rate = Rate { burst: 32, per_second: 8 };
/// Statements by anybody that one peer hands over, valid or not: each may cost a signature check.
pub const HANDED: Rate = Rate { burst: 4096, per_second: 1024 };
/// Questions of one peer.
pub const QUESTIONS: Rate = Rate { burst: 1024, per_second: 128 };

/// Kinds of one signer that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// What clients say.
    Orders,
    /// What miners say of jobs.
    Race,
    /// What miners say of themselves.
    Presence,
    /// How a lease gets on.
    Progress,
}

impl Class {
    /// The class of a kind; none for kinds that are the operator's.
    pub fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Job | Kind::Cancel => Some(Self::Orders),
            Kind::Claim | Kind::Release | Kind::Proof | Kind::Attestation | Kind::Challenge => {
                Some(Self::Race)
            }
            Kind::Heartbeat | Kind::Revocation => Some(Self::Presence),
            Kind::Progress => Some(Self::Progress),
            Kind::Admitted
            | Kind::Refusal
            | Kind::Listing
            | Kind::Lease
            | Kind::LeaseEnded
            | Kind::Receipt
            | Kind::AuditPicked
            | Kind::Beacon
            | Kind::EpochOpened
            | Kind::EpochSealed => None,
        }
    }
}

/// What is counted apart. A peer is named by any digest of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meter {
    /// A known signer's statements of one class.
    Signer(Address, Class),
    /// Strangers' statements that a peer forwards.
    Forwarded(Digest),
    /// Strangers' statements that a peer hands over.
    Introduced(Digest),
    /// All statements that a peer hands over.
    Handed(Digest),
    /// Questions of a peer.
    Questions(Digest),
}

impl Meter {
    /// How fast it runs.
    pub fn rate(&self) -> Rate {
        match self {
            Self::Signer(_, Class::Orders) => ORDERS,
            Self::Signer(_, Class::Race) => RACE,
            Self::Signer(_, Class::Presence) => PRESENCE,
            Self::Signer(_, Class::Progress) => PROGRESS,
            Self::Forwarded(_) | Self::Introduced(_) => STRANGERS,
            Self::Handed(_) => HANDED,
            Self::Questions(_) => QUESTIONS,
        }
    }

    fn spent(&self) -> Rejection {
        match self {
            Self::Signer(by, _) => Rejection::RateLimited(*by),
            Self::Forwarded(_) | Self::Introduced(_) => Rejection::TooManyStrangers,
            Self::Handed(_) | Self::Questions(_) => Rejection::PeerRateLimited,
        }
    }
}

#[derive(Debug)]
struct Bucket {
    /// Thousandths of a token: a millisecond adds whole ones at any rate.
    thousandths: u64,
    at: Timestamp,
    turn: u64,
}

/// All buckets of one receiver.
#[derive(Debug, Default)]
pub struct Allowance {
    buckets: BTreeMap<Meter, Bucket>,
    /// By when they were used last.
    order: BTreeMap<u64, Meter>,
    turn: u64,
}

impl Allowance {
    /// Takes one token, or says who is to wait. A clock that goes back adds nothing and takes nothing away.
    pub fn take(&mut self, meter: Meter, now: Timestamp) -> Result<(), Rejection> {
        let rate = meter.rate();
        let full = u64::from(rate.burst) * 1000;
        self.turn += 1;
        let turn = self.turn;
        let fresh = Bucket { thousandths: full, at: now, turn };
        let bucket = self.buckets.entry(meter).or_insert(fresh);
        self.order.remove(&bucket.turn);
        self.order.insert(turn, meter);
        bucket.turn = turn;
        let gained = now.since(bucket.at).0.saturating_mul(u64::from(rate.per_second));
        bucket.thousandths = bucket.thousandths.saturating_add(gained).min(full);
        bucket.at = bucket.at.max(now);
        let left = bucket.thousandths.checked_sub(1000);
        bucket.thousandths = left.unwrap_or(bucket.thousandths);
        if self.buckets.len() > MAX_BUCKETS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.buckets.remove(&oldest);
        }
        left.map(|_| ()).ok_or_else(|| meter.spent())
    }

    /// Buckets remembered at this moment.
    pub fn remembered(&self) -> usize {
        self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Millis;
    use crate::statement::Role;

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn peer(n: u64) -> Digest {
        swarm_crypto::digest::blake3(&n.to_be_bytes())
    }

    fn passed(allowance: &mut Allowance, meter: Meter, tries: u32, now: Timestamp) -> u32 {
        (0..tries).filter(|_| allowance.take(meter, now).is_ok()).count() as u32
    }

    #[test]
    fn a_burst_passes_at_once_and_then_as_much_as_the_rate_allows() {
        let (mut allowance, meter) = (Allowance::default(), Meter::Forwarded(peer(1)));
        assert_eq!(passed(&mut allowance, meter, 1000, START), STRANGERS.burst);
        assert_eq!(passed(&mut allowance, meter, 1000, START + Millis(1)), 0);
        assert_eq!(passed(&mut allowance, meter, 1000, START + Millis(125)), 1);
        assert_eq!(passed(&mut allowance, meter, 1000, START + Millis(1125)), STRANGERS.per_second);
        assert_eq!(passed(&mut allowance, meter, 1000, START), 0, "a clock that went back");
        assert_eq!(
            passed(&mut allowance, meter, 1000, START + Millis::from_secs(3600)),
            STRANGERS.burst,
            "no more is saved up than a burst"
        );
    }

    #[test]
    fn one_meter_does_not_run_for_another() {
        let mut allowance = Allowance::default();
        let (miner, other) = (Address([1; 20]), Address([2; 20]));
        assert_eq!(passed(&mut allowance, Meter::Signer(miner, Class::Presence), 100, START), PRESENCE.burst);
        for untouched in [
            Meter::Signer(miner, Class::Race),
            Meter::Signer(other, Class::Presence),
            Meter::Forwarded(peer(1)),
            Meter::Introduced(peer(1)),
            Meter::Handed(peer(1)),
            Meter::Questions(peer(1)),
        ] {
            assert_eq!(
                passed(&mut allowance, untouched, 5000, START),
                untouched.rate().burst,
                "{untouched:?}"
            );
        }
    }

    #[test]
    fn the_least_recently_used_is_forgotten_first() {
        let mut allowance = Allowance::default();
        let (idle, busy) = (Meter::Forwarded(peer(0)), Meter::Forwarded(peer(1)));
        assert_eq!(passed(&mut allowance, idle, 1000, START), STRANGERS.burst);
        assert_eq!(passed(&mut allowance, busy, 1000, START), STRANGERS.burst);
        for n in 2..=MAX_BUCKETS as u64 {
            allowance.take(Meter::Forwarded(peer(n)), START).unwrap();
            assert_eq!(allowance.take(busy, START), Err(Rejection::TooManyStrangers));
        }
        assert_eq!((allowance.remembered(), allowance.order.len()), (MAX_BUCKETS, MAX_BUCKETS));
        assert_eq!(passed(&mut allowance, idle, 1000, START), STRANGERS.burst, "it was forgotten");
    }

    #[test]
    fn every_kind_that_is_not_the_operators_is_counted() {
        for kind in Kind::ALL {
            assert_eq!(Class::of(*kind).is_none(), kind.signer() == Role::Operator, "{kind}");
        }
    }
}
