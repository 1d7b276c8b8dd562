//! What became of many jobs.

use std::collections::BTreeMap;

use swarm_crypto::digest::blake3;
use swarm_protocol::acceptance::AcceptanceFault;
use swarm_protocol::distance::{Distances, Excess, Score, Tolerance};

/// Jobs of a wallet that are looked at together.
pub const TOGETHER: usize = 20;
/// Draws of as many jobs.
const DRAWS: u32 = 10_000;

/// One job: refused before it was paid, or compared.
pub type Fate = Result<Distances, AcceptanceFault>;

/// What was made of all of them.
#[derive(Debug)]
pub struct Tally {
    pub jobs: usize,
    pub refused: usize,
    pub missed: usize,
    /// How often each reason was the first.
    pub reasons: BTreeMap<&'static str, usize>,
    /// Share of sets of [`TOGETHER`] jobs in which one was refused, or the score went beyond its limit.
    pub together: f64,
    pub mean: Spread,
    pub worst: Spread,
    pub strays: f64,
    pub strangers: f64,
}

/// Of a distance in 1/4096 bit, over jobs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spread {
    pub median: u32,
    pub high: u32,
    pub most: u32,
}

impl Spread {
    fn of(mut all: Vec<u32>) -> Self {
        all.sort_unstable();
        let at = |share: usize| all.get(all.len().saturating_sub(1) * share / 100).copied().unwrap_or(0);
        Self { median: at(50), high: at(99), most: at(100) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.median, self.high, self.most)
    }
}

impl Tally {
    pub fn of(fates: &[Fate], tolerance: &Tolerance) -> Self {
        let compared: Vec<&Distances> = fates.iter().filter_map(|fate| fate.as_ref().ok()).collect();
        let mut reasons = BTreeMap::new();
        for fate in fates {
            *reasons.entry(reason(fate, tolerance)).or_insert(0) += 1;
        }
        let held = reasons.get("holds").copied().unwrap_or(0);
        let sum = |of: fn(&Distances) -> u64| compared.iter().map(|found| of(found)).sum::<u64>() as f64;
        Self {
            jobs: fates.len(),
            refused: fates.len() - compared.len(),
            missed: compared.len() - held,
            reasons,
            together: together(fates, tolerance),
            mean: Spread::of(compared.iter().map(|found| found.mean).collect()),
            worst: Spread::of(compared.iter().map(|found| found.worst).collect()),
            strays: sum(|found| found.strays.into()) / sum(|found| found.positions.len() as u64).max(1.0),
            strangers: sum(|found| found.strangers.into()) / sum(|found| found.candidates.into()).max(1.0),
        }
    }

    /// Jobs that were refused or not within the tolerance.
    pub fn caught(&self) -> usize {
        self.refused + self.missed
    }

    /// Their share in percent, between the ends of its 95 % interval.
    pub fn share(&self) -> (f64, f64, f64) {
        let (low, high) = wilson(self.caught(), self.jobs);
        (100.0 * low, 100.0 * self.caught() as f64 / self.jobs.max(1) as f64, 100.0 * high)
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (low, share, high) = self.share();
        write!(f, "{:5} jobs, {:5} refused, {:5} missed: ", self.jobs, self.refused, self.missed)?;
        write!(
            f,
            "{share:6.2} % ({low:.2} to {high:.2}), of {TOGETHER} jobs {:6.2} %; ",
            100.0 * self.together
        )?;
        write!(f, "mean {}, worst {}, strays {:.2} %, ", self.mean, self.worst, 100.0 * self.strays)?;
        write!(f, "strangers {:.3} %; {:?}", 100.0 * self.strangers, self.reasons)
    }
}

fn reason(fate: &Fate, tolerance: &Tolerance) -> &'static str {
    match fate {
        Err(AcceptanceFault::NotSampled(_)) => "check A",
        Err(
            AcceptanceFault::Unfinished | AcceptanceFault::WentOn(_) | AcceptanceFault::StopReason { .. },
        ) => "ending",
        Err(AcceptanceFault::Prompt) => "prompt",
        Err(_) => "acceptance",
        Ok(found) => match found.judge(tolerance) {
            Ok(()) => "holds",
            Err(Excess::Mean { .. }) => "mean",
            Err(Excess::Worst { .. }) => "worst",
            Err(Excess::Strangers { .. }) => "strangers",
            Err(Excess::Strays { .. }) => "strays",
        },
    }
}

/// The 95 % interval of a share, <https://doi.org/10.1080/01621459.1927.10502953>.
fn wilson(hits: usize, of: usize) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, z) = (of as f64, 1.96f64);
    let p = hits as f64 / n;
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + z * z / n;
    (((middle - half) / whole).max(0.0), ((middle + half) / whole).min(1.0))
}

/// Draws sets of jobs, the same in every run.
fn together(fates: &[Fate], tolerance: &Tolerance) -> f64 {
    if fates.is_empty() {
        return 0.0;
    }
    let mut caught = 0;
    for set in 0..DRAWS {
        let mut score = Score::default();
        let is_caught = (0..TOGETHER as u32).any(|n| {
            let dice = blake3(&[set.to_be_bytes(), n.to_be_bytes()].concat()).first_u64_be();
            match &fates[(dice % fates.len() as u64) as usize] {
                Err(_) => true,
                Ok(found) => {
                    score.push(found, tolerance);
                    score.is_beyond()
                }
            }
        });
        caught += u32::from(is_caught);
    }
    f64::from(caught) / f64::from(DRAWS)
}
