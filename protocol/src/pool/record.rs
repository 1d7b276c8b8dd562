use crate::codec::{JobId, Link};
use crate::finding::AuditEnd;
use crate::money::{MicroUsdc, Transfer};
use crate::race::Roster;
use crate::statement::{Asset, EndCause, Signed};
use crate::{Posted, Timestamp, codec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Context, Digest, derive};

/// One row of the ledger: what happened, when, and the money that moved. The pool is the fold of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When, by the operator's clock.
    pub at: Timestamp,
    /// What.
    pub record: Record,
    /// The postings.
    pub transfers: Vec<Transfer>,
}

impl Entry {
    /// The row's bytes: plain CBOR.
    pub fn encode(&self) -> Vec<u8> {
        codec::to_row(self)
    }

    /// Reads a row written by [`Entry::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::from_row(bytes)
    }
}

/// The hash of a row: over the hash of the row before and its own bytes.
pub fn chain_hash(previous: &Digest, row: &[u8]) -> Digest {
    let mut bytes = previous.0.to_vec();
    bytes.extend_from_slice(row);
    derive(Context::Ledger, &bytes)
}

/// What can happen to a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The pool begins; always the first record.
    Genesis(Box<Genesis>),
    /// A client of a test pool got its test credit.
    Credited {
        /// Who.
        client: Address,
    },
    /// A client's money came in.
    Deposited {
        /// Whose.
        client: Address,
        /// How much.
        amount: MicroUsdc,
        /// What it is called where it came from.
        reference: Digest,
    },
    /// A deposit turned out not to be one.
    DepositUndone {
        /// Which.
        reference: Digest,
    },
    /// The operator put money of its own into the reserve.
    ReserveFunded {
        /// How much.
        amount: MicroUsdc,
    },
    /// A job entered the jobpool and is listed, attempt 1.
    Admitted {
        /// The job.
        job: Signed,
        /// Seed of its first draw.
        seed: Digest,
    },
    /// A name is bound to a wallet.
    Bound {
        /// The name.
        name: String,
        /// Whose.
        wallet: Address,
        /// Whether ENS confirmed it.
        confirmed: bool,
    },
    /// A job was leased.
    Leased {
        /// Which job.
        job: JobId,
        /// The attempt.
        term: u32,
        /// To whom.
        wallet: Address,
        /// At the close of which window.
        window: u32,
        /// The best claims considered, best first.
        claims: Vec<Signed>,
        /// When it ends at the latest.
        until: Timestamp,
    },
    /// A lease ended without acceptance and its job is listed again.
    LeaseEnded {
        /// Which job.
        job: JobId,
        /// Why.
        cause: EndCause,
        /// Seed of the next attempt's draw.
        seed: Digest,
    },
    /// A proof was accepted.
    Accepted {
        /// Which job.
        job: JobId,
        /// Under which lease.
        lease: Digest,
        /// The proof.
        proof: Signed,
        /// Verified work units.
        units: u64,
    },
    /// A wallet was drawn to look at an acceptance whose money is held.
    AuditPicked {
        /// Which acceptance.
        leaf: LeafAt,
        /// Who looks.
        auditor: Address,
    },
    /// An auditor sealed what it found, or opened it.
    Attested {
        /// Which acceptance.
        leaf: LeafAt,
        /// What it signed.
        attestation: Signed,
    },
    /// Everybody asked has spoken, or is too late.
    AuditClosed {
        /// Which acceptance.
        leaf: LeafAt,
        /// What came of it.
        end: AuditEnd,
    },
    /// An auditor was paid for what it opened in time.
    AuditPaid {
        /// Which acceptance.
        leaf: LeafAt,
        /// Who looked.
        auditor: Address,
        /// How much.
        amount: MicroUsdc,
    },
    /// Somebody pays for an audit of an acceptance whose money is held.
    Challenged {
        /// Which acceptance.
        leaf: LeafAt,
        /// What it signed.
        challenge: Signed,
        /// Who asked.
        challenger: Address,
        /// Who looks.
        auditor: Address,
        /// How much.
        amount: MicroUsdc,
    },
    /// A challenge was right, or nobody looked: the challenger has its money back.
    ChallengeReturned {
        /// Which acceptance.
        leaf: LeafAt,
        /// Who was right.
        challenger: Address,
        /// How much.
        amount: MicroUsdc,
    },
    /// An acceptance whose money is held was overturned: the client has its money back.
    Overturned {
        /// Which acceptance.
        leaf: LeafAt,
    },
    /// A pending job left the jobpool unanswered; the client has its money back.
    Closed {
        /// Which job.
        job: JobId,
        /// How.
        end: Close,
    },
    /// An epoch ended and the next began.
    Boundary(Box<Boundary>),
    /// An epoch's header is fixed; only then may it be signed.
    HeaderFixed {
        /// Which epoch.
        epoch: u64,
        /// The header's block.
        header: Link,
    },
}

