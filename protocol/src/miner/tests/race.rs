use super::*;
use crate::query::Fate;
use crate::race;
use crate::statement::{Claim, LeaseEnded, Reason, Refusal};

const CLAIMS_AT_ONCE: [&str; 4] =
    ["new job", "claiming in class 1 after 0.000 s", "publish claim", "hand claim"];

const CLAIMS_LATER: [&str; 3] = ["claiming in class 1 after 3.600 s", "publish claim", "hand claim"];

/// A job on which the miner's step is `k` under so much free weight.
fn at_step(k: u32, free: u64) -> u64 {
    let draw = |n| race::draw(&entry(n).seed, &entry(n).job, &wallet(MINER), 1);
    (1..200).find(|n| race::step(&draw(*n), free) == k).expect("many draw so")
}

fn everybody() -> Roster {
    roster((2..9).map(|n| in_roster(n, true)).collect())
}

#[test]
fn an_established_miner_claims_at_the_start_of_its_step() {
    let mut script = Script::established(1);
    assert_eq!(script.hears(OPERATOR, listing(entry(1))), CLAIMS_AT_ONCE);
    let crowded = |n| ListingEntry { free: (100_000, 0), ..entry(n) };
    let n = at_step(13, 100_000);
    let mut script = Script::established(1);
    assert_eq!(script.hears(OPERATOR, listing(crowded(n))), ["new job"]);
    assert_eq!(script.wait(13 * 400 - 1), [""; 0]);
    assert_eq!(script.wait(1), ["claiming in class 1 after 5.200 s", "publish claim", "hand claim"]);
}

#[test]
fn class_2_claims_two_windows_later_and_newcomers_after_the_last_step() {
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    assert_eq!(script.hears(OPERATOR, listing(entry(1))), ["new job"]);
    assert_eq!(script.wait(799), [""; 0]);
    assert_eq!(script.wait(1), ["claiming in class 2 after 0.800 s", "publish claim", "hand claim"]);

    let mut script = Script::started(1, Roster::default());
    let before = ListingEntry { listed_at: START - Millis(1), ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(before)), ["new job"]);
    assert_eq!(script.wait(1199), [""; 0]);
    assert_eq!(script.wait(1), ["claiming in class 2 after 1.200 s", "publish claim", "hand claim"]);
}

#[test]
fn without_class_1_or_by_the_seed_all_are_class_1() {
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    let nobody_else = ListingEntry { free: (0, 4), ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(nobody_else)), CLAIMS_AT_ONCE);
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    let one_class = ListingEntry { free: (4, 0), ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(one_class)), CLAIMS_AT_ONCE);
    let n = at_step(9, 4000);
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    script.hears(OPERATOR, listing(ListingEntry { free: (0, 4000), ..entry(n) }));
    assert_eq!(
        script.wait(3600),
        CLAIMS_LATER,
        "the weight of class 2 counts for the one class that is left"
    );
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    let open = ListingEntry { seed: Digest::ZERO, free: (2, 2), ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(open)), CLAIMS_AT_ONCE);
}

#[test]
fn an_open_job_is_claimed_at_once_even_if_its_window_is_being_waited_for() {
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    assert_eq!(script.hears(OPERATOR, listing(entry(1))), ["new job"]);
    let claims = ["claiming in class 2 after 0.000 s", "publish claim", "hand claim"];
    assert_eq!(script.is_offered(entry(1)), claims);
    assert_eq!(script.is_offered(entry(1)), [""; 0], "it is claimed already");
    assert_eq!(script.is_offered(entry(2)), [""; 0], "it has one slot");
    let mut script = Script::started(3, roster(vec![in_roster(MINER, false)]));
    assert_eq!(script.is_offered(entry(1))[1..], claims);
    assert_eq!(script.is_offered(entry(2)), [""; 0], "who is not established holds one lease at a time");
}

#[test]
fn a_better_claim_silences_and_others_do_not() {
    let waiting = |n| ListingEntry { free: (4_000, 4), ..entry(n) };
    let n = at_step(9, 4_000);
    let (better, worse) = (rival(true, &waiting(n)), rival(false, &waiting(n)));
    let claim = |attempt| Claim { job: entry(n).job, attempt };
    for (by, attempt, then) in
        [(better, 1, vec![]), (better, 2, CLAIMS_LATER.to_vec()), (worse, 1, CLAIMS_LATER.to_vec())]
    {
        let mut script = Script::started(1, everybody());
        script.hears(OPERATOR, listing(waiting(n)));
        assert_eq!(script.hears(by, claim(attempt)), [""; 0]);
        assert_eq!(script.wait(3600), then, "{by} {attempt}");
    }
    let mut blind = Script::new(config(1));
    blind.does(Event::Connected);
    blind.wait(1);
    blind.hears(OPERATOR, listing(waiting(n)));
    blind.hears(better, claim(1));
    let claimed = blind.wait(20_000).contains(&"hand claim".to_owned());
    assert!(claimed, "who does not know the roster cannot tell, and claims");
}

