//! How far apart honest runs of a model are on this machine, and the tolerance that follows for audits.

use crate::workload::{candidate, recomputed, rescore_request};
use anyhow::{Result, anyhow, ensure};
use serde::Serialize;
use std::time::{Duration, Instant};
use swarm_crypto::digest::{Digest, blake3};
use swarm_inference::{
    Batch, BatchLimits, Compute, Decoder, Interrupt, Model, Sequence, Tokenizer, both_ways, candidates,
};
use swarm_protocol::distance::{Distances, Draws, SHARE, Tolerance, measure};
use swarm_protocol::sampler::{Candidate, draw, sample};
use swarm_protocol::transcript::{Step, StopReason, Transcript};

/// Jobs that run at once where batches are compared with single runs.
const TOGETHER: usize = 8;
/// Output tokens of the jobs, which take turns.
const LENGTHS: [usize; 4] = [8, 24, 48, 96];
/// Prompt tokens, which do too.
const PROMPTS: [usize; 3] = [4, 16, 40];
/// Temperature and top-p in 1/10000, which do too.
const SAMPLINGS: [(u32, u32); 5] =
    [(0, 10_000), (7_000, 10_000), (10_000, 9_000), (10_000, 10_000), (13_000, 9_500)];
/// A position of a calibration is at least this uncertain, in 1/4096 bit: no machine is the only one.
const LEAST_WORST: u32 = 64;
const LEAST_MEAN: u32 = 16;

/// What was measured, and what follows.
#[derive(Debug, Serialize)]
pub struct Calibration {
    pub model: String,
    pub blake3: String,
    pub cores: u32,
    /// Jobs of each pair; every other one makes the tolerance, the rest try it.
    pub jobs: u32,
    pub pairs: Vec<Pair>,
    pub tolerance: Tolerance,
    /// Jobs that tried the tolerance, and how many of them were not within it.
    pub tried: u32,
    pub false_alarms: u32,
    /// The honest share of false alarms is below this in 95 of 100 such measurements.
    pub false_alarms_below: f64,
    /// Time of the passes that check, as a share of the time of the runs that were checked.
    pub audit_share: f64,
}

/// One way to run, checked by another: costs in 1/4096 bit.
#[derive(Debug, Serialize)]
pub struct Pair {
    pub run: &'static str,
    pub checked: &'static str,
    pub tokens: u32,
    /// Of the jobs' means.
    pub median: u32,
    pub largest: u32,
    /// Of all positions.
    pub worst: u32,
    pub strangers: u32,
    pub strays: u32,
}

/// How a text is made, or scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Own,
    Other,
    Together,
    OneThread,
}

const PAIRS: [(Way, Way); 5] = [
    (Way::Own, Way::Own),
    (Way::Together, Way::Own),
    (Way::Own, Way::OneThread),
    (Way::Own, Way::Other),
    (Way::Other, Way::Own),
];

struct Job {
    prompt: Vec<u32>,
    length: usize,
    draws: Draws,
}

struct Bench {
    own: Decoder,
    other: Decoder,
    tokenizer: Tokenizer,
    top_k: u32,
    one_thread: rayon::ThreadPool,
}

/// Runs `jobs` jobs in every way, and checks them in every other.
pub fn calibrate(model: &Model, text: &str, jobs: u32, told: &mut dyn FnMut(String)) -> Result<Calibration> {
    let [own, other] = both_ways(model)?;
    let bench = Bench {
        own,
        other,
        tokenizer: model.tokenizer()?,
        top_k: model.manifest.top_k,
        one_thread: rayon::ThreadPoolBuilder::new().num_threads(1).build()?,
    };
    let jobs = bench.jobs(text, jobs)?;
    let (mut found, mut making, mut checking) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for (run, checked) in PAIRS {
        told(format!("{} jobs {}, checked {}", jobs.len(), bench.name(run), bench.name(checked)));
        let begun = Instant::now();
        let texts = bench.run(run, &jobs)?;
        let made = begun.elapsed();
        let distances: Vec<Distances> = jobs
            .iter()
            .zip(texts)
            .map(|(job, steps)| bench.check(checked, job, steps))
            .collect::<Result<_>>()?;
        if (run, checked) == (Way::Own, Way::Own) {
            (making, checking) = (made, begun.elapsed() - made);
        }
        found.push((run, checked, distances));
    }
    let all = |odd: usize| found.iter().flat_map(move |(_, _, jobs)| jobs.iter().skip(odd).step_by(2));
    let shares: Vec<_> = found.iter().map(|(_, _, jobs)| jobs.as_slice()).collect();
    let tolerance = tolerance_of(all(0), &shares);
    let tried = count(all(1).count());
    let false_alarms = count(all(1).filter(|found| found.judge(&tolerance).is_err()).count());
    Ok(Calibration {
        model: model.manifest.name.clone(),
        blake3: model.manifest.weights_digest(),
        cores: swarm_inference::Hardware::probe().cores,
        jobs: count(jobs.len()),
        pairs: found.iter().map(|(run, checked, jobs)| bench.pair(*run, *checked, jobs)).collect(),
        tolerance,
        tried,
        false_alarms,
        false_alarms_below: upper(false_alarms, tried),
        audit_share: checking.as_secs_f64() / making.as_secs_f64().max(1e-9),
    })
}

