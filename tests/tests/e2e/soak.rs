//! Hours at half of what the machine can do, while miners come and go: memory, handles and times stay as they were.

use crate::churn::{Dice, Usage, held, lets_go, setting};
use crate::harness::{Process, Site, job_of, text};
use crate::reference;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SECONDS: u64 = 4 * 3600;
/// How long the peak is measured, and with how many clients at once.
const PEAK_TIME: Duration = Duration::from_secs(60);
const PEAK_CLIENTS: usize = 4;
/// Clients that wait at once; more are not started, so that a slow pool shows in their times and not in processes.
const MAX_CLIENTS: usize = 32;
const MAX_MINERS: usize = 3;
const MINER_NAMES: u64 = 6;
const POLL: Duration = Duration::from_millis(5);
/// A miner comes or goes this often.
const CHURN: Duration = Duration::from_secs(10);
/// What a job may leave in memory once the caches are full: finished jobs are remembered for a day.
const MAX_SLOPE_KIB: f64 = 8.0;
const MAX_MORE_FILES: u64 = 4;
/// Times are compared in quarters of the run; p99 of the last is at most this much of the first's.
const MAX_DRIFT: f64 = 2.0;
const LEAST_P99: Duration = Duration::from_secs(2);
const OPERATOR: [&str; 16] = [
    "--log",
    "info,swarm_node::operator::story=debug",
    "--epoch",
    "60s",
    "--window",
    "100ms",
    "--first-progress",
    "3s",
    "--progress",
    "3s",
    "--heartbeat",
    "2s",
    "--cooldown",
    "500ms",
    "--max-cooldown",
    "2s",
];

struct Load<'a> {
    site: &'a Site,
    job: PathBuf,
    waiting: Vec<(Instant, Process)>,
    /// When a job began, counted from the start, and how long it took.
    took: Vec<(Duration, Duration)>,
    start: Instant,
    started: u64,
}

impl<'a> Load<'a> {
    fn new(site: &'a Site) -> Self {
        let mut job = job_of("The carriage", 16);
        // Test credit is to last for half a million jobs of each client.
        job["payment"]["amount"] = "0.0002".into();
        let job = site.job("soak", &job);
        Self { site, job, waiting: Vec::new(), took: Vec::new(), start: Instant::now(), started: 0 }
    }

    fn submit(&mut self) {
        let name = format!("c{}", self.started % PEAK_CLIENTS as u64);
        self.started += 1;
        let client = self.site.start_client(&["--name", &name, "submit", "--json", &text(&self.job)]);
        self.waiting.push((Instant::now(), client));
    }

    /// Takes in whoever got an answer.
    fn reap(&mut self) {
        for (begun, mut client) in std::mem::take(&mut self.waiting) {
            if client.is_running() {
                self.waiting.push((begun, client));
                continue;
            }
            self.took.push((begun - self.start, begun.elapsed()));
            let answer = client.finish().good().json();
            assert_eq!(answer["status"], "answered");
        }
    }

    fn drain(&mut self) {
        while !self.waiting.is_empty() {
            self.reap();
            std::thread::sleep(POLL);
        }
    }
}

/// Jobs a second when every client that is done begins again.
fn peak(site: &Site) -> f64 {
    let mut load = Load::new(site);
    while load.start.elapsed() < PEAK_TIME {
        while load.waiting.len() < PEAK_CLIENTS {
            load.submit();
        }
        load.reap();
        std::thread::sleep(POLL);
    }
    let jobs = load.took.len() as f64;
    load.drain();
    jobs / PEAK_TIME.as_secs_f64()
}

fn churn(site: &Site, dice: &mut Dice, miners: &mut Vec<(u64, Process)>) {
    let name = dice.below(MINER_NAMES);
    match dice.below(4) {
        0 => drop(dice.pick(miners).map(|(_, miner)| miner.kill())),
        1 => drop(dice.pick(miners).map(|(_, miner)| miner.terminate().good())),
        _ if miners.len() < MAX_MINERS && miners.iter().all(|(other, _)| *other != name) => {
            miners.push((name, site.miner_alone(&format!("m{name}.eth"), &[])));
        }
        _ => {}
    }
}

