//! Whom this node asks, and what it makes of the answers.

use super::super::*;
use super::script::{Script, blocks, peer, presence};

#[test]
fn a_likely_peer_is_asked_for_the_block_and_nobody_else() {
    let mut script = Script::new(3);
    assert_eq!(script.fetches(7, "A", &[2]), ["to 2: want A"]);
    assert_eq!(script.hears(2, blocks(&["A"])), ["fetch 7: 1 bytes"]);
    assert_eq!(script.waits(100_000), [""; 0]);
}

#[test]
fn likely_peers_are_asked_one_after_the_other_then_others_whether_they_have_it() {
    let mut script = Script::new(5);
    assert_eq!(script.fetches(1, "A", &[4, 9, 2]), ["to 4: want A"]);
    assert_eq!(script.hears(4, presence("A", false)), ["to 2: want A"], "9 is not connected");
    let survey = ["to 1: have A?", "to 3: have A?", "to 5: have A?"];
    assert_eq!(script.hears(2, presence("A", false)), survey);
    assert_eq!(script.hears(3, presence("A", false)), [""; 0]);
    assert_eq!(script.hears(5, presence("A", true)), ["to 5: want A"]);
    assert_eq!(script.hears(1, presence("A", true)), [""; 0], "one at a time");
    let told = ["to 1: cancel A", "to 2: cancel A", "to 3: cancel A", "to 4: cancel A", "fetch 1: 1 bytes"];
    assert_eq!(script.hears(5, blocks(&["A"])), told);
}

#[test]
fn a_block_that_nobody_has_is_missing_at_once() {
    let mut script = Script::new(2);
    assert_eq!(script.fetches(1, "A", &[]), ["to 1: have A?", "to 2: have A?"]);
    assert_eq!(script.hears(1, presence("A", false)), [""; 0]);
    let told = ["to 1: cancel A", "to 2: cancel A", "fetch 1: missing at 2"];
    assert_eq!(script.hears(2, presence("A", false)), told);
    assert_eq!(Script::new(0).fetches(1, "A", &[3]), ["fetch 1: no peers"]);
}

#[test]
fn a_silent_peer_costs_five_seconds_and_what_it_sends_late_is_no_offence() {
    let mut script = Script::new(2);
    assert_eq!(script.fetches(1, "A", &[1]), ["to 1: want A"]);
    assert_eq!(script.waits(4_999), [""; 0]);
    assert_eq!(script.waits(1), ["to 2: have A?"]);
    assert_eq!(script.hears(2, presence("A", true)), ["to 2: want A"]);
    assert_eq!(script.hears(1, blocks(&["A"])), ["to 2: cancel A", "fetch 1: 1 bytes"], "late, but first");
    for _ in 0..3 * MAX_OFFENCES {
        script.fetches(2, "B", &[2]);
        script.does(Event::Cancel(2));
        assert_eq!(script.hears(2, blocks(&["B"])), [""; 0], "no longer wanted");
    }
    assert_eq!(script.fetches(3, "C", &[2]), ["to 2: want C"], "nobody is shunned");
}

#[test]
fn a_peer_that_answers_a_question_by_the_block_is_believed_however_late() {
    let mut script = Script::new(2);
    for _ in 0..3 * MAX_OFFENCES {
        assert_eq!(script.fetches(1, "A", &[]), ["to 1: have A?", "to 2: have A?"]);
        assert_eq!(script.hears(2, blocks(&["A"])), ["to 1: cancel A", "fetch 1: 1 bytes"]);
        assert_eq!(script.hears(1, blocks(&["A"])), [""; 0]);
    }
}

#[test]
fn a_slow_peer_is_waited_for_while_bytes_come_but_not_for_ever() {
    let mut script = Script::new(1);
    script.fetches_within(1, "A", &[1], 1000, 100);
    script.does(Event::Connected(peer(2)));
    for _ in 0..14 {
        assert_eq!(script.waits(4_000), [""; 0]);
        assert_eq!(script.does(Event::Progress(peer(1))), [""; 0]);
    }
    assert_eq!(script.waits(4_000), ["to 2: have A?"]);
}

#[test]
fn a_slow_peer_gets_half_of_the_time_that_is_left_so_that_others_have_their_turn() {
    let mut script = Script::new(3);
    script.fetches_within(1, "A", &[1, 2, 3], 30, 100);
    let mut drips = |seconds: u64, from: u8| {
        let mut lines = Vec::new();
        for _ in 0..seconds {
            lines.extend(script.does(Event::Progress(peer(from))));
            lines.extend(script.waits(1_000));
        }
        lines
    };
    assert_eq!(drips(15, 1), ["to 2: want A"]);
    assert_eq!(drips(7, 2), [""; 0]);
    assert_eq!(drips(1, 2), ["to 3: want A"]);
    assert_eq!(drips(4, 3), [""; 0], "never less than five seconds");
}

