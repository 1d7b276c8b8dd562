//! Audits: auditors and challengers are heard, and what the fold makes due is recorded.

mod fold;

pub use fold::{AUDIT_EPOCHS, Audit, Paying, Said, Seat, Subject};

use super::record::LeafAt;
use super::{Pool, Record, State};
use crate::Timestamp;
use crate::codec::{JobId, Link};
use crate::finding::AuditEnd;
use crate::money::{Account, MicroUsdc};
use crate::statement::{Attestation, Challenge, Reason, Topic, Verified, Word};
use swarm_crypto::address::Address;

/// An audit costs a quarter of the job's price.
const PRICE_PART: u64 = 4;
/// Most audits of which an auditor is reminded by one heartbeat.
const MAX_REMINDERS: usize = 8;

impl Pool {
    /// Records what audits ask for. The auditors that it names hear of it with their next heartbeats: there may be very
    /// many.
    pub(super) fn settle_audits(&mut self, now: Timestamp) {
        while let Some(due) = self.state.due_audit().cloned() {
            self.write(now, due.clone(), None);
            if let Record::AuditPicked { leaf, auditor } = due {
                self.live.seat_auditor(auditor, leaf);
            }
        }
    }

    fn tell_auditor(&mut self, at: LeafAt, auditor: &Address, now: Timestamp) {
        if let Some(picked) = self.state.audit_picked(at, auditor) {
            self.say(Topic::Proofs, now, picked);
        }
    }

    /// An auditor that is alive is told, and told again, what it is to look at, some at a time and by turns.
    pub(super) fn remind_auditor(&mut self, auditor: &Address, now: Timestamp) {
        let Some(seats) = self.live.seats.get_mut(auditor) else { return };
        seats.retain(|at| {
            self.state.audit(*at).and_then(|audit| audit.seat(auditor)).is_some_and(Seat::is_live)
        });
        let first: Vec<LeafAt> = seats.iter().take(MAX_REMINDERS).copied().collect();
        seats.rotate_left(first.len());
        if first.is_empty() {
            self.live.seats.remove(auditor);
        }
        first.into_iter().for_each(|at| self.tell_auditor(at, auditor, now));
    }

    /// The audits that the next boundary finds open too long are over.
    pub(super) fn close_late_audits(&mut self, now: Timestamp) {
        for leaf in self.state.late_audits().collect::<Vec<_>>() {
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
        let id = verified.id();
        if self.state.is_paid_challenge(leaf, &id) {
            return;
        }
        let refused = self.live.refused.get(&id).cloned();
        let may = match refused {
            Some(refused) => Err(refused),
            None => self.may_pay(leaf, challenge, challenger, now),
        };
        match may {
            Err((reason, why)) => {
                self.live.note_refused(id, reason, why.clone());
                self.refuse(Topic::Proofs, now, id, challenge.job, reason, why);
            }
            Ok((auditor, amount)) => {
                let challenge = verified.signed().clone();
                self.record(now, Record::Challenged { leaf, challenge, challenger, auditor, amount });
                self.live.seat_auditor(auditor, leaf);
                self.tell_auditor(leaf, &auditor, now);
            }
        }
    }

    /// Whether a challenge counts, and then who looks, for how much. Only who could be served has the test credit of the
    /// pool for it.
    fn may_pay(
        &mut self,
        leaf: LeafAt,
        challenge: &Challenge,
        challenger: Address,
        now: Timestamp,
    ) -> Result<(Address, MicroUsdc), (Reason, String)> {
        let worded = |(reason, why): (Reason, &str)| (reason, why.to_owned());
        let due = self.state.challengeable(leaf, &challenge.job, &challenger).map_err(worded)?;
        self.credit_once(challenger, now);
        self.state.affords(&challenger, due.1).map_err(worded)?;
        Ok(due)
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
            let why = "a proof can be challenged where audits are posted, once its epoch is sealed, while its money is held and nobody audits it";
            return Err((Reason::NotAuditable, why));
        };
        let Some(auditor) = self.next_auditor(at) else {
            return Err((Reason::NotAuditable, "nobody is left who could audit it"));
        };
        if auditor == *challenger {
            return Err((Reason::NotAuditable, "you are drawn to audit it yourself"));
        }
        Ok((auditor, audit_price(leaf.price)))
    }

    /// Whether a challenger can pay.
    pub(super) fn affords(
        &self,
        challenger: &Address,
        amount: MicroUsdc,
    ) -> Result<(), (Reason, &'static str)> {
        match self.accounts.amount(&Account::ClientFree(*challenger)) >= amount {
            true => Ok(()),
            false => Err((Reason::NoFunds, "a challenge costs a quarter of the job's price")),
        }
    }

    /// Whether this statement has asked for an audit of the acceptance before.
    pub(super) fn is_paid_challenge(&self, at: LeafAt, statement: &Link) -> bool {
        let seats = self.audit(at).map_or(&[][..], |audit| &audit.seats);
        seats.iter().filter_map(|seat| seat.challenge).any(|paying| paying.challenge == *statement)
    }
}

/// What an audit of a job of this price costs.
pub(super) fn audit_price(price: MicroUsdc) -> MicroUsdc {
    MicroUsdc((price.0 / PRICE_PART).max(1))
}
