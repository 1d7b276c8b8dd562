//! The cheats.

use swarm_inference::{Interrupt, Sequence};
use swarm_protocol::distance::{Draws, Recomputed, SHARE, Tolerance, measure};
use swarm_protocol::sampler::{Candidate, MAX_COST};
use swarm_protocol::transcript::{Step, StopReason};

use crate::world::{Case, Delivery, World, picked, sampled};

/// A way not to do what is paid for.
#[derive(Debug, Clone, Copy)]
pub enum Cheat {
    /// Runs other weights under the model's name.
    OtherWeights(&'static str),
    /// Samples at another temperature.
    Temperature,
    /// The same, and signs costs that make it look as agreed.
    ForgedTemperature,
    /// Takes a seed of its own.
    Seed,
    /// The same, and signs costs from which the lease's seed picks the same tokens.
    ForgedSeed,
    /// Stops half-way and says that it was asked to.
    Truncated,
    /// Stops half-way and signs that the model ended the text there.
    ForgedEnd,
    /// Hands in what another miner did for the same job.
    Copied,
    /// Hands in what it did for a prompt that was a little different.
    CachedAnswer,
    /// Offers what it had computed for a prompt that was a little different, and draws anew.
    CachedCosts,
    /// Takes the text of a cheap model, and signs what the right one says of it.
    Rescored(&'static str),
    /// The same, and where the right one would have chosen otherwise, bends its costs as little as will do.
    Bent(&'static str),
    /// The same, but knows the rule and half of its tolerance: where bending would show, it takes the right token and goes
    /// on from there.
    Sly(&'static str),
}

impl Cheat {
    pub fn name(self) -> String {
        match self {
            Cheat::OtherWeights(weights) => format!("other weights: {weights}"),
            Cheat::Temperature => "another temperature".into(),
            Cheat::ForgedTemperature => "another temperature, costs forged".into(),
            Cheat::Seed => "a seed of its own".into(),
            Cheat::ForgedSeed => "a seed of its own, costs forged".into(),
            Cheat::Truncated => "half the output".into(),
            Cheat::ForgedEnd => "half the output, the end forged".into(),
            Cheat::Copied => "copied from another miner".into(),
            Cheat::CachedAnswer => "an answer to a changed prompt".into(),
            Cheat::CachedCosts => "costs of a changed prompt, drawn anew".into(),
            Cheat::Rescored(weights) => format!("text of {weights}, scored by the right model"),
            Cheat::Bent(weights) => format!("text of {weights}, costs of the right model bent to it"),
            Cheat::Sly(weights) => {
                format!("text of {weights}, bent within half the tolerance, else the right token")
            }
        }
    }

    /// What it hands in for a job.
    pub fn deliver(self, world: &World, case: &Case) -> Delivery {
        let draws = case.draws();
        match self {
            Cheat::OtherWeights(weights) => world.honest(weights, case),
            Cheat::Temperature => world.honest("one core", &hotter(case)),
            Cheat::ForgedTemperature => forged(world, case, &hotter(case).draws()),
            Cheat::Seed => world.honest("one core", &seeded(case)),
            Cheat::ForgedSeed => forged(world, case, &seeded(case).draws()),
            Cheat::Truncated => halved(world.honest("one core", case)),
            Cheat::ForgedEnd => ended(world, halved(world.honest("one core", case)), &draws),
            Cheat::Copied => world.honest("one core", &case.leased_to(1)),
            Cheat::CachedAnswer => world.honest("one core", &world.changed_prompt(&case.leased_to(1))),
            Cheat::CachedCosts => world.honest("one core", &world.changed_prompt(case)),
            Cheat::Rescored(weights) => rescored(world, case, weights),
            Cheat::Bent(weights) => speculated(world, case, weights, &mut |_| true),
            Cheat::Sly(weights) => sly(world, case, weights),
        }
    }

    /// Whether it changes nothing for jobs that always take the likeliest token: the answer is then the right one.
    pub fn needs_sampling(self) -> bool {
        matches!(
            self,
            Cheat::Temperature | Cheat::ForgedTemperature | Cheat::Seed | Cheat::ForgedSeed | Cheat::Copied
        )
    }
}

fn hotter(case: &Case) -> Case {
    let mut case = case.clone();
    case.job.params.temperature = case.job.params.temperature * 3 / 2;
    case
}

fn seeded(case: &Case) -> Case {
    let mut case = case.clone();
    case.job.params.seed = Some(u64::MAX);
    case
}

/// The right model's costs, tokens by other draws, costs bent so that the agreed draws pick them.
fn forged(world: &World, case: &Case, other: &Draws) -> Delivery {
    let draws = case.draws();
    world.generate(world.decoder("one core"), case, &mut |n, candidates| {
        let wanted = picked(n, &candidates, other);
        Step { token: wanted, candidates: bent(n, candidates, wanted, &draws) }
    })
}

fn halved(mut delivery: Delivery) -> Delivery {
    delivery.steps.truncate(delivery.steps.len().div_ceil(2));
    delivery
}

fn ended(world: &World, mut delivery: Delivery, draws: &Draws) -> Delivery {
    let n = delivery.steps.len() - 1;
    let eos = world.tokenizer.eos().unwrap();
    let candidates = std::mem::take(&mut delivery.steps[n].candidates);
    delivery.steps[n] = Step { token: eos, candidates: bent(n, candidates, eos, draws) };
    delivery.stop = StopReason::Eos;
    delivery
}

fn rescored(world: &World, case: &Case, weights: &str) -> Delivery {
    let mut delivery = world.honest(weights, case);
    let scored = world.scored("one core", case, &delivery);
    for (step, mut candidates) in delivery.steps.iter_mut().zip(scored) {
        with(&mut candidates, step.token);
        step.candidates = candidates;
    }
    delivery
}

/// A step as it would be signed, and what the right model offers there.
type Proposed<'a> = (&'a Step, &'a [Candidate]);

/// A cheap model proposes, the right one is asked, and a proposal that `accepts` does not like is replaced by the right
/// token.
fn speculated(
    world: &World,
    case: &Case,
    weights: &str,
    accepts: &mut dyn FnMut(Proposed<'_>) -> bool,
) -> Delivery {
    let (cheap, draws) = (world.decoder(weights), case.draws());
    let (mut sequence, mut seen) = (Sequence::default(), case.prompt.clone());
    world.generate(world.decoder("one core"), case, &mut |n, candidates| {
        let logits = cheap.forward(&mut sequence, &std::mem::take(&mut seen), Interrupt::default()).unwrap();
        let proposed = swarm_inference::candidates(&logits, world.top_k).unwrap();
        let proposed: Vec<_> = proposed.iter().map(|c| Candidate { token: c.token, cost: c.cost }).collect();
        let token = picked(n, &proposed, &draws);
        let mut step = Step { token, candidates: bent(n, candidates.clone(), token, &draws) };
        if !accepts((&step, &candidates)) {
            step = sampled(n, candidates, &draws);
        }
        seen.push(step.token);
        step
    })
}

fn sly(world: &World, case: &Case, weights: &str) -> Delivery {
    let (draws, limit) = (case.draws(), Tolerance::BUILT_IN);
    let (mut steps, mut own) = (Vec::<Step>::new(), Vec::<Recomputed>::new());
    speculated(world, case, weights, &mut |(step, right)| {
        let cost = |candidate: &Candidate| {
            let known = right.iter().find(|right| right.token == candidate.token);
            known.map_or(candidate.cost, |right| right.cost)
        };
        own.push(Recomputed { costs: step.candidates.iter().map(cost).collect(), top: right.to_vec() });
        steps.push(step.clone());
        let found = measure(&steps, &own, Some(&draws)).unwrap();
        let share = found.strays * SHARE / found.positions.len() as u32;
        let last = found.positions[steps.len() - 1];
        let goes =
            found.mean <= limit.mean / 2 && last.distance <= limit.worst / 2 && share <= limit.strays / 2;
        if !goes {
            let n = steps.len() - 1;
            steps[n] = sampled(n, right.to_vec(), &draws);
            own[n].costs = right.iter().map(|right| right.cost).collect();
        }
        goes
    })
}

/// Has a token among the candidates, in place of the last one if it is none of them.
fn with(candidates: &mut [Candidate], token: u32) {
    if candidates.iter().all(|candidate| candidate.token != token) {
        let last = candidates.last_mut().unwrap();
        *last = Candidate { token, cost: last.cost };
        candidates.sort_unstable_by_key(|c| (c.cost, c.token));
    }
}

/// Candidates from which the draw picks `wanted`, the costs of others raised as little as will do for that: of those before
/// it, of those after it, or, where neither will do, of all.
pub fn bent(n: usize, mut candidates: Vec<Candidate>, wanted: u32, draws: &Draws) -> Vec<Candidate> {
    with(&mut candidates, wanted);
    let first = picked(n, &candidates, draws);
    if first == wanted {
        return candidates;
    }
    let place = |token: u32| candidates.iter().position(|candidate| candidate.token == token).unwrap();
    let (at, before) = (place(wanted), place(first) < place(wanted));
    let one_side = |raise: u32| raised(&candidates, raise, |i| if before { i < at } else { i > at });
    let others = |raise: u32| raised(&candidates, raise, |i| i != at);
    let picks = |candidates: &[Candidate]| picked(n, candidates, draws) == wanted;
    for raise in [&one_side as &dyn Fn(u32) -> Vec<Candidate>, &others] {
        let Some(high) = (0..20).map(|bits| 1 << bits).find(|by| picks(&raise(*by))) else { continue };
        let (mut low, mut high) = (high / 2, high);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if picks(&raise(middle)) { high = middle } else { low = middle }
        }
        return raise(high);
    }
    unreachable!("a token that is certain is picked")
}

fn raised(candidates: &[Candidate], by: u32, which: impl Fn(usize) -> bool) -> Vec<Candidate> {
    let raise = |(i, c): (usize, &Candidate)| Candidate {
        token: c.token,
        cost: if which(i) { (c.cost + by).min(MAX_COST) } else { c.cost },
    };
    let mut raised: Vec<_> = candidates.iter().enumerate().map(raise).collect();
    raised.sort_unstable_by_key(|c| (c.cost, c.token));
    raised
}
