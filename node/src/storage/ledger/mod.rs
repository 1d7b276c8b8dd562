//! An append-only log of records, each chained by hash to the one before.
//!
//! `append` is compare-and-set on the next sequence number, so of two writers that believe they are the
//! only one, one is refused. Sequence numbers start at 0.

mod memory;
mod on_disk;
mod on_redis;
mod redis_log;
pub(in crate::storage) mod run;

pub use memory::MemoryLedger;
pub use on_disk::RedbLedger;
pub use on_redis::RedisLedger;
pub use redis_log::{ACTIVE_FOR, RedisConfig, RedisLog};

use super::disk::DiskError;
use super::snapshot::Snapshot;
use swarm_crypto::digest::{Context, Digest, derive};

/// The largest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 16 << 20;
/// The most records in one batch.
pub const MAX_BATCH_RECORDS: usize = 1 << 16;
/// The most bytes in one batch.
pub const MAX_BATCH_BYTES: usize = 64 << 20;
/// The largest checkpoint, in bytes.
pub const MAX_CHECKPOINT_BYTES: usize = 1 << 30;

/// A durable, hash-chained log of records with two checkpoints, from which what stands elsewhere can be dropped.
pub trait Ledger: Send {
    /// Appends all of `batch` or none of it, durable when it returns; `expected_seq` must be [`Ledger::next_seq`].
    ///
    /// After a disk error it is unknown whether the batch is stored: open the ledger again to find out.
    fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError>;

    /// The sequence number that the next record will get, which is the number of records.
    fn next_seq(&self) -> u64;

    /// The hash of the last record; [`NO_RECORD`] when there is none.
    fn head(&self) -> Digest;

    /// The sequence number of the first record that was not dropped.
    fn first_seq(&self) -> u64;

    /// Calls `f` with each record from `from` on, in order, checking the chain on the way.
    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError>;

    /// Keeps `bytes` as the state after all records before `seq`, beside the checkpoint before it; one that is no newer
    /// than the newest is passed over.
    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError>;

    /// The newest checkpoint that is whole, with the sequence number to replay from.
    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError>;

    /// Drops records before `seq`, the last of which must have the hash `last`, as long as both checkpoints are after
    /// them; at most so many at a call as an append can wait for. Says which record is the first now.
    fn compact(&mut self, seq: u64, last: Digest) -> Result<u64, LedgerError>;

    /// The hash of record `seq`, if there is such a record and it, or the one after it, was not dropped.
    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError>;

    /// The ledger as it is now, to be copied while it goes on; none if it is in no file.
    fn snapshot(&self) -> Result<Option<Snapshot>, LedgerError> {
        Ok(None)
    }
}

/// What [`Ledger::replay`] calls: sequence number and record bytes.
pub type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<(), LedgerError> + 'a;

