//! Proofs that are altered on purpose, which show who audits without looking: `docs/audits.md` says why.
//!
//! The tokens are those that the model and the lease's seed give; only what is signed of their costs is not. Positions are
//! altered one by one, as they are made, because progress names the digest of what was signed so far.

use crate::audit::is_picked;
use crate::codec::keyed;
use crate::distance::{Draws, Recomputed, distance};
use crate::finding::{BEYOND_DOUBT, WIDEST_TOLERANCE};
use crate::sampler::{self, Candidate, MAX_COST, weight};
use crate::statement::{Assurance, Job, JobType};
use crate::transcript::Step;
use swarm_crypto::digest::Digest;

/// The largest share of a wallet's proofs that is altered, in 1/10000: more would have it condemned for certain.
pub const MAX_ALTERED: u32 = 1000;
/// How far each position is moved at least, in 1/4096 bit: what is beyond doubt, and the widest tolerance that honest looks in
/// a pool that audits may differ by.
pub const LEAST_DISTANCE: u32 = BEYOND_DOUBT + WIDEST_TOLERANCE;

/// By how much the differences of costs are stretched: the least change first, towards certainty before away from it.
const FACTORS: [(u64, u64); 10] =
    [(3, 2), (2, 3), (2, 1), (1, 2), (3, 1), (1, 3), (4, 1), (1, 4), (1, 6), (1, 8)];
/// Costs that are stretched stay within what models give, 40 bits.
const MAX_STRETCHED: u32 = 40 << 12;

/// Which proofs a wallet alters, and how many of them. Nobody else can tell, and another process of the same wallet can.
#[derive(Clone, PartialEq, Eq)]
pub struct Altering {
    secret: Digest,
    share: u32,
}

impl Altering {
    /// So many in 10,000, at most [`MAX_ALTERED`], of the wallet with this secret key.
    pub fn of(key: &[u8; 32], share: u32) -> Self {
        Self { secret: keyed(key, &("altered proofs",)), share: share.min(MAX_ALTERED) }
    }

    /// Whether the proof under this lease is one.
    pub fn picks(&self, lease: &Digest) -> bool {
        is_picked(&self.secret, lease, self.share)
    }

    /// Whether it could be one of this job: of its answer only the costs must be able to lie.
    pub fn is_for(job: &Job) -> bool {
        job.job_type == JobType::LlmGen && job.assurance == Assurance::Seeded
    }
}

impl std::fmt::Debug for Altering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Altering({} in 10000)", self.share)
    }
}

/// The output position `n` with other costs, from which the seed picks the same token, and how far they are from the model's
/// (1/4096 bit, at least [`LEAST_DISTANCE`]); nothing where there are none.
///
/// The costs are what another temperature would make of the model's: probabilities sum to what they did, and the candidates
/// keep their order, but for the token that is picked, which goes where the draw falls. Where no temperature is enough, all
/// costs are raised alike.
pub fn alter(step: &Step, n: u64, draws: &Draws) -> Option<(Step, u32)> {
    let draw = sampler::draw(&draws.seed, n);
    let stretched = FACTORS.iter().filter_map(|factor| stretched(&step.candidates, *factor));
    let costs = stretched.chain(raised(&step.candidates));
    let mut altered = costs.filter_map(|costs| placed(step, &costs, draw, draws));
    altered.find(|(_, distance)| *distance >= LEAST_DISTANCE)
}

/// Costs whose differences are stretched by a factor and whose probabilities sum to what they did, ascending strictly.
fn stretched(candidates: &[Candidate], (by, of): (u64, u64)) -> Option<Vec<u32>> {
    let least = u64::from(candidates.first()?.cost);
    let apart: Vec<u64> =
        candidates.iter().map(|candidate| (u64::from(candidate.cost) - least) * by / of).collect();
    let mass: u64 = candidates.iter().map(|candidate| weight(candidate.cost.into())).sum();
    let is_within = |base: u64| apart.iter().map(|apart| weight(base + apart)).sum::<u64>() <= mass;
    let (mut low, mut high) = (0, u64::from(MAX_STRETCHED));
    while low < high {
        let middle = low.midpoint(high);
        if is_within(middle) { high = middle } else { low = middle + 1 }
    }
    let mut costs: Vec<u32> = Vec::with_capacity(apart.len());
    for apart in apart {
        let cost = u32::try_from(low + apart).ok()?;
        costs.push(costs.last().map_or(cost, |before| cost.max(before + 1)));
    }
    (costs.last()? <= &MAX_STRETCHED).then_some(costs)
}

/// Costs that are all raised by as much as is needed: who draws from them sees no difference.
fn raised(candidates: &[Candidate]) -> Option<Vec<u32>> {
    let raised = candidates.iter().map(|candidate| candidate.cost.checked_add(LEAST_DISTANCE));
    raised.map(|cost| cost.filter(|cost| *cost <= MAX_COST)).collect()
}

/// The step with these costs, its token where the draw falls, and its distance from the step.
fn placed(step: &Step, costs: &[u32], draw: u64, draws: &Draws) -> Option<(Step, u32)> {
    let picks = |candidates: &[Candidate]| sampler::sample(draws.temperature, draws.top_p, draw, candidates);
    let places: Vec<_> = (0..).zip(costs).map(|(token, &cost)| Candidate { token, cost }).collect();
    let place = usize::try_from(picks(&places)?).ok()?;
    let mut own = step.candidates.clone();
    let at = own.iter().position(|candidate| candidate.token == step.token)?;
    let token = own.remove(at);
    own.insert(place, token);
    let candidates: Vec<_> =
        own.iter().zip(costs).map(|(own, &cost)| Candidate { token: own.token, cost }).collect();
    let is_good = candidates.is_sorted_by_key(|candidate| (candidate.cost, candidate.token));
    if !is_good || picks(&candidates) != Some(step.token) {
        return None;
    }
    let costs = own.iter().map(|candidate| candidate.cost).collect();
    let apart = distance(&candidates, &Recomputed { costs, top: step.candidates.clone() });
    Some((Step { token: step.token, candidates }, apart))
}
