//! Proofs that are altered on purpose: every exact rule holds of them, and whoever runs the model sees it beyond doubt.

use crate::acceptance::judge;
use crate::auditors::{LAZY, asked_the_lazy, erred, is_established};
use crate::audits::{ends, free, next_epoch, opinion, pool};
use crate::toy::{Delivery, VOCABULARY, deliver, job, piece};
use crate::verification::{published, verify};
use proptest::collection::vec;
use proptest::prelude::*;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::altered::{Altering, LEAST_DISTANCE, MAX_ALTERED, alter};
use swarm_protocol::distance::{Distances, Draws, Recomputed, Tolerance, measure};
use swarm_protocol::finding::{self, AuditEnd, BEYOND_DOUBT, Finding, can_audit};
use swarm_protocol::sampler::{Candidate, draw, sample, weight};
use swarm_protocol::statement::{Assurance, JobType};
use swarm_protocol::transcript::{Step, StopReason};

/// Who makes altered proofs.
const MAKER: u8 = 2;

/// Candidates whose logits, in 1/4096 bit below the first, are `behind`, and beside which there is `rest` 256ths of all mass.
fn candidates(behind: &[u32], rest: u8, first_token: u32) -> Vec<Candidate> {
    let mut behind = behind.to_vec();
    behind.sort_unstable();
    let named: f64 = behind.iter().map(|cost| (-f64::from(*cost) / 4096.0).exp2()).sum();
    let whole = (named / (1.0 - f64::from(rest) / 256.0)).log2() * 4096.0;
    // Not in the order of their ids, and never the end of a text.
    let token = |n: u32| 1 + (first_token + 17 * n) % (VOCABULARY - 1);
    let all = behind
        .iter()
        .zip(0..)
        .map(|(cost, n)| Candidate { token: token(n), cost: cost + whole.ceil() as u32 });
    let mut all: Vec<_> = all.collect();
    all.sort_unstable_by_key(|candidate| (candidate.cost, candidate.token));
    all
}

/// An honest run over such positions.
fn run(positions: &[Vec<Candidate>], temperature: u32, top_p: u32) -> Delivery {
    let mut job = job(u32::try_from(positions.len()).unwrap(), temperature, &[]);
    job.params.top_p = top_p;
    let mut delivery = deliver(job, 1000);
    let draws = draws(&delivery);
    let step = |(candidates, n): (&Vec<Candidate>, u64)| {
        let token = sample(temperature, top_p, draw(&draws.seed, n), candidates).unwrap();
        Step { token, candidates: candidates.clone() }
    };
    delivery.transcript.steps = positions.iter().zip(0..).map(step).collect();
    delivery.transcript.stop = StopReason::MaxTokens;
    delivery.facts.top_k = u32::try_from(positions[0].len()).unwrap();
    delivery.output = delivery.transcript.steps.iter().flat_map(|step| piece(step.token)).collect();
    delivery.progress.clear();
    delivery
}

fn draws(delivery: &Delivery) -> Draws {
    Draws::of(&delivery.lease, &delivery.job.params)
}

/// The same with other costs, and how far each position is from its own.
fn altered(honest: &Delivery) -> (Delivery, Vec<u32>) {
    let (mut delivery, draws) = (honest.clone(), draws(honest));
    let steps = honest.transcript.steps.iter().zip(0..);
    let (steps, apart) =
        steps.map(|(step, n)| alter(step, n, &draws).expect("costs as models have them")).unzip();
    delivery.transcript.steps = steps;
    (delivery, apart)
}

/// What an auditor with the very same model finds of costs that it would have signed as `own`.
fn look(signed: &Delivery, own: &Delivery) -> (Distances, Finding) {
    let cost = |step: &Step, token: u32| step.candidates.iter().find(|own| own.token == token).unwrap().cost;
    let pairs = signed.transcript.steps.iter().zip(&own.transcript.steps);
    let recomputed = pairs.map(|(signed, own)| Recomputed {
        costs: signed.candidates.iter().map(|candidate| cost(own, candidate.token)).collect(),
        top: own.candidates.clone(),
    });
    let recomputed: Vec<_> = recomputed.collect();
    let found = measure(&signed.transcript.steps, &recomputed, Some(&draws(signed))).unwrap();
    let (finding, _) = finding::judge(Ok(&found), &Tolerance::BUILT_IN).unwrap();
    (found, finding)
}

