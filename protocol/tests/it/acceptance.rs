use crate::toy::{Delivery, EOS, TOP_K, VOCABULARY, deliver, job, piece};
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::acceptance::{AcceptanceFault as Fault, WorkUnits, check, open};
use swarm_protocol::codec::{Link, encode, raw_cid};
use swarm_protocol::sampler::{Candidate, MAX_COST};
use swarm_protocol::statement::{Assurance, Input, JobType, MAX_DETAIL_BYTES, MAX_PROMPT_BYTES, Proof};
use swarm_protocol::transcript::StopReason;

/// Delivers under the proof that an attacker would sign over exactly this.
pub(crate) fn judge(delivery: &Delivery) -> Result<WorkUnits, Fault> {
    judge_under(&delivery.proof(), delivery)
}

fn judge_under(proof: &Proof, delivery: &Delivery) -> Result<WorkUnits, Fault> {
    let opened = open(proof, &delivery.transcript.encode())?;
    let mut facts = delivery.facts.clone();
    facts.pieces = opened.tokens().map(piece).collect();
    check(&delivery.job, &delivery.progress, &opened, &delivery.output, &facts)
}

/// One honest delivery for each way to end.
fn honest() -> Vec<Delivery> {
    let all = vec![
        deliver(job(60, 10_000, &[]), 1000),
        deliver(job(12, 10_000, &[]), 1000),
        deliver(job(500, 12_000, &["\n", "q"]), 1000),
        deliver(job(500, 8_000, &[]), 15),
        deliver(job(30, 0, &[]), 1000),
    ];
    let mut reasons: Vec<_> = all.iter().map(|d| d.transcript.stop).collect();
    reasons.sort();
    reasons.dedup();
    assert_eq!(reasons.len(), 4, "the toy runs end in every way: {reasons:?}");
    all
}

#[test]
fn honest_deliveries_are_accepted_and_measured() {
    for delivery in honest() {
        let units = 4 * 3 + 10 * delivery.transcript.steps.len() as u64;
        assert_eq!(judge(&delivery), Ok(WorkUnits(units)));
        let silent = Delivery { progress: Vec::new(), ..delivery.clone() };
        assert_eq!(judge(&silent), Ok(WorkUnits(units)), "progress is not owed by this rule");
        let mut distant = delivery;
        distant.job.assurance = Assurance::Distance;
        assert_eq!(judge(&distant), Ok(WorkUnits(units)));
    }
}

