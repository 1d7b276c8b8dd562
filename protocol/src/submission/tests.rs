//! Scripts: what happens to a submission, and what it does then.

use super::*;
use crate::Posted;
use crate::codec::Link;
use crate::statement::{
    Admitted, Asset, Assurance, EndCause, Input, Intake, JobType, LeaseEnded, Listing, ListingEntry,
    ModelSupply, Params, PayoutMode, Statement,
};
use swarm_crypto::address::PoolId;
use swarm_crypto::key::SecretKey;

const START: Timestamp = Timestamp(1_800_000_000_000);
const HOUR: u64 = 3_600_000;
const OPERATOR: u8 = 1;
const MINER: u8 = 2;
const CLIENT: u8 = 9;
const OUTPUT: &[u8] = b"upon a time";

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn wallet(n: u8) -> Address {
    key(n).address()
}

fn pool() -> PoolId {
    PoolId::derive("swarmpool.eth", wallet(OPERATOR), 0, Address::ZERO)
}

fn job() -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: "queenbee-nano".into(),
        input: Input::Text("Once".into()),
        params: Params { max_tokens: 16, temperature: 0, top_p: 10_000, seed: None, stop: vec![] },
        price: MicroUsdc(100_000),
        not_after: START + Millis::from_secs(60),
        max_runtime_s: 30,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

fn signed_job() -> Signed {
    Statement::derived(pool(), wallet(CLIENT), START, job().into()).sign(&key(CLIENT))
}

fn id() -> JobId {
    signed_job().id()
}

fn admitted() -> Admitted {
    Admitted { job: id(), epoch: 3 }
}

fn listing(attempt: u32) -> Listing {
    let entry = ListingEntry {
        job: id(),
        attempt,
        seed: Digest::ZERO,
        epoch: 3,
        model: "queenbee-nano".into(),
        price: MicroUsdc(100_000),
        assurance: Assurance::Seeded,
        vram_mb: 0,
        listed_at: START,
        free: (1, 0),
    };
    Listing { entries: vec![ListingEntry { job: Link([5; 32]), ..entry.clone() }, entry] }
}

fn lease(term: u32) -> Lease {
    Lease {
        lease: Digest([u8::try_from(term).unwrap(); 32]),
        job: id(),
        term,
        wallet: wallet(MINER),
        seed: Digest::ZERO,
        window: 0,
        claims: vec![],
        until: START + Millis::from_secs(60),
    }
}

fn leased(term: u32, units: u64, proven: bool) -> Event {
    let Lease { lease, wallet, .. } = lease(term);
    Event::Fate(Fate::Leased { lease, wallet, name: Some("alice.eth".into()), term, units, proven })
}

fn proof(term: u32) -> Proof {
    Proof {
        job: id(),
        lease: lease(term).lease,
        transcript: Link([1; 32]),
        transcript_bytes: 100,
        output: codec::raw_cid(OUTPUT),
        output_bytes: 11,
    }
}

fn receipt() -> Receipt {
    Receipt {
        pps: None,
        job: id(),
        proof: Link([2; 32]),
        client: wallet(CLIENT),
        wallet: wallet(MINER),
        epoch: 3,
        index: 0,
        leaf: Digest::ZERO,
        price: MicroUsdc(100_000),
        miner_part: MicroUsdc(75_000),
        operator_part: MicroUsdc(25_000),
        units: 20,
        mode: PayoutMode::Solo,
        asset: Asset::Test,
        output: codec::raw_cid(OUTPUT),
        output_bytes: 11,
        held_until: 5,
    }
}

fn refusal(subject: Link, reason: Reason) -> Refusal {
    Refusal { subject, job: id(), reason, detail: "so it is".into() }
}

fn beacon(models: &[(&str, u64)]) -> Beacon {
    let supply =
        |(model, miners): &(&str, u64)| ModelSupply { rate: None, model: (*model).into(), miners: *miners };
    Beacon {
        node: None,
        name: "swarmpool.eth".into(),
        asset: Asset::Test,
        chain: 0,
        contract: Address::ZERO,
        epoch: 3,
        pending: 1,
        leased: 0,
        models: models.iter().map(supply).collect(),
        posted: Posted::default(),
        tree: None,
    }
}

