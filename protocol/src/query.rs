//! What goes over `/swarmpool/sync/1`: questions to the operator, statements handed over directly, and its answers.
//!
//! Both are plain CBOR frames. Only the [`Signed`] parts of an answer prove anything; the rest is the operator's word,
//! good for a progress line.

use crate::codec::{self, CodecError, JobId};
use crate::money::MicroUsdc;
use crate::race::RosterEntry;
use crate::statement::{MAX_MODELS, MAX_NAME_BYTES, MAX_NODE_BYTES, MAX_STATEMENT_BYTES, Signed};
use crate::streamed::{MAX_PIECE_BYTES, Piece};
use serde::{Deserialize, Serialize};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// The longest query, in bytes.
pub const MAX_QUERY_BYTES: usize = MAX_STATEMENT_BYTES + 1024;
/// The longest answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Most open jobs, and most listings, of one answer.
pub const MAX_OPEN_JOBS: usize = 4;
/// Most statements of one answer about the view.
pub const MAX_VIEW_STATEMENTS: usize = 64;
/// Most nodes of one holder.
pub const MAX_HOLDER_NODES: usize = 4;
/// Longest reason of a refusal or an error, in bytes.
pub const MAX_REASON_BYTES: usize = 512;

/// A question to the operator, or a statement for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
    /// A statement that would otherwise be gossiped to the operator, or `Progress`. Answered by `Taken` or `Refused`.
    Hand(Signed),
    /// Which jobs past their claim windows could this wallet claim? Answered by `Jobs`.
    OpenJobs {
        /// Who asks; with the epoch it decides where in the queue the answer begins ([`crate::race::queue_start`]).
        wallet: Address,
        /// Models that it serves; at most [`MAX_MODELS`].
        models: Vec<String>,
    },
    /// What became of a job? Answered by `Fate`.
    Job {
        /// Which.
        job: JobId,
    },
    /// The roster entry of a wallet in the open epoch. Answered by `Roster`.
    Roster {
        /// Whose.
        wallet: Address,
    },
    /// The pool as it is now. Answered by `Pool`.
    Beacon,
    /// The client's statement of an open job. Answered by `Snapshot`.
    Snapshot {
        /// Which.
        job: JobId,
    },
    /// The newest sealed epoch. Answered by `Sealed`.
    Sealed,
    /// The balances of a wallet. Answered by `Account`.
    Account {
        /// Whose.
        wallet: Address,
    },
    /// A page of what there is to know of live miners and open jobs. Answered by `View`.
    View {
        /// Where the page begins.
        from: ViewPlace,
    },
    /// Who runs a job, for those who want to read along. Answered by `Holder`.
    Holder {
        /// Which.
        job: JobId,
    },
    /// What has been made of a job so far; asked of the miner that holds it, not of the operator. Answered by `Stream`,
    /// as soon as there is more, and empty if there is none for a while.
    Stream {
        /// Which.
        job: JobId,
        /// Bytes of the output that the asker has.
        from: u64,
    },
}

/// A place in the pool as [`Query::View`] reads it: live miners by wallet, then leased jobs by id, then pending jobs as
/// they are queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ViewPlace {
    /// Among the miners.
    Miners {
        /// The last one read; none at the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Address>,
    },
    /// Among the leased jobs.
    Leased {
        /// The last one read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<JobId>,
    },
    /// Among the pending jobs.
    Pending {
        /// The last one read: the number of its model, and of the record that listed it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<(u32, u64)>,
    },
}

impl ViewPlace {
    /// Where the first page begins.
    pub const START: Self = Self::Miners { after: None };
}

/// The operator's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The statement handed over was valid, new or known; what it led to is said by statements.
    Taken,
    /// The statement handed over goes no further, and why.
    Refused(String),
    /// Listings of at most [`MAX_OPEN_JOBS`] entries in all, each open to claims at once.
    Jobs(Vec<Signed>),
    /// What became of the job.
    Fate(Fate),
    /// The wallet's roster entry, if it has one.
    Roster(Option<RosterEntry>),
    /// The pool as it is now.
    Pool {
        /// The operator's latest `Beacon`.
        beacon: Signed,
        /// The `EpochOpened` of the open epoch.
        opened: Signed,
    },
    /// The client's statement, if the job is open.
    Snapshot(Option<Signed>),
    /// The operator's newest `EpochSealed`, if an epoch is sealed.
    Sealed(Option<Signed>),
    /// A wallet's balances.
    Account(Balances),
    /// A page of the view.
    View {
        /// Heartbeats, leases, jobs and listings; at most [`MAX_VIEW_STATEMENTS`].
        statements: Vec<Signed>,
        /// Where the next page begins; none after the last one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<ViewPlace>,
    },
    /// Where the holder of a job's lease can be asked; none while nobody holds it.
    Holder(Option<Holder>),
    /// What has been made so far; none of a job that does not run here.
    Stream(Option<Piece>),
    /// The question could not be answered, and why.
    Error(String),
}

