//! The rules in simulation: real machines and signatures, a virtual clock, seeded faults and liars, and a checker that
//! shares no code with the machines.
//!
//! `SIM_SEED=123 cargo test -p swarm-protocol --test simulation replay -- --nocapture` shows one run,
//! with `SIM_BUG=DoubleAccept` if a bug is to be planted in it. `SIM_SEEDS=1000000` runs that many, from `SIM_FIRST` on;
//! with `SIM_VOUCH=1` scribbles stand for signatures, which makes no other difference and takes a fifth of the time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod actors;
mod checker;
mod client;
mod content;
mod faults;
mod forge;
mod liar;
mod miner;
mod mint;
mod network;
mod operator;
mod plan;
mod rng;
mod seeds;
mod world;

use plan::Plan;
use seeds::{number, run, run_many};
use swarm_crypto::digest::Digest;
use swarm_protocol::planted::Bug;
use world::Tally;

/// Seeds within which a planted bug must show.
const MAX_SEEDS_TO_FIND: u64 = 600;

#[test]
fn simulation_1000_seeds() {
    let count = number("SIM_SEEDS").unwrap_or(1000);
    let first = number("SIM_FIRST").unwrap_or(0);
    let tally = run_many(first..first + count, None).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{count} seeds from {first}: {tally:?}");
    assert!(tally.accepted * 3 > tally.admitted, "most runs do nothing: {tally:?}");
    assert!(tally.refunded > 0 && tally.crashes > 0 && tally.epochs > count, "too quiet: {tally:?}");
    if count >= 1000 {
        let missed: Vec<_> = SEEN.iter().filter(|what| !tally.seen.contains_key(**what)).collect();
        assert!(missed.is_empty(), "never happened: {missed:?}, only {:?}", tally.seen);
    }
}

/// What a thousand runs must have met: records, ends of leases and jobs, refusals and rejections.
#[rustfmt::skip]
const SEEN: &[&str] = &[
    "Genesis", "Credited", "Admitted", "Bound", "Leased", "Accepted", "Boundary", "HeaderFixed",
    "NoProgress", "TimedOut", "BadProof", "Released", "ReleasedLate", "EngineFailure",
    "Expired", "Cancelled", "Unrunnable",
    "AuditPicked", "Attested", "AuditPaid", "AuditClosed", "Challenged", "ChallengeReturned", "Overturned", "NotAuditable",
    "NoFunds", "PriceTooLow", "TooManyOpenJobs", "Unsupported", "UnknownModel", "InputUnavailable", "NonceReused",
    "UnknownJob", "NotPending", "NotYours", "StaleLease", "ContentUnavailable", "Unacceptable", "NotEligible",
    "JobExpired", "JobCancelled", "JobUnrunnable",
    "TooLong", "Malformed", "OutOfBounds", "BadSignature", "WrongTopic", "NotOperator", "Unbuilt", "UnknownKind",
    "OtherPool", "FromFuture", "TooOld", "Duplicate",
];

#[test]
fn replay() {
    let Some(seed) = number("SIM_SEED") else {
        println!("set SIM_SEED to the seed of a run");
        return;
    };
    let named = std::env::var("SIM_BUG").ok();
    let bug = named.map(|name| *BUGS.iter().find(|bug| format!("{bug:?}") == name).expect("a bug"));
    let tally = run(Plan::of(seed, bug), true).unwrap_or_else(|failure| panic!("{failure}"));
    println!("seed {seed}: {tally:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..5 {
        let once = run(Plan::of(seed, None), false).unwrap();
        assert_eq!(format!("{once:?}"), format!("{:?}", run(Plan::of(seed, None), false).unwrap()));
    }
}

#[test]
fn a_run_with_scribbles_is_the_run_with_signatures() {
    for seed in 0..20 {
        let [signed, scribbled] = [false, true].map(|vouch| {
            let tally = run(Plan { vouch, ..Plan::of(seed, None) }, false).unwrap();
            Tally { head: Digest::default(), ..tally }
        });
        assert_eq!(signed, scribbled, "seed {seed}");
    }
}

/// One test for every planted bug: found within so many seeds, and by a law that it breaks.
macro_rules! planted {
    ($($test:ident: $bug:ident by $($law:literal)|+;)*) => {
        const BUGS: &[Bug] = &[$(Bug::$bug),*];

        mod planted_bugs {
            use super::*;

            $(#[test]
            fn $test() {
                must_be_found(Bug::$bug, &[$($law),+]);
            })*
        }
    };
}

planted! {
    double_accept: DoubleAccept by "is accepted while Accepted" | "every posting is covered";
    lost_refund: LostRefund by "is due";
    stale_term: StaleTerm by "which is not its lease";
    short_dedup: ShortDedup by "is admitted twice";
    volume_counts_leased: VolumeCountsLeased by "is not what the rows say: volume";
    round_to_miner: RoundToMiner by "is due";
    other_pool: OtherPool by "what nobody said to this pool";
    draw_ignored: DrawIgnored by "before the window closed" | "did not win";
    clock_expires_lease: ClockExpiresLease by "while its proof is examined";
    cancelled_accepted: CancelledAccepted by "is accepted while Cancelled" | "every posting is covered";
    receipt_from_memory: ReceiptFromMemory by "the receipt";
    speak_before_persist: SpeakBeforePersist by "durable" | "of no pool" | "not stored";
}

fn must_be_found(bug: Bug, laws: &[&str]) {
    let failure = run_many(0..MAX_SEEDS_TO_FIND, Some(bug)).err();
    let failure = failure.unwrap_or_else(|| panic!("{bug:?} was not found"));
    println!("{bug:?}: {failure}");
    assert!(laws.iter().any(|law| failure.what.contains(law)), "{bug:?} broke another law: {failure}");
}

#[test]
fn the_operator_crashes_at_every_effect() {
    let lied_to = Plan { liars: 1, ..Plan::quiet(11) };
    for plan in [Plan::quiet(3), lied_to] {
        let effects = run(plan.clone(), false).unwrap().effects;
        assert!(effects > 50, "only {effects} effects");
        for at in 0..effects {
            let crashing = Plan { crash_at_effects: vec![at], ..plan.clone() };
            run(crashing, false).unwrap_or_else(|failure| panic!("crash at effect {at}: {failure}"));
        }
    }
}
