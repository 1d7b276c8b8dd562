//! A ledger that several operator processes share: the log is on Redis, and each process keeps a copy of all that it has
//! relied on in a file of its own.
//!
//! Reading is from the copy. An append goes to Redis first, where of two writers one is refused, then to the copy. A
//! Redis that lost records that the copy has is not believed, and [`RedisLedger::repair`] gives them back to it.

use super::redis_log::{RedisConfig, RedisLog, Tail};
use super::run::{self, Run};
use super::{Ledger, LedgerError, RedbLedger, Visit, check_append};
use crate::storage::crash::crash_point;
use crate::storage::snapshot::Snapshot;
use std::path::Path;
use swarm_crypto::digest::Digest;

/// Runs read from Redis at once.
const READ_AT_ONCE: usize = 64;
/// The largest checkpoint that is kept on Redis too, in bytes.
const MAX_SHARED_CHECKPOINT_BYTES: usize = 64 << 20;
/// Records given back to Redis at once.
const REPAIR_AT_ONCE: usize = 4096;

/// A [`Ledger`] on Redis.
#[derive(Debug)]
pub struct RedisLedger {
    log: RedisLog,
    copy: RedbLedger,
}

impl RedisLedger {
    /// Connects, and opens or creates the copy. Says nothing yet about whether the two agree: [`RedisLedger::follow`] does.
    /// An empty copy of a log that has dropped its beginning begins with the log's checkpoint.
    pub fn open(config: RedisConfig, copy: &Path, pool: &[u8; 32]) -> Result<Self, LedgerError> {
        let (mut log, mut copy) = (RedisLog::open(config, pool)?, RedbLedger::open(copy, pool)?);
        if copy.next_seq() == 0 && log.first_seq()? > 0 {
            let missing = || LedgerError::Unusable { seq: 0, reason: "Redis has no checkpoint".to_owned() };
            copy.begin_with(&log.checkpoint()?.ok_or_else(missing)?)?;
        }
        Ok(Self { log, copy })
    }

    /// Takes what others have appended into the copy, and calls `f` with each record. Refuses a log that is not the one
    /// that the copy is of.
    pub fn follow(&mut self, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        let tail = self.log.tail()?;
        let (have, head) = (self.copy.next_seq(), self.copy.head());
        if tail.next_seq < have {
            return Err(LedgerError::RecordsLost { next_seq: tail.next_seq, relied_on: have - 1 });
        }
        if tail.next_seq == have && tail.head != head {
            return Err(LedgerError::OtherHistory { seq: have.saturating_sub(1) });
        }
        while self.copy.next_seq() < tail.next_seq {
            let from = self.copy.next_seq();
            let rows = self.log.read(from, READ_AT_ONCE)?;
            match rows.first() {
                None => return Err(LedgerError::OtherHistory { seq: from }),
                Some((first_seq, _)) if *first_seq > from => {
                    return Err(LedgerError::AwayForLong { first_seq: *first_seq, next_seq: from });
                }
                Some(_) => {}
            }
            for (seq, row) in rows {
                let next = self.copy.next_seq();
                let records = self
                    .continued(seq, &row)
                    .ok_or(LedgerError::OtherHistory { seq: next.saturating_sub(1) })?;
                self.copy.append(next, &records)?;
                for (seq, record) in (next..).zip(&records) {
                    f(seq, record)?;
                }
            }
        }
        Ok(())
    }

    /// The records of a row that continue the copy, if they do.
    fn continued(&self, seq: u64, row: &[u8]) -> Option<Vec<Vec<u8>>> {
        let run = Run::decode(row).filter(Run::is_whole)?;
        let known = usize::try_from(self.copy.next_seq().checked_sub(seq)?).ok()?;
        let continues = run.hash_before(known)? == self.copy.head() && known < run.records.len();
        continues.then(|| run.records[known..].iter().map(|record| record.to_vec()).collect())
    }