impl Bench {
    fn name(&self, way: Way) -> &'static str {
        let compute = match way {
            Way::Own => self.own.compute(),
            Way::Other => self.other.compute(),
            Way::Together => return "eight at once",
            Way::OneThread => return "on one thread",
        };
        match compute {
            Compute::OneCore => "as f32 on one core",
            Compute::AllCores => "as stored on all cores",
            Compute::Device => "on the GPU",
        }
    }

    fn jobs(&self, text: &str, jobs: u32) -> Result<Vec<Job>> {
        let tokens = self.tokenizer.encode(text)?;
        let context = self.own.config().context_length;
        ensure!(tokens.len() > 2 * PROMPTS[2], "the text has {} tokens; take a longer one", tokens.len());
        let job = |n: usize| {
            let length = PROMPTS[n % PROMPTS.len()].min(context / 2).max(1);
            let from = n * 7 % (tokens.len() - length);
            let (temperature, top_p) = SAMPLINGS[n % SAMPLINGS.len()];
            let seed = blake3(&n.to_be_bytes());
            Job {
                prompt: tokens[from..from + length].to_vec(),
                length: LENGTHS[n % LENGTHS.len()].min(context - length),
                draws: Draws { seed, temperature, top_p },
            }
        };
        Ok((0..jobs as usize).map(job).collect())
    }

    fn decoder(&self, way: Way) -> &Decoder {
        match way {
            Way::Own | Way::Together | Way::OneThread => &self.own,
            Way::Other => &self.other,
        }
    }

    fn run(&self, way: Way, jobs: &[Job]) -> Result<Vec<Vec<Step>>> {
        match way {
            Way::Together => {
                let sets = jobs.chunks(TOGETHER).map(|jobs| self.together(jobs));
                Ok(sets.collect::<Result<Vec<_>>>()?.concat())
            }
            Way::OneThread => self.one_thread.install(|| self.run(Way::Own, jobs)),
            Way::Own | Way::Other => jobs.iter().map(|job| self.alone(self.decoder(way), job)).collect(),
        }
    }

    fn alone(&self, decoder: &Decoder, job: &Job) -> Result<Vec<Step>> {
        let (mut sequence, mut steps) = (Sequence::default(), Vec::new());
        let mut next = job.prompt.clone();
        loop {
            let logits = decoder.forward(&mut sequence, &next, Interrupt::default())?;
            if self.take(job, &mut steps, &logits)? {
                return Ok(steps);
            }
            next = vec![steps.last().map_or(0, |step: &Step| step.token)];
        }
    }

    fn together(&self, jobs: &[Job]) -> Result<Vec<Vec<Step>>> {
        let positions: usize = jobs.iter().map(|job| job.prompt.len() + job.length + 64).sum();
        let max_cache_bytes = self.own.position_bytes() * positions as u64;
        let mut batch = Batch::new(&self.own, BatchLimits { max_sequences: TOGETHER, max_cache_bytes });
        let join = |job: &Job| batch.join(&job.prompt, job.length);
        let ids = jobs.iter().map(join).collect::<Result<Vec<_>, _>>()?;
        let mut steps = vec![Vec::new(); jobs.len()];
        while !batch.is_idle() {
            for offer in batch.step(Interrupt::default())? {
                let at = ids.iter().position(|id| *id == offer.sequence);
                let at = at.ok_or_else(|| anyhow!("an offer to nobody"))?;
                match self.take(&jobs[at], &mut steps[at], &offer.logits)? {
                    true => _ = batch.leave(offer.sequence),
                    false => {
                        batch.push(offer.sequence, steps[at].last().map_or(0, |step: &Step| step.token))?
                    }
                }
            }
        }
        Ok(steps)
    }

    /// Chooses the next token and says whether it is the last.
    fn take(&self, job: &Job, steps: &mut Vec<Step>, logits: &[f32]) -> Result<bool> {
        let offered: Vec<Candidate> =
            candidates(logits, self.top_k as usize)?.iter().map(candidate).collect();
        let Draws { seed, temperature, top_p } = job.draws;
        let token = sample(temperature, top_p, draw(&seed, steps.len() as u64), &offered);
        let token = token.ok_or_else(|| anyhow!("the model offers nothing"))?;
        steps.push(Step { token, candidates: offered });
        Ok(steps.len() >= job.length || Some(token) == self.tokenizer.eos())
    }

    fn check(&self, way: Way, job: &Job, steps: Vec<Step>) -> Result<Distances> {
        let transcript = Transcript {
            model: String::new(),
            model_digest: Digest::ZERO,
            prompt: job.prompt.clone(),
            steps,
            stop: StopReason::MaxTokens,
        };
        let request = rescore_request(&transcript, self.top_k);
        let score = || self.decoder(way).rescore(&request, Interrupt::default());
        let own = if way == Way::OneThread { self.one_thread.install(score)? } else { score()? };
        let own: Vec<_> = own.into_iter().map(recomputed).collect();
        Ok(measure(&transcript.steps, &own, Some(&job.draws))?)
    }

    fn pair(&self, run: Way, checked: Way, jobs: &[Distances]) -> Pair {
        let mut means: Vec<u32> = jobs.iter().map(|job| job.mean).collect();
        means.sort_unstable();
        let checked = if (run, checked) == (Way::Own, Way::Own) { "in one pass" } else { self.name(checked) };
        Pair {
            run: self.name(run),
            checked,
            tokens: jobs.iter().map(|job| count(job.positions.len())).sum(),
            median: means.get(means.len() / 2).copied().unwrap_or(0),
            largest: means.last().copied().unwrap_or(0),
            worst: jobs.iter().map(|job| job.worst).max().unwrap_or(0),
            strangers: jobs.iter().map(|job| job.strangers).sum(),
            strays: jobs.iter().map(|job| job.strays).sum(),
        }
    }
}