#[test]
fn a_block_that_nobody_has_yet_is_asked_for_again_until_patience_ends() {
    let mut script = Script::new(1);
    assert_eq!(script.fetches_patiently(1, "A", &[1], 10, 60, 100), ["to 1: want A"]);
    assert_eq!(script.hears(1, presence("A", false)), [""; 0]);
    assert_eq!(script.waits(1_000), ["to 1: want A"]);
    assert_eq!(script.hears(1, presence("A", false)), [""; 0]);
    assert_eq!(script.waits(2_000), ["to 1: want A"], "the rest is twice as long");
    assert_eq!(script.hears(1, presence("A", false)), [""; 0]);
    assert_eq!(script.waits(4_000), ["to 1: want A"]);
    assert_eq!(script.hears(1, presence("A", false)), [""; 0]);
    assert_eq!(script.waits(2_999), [""; 0]);
    assert_eq!(script.waits(1), ["to 1: cancel A", "fetch 1: missing at 1"]);
    assert_eq!(script.core.poll_timeout(), None);
}

#[test]
fn who_comes_while_a_block_is_missing_is_asked_at_once() {
    let mut script = Script::new(1);
    script.fetches_patiently(1, "A", &[7], 60, 60, 100);
    script.hears(1, presence("A", false));
    assert_eq!(script.does(Event::Connected(peer(2))), ["to 2: have A?"]);
    assert_eq!(script.hears(2, presence("A", false)), [""; 0]);
    assert_eq!(script.does(Event::Connected(peer(7))), ["to 7: want A"], "it was named");
    assert_eq!(script.does(Event::Disconnected(peer(7))), [""; 0]);
    assert_eq!(script.does(Event::Connected(peer(7))), ["to 7: want A"]);
    let told = ["to 1: cancel A", "to 2: cancel A", "fetch 1: 1 bytes"];
    assert_eq!(script.hears(7, blocks(&["A"])), told);
}

#[test]
fn a_have_counts_however_late_it_comes() {
    let mut script = Script::new(2);
    script.fetches_patiently(1, "A", &[], 60, 60, 100);
    script.hears(1, presence("A", false));
    assert_eq!(script.waits(5_500), [""; 0], "2 has not answered in time");
    assert_eq!(script.hears(2, presence("A", true)), ["to 2: want A"]);
    assert_eq!(script.hears(2, presence("A", false)), [""; 0]);
    assert_eq!(script.hears(1, presence("A", true)), ["to 1: want A"], "it got the block meanwhile");
}

#[test]
fn a_silent_peer_is_waited_for_until_the_deadline_if_nobody_else_has_the_block() {
    let mut script = Script::new(1);
    script.fetches_within(1, "A", &[1], 30, 100);
    let lines = script.waits(29_999);
    assert!(lines.iter().all(|line| line == "to 1: want A") && lines.len() >= 3, "{lines:?}");
    assert_eq!(script.waits(1), ["to 1: cancel A", "fetch 1: too late"]);
}

#[test]
fn a_fetch_ends_at_its_deadline() {
    let mut script = Script::new(1);
    assert_eq!(script.fetches_within(1, "A", &[1], 2, 100), ["to 1: want A"]);
    assert_eq!(script.waits(2_000), ["to 1: cancel A", "fetch 1: too late"]);
    assert_eq!(script.fetches_within(2, "A", &[1], 0, 100), ["fetch 2: too late"]);
    assert_eq!(script.core.poll_timeout(), None);
}

#[test]
fn two_who_want_the_same_block_are_served_by_one_message() {
    let mut script = Script::new(1);
    assert_eq!(script.fetches_within(1, "AAAA", &[1], 10, 4), ["to 1: want AAAA"]);
    assert_eq!(script.fetches_within(2, "AAAA", &[1], 10, 3), [""; 0]);
    assert_eq!(script.fetches_within(3, "AAAA", &[1], 1, 4), [""; 0]);
    assert_eq!(script.waits(1_000), ["fetch 3: too late"]);
    let outcome = ["fetch 1: 4 bytes", "fetch 2: 4 bytes at 1, over 3"];
    assert_eq!(script.hears(1, blocks(&["AAAA"])), outcome);
}

