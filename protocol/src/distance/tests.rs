//! Distances of known size, and what scores come to.

use super::score::*;
use super::*;

const BIT: u32 = 4096;
const TOLERANCE: Tolerance = Tolerance { mean: 100, worst: 800, strangers: 10, strays: 100 };

fn candidates(costs: &[u32]) -> Vec<Candidate> {
    (0..).zip(costs).map(|(token, &cost)| Candidate { token, cost }).collect()
}

fn step(token: u32, costs: &[u32]) -> Step {
    Step { token, candidates: candidates(costs) }
}

/// What a model that says `costs` of tokens 0, 1, 2 … recomputes for a step.
fn own(step: &Step, costs: &[u32]) -> Recomputed {
    let mut top = candidates(costs);
    top.sort_unstable_by_key(|c| (c.cost, c.token));
    top.truncate(step.candidates.len() * RECOMPUTED_PER_CANDIDATE as usize);
    Recomputed { costs: step.candidates.iter().map(|c| costs[c.token as usize]).collect(), top }
}

fn compared(step: Step, costs: &[u32]) -> Position {
    let own = own(&step, costs);
    measure(&[step], &[own], None).unwrap().positions[0]
}

#[test]
fn what_is_the_same_is_nowhere_apart() {
    let costs = [BIT, 2 * BIT, 3 * BIT, 4 * BIT, 20 * BIT];
    let found = compared(step(2, &costs[..4]), &costs);
    assert_eq!(found, Position { distance: 0, strangers: 0, rank: 2, stray: false });
}

#[test]
fn a_difference_counts_by_the_larger_of_its_probabilities() {
    // A half, a quarter and two eighths: one bit more on an eighth, one bit less on an eighth that was a quarter.
    let signed = step(0, &[BIT, 2 * BIT, 3 * BIT, 3 * BIT]);
    assert_eq!(compared(signed.clone(), &[BIT, 2 * BIT, 3 * BIT, 4 * BIT]).distance, BIT / 8);
    assert_eq!(compared(signed.clone(), &[BIT, 2 * BIT, 3 * BIT, 2 * BIT]).distance, 2 * BIT / 9);
    // What is hardly possible hardly counts, however far off it is.
    let faint = step(0, &[0, 20 * BIT]);
    assert_eq!(compared(faint, &[0, 30 * BIT]).distance, 0);
    // Also where nothing has any probability there is a distance.
    let nothing = step(0, &[MAX_COST, MAX_COST]);
    assert_eq!(compared(nothing, &[MAX_COST, MAX_COST - BIT]).distance, BIT / 2);
}

#[test]
fn a_likely_token_that_is_left_out_costs_what_the_last_one_does_at_least() {
    // The model has a third token with a half; the transcript has it nowhere and ends at three bits.
    let signed = step(0, &[2 * BIT, 3 * BIT]);
    let found = compared(signed, &[2 * BIT, 3 * BIT, BIT]);
    assert_eq!(found.distance, u32::try_from(u64::from(2 * BIT) * 4 / 7).unwrap());
    // One that was left out for lack of room is as far off as what has room: not at all.
    assert_eq!(compared(step(0, &[BIT, 3 * BIT]), &[BIT, 3 * BIT, 3 * BIT]).distance, 0);
}

#[test]
fn strangers_and_ranks_are_among_twice_as_many() {
    let model = [5, 1, 2, 3, 4, 0].map(|bits| bits * BIT);
    let found = compared(step(0, &[BIT, 2 * BIT]), &model);
    assert_eq!((found.strangers, found.rank), (1, 4), "token 0 is the sixth of four");
    let found = compared(step(1, &[BIT, 2 * BIT]), &model);
    assert_eq!(found.rank, 1);
}

#[test]
fn a_seed_picks_the_same_from_the_same_and_strays_from_what_was_bent() {
    let draws = Draws { seed: Digest([3; 32]), temperature: 10_000, top_p: 10_000 };
    let costs = [2 * BIT; 4];
    let honest: Vec<Step> = (0..200)
        .map(|n| {
            let draw = sampler::draw(&draws.seed, n);
            step(sampler::sample(10_000, 10_000, draw, &candidates(&costs)).unwrap(), &costs)
        })
        .collect();
    let same: Vec<_> = honest.iter().map(|step| own(step, &costs)).collect();
    assert_eq!(measure(&honest, &same, Some(&draws)).unwrap().strays, 0);
    // An eighth of a quarter moves from the first to the last: a draw in 32 and a bit more strays at each boundary.
    let other = [2 * BIT + 789, 2 * BIT, 2 * BIT, 2 * BIT - 696];
    let bent: Vec<_> = honest.iter().map(|step| own(step, &other)).collect();
    let found = measure(&honest, &bent, Some(&draws)).unwrap();
    assert!((8..40).contains(&found.strays), "{}", found.strays);
    assert_eq!(measure(&honest, &bent, None).unwrap().strays, 0, "without a seed nobody knows");
}

fn run(distances: &[u32], strays: usize, strangers: u32) -> Distances {
    let position = |(n, distance): (usize, &u32)| Position {
        distance: *distance,
        strangers: if n == 0 { strangers } else { 0 },
        rank: 0,
        stray: n < strays,
    };
    let positions: Vec<_> = distances.iter().enumerate().map(position).collect();
    let candidates = 16 * count(positions.len());
    Distances::of(positions, candidates)
}

#[test]
fn a_run_is_summed_up() {
    let found = run(&[10, 0, 0, 0, 0, 0, 0, 0, 40, 901], 3, 2);
    assert_eq!((found.mean, found.high, found.worst), (96, 40, 901));
    assert_eq!((found.candidates, found.strangers, found.strays), (160, 2, 3));
    let none = run(&[], 0, 0);
    assert_eq!((none.mean, none.high, none.worst, none.judge(&TOLERANCE)), (0, 0, 0, Ok(())));
}