/// The median and the 99th of a hundred.
fn times(mut took: Vec<Duration>) -> (Duration, Duration) {
    took.sort_unstable();
    (took[took.len() / 2], took[(took.len() - 1) * 99 / 100])
}

/// The slope of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / n, sum.1 + point.1 / n));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    above / below
}

#[test]
#[ignore = "takes hours: scripts/nightly.sh soak"]
fn soak() {
    let time = Duration::from_secs(setting("SOAK_SECONDS", SECONDS));
    let site = Site::new();
    let operator = site.operator(&OPERATOR);
    let steady = site.miner("steady.eth", &[]);
    let peak = peak(&site);
    let holdings = held(&operator);
    let before = (Usage::of(&operator), Usage::of(&steady));
    let pause = Duration::from_secs_f64(2.0 / peak);
    println!("peak {peak:.2} jobs a second; half of it for {} s", time.as_secs());

    let mut load = Load::new(&site);
    let (mut dice, mut miners) = (Dice::new(1), Vec::new());
    let (mut next_job, mut next_churn, mut next_sample) = (Duration::ZERO, CHURN, Duration::ZERO);
    let mut samples = Vec::new();
    while load.start.elapsed() < time {
        let now = load.start.elapsed();
        if now >= next_job && load.waiting.len() < MAX_CLIENTS {
            next_job = now.max(next_job + pause);
            load.submit();
        }
        if now >= next_churn {
            next_churn += CHURN;
            churn(&site, &mut dice, &mut miners);
        }
        if now >= next_sample {
            next_sample += time / 120;
            let usage = (Usage::of(&operator), Usage::of(&steady));
            println!("{:>6} s, {:>6} jobs: {:?}, {:?}", now.as_secs(), load.started, usage.0, usage.1);
            samples.push((load.started as f64, usage));
        }
        load.reap();
        std::thread::sleep(POLL);
    }
    load.drain();
    drop(miners);

    let quarter = |n: u32| {
        let span = time * n / 4..time * (n + 1) / 4;
        load.took.iter().filter(|(begun, _)| span.contains(begun)).map(|(_, took)| *took).collect()
    };
    let quarters: Vec<_> = (0..4).map(|n| times(quarter(n))).collect();
    println!("{} jobs, all answered; p50 and p99 of each quarter: {quarters:.2?}", load.took.len());
    let second_half = &samples[samples.len() / 2..];
    let slope_of = |of: fn(&(Usage, Usage)) -> u64| {
        let points: Vec<_> = second_half.iter().map(|(jobs, usage)| (*jobs, of(usage) as f64)).collect();
        slope(&points)
    };
    let slopes = (slope_of(|usage| usage.0.resident_kib), slope_of(|usage| usage.1.resident_kib));
    println!("memory in the second half, KiB a job: operator {:.2}, miner {:.2}", slopes.0, slopes.1);
    lets_go(&operator, &holdings);
    let after = (Usage::of(&operator), Usage::of(&steady));
    println!("before {before:?}\nafter  {after:?}");

    assert!(slopes.0 <= MAX_SLOPE_KIB && slopes.1 <= MAX_SLOPE_KIB, "{slopes:?}");
    assert!(after.0.files <= before.0.files + MAX_MORE_FILES, "{before:?}, {after:?}");
    assert!(after.1.files <= before.1.files + MAX_MORE_FILES, "{before:?}, {after:?}");
    let bound = quarters[0].1.max(LEAST_P99).mul_f64(MAX_DRIFT);
    assert!(quarters[3].1 <= bound, "{quarters:?}");

    steady.terminate().good();
    operator.terminate().good();
    assert_eq!(site.running(), Vec::<u32>::new());
    let reading = reference::read(&site);
    assert_eq!(reading.open_jobs(), 0);
    println!("{} admitted, {} accepted", reading.jobs.len(), reading.receipts.len());
}
