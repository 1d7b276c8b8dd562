use crate::pool::EpochHeader;
use crate::statement::Receipt;
use std::fmt;

/// The first thing that is wrong with what a pool published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which epoch.
    pub epoch: u64,
    /// In what of it.
    pub subject: Subject,
    /// What.
    pub wrong: Wrong,
}

/// A part of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Its header.
    Header,
    /// A record page, counted from 0.
    Page(u64),
    /// A record, by its number in the ledger.
    Record(u64),
    /// A receipt of it.
    Receipt,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Bytes that are no block of their kind.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// A header that does not follow the one before.
    #[error("it does not follow the header before")]
    Chain,
    /// Other rules than this crate's.
    #[error("it was settled by rules of version {0}, which this version does not know")]
    Settlement(u32),
    /// A page that the header does not name.
    #[error("it is not the page that the header names")]
    OtherPage,
    /// An epoch that does not end in its boundary.
    #[error("its records do not end in its boundary")]
    NoBoundary,
    /// A field of the header that does not follow from the records.
    #[error("its field '{0}' does not follow from the records")]
    Header(&'static str),
    /// A record that cannot come here at all.
    #[error("no such record can come here")]
    Misplaced,
    /// Bytes that are no statement of the kind.
    #[error("what it holds is no {0} of this pool")]
    Statement(&'static str),
    /// Somebody else's signature.
    #[error("the {0} is not signed by {1}")]
    Signature(&'static str, swarm_crypto::address::Address),
    /// A job that cannot be admitted.
    #[error("the job could not be admitted: {0}")]
    Admission(&'static str),
    /// A job that is not in the state that the record needs.
    #[error("the job is not {0}")]
    Stage(&'static str),
    /// A seed that is not drawn from the epoch's secret.
    #[error("the seed of its race does not follow from the epoch's secret")]
    Seed,
    /// A lease that the rules do not give.
    #[error("the lease is not due: {0}")]
    Lease(&'static str),
    /// A lease that another claim should have had.
    #[error("the lease went to {0}, but a claim that it names draws better")]
    Beaten(swarm_crypto::address::Address),
    /// A lease that ended for no reason.
    #[error("the lease did not end like that: {0}")]
    End(&'static str),
    /// An acceptance that does not stand.
    #[error("the proof cannot be accepted: {0}")]
    Acceptance(&'static str),
    /// A job that is closed without cause.
    #[error("the job could not be closed: {0}")]
    Closing(&'static str),
    /// Money that is not there, or comes from nowhere.
    #[error("the money is not right: {0}")]
    Money(&'static str),
    /// Movements of money that are not those due.
    #[error("it moves other money than is due")]
    Transfers,
    /// An audit that does not go as it must.
    #[error("the audit does not go like that: {0}")]
    Audit(&'static str),
    /// A name that moves where it may not.
    #[error("the name belongs to another wallet")]
    Name,
    /// A boundary that does not end its epoch.
    #[error("the boundary is not right: {0}")]
    Boundary(&'static str),
    /// A roster entry that does not follow from the records.
    #[error("the roster's entry of {0} does not follow from the records")]
    Roster(swarm_crypto::address::Address),
    /// Rates that do not follow.
    #[error("the rates do not follow from the epochs before")]
    Rates,
    /// Another header than the one published.
    #[error("it fixes another header than the one that follows from the records")]
    OtherHeader,
    /// A receipt of an epoch that was not read just now.
    #[error("the receipt is of an epoch that was not read")]
    OtherEpoch,
    /// A receipt for what nobody accepted.
    #[error("the records accept no proof of this job")]
    NotAccepted,
    /// A field of a receipt that says something else than the records.
    #[error("the receipt's field '{0}' is not what the records say")]
    Receipt(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Header => write!(f, "epoch {}, header: {}", self.epoch, self.wrong),
            Subject::Page(number) => write!(f, "epoch {}, record page {number}: {}", self.epoch, self.wrong),
            Subject::Record(seq) => write!(f, "epoch {}, record {seq}: {}", self.epoch, self.wrong),
            Subject::Receipt => write!(f, "epoch {}: {}", self.epoch, self.wrong),
        }
    }
}

impl std::error::Error for Fault {}

pub(super) fn row_fault(epoch: u64, seq: u64, wrong: Wrong) -> Fault {
    Fault { epoch, subject: Subject::Record(seq), wrong }
}

pub(super) fn wrong_unless(holds: bool, wrong: impl FnOnce() -> Wrong) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err(wrong()) }
}

macro_rules! first_difference {
    ($due:expr, $found:expr, { $($field:ident),* $(,)? } of $whole:ident) => {{
        // Every field is named, or this does not compile.
        let $whole { $($field: _),* } = $due;
        let pairs = [$((stringify!($field), $due.$field == $found.$field)),*];
        pairs.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
    }};
}

/// The first field of a header that is not as it should be.
pub(super) fn difference(due: &EpochHeader, found: &EpochHeader) -> Option<&'static str> {
    first_difference!(due, found, {
        pool, asset, epoch, previous, first_seq, end_seq, range_hash, counts, volume, proofs_root, leaf_pages,
        record_pages, payouts_root, debits_root, audits_root, totals, secret, settlement, pps_scaled,
        audits_unserved,
    } of EpochHeader)
}

/// The first field of a receipt that is not as it should be.
pub(super) fn receipt_difference(due: &Receipt, found: &Receipt) -> Option<&'static str> {
    first_difference!(due, found, {
        job, proof, client, wallet, epoch, index, leaf, price, miner_part, operator_part, units, mode, asset, output,
        output_bytes, held_until, pps,
    } of Receipt)
}
