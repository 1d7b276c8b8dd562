//! Check B: how far what a transcript was signed with is from what another run of the same model computes, and when that
//! is too far.
//!
//! The rule needs no model. Its caller brings what the auditor's own run computes: of text what one pass over prompt and
//! output does ([`Recomputed`], compared by [`measure`]), of texts their [`vectors`], of pictures steps and pixels
//! ([`pictures`]). [`Distances::judge`] decides within a [`Tolerance`] that was calibrated for the model, and a [`Score`] sums
//! up the jobs of one wallet. Devices, kernels and batches round differently, so nothing here asks for equal bits.
//! `docs/audits.md` has the statistics.

mod pictures;
mod score;
mod vectors;

pub use pictures::{Painted, pictures};
pub use score::{MISS_SHARE, SCORE_LIMIT, Score};
pub use vectors::vectors;

use crate::sampler::{self, Candidate, MAX_COST, weight};
use crate::statement::{JobType, Params};
use crate::transcript::Step;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use swarm_crypto::digest::Digest;

/// How many candidates are recomputed for each that was signed: one that is not even among these is a stranger.
pub const RECOMPUTED_PER_CANDIDATE: u32 = 2;
/// One, in shares of candidates and of positions.
pub const SHARE: u32 = 10_000;

/// What the auditor's own pass computes for one output position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recomputed {
    /// Costs of the step's signed candidates, in their order.
    pub costs: Vec<u32>,
    /// The likeliest tokens, [`RECOMPUTED_PER_CANDIDATE`] for each candidate that the model's K asks for, by (cost, token).
    pub top: Vec<Candidate>,
}

/// How the tokens of a seeded run were drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// The seed of the lease's sampler ([`sampler::sampling_seed`]).
    pub seed: Digest,
    /// In 1/10000.
    pub temperature: u32,
    /// In 1/10000.
    pub top_p: u32,
}

impl Draws {
    /// The draws of a job under a lease.
    pub fn of(lease: &Digest, params: &Params) -> Self {
        let seed = sampler::sampling_seed(lease, params.seed);
        Self { seed, temperature: params.temperature, top_p: params.top_p }
    }
}

/// What a run is compared by, which its workload says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Text: a position is an output token, its distance is in 1/4096 bit.
    Bits,
    /// Embeddings: a position is a text, its distance is in 1/65536 of a vector's length.
    Lengths,
    /// Pictures: a position is a step or a tile, its distance is in 1/4096 of a latent or 1/256 of a shade.
    Shades,
}

impl Measure {
    /// That of a workload; none of a benchmark, in which nothing is left that another run could show.
    pub const fn of(job_type: JobType) -> Option<Self> {
        match job_type {
            JobType::LlmGen => Some(Self::Bits),
            JobType::Embed => Some(Self::Lengths),
            JobType::SdInfer => Some(Self::Shades),
            JobType::TorchBench => None,
        }
    }

    /// The tolerance of models whose manifests say nothing else.
    pub const fn tolerance(self) -> Tolerance {
        match self {
            Self::Bits => Tolerance::BUILT_IN,
            Self::Lengths => Tolerance::EMBEDDINGS,
            Self::Shades => Tolerance::PICTURES,
        }
    }

    /// The unit of its distances, in words.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Bits => "4096ths of a bit",
            Self::Lengths => "65536ths of a vector's length",
            Self::Shades => "4096ths of a latent (steps) and 256ths of a shade (tiles)",
        }
    }
}

/// One position, compared; what it is and its unit are its workload's ([`Measure`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// How far apart: of text the mean |Δcost| of its candidates, each weighed with the larger of its two probabilities.
    pub distance: u32,
    /// Signed candidates that are not among the recomputed ones.
    pub strangers: u32,
    /// Place of the token among the recomputed candidates, from 0; their number if it is none of them.
    pub rank: u32,
    /// From the recomputed costs the seed picks another token.
    pub stray: bool,
}

impl Position {
    /// One that nothing is known of but its distance.
    fn apart(distance: u32) -> Self {
        Self { distance, strangers: 0, rank: 0, stray: false }
    }
}

/// A whole run, compared. Of what is not text it has no candidates, strangers or strays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distances {
    /// One for each output token, text, or step and tile.
    pub positions: Vec<Position>,
    /// Mean of the positions' distances, rounded up.
    pub mean: u32,
    /// The distance that nine in ten positions do not exceed.
    pub high: u32,
    /// The largest distance of a position.
    pub worst: u32,
    /// Signed candidates of all positions.
    pub candidates: u32,
    /// Those that are strangers.
    pub strangers: u32,
    /// Positions at which the seed picks another token from the recomputed costs.
    pub strays: u32,
}

