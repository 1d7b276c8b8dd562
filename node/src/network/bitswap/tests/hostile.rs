//! Peers that mean harm.

use super::super::*;
use super::script::{Script, blocks, cid_of, peer, presence, want, wants};

#[test]
fn blocks_that_nobody_asked_for_are_dropped_and_their_sender_is_heard_no_more() {
    let mut script = Script::new(2);
    for _ in 1..MAX_OFFENCES {
        assert_eq!(script.hears(1, blocks(&["Z"])), [""; 0]);
    }
    assert_eq!(script.hears(1, blocks(&["Z"])), ["shun 1"]);
    script.kept = vec!["A".to_owned()];
    let asking = || wants(&[want("A", WantKind::Block)]);
    assert_eq!(script.hears(1, asking()), [""; 0]);
    assert_eq!(script.hears(2, asking()), ["to 2: block A"]);
    assert_eq!(script.fetches(1, "B", &[1]), ["to 2: have B?"], "it is not asked either");

    script.does(Event::Disconnected(peer(1)));
    assert_eq!(script.does(Event::Connected(peer(1))), ["shun 1"], "it comes back");
    script.does(Event::Disconnected(peer(1)));
    script.waits(FORGIVEN_AFTER.as_millis() as u64);
    assert_eq!(script.does(Event::Connected(peer(1))), [""; 0], "it is forgiven");
    assert_eq!(script.hears(1, asking()), ["to 1: block A"]);
}

#[test]
fn a_flood_of_wrong_blocks_costs_one_message() {
    let mut script = Script::new(2);
    script.fetches(1, "A", &[1]);
    let flood = Message { unusable_blocks: 1_000_000, ..Message::default() };
    let lines = script.hears(1, flood);
    assert!(lines.contains(&"shun 1".to_owned()) && lines.contains(&"to 2: have A?".to_owned()), "{lines:?}");
    let told = ["to 2: cancel A", "fetch 1: 1 lied"];
    assert_eq!(script.hears(2, presence("A", false)), told);
}

#[test]
fn a_million_wants_leave_a_bounded_list_and_do_not_keep_others_waiting() {
    let mut script = Script::new(2);
    script.kept = vec!["A".to_owned()];
    let mut most = 0;
    for message in 0..1_000 {
        let many: Vec<Want> = (0..1_000).map(|n| want(&format!("{message}/{n}"), WantKind::Block)).collect();
        script.hears(1, wants(&many));
        script.sent.clear();
        most = most.max(script.core.wants_held(&peer(1)));
        if message % 100 == 0 {
            assert_eq!(script.hears(2, wants(&[want("A", WantKind::Block)])), ["to 2: block A"]);
        }
    }
    assert!(most <= MAX_WANTS_PER_PEER, "{most}");
    assert!(script.hears(1, wants(&[want("A", WantKind::Block)])).is_empty(), "it is shunned");
}

#[test]
fn full_wantlists_in_a_row_are_a_flood_too() {
    let mut script = Script::new(1);
    let many: Vec<Want> = (0..1_000).map(|n| want(&format!("{n}"), WantKind::Have)).collect();
    let mut shunned_after = None;
    for round in 0..100 {
        let lines = script.hears(1, Message { full: true, ..wants(&many) });
        assert!(script.core.wants_held(&peer(1)) <= MAX_WANTS_PER_PEER);
        if lines.iter().any(|line| line == "shun 1") {
            shunned_after = Some(round);
            break;
        }
    }
    assert!(shunned_after.is_some_and(|round| round >= 16), "{shunned_after:?}");
    assert_eq!(script.core.wants_held(&peer(1)), 0);
}

#[test]
fn all_wants_together_are_bounded_and_a_newcomer_still_gets_a_few() {
    let mut script = Script::new(100);
    script.answers_lookups = false;
    for number in 1..=99 {
        let many: Vec<Want> = (0..2_000).map(|n| want(&format!("{number}/{n}"), WantKind::Have)).collect();
        script.hears(number, wants(&many));
    }
    let held: usize = (1..=99).map(|number| script.core.wants_held(&peer(number))).sum();
    assert!(held <= MAX_WANTS + 100 * MAX_WANTS_SPARED, "{held}");
    assert!(held >= MAX_WANTS, "{held}");
    assert_eq!(script.open_lookups.len(), MAX_LOOKUPS);
    script.hears(100, wants(&[want("A", WantKind::Block)]));
    assert_eq!(script.core.wants_held(&peer(100)), 1);
}

