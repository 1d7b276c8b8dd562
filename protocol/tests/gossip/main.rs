//! Gossip in large pools: the real machines of all three roles behind a model of gossipsub, on links of 50 to 150 ms
//! that lose 1 % of what they carry, while 5 % of the miners are replaced in a minute.
//!
//! `cargo test -p swarm-protocol --test gossip -- --nocapture` shows the table. What takes minutes is ignored:
//! `gossip_10000`, and `gossip_with_other_numbers`, which shows what other numbers of gossipsub would cost.
//! `GOSSIP_SEED` names another run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod client;
mod miner;
mod mint;
mod operator;
mod overlay;
mod report;
#[path = "../simulation/rng.rs"]
#[allow(dead_code, reason = "the other simulation uses the rest")]
mod rng;
mod world;

use overlay::Gossip;
use report::Report;
use world::{Plan, World};

/// What a node may receive for a job, in bytes. Nine thousand were hoped for: each statement coming twice.
const MAX_BYTES_PER_JOB: f64 = 46_000.0;
/// All statements about a job together, with the frames around them, in bytes.
const MAX_BYTES_SAID: f64 = 5_500.0;

fn plan(nodes: usize, jobs: u64) -> Plan {
    let seed = std::env::var("GOSSIP_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let heartbeat_sample = (nodes as u64 / 100).clamp(1, 50);
    Plan { seed, nodes, jobs, loss: 10, churn: 5, heartbeat_sample, gossip: Gossip::NODE }
}

fn show(plan: Plan) -> Report {
    let report = World::run(plan);
    println!("{}", report.line());
    report
}

fn check(report: &Report) {
    let nodes = report.nodes as f64;
    assert_eq!(report.answered, report.jobs, "all jobs are answered");
    assert!(report.delivery >= 0.999, "{report:?}");
    assert!(report.p50 <= 700 && report.p99 <= 1_000, "{report:?}");
    assert!(report.copies <= 9.5, "{report:?}");
    assert!((2.5..=6.0).contains(&report.claims), "about four claim: {report:?}");
    assert!((2.5..=7.0).contains(&report.early_claims), "about four claim: {report:?}");
    assert!(report.bytes <= MAX_BYTES_PER_JOB && report.once <= MAX_BYTES_SAID, "{report:?}");
    let heartbeats = (nodes / 30.0).min(200.0);
    assert!((0.7..1.15).contains(&(report.heartbeats / heartbeats)), "{report:?}");
    assert!(report.questions <= 0.8 * nodes, "an idle miner asks seldom: {report:?}");
}

#[test]
fn gossip_100_and_1000() {
    println!("{}", Report::HEAD);
    let reports = [plan(100, 100), plan(1000, 60)].map(show);
    reports.iter().for_each(check);
    let [small, large] = reports;
    assert!((small.claims - large.claims).abs() < 2.0, "claims are flat: {small:?} {large:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let line = || World::run(Plan { jobs: 20, ..plan(60, 20) }).line();
    assert_eq!(line(), line());
}

#[test]
#[ignore = "takes minutes"]
fn gossip_10000() {
    println!("{}", Report::HEAD);
    check(&show(plan(10_000, 40)));
}

#[test]
#[ignore = "takes minutes, and is for people"]
fn gossip_with_other_numbers() {
    let (base, flood_publish) = (Gossip::NODE, false);
    println!("{}", Report::HEAD);
    for gossip in [
        base,
        Gossip { flood_publish, ..base },
        Gossip { mesh: 6, mesh_low: 5, mesh_high: 8, flood_publish, ..base },
        Gossip { mesh: 4, mesh_low: 4, mesh_high: 6, flood_publish, ..base },
        Gossip { mesh: 4, mesh_low: 4, mesh_high: 5, lazy: 3, history: 2, flood_publish },
        Gossip { mesh: 3, mesh_low: 3, mesh_high: 4, lazy: 4, history: 2, flood_publish },
    ] {
        println!("{gossip:?}");
        show(Plan { gossip, ..plan(1000, 40) });
    }
}
