use super::*;
use crate::statement::{EndCause, LeaseEnded};

const BEAT: [&str; 2] = ["publish heartbeat", "hand heartbeat"];

fn heartbeat(effect: &Effect) -> Option<(u64, bool)> {
    match effect {
        Effect::Publish(_, Statement { body: Body::Heartbeat(beat), .. }) => {
            Some((beat.counter, beat.draining))
        }
        _ => None,
    }
}

#[test]
fn it_says_nothing_until_it_is_connected_and_then_registers() {
    let mut script = Script::new(config(1));
    assert_eq!(script.miner.poll_timeout(), None);
    let lines = script.does(Event::Connected);
    assert_eq!(lines, ["ask beacon", "publish heartbeat", "hand heartbeat", "ask open jobs"]);
    assert_eq!(script.last(heartbeat), (0, false));
    let beats =
        |lines: Vec<String>| lines.into_iter().filter(|l| l.contains("heartbeat")).collect::<Vec<_>>();
    assert_eq!(beats(script.wait_all(29_999)), [""; 0]);
    assert_eq!(beats(script.wait_all(1)), BEAT);
    script.does(Event::Disconnected);
    assert_eq!(script.wait_all(30_000), ["publish heartbeat"], "neighbours may pass it on");
    assert_eq!(script.last(heartbeat), (2, false));
}

#[test]
fn it_asks_for_open_jobs_with_growing_pauses_shorter_while_jobs_are_pending() {
    let asks = |script: &mut Script, ms| {
        script.wait_all(ms).into_iter().filter(|line| line == "ask open jobs").count()
    };
    let mut script = Script::established(1);
    assert_eq!(asks(&mut script, 249), 1);
    assert_eq!(asks(&mut script, 60_000), 3 + 56_000 / 4000, "0.5, 1, 2, then every 4 s");
    script.hears(OPERATOR, beacon(3, 5));
    script.wait_all(4000);
    assert_eq!(asks(&mut script, 60_000), 30);
}

#[test]
fn it_does_not_ask_while_it_is_busy_or_disconnected() {
    let mut script = Script::established(1);
    script.runs(1);
    assert!(!script.wait_all(20_000).contains(&"ask open jobs".to_owned()));
    let mut script = Script::established(1);
    script.does(Event::Disconnected);
    assert!(!script.wait_all(20_000).contains(&"ask open jobs".to_owned()));
    assert!(script.does(Event::Connected).contains(&"ask open jobs".to_owned()));
}

#[test]
fn rosters_are_fetched_until_they_come_checked_and_few_are_kept() {
    let known = roster(vec![in_roster(MINER, true)]);
    let mut script = Script::new(config(1));
    script.does(Event::Connected);
    assert_eq!(script.hears(OPERATOR, opened(3, &known)), ["fetch roster 3"]);
    assert_eq!(script.wait(5000), ["fetch roster 3"]);
    script.does(Event::RosterLearned { epoch: 3, roster: roster(vec![in_roster(5, true)]).into() });
    assert!(script.miner.duty.roster(3).is_none(), "not what the link names");
    script.does(Event::RosterLearned { epoch: 3, roster: known.clone().into() });
    assert!(script.miner.duty.roster(3).is_some());
    assert_eq!(script.wait(20_000), [""; 0]);
    script.hears(OPERATOR, opened(2, &Roster::default()));
    assert!(script.miner.duty.roster(2).is_none(), "an earlier epoch");
    for epoch in 4..10 {
        assert_eq!(script.hears(OPERATOR, opened(epoch, &Roster::default())), [""; 0], "empty is known");
    }
    assert_eq!(script.miner.duty.roster(7).map(|roster| roster.0.len()), Some(0));
    assert!(script.miner.duty.roster(6).is_none());
}

#[test]
fn a_beacon_of_an_unknown_epoch_is_asked_about() {
    let mut script = Script::established(1);
    assert_eq!(script.hears(OPERATOR, beacon(3, 0)), [""; 0]);
    script.wait(5000);
    assert_eq!(script.hears(OPERATOR, beacon(4, 0)), ["ask beacon"]);
    script.now = script.now + Millis(1);
    assert_eq!(script.hears(OPERATOR, beacon(4, 0)), [""; 0], "not at once again");
}

#[test]
fn an_idle_miner_drains_at_once_and_takes_nothing_more() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, listing(entry(1)));
    let lines = script.does(Event::Drain { grace: Millis::from_secs(10) });
    assert_eq!(lines, ["draining with 0", "publish heartbeat", "hand heartbeat", "finished"]);
    assert_eq!(script.last(heartbeat), (1, true));
    assert_eq!(script.does(Event::Drain { grace: Millis::from_secs(10) }), [""; 0]);
    assert_eq!(script.hears(OPERATOR, listing(entry(2))), [""; 0]);
    let lines = script.hears(OPERATOR, lease(&entry(1), MINER, script.now + Millis::from_secs(60)));
    assert!(lines[0].starts_with("released: Withdrawn"), "{lines:?}");
    assert!(!script.wait_all(60_000).contains(&"finished".to_owned()), "once");
}