#[test]
fn every_fault_has_its_name() {
    let good = honest().remove(1);
    let last = good.transcript.steps.len() - 1;
    let with = |change: &dyn Fn(&mut Delivery)| {
        let mut delivery = Delivery { progress: Vec::new(), ..good.clone() };
        change(&mut delivery);
        judge(&delivery).unwrap_err()
    };
    let other_token = |d: &Delivery, n: usize| {
        let step = &d.transcript.steps[n];
        step.candidates.iter().find(|c| c.token != step.token && c.token != EOS).unwrap().token
    };
    assert_eq!(with(&|d| d.job.job_type = JobType::Embed), Fault::Workload(JobType::Embed));
    let bytes = MAX_PROMPT_BYTES + 1;
    let linked = |d: &mut Delivery| d.job.input = Input::Linked { cid: raw_cid(b"x"), bytes };
    assert_eq!(with(&linked), Fault::PromptBytes(bytes));
    assert_eq!(with(&|d| d.transcript.model = "toy2".into()), Fault::Model);
    assert_eq!(with(&|d| d.job.model = "toy2".into()), Fault::Model);
    assert_eq!(with(&|d| d.transcript.model_digest.0[0] ^= 1), Fault::ModelDigest);
    assert_eq!(with(&|d| d.transcript.prompt[0] ^= 1), Fault::Prompt);
    assert_eq!(with(&|d| d.facts.context_length = 4), Fault::PromptTooLong);
    assert_eq!(
        with(&|d| _ = d.transcript.steps[2].candidates.pop()),
        Fault::CandidateCount { step: 2, found: TOP_K - 1 }
    );
    assert_eq!(with(&|d| d.facts.top_k -= 1), Fault::CandidateCount { step: 0, found: TOP_K });
    assert_eq!(with(&|d| d.transcript.steps[1].candidates.swap(2, 3)), Fault::CandidateOrder(1));
    assert_eq!(
        with(&|d| d.transcript.steps[1].candidates[2].token = d.transcript.steps[1].candidates[1].token),
        Fault::CandidateRepeated(1)
    );
    assert_eq!(with(&|d| d.transcript.steps[3].candidates[7].cost = MAX_COST + 1), Fault::CostTooHigh(3));
    // Of no weight, so nothing else says that no model could be asked about it.
    let impossible = Candidate { token: u32::MAX, cost: MAX_COST };
    assert_eq!(
        with(&|d| d.transcript.steps[3].candidates[7] = impossible),
        Fault::UnknownToken { step: 3, token: u32::MAX }
    );
    assert_eq!(with(&|d| d.transcript.steps[0].candidates.iter_mut().for_each(|c| c.cost = 0)), {
        // Equal costs order by token.
        Fault::CandidateOrder(0)
    });
    assert_eq!(
        with(&|d| {
            let candidates = &mut d.transcript.steps[0].candidates;
            candidates.sort_by_key(|c| c.token);
            candidates.iter_mut().for_each(|c| c.cost = 3 * 4096 - 1);
        }),
        Fault::Mass(0),
        "eight candidates of a little more than an eighth"
    );
    assert_eq!(with(&|d| d.transcript.steps[4].token = other_token(d, 4)), Fault::NotSampled(4));
    assert_eq!(
        with(&|d| {
            d.job.assurance = Assurance::Distance;
            d.transcript.steps[4].token = VOCABULARY;
        }),
        Fault::NotOffered(4)
    );
    assert_eq!(with(&|d| d.job.params.max_tokens -= 1), Fault::WentOn(last - 1));
    assert_eq!(with(&|d| d.job.params.max_tokens += 1), Fault::Unfinished);
    assert_eq!(with(&|d| d.transcript.steps.clear()), Fault::Unfinished);
    assert_eq!(
        with(&|d| d.transcript.stop = StopReason::Eos),
        Fault::StopReason { found: StopReason::MaxTokens, said: StopReason::Eos }
    );
    assert_eq!(with(&|d| d.output[0] ^= 1), Fault::Output);
    assert_eq!(with(&|d| d.output.push(b'!')), Fault::Output);
    assert_eq!(with(&|d| d.progress.push((3, Digest([5; 32])))), Fault::Progress(3));
    assert_eq!(with(&|d| d.progress.push((last as u64 + 2, Digest([5; 32])))), {
        Fault::Progress(last as u64 + 2)
    });
}

#[test]
fn content_that_the_proof_does_not_name_is_refused() {
    let good = honest().remove(1);
    let proof = good.proof();
    let bytes = proof.transcript_bytes;
    let longer = Proof { transcript_bytes: bytes + 1, ..proof.clone() };
    assert_eq!(
        judge_under(&longer, &good),
        Err(Fault::TranscriptLength { found: bytes, declared: bytes + 1 })
    );
    let mut swapped = good.clone();
    swapped.transcript.steps[0].candidates[7].token ^= 1;
    assert_eq!(judge_under(&proof, &swapped), Err(Fault::TranscriptLink));
    let mut not_one = good.transcript.encode();
    not_one[0] ^= 1;
    let named = Proof { transcript: Link::of(&not_one), ..proof.clone() };
    assert!(matches!(open(&named, &not_one), Err(Fault::Transcript(_))));
    let quoting = encode(&std::collections::BTreeMap::from([("☀".repeat(9000), 1)]));
    let transcript_bytes = quoting.len() as u64;
    let named = Proof { transcript: Link::of(&quoting), transcript_bytes, ..proof.clone() };
    let fault = open(&named, &quoting).unwrap_err().to_string();
    assert!(fault.len() <= MAX_DETAIL_BYTES, "a refusal can say it: {fault}");
    let short = Proof { output_bytes: proof.output_bytes - 1, ..proof.clone() };
    assert!(matches!(judge_under(&short, &good), Err(Fault::OutputLength { .. })));
    let elsewhere = Proof { output: raw_cid(b"another"), ..proof };
    assert_eq!(judge_under(&elsewhere, &good), Err(Fault::OutputLink));
}

