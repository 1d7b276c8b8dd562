//! What becomes of this miner's own proofs that it has altered on purpose, and challenges of findings that cannot come from
//! a look.

use super::Miner;
use super::interface::{Challenged, Looked, Story};
use crate::altered::Altering;
use crate::codec::Link;
use crate::finding::{AuditEnd, BEYOND_DOUBT, Finding, Outcome, Score, outcome};
use crate::pool::HELD_EPOCHS;
use crate::statement::{Attestation, AuditPicked, Challenge, Job, Reason, Refusal, Statement, Word};
use crate::{Millis, Timestamp};
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// Most audits of its own proofs that this miner follows at once.
pub const MAX_INQUESTS: usize = 256;
/// Most challenges that it pays for in one epoch.
pub const MAX_CHALLENGES: u32 = 4;
/// How often one is said until it is answered, and how long an answer may take.
const MAX_TRIES: u32 = 3;
const PATIENCE: Millis = Millis::from_secs(10);

/// Audits of this miner's own proofs.
#[derive(Debug, Default)]
pub(super) struct OwnProofs {
    inquests: BTreeMap<Place, Inquest>,
    /// How the audits ended that it heard of: it does not alter so many that it is condemned.
    score: Score,
    /// Challenges of the epoch in which the last was made.
    spent: (u64, u32),
}

/// The epoch that accepted a proof, and its index there.
type Place = (u64, u64);

/// What is heard of one audit.
#[derive(Debug)]
struct Inquest {
    picked: AuditPicked,
    seats: BTreeMap<Address, Seat>,
    stage: Stage,
}

#[derive(Debug)]
struct Seat {
    /// The boundary at which it is too late.
    until: u64,
    found: Option<Finding>,
}

#[derive(Debug)]
enum Stage {
    /// Auditors are to speak.
    Open,
    /// They call an altered proof good: this miner's own look, before it pays, is to show that it is none.
    Doubted,
    /// It asks for another look.
    Asking { said: Option<Box<Statement>>, again_at: Timestamp, tries: u32 },
    /// It has paid for that.
    Paid,
    /// Nothing is left to do, or somebody else has asked.
    Over,
}

impl Inquest {
    /// The challenge that waits for an answer.
    fn said(&self) -> Option<Link> {
        match &self.stage {
            Stage::Asking { said, .. } => said.as_ref().map(|said| Link::of(&said.encode())),
            Stage::Open | Stage::Doubted | Stage::Paid | Stage::Over => None,
        }
    }

    fn of(picked: &AuditPicked) -> Self {
        // Once is enough, also after a restart.
        let stage = if picked.challenge.is_some() { Stage::Over } else { Stage::Open };
        Self { picked: picked.clone(), seats: BTreeMap::new(), stage }
    }

    /// What came of it, once nobody is to speak.
    fn end(&self, epoch: u64) -> Option<AuditEnd> {
        let waits = |seat: &Seat| seat.found.is_none() && seat.until >= epoch;
        if self.seats.values().any(waits) {
            return None;
        }
        let found: Vec<Finding> = self.seats.values().filter_map(|seat| seat.found).collect();
        match outcome(&found) {
            Outcome::Decided(end) => Some(end),
            Outcome::Open(_) => None,
        }
    }
}

impl OwnProofs {
    /// The altered proof that is to be looked at before its finding is challenged.
    pub(super) fn doubted(&self) -> Option<&AuditPicked> {
        let mut inquests = self.inquests.values();
        inquests.find(|inquest| matches!(inquest.stage, Stage::Doubted)).map(|inquest| &inquest.picked)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.inquests.len()
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        let due = self.inquests.values().filter_map(|inquest| match inquest.stage {
            Stage::Asking { again_at, .. } => Some(again_at),
            Stage::Open | Stage::Doubted | Stage::Paid | Stage::Over => None,
        });
        due.min()
    }

    /// What cannot be challenged any more, and whose challenges are over, is forgotten.
    pub(super) fn forget_before(&mut self, epoch: u64) {
        self.inquests.retain(|_, inquest| inquest.picked.until >= epoch);
    }

    /// Counts one more challenge, if the epoch has room for it.
    fn spend(&mut self, epoch: u64) -> bool {
        if self.spent.0 != epoch {
            self.spent = (epoch, 0);
        }
        self.spent.1 += 1;
        self.spent.1 <= MAX_CHALLENGES
    }
}

impl Miner {
    /// Whether the proof of a job is to be altered: none while the last audits of this wallet's proofs, as far as it has heard
    /// of them, have found one out.
    pub(super) fn alters(&self, lease: &Digest, job: &Job) -> bool {
        Altering::is_for(job) && self.is_altered(lease) && !self.own.score.has_missed()
    }

    fn is_altered(&self, lease: &Digest) -> bool {
        self.config.altering.as_ref().is_some_and(|altering| altering.picks(lease))
    }