    /// Becomes the active process; says who is, if it is another.
    pub fn take(&mut self) -> Result<Option<String>, LedgerError> {
        self.log.take()
    }

    /// Is the active process no more, as when it is dropped.
    pub fn leave(&mut self) -> Result<(), LedgerError> {
        self.log.leave()
    }

    /// Gives back to Redis the records that it has lost and the copy has; says how many. What Redis has must be the
    /// beginning of the copy.
    pub fn repair(&mut self) -> Result<u64, LedgerError> {
        let mut tail = self.log.tail()?;
        super::check_from(tail.next_seq, self.copy.first_seq())?;
        let known = match tail.next_seq.checked_sub(1) {
            None => Some(super::NO_RECORD),
            Some(last) => self.copy.hash_at(last)?,
        };
        if known != Some(tail.head) {
            return Err(LedgerError::OtherHistory { seq: tail.next_seq.saturating_sub(1) });
        }
        let (first, mut batch) = (tail.next_seq, Vec::new());
        let Self { log, copy } = self;
        copy.replay(first, &mut |_, record| {
            batch.push(record.to_vec());
            if batch.len() == REPAIR_AT_ONCE {
                tail = push(log, tail, &std::mem::take(&mut batch))?;
            }
            Ok(())
        })?;
        if !batch.is_empty() {
            tail = push(log, tail, &batch)?;
        }
        Ok(tail.next_seq - first)
    }
}

/// Appends records to the log; gives its new end.
fn push(log: &mut RedisLog, from: Tail, batch: &[Vec<u8>]) -> Result<Tail, LedgerError> {
    let (mut seq, mut head, mut rows) = (from.next_seq, from.head, Vec::new());
    for records in run::runs(batch) {
        // Rows of the stream are numbered by their first record.
        let (row, end) = run::encode(seq, &head, records);
        rows.push((seq, row));
        (seq, head) = (seq + records.len() as u64, end);
    }
    let to = Tail { next_seq: seq, head };
    log.append(from, to, &rows)?;
    Ok(to)
}

/// Others need not wait until it is certain that this process is gone.
impl Drop for RedisLedger {
    fn drop(&mut self) {
        // If it cannot be said, its time runs out.
        let _ = self.log.leave();
    }
}

impl Ledger for RedisLedger {
    fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
        check_append(expected_seq, self.copy.next_seq(), batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let from = Tail { next_seq: expected_seq, head: self.copy.head() };
        match push(&mut self.log, from, batch) {
            Err(LedgerError::Conflict { expected, found }) if found < expected => {
                return Err(LedgerError::RecordsLost { next_seq: found, relied_on: expected - 1 });
            }
            other => other?,
        };
        crash_point("after-redis");
        self.copy.append(expected_seq, batch)
    }

    fn next_seq(&self) -> u64 {
        self.copy.next_seq()
    }

    fn head(&self) -> Digest {
        self.copy.head()
    }

    fn first_seq(&self) -> u64 {
        self.copy.first_seq()
    }

    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        self.copy.replay(from, f)
    }

    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        self.copy.save_checkpoint(seq, bytes)?;
        if bytes.len() > MAX_SHARED_CHECKPOINT_BYTES {
            tracing::warn!(
                "a checkpoint of {} bytes is too large for Redis, which drops nothing then",
                bytes.len()
            );
            return Ok(());
        }
        match self.copy.newest_checkpoint()? {
            Some((newest, row)) if newest == seq => self.log.keep(seq, &row),
            _ => Ok(()),
        }
    }

    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        self.copy.load_checkpoint()
    }

    fn compact(&mut self, seq: u64, last: Digest) -> Result<u64, LedgerError> {
        let first = self.copy.compact(seq, last)?;
        crash_point("before-trim");
        self.log.trim(first)?;
        Ok(first)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, LedgerError> {
        self.copy.snapshot()
    }

    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
        self.copy.hash_at(seq)
    }
}