fn mass(step: &Step) -> u64 {
    step.candidates.iter().map(|candidate| weight(candidate.cost.into())).sum()
}

fn tokens(delivery: &Delivery) -> Vec<u32> {
    delivery.transcript.steps.iter().map(|step| step.token).collect()
}

/// Positions of eight candidates: certain ones and open ones, of much and of little of all mass.
fn positions() -> impl Strategy<Value = Vec<Vec<Candidate>>> {
    let spread = prop_oneof![1u32..2_000, 2_000u32..30_000, 30_000u32..120_000];
    let position =
        (spread, vec(0u32..10_000, 7), 0u8..=230, any::<u8>()).prop_map(|(spread, parts, rest, first)| {
            let behind: Vec<u32> = parts.iter().map(|part| part * spread / 10_000).chain([0]).collect();
            candidates(&behind, rest, first.into())
        });
    vec(position, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn an_altered_proof_is_accepted_with_the_same_answer_and_is_beyond_doubt(
        positions in positions(),
        temperature in prop_oneof![Just(0u32), 1u32..30_000],
        top_p in 1u32..=10_000,
    ) {
        let honest = run(&positions, temperature, top_p);
        let units = judge(&honest);
        prop_assert!(units.is_ok(), "{:?}", units);
        let (altered, apart) = altered(&honest);
        prop_assert_eq!(judge(&altered), units);
        prop_assert_eq!(tokens(&altered), tokens(&honest));
        prop_assert!(altered.output == honest.output);

        let (found, finding) = look(&altered, &honest);
        let told: Vec<u32> = found.positions.iter().map(|position| position.distance).collect();
        prop_assert_eq!(&told, &apart);
        prop_assert!(apart.iter().all(|apart| *apart >= LEAST_DISTANCE), "{:?}", apart);
        prop_assert_eq!(finding, Finding::Differs(found.mean));
        prop_assert!(found.mean >= BEYOND_DOUBT && found.strangers == 0);
        prop_assert_eq!(look(&honest, &honest).1, Finding::Holds);
    }

    #[test]
    fn another_kernel_than_the_makers_finds_it_too(positions in positions(), noise in vec(0u32..=600, 8)) {
        let honest = run(&positions, 10_000, 9_500);
        let mut elsewhere = honest.clone();
        for step in &mut elsewhere.transcript.steps {
            step.candidates.iter_mut().zip(&noise).for_each(|(candidate, noise)| candidate.cost += noise);
        }
        let (found, _) = look(&altered(&honest).0, &elsewhere);
        prop_assert!(found.mean >= BEYOND_DOUBT, "{}", found.mean);
        prop_assert!(look(&honest, &elsewhere).0.mean <= 600);
    }

    #[test]
    fn altered_costs_have_the_mass_of_the_models_and_look_like_its_own(positions in positions()) {
        let honest = run(&positions, 10_000, 10_000);
        let (altered, _) = altered(&honest);
        for (own, other) in honest.transcript.steps.iter().zip(&altered.transcript.steps) {
            let differences = |step: &Step| -> Vec<u32> {
                step.candidates.windows(2).map(|pair| pair[1].cost - pair[0].cost).collect()
            };
            let is_raised = differences(own) == differences(other);
            let lost = mass(own) - mass(other);
            prop_assert!(is_raised || lost <= mass(own) / 64, "{:?} and {:?}", own, other);
            let rest = |step: &Step| -> Vec<u32> {
                let others = step.candidates.iter().filter(|candidate| candidate.token != step.token);
                others.map(|candidate| candidate.token).collect()
            };
            prop_assert_eq!(rest(own), rest(other), "only the token that is drawn changes its place");
        }
    }
}

/// Raising all costs alike is the last resort, and shows in the mass: it has to be rare.
#[test]
fn hardly_any_position_of_a_run_has_to_be_raised() {
    let honest = deliver(job(200, 10_000, &[]), 1000);
    let (altered, _) = altered(&honest);
    let pairs = honest.transcript.steps.iter().zip(&altered.transcript.steps);
    let raised = pairs.filter(|(own, other)| mass(own) - mass(other) > mass(own) / 64).count();
    assert!(raised * 50 <= honest.transcript.steps.len(), "{raised} of {}", honest.transcript.steps.len());
}

#[test]
fn what_cannot_be_altered_stays_as_it_is() {
    let honest = run(&[candidates(&[0, 9_000], 0, 1)], 10_000, 10_000);
    let draws = draws(&honest);
    let step = &honest.transcript.steps[0];
    let torn = Step { token: 38, ..step.clone() };
    assert_eq!(alter(&torn, 0, &draws), None, "its token is none of its candidates");
    assert_eq!(alter(&Step { token: 0, candidates: vec![] }, 0, &draws), None);
}

#[test]
fn which_proofs_are_altered_follows_from_the_wallets_key_and_nothing_else() {
    let lease = |n: u32| blake3(&n.to_be_bytes());
    let chosen = |key: u8, share: u32| -> Vec<u32> {
        let altering = Altering::of(&[key; 32], share);
        (0..20_000).filter(|n| altering.picks(&lease(*n))).collect()
    };
    let ours = chosen(7, 500);
    assert!(ours.len().abs_diff(1_000) < 155, "{}", ours.len());
    assert_eq!(chosen(7, 500), ours, "a restart knows them again");
    let theirs = chosen(8, 500);
    assert!(theirs.iter().filter(|n| ours.contains(n)).count() < 100, "another wallet alters others");
    assert_eq!(chosen(7, 10_000), chosen(7, MAX_ALTERED), "no wallet alters so many that it is condemned");
    assert_eq!(chosen(7, 0), [0; 0]);
    assert!(!format!("{:?}", Altering::of(&[7; 32], 500)).contains(&Digest([7; 32]).to_string()[..16]));
}

#[test]
fn only_costs_that_are_checked_draw_by_draw_are_altered() {
    let mut seeded = job(5, 10_000, &[]);
    assert!(Altering::is_for(&seeded));
    seeded.assurance = Assurance::Distance;
    assert!(!Altering::is_for(&seeded));
    assert!(!Altering::is_for(&swarm_protocol::statement::Job {
        job_type: JobType::Embed,
        ..job(5, 0, &[])
    }));
    let wide = Tolerance { worst: 1025, ..Tolerance::BUILT_IN };
    assert!(can_audit(&Tolerance::BUILT_IN) && !can_audit(&wide));
}

/// An auditor that looks at nothing is found out by those whose proofs it calls good, and is drawn no more.
#[test]
fn whoever_calls_two_altered_proofs_good_is_challenged_by_their_maker_and_is_drawn_no_more() {
    let honest = deliver(job(60, 10_000, &[]), 1000);
    let (_, truth) = look(&altered(&honest).0, &honest);
    assert!(matches!(truth, Finding::Differs(mean) if mean >= BEYOND_DOUBT));
    let mut table = pool(10_000);
    for errors in 1..=2 {
        let at = asked_the_lazy(&mut table);
        opinion(&mut table, Finding::Holds);
        assert_eq!(ends(&table).last(), Some(&(at, AuditEnd::Holds)));
        let before = free(&table, MAKER);
        let job = table.leaves().into_iter().find(|(leaf, _)| *leaf == at).unwrap().1;
        table.wait(1);
        table.challenge(MAKER, at, job);
        table.inquest(truth);
        assert_eq!(ends(&table).last(), Some(&(at, AuditEnd::Differs)));
        assert_eq!(erred(&table, at), [true, false, false]);
        assert!(free(&table, MAKER) >= before, "what it has paid is back");
        next_epoch(&mut table);
        assert_eq!(is_established(&table, LAZY), errors < 2);
        assert!(is_established(&table, MAKER), "two misses of twenty condemn nobody");
    }
    verify(&published(&table)).unwrap();
}
