use super::*;
use crate::codec;
use crate::query::Fate;
use crate::sampler::sampling_seed;
use crate::statement::{EndCause, LeaseEnded, Reason, Receipt, Refusal};

const HOUR: u64 = 3_600_000;

fn delivered() -> Delivered {
    Delivered {
        transcript: Link([1; 32]),
        transcript_bytes: 100,
        output: codec::raw_cid(b"upon a time"),
        output_bytes: 11,
        altered: None,
    }
}

fn receipt(lease: &Lease, proof: Link) -> Receipt {
    Receipt {
        pps: None,
        job: lease.job,
        proof,
        client: wallet(CLIENT),
        wallet: lease.wallet,
        epoch: 3,
        index: 0,
        leaf: Digest::ZERO,
        price: MicroUsdc(100_000),
        miner_part: MicroUsdc(75_000),
        operator_part: MicroUsdc(25_000),
        units: 20,
        mode: PayoutMode::Solo,
        asset: Asset::Test,
        output: codec::raw_cid(b"upon a time"),
        output_bytes: 11,
        held_until: 5,
    }
}

fn proves(script: &mut Script, lease: &Lease) -> Link {
    let lines = script.does(Event::EngineDone { lease: lease.lease, outcome: Ok(delivered()) });
    assert_eq!(lines, ["proof submitted", "publish proof", "hand proof"]);
    script.last(link)
}

fn ended(lease: &Lease, cause: EndCause) -> LeaseEnded {
    LeaseEnded { job: lease.job, lease: lease.lease, cause }
}

fn progress(lease: &Lease, units: u64) -> Event {
    Event::EngineProgress { lease: lease.lease, units, prefix: Digest([7; 32]) }
}

#[test]
fn a_lease_is_prepared_run_proven_and_paid() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let run = script.last(|effect| match effect {
        Effect::Infer(run) => Some(run.clone()),
        _ => None,
    });
    assert_eq!((run.job, run.id, run.lease), (job(1), lease.job, lease.lease));
    assert_eq!((run.seed, run.until), (sampling_seed(&lease.lease, Some(1)), lease.until));
    assert_eq!(script.does(progress(&lease, 1)), ["hand progress"]);
    let proof = proves(&mut script, &lease);
    assert_eq!(script.hears(OPERATOR, receipt(&lease, proof)), ["earned 0.075", "ask open jobs"]);
    script.now = script.now + Millis(1);
    assert_eq!(script.hears(OPERATOR, receipt(&lease, proof)), [""; 0], "earned once");
    assert_eq!(script.wait(HOUR), [""; 0]);
}

#[test]
fn a_lease_that_was_not_asked_for_is_given_back_until_it_is_over() {
    let mut script = Script::established(1);
    let unasked = lease(&entry(1), MINER, script.now + Millis::from_secs(60));
    let released = "released: Withdrawn, not asked for, or no slot is free";
    assert_eq!(script.hears(OPERATOR, unasked.clone()), [released, "publish release", "hand release"]);
    assert_eq!(script.hears(OPERATOR, unasked.clone()), [""; 0]);
    assert_eq!(script.is_offered(entry(2)), [""; 0], "the operator still counts the lease");
    assert_eq!(script.wait(1500), ["hand release", "hand release"]);
    assert_eq!(script.hears(OPERATOR, ended(&unasked, EndCause::Released)), ["ask open jobs"]);
    assert_eq!(script.wait(HOUR), [""; 0]);
    let again = ListingEntry { attempt: 2, ..entry(1) };
    let declined = ["declined: this miner held a lease on it before"];
    assert_eq!(script.hears(OPERATOR, listing(again)), declined);
    let mut script = Script::established(1);
    script.hears(OPERATOR, unasked);
    let repeated = script.wait(HOUR).into_iter().filter(|line| line == "hand release").count();
    assert_eq!(repeated, 3, "until nobody can be listening");
    assert!(script.is_offered(entry(2)).contains(&"hand claim".to_owned()), "the slot is free again");
}