#[test]
fn a_paused_miner_finishes_its_job_takes_no_other_and_goes_on_when_told() {
    let mut script = Script::established(2);
    let first = script.runs(1);
    script.hears(OPERATOR, listing(entry(2)));
    assert_eq!(
        script.does(Event::Pause(Pause::Owner)),
        ["paused with 1: Owner", "publish heartbeat", "hand heartbeat"]
    );
    assert!(script.last(heartbeat).1, "others see that it takes none");
    assert_eq!(script.does(Event::Pause(Pause::Owner)), [""; 0]);
    let lines = script.hears(OPERATOR, lease(&entry(2), MINER, script.now + Millis::from_secs(60)));
    assert!(lines[0].starts_with("released: Withdrawn"), "a claim of before is taken back: {lines:?}");
    let ended = LeaseEnded {
        job: entry(2).job,
        lease: lease(&entry(2), MINER, script.now).lease,
        cause: EndCause::Released,
    };
    script.hears(OPERATOR, ended);
    assert_eq!(script.hears(OPERATOR, listing(entry(3))), [""; 0]);
    assert!(!script.wait_all(9_000).contains(&"ask open jobs".to_owned()));
    let failed = Event::EngineDone { lease: first.lease, outcome: Err("broken".into()) };
    let lines = script.does(failed);
    assert!(lines.contains(&"hand release".to_owned()), "what it has in hand it brings to an end: {lines:?}");

    let lines = script.does(Event::Resume(Pause::Owner));
    assert_eq!(lines, ["resumed", "publish heartbeat", "hand heartbeat", "ask open jobs"]);
    assert!(!script.last(heartbeat).1);
    assert_eq!(script.does(Event::Resume(Pause::Owner)), [""; 0]);
    let lines = script.hears(OPERATOR, listing(entry(4)));
    assert!(lines.contains(&"publish claim".to_owned()), "{lines:?}");
    assert_eq!(script.does(Event::Drain { grace: Millis::from_secs(10) })[0], "draining with 0");
    assert_eq!(script.does(Event::Resume(Pause::Owner)), [""; 0], "it ends all the same");
}

#[test]
fn a_miner_takes_jobs_once_no_reason_to_pause_is_left() {
    let mut script = Script::established(1);
    assert_eq!(script.does(Event::Pause(Pause::Hours))[0], "paused with 0: Hours");
    assert_eq!(script.does(Event::Pause(Pause::Owner)), ["paused with 0: Owner"]);
    assert_eq!(script.does(Event::Resume(Pause::Owner)), ["paused with 0: Hours"]);
    assert_eq!(script.hears(OPERATOR, listing(entry(1))), [""; 0]);
    assert_eq!(script.does(Event::Resume(Pause::Owner)), [""; 0]);
    assert_eq!(script.does(Event::Resume(Pause::Hours))[0], "resumed");
    assert!(script.hears(OPERATOR, listing(entry(2))).contains(&"publish claim".to_owned()));
}

#[test]
fn a_miner_whose_engine_is_gone_takes_none_of_its_jobs_until_it_is_back() {
    let mut script = Script::established(2);
    let model = || entry(1).model;
    script.wait(1000);
    script.hears(OPERATOR, listing(entry(1)));
    let lines = script.does(Event::Engines { model: model(), slots: 0 });
    assert_eq!(lines, ["publish heartbeat", "hand heartbeat"]);
    let offered = |effect: &Effect| match effect {
        Effect::Publish(_, Statement { body: Body::Heartbeat(beat), .. }) => Some(beat.models.len()),
        _ => None,
    };
    assert_eq!(script.last(offered), 0, "others see that it does not serve the model");
    let declined = "declined: the engine of model queenbee-nano is being started again";
    assert_eq!(script.hears(OPERATOR, listing(entry(2))), [declined]);
    let lines = script.hears(OPERATOR, lease(&entry(1), MINER, script.now + Millis::from_secs(60)));
    assert!(lines[0].starts_with("released: Withdrawn"), "a claim of before is taken back: {lines:?}");
    assert_eq!(script.does(Event::Engines { model: "another".into(), slots: 0 }), [""; 0]);

    script.wait(1000);
    let lines = script.does(Event::Engines { model: model(), slots: 2 });
    assert_eq!(lines, ["publish heartbeat", "hand heartbeat", "ask open jobs"]);
    assert_eq!(script.last(offered), 1);
    let lines = script.hears(OPERATOR, listing(entry(2)));
    assert!(lines.contains(&"publish claim".to_owned()), "it is not held against the job: {lines:?}");
}