#[test]
fn the_silent_and_the_beaten_hear_who_won() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    let won = lease(&entry(1), 5, script.now + Millis::from_secs(60));
    assert_eq!(script.hears(OPERATOR, won.clone()), ["lost to 5", "ask open jobs"]);
    assert_eq!(script.hears(OPERATOR, won), [""; 0]);
    let again = ListingEntry { attempt: 2, ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(again)), CLAIMS_AT_ONCE, "a lost race is no lost lease");
    let mut script = Script::established(1);
    let crowded = ListingEntry { free: (100_000, 0), ..entry(at_step(13, 100_000)) };
    script.hears(OPERATOR, listing(crowded.clone()));
    let won = lease(&crowded, 5, script.now + Millis::from_secs(60));
    assert_eq!(script.hears(OPERATOR, won), ["lost to 5"], "who has not claimed has nothing to ask");
}

#[test]
fn claims_and_leases_never_exceed_the_slots() {
    let mut script = Script::established(2);
    let mut entries: Vec<_> = (1..5).map(entry).collect();
    entries.sort_by_key(|entry| entry.job);
    let [first, second, ..] = &entries[..] else { unreachable!("four entries") };
    let (first, second) = (first.clone(), second.clone());
    let lines = script.hears(OPERATOR, Listing { entries });
    assert_eq!(lines.iter().filter(|line| *line == "hand claim").count(), 2);
    assert_eq!(lines.iter().filter(|line| *line == "declined: all slots are taken").count(), 2);
    script.hears(OPERATOR, lease(&first, MINER, script.now + Millis::from_secs(60)));
    assert_eq!(script.is_offered(entry(5)), [""; 0]);
    script.hears(OPERATOR, lease(&second, 7, script.now + Millis::from_secs(60)));
    assert!(script.is_offered(entry(5)).contains(&"hand claim".to_owned()));
}

#[test]
fn an_unanswered_claim_is_asked_after_forgotten_and_made_again() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    assert_eq!(script.wait(900), ["ask job"]);
    assert_eq!(script.wait(1800), ["ask job"; 2]);
    assert_eq!(
        script.does(Event::Fate { job: entry(1).job, fate: Fate::Pending { attempt: 1, ahead: 0 } }),
        [""; 0]
    );
    assert_eq!(script.wait_all(899), [""; 0], "the claim takes the one slot");
    assert_eq!(script.wait_all(1), ["ask open jobs"]);
    let claims = ["claiming in class 1 after 0.000 s", "publish claim", "hand claim"];
    assert_eq!(script.is_offered(entry(1)), claims);
}

#[test]
fn a_lease_may_come_after_its_claim_was_forgotten() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    script.wait(5000);
    let late = lease(&entry(1), MINER, script.now + Millis::from_secs(60));
    assert_eq!(script.hears(OPERATOR, late), ["won", "prepare"]);
}

#[test]
fn a_lease_that_was_not_heard_is_learnt_by_asking() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    let mine = lease(&entry(1), MINER, script.now + Millis::from_secs(60));
    let leased = |lease: &Lease| Fate::Leased {
        lease: lease.lease,
        wallet: lease.wallet,
        name: None,
        term: lease.term,
        units: 0,
        proven: false,
    };
    let job = entry(1).job;
    let fake = Lease { lease: Digest([1; 32]), ..mine.clone() };
    assert_eq!(script.does(Event::Fate { job, fate: leased(&fake) }), [""; 0]);
    assert_eq!(script.does(Event::Fate { job, fate: leased(&mine) }), ["won", "prepare"]);
    assert_eq!(script.does(Event::Fate { job, fate: leased(&mine) }), [""; 0]);
    assert_eq!(script.hears(OPERATOR, mine), [""; 0]);
    script.hears(OPERATOR, listing(entry(2)));
    let theirs = lease(&entry(1), 4, script.now);
    assert_eq!(script.does(Event::Fate { job, fate: leased(&theirs) }), [""; 0], "the same term is ours");
}