/// What all of these are within, with a quarter to spare; shares as high as the worst pair's may be.
fn tolerance_of<'a>(jobs: impl Iterator<Item = &'a Distances> + Clone, pairs: &[&[Distances]]) -> Tolerance {
    let spare = |cost: u32| cost.saturating_add(cost / 4);
    let worst = spare(jobs.clone().map(|job| job.worst).max().unwrap_or(0)).max(LEAST_WORST);
    // `Tolerance::mean_of`, solved for the mean.
    let needed = |job: &Distances| {
        let root = count(job.positions.len()).isqrt().max(1);
        if root == 1 { 0 } else { (job.mean * root).saturating_sub(worst) / (root - 1) }
    };
    let long = |job: &&Distances| job.positions.len() >= LENGTHS[2];
    let long = jobs.clone().filter(long).map(|job| job.mean).max().unwrap_or(0);
    let mean = spare(jobs.map(needed).max().unwrap_or(0).max(long)).max(LEAST_MEAN);
    let share = |hits: fn(&Distances) -> u32, of: fn(&Distances) -> u32| {
        let shares = pairs.iter().map(|jobs| {
            let (hits, of): (u32, u32) =
                jobs.iter().fold((0, 0), |sum, job| (sum.0 + hits(job), sum.1 + of(job)));
            let hits = u64::from(hits);
            // What chance may have hidden: two standard deviations and a little for none at all.
            let most = hits + (4 * hits).isqrt() + 3;
            spare(count((most * u64::from(SHARE)).div_ceil(u64::from(of.max(1))) as usize)).min(SHARE)
        });
        shares.max().unwrap_or(SHARE)
    };
    Tolerance {
        mean,
        worst,
        strangers: share(|job| job.strangers, |job| job.candidates),
        strays: share(|job| job.strays, |job| count(job.positions.len())),
    }
}

/// The upper end of the 95 % interval of a share, <https://doi.org/10.1080/01621459.1927.10502953>.
fn upper(hits: u32, of: u32) -> f64 {
    let (n, z) = (f64::from(of.max(1)), 1.645);
    let p = f64::from(hits) / n;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    (p + z * z / (2.0 * n) + half) / (1.0 + z * z / n)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