/// What honest runs of a model stay within: costs in 1/4096 bit, shares in 1/[`SHARE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// Of the mean distance of a long run.
    pub mean: u32,
    /// Of the distance of one position.
    pub worst: u32,
    /// Of candidates that are strangers, as a share of all.
    pub strangers: u32,
    /// Of positions at which the sampler picks another token, as a share of all.
    pub strays: u32,
}

/// Why a run is not one of the model within the tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// All of it is somewhat too far.
    #[error("its positions are {found} apart in the mean, {allowed} are allowed")]
    Mean {
        /// The mean of a run as long as this.
        found: u32,
        /// What such a run may have.
        allowed: u32,
    },
    /// One place is much too far.
    #[error("its position {position} is {found} apart, {allowed} are allowed")]
    Worst {
        /// Which, from 0.
        position: u32,
        /// How far.
        found: u32,
        /// How far it may be.
        allowed: u32,
    },
    /// It offers what the model would not.
    #[error("{found} of its candidates are none of the model's, {allowed} are allowed")]
    Strangers {
        /// How many.
        found: u32,
        /// How many there may be.
        allowed: u32,
    },
    /// It chose what its seed would not have chosen.
    #[error("{found} of its tokens are not what its seed picks, {allowed} are allowed")]
    Strays {
        /// How many.
        found: u32,
        /// How many there may be.
        allowed: u32,
    },
}

/// What was recomputed is not of the run that it is compared with: the caller's mistake, or a broken engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Another number of positions.
    #[error("{recomputed} positions were recomputed for {steps} tokens")]
    Positions {
        /// Tokens of the transcript.
        steps: usize,
        /// Positions recomputed.
        recomputed: usize,
    },
    /// Another number of costs than the position has candidates, or nothing recomputed.
    #[error("position {0} was not recomputed for its candidates")]
    Candidates(usize),
    /// Another number of vectors, or of numbers in them.
    #[error("{recomputed} bytes of vectors were recomputed for {signed}")]
    Vectors {
        /// Bytes of the output.
        signed: usize,
        /// Bytes recomputed.
        recomputed: usize,
    },
    /// A vector's numbers are not finite, or 2 and more.
    #[error("vector {0} is none of unit length")]
    Vector(usize),
    /// Another number of steps.
    #[error("{recomputed} steps were recomputed for {signed}")]
    Steps {
        /// Steps of the transcript.
        signed: usize,
        /// Steps recomputed.
        recomputed: usize,
    },
    /// Another number of means than are left of a step.
    #[error("step {0} has another number of parts")]
    Step(usize),
    /// A picture that is none, or of another size.
    #[error("a picture is not of the size that was asked for")]
    Picture,
}

/// Compares a transcript's steps with what was recomputed for them; `draws` of a seeded run, which also shows whether
/// its seed picks its tokens.
pub fn measure(
    steps: &[Step],
    recomputed: &[Recomputed],
    draws: Option<&Draws>,
) -> Result<Distances, Mismatch> {
    if steps.len() != recomputed.len() {
        return Err(Mismatch::Positions { steps: steps.len(), recomputed: recomputed.len() });
    }
    let mut positions = Vec::with_capacity(steps.len());
    for (n, (step, own)) in steps.iter().zip(recomputed).enumerate() {
        if own.costs.len() != step.candidates.len() || own.top.is_empty() {
            return Err(Mismatch::Candidates(n));
        }
        positions.push(Position {
            distance: distance(&step.candidates, own),
            strangers: strangers(&step.candidates, own),
            rank: rank(step.token, &own.top),
            stray: draws.is_some_and(|draws| is_stray(n, step, own, draws)),
        });
    }
    Ok(Distances::of(positions, count(steps.iter().map(|step| step.candidates.len()).sum())))
}

/// Candidates are weighed with the larger probability, so that neither what was made up nor what was left out is light.
/// A token that the transcript leaves out costs there at least as much as the last one that it has.
pub(crate) fn distance(signed: &[Candidate], own: &Recomputed) -> u32 {
    let named: BTreeSet<u32> = signed.iter().map(|candidate| candidate.token).collect();
    let last = signed.last().map_or(0, |candidate| candidate.cost.min(MAX_COST));
    let left_out = own.top.iter().take(signed.len()).filter(|candidate| !named.contains(&candidate.token));
    let pairs = signed.iter().zip(&own.costs).map(|(candidate, own)| (candidate.cost, *own));
    let pairs = pairs.chain(left_out.map(|own| (last.max(own.cost), own.cost)));
    let (mut sum, mut mass) = (0u64, 0u64);
    for (said, own) in pairs {
        let (said, own) = (said.min(MAX_COST), own.min(MAX_COST));
        // Even what has hardly any probability counts a little, so that there is always something to divide by.
        let weight = weight(u64::from(said.min(own))).max(1);
        sum += weight * u64::from(said.abs_diff(own));
        mass += weight;
    }
    u32::try_from(sum / mass.max(1)).unwrap_or(MAX_COST)
}