#[test]
fn jobs_that_do_not_suit_are_declined_once_with_the_reason() {
    let base = entry(1);
    for (entry, reason) in [
        (ListingEntry { model: "other".into(), ..base.clone() }, "model other is not served here"),
        (
            ListingEntry { assurance: Assurance::Distance, ..base.clone() },
            "assurance Distance is not offered for this model",
        ),
        (
            ListingEntry { price: MicroUsdc(999), ..base.clone() },
            "0.000999 USDC is below the least price of 0.001 USDC",
        ),
        (
            ListingEntry { vram_mb: 99, ..base.clone() },
            "the job asks for 99 MiB of device memory: here are 500, and the model takes 100",
        ),
        (
            ListingEntry { vram_mb: 501, ..base.clone() },
            "the job asks for 501 MiB of device memory: here are 500, and the model takes 100",
        ),
    ] {
        let mut script = Script::established(1);
        assert_eq!(script.hears(OPERATOR, listing(entry.clone())), [format!("declined: {reason}")]);
        assert_eq!(script.is_offered(entry), [""; 0]);
    }
}

#[test]
fn repeated_and_outdated_listings_change_nothing() {
    let mut script = Script::established(2);
    let second = ListingEntry { attempt: 2, ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(second.clone())), CLAIMS_AT_ONCE);
    script.now = script.now + Millis(1);
    assert_eq!(script.hears(OPERATOR, listing(second)), [""; 0]);
    assert_eq!(script.hears(OPERATOR, listing(entry(1))), [""; 0]);
    let third = ListingEntry { attempt: 3, ..entry(1) };
    assert_eq!(script.hears(OPERATOR, listing(third)), CLAIMS_AT_ONCE);
    assert_eq!(script.miner.tracked(), 1);
}

#[test]
fn a_refused_claim_leaves_the_job_alone_for_a_while() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    let subject = script.last(link);
    let refusal = |subject| Refusal {
        subject,
        job: entry(1).job,
        reason: Reason::NotEligible,
        detail: "cools down".into(),
    };
    script.hears(OPERATOR, refusal(Link([8; 32])));
    assert_eq!(script.miner.tracked(), 1, "another wallet's claim was refused");
    assert_eq!(script.hears(OPERATOR, refusal(subject)), [""; 0]);
    script.wait(29_000);
    assert_eq!(script.is_offered(entry(1)), [""; 0]);
    script.wait(1_001);
    assert!(script.is_offered(entry(1)).contains(&"hand claim".to_owned()));
}

#[test]
fn a_refusal_before_the_posted_numbers_are_known_is_soon_forgotten() {
    let mut script = Script::new(config(1));
    script.does(Event::Connected);
    assert!(script.is_offered(entry(1)).contains(&"hand claim".to_owned()));
    let (subject, detail) = (script.last(link), String::new());
    script.hears(OPERATOR, Refusal { subject, job: entry(1).job, reason: Reason::NotEligible, detail });
    script.wait(499);
    assert_eq!(script.is_offered(entry(1)), [""; 0]);
    script.wait(1);
    assert!(script.is_offered(entry(1)).contains(&"hand claim".to_owned()));
}

#[test]
fn a_job_that_ended_or_was_paid_to_another_is_not_claimed() {
    let waiting = ListingEntry { free: (4, 4), ..entry(1) };
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    script.hears(OPERATOR, listing(waiting.clone()));
    let job = waiting.job;
    let detail = String::new();
    script.hears(OPERATOR, Refusal { subject: job, job, reason: Reason::JobCancelled, detail });
    assert_eq!(script.wait(5000), [""; 0]);
    assert_eq!(script.miner.tracked(), 0);
}

#[test]
fn listings_are_followed_up_to_a_limit() {
    let mut script = Script::started(1, roster(vec![in_roster(MINER, false)]));
    let numbered = |n: u64| {
        let mut job = [0; 32];
        job[..8].copy_from_slice(&n.to_be_bytes());
        ListingEntry { job: Link(job), free: (4, 1 << 40), ..entry(1) }
    };
    for first in (0..4800).step_by(16) {
        script.miner.hear_listing(&Listing { entries: (first..first + 16).map(numbered).collect() }, START);
    }
    assert_eq!(script.miner.tracked(), MAX_TRACKED_LISTINGS);
    for n in 0..MAX_PAST_JOBS as u64 + 20 {
        script.miner.shun(numbered(n).job, 1, START);
    }
    assert_eq!(script.miner.past.len(), MAX_PAST_JOBS);
}

#[test]
fn an_end_of_somebody_elses_lease_is_nothing_to_the_miner() {
    let mut script = Script::established(1);
    let theirs = lease(&entry(1), 5, script.now);
    let ended =
        LeaseEnded { job: theirs.job, lease: theirs.lease, cause: crate::statement::EndCause::TimedOut };
    assert_eq!(script.hears(OPERATOR, ended), [""; 0]);
}