#[test]
fn each_excess_has_its_name() {
    let good = run(&[100; 64], 0, 0);
    assert_eq!(good.judge(&TOLERANCE), Ok(()));
    assert_eq!(run(&[188; 64], 0, 0).judge(&TOLERANCE), Err(Excess::Mean { found: 188, allowed: 187 }));
    let mut worst = vec![50; 64];
    worst[9] = 801;
    let worst = run(&worst, 0, 0).judge(&TOLERANCE);
    assert_eq!(worst, Err(Excess::Worst { position: 9, found: 801, allowed: 800 }));
    // One in a thousand of 1024 candidates, and what chance adds to it.
    assert_eq!(run(&[1; 64], 0, 7).judge(&TOLERANCE), Ok(()));
    assert_eq!(run(&[1; 64], 0, 8).judge(&TOLERANCE), Err(Excess::Strangers { found: 8, allowed: 7 }));
    // One in a hundred of 64 tokens.
    assert_eq!(run(&[1; 64], 5, 0).judge(&TOLERANCE), Ok(()));
    assert_eq!(run(&[1; 64], 6, 0).judge(&TOLERANCE), Err(Excess::Strays { found: 6, allowed: 5 }));
}

#[test]
fn short_runs_may_be_further_off() {
    let allowed = [1, 4, 49, 4096].map(|positions| TOLERANCE.mean_of(positions));
    assert_eq!(allowed, [800, 450, 200, 110]);
    assert_eq!(
        run(&[800], 2, 2).judge(&TOLERANCE),
        Ok(()),
        "a single token may be all that, and stray twice"
    );
}

/// P(more than k) of Poisson's distribution.
fn beyond(mean: f64, k: u32) -> f64 {
    let (mut term, mut sum) = ((-mean).exp(), 0.0);
    for n in 0..=k {
        sum += term;
        term *= mean / f64::from(n + 1);
    }
    1.0 - sum
}

#[test]
fn chance_alone_goes_beyond_a_count_less_than_once_in_ten_thousand_runs() {
    for share in [1, 10, 100, 500] {
        for n in [1, 4, 16, 64, 256, 1024, 4096] {
            let mean = f64::from(share) * f64::from(n) / f64::from(SHARE);
            let chance = beyond(mean, at_most(share, n));
            assert!(chance < 1.6e-4, "{share} of {n}: {chance}");
        }
    }
}

#[test]
fn what_does_not_fit_together_is_said() {
    let steps = [step(0, &[BIT]), step(0, &[BIT])];
    let one = own(&steps[0], &[BIT, BIT]);
    let positions = measure(&steps, std::slice::from_ref(&one), None);
    assert_eq!(positions, Err(Mismatch::Positions { steps: 2, recomputed: 1 }));
    let no_costs = Recomputed { costs: Vec::new(), ..one.clone() };
    assert_eq!(measure(&steps, &[one.clone(), no_costs], None), Err(Mismatch::Candidates(1)));
    let no_top = Recomputed { top: Vec::new(), ..one.clone() };
    assert_eq!(measure(&steps, &[no_top, one], None), Err(Mismatch::Candidates(0)));
}

#[test]
fn one_miss_decides_nothing_and_a_few_do() {
    let (good, bad) = (run(&[50; 64], 0, 0), run(&[900; 64], 0, 0));
    let mut score = Score::default();
    let beyond: Vec<bool> = (0..4)
        .map(|_| {
            score.push(&bad, &TOLERANCE);
            score.is_beyond()
        })
        .collect();
    assert_eq!(beyond, [false, false, true, true]);
    let mut rare = Score::default();
    for n in 0..10_000 {
        rare.push(if n % 500 == 0 { &bad } else { &good }, &TOLERANCE);
        assert!(!rare.is_beyond(), "twice the honest rate, evenly, is no cheat: {n}");
    }
    let mut slow = Score::default();
    for n in 0..20 {
        slow.push(if n % 4 == 0 { &bad } else { &good }, &TOLERANCE);
    }
    assert!(slow.is_beyond(), "a miss in four is");
}

#[test]
fn strays_that_no_single_job_shows_add_up() {
    // Four of 64 is within what one job may have, and four times the honest share.
    let sly = run(&[50; 64], 4, 0);
    assert_eq!(sly.judge(&TOLERANCE), Ok(()));
    let mut score = Score::default();
    let jobs = (1..=20).find(|_| {
        score.push(&sly, &TOLERANCE);
        score.is_beyond()
    });
    assert!(jobs.is_some_and(|jobs| jobs <= 6), "{jobs:?}");
    let mut honest = Score::default();
    for n in 0..10_000 {
        honest.push(&run(&[50; 64], usize::from(n % 2 == 0), 0), &TOLERANCE);
        assert!(!honest.is_beyond(), "half a stray in 64, {n}");
    }
}

/// The exponential of an honest sum shrinks: E[2^(gain)] ≤ 1, which is what the limit rests on.
#[test]
fn an_honest_step_is_worth_less_than_nothing() {
    for (share, n, factor) in
        [(MISS_SHARE, 1, MISS_FACTOR), (100, 64, STRAY_FACTOR), (30, 4096, STRAY_FACTOR)]
    {
        let p = f64::from(share) / f64::from(SHARE);
        let base = 1 << 40;
        let loss = (base - cumulated(base, 0, share, n, factor)) as f64 / 4096.0;
        let grown = (1.0 - p + p * f64::from(1 << factor)).powi(n as i32) * (-loss).exp2();
        assert!(grown <= 1.0 && grown > 0.8, "{grown}");
    }
}