/// Why the ledger refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "another process wrote to this ledger: the next record was expected at {expected}, it is {found}; only one operator process may be active, stop the other one"
    )]
    Conflict { expected: u64, found: u64 },
    #[error("a {what} of {size} is over the limit of {limit}; nothing was written")]
    TooLarge { what: &'static str, size: usize, limit: usize },
    #[error("a checkpoint at {seq} is past the end of the ledger at {next_seq}; nothing was written")]
    CheckpointPastEnd { seq: u64, next_seq: u64 },
    #[error(
        "{path} is the ledger of another pool ({found}, this one is {expected}); choose another data directory or move that file away"
    )]
    OtherPool { path: std::path::PathBuf, expected: String, found: String },
    #[error(
        "{path} has ledger format {found}, this version reads {known}; use the version of swarm-node that wrote it"
    )]
    OtherFormat { path: std::path::PathBuf, known: u32, found: u32 },
    #[error("record {seq} is not in this ledger any more: its first one is {first_seq}")]
    Dropped { seq: u64, first_seq: u64 },
    #[error("record {seq} cannot be used: {reason}")]
    Unusable { seq: u64, reason: String },
    #[error("Redis at {url} does not answer as it should: {reason}; start it, or correct --redis-url")]
    Redis { url: String, reason: String },
    #[error(
        "{0}, so it can lose what it has acknowledged; set appendonly yes, appendfsync always and maxmemory-policy noeviction, or accept losses with --redis-lossy"
    )]
    LossyRedis(String),
    #[error("another operator process is the active one now: {0}")]
    Deposed(String),
    #[error(
        "the pool halts: Redis ends before record {next_seq}, but records up to {relied_on} were relied on; records {next_seq} to {relied_on} are missing (an older dump, or a replica without the tail, took over): give them back with `swarm-node repair`"
    )]
    RecordsLost { next_seq: u64, relied_on: u64 },
    #[error(
        "the pool halts: Redis holds another history than this process relied on, from record {seq} on; restore the Redis that has the right one, or move this process's ledger.redb and high_water away if it is this one that is wrong"
    )]
    OtherHistory { seq: u64 },
    #[error(
        "Redis has dropped the records before {first_seq} as old, and this process knows only those before {next_seq}: it was away for long; move its ledger.redb and high_water away, and it begins anew with what Redis has"
    )]
    AwayForLong { first_seq: u64, next_seq: u64 },
    #[error("the ledger's writer has stopped; start the node again")]
    Stopped,
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl LedgerError {
    /// Whether freeing space on the disk is the remedy.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_full())
    }
}

/// Refuses a batch that is over one of the limits of this module.
pub fn check_batch(batch: &[Vec<u8>]) -> Result<(), LedgerError> {
    let largest = batch.iter().map(Vec::len).max().unwrap_or(0);
    let total = batch.iter().map(Vec::len).sum();
    check_limit("record", largest, MAX_RECORD_BYTES)?;
    check_limit("batch (records)", batch.len(), MAX_BATCH_RECORDS)?;
    check_limit("batch (bytes)", total, MAX_BATCH_BYTES)
}

/// Rows that are more than one batch takes, in batches.
pub fn batches(rows: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for row in rows {
        let batch: &mut Vec<Vec<u8>> = batches.last_mut().expect("there is a first");
        let fits = batch.len() < MAX_BATCH_RECORDS && bytes + row.len() <= MAX_BATCH_BYTES;
        if fits || batch.is_empty() {
            bytes += row.len();
            batch.push(row);
        } else {
            bytes = row.len();
            batches.push(vec![row]);
        }
    }
    batches
}

fn check_limit(what: &'static str, size: usize, limit: usize) -> Result<(), LedgerError> {
    match size <= limit {
        true => Ok(()),
        false => Err(LedgerError::TooLarge { what, size, limit }),
    }
}

fn check_append(expected: u64, found: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
    match expected == found {
        true => check_batch(batch),
        false => Err(LedgerError::Conflict { expected, found }),
    }
}

fn check_from(seq: u64, first_seq: u64) -> Result<(), LedgerError> {
    match seq >= first_seq {
        true => Ok(()),
        false => Err(LedgerError::Dropped { seq, first_seq }),
    }
}

/// Refuses to drop records that are not the ones that the caller has elsewhere.
fn check_dropped(seq: u64, found: Option<Digest>, last: Digest) -> Result<(), LedgerError> {
    match found == Some(last) {
        true => Ok(()),
        false => Err(LedgerError::Unusable {
            seq: seq.saturating_sub(1),
            reason: "it is not the one that is published; nothing was dropped".to_owned(),
        }),
    }
}

fn check_checkpoint(seq: u64, next_seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
    check_limit("checkpoint", bytes.len(), MAX_CHECKPOINT_BYTES)?;
    match seq <= next_seq {
        true => Ok(()),
        false => Err(LedgerError::CheckpointPastEnd { seq, next_seq }),
    }
}

/// What stands for the hash of the record before the first.
pub const NO_RECORD: Digest = Digest::ZERO;

/// The hash of `record` when `previous` is the hash of the record before it.
pub fn chain_hash(previous: &Digest, record: &[u8]) -> Digest {
    derive(Context::Ledger, &[previous.as_bytes(), record].concat())
}