#[test]
fn a_lease_must_follow_from_its_fields_and_match_the_listing() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    let good = lease(&entry(1), MINER, script.now + Millis::from_secs(60));
    let false_id = Lease { lease: Digest([5; 32]), ..good.clone() };
    let declined = ["declined: the lease's id is not the one that follows from its fields"];
    assert_eq!(script.hears(OPERATOR, false_id), declined);
    let other_seed = ListingEntry { seed: Digest([6; 32]), ..entry(1) };
    let lines = script.hears(OPERATOR, lease(&other_seed, MINER, good.until));
    assert!(lines[0].starts_with("released: Withdrawn"), "{lines:?}");
}

#[test]
fn content_that_is_missing_late_or_wrong_gives_the_lease_back() {
    let linked =
        |script: &mut Script| script.content(1).map(|c| Box::new(Content { linked: Some("x".into()), ..*c }));
    type Answer = fn(&mut Script) -> Result<Box<Content>, String>;
    let cases: [(Answer, &str); 3] = [
        (|_| Err("no peer has it".into()), "no peer has it"),
        (|script| script.content(2), "the content is another job's"),
        (linked, "an inline input has no linked text"),
    ];
    for (answer, why) in cases {
        let mut script = Script::established(1);
        let lease = script.wins(1);
        let content = answer(&mut script);
        let released = format!("released: ContentUnavailable, {why}");
        let lines = script.does(Event::JobReady { lease: lease.lease, content });
        assert_eq!(lines, ["abort", &released, "publish release", "hand release"]);
    }
    let mut script = Script::established(1);
    script.wins(1);
    assert_eq!(script.wait(14_999), [""; 0]);
    assert_eq!(script.wait(1)[1], "released: ContentUnavailable, its content did not come in time");
}

#[test]
fn a_listing_that_differs_from_the_job_gives_the_lease_back() {
    let mut script = Script::established(1);
    let dearer = ListingEntry { price: MicroUsdc(200_000), ..entry(1) };
    script.hears(OPERATOR, listing(dearer.clone()));
    let lease = lease(&dearer, MINER, script.now + Millis::from_secs(60));
    script.hears(OPERATOR, lease.clone());
    let content = script.content(1);
    let lines = script.does(Event::JobReady { lease: lease.lease, content });
    assert_eq!(lines[1], "released: ContentUnavailable, the listing does not say what the job says");
}

#[test]
fn a_failed_engine_gives_the_lease_back_and_the_job_is_not_claimed_again() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let failed = Event::EngineDone { lease: lease.lease, outcome: Err("out of memory".into()) };
    let released = "released: EngineFailure, out of memory";
    assert_eq!(script.does(failed), ["abort", released, "publish release", "hand release"]);
    script.hears(OPERATOR, ended(&lease, EndCause::EngineFailure));
    script.wait(60_000);
    assert_eq!(script.is_offered(ListingEntry { attempt: 2, ..entry(1) }), [""; 0]);
    assert_eq!(script.does(progress(&lease, 9)), [""; 0]);
}

#[test]
fn progress_goes_out_at_most_once_a_second_and_is_the_latest() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let units = |script: &Script| {
        script.last(|effect| match effect {
            Effect::Hand(Statement { body: Body::Progress(progress), .. }) => Some(progress.units),
            _ => None,
        })
    };
    assert_eq!(script.does(progress(&lease, 1)), ["hand progress"]);
    for n in 2..10 {
        script.now = script.now + Millis(100);
        assert_eq!(script.does(progress(&lease, n)), [""; 0]);
    }
    assert_eq!(script.wait(199), [""; 0]);
    assert_eq!(script.wait(1), ["hand progress"]);
    assert_eq!(units(&script), 9);
    assert_eq!(script.wait(5000), [""; 0], "what was said is not said again");
}

