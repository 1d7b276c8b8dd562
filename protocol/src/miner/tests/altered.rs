use super::*;
use crate::altered::Altering;
use crate::codec::raw_cid;
use crate::finding::{BEYOND_DOUBT, Finding, SCORE_AUDITS};
use crate::miner::Looked;
use crate::statement::{Attestation, AuditPicked, Challenge, Proof, Reason, Refusal, Word};

const FAR: Finding = Finding::Differs(BEYOND_DOUBT);
const NEAR: Finding = Finding::Differs(BEYOND_DOUBT - 1);

fn altering() -> Altering {
    Altering::of(&[MINER; 32], 1_000)
}

/// A miner that alters one in ten of its proofs.
fn maker() -> Script {
    let config = Config { altering: Some(altering()), ..config(1) };
    Script::started_as(config, roster(vec![in_roster(MINER, true)]))
}

fn lease_of(index: u64) -> Digest {
    swarm_crypto::digest::blake3(&index.to_be_bytes())
}

/// Indexes of its proofs that are altered, or are not.
fn proofs(altered: bool) -> impl Iterator<Item = u64> {
    (0..).filter(move |index| altering().picks(&lease_of(*index)) == altered)
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

fn proven(index: u64) -> Verified {
    let signed = Statement::derived(pool(), wallet(MINER), START, proof(index).into()).sign(&key(MINER));
    Intake::new(pool(), wallet(OPERATOR)).verify(None, &signed.encode(), START).unwrap()
}

/// The miner's own proof at this index of epoch 2, for `auditor` to look at.
fn picked(index: u64, auditor: u8, challenge: Option<Link>) -> AuditPicked {
    let proof = proof(index);
    AuditPicked {
        epoch: 2,
        index,
        auditor: wallet(auditor),
        job: proof.job,
        asked: Link([1; 32]),
        proof: proven(index).id(),
        wallet: wallet(MINER),
        lease: proof.lease,
        transcript: proof.transcript,
        transcript_bytes: proof.transcript_bytes,
        output: proof.output,
        output_bytes: proof.output_bytes,
        open: false,
        until: 4,
        challenge,
    }
}

impl Script {
    fn opens(&mut self, auditor: u8, index: u64, finding: Finding) -> Vec<String> {
        let word = Word::Opened { finding, salt: Digest([auditor; 32]) };
        self.hears(auditor, Attestation { epoch: 2, index, lease: lease_of(index), word })
    }

    /// Somebody is asked first, and calls it good.
    fn is_called_good(&mut self, index: u64) -> Vec<String> {
        assert_eq!(self.hears(OPERATOR, picked(index, 4, None)), [""; 0]);
        self.opens(4, index, Finding::Holds)
    }

    fn finds(&mut self, index: u64, finding: Finding) -> Vec<String> {
        let looked = Looked { finding: Ok(finding), lease: lease_of(index), proof: proven(index).into() };
        self.does(Event::Audited { epoch: 2, index, outcome: Ok(looked) })
    }

    /// The challenge that was just handed over.
    fn challenge(&self) -> Link {
        self.last(|effect| match effect {
            Effect::Hand(said @ Statement { body: Body::Challenge(_), .. }) => Some(Link::of(&said.encode())),
            _ => None,
        })
    }

    fn is_refused(&mut self, subject: Link, index: u64, reason: Reason) -> Vec<String> {
        let detail = "no".to_owned();
        self.hears(OPERATOR, Refusal { subject, job: signed_job(index).id(), reason, detail })
    }
}

const CHALLENGES: [&str; 2] = ["challenging", "hand challenge"];

#[test]
fn the_proofs_that_its_key_chooses_are_altered_and_it_says_so() {
    let (mut altered, mut plain) = (0, 0);
    for n in 0..40 {
        let mut script = maker();
        let lease = script.runs(n);
        let is_altered = script.last(|effect| match effect {
            Effect::Infer(run) => Some(run.altered),
            _ => None,
        });
        assert_eq!(is_altered, altering().picks(&lease.lease));
        *if is_altered { &mut altered } else { &mut plain } += 1;
        let delivered = Delivered {
            transcript: Link([1; 32]),
            transcript_bytes: 100,
            output: raw_cid(b"upon a time"),
            output_bytes: 11,
            altered: is_altered.then_some(3_500),
        };
        let lines = script.does(Event::EngineDone { lease: lease.lease, outcome: Ok(delivered) });
        assert_eq!(lines[0] == "altered by 3500", is_altered, "{lines:?}");
        assert!(lines.contains(&"proof submitted".to_owned()));
    }
    assert!(altered > 0 && plain > 20, "{altered} of {}", altered + plain);
    for n in 0..40 {
        let mut script = Script::established(1);
        script.runs(n);
        assert!(script.last(|effect| match effect {
            Effect::Infer(run) => Some(!run.altered),
            _ => None,
        }));
    }
}

#[test]
fn an_altered_proof_that_is_called_good_is_challenged_once() {
    let (mut script, index) = (maker(), proofs(true).next().unwrap());
    let look = format!("look at {index}");
    assert_eq!(script.is_called_good(index), ["the altered one Holds", &look]);
    assert_eq!(script.finds(index, FAR), CHALLENGES);
    let said = script.last(|effect| match effect {
        Effect::Hand(Statement { body: Body::Challenge(said), header, .. }) => {
            Some((said.clone(), header.by))
        }
        _ => None,
    });
    assert_eq!(said, (Challenge { epoch: 2, index, job: signed_job(index).id() }, wallet(MINER)));
    let challenge = script.challenge();
    assert_eq!(script.hears(OPERATOR, picked(index, 5, Some(challenge))), ["another looks"]);
    assert_eq!(script.hears(OPERATOR, picked(index, 5, Some(challenge))), [""; 0]);
    assert_eq!(script.wait(60_000), [""; 0], "it was answered");
    assert_eq!(script.opens(5, index, FAR), [""; 0], "one to one");
    script.hears(OPERATOR, picked(index, 6, None));
    assert_eq!(script.opens(6, index, FAR), ["after the challenge it Differs"]);
    assert_eq!(script.opens(6, index, FAR), [""; 0]);
    // Whatever comes of it.
    let (mut script, index) = (maker(), proofs(true).nth(1).unwrap());
    script.is_called_good(index);
    script.finds(index, FAR);
    let challenge = script.challenge();
    script.hears(OPERATOR, picked(index, 5, Some(challenge)));
    assert_eq!(script.opens(5, index, Finding::Holds), ["after the challenge it Holds"]);
    assert_eq!(script.wait(60_000), [""; 0]);
}

#[test]
fn nothing_else_is_challenged() {
    let mut script = maker();
    let honest = proofs(false).next().unwrap();
    assert_eq!(script.is_called_good(honest), [""; 0], "it is good");
    let mut of_altered = proofs(true);
    let found_out = of_altered.next().unwrap();
    for auditor in [4, 5] {
        assert_eq!(script.hears(OPERATOR, picked(found_out, auditor, None)), [""; 0]);
    }
    assert_eq!(script.opens(4, found_out, FAR), [""; 0], "another is to speak");
    assert_eq!(script.opens(5, found_out, FAR), ["the altered one Differs"]);
    // It looks itself before it pays: another share may have been altered before a restart.
    for finding in [Finding::Holds, NEAR, Finding::Contradicts] {
        let index = of_altered.next().unwrap();
        script.is_called_good(index);
        let why = "no challenge: it is not altered so far that nobody can doubt it";
        assert_eq!(script.finds(index, finding), [why]);
    }
    let (index, gone) = (of_altered.next().unwrap(), Err("gone".into()));
    script.is_called_good(index);
    assert_eq!(script.does(Event::Audited { epoch: 2, index, outcome: gone }), ["no challenge: gone"]);
    let index = of_altered.next().unwrap();
    script.hears(OPERATOR, picked(index, 4, Some(Link([9; 32]))));
    let lines = script.opens(4, index, Finding::Holds);
    assert_eq!(lines, ["the altered one Holds"], "somebody has asked before, perhaps this miner itself");
    // Nobody that was not asked is believed.
    let index = of_altered.next().unwrap();
    script.hears(OPERATOR, picked(index, 4, None));
    assert_eq!(script.opens(5, index, Finding::Holds), [""; 0]);
    script.hears(OPERATOR, opened(5, &Roster::default()));
    assert_eq!(script.opens(4, index, Finding::Holds), [""; 0], "its money is not held any more");
}

#[test]
fn a_challenge_is_said_until_it_is_answered() {
    let (mut script, index) = (maker(), proofs(true).next().unwrap());
    script.is_called_good(index);
    script.finds(index, FAR);
    let first = script.challenge();
    for _ in 0..2 {
        assert_eq!(script.wait(10_000), ["hand challenge"]);
        assert_eq!(script.challenge(), first, "a statement pays once");
    }
    assert_eq!(script.wait(10_000), ["no challenge: the operator does not answer"]);
    assert_eq!(script.wait(60_000), [""; 0]);
}

#[test]
fn who_hears_of_a_finding_before_the_operator_does_challenges_it_a_little_later() {
    let mut of_altered = proofs(true);
    let (mut script, index) = (maker(), of_altered.next().unwrap());
    script.is_called_good(index);
    script.finds(index, FAR);
    let first = script.challenge();
    assert_eq!(script.is_refused(first, index, Reason::NotAuditable), [""; 0]);
    assert_eq!(script.wait(10_000), ["hand challenge"]);
    let second = script.challenge();
    assert_ne!(second, first, "what was refused stays refused");
    assert_eq!(script.hears(OPERATOR, picked(index, 5, Some(second))), ["another looks"]);
    let index = of_altered.next().unwrap();
    script.is_called_good(index);
    script.finds(index, FAR);
    let poor = script.challenge();
    assert_eq!(script.is_refused(poor, index, Reason::NoFunds), ["no challenge: no"]);
    assert_eq!(script.wait(60_000), [""; 0]);
}

#[test]
fn an_epoch_costs_so_many_challenges_at_most() {
    let mut script = maker();
    let most = MAX_CHALLENGES as usize;
    for (n, index) in proofs(true).take(most + 1).enumerate() {
        script.is_called_good(index);
        let lines = script.finds(index, FAR);
        if n < most {
            assert_eq!(lines, CHALLENGES);
            let challenge = script.challenge();
            script.hears(OPERATOR, picked(index, 5, Some(challenge)));
        } else {
            assert_eq!(lines, ["no challenge: this epoch has had its challenges"]);
        }
    }
    script.hears(OPERATOR, opened(4, &Roster::default()));
    let next = proofs(true).nth(most + 1).unwrap();
    script.is_called_good(next);
    assert_eq!(script.finds(next, FAR), CHALLENGES);
}

#[test]
fn it_follows_so_many_audits_of_its_own_and_keeps_half_of_the_room_for_altered_ones() {
    let mut script = maker();
    let half = MAX_INQUESTS / 2;
    proofs(false).take(half + 20).for_each(|index| _ = script.hears(OPERATOR, picked(index, 4, None)));
    assert_eq!(script.miner.own.len(), half);
    proofs(true).take(half + 20).for_each(|index| _ = script.hears(OPERATOR, picked(index, 4, None)));
    assert_eq!(script.miner.own.len(), MAX_INQUESTS);
    script.hears(OPERATOR, opened(5, &Roster::default()));
    assert_eq!(script.miner.own.len(), 0);
    let mut honest = Script::established(1);
    honest.hears(OPERATOR, picked(0, 4, None));
    assert_eq!(honest.miner.own.len(), 0, "who alters nothing has nothing to follow");
}

#[test]
fn once_one_was_found_out_none_is_altered_until_twenty_audits_went_well() {
    let mut script = maker();
    let (lease, job) = (lease_of(proofs(true).next().unwrap()), job(1));
    assert!(script.miner.alters(&lease, &job));
    let found_out = proofs(true).nth(1).unwrap();
    [4, 5].into_iter().for_each(|auditor| _ = script.hears(OPERATOR, picked(found_out, auditor, None)));
    [4, 5].into_iter().for_each(|auditor| _ = script.opens(auditor, found_out, FAR));
    for index in proofs(false).take(SCORE_AUDITS as usize) {
        assert!(!script.miner.alters(&lease, &job));
        script.is_called_good(index);
    }
    assert!(script.miner.alters(&lease, &job));
}