fn output(bytes: &[u8]) -> Event {
    Event::OutputFetched { cid: codec::raw_cid(OUTPUT), bytes: Ok(bytes.to_vec()) }
}

/// A submission with its clock, and what it did.
struct Script {
    submission: Submission,
    now: Timestamp,
    intake: Intake,
    done: Vec<Effect>,
}

impl Script {
    fn new() -> Self {
        let mut intake = Intake::new(pool(), wallet(OPERATOR));
        let job = intake.verify(None, &signed_job().encode(), START).unwrap();
        Self { submission: Submission::new(&job).unwrap(), now: START, intake, done: vec![] }
    }

    fn resumed() -> Self {
        Self { submission: Submission::resume(id(), START), ..Self::new() }
    }

    /// Announced and taken.
    fn taken() -> Self {
        let mut script = Self::new();
        script.does(Event::Connected);
        script.hears(OPERATOR, admitted());
        script
    }

    fn does(&mut self, event: Event) -> Vec<String> {
        self.submission.handle(event, self.now);
        self.drain_effects()
    }

    fn hears(&mut self, by: u8, body: impl Into<Body>) -> Vec<String> {
        let signed = Statement::derived(pool(), wallet(by), self.now, body.into()).sign(&key(by));
        let verified = self.intake.verify(None, &signed.encode(), self.now).unwrap();
        self.does(Event::Heard(Box::new(verified)))
    }

    fn wait(&mut self, ms: u64) -> Vec<String> {
        let end = self.now + Millis(ms);
        self.submission.handle_timeout(self.now);
        let mut lines = self.drain_effects();
        while let Some(due) = self.submission.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.submission.handle_timeout(self.now);
            lines.extend(self.drain_effects());
        }
        self.now = end;
        lines
    }

    fn drain_effects(&mut self) -> Vec<String> {
        self.done = std::iter::from_fn(|| self.submission.poll_effect()).collect();
        let due = self.submission.poll_timeout();
        assert!(due.is_none_or(|due| due > self.now), "what is due is done: {due:?} at {:?}", self.now);
        self.done.iter().map(short).collect()
    }

    fn outcome(&self) -> Outcome {
        match self.done.last() {
            Some(Effect::Done(outcome)) => Outcome::clone(outcome),
            other => panic!("not done: {other:?}"),
        }
    }
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::Publish(topic, signed) => {
            assert_eq!((*topic, signed), (Topic::Jobs, &signed_job()));
            "publish".into()
        }
        Effect::Hand(signed) => {
            assert_eq!(signed, &signed_job());
            "hand".into()
        }
        Effect::Ask(Query::Job { job }) => {
            assert_eq!(*job, id());
            "ask job".into()
        }
        Effect::Ask(Query::Beacon) => "ask beacon".into(),
        Effect::Ask(query) => format!("ask {query:?}"),
        Effect::Fetch { bytes, .. } => format!("fetch {bytes} bytes"),
        Effect::Stage(stage) => format!("stage: {stage}"),
        Effect::NoMiner { model } => format!("no miner for {model}"),
        Effect::Done(outcome) => match &**outcome {
            Outcome::Answer { output, .. } => format!("answer: {}", String::from_utf8_lossy(output)),
            Outcome::Refused { reason, .. } => format!("refused: {reason:?}"),
            Outcome::Disputed { fault, .. } => format!("disputed: {fault}"),
            Outcome::NoOutput { why, .. } => format!("no output: {why}"),
            Outcome::Unknown => "unknown".into(),
            Outcome::GaveUp { stage } => format!("gave up: {stage:?}"),
        },
    }
}

