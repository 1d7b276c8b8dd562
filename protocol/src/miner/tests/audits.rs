use super::*;
use crate::codec::raw_cid;
use crate::finding::Finding;
use crate::statement::{AuditPicked, Word};

/// The proof at this index of epoch 3, for this miner to look at.
fn picked(index: u64) -> AuditPicked {
    AuditPicked {
        epoch: 3,
        index,
        auditor: wallet(MINER),
        job: signed_job(index).id(),
        asked: Link([1; 32]),
        proof: Link([2; 32]),
        wallet: wallet(7),
        lease: Digest([u8::try_from(index % 250).unwrap(); 32]),
        transcript: Link([3; 32]),
        transcript_bytes: 9,
        output: raw_cid(b"output"),
        output_bytes: 6,
        open: false,
        until: 5,
        challenge: None,
    }
}

fn audited(index: u64, outcome: Result<Finding, String>) -> Event {
    Event::Audited { epoch: 3, index, outcome }
}

fn word(script: &Script) -> Word {
    script.last(|effect| match effect {
        Effect::Publish(_, Statement { body: Body::Attestation(attestation), .. }) => Some(attestation.word),
        _ => None,
    })
}

const SAYS: [&str; 2] = ["publish attestation", "hand attestation"];

#[test]
fn it_looks_once_seals_what_it_found_and_opens_it_when_it_may() {
    let mut script = Script::established(1);
    assert_eq!(script.hears(OPERATOR, AuditPicked { auditor: wallet(4), ..picked(0) }), [""; 0]);
    assert_eq!(script.hears(OPERATOR, AuditPicked { wallet: wallet(MINER), ..picked(0) }), [""; 0]);
    assert_eq!(script.hears(OPERATOR, picked(1)), ["look at 1"]);
    assert_eq!(script.hears(OPERATOR, picked(0)), [""; 0], "one at a time");
    let lines = script.does(audited(1, Ok(Finding::Holds)));
    assert_eq!(lines, ["found that it Holds", SAYS[0], SAYS[1], "look at 0"]);
    let Word::Sealed(seal) = word(&script) else { panic!("it is sealed first") };
    script.hears(OPERATOR, picked(1));
    assert_eq!(word(&script), Word::Sealed(seal), "it is said again");
    script.hears(OPERATOR, AuditPicked { open: true, ..picked(1) });
    let Word::Opened { finding, salt } = word(&script) else { panic!("it may be opened") };
    assert_eq!(finding.seal(&pool(), &picked(1).lease, &wallet(MINER), &salt), seal);
    // Another process of the same wallet opens what this one has sealed.
    let mut again = Script::established(1);
    again.hears(OPERATOR, AuditPicked { open: true, ..picked(1) });
    again.does(audited(1, Ok(Finding::Holds)));
    assert_eq!(word(&again), Word::Opened { finding, salt });
}

#[test]
fn what_cannot_be_looked_at_keeps_no_other_waiting_and_is_left_in_the_end() {
    let mut script = Script::established(1);
    (0..3).for_each(|index| _ = script.hears(OPERATOR, picked(index)));
    let fails = |script: &mut Script, index| {
        let lines = script.does(audited(index, Err("gone".into())));
        assert_eq!(lines[0], "not audited: gone");
        lines.get(1).cloned()
    };
    for (failed, next) in [(0, 1), (1, 2)] {
        assert_eq!(fails(&mut script, failed), Some(format!("look at {next}")));
    }
    assert_eq!(script.does(audited(2, Ok(Finding::Holds))).last().unwrap(), "look at 0", "the second time");
    assert_eq!(fails(&mut script, 0).unwrap(), "look at 1");
    assert_eq!(fails(&mut script, 1).unwrap(), "look at 0");
    assert_eq!(fails(&mut script, 0).unwrap(), "look at 1");
    assert_eq!(fails(&mut script, 1), None);
    assert_eq!(script.hears(OPERATOR, picked(0)), [""; 0], "three times are enough");
}

#[test]
fn what_was_looked_at_is_what_it_signs_for() {
    let mut script = Script::established(1);
    script.hears(OPERATOR, picked(0));
    script.hears(OPERATOR, AuditPicked { transcript: Link([9; 32]), lease: Digest([9; 32]), ..picked(0) });
    script.does(audited(0, Ok(Finding::Contradicts)));
    let said = script.last(|effect| match effect {
        Effect::Publish(_, Statement { body: Body::Attestation(said), .. }) => Some(said.lease),
        _ => None,
    });
    assert_eq!(said, picked(0).lease);
    let other = AuditPicked { transcript: Link([9; 32]), open: true, ..picked(0) };
    assert_eq!(script.hears(OPERATOR, other), [""; 0]);
}

#[test]
fn it_remembers_so_many_and_makes_room_by_what_is_over() {
    let mut script = Script::established(1);
    let most = MAX_AUDITS as u64;
    (0..most).for_each(|index| _ = script.hears(OPERATOR, picked(index)));
    script.hears(OPERATOR, picked(most));
    for index in 0..most {
        script.does(audited(index, Ok(Finding::Holds)));
    }
    assert_eq!(script.hears(OPERATOR, picked(most)), [""; 0], "there is no room: nothing was opened");
    script.hears(OPERATOR, AuditPicked { open: true, ..picked(5) });
    assert_eq!(script.hears(OPERATOR, picked(most)), [format!("look at {most}")]);
    let next = roster(vec![in_roster(MINER, true)]);
    script.hears(OPERATOR, opened(6, &next));
    assert_eq!(script.hears(OPERATOR, picked(7)), [""; 0], "the other is being looked at");
    assert_eq!(
        script.does(audited(most, Err("gone".into()))).last().unwrap(),
        "look at 7",
        "it was forgotten"
    );
}

#[test]
fn a_miner_that_rests_begins_no_look() {
    let mut script = Script::established(1);
    script.does(Event::Pause(Pause::Owner));
    assert_eq!(script.hears(OPERATOR, picked(0)), [""; 0]);
    script.does(Event::Resume(Pause::Owner));
    assert_eq!(script.hears(OPERATOR, picked(0)), ["look at 0"]);
}