impl Record {
    /// The kind's name.
    pub fn name(&self) -> &'static str {
        match self {
            Record::Genesis(_) => "genesis",
            Record::Credited { .. } => "credited",
            Record::Deposited { .. } => "deposited",
            Record::DepositUndone { .. } => "deposit_undone",
            Record::ReserveFunded { .. } => "reserve_funded",
            Record::Admitted { .. } => "admitted",
            Record::Bound { .. } => "bound",
            Record::Leased { .. } => "leased",
            Record::LeaseEnded { .. } => "lease_ended",
            Record::Accepted { .. } => "accepted",
            Record::AuditPicked { .. } => "audit_picked",
            Record::Attested { .. } => "attested",
            Record::AuditClosed { .. } => "audit_closed",
            Record::AuditPaid { .. } => "audit_paid",
            Record::Challenged { .. } => "challenged",
            Record::ChallengeReturned { .. } => "challenge_returned",
            Record::Overturned { .. } => "overturned",
            Record::Closed { end: Close::Expired, .. } => "expired",
            Record::Closed { end: Close::Cancelled(_), .. } => "cancelled",
            Record::Closed { end: Close::Unrunnable, .. } => "unrunnable",
            Record::Boundary(_) => "boundary",
            Record::HeaderFixed { .. } => "header_fixed",
        }
    }

    /// What clients and miners have signed of it.
    pub fn snapshots(&self) -> impl Iterator<Item = &Signed> {
        let (one, several): (_, &[Signed]) = match self {
            Record::Admitted { job: signed, .. }
            | Record::Accepted { proof: signed, .. }
            | Record::Attested { attestation: signed, .. }
            | Record::Challenged { challenge: signed, .. }
            | Record::Closed { end: Close::Cancelled(signed), .. } => (Some(signed), &[]),
            Record::Leased { claims, .. } => (None, claims),
            Record::Genesis(_)
            | Record::Credited { .. }
            | Record::Deposited { .. }
            | Record::DepositUndone { .. }
            | Record::ReserveFunded { .. }
            | Record::Bound { .. }
            | Record::LeaseEnded { .. }
            | Record::AuditPicked { .. }
            | Record::AuditClosed { .. }
            | Record::AuditPaid { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. }
            | Record::Closed { end: Close::Expired | Close::Unrunnable, .. }
            | Record::Boundary(_)
            | Record::HeaderFixed { .. } => (None, &[]),
        };
        one.into_iter().chain(several)
    }

    /// The job that it names, if it names one.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Record::Admitted { job, .. } => Some(job.id()),
            Record::Leased { job, .. }
            | Record::LeaseEnded { job, .. }
            | Record::Accepted { job, .. }
            | Record::Closed { job, .. } => Some(*job),
            Record::Genesis(_)
            | Record::Credited { .. }
            | Record::Deposited { .. }
            | Record::DepositUndone { .. }
            | Record::ReserveFunded { .. }
            | Record::Bound { .. }
            | Record::AuditPicked { .. }
            | Record::Attested { .. }
            | Record::AuditClosed { .. }
            | Record::AuditPaid { .. }
            | Record::Challenged { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. }
            | Record::Boundary(_)
            | Record::HeaderFixed { .. } => None,
        }
    }

    /// Whether `audits_root` covers it.
    pub fn is_audit(&self) -> bool {
        match self {
            Record::AuditPicked { .. }
            | Record::Attested { .. }
            | Record::AuditClosed { .. }
            | Record::AuditPaid { .. }
            | Record::Challenged { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. } => true,
            Record::Genesis(_)
            | Record::Credited { .. }
            | Record::Deposited { .. }
            | Record::DepositUndone { .. }
            | Record::ReserveFunded { .. }
            | Record::Admitted { .. }
            | Record::Bound { .. }
            | Record::Leased { .. }
            | Record::LeaseEnded { .. }
            | Record::Accepted { .. }
            | Record::Closed { .. }
            | Record::Boundary(_)
            | Record::HeaderFixed { .. } => false,
        }
    }
}

/// An acceptance's place in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafAt {
    /// The epoch that holds it.
    pub epoch: u64,
    /// Its index among the epoch's acceptances.
    pub index: u64,
}

/// How a pending job ends without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Close {
    /// Its `not_after` passed.
    Expired,
    /// The client took it back.
    Cancelled(Signed),
    /// Nobody could run it.
    Unrunnable,
}

/// The pool's constants, and the first epoch's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The pool's name.
    pub name: String,
    /// Its operator.
    pub operator: Address,
    /// Its asset.
    pub asset: Asset,
    /// Hash of the pool secret.
    pub pool_secret_hash: Digest,
    /// `H(s_0)`.
    pub secret_hash: Digest,
    /// Numbers in force in epoch 0.
    pub posted: Posted,
}

/// The end of epoch N, and all that epoch N+1 needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boundary {
    /// N.
    pub epoch: u64,
    /// Sequence number of this record, the last of N's range.
    pub end_seq: u64,
    /// `s_N`, revealed.
    pub secret: Digest,
    /// `H(s_N+1)`.
    pub next_secret_hash: Digest,
    /// The roster of N+1.
    pub roster: Roster,
    /// Numbers in force in N+1.
    pub posted: Posted,
    /// What a million work units are paid in N+1, by model, in micro-USDC.
    pub rates: BTreeMap<String, u64>,
    /// Version of the settlement rules.
    pub settlement: u32,
}

/// A leaf of `proofs_root`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Which job.
    pub job: JobId,
    /// Which proof.
    pub proof: Link,
    /// Who earned.
    pub wallet: Address,
    /// The job's price.
    pub price: MicroUsdc,
    /// Verified work units.
    pub units: u64,
    /// How the miner is paid.
    pub mode: crate::statement::PayoutMode,
}

impl Leaf {
    /// The leaf's hash in the tree.
    pub fn hash(&self) -> Digest {
        swarm_crypto::merkle::leaf(&codec::encode(self))
    }
}