#[test]
fn a_proof_is_repeated_with_growing_pauses_until_the_verdict() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let proof = proves(&mut script, &lease);
    assert_eq!(script.wait(499), [""; 0]);
    assert_eq!(script.wait(1), ["hand proof", "ask job"]);
    assert_eq!(script.last(link), proof, "the same statement");
    assert_eq!(script.wait(7500), ["hand proof", "ask job"].repeat(3), "1, 2 and 4 s later");
    let refusal = Refusal {
        subject: proof,
        job: lease.job,
        reason: Reason::Unacceptable,
        detail: "token 3 does not follow".into(),
    };
    assert_eq!(script.hears(OPERATOR, refusal), ["refused: Unacceptable", "ask open jobs"]);
    assert_eq!(script.wait(HOUR), [""; 0]);
}

#[test]
fn a_proof_whose_content_could_not_be_fetched_is_said_again() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let proof = proves(&mut script, &lease);
    let refusal = Refusal {
        subject: proof,
        job: lease.job,
        reason: Reason::ContentUnavailable,
        detail: "no peer has it".into(),
    };
    assert_eq!(script.hears(OPERATOR, refusal), ["refused: ContentUnavailable"]);
    assert_eq!(script.wait(500), ["hand proof", "ask job"]);
    assert_eq!(script.hears(OPERATOR, receipt(&lease, proof))[0], "earned 0.075");
}

#[test]
fn a_proof_outlives_a_timed_out_lease_but_not_another_holder_nor_the_job() {
    let late = |end: EndCause| {
        let mut script = Script::established(1);
        let lease = script.runs(1);
        let proof = proves(&mut script, &lease);
        let lines = script.hears(OPERATOR, ended(&lease, end));
        assert_eq!(lines, [format!("lease lost: {end:?}"), "ask open jobs".into()]);
        (script, lease, proof)
    };
    let (mut script, lease, proof) = late(EndCause::TimedOut);
    assert!(script.is_offered(entry(2)).contains(&"hand claim".to_owned()), "its slot is free");
    assert_eq!(script.wait(600), ["hand proof", "ask job"]);
    assert_eq!(script.hears(OPERATOR, receipt(&lease, proof))[0], "earned 0.075");

    let (mut script, _, _) = late(EndCause::TimedOut);
    let second = ListingEntry { attempt: 2, ..entry(1) };
    let pending = Fate::Pending { attempt: 2, ahead: 0 };
    script.does(Event::Fate { job: second.job, fate: pending });
    assert_eq!(script.miner.leases(), 1, "nobody holds it yet");
    script.hears(OPERATOR, super::lease(&second, 5, script.now + Millis::from_secs(60)));
    assert_eq!(script.wait(HOUR), [""; 0]);

    let (mut script, _, _) = late(EndCause::NoProgress);
    let lines = script.wait(HOUR);
    assert!(lines.len() < 60, "it ends with the job: {}", lines.len());
    assert_eq!(script.miner.leases(), 0);

    let (mut script, _, _) = late(EndCause::BadProof);
    assert_eq!(script.wait(HOUR), [""; 0]);
}

#[test]
fn an_ended_lease_stops_its_engine() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let lines = script.hears(OPERATOR, ended(&lease, EndCause::NoProgress));
    assert_eq!(lines, ["abort", "lease lost: NoProgress", "ask open jobs"]);
    assert_eq!(script.hears(OPERATOR, lease.clone()), [""; 0], "heard late, it is the old lease");
    assert_eq!(script.does(Event::EngineDone { lease: lease.lease, outcome: Ok(delivered()) }), [""; 0]);
    let again = ListingEntry { attempt: 2, ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(again)).len(), 1);
}