fn strangers(signed: &[Candidate], own: &Recomputed) -> u32 {
    let known: BTreeSet<u32> = own.top.iter().map(|candidate| candidate.token).collect();
    count(signed.iter().filter(|candidate| !known.contains(&candidate.token)).count())
}

fn rank(token: u32, top: &[Candidate]) -> u32 {
    count(top.iter().position(|candidate| candidate.token == token).unwrap_or(top.len()))
}

/// The draw is repeated with the recomputed costs, but in the order that was signed: candidates that are nearly equal
/// change places for little, and what counts is how far the draw was from the token's own share.
fn is_stray(n: usize, step: &Step, own: &Recomputed, draws: &Draws) -> bool {
    if draws.temperature == 0 {
        return rank(step.token, &own.top) > 0;
    }
    let named = step.candidates.iter().zip(&own.costs);
    let seen: Vec<_> = named.map(|(signed, cost)| Candidate { token: signed.token, cost: *cost }).collect();
    let least = own.costs.iter().copied().min().unwrap_or(0);
    let draw = sampler::draw(&draws.seed, n as u64);
    sampler::pick(draws.temperature, draws.top_p, draw, least, &seen) != Some(step.token)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Distances {
    fn of(positions: Vec<Position>, candidates: u32) -> Self {
        let mut sorted: Vec<u32> = positions.iter().map(|position| position.distance).collect();
        sorted.sort_unstable();
        let sum: u64 = sorted.iter().map(|distance| u64::from(*distance)).sum();
        let mean = sum.div_ceil(sorted.len().max(1) as u64);
        Self {
            mean: u32::try_from(mean).unwrap_or(MAX_COST),
            high: sorted.get((sorted.len() * 9).div_ceil(10).saturating_sub(1)).copied().unwrap_or(0),
            worst: sorted.last().copied().unwrap_or(0),
            candidates,
            strangers: positions.iter().fold(0, |sum, position| sum.saturating_add(position.strangers)),
            strays: count(positions.iter().filter(|position| position.stray).count()),
            positions,
        }
    }

    /// Whether the run is within what honest ones stay within; if not, the first excess of mean, worst, strangers, strays.
    pub fn judge(&self, tolerance: &Tolerance) -> Result<(), Excess> {
        let length = count(self.positions.len());
        let (found, allowed) = (self.mean, tolerance.mean_of(length));
        if found > allowed {
            return Err(Excess::Mean { found, allowed });
        }
        let (found, allowed) = (self.worst, tolerance.worst);
        if let Some(at) = self.positions.iter().position(|position| position.distance > allowed) {
            return Err(Excess::Worst { position: count(at), found, allowed });
        }
        let (found, allowed) = (self.strangers, at_most(tolerance.strangers, self.candidates));
        if found > allowed {
            return Err(Excess::Strangers { found, allowed });
        }
        let (found, allowed) = (self.strays, at_most(tolerance.strays, length));
        if found > allowed {
            return Err(Excess::Strays { found, allowed });
        }
        Ok(())
    }
}

impl Tolerance {
    /// Of the built-in model, computed on one core and on all: for models whose manifest says nothing else.
    pub const BUILT_IN: Self = Self { mean: 120, worst: 800, strangers: 5, strays: 300 };
    /// Of embeddings by other kernels: for models whose manifest says nothing else.
    pub const EMBEDDINGS: Self = Self { mean: 64, worst: 256, strangers: 0, strays: 0 };
    /// Of pictures by other kernels: for models whose manifest says nothing else.
    pub const PICTURES: Self = Self { mean: 32, worst: 128, strangers: 0, strays: 0 };

    /// The mean that a run of so many positions may have: a short one may consist of its worst.
    pub fn mean_of(&self, positions: u32) -> u32 {
        let more = self.worst.saturating_sub(self.mean) / positions.max(1).isqrt().max(1);
        self.mean.saturating_add(more)
    }
}

/// How many of `n` there may be where each is one with the probability `share`: more come by chance less often than
/// once in 10,000 runs.
fn at_most(share: u32, n: u32) -> u32 {
    // With the mean m, ⌊m + 4√m + 2⌋ is beyond that quantile of Poisson's distribution.
    let (share, one) = (u64::from(share), u64::from(SHARE));
    let mean = share * u64::from(n);
    u32::try_from((mean + (16 * mean * one).isqrt() + 2 * one) / one).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