#[test]
fn peers_that_never_read_hold_bounded_memory() {
    let mut script = Script::new(250);
    let large = "L".repeat(1 << 20);
    script.kept = vec![large.clone()];
    script.stuck = (1..=249).collect();
    for number in 1..=249 {
        script.hears(number, wants(&[want(&large, WantKind::Block)]));
    }
    let held: usize = script.sent.iter().flat_map(|(_, m)| &m.blocks).map(|block| block.data.len()).sum();
    assert!(held <= MAX_HELD_BYTES + MAX_LOOKUPS * (1 << 20), "{held}");
    for number in 1..=249 {
        script.does(Event::NotSent { peer: peer(number), reason: NotSent::Stalled });
    }
    script.sent.clear();
    script.hears(250, wants(&[want(&large, WantKind::Block)]));
    assert_eq!(script.sent.len(), 1, "once they are given up, others are served");
}

#[test]
fn who_reads_is_served_while_many_others_do_not() {
    let mut script = Script::new(250);
    let large = ["L".repeat(1 << 20), "M".repeat(1 << 20), "N".repeat(1 << 20), "O".repeat(1 << 20)];
    script.kept = large.to_vec();
    script.stuck = (1..=60).collect();
    for number in 1..=60 {
        let all: Vec<Want> = large.iter().map(|name| want(name, WantKind::Block)).collect();
        script.hears(number, wants(&all));
    }
    script.sent.clear();
    script.hears(250, wants(&[want(&large[0], WantKind::Block)]));
    assert_eq!(script.sent.len(), 1);
}

#[test]
fn who_does_not_read_is_left_alone_longer_each_time() {
    let mut script = Script::new(1);
    script.kept = vec!["A".to_owned()];
    let stalls = |script: &mut Script| {
        script.does(Event::NotSent { peer: peer(1), reason: NotSent::Stalled });
        script.hears(1, wants(&[want("A", WantKind::Block)]))
    };
    script.stuck = vec![1];
    assert_eq!(script.hears(1, wants(&[want("A", WantKind::Block)])), ["to 1: block A"]);
    assert_eq!(stalls(&mut script), [""; 0]);
    assert_eq!(script.waits(9_999), [""; 0]);
    assert_eq!(script.waits(1), ["to 1: block A"]);
    assert_eq!(stalls(&mut script), [""; 0]);
    script.stuck.clear();
    assert_eq!(script.waits(19_999), [""; 0]);
    assert_eq!(script.waits(1), ["to 1: block A"]);
    assert_eq!(script.hears(1, wants(&[want("A", WantKind::Block)])), ["to 1: block A"], "it reads again");
}

#[test]
fn who_was_shunned_is_heard_again_after_ten_minutes_on_the_same_connection() {
    let mut script = Script::new(1);
    for _ in 0..MAX_OFFENCES - 1 {
        assert_eq!(script.hears(1, blocks(&["Z"])), [""; 0]);
    }
    assert_eq!(script.hears(1, blocks(&["Z"])), ["shun 1"]);
    assert_eq!(script.fetches(1, "A", &[1]), ["fetch 1: no peers"]);
    assert_eq!(script.waits(599_999), [""; 0]);
    assert_eq!(script.waits(1), ["hear 1"]);
    assert_eq!(script.fetches(2, "A", &[1]), ["to 1: want A"]);
}

#[test]
fn haves_and_lacks_about_nothing_are_ignored() {
    let mut script = Script::new(2);
    script.fetches(1, "A", &[1]);
    assert_eq!(script.hears(2, presence("A", true)), [""; 0]);
    assert_eq!(script.hears(2, presence("A", false)), [""; 0]);
    assert_eq!(script.hears(1, presence("B", false)), [""; 0]);
    assert_eq!(script.hears(1, blocks(&["A"])), ["fetch 1: 1 bytes"]);
}

#[test]
fn presences_alone_do_not_keep_a_fetch_waiting() {
    let mut script = Script::new(1);
    script.fetches(1, "A", &[1]);
    for _ in 0..4 {
        script.waits(1_000);
        script.hears(1, presence("B", true));
    }
    script.does(Event::Connected(peer(2)));
    assert_eq!(script.waits(1_000), ["to 2: have A?"]);
}

#[test]
fn peers_that_come_and_go_leave_nothing_behind() {
    let mut script = Script::new(1);
    script.answers_lookups = false;
    for _ in 0..100 {
        script.does(Event::Connected(peer(9)));
        script.hears(9, wants(&[want("A", WantKind::Block), want("B", WantKind::Have)]));
        script.does(Event::Disconnected(peer(9)));
    }
    for lookup in std::mem::take(&mut script.open_lookups) {
        script.does(Event::LookedUp { lookup, found: Found::Absent });
    }
    script.answers_lookups = true;
    script.kept = vec!["A".to_owned()];
    assert_eq!(script.hears(1, wants(&[want("A", WantKind::Block)])), ["to 1: block A"]);
    assert_eq!(script.core.wants_held(&peer(9)), 0);
    assert_eq!(script.does(Event::Available(cid_of(b"B"))), [""; 0]);
}