    /// Somebody is asked to look at a proof of this miner's.
    pub(super) fn hear_own_picked(&mut self, picked: &AuditPicked) {
        if self.config.altering.is_none() {
            return;
        }
        let place = (picked.epoch, picked.index);
        // Of the others only how they end is of interest.
        let room = if self.is_altered(&picked.lease) { MAX_INQUESTS } else { MAX_INQUESTS / 2 };
        let has_room = self.own.inquests.len() < room;
        let inquest = match self.own.inquests.get_mut(&place) {
            None if !has_room => return,
            None => self.own.inquests.entry(place).or_insert_with(|| Inquest::of(picked)),
            Some(inquest) => inquest,
        };
        inquest.picked.until = inquest.picked.until.max(picked.until);
        let seat = inquest.seats.entry(picked.auditor).or_insert(Seat { until: 0, found: None });
        seat.until = picked.until;
        if picked.challenge.is_some() && inquest.said() == picked.challenge {
            inquest.stage = Stage::Paid;
            let (job, auditor) = (picked.job, picked.auditor);
            self.tell(Story::Challenge { job, how: Challenged::Looks(auditor) });
        }
    }

    /// An auditor says what it found; of this miner's own proofs that is told to whoever pays for it.
    pub(super) fn hear_attestation(&mut self, said: &Attestation, by: Address) {
        let Word::Opened { finding, .. } = said.word else { return };
        let Some(inquest) = self.own.inquests.get_mut(&(said.epoch, said.index)) else { return };
        let Some(seat) = inquest.seats.get_mut(&by).filter(|seat| seat.found.is_none()) else { return };
        seat.found = Some(finding);
        let Some(end) = inquest.end(self.duty.epoch()) else { return };
        let (job, lease) = (inquest.picked.job, inquest.picked.lease);
        let is_held = said.epoch + HELD_EPOCHS >= self.duty.epoch();
        let altered = self.config.altering.as_ref().is_some_and(|altering| altering.picks(&lease));
        let is_first = matches!(inquest.stage, Stage::Open);
        let has_paid = matches!(inquest.stage, Stage::Paid);
        let is_doubted = is_first && altered && end == AuditEnd::Holds && is_held;
        inquest.stage = if is_doubted { Stage::Doubted } else { Stage::Over };
        self.own.score.note(end == AuditEnd::Differs);
        if has_paid {
            self.tell(Story::Challenge { job, how: Challenged::Ended(end) });
        } else if altered {
            self.tell(Story::AlteredAudited { job, end });
        }
        self.look();
    }

    /// What this miner's own look at its altered proof brought: it pays only for what others will find too.
    pub(super) fn take_own_look(&mut self, place: Place, outcome: Result<Looked, String>, now: Timestamp) {
        let Some(inquest) = self.own.inquests.get_mut(&place) else { return };
        let picked = inquest.picked.clone();
        inquest.stage = Stage::Over;
        let found = outcome.and_then(|looked| match looked.misled(&picked) {
            Some(how) => Err(how.to_string()),
            None => looked.finding,
        });
        let why = match found {
            Ok(Finding::Differs(mean)) if mean >= BEYOND_DOUBT => {
                if self.own.spend(self.duty.epoch()) {
                    return self.challenge(place, now);
                }
                "this epoch has had its challenges".to_owned()
            }
            Ok(_) => "it is not altered so far that nobody can doubt it".to_owned(),
            Err(why) => why,
        };
        self.tell(Story::Challenge { job: picked.job, how: Challenged::Not(why) });
    }

    fn challenge(&mut self, place: Place, now: Timestamp) {
        let Some(inquest) = self.own.inquests.get_mut(&place) else { return };
        inquest.stage = Stage::Asking { said: None, again_at: now, tries: MAX_TRIES };
        let job = inquest.picked.job;
        self.tell(Story::Challenge { job, how: Challenged::Asked });
    }

    /// A refused challenge; true if it was one. This miner may have heard a finding before the operator has: then another one
    /// is said later.
    pub(super) fn refuse_challenge(&mut self, refusal: &Refusal) -> bool {
        let refused = |inquest: &&mut Inquest| inquest.said() == Some(refusal.subject);
        let Some(inquest) = self.own.inquests.values_mut().find(refused) else { return false };
        match &mut inquest.stage {
            Stage::Asking { said, tries: 1.., .. } if refusal.reason == Reason::NotAuditable => *said = None,
            stage => {
                *stage = Stage::Over;
                let (job, how) = (inquest.picked.job, Challenged::Not(refusal.detail.clone()));
                self.tell(Story::Challenge { job, how });
            }
        }
        true
    }

    /// Says challenges, again where they were not answered: a statement pays once, however often it is said.
    pub(super) fn run_due_challenges(&mut self, now: Timestamp) {
        let due =
            |inquest: &Inquest| matches!(inquest.stage, Stage::Asking { again_at, .. } if again_at <= now);
        let due = self.own.inquests.iter().filter(|(_, inquest)| due(inquest));
        for place in due.map(|(place, _)| *place).collect::<Vec<_>>() {
            self.say_challenge(place, now);
        }
    }

    fn say_challenge(&mut self, (epoch, index): Place, now: Timestamp) {
        let Some(inquest) = self.own.inquests.get(&(epoch, index)) else { return };
        let job = inquest.picked.job;
        let fresh = self.state(Challenge { epoch, index, job }, now);
        let Some(inquest) = self.own.inquests.get_mut(&(epoch, index)) else { return };
        let Stage::Asking { said, again_at, tries } = &mut inquest.stage else { return };
        if let Some(left) = tries.checked_sub(1) {
            let challenge = said.get_or_insert_with(|| Box::new(fresh));
            (*again_at, *tries) = (now + PATIENCE, left);
            let challenge = Statement::clone(challenge);
            self.hand(challenge);
        } else {
            inquest.stage = Stage::Over;
            let how = Challenged::Not("the operator does not answer".to_owned());
            self.tell(Story::Challenge { job, how });
        }
    }
}
