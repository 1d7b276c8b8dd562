//! Cheats against an honest auditor: what is caught by which check, in what share of jobs, and how often an honest miner
//! is taken for a cheat. `docs/audits.md` says what the columns are.
//!
//! `CHEAT_JOBS` says how many jobs each cheat gets, `HONEST_JOBS` how many each honest pair of kernels.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cheat;
mod pictures;
mod tally;
mod vectors;
mod world;

use std::time::{Duration, Instant};

use swarm_protocol::distance::Tolerance;
use swarm_protocol::statement::Assurance;

use cheat::Cheat;
use tally::{Fate, Tally};
use world::{Case, Delivery, World, picked};

const TOLERANCE: Tolerance = Tolerance::BUILT_IN;
/// Who runs jobs honestly, and who checks them.
const HONEST: [(&str, &str); 6] = [
    ("one core", "one core"),
    ("one core", "all cores"),
    ("all cores", "one core"),
    ("f32 on all cores", "all cores"),
    ("f16 on all cores", "one core"),
    ("all cores", "all cores"),
];
/// Whose jobs run eight at once.
const TOGETHER: (&str, &str) = ("all cores", "one core");
/// What is caught.
const SEEN: [Cheat; 19] = [
    Cheat::OtherWeights("3 of 6 blocks"),
    Cheat::OtherWeights("5 of 6 blocks"),
    Cheat::OtherWeights("weights off by 10 %"),
    Cheat::OtherWeights("Q4_0"),
    Cheat::OtherWeights("Q5_0"),
    Cheat::Temperature,
    Cheat::ForgedTemperature,
    Cheat::Seed,
    Cheat::ForgedSeed,
    Cheat::Truncated,
    Cheat::ForgedEnd,
    Cheat::Copied,
    Cheat::CachedAnswer,
    Cheat::CachedCosts,
    Cheat::Rescored("3 of 6 blocks"),
    Cheat::Rescored("Q4_0"),
    Cheat::Bent("3 of 6 blocks"),
    Cheat::Bent("Q4_0"),
    Cheat::Bent("Q5_0"),
];
/// What is not, or not always; where only some jobs are meant, which.
const UNSEEN: [(Cheat, Jobs); 7] = [
    (Cheat::Copied, Jobs::Greedy),
    (Cheat::Sly("Q4_0"), Jobs::Sampled),
    (Cheat::Sly("3 of 6 blocks"), Jobs::Sampled),
    (Cheat::Rescored("Q4_0"), Jobs::Distance),
    (Cheat::Rescored("3 of 6 blocks"), Jobs::Distance),
    (Cheat::Temperature, Jobs::Distance),
    (Cheat::Seed, Jobs::Distance),
];

/// Which jobs a cheat is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jobs {
    All,
    Sampled,
    Greedy,
    /// Sampled, of the assurance that knows no seed.
    Distance,
}

impl Jobs {
    fn takes(self, case: &Case) -> bool {
        match self {
            Jobs::All => true,
            Jobs::Greedy => case.is_greedy(),
            Jobs::Sampled | Jobs::Distance => !case.is_greedy(),
        }
    }
}

fn jobs(variable: &str) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

fn fate(world: &World, auditor: &str, case: &Case, delivery: &Delivery) -> Fate {
    world.accepted(case, delivery)?;
    Ok(world.audited(auditor, case, delivery))
}

fn cheated(world: &World, cheat: Cheat, which: Jobs) -> Tally {
    let cases = (0..).map(|n| world.case(n)).filter(|case| which.takes(case)).take(jobs("CHEAT_JOBS"));
    let fates: Vec<Fate> = cases
        .map(|mut case| {
            if which == Jobs::Distance {
                case.job.assurance = Assurance::Distance;
            }
            fate(world, "all cores", &case, &cheat.deliver(world, &case))
        })
        .collect();
    Tally::of(&fates, &TOLERANCE)
}

/// The share of tokens, in percent, that the right model would not have given there.
fn altered(world: &World, cheat: Cheat, which: Jobs) -> f64 {
    let (mut altered, mut tokens) = (0, 0);
    for case in (0..).map(|n| world.case(n)).filter(|case| which.takes(case)).take(jobs("CHEAT_JOBS")) {
        let (delivery, draws) = (cheat.deliver(world, &case), case.draws());
        let scored = world.scored("one core", &case, &delivery);
        let right = scored.iter().enumerate().map(|(n, candidates)| picked(n, candidates, &draws));
        altered += delivery.steps.iter().zip(right).filter(|(step, right)| step.token != *right).count();
        tokens += delivery.steps.len();
    }
    100.0 * altered as f64 / tokens as f64
}

fn honest(world: &World, (made, checked): (&str, &str)) -> Tally {
    let (mut making, mut checking, mut fates) = (Duration::ZERO, Duration::ZERO, Vec::new());
    for case in (0..jobs("HONEST_JOBS") as u64).map(|n| world.case(n)) {
        let begun = Instant::now();
        let delivery = world.honest(made, &case);
        making += begun.elapsed();
        let begun = Instant::now();
        fates.push(fate(world, checked, &case, &delivery));
        checking += begun.elapsed();
    }
    let tally = Tally::of(&fates, &TOLERANCE);
    let share = 100.0 * checking.as_secs_f64() / making.as_secs_f64();
    println!("honest: {made}, checked by {checked} in {share:.0} % of the time: {tally}");
    tally
}

fn honest_together(world: &World) -> Tally {
    let cases: Vec<Case> = (0..jobs("HONEST_JOBS") as u64).map(|n| world.case(n)).collect();
    let (made, checked) = TOGETHER;
    let deliveries = cases.chunks(8).flat_map(|cases| world.honest_together(made, cases));
    let fates: Vec<Fate> =
        cases.iter().zip(deliveries).map(|(case, delivery)| fate(world, checked, case, &delivery)).collect();
    let tally = Tally::of(&fates, &TOLERANCE);
    println!("honest: {made}, eight at once, checked by {checked}: {tally}");
    tally
}

/// Not more than one in a thousand, as far as so many jobs can tell; and a score that never goes beyond its limit.
fn assert_honest(tally: &Tally) {
    let (low, _, _) = tally.share();
    assert!(tally.refused == 0 && low <= 0.1, "{tally}");
    assert!(tally.together < 0.001, "{tally}");
}

#[test]
fn honest_miners_are_left_alone_whatever_their_kernels() {
    let world = World::new();
    for pair in HONEST {
        assert_honest(&honest(&world, pair));
    }
    assert_honest(&honest_together(&world));
}

#[test]
fn cheats_are_caught_within_twenty_jobs() {
    let world = World::new();
    for cheat in SEEN {
        let which = if cheat.needs_sampling() { Jobs::Sampled } else { Jobs::All };
        let tally = cheated(&world, cheat, which);
        println!("{}: {tally}", cheat.name());
        assert!(tally.together >= 0.99, "{}: {tally}", cheat.name());
    }
    for (cheat, which) in UNSEEN {
        let (tally, altered) = (cheated(&world, cheat, which), altered(&world, cheat, which));
        println!("not seen: {}, {which:?} jobs, {altered:.2} % of tokens altered: {tally}", cheat.name());
    }
}