#[test]
fn nothing_follows_a_stop_text_and_the_output_ends_before_it() {
    let stopped = honest().into_iter().find(|d| d.transcript.stop == StopReason::StopSequence).unwrap();
    let text = String::from_utf8(stopped.output.clone()).unwrap();
    assert!(!text.contains('\n') && !text.contains('q'));
    let mut longer = stopped.clone();
    longer.output.extend(b"\n");
    assert_eq!(judge(&longer), Err(Fault::Output));
    let mut unstopped = stopped.clone();
    unstopped.job.params.stop.clear();
    assert_eq!(judge(&unstopped), Err(Fault::Unfinished));
    let mut earlier = stopped;
    earlier.job.params.stop.push(text[..1].to_owned());
    assert_eq!(judge(&earlier), Err(Fault::WentOn(0)));
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 += 1;
        (blake3(&self.0.to_be_bytes()).first_u64_be() % sides as u64) as usize
    }
}

/// What is changed, and by which faults that is refused.
type Mutation = (&'static str, fn(&mut Delivery, &mut Dice) -> bool, fn(&Fault) -> bool);

/// One thing each; they say false if they changed nothing that matters.
const MUTATIONS: [Mutation; 17] = [
    ("token", token, |fault| matches!(fault, Fault::NotSampled(_))),
    ("token of a candidate", candidate_token, |fault| {
        matches!(
            fault,
            Fault::NotSampled(_)
                | Fault::CandidateRepeated(_)
                | Fault::UnknownToken { .. }
                | Fault::Progress(_)
        )
    }),
    ("log-prob", cost, |fault| {
        matches!(
            fault,
            Fault::NotSampled(_)
                | Fault::CandidateOrder(_)
                | Fault::Mass(_)
                | Fault::CostTooHigh(_)
                | Fault::Progress(_)
        )
    }),
    ("order", order, |fault| matches!(fault, Fault::CandidateOrder(_))),
    ("token that the model has not", unknown, |fault| matches!(fault, Fault::UnknownToken { .. })),
    ("number of candidates", fewer, |fault| matches!(fault, Fault::CandidateCount { .. })),
    ("lease", lease, |fault| matches!(fault, Fault::NotSampled(_) | Fault::Progress(_))),
    ("seed", seed, |fault| matches!(fault, Fault::NotSampled(_))),
    ("temperature", temperature, |fault| matches!(fault, Fault::NotSampled(_))),
    ("prefix", prefix, |fault| matches!(fault, Fault::Progress(_))),
    ("length: a step less", shorter, is_of_length),
    ("length: a step twice", longer, is_of_length),
    ("length: half", halved, |fault| matches!(fault, Fault::Unfinished)),
    ("stop reason", stop, |fault| matches!(fault, Fault::StopReason { .. })),
    ("weights", weights, |fault| matches!(fault, Fault::ModelDigest)),
    ("prompt", prompt, |fault| matches!(fault, Fault::Prompt)),
    ("output", output, |fault| matches!(fault, Fault::Output)),
];

fn is_of_length(fault: &Fault) -> bool {
    // Draws count positions: all that follows is drawn by others. The likeliest tokens are not drawn, but end elsewhere,
    // and a text that ends all the same is another.
    matches!(
        fault,
        Fault::NotSampled(_)
            | Fault::Unfinished
            | Fault::WentOn(_)
            | Fault::StopReason { .. }
            | Fault::Output
    )
}

fn token(d: &mut Delivery, dice: &mut Dice) -> bool {
    let step = dice.roll(d.transcript.steps.len());
    let step = &mut d.transcript.steps[step];
    let token = step.candidates[dice.roll(step.candidates.len())].token;
    std::mem::replace(&mut step.token, token) != token
}

fn any_candidate<'a>(d: &'a mut Delivery, dice: &mut Dice) -> &'a mut Candidate {
    let n = dice.roll(d.transcript.steps.len());
    let candidates = &mut d.transcript.steps[n].candidates;
    let i = dice.roll(candidates.len());
    &mut candidates[i]
}

fn candidate_token(d: &mut Delivery, dice: &mut Dice) -> bool {
    any_candidate(d, dice).token ^= 1 << dice.roll(20);
    true
}

fn cost(d: &mut Delivery, dice: &mut Dice) -> bool {
    any_candidate(d, dice).cost ^= 1 << dice.roll(20);
    true
}

fn order(d: &mut Delivery, dice: &mut Dice) -> bool {
    let n = dice.roll(d.transcript.steps.len());
    let candidates = &mut d.transcript.steps[n].candidates;
    let (i, j) = (dice.roll(candidates.len()), dice.roll(candidates.len()));
    candidates.swap(i, j);
    i != j
}