#[test]
fn a_job_is_announced_followed_receipted_and_answered() {
    let mut script = Script::new();
    assert_eq!(script.does(Event::Connected), ["ask beacon", "publish", "hand", "stage: announced"]);
    assert_eq!(script.hears(OPERATOR, admitted()), ["stage: admitted"]);
    assert_eq!(script.hears(OPERATOR, listing(1)), ["stage: listed"]);
    let ahead = Event::Fate(Fate::Pending { attempt: 1, ahead: 3 });
    assert_eq!(script.does(ahead), ["stage: listed, 3 ahead"]);
    assert_eq!(script.hears(OPERATOR, lease(1)), [format!("stage: leased to {}", wallet(MINER))]);
    assert_eq!(script.does(leased(1, 12, false)), ["stage: running on alice.eth, 12 tokens"]);
    assert_eq!(script.hears(MINER, proof(1)), ["stage: proven"]);
    let lines = script.hears(OPERATOR, receipt());
    assert_eq!(lines, ["stage: receipted in epoch 3", "fetch 11 bytes"]);
    assert_eq!(script.does(output(OUTPUT)), ["answer: upon a time"]);
    let Outcome::Answer { receipt: signed, .. } = script.outcome() else { panic!("an answer") };
    assert_eq!(Statement::decode(&signed.payload).unwrap().body, receipt().into());
    assert_eq!(script.does(Event::Connected), [""; 0]);
    assert_eq!(script.submission.poll_timeout(), None);
}

#[test]
fn the_same_bytes_are_announced_with_growing_pauses_until_the_operator_has_them() {
    let announced = ["publish", "hand"];
    let only = |lines: Vec<String>| lines.into_iter().filter(|l| !l.starts_with("ask")).collect::<Vec<_>>();
    let mut script = Script::new();
    assert_eq!(script.wait(10_000), [""; 0], "nobody to say it to");
    script.does(Event::Connected);
    assert_eq!(only(script.wait(499)), [""; 0]);
    assert_eq!(only(script.wait(1)), announced);
    assert_eq!(only(script.wait(15_000)), announced.repeat(4), "1, 2, 4 and 8 s later");
    script.does(Event::Disconnected);
    assert_eq!(script.wait(8_000), ["publish"], "neighbours may pass it on");
    assert_eq!(script.does(Event::Connected), ["ask beacon", "publish", "hand", "ask job"]);
    script.does(Event::Fate(Fate::Unknown));
    assert_eq!(only(script.wait(500)), announced);
    script.does(Event::Fate(Fate::Pending { attempt: 1, ahead: 0 }));
    assert_eq!(only(script.wait(20_000)), [""; 0], "any word of the job will do");
    assert_eq!(script.does(Event::Fate(Fate::Unknown)), announced, "the operator lost it");
}

#[test]
fn the_operator_is_asked_more_rarely_while_nothing_changes() {
    let mut script = Script::taken();
    assert_eq!(script.wait(15_999).len(), 4, "1, 2, 4 and 8 s later");
    script.does(leased(1, 1, false));
    assert_eq!(script.wait(11_000).len(), 6, "1 s later and then every 2");
    script.does(Event::Disconnected);
    assert_eq!(script.wait(10_000), [""; 0]);
    assert_eq!(script.does(Event::Connected), ["ask beacon", "ask job"]);
}

#[test]
fn late_doubled_and_foreign_words_are_no_news() {
    let mut script = Script::taken();
    script.does(leased(2, 7, false));
    for event in [leased(2, 7, false), leased(2, 6, false), leased(1, 50, true)] {
        assert_eq!(script.does(event), [""; 0]);
    }
    assert_eq!(script.hears(OPERATOR, admitted()), [""; 0]);
    assert_eq!(script.hears(OPERATOR, listing(2)), [""; 0]);
    assert_eq!(script.hears(OPERATOR, Admitted { job: Link([5; 32]), epoch: 3 }), [""; 0]);
    assert_eq!(script.hears(OPERATOR, Lease { job: Link([5; 32]), ..lease(9) }), [""; 0]);
    assert_eq!(script.hears(5, proof(2)), [""; 0], "not the holder's");
    assert_eq!(script.hears(MINER, proof(1)), [""; 0], "an earlier lease's");
    assert_eq!(script.hears(OPERATOR, refusal(Link([5; 32]), Reason::Unacceptable)), [""; 0], "a proof's");
    let over = LeaseEnded { job: id(), lease: lease(2).lease, cause: EndCause::TimedOut };
    assert_eq!(script.hears(OPERATOR, over), [""; 0]);
    assert_eq!(script.hears(OPERATOR, listing(3)), ["stage: listed, attempt 3"]);
    assert_eq!(script.hears(OPERATOR, lease(3)).len(), 1);
}