/// Who runs a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Under which lease.
    pub lease: Digest,
    /// Its wallet.
    pub wallet: Address,
    /// libp2p peer ids from which the wallet has spoken lately; at most [`MAX_HOLDER_NODES`].
    pub nodes: Vec<String>,
}

/// A wallet's balances, in micro-USDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balances {
    /// Free to spend; a client of a test pool starts with its test credit.
    pub free: MicroUsdc,
    /// Bound to open jobs.
    pub reserved: MicroUsdc,
    /// Earned and still held.
    pub held: MicroUsdc,
    /// Earned for good.
    pub payable: MicroUsdc,
}

/// What became of a job, as far as the operator tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fate {
    /// The operator has no such job.
    Unknown,
    /// It waits for a miner.
    Pending {
        /// The attempt it is listed for, from 1.
        attempt: u32,
        /// Pending jobs before it.
        ahead: u64,
    },
    /// A miner works on it.
    Leased {
        /// The lease.
        lease: Digest,
        /// Who holds it.
        wallet: Address,
        /// The holder's name, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The attempt.
        term: u32,
        /// Tokens (or the workload's own steps) reported so far.
        units: u64,
        /// Whether a proof is in and being checked.
        proven: bool,
    },
    /// It is done.
    Accepted {
        /// The operator's `Receipt`.
        receipt: Signed,
        /// The earner's name, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// It was refused, expired, cancelled or unrunnable; nothing was paid.
    Ended {
        /// The operator's `Refusal`.
        refusal: Signed,
    },
}

impl Query {
    /// Its frame.
    pub fn encode(&self) -> Vec<u8> {
        codec::to_row(self)
    }

    /// Reads a frame, refusing what passes the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let query: Self = bounded(bytes, MAX_QUERY_BYTES)?;
        let ok = match &query {
            Query::OpenJobs { models, .. } => {
                models.len() <= MAX_MODELS && models.iter().all(|model| model.len() <= MAX_NAME_BYTES)
            }
            Query::Hand(_)
            | Query::Job { .. }
            | Query::Roster { .. }
            | Query::Beacon
            | Query::Snapshot { .. }
            | Query::Sealed
            | Query::Account { .. }
            | Query::View { .. }
            | Query::Holder { .. }
            | Query::Stream { .. } => true,
        };
        within(ok, query)
    }
}

impl Answer {
    /// Its frame.
    pub fn encode(&self) -> Vec<u8> {
        codec::to_row(self)
    }

    /// Reads a frame, refusing what passes the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let answer: Self = bounded(bytes, MAX_ANSWER_BYTES)?;
        let ok = match &answer {
            Answer::Refused(text) | Answer::Error(text) => text.len() <= MAX_REASON_BYTES,
            Answer::Jobs(listings) => listings.len() <= MAX_OPEN_JOBS,
            Answer::View { statements, .. } => statements.len() <= MAX_VIEW_STATEMENTS,
            Answer::Fate(fate) => fate.name().is_none_or(|name| name.len() <= MAX_NAME_BYTES),
            Answer::Holder(holder) => holder.as_ref().is_none_or(|holder| {
                let short = |node: &String| node.len() <= MAX_NODE_BYTES;
                holder.nodes.len() <= MAX_HOLDER_NODES && holder.nodes.iter().all(short)
            }),
            Answer::Stream(piece) => piece.as_ref().is_none_or(|piece| piece.text.len() <= MAX_PIECE_BYTES),
            Answer::Taken
            | Answer::Roster(_)
            | Answer::Pool { .. }
            | Answer::Snapshot(_)
            | Answer::Sealed(_)
            | Answer::Account(_) => true,
        };
        within(ok, answer)
    }
}

impl Fate {
    /// The name of the miner, where one is named.
    pub fn name(&self) -> Option<&str> {
        match self {
            Fate::Leased { name, .. } | Fate::Accepted { name, .. } => name.as_deref(),
            Fate::Unknown | Fate::Pending { .. } | Fate::Ended { .. } => None,
        }
    }
}

