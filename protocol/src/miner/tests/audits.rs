use super::*;
use crate::codec::raw_cid;
use crate::evidence::{Contradiction, contradiction};
use crate::finding::Finding;
use crate::miner::Looked;
use crate::statement::{AuditPicked, Proof, Word};

/// Who makes the proofs.
const PROVER: u8 = 7;

fn lease_of(index: u64) -> Digest {
    Digest([u8::try_from(index % 250).unwrap(); 32])
}

fn proof(index: u64) -> Proof {
    Proof {
        job: signed_job(index).id(),
        lease: lease_of(index),
        transcript: Link([3; 32]),
        transcript_bytes: 9,
        output: raw_cid(b"output"),
        output_bytes: 6,
    }
}

fn proven(proof: Proof) -> Verified {
    let signed = Statement::derived(pool(), wallet(PROVER), START, proof.into()).sign(&key(PROVER));
    Intake::new(pool(), wallet(OPERATOR)).verify(None, &signed.encode(), START).unwrap()
}

/// The proof at this index of epoch 3, for this miner to look at.
fn picked(index: u64) -> AuditPicked {
    let proof = proof(index);
    AuditPicked {
        epoch: 3,
        index,
        auditor: wallet(MINER),
        job: proof.job,
        asked: Link([1; 32]),
        proof: proven(proof.clone()).id(),
        wallet: wallet(PROVER),
        lease: proof.lease,
        transcript: proof.transcript,
        transcript_bytes: proof.transcript_bytes,
        output: proof.output,
        output_bytes: proof.output_bytes,
        open: false,
        until: 5,
        challenge: None,
    }
}

fn audited(index: u64, outcome: Result<Finding, String>) -> Event {
    let looked =
        |finding| Looked { finding: Ok(finding), lease: lease_of(index), proof: proven(proof(index)).into() };
    Event::Audited { epoch: 3, index, outcome: outcome.map(looked) }
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

#[test]
fn who_was_told_of_something_else_than_was_accepted_says_nothing_and_keeps_what_proves_it() {
    let told = AuditPicked { transcript: Link([8; 32]), ..picked(0) };
    let mut script = Script::established(1);
    assert_eq!(script.hears(OPERATOR, told.clone()), ["look at 0"]);
    let lines = script.does(audited(0, Ok(Finding::Holds)));
    assert_eq!(lines, ["misled in its transcript", "evidence"]);
    let (how, both) = (
        script.last(|effect| match effect {
            Effect::Story(Story::Misled { how, .. }) => Some(how.to_string()),
            _ => None,
        }),
        script.last(|effect| match effect {
            Effect::Evidence(both) => Some(both.clone()),
            _ => None,
        }),
    );
    for named in [told.transcript, proof(0).transcript] {
        assert!(how.contains(&named.to_string()), "{how}");
    }
    let [one, other] = both.map(|signed| Statement::decode(&signed.payload).unwrap());
    let found = Some(Contradiction::Audit { job: told.job });
    assert_eq!((contradiction(&one, &other), contradiction(&other, &one)), (found, found));
    // However often it is asked, and whether it may open or not.
    for open in [false, true] {
        assert_eq!(script.hears(OPERATOR, AuditPicked { open, ..told.clone() }), [""; 0]);
    }
}

#[test]
fn whatever_the_operator_names_falsely_is_found() {
    type Lie = fn(&mut AuditPicked);
    let lies: [(&str, Lie); 6] = [
        ("wallet", |picked| picked.wallet = wallet(5)),
        ("job", |picked| picked.job = signed_job(9).id()),
        ("lease", |picked| picked.lease = Digest([9; 32])),
        ("transcript's length", |picked| picked.transcript_bytes = 10),
        ("output", |picked| picked.output = raw_cid(b"other")),
        ("output's length", |picked| picked.output_bytes = 7),
    ];
    for (what, lie) in lies {
        let (mut script, mut told) = (Script::established(1), picked(0));
        lie(&mut told);
        script.hears(OPERATOR, told);
        let lines = script.does(audited(0, Ok(Finding::Holds)));
        assert_eq!(lines, [format!("misled in its {what}"), "evidence".to_owned()]);
    }
}

/// A friend may sign two proofs under one lease: a false one, which is accepted, and a good one for its auditor.
#[test]
fn another_proof_under_the_same_lease_is_found_in_the_records() {
    let false_one = Proof { transcript: Link([6; 32]), ..proof(0) };
    for (lease, proof, what) in
        [(lease_of(0), proven(false_one), "proof"), (Digest([9; 32]), proven(proof(0)), "lease")]
    {
        let mut script = Script::established(1);
        script.hears(OPERATOR, picked(0));
        let looked = Looked { finding: Ok(Finding::Holds), lease, proof: proof.into() };
        let event = Event::Audited { epoch: 3, index: 0, outcome: Ok(looked) };
        // The records prove it, two statements do not.
        assert_eq!(script.does(event), [format!("misled in its {what}")]);
        script.hears(OPERATOR, AuditPicked { open: true, ..picked(0) });
        assert!(script.done.is_empty());
    }
}
