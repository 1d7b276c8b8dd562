use super::held::HeldLeaf;
use super::record::LeafAt;
use super::{Pool, Record};
use crate::Timestamp;
use crate::codec::JobId;
use crate::money::{Account, MicroUsdc};
use swarm_crypto::address::Address;

/// An audit costs a quarter of the job's price.
const PRICE_PART: u64 = 4;

/// What auditors, and those who challenge a proof, make happen. Acceptances whose money is no longer held are final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEvent {
    /// An auditor has looked and is paid by the operator.
    Served {
        /// At which job's proof.
        job: JobId,
        /// Who.
        auditor: Address,
    },
    /// Somebody pays for an audit; once at a time.
    Challenged {
        /// Of which job's proof.
        job: JobId,
        /// Who.
        challenger: Address,
        /// Who looks.
        auditor: Address,
    },
    /// The challenge was right.
    ChallengeUpheld {
        /// Of which job's proof.
        job: JobId,
        /// Whose.
        challenger: Address,
    },
    /// The proof does not hold: its money goes back.
    Overturned {
        /// Which job's.
        job: JobId,
    },
}

impl Pool {
    pub(super) fn handle_audit(&mut self, event: &AuditEvent, now: Timestamp) {
        let (AuditEvent::Served { job, .. }
        | AuditEvent::Challenged { job, .. }
        | AuditEvent::ChallengeUpheld { job, .. }
        | AuditEvent::Overturned { job }) = event;
        if let Some((leaf, held)) = self.state.held_leaf(job)
            && let Some(record) = self.audit_record(event, leaf, held)
        {
            self.record(now, record);
        }
    }

    fn audit_record(&self, event: &AuditEvent, leaf: LeafAt, held: &HeldLeaf) -> Option<Record> {
        let amount = audit_price(held.price);
        match *event {
            AuditEvent::Served { auditor, .. } => {
                (!held.overturned).then_some(Record::AuditPaid { leaf, auditor, amount })
            }
            AuditEvent::Challenged { challenger, auditor, .. } => {
                let free = self.state.accounts.amount(&Account::ClientFree(challenger));
                let open = self.state.challenged(leaf, challenger).is_some();
                (free >= amount && !open && !held.overturned).then_some(Record::Challenged {
                    leaf,
                    challenger,
                    auditor,
                    amount,
                })
            }
            AuditEvent::ChallengeUpheld { challenger, .. } => {
                let amount = self.state.challenged(leaf, challenger)?;
                Some(Record::ChallengeReturned { leaf, challenger, amount })
            }
            AuditEvent::Overturned { .. } => (!held.overturned).then_some(Record::Overturned { leaf }),
        }
    }
}

/// What an audit of a job of this price costs.
pub(super) fn audit_price(price: MicroUsdc) -> MicroUsdc {
    MicroUsdc((price.0 / PRICE_PART).max(1))
}