fn bounded<T: serde::de::DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, CodecError> {
    if bytes.len() > max {
        return Err(CodecError::Malformed(format!(
            "frame of {} bytes; at most {max} are allowed",
            bytes.len()
        )));
    }
    codec::from_row(bytes)
}

fn within<T>(ok: bool, value: T) -> Result<T, CodecError> {
    if ok { Ok(value) } else { Err(CodecError::Malformed("too many or too long items in the frame".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Link;
    use swarm_crypto::key::Signature;

    fn signed() -> Signed {
        Signed { payload: vec![1, 2, 3], signature: Signature([7; 65]) }
    }

    fn holder(nodes: usize) -> Holder {
        Holder { lease: Digest([4; 32]), wallet: Address([1; 20]), nodes: vec!["node".into(); nodes] }
    }

    fn piece(bytes: usize) -> Piece {
        let (lease, prefix) = (Digest([4; 32]), Digest([5; 32]));
        Piece { lease, from: 9, text: vec![0xff; bytes], units: 3, prefix, ended: true }
    }

    #[test]
    fn queries_come_back_as_they_went() {
        let wallet = Address([1; 20]);
        for query in [
            Query::Hand(signed()),
            Query::OpenJobs { wallet, models: vec!["queenbee-nano".into()] },
            Query::Job { job: Link([3; 32]) },
            Query::Roster { wallet },
            Query::Beacon,
            Query::View { from: ViewPlace::START },
            Query::View { from: ViewPlace::Miners { after: Some(wallet) } },
            Query::View { from: ViewPlace::Leased { after: Some(Link([3; 32])) } },
            Query::View { from: ViewPlace::Pending { after: Some((3, u64::MAX)) } },
            Query::Holder { job: Link([3; 32]) },
            Query::Stream { job: Link([3; 32]), from: 70_000 },
        ] {
            assert_eq!(Query::decode(&query.encode()), Ok(query));
        }
    }

    #[test]
    fn answers_come_back_as_they_went() {
        let wallet = Address([1; 20]);
        let entry = RosterEntry {
            mode: crate::statement::PayoutMode::Solo,
            wallet,
            w: 3,
            fee168: MicroUsdc(5),
            loss24: 1,
            established: true,
            models: vec!["m".into()],
            slots: 2,
        };
        for answer in [
            Answer::Taken,
            Answer::Refused("seen before".into()),
            Answer::Jobs(vec![signed()]),
            Answer::Fate(Fate::Unknown),
            Answer::Fate(Fate::Pending { attempt: 2, ahead: 7 }),
            Answer::Fate(Fate::Leased {
                lease: Digest([4; 32]),
                wallet,
                name: None,
                term: 2,
                units: 40,
                proven: false,
            }),
            Answer::Fate(Fate::Accepted { receipt: signed(), name: Some("alice.eth".into()) }),
            Answer::Fate(Fate::Ended { refusal: signed() }),
            Answer::Roster(Some(entry)),
            Answer::Pool { beacon: signed(), opened: signed() },
            Answer::View { statements: vec![signed()], next: None },
            Answer::View { statements: vec![], next: Some(ViewPlace::Pending { after: None }) },
            Answer::Holder(None),
            Answer::Holder(Some(holder(MAX_HOLDER_NODES))),
            Answer::Stream(None),
            Answer::Stream(Some(piece(MAX_PIECE_BYTES))),
            Answer::Error("busy".into()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn frames_past_a_limit_are_refused() {
        let wallet = Address([1; 20]);
        let many = Query::OpenJobs { wallet, models: vec!["m".into(); MAX_MODELS + 1] };
        let long = Query::OpenJobs { wallet, models: vec!["m".repeat(MAX_NAME_BYTES + 1)] };
        let large = Query::Hand(Signed { payload: vec![0; MAX_QUERY_BYTES], ..signed() });
        for query in [many, long, large] {
            assert!(Query::decode(&query.encode()).is_err());
        }
        for answer in [
            Answer::Jobs(vec![signed(); MAX_OPEN_JOBS + 1]),
            Answer::View { statements: vec![signed(); MAX_VIEW_STATEMENTS + 1], next: None },
            Answer::Holder(Some(holder(MAX_HOLDER_NODES + 1))),
            Answer::Stream(Some(piece(MAX_PIECE_BYTES + 1))),
            Answer::Error("e".repeat(MAX_REASON_BYTES + 1)),
            Answer::Jobs(vec![Signed { payload: vec![0; MAX_ANSWER_BYTES], ..signed() }]),
        ] {
            assert!(Answer::decode(&answer.encode()).is_err());
        }
    }
}