#[test]
fn a_model_without_miners_is_told_at_once_and_once() {
    let none = "no miner for queenbee-nano";
    let mut script = Script::new();
    script.does(Event::Connected);
    assert_eq!(script.hears(OPERATOR, beacon(&[("other", 3)])), [none]);
    assert_eq!(script.hears(OPERATOR, beacon(&[("queenbee-nano", 0)])), [""; 0], "told already");
    assert_eq!(script.hears(OPERATOR, beacon(&[("queenbee-nano", 1)])), [""; 0]);
    assert_eq!(script.hears(OPERATOR, beacon(&[])), [none]);
    let full = beacon(&[("other", 1); MAX_MODELS]);
    let mut script = Script::new();
    assert_eq!(script.hears(OPERATOR, full), [""; 0], "it may be one that had no room");
    script.hears(OPERATOR, lease(1));
    assert_eq!(script.hears(OPERATOR, beacon(&[])), [""; 0], "somebody has the job");
}

#[test]
fn a_refusal_ends_the_wait_with_its_reason() {
    for reason in [Reason::NoFunds, Reason::JobExpired, Reason::JobCancelled, Reason::JobUnrunnable] {
        let mut script = Script::taken();
        assert_eq!(script.hears(OPERATOR, refusal(id(), reason)), [format!("refused: {reason:?}")]);
        assert_eq!(script.wait(HOUR), [""; 0]);
    }
    let mut script = Script::taken();
    script.hears(OPERATOR, receipt());
    assert_eq!(script.hears(OPERATOR, refusal(id(), Reason::JobExpired)), [""; 0], "it was receipted");
}

#[test]
fn a_receipt_that_contradicts_the_job_is_disputed() {
    let fine = receipt();
    for (wrong, fault) in [
        (
            Receipt { price: MicroUsdc(100_001), operator_part: MicroUsdc(25_001), ..fine.clone() },
            "it charges 0.100001 USDC for a job of 0.10 USDC",
        ),
        (
            Receipt { miner_part: MicroUsdc(74_999), operator_part: MicroUsdc(25_001), ..fine.clone() },
            "its parts of 0.074999 and 0.025001 USDC are not the split of 0.10 USDC",
        ),
        (
            Receipt { output_bytes: MAX_OUTPUT_BYTES + 1, ..fine.clone() },
            "its output of 1048577 bytes is longer than an output may be",
        ),
        (
            Receipt { client: wallet(MINER), ..fine.clone() },
            &format!("it names {} as the client", wallet(MINER)),
        ),
    ] {
        assert_eq!(Script::taken().hears(OPERATOR, wrong), [format!("disputed: {fault}")]);
    }
    let other = Receipt { job: Link([5; 32]), ..fine };
    assert_eq!(Script::taken().hears(OPERATOR, other), [""; 0]);
}

#[test]
fn only_the_output_that_the_receipt_names_is_taken_and_tried_for_until_it_comes() {
    let mut script = Script::taken();
    script.hears(OPERATOR, receipt());
    assert_eq!(script.hears(OPERATOR, receipt()), [""; 0], "one fetch at a time");
    assert_eq!(script.does(output(b"upon a tim!")), [""; 0]);
    assert_eq!(script.wait(500), ["fetch 11 bytes"]);
    assert_eq!(script.does(output(b"upon")), [""; 0]);
    assert_eq!(script.wait(999), [""; 0]);
    assert_eq!(script.wait(1), ["fetch 11 bytes"]);
    let other = Event::OutputFetched { cid: codec::raw_cid(b"other"), bytes: Ok(b"other".to_vec()) };
    assert_eq!(script.does(other), [""; 0]);
    assert_eq!(script.wait(30_000), ["fetch 11 bytes"], "the last try got lost");
    assert_eq!(script.does(output(OUTPUT)), ["answer: upon a time"]);
}