#[test]
fn a_lease_lasts_as_long_as_the_operator_says_whatever_the_time_is_there() {
    for ahead in [0, 25_000] {
        let mut script = Script::established(1);
        script.hears(OPERATOR, listing(entry(1)));
        let there = script.now + Millis(ahead);
        let lease = lease(&entry(1), MINER, there + Millis::from_secs(60));
        let signed = Statement::derived(pool(), wallet(OPERATOR), there, lease.clone().into());
        let verified = script.intake.verify(None, &signed.sign(&key(OPERATOR)).encode(), script.now).unwrap();
        script.does(Event::Heard(Box::new(verified)));
        let content = script.content(1);
        script.does(Event::JobReady { lease: lease.lease, content });
        assert_eq!(script.wait(59_999), [""; 0]);
        assert_eq!(script.wait(1), ["abort", "lease lost: TimedOut"]);
    }
}

#[test]
fn a_later_lease_of_another_or_its_receipt_ends_ours() {
    let mut script = Script::established(2);
    script.runs(1);
    let second = ListingEntry { attempt: 2, ..entry(1) };
    let theirs = lease(&second, 5, script.now);
    assert_eq!(script.hears(OPERATOR, theirs)[..2], ["abort", "lease lost: TimedOut"]);
    script.runs(3);
    let relisted = ListingEntry { attempt: 2, ..entry(3) };
    let lines = script.hears(OPERATOR, listing(relisted));
    assert_eq!(lines[..2], ["abort", "lease lost: TimedOut"], "its end was not heard");
    let ours = script.runs(2);
    let paid = Receipt { wallet: wallet(5), ..receipt(&ours, Link([3; 32])) };
    assert_eq!(script.hears(OPERATOR, paid)[..2], ["abort", "lease lost: TimedOut"]);
}

#[test]
fn the_operator_back_from_a_restart_hears_everything_again() {
    let mut script = Script::established(3);
    script.hears(OPERATOR, listing(entry(3)));
    let claim = script.last(link);
    let proven = script.runs(1);
    let proof = proves(&mut script, &proven);
    let running = script.runs(2);
    script.does(progress(&running, 5));
    script.does(Event::Disconnected);
    script.now = script.now + Millis(1000);
    assert_eq!(script.does(progress(&running, 6)), [""; 0]);
    let lines = script.does(Event::Connected);
    let hands: Vec<_> = lines.iter().filter(|line| line.starts_with("hand")).collect();
    assert_eq!(hands, ["hand heartbeat", "hand claim", "hand proof", "hand progress"]);
    let links: Vec<_> = script.done.iter().filter_map(link).collect();
    assert!(links.contains(&claim) && links.contains(&proof), "the same statements");
    script.does(Event::Connected);
    assert!(script.wait(1000).contains(&"hand progress".to_owned()), "the operator may have forgotten it");
    assert_eq!(script.miner.leases(), 2);
    assert_eq!(script.hears(OPERATOR, receipt(&proven, proof))[0], "earned 0.075");
}

#[test]
fn a_receipt_below_the_split_is_told() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    let proof = proves(&mut script, &lease);
    let short = Receipt { miner_part: MicroUsdc(74_999), ..receipt(&lease, proof) };
    let lines = script.hears(OPERATOR, short);
    assert_eq!(lines[..2], ["earned 0.074999", "underpaid: 0.074999 of 0.075"]);
}

#[test]
fn a_receipt_for_an_earlier_life_of_the_process_is_told() {
    let mut script = Script::established(1);
    let before = lease(&entry(1), MINER, script.now);
    assert_eq!(script.hears(OPERATOR, receipt(&before, Link([3; 32])))[0], "earned 0.075");
}

#[test]
fn an_operator_that_forgot_the_job_ends_the_repeating() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    assert_eq!(script.does(Event::Fate { job: lease.job, fate: Fate::Unknown }), [""; 0], "still running");
    proves(&mut script, &lease);
    let lines = script.does(Event::Fate { job: lease.job, fate: Fate::Unknown });
    assert_eq!(lines[0], "refused: UnknownJob");
    assert_eq!(script.wait(HOUR), [""; 0]);
}