#[test]
fn a_peer_is_asked_for_less_than_a_mebibyte_at_once_or_for_one_block() {
    let mut script = Script::new(1);
    let half = MAX_ASKED_BYTES / 2;
    assert_eq!(script.fetches_within(1, "A", &[1], 60, half), ["to 1: want A"]);
    assert_eq!(script.fetches_within(2, "B", &[1], 60, half), ["to 1: want B"]);
    assert_eq!(script.fetches_within(3, "C", &[1], 60, usize::MAX), [""; 0]);
    assert_eq!(script.fetches_within(4, "D", &[1], 60, 1), [""; 0]);
    assert_eq!(script.hears(1, blocks(&["A"])), ["fetch 1: 1 bytes"], "C is as large as a block can be");
    assert_eq!(script.hears(1, blocks(&["B"])), ["to 1: want C", "fetch 2: 1 bytes"]);
    assert_eq!(script.hears(1, blocks(&["C"])), ["to 1: want D", "fetch 3: 1 bytes"]);
    assert_eq!(script.hears(1, blocks(&["D"])), ["fetch 4: 1 bytes"]);
}

#[test]
fn what_waits_behind_a_stalled_peer_moves_on_with_it() {
    let mut script = Script::new(2);
    script.fetches_within(1, "A", &[1], 60, MAX_ASKED_BYTES);
    assert_eq!(script.fetches_within(2, "B", &[1], 60, 10), [""; 0]);
    assert_eq!(script.waits(5_000), ["to 2: have A?, have B?"]);
}

#[test]
fn a_peer_that_leaves_or_cannot_be_told_is_not_waited_for() {
    let mut script = Script::new(3);
    script.fetches(1, "A", &[1]);
    assert_eq!(script.does(Event::Disconnected(peer(1))), ["to 2: have A?", "to 3: have A?"]);
    script.hears(2, presence("A", true));
    let unsupported = Event::NotSent { peer: peer(2), reason: NotSent::Unsupported };
    assert_eq!(script.does(unsupported), [""; 0], "3 has not answered");
    assert_eq!(script.does(Event::Disconnected(peer(3))), ["fetch 1: no peers"], "all have left");
    assert_eq!(script.fetches(2, "B", &[2]), ["fetch 2: no peers"], "2 does not speak Bitswap");
    assert_eq!(script.does(Event::Disconnected(peer(2))), [""; 0]);
    assert_eq!(script.does(Event::Connected(peer(2))), [""; 0]);
    assert_eq!(script.fetches(3, "B", &[2]), ["to 2: want B"], "it may have changed");
}

#[test]
fn a_liar_is_named_and_the_next_peer_asked() {
    let mut script = Script::new(2);
    script.fetches(1, "A", &[1]);
    assert_eq!(script.hears(1, blocks(&["Z"])), ["to 2: have A?"]);
    let told = ["to 1: cancel A", "to 2: cancel A", "fetch 1: 1 lied"];
    assert_eq!(script.hears(2, presence("A", false)), told);
    script.fetches(2, "B", &[1]);
    assert_eq!(script.does(Event::Malformed(peer(1))), ["to 2: have B?"]);
    script.fetches(3, "C", &[1]);
    let unusable = Message { unusable_blocks: 1, ..Message::default() };
    assert_eq!(script.hears(1, unusable), ["to 2: have C?"]);
}

#[test]
fn more_peers_are_asked_by_sixteen_and_those_first_that_delivered() {
    let mut script = Script::new(40);
    script.fetches(1, "A", &[39]);
    script.hears(39, blocks(&["A"]));
    let first = script.fetches(2, "B", &[]);
    assert_eq!(first.len(), MAX_SURVEYED);
    assert!(first.contains(&"to 39: have B?".to_owned()) && first.contains(&"to 15: have B?".to_owned()));
    assert_eq!(script.waits(5_000).len(), MAX_SURVEYED);
    assert_eq!(script.waits(5_000).len(), 40 - 2 * MAX_SURVEYED);
    assert_eq!(script.waits(5_000).pop().unwrap(), "fetch 2: missing at 40");
}

#[test]
fn only_what_can_be_checked_is_fetched_and_only_so_much_at_once() {
    let mut script = Script::new(1);
    let cid = cid::Cid::new_v1(0x55, cid::multihash::Multihash::wrap(0x1e, &[0; 32]).unwrap());
    let deadline = script.now + ATTEMPT_TIMEOUT;
    let fetch = Fetch { id: 1, cid, max_bytes: 1, patience: deadline, deadline, likely: vec![peer(1)] };
    assert_eq!(script.does(Event::Fetch(fetch)), ["fetch 1: unsupported"]);
    for id in 0..MAX_FETCHES as u64 {
        script.fetches(id, &format!("block {id}"), &[1]);
    }
    assert_eq!(script.fetches(9999, "A", &[1]), ["fetch 9999: busy"]);
    assert_eq!(script.does(Event::Cancel(5)), ["to 1: cancel block 5, want block 256"]);
    script.fetches(9999, "A", &[1]);
    let asked: usize = script.sent.iter().map(|(_, m)| m.wants.iter().filter(|w| !w.cancel).count()).sum();
    assert_eq!(asked, MAX_ASKED_BLOCKS + 1);
}