#[test]
fn an_output_that_never_comes_leaves_the_receipt() {
    let mut script = Script::taken();
    script.hears(OPERATOR, receipt());
    let failed = Event::OutputFetched { cid: codec::raw_cid(OUTPUT), bytes: Err("nobody has it".into()) };
    script.does(failed);
    assert_eq!(script.wait(HOUR).last().unwrap(), "no output: nobody has it");
    assert!(matches!(script.outcome(), Outcome::NoOutput { .. }));
    let mut short = Script::taken();
    short.hears(OPERATOR, Receipt { output_bytes: 10, ..receipt() });
    assert_eq!(short.does(output(OUTPUT)), [""; 0], "the length is the receipt's too");
}

#[test]
fn without_a_verdict_it_gives_up_some_time_after_the_job_ended() {
    let mut script = Script::taken();
    let lines = script.wait(60_000 + VERDICT_MARGIN.0 - 1);
    assert!(lines.iter().all(|line| line == "ask job"));
    assert_eq!(script.wait(1), ["gave up: Some(Admitted)"]);
    assert_eq!(script.wait(HOUR), [""; 0]);
}

#[test]
fn a_job_resumed_by_its_id_is_asked_after_and_never_announced() {
    let mut script = Script::resumed();
    assert_eq!(script.does(Event::Connected), ["ask beacon", "ask job"]);
    assert_eq!(script.does(leased(2, 3, false)), ["stage: running on alice.eth, 3 tokens"]);
    assert_eq!(script.hears(OPERATOR, receipt())[0], "stage: receipted in epoch 3");
    assert_eq!(script.does(output(OUTPUT)), ["answer: upon a time"]);
    let mut script = Script::resumed();
    script.does(Event::Connected);
    assert_eq!(script.does(Event::Fate(Fate::Unknown)), ["unknown"]);
    let mut script = Script::resumed();
    script.does(Event::Connected);
    script.does(leased(2, 3, false));
    assert_eq!(script.does(Event::Fate(Fate::Unknown)), [""; 0], "an answer from before");
    script.does(leased(2, 4, false));
    assert_eq!(script.does(Event::Fate(Fate::Unknown)), [""; 0]);
    assert_eq!(script.does(Event::Fate(Fate::Unknown)), ["unknown"], "forgotten");
}

#[test]
fn the_receipt_may_come_first_and_only() {
    let mut script = Script::new();
    let lines = script.hears(OPERATOR, receipt());
    assert_eq!(lines, ["stage: receipted in epoch 3", "fetch 11 bytes"]);
    assert_eq!(script.does(Event::Connected), ["ask beacon", "fetch 11 bytes"], "nothing to announce");
    assert_eq!(script.hears(OPERATOR, lease(1)), [""; 0]);
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut script = Script::new();
    script.does(Event::Connected);
    script.now = START - Millis::from_secs(3600);
    assert_eq!(script.wait(500), ["publish", "hand"]);
}

#[test]
fn only_jobs_are_submitted() {
    let mut script = Script::new();
    let signed = Statement::derived(pool(), wallet(OPERATOR), START, admitted().into()).sign(&key(OPERATOR));
    let verified = script.intake.verify(None, &signed.encode(), START).unwrap();
    assert!(Submission::new(&verified).is_none());
}

#[test]
fn the_same_events_and_times_give_the_same_effects() {
    let run = || {
        let mut script = Script::new();
        let mut lines = script.does(Event::Connected);
        for term in 1..20 {
            lines.extend(script.hears(OPERATOR, listing(term)));
            lines.extend(script.wait(u64::from(term) * 70));
            lines.extend(script.hears(OPERATOR, lease(term)));
            lines.extend(script.does(leased(term, u64::from(term), false)));
            lines.extend(script.does(if term % 5 == 0 { Event::Disconnected } else { Event::Connected }));
        }
        lines.extend(script.hears(OPERATOR, receipt()));
        lines.extend(script.does(output(OUTPUT)));
        lines
    };
    let first = run();
    assert!(first.len() > 80, "{}", first.len());
    assert_eq!(first, run());
}