#[test]
fn a_miner_that_lost_some_engines_claims_no_more_than_the_others_can_run() {
    let mut script = Script::established(4);
    let model = || entry(1).model;
    let claims = |lines: &[String]| lines.iter().filter(|line| *line == "publish claim").count();
    script.runs(1);
    script.wait(1000);
    let lines = script.does(Event::Engines { model: model(), slots: 2 });
    assert_eq!(lines, ["publish heartbeat", "hand heartbeat"]);
    let offered = |effect: &Effect| match effect {
        Effect::Publish(_, Statement { body: Body::Heartbeat(beat), .. }) => {
            Some((beat.models.len(), beat.slots))
        }
        _ => None,
    };
    assert_eq!(script.last(offered), (1, 2));
    assert_eq!(claims(&script.hears(OPERATOR, listing(entry(2)))), 1, "one is left beside the job that runs");
    assert_eq!(claims(&script.hears(OPERATOR, listing(entry(3)))), 0);
    assert_eq!(script.does(Event::Engines { model: model(), slots: 2 }), [""; 0], "nothing has changed");

    script.does(Event::Engines { model: model(), slots: 1 });
    let lines = script.hears(OPERATOR, lease(&entry(2), MINER, script.now + Millis::from_secs(60)));
    assert!(lines[0].starts_with("released: Withdrawn"), "nothing has room for it: {lines:?}");

    script.wait(2000);
    script.does(Event::Engines { model: model(), slots: 9 });
    assert_eq!(script.last(offered), (1, 4), "and not more than it said that it has");
    assert_eq!(claims(&script.hears(OPERATOR, listing(entry(4)))), 1);
}

#[test]
fn engines_that_come_and_go_all_the_time_are_announced_once_a_second_and_as_they_are_in_the_end() {
    let mut script = Script::established(4);
    let slots = |effect: &Effect| match effect {
        Effect::Publish(_, Statement { body: Body::Heartbeat(beat), .. }) => Some(beat.slots),
        _ => None,
    };
    let mut beats = Vec::new();
    let mut note = |script: &Script| beats.extend(script.done.iter().filter_map(slots));
    // For ten seconds, every 50 ms.
    for nth in 0..200 {
        script.does(Event::Engines { model: entry(1).model, slots: 3 - nth % 2 });
        note(&script);
        script.now = script.now + Millis(50);
        script.miner.handle_timeout(script.now);
        script.done = std::iter::from_fn(|| script.miner.poll_effect()).collect();
        note(&script);
    }
    assert!((9..=10).contains(&beats.len()), "{beats:?}");
    script.does(Event::Engines { model: entry(1).model, slots: 1 });
    let mut lines = Vec::new();
    while !lines.contains(&"publish heartbeat".to_owned()) {
        lines = script.wait_all(50);
    }
    assert_eq!(script.last(slots), 1, "the last of it");
    let lines = script.wait_all(29_000);
    assert!(!lines.contains(&"publish heartbeat".to_owned()), "and no more");
}

#[test]
fn a_working_miner_finishes_its_job_before_it_ends() {
    let mut script = Script::established(1);
    let lease = script.runs(1);
    assert_eq!(script.does(Event::Drain { grace: Millis::from_secs(10) })[0], "draining with 1");
    let failed = Event::EngineDone { lease: lease.lease, outcome: Err("broken".into()) };
    assert!(!script.does(failed).contains(&"finished".to_owned()), "the release may be lost");
    let ended = LeaseEnded { job: lease.job, lease: lease.lease, cause: EndCause::EngineFailure };
    assert_eq!(script.hears(OPERATOR, ended), ["finished"]);
}

#[test]
fn a_job_that_takes_too_long_is_given_back_and_the_miner_ends_even_unheard() {
    let mut script = Script::established(1);
    script.runs(1);
    script.does(Event::Drain { grace: Millis::from_secs(10) });
    assert_eq!(script.wait(9_999), [""; 0]);
    let released = "released: Withdrawn, the miner is shutting down";
    assert_eq!(script.wait(1), ["abort", released, "publish release", "hand release"]);
    assert_eq!(script.wait(2000), ["hand release", "hand release", "finished"]);
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut script = Script::established(1);
    script.runs(1);
    script.now = script.now - Millis::from_secs(25);
    let lines = script.wait_all(30_000);
    assert!(lines.contains(&"hand heartbeat".to_owned()), "{lines:?}");
    let dated = |effect: &Effect| match effect {
        Effect::Publish(_, statement) => Some(statement.header.at),
        _ => None,
    };
    script.does(Event::Connected);
    script.does(Event::Drain { grace: Millis(10_000) });
    assert_eq!(script.last(dated), script.now, "what it says is dated by the clock as it is");
    assert!(script.wait_all(10_000).contains(&"hand release".to_owned()));
}

#[test]
fn the_same_events_and_times_give_the_same_effects() {
    let run = || {
        let mut script = Script::established(2);
        let mut effects = vec![];
        for n in 1..20 {
            script.hears(OPERATOR, listing(entry(n)));
            effects.append(&mut script.done);
            let to = u8::try_from(2 + n % 3).unwrap();
            let lease = lease(&entry(n), to, script.now + Millis::from_secs(5));
            script.hears(OPERATOR, lease.clone());
            effects.append(&mut script.done);
            let content = script.content(n);
            script.does(Event::JobReady { lease: lease.lease, content });
            effects.append(&mut script.done);
            script.wait(n * 100);
            script.does(if n % 4 == 0 { Event::Connected } else { Event::Disconnected });
            effects.append(&mut script.done);
        }
        effects
    };
    let first = run();
    assert!(first.len() > 50);
    assert_eq!(first, run());
}
