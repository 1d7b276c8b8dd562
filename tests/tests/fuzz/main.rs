//! Every decoder of bytes from strangers, and the Bitswap core, given what nobody would send: mutations of a committed
//! corpus, the same ones for the same seed. None may panic or take memory beyond a small multiple of its input; what
//! decodes must come back; and every named error must be reached, so that the table shows what was really tried.
//!
//! `FUZZ_EXECUTIONS` says how many in all, `FUZZ_SEED` which ones, `FUZZ_ONLY` names one decoder;
//! `FUZZ_KEEP=1` adds inputs with new outcomes to the corpus.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod core;
mod corpus;
mod files;
mod ipfs;
mod mutate;
mod protocol;
mod seeds;
mod target;

use target::{Shown, Target};

/// Counts what is taken from the system's allocator.
#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

const EXECUTIONS: u64 = 1_000_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn fuzz() {
    let folder = tempfile::tempdir().unwrap();
    let mut targets = protocol::targets();
    targets.extend(ipfs::targets());
    targets.extend(files::targets(folder.path()));
    targets.push(core::target());
    let only = std::env::var("FUZZ_ONLY").ok();
    targets.retain(|target| only.as_ref().is_none_or(|only| only == target.name));
    let shares: u64 = targets.iter().map(|target| target.share).sum();
    let all = number("FUZZ_EXECUTIONS").unwrap_or(EXECUTIONS);
    let seed = number("FUZZ_SEED").unwrap_or(1);
    let run = |target: Target| {
        let share = (all * target.share).div_ceil(shares);
        let started = std::time::Instant::now();
        let shown = target.fuzz(share, seed, &MEMORY);
        println!("{}", shown.lines().join("\n"));
        println!("    {:.1} s", started.elapsed().as_secs_f64());
        shown
    };
    let shown: Vec<Shown> = targets.into_iter().map(run).collect();
    let executions: u64 = shown.iter().map(|shown| shown.executions).sum();
    println!("{executions} executions of {} decoders, seed {seed}", shown.len());
    let faults: Vec<&String> = shown.iter().flat_map(|shown| &shown.faults).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    let missed: Vec<_> = shown.iter().filter(|shown| !shown.missed.is_empty()).collect();
    let missed: Vec<_> = missed.iter().map(|shown| (shown.name, &shown.missed)).collect();
    assert!(missed.is_empty() || all < EXECUTIONS, "never reached: {missed:?}");
}

#[test]
#[ignore = "writes the corpus"]
fn write_seeds() {
    seeds::write_all();
}
