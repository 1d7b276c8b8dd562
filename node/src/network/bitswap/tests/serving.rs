//! What other nodes are answered.

use super::super::*;
use super::script::{Script, cid_of, peer, want, wants};

fn block_wanted(name: &str) -> Message {
    wants(&[want(name, WantKind::Block)])
}

#[test]
fn wants_are_answered_by_have_dont_have_and_block() {
    let mut script = Script::new(1);
    script.kept = vec!["A".to_owned(), "B".to_owned()];
    let silent = Want { send_dont_have: false, ..want("D", WantKind::Block) };
    let asked = [want("A", WantKind::Have), want("B", WantKind::Block), want("C", WantKind::Have), silent];
    script.stuck = vec![1];
    let first = script.hears(1, wants(&asked));
    script.stuck.clear();
    let rest = script.does(Event::Sent(peer(1)));
    assert_eq!([first, rest].concat(), ["to 1: have A", "to 1: lack C, block B"]);
}

#[test]
fn the_highest_priority_is_served_first() {
    let mut script = Script::new(1);
    script.kept = ["A", "B", "C"].map(str::to_owned).to_vec();
    let asked: Vec<Want> = [("A", -1), ("B", 5), ("C", 0)]
        .map(|(name, priority)| Want { priority, ..want(name, WantKind::Block) })
        .to_vec();
    let told = script.hears(1, wants(&asked));
    assert_eq!(told.join(" "), "to 1: block B to 1: block C, block A");
}

#[test]
fn a_block_that_comes_later_goes_to_whoever_still_waits_for_it() {
    let mut script = Script::new(3);
    for number in 1..=3 {
        assert_eq!(script.hears(number, block_wanted("A")), [format!("to {number}: lack A")]);
    }
    let cancel = Want { cancel: true, ..want("A", WantKind::Block) };
    assert_eq!(script.hears(2, wants(&[cancel])), [""; 0]);
    script.kept = vec!["A".to_owned()];
    assert_eq!(script.does(Event::Available(cid_of(b"A"))), ["to 1: block A", "to 3: block A"]);
    assert_eq!(script.does(Event::Available(cid_of(b"A"))), [""; 0]);
}

#[test]
fn a_full_wantlist_replaces_what_was_wanted_before() {
    let mut script = Script::new(1);
    script.hears(1, wants(&[want("A", WantKind::Block), want("B", WantKind::Block)]));
    script
        .hears(1, Message { full: true, ..wants(&[want("B", WantKind::Block), want("C", WantKind::Have)]) });
    script.kept = ["A", "B", "C"].map(str::to_owned).to_vec();
    assert_eq!(script.does(Event::Available(cid_of(b"A"))), [""; 0]);
    assert_eq!(script.does(Event::Available(cid_of(b"B"))), ["to 1: block B"]);
    assert_eq!(script.does(Event::Available(cid_of(b"C"))), ["to 1: have C"]);
}

#[test]
fn a_want_that_grows_during_its_lookup_gets_the_block() {
    let mut script = Script::new(1);
    script.kept = vec!["A".to_owned()];
    script.answers_lookups = false;
    script.hears(1, wants(&[want("A", WantKind::Have)]));
    script.hears(1, block_wanted("A"));
    script.answers_lookups = true;
    let lines: Vec<String> = std::mem::take(&mut script.open_lookups)
        .into_iter()
        .flat_map(|lookup| {
            let found = script.find(&lookup);
            script.does(Event::LookedUp { lookup, found })
        })
        .collect();
    assert_eq!(lines, ["to 1: block A"]);
}

#[test]
fn messages_are_split_and_no_more_is_read_than_the_peer_takes() {
    let mut script = Script::new(1);
    script.kept = (0..20u8).map(|n| char::from(b'a' + n).to_string().repeat(900_000)).collect();
    script.stuck = vec![1];
    let asked: Vec<Want> = script.kept.iter().map(|name| want(name, WantKind::Block)).collect();
    script.answers_lookups = false;
    script.hears(1, wants(&asked));
    let mut looked_up = 0;
    for _ in 0..200 {
        let Some(lookup) = script.open_lookups.pop() else { break };
        looked_up += 1;
        let found = script.find(&lookup);
        script.does(Event::LookedUp { lookup, found });
    }
    assert!(looked_up <= 8, "{looked_up} blocks are held for a peer that does not read");
    script.answers_lookups = true;
    script.stuck.clear();
    script.does(Event::Sent(peer(1)));
    for lookup in std::mem::take(&mut script.open_lookups) {
        let found = script.find(&lookup);
        script.does(Event::LookedUp { lookup, found });
    }
    let blocks: usize = script.sent.iter().map(|(_, message)| message.blocks.len()).sum();
    assert_eq!(blocks, 20);
    for (_, message) in &script.sent {
        assert!(message.encode().len() < MAX_ANSWER_BYTES + crate::network::MAX_BLOCK);
    }
}

#[test]
fn a_peer_has_a_budget_and_gets_the_rest_when_it_refills() {
    let mut script = Script::new(2);
    let large = "L".repeat(1 << 20);
    script.kept = vec![large.clone(), "A".to_owned()];
    let served =
        |script: &Script| script.sent.iter().filter(|(n, m)| *n == 1 && !m.blocks.is_empty()).count();
    for _ in 0..400 {
        script.hears(1, block_wanted(&large));
    }
    let burst = served(&script);
    assert!(burst <= 256 && burst > 200, "{burst} MiB served at once");
    assert_eq!(script.hears(2, block_wanted("A")), ["to 2: block A"], "the other peer has its own");
    script.hears(1, block_wanted(&large));
    script.waits(1000);
    assert_eq!(served(&script), burst + 1);
}

#[test]
fn peers_take_turns() {
    let mut script = Script::new(2);
    script.answers_lookups = false;
    let many: Vec<Want> = (0..100).map(|n| want(&format!("one {n}"), WantKind::Have)).collect();
    script.hears(1, wants(&many));
    assert_eq!(script.open_lookups.len(), MAX_LOOKUPS_PER_PEER);
    script.hears(2, block_wanted("A"));
    assert_eq!(script.open_lookups.last().map(|lookup| lookup.peer), Some(peer(2)));
}

#[test]
fn a_peer_that_cannot_be_told_is_served_anew_when_it_asks_again() {
    let mut script = Script::new(1);
    script.kept = vec!["A".to_owned(), "B".to_owned()];
    script.stuck = vec![1];
    assert_eq!(script.hears(1, block_wanted("A")), ["to 1: block A"]);
    assert_eq!(script.hears(1, block_wanted("B")), [""; 0]);
    script.stuck.clear();
    let broken = Event::NotSent { peer: peer(1), reason: NotSent::Broken };
    assert_eq!(script.does(broken), [""; 0]);
    assert_eq!(script.hears(1, block_wanted("B")), ["to 1: block B"]);
}