fn unknown(d: &mut Delivery, dice: &mut Dice) -> bool {
    any_candidate(d, dice).token = VOCABULARY + 1;
    true
}

fn fewer(d: &mut Delivery, dice: &mut Dice) -> bool {
    let n = dice.roll(d.transcript.steps.len());
    let candidates = &mut d.transcript.steps[n].candidates;
    candidates.remove(dice.roll(candidates.len()));
    true
}

fn lease(d: &mut Delivery, dice: &mut Dice) -> bool {
    d.lease.0[dice.roll(32)] ^= 1 << dice.roll(8);
    true
}

fn seed(d: &mut Delivery, dice: &mut Dice) -> bool {
    d.job.params.seed = Some(12 + dice.roll(1000) as u64);
    d.job.params.temperature > 0
}

fn temperature(d: &mut Delivery, _: &mut Dice) -> bool {
    let params = &mut d.job.params;
    params.temperature = if params.temperature == 0 { 20_000 } else { 1 };
    true
}

fn prefix(d: &mut Delivery, dice: &mut Dice) -> bool {
    let n = dice.roll(d.progress.len());
    d.progress[n].1.0[dice.roll(32)] ^= 1 << dice.roll(8);
    true
}

fn shorter(d: &mut Delivery, dice: &mut Dice) -> bool {
    d.transcript.steps.remove(dice.roll(d.transcript.steps.len()));
    true
}

fn longer(d: &mut Delivery, dice: &mut Dice) -> bool {
    let n = dice.roll(d.transcript.steps.len());
    let again = d.transcript.steps[n].clone();
    d.transcript.steps.insert(n, again);
    true
}

fn halved(d: &mut Delivery, _: &mut Dice) -> bool {
    let steps = &mut d.transcript.steps;
    steps.truncate(steps.len() / 2);
    true
}

fn stop(d: &mut Delivery, dice: &mut Dice) -> bool {
    let all = [StopReason::Eos, StopReason::StopSequence, StopReason::MaxTokens, StopReason::Context];
    let stop = all[dice.roll(4)];
    std::mem::replace(&mut d.transcript.stop, stop) != stop
}

fn weights(d: &mut Delivery, dice: &mut Dice) -> bool {
    d.transcript.model_digest.0[dice.roll(32)] ^= 1 << dice.roll(8);
    true
}

fn prompt(d: &mut Delivery, dice: &mut Dice) -> bool {
    d.transcript.prompt[dice.roll(4)] ^= 1 << dice.roll(17);
    true
}

fn output(d: &mut Delivery, dice: &mut Dice) -> bool {
    if d.output.is_empty() {
        return false;
    }
    let at = dice.roll(d.output.len());
    d.output[at] ^= 1 << dice.roll(8);
    true
}

#[test]
fn no_mutation_of_an_honest_delivery_is_accepted_and_each_is_refused_for_its_reason() {
    let honest = honest();
    let mut dice = Dice(0);
    let mut refused = [0; MUTATIONS.len()];
    for round in 0..5000 {
        let (which, mut delivery) = (round % MUTATIONS.len(), honest[dice.roll(honest.len())].clone());
        let (name, mutate, expected) = MUTATIONS[which];
        if mutate(&mut delivery, &mut dice) {
            let verdict = judge(&delivery);
            assert!(verdict.as_ref().is_err_and(expected), "round {round}, {name}: {verdict:?}");
            refused[which] += 1;
        }
    }
    assert!(refused.iter().sum::<i32>() >= 4000 && refused.iter().all(|n| *n >= 100), "{refused:?}");
}

#[test]
fn another_seed_temperature_or_top_p_makes_other_tokens() {
    let long = deliver(job(500, 12_000, &[]), 60);
    assert!(long.transcript.steps.len() > 20, "{}", long.transcript.steps.len());
    for seed in (0..100).filter(|seed| *seed != 11) {
        let mut other = long.clone();
        other.job.params.seed = Some(seed);
        let verdict = judge(&other);
        assert!(matches!(verdict, Err(Fault::NotSampled(_))), "seed {seed}: {verdict:?}");
    }
    for (temperature, top_p) in [(0, 9_500), (4_000, 9_500), (40_000, 9_500), (12_000, 4_000)] {
        let mut other = long.clone();
        (other.job.params.temperature, other.job.params.top_p) = (temperature, top_p);
        assert!(matches!(judge(&other), Err(Fault::NotSampled(_))), "{temperature} {top_p}");
    }
}
