//! Audits: auditors and challengers are heard, and what the fold makes due is recorded.

mod fold;

pub use fold::{AUDIT_EPOCHS, Audit, Paying, Said, Seat, Subject};

use super::record::LeafAt;
use super::{Pool, Record, State};
use crate::Timestamp;
use crate::codec::JobId;
use crate::finding::AuditEnd;
use crate::money::{Account, MicroUsdc};
use crate::statement::{Attestation, Challenge, Reason, Topic, Verified, Word};
use swarm_crypto::address::Address;

/// An audit costs a quarter of the job's price.
const PRICE_PART: u64 = 4;
/// Most audits of which an auditor is reminded by one heartbeat.
const MAX_REMINDERS: usize = 8;

impl Pool {
    /// Records what audits ask for, and tells the auditors that it names.
    pub(super) fn settle_audits(&mut self, now: Timestamp) {
        while let Some(due) = self.state.due_audit().cloned() {
            self.write(now, due.clone(), None);
            if let Record::AuditPicked { leaf, auditor } = due {
                self.live.seats.entry(auditor).or_default().insert(leaf);
                self.tell_auditor(leaf, &auditor, now);
            }
        }
    }

    fn tell_auditor(&mut self, at: LeafAt, auditor: &Address, now: Timestamp) {
        if let Some(picked) = self.state.audit_picked(at, auditor) {
            self.say(Topic::Proofs, now, picked);
        }
    }

    /// An auditor that is alive is told again what it is to look at.
    pub(super) fn remind_auditor(&mut self, auditor: &Address, now: Timestamp) {
        let Some(seats) = self.live.seats.get_mut(auditor) else { return };
        seats.retain(|at| self.state.audit_picked(*at, auditor).is_some());
        let first: Vec<LeafAt> = seats.iter().take(MAX_REMINDERS).copied().collect();
        if first.is_empty() {
            self.live.seats.remove(auditor);
        }
        first.into_iter().for_each(|at| self.tell_auditor(at, auditor, now));
    }

    /// The audits that the next boundary finds open too long are over.
    pub(super) fn close_late_audits(&mut self, now: Timestamp) {
        for leaf in self.state.late_audits() {
            self.record(now, Record::AuditClosed { leaf, end: AuditEnd::Unserved });
        }
    }

    pub(super) fn handle_attestation(
        &mut self,
        verified: &Verified,
        attestation: &Attestation,
        now: Timestamp,
    ) {
        let at = LeafAt { epoch: attestation.epoch, index: attestation.index };
        let auditor = verified.statement().header.by;
        match self.state.may_attest(at, &auditor, attestation) {
            // Said again, or too early; it will be said again.
            Attesting::Known | Attesting::Early => {}
            Attesting::Never(why) => {
                let job = self.state.find_leaf(at).map_or(verified.id(), |leaf| leaf.job);
                self.refuse(Topic::Proofs, now, verified.id(), job, Reason::NotAuditable, why.to_owned());
            }
            Attesting::Now => {
                let attestation = verified.signed().clone();
                self.record(now, Record::Attested { leaf: at, attestation });
                self.open_if_sealed(at, now);
            }
        }
    }

    /// Once all findings of an audit are sealed their auditors are asked to open them.
    fn open_if_sealed(&mut self, at: LeafAt, now: Timestamp) {
        let Some(audit) = self.state.audit(at).filter(|audit| audit.is_sealed()) else { return };
        let live = audit.seats.iter().filter(|seat| seat.is_live());
        let auditors: Vec<Address> = live.map(|seat| seat.auditor).collect();
        auditors.iter().for_each(|auditor| self.tell_auditor(at, auditor, now));
    }

    pub(super) fn handle_challenge(&mut self, verified: &Verified, challenge: &Challenge, now: Timestamp) {
        let leaf = LeafAt { epoch: challenge.epoch, index: challenge.index };
        let challenger = verified.statement().header.by;
        self.credit_once(challenger, now);
        match self.state.challengeable(leaf, &challenge.job, &challenger) {
            Err((reason, why)) => {
                let (id, job) = (verified.id(), challenge.job);
                self.refuse(Topic::Proofs, now, id, job, reason, why.to_owned());
            }
            Ok((auditor, amount)) => {
                let challenge = verified.signed().clone();
                self.record(now, Record::Challenged { leaf, challenge, challenger, auditor, amount });
                self.live.seats.entry(auditor).or_default().insert(leaf);
                self.tell_auditor(leaf, &auditor, now);
            }
        }
    }
}

/// Whether an attestation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attesting {
    /// It does.
    Now,
    /// It was said before.
    Known,
    /// Another auditor has to seal first.
    Early,
    /// It does not, for this reason.
    Never(&'static str),
}

impl State {
    pub(super) fn may_attest(&self, at: LeafAt, auditor: &Address, attestation: &Attestation) -> Attesting {
        let leaf = self.find_leaf(at).filter(|leaf| leaf.lease == attestation.lease);
        let (Some(leaf), Some(audit)) = (leaf, self.audit(at)) else {
            return Attesting::Never("no audit of such a proof is open");
        };
        let Some(seat) = audit.seat(auditor) else {
            return Attesting::Never("somebody else was drawn to audit this proof");
        };
        match (seat.said, attestation.word) {
            (Said::Nothing, Word::Sealed(_)) => Attesting::Now,
            (Said::Nothing, Word::Opened { .. }) => Attesting::Never("a finding is sealed first"),
            (Said::Sealed(seal), Word::Opened { finding, salt }) => {
                if seal != finding.seal(&self.pool, &leaf.lease, auditor, &salt) {
                    Attesting::Never("that does not open the seal")
                } else if audit.is_sealed() {
                    Attesting::Now
                } else {
                    Attesting::Early
                }
            }
            (Said::Sealed(seal), Word::Sealed(again)) if seal != again => {
                Attesting::Never("the finding is sealed already")
            }
            (Said::Sealed(_) | Said::Opened(_), _) => Attesting::Known,
            (Said::Lapsed, _) => Attesting::Never("it comes too late"),
        }
    }

    /// Who would look at a challenged acceptance, and for how much.
    pub(super) fn challengeable(
        &self,
        at: LeafAt,
        job: &JobId,
        challenger: &Address,
    ) -> Result<(Address, MicroUsdc), (Reason, &'static str)> {
        let leaf = self.find_leaf(at).filter(|leaf| leaf.job == *job && self.may_challenge(at));
        let Some(leaf) = leaf else {
            let why = "a proof can be challenged once its epoch is sealed, while its money is held and nobody audits it";
            return Err((Reason::NotAuditable, why));
        };
        let Some(auditor) = self.next_auditor(at) else {
            return Err((Reason::NotAuditable, "nobody is left who could audit it"));
        };
        let amount = audit_price(leaf.price);
        let free = self.accounts.amount(&Account::ClientFree(*challenger));
        if auditor == *challenger {
            return Err((Reason::NotAuditable, "you are drawn to audit it yourself"));
        }
        if free < amount {
            return Err((Reason::NoFunds, "a challenge costs a quarter of the job's price"));
        }
        Ok((auditor, amount))
    }
}

/// What an audit of a job of this price costs.
pub(super) fn audit_price(price: MicroUsdc) -> MicroUsdc {
    MicroUsdc((price.0 / PRICE_PART).max(1))
}
