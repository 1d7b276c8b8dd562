//! The embedded ledger: one redb file, two-phase commits, one fsynced commit per batch.

use super::run::{self, Run};
use super::{Ledger, LedgerError, NO_RECORD, Visit, check_append, check_checkpoint};
use crate::storage::crash::crash_point;
use crate::storage::disk::{DiskError, open_database, survive_damage};
use crate::storage::snapshot::{Snapshot, copy_table};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, WriteTransaction,
};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use swarm_crypto::digest::{Context, Digest, derive};

const FORMAT: u32 = 4;
const CACHE_BYTES: usize = 32 << 20;
const HASH_BYTES: usize = 32;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-meta");
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger-records");
const CHECKPOINT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-checkpoint");
const META_FORMAT: &str = "format";
const META_POOL: &str = "pool";
const LATEST: &str = "latest";

/// A [`Ledger`] in one file; a row is a run of records, under the number of its first.
#[derive(Debug)]
pub struct RedbLedger {
    database: Database,
    path: PathBuf,
    next_seq: u64,
    rows: u64,
    head: Digest,
    checkpoint: Option<Checkpoint>,
}

/// Where the stored checkpoint stands and the hash of the record before it.
#[derive(Debug, Clone, Copy)]
struct Checkpoint {
    seq: u64,
    anchor: Digest,
}

impl RedbLedger {
    /// Opens or creates the ledger of the pool with this id and checks its chain from the last checkpoint on.
    pub fn open(path: &Path, pool: &[u8; 32]) -> Result<Self, LedgerError> {
        let database = open_database(path, CACHE_BYTES)?;
        survive_damage(path, || Self::start(database, path, pool))
    }

    /// The same over any storage, for crash tests.
    pub fn with_backend(backend: impl StorageBackend, pool: &[u8; 32]) -> Result<Self, LedgerError> {
        let path = Path::new("the ledger's storage");
        survive_damage(path, || {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)
                .map_err(|error| DiskError::database(path, error))?;
            Self::start(database, path, pool)
        })
    }

    fn start(database: Database, path: &Path, pool: &[u8; 32]) -> Result<Self, LedgerError> {
        let mut ledger =
            Self { database, path: path.to_owned(), next_seq: 0, rows: 0, head: NO_RECORD, checkpoint: None };
        ledger.identify(pool)?;
        (ledger.next_seq, ledger.rows) = ledger.db(|ledger| count(&ledger.database.begin_read()?))?;
        ledger.checkpoint = ledger.read_checkpoint()?.map(|(checkpoint, _)| checkpoint);
        let from = ledger.checkpoint.map_or(0, |checkpoint| checkpoint.seq);
        ledger.head = ledger.walk(from, &mut |_, _| Ok(()))?;
        Ok(ledger)
    }

    /// Writes the meta table of a new file, or refuses the file of another format or pool.
    fn identify(&self, pool: &[u8; 32]) -> Result<(), LedgerError> {
        if self.db(|ledger| is_empty(&ledger.database.begin_read()?))? {
            return self.db(|ledger| {
                let transaction = ledger.begin()?;
                {
                    let mut meta = transaction.open_table(META)?;
                    meta.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice())?;
                    meta.insert(META_POOL, pool.as_slice())?;
                    transaction.open_table(RECORDS)?;
                    transaction.open_table(CHECKPOINT)?;
                }
                Ok(transaction.commit()?)
            });
        }
        let (format, found) = self.db(|ledger| read_meta(&ledger.database.begin_read()?))?;
        if format != FORMAT.to_be_bytes() {
            let found = <[u8; 4]>::try_from(format.as_slice()).map_or(0, u32::from_be_bytes);
            return Err(LedgerError::OtherFormat { path: self.path.clone(), known: FORMAT, found });
        }
        match found == pool {
            true => Ok(()),
            false => Err(LedgerError::OtherPool {
                path: self.path.clone(),
                expected: hex::encode(pool),
                found: hex::encode(found),
            }),
        }
    }

    /// Visits the records from `from` on, proving each run against the one before; returns the last hash.
    fn walk(&self, from: u64, f: &mut Visit<'_>) -> Result<Digest, LedgerError> {
        let (start, mut previous) = self.db(|ledger| {
            let records = ledger.database.begin_read()?.open_table(RECORDS)?;
            let row = records.range(..=from)?.next_back().transpose()?;
            Ok(row.map_or((0, NO_RECORD), |(key, row)| {
                (key.value(), Run::decode(row.value()).map_or(NO_RECORD, |run| run.anchor))
            }))
        })?;
        let mut expected = start;
        let rows = self.db(|ledger| {
            let records = ledger.database.begin_read()?.open_table(RECORDS)?;
            Ok(records.range(start..)?)
        })?;
        for row in rows {
            let (key, value) = row.map_err(|error| DiskError::database(&self.path, error))?;
            let run = Run::decode(value.value())
                .filter(|run| key.value() == expected && run.anchor == previous && run.is_whole())
                .ok_or_else(|| self.broken(expected))?;
            for record in run.records {
                if expected >= from {
                    f(expected, record)?;
                }
                expected += 1;
            }
            previous = run.end;
        }
        match expected >= self.next_seq {
            true => Ok(previous),
            false => Err(self.broken(expected)),
        }
    }

    fn hash_before(&self, seq: u64) -> Result<Digest, LedgerError> {
        match seq.checked_sub(1) {
            None => Ok(NO_RECORD),
            Some(before) => self.hash_at(before)?.ok_or_else(|| self.broken(before)),
        }
    }

    fn broken(&self, seq: u64) -> LedgerError {
        self.damaged(format!("record {seq} is missing, or it or one soon after it breaks the chain"))
    }

    /// The stored checkpoint, unless there is none, it is damaged, or it is not about this chain.
    fn read_checkpoint(&self) -> Result<Option<(Checkpoint, Vec<u8>)>, LedgerError> {
        let Some(row) = self.db(|ledger| {
            let table = ledger.database.begin_read()?.open_table(CHECKPOINT)?;
            Ok(table.get(LATEST)?.map(|value| value.value().to_vec()))
        })?
        else {
            return Ok(None);
        };
        let Some((checkpoint, bytes)) = decode_checkpoint(&row) else {
            tracing::warn!(path = %self.path.display(), "the checkpoint is damaged; replaying all records instead");
            return Ok(None);
        };
        if checkpoint.seq > self.next_seq || self.hash_before(checkpoint.seq)? != checkpoint.anchor {
            return Err(self.damaged(format!(
                "its checkpoint at {} is not about its {} records",
                checkpoint.seq, self.next_seq
            )));
        }
        Ok(Some((checkpoint, bytes)))
    }

    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }

    fn db<T>(&self, run: impl FnOnce(&Self) -> Result<T, redb::Error>) -> Result<T, LedgerError> {
        run(self).map_err(|error| DiskError::database(&self.path, error).into())
    }

    fn damaged(&self, reason: String) -> LedgerError {
        DiskError::damaged(&self.path, reason).into()
    }
}

impl Ledger for RedbLedger {
    fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
        check_append(expected_seq, self.next_seq, batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let end = self.db(|ledger| {
            let transaction = ledger.begin()?;
            let end = insert(&transaction, expected_seq, ledger.rows, ledger.head, batch)?;
            crash_point("before-commit");
            transaction.commit()?;
            Ok(end)
        });
        let (rows, head) = end?;
        crash_point("after-commit");
        self.next_seq += batch.len() as u64;
        (self.rows, self.head) = (rows, head);
        Ok(())
    }

    fn next_seq(&self) -> u64 {
        self.next_seq
    }

    fn head(&self) -> Digest {
        self.head
    }

    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        match from < self.next_seq {
            true => self.walk(from, f).map(|_| ()),
            false => Ok(()),
        }
    }

    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        check_checkpoint(seq, self.next_seq, bytes)?;
        let checkpoint = Checkpoint { seq, anchor: self.hash_before(seq)? };
        let row = encode_checkpoint(&checkpoint, bytes);
        self.db(|ledger| {
            let transaction = ledger.begin()?;
            transaction.open_table(CHECKPOINT)?.insert(LATEST, row.as_slice())?;
            crash_point("mid-checkpoint");
            Ok(transaction.commit()?)
        })?;
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        match self.checkpoint {
            None => Ok(None),
            Some(_) => Ok(self.read_checkpoint()?.map(|(checkpoint, bytes)| (checkpoint.seq, bytes))),
        }
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, LedgerError> {
        let transaction = self.db(|ledger| Ok(ledger.database.begin_read()?))?;
        Ok(Some(Snapshot::of(transaction, &self.path, copy)))
    }

    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
        let row = self.db(|ledger| {
            let records = ledger.database.begin_read()?.open_table(RECORDS)?;
            Ok(records.range(..=seq)?.next_back().transpose()?)
        })?;
        let Some((first, row)) = row else { return Ok(None) };
        let run = Run::decode(row.value()).ok_or_else(|| self.broken(first.value()))?;
        Ok(usize::try_from(seq - first.value()).ok().and_then(|place| run.hash_at(place)))
    }
}

fn copy(from: &ReadTransaction, to: &Database) -> Result<(), redb::Error> {
    copy_table(from, to, META, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))?;
    copy_table(from, to, CHECKPOINT, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))?;
    copy_table(from, to, RECORDS, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))
}

/// The number of rows then, and the last hash.
fn insert(
    transaction: &WriteTransaction,
    mut seq: u64,
    mut rows: u64,
    mut head: Digest,
    batch: &[Vec<u8>],
) -> Result<(u64, Digest), redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut end = records.upper_bound_mut(Bound::<u64>::Unbounded)?;
    for run in run::runs(batch) {
        let (row, hash) = run::encode(rows, &head, run);
        end.insert_before(seq, row.as_slice())?;
        (seq, rows, head) = (seq + run.len() as u64, rows + 1, hash);
    }
    end.close()?;
    Ok((rows, head))
}

/// The number of records, which is also the number of the next, and of rows.
fn count(transaction: &ReadTransaction) -> Result<(u64, u64), redb::Error> {
    let records = transaction.open_table(RECORDS)?;
    let rows = records.len()?;
    let Some((first, row)) = records.last()? else { return Ok((0, rows)) };
    match Run::decode(row.value()).filter(|run| run.number.checked_add(1) == Some(rows)) {
        Some(run) => Ok((first.value().saturating_add(run.records.len() as u64), rows)),
        None => {
            Err(redb::Error::Corrupted(format!("of its records, some are missing before {}", first.value())))
        }
    }
}

fn is_empty(transaction: &ReadTransaction) -> Result<bool, redb::Error> {
    Ok(transaction.list_tables()?.next().is_none() && transaction.list_multimap_tables()?.next().is_none())
}

fn read_meta(transaction: &ReadTransaction) -> Result<(Vec<u8>, Vec<u8>), redb::Error> {
    let meta = transaction.open_table(META)?;
    let read = |name| -> Result<Vec<u8>, redb::Error> {
        Ok(meta.get(name)?.map(|value| value.value().to_vec()).unwrap_or_default())
    };
    Ok((read(META_FORMAT)?, read(META_POOL)?))
}

/// The digest of all that follows it, the place, the hash of the record before, and the bytes.
fn encode_checkpoint(checkpoint: &Checkpoint, bytes: &[u8]) -> Vec<u8> {
    let seq = checkpoint.seq.to_be_bytes();
    let mut row = [&[0; HASH_BYTES], seq.as_slice(), checkpoint.anchor.as_bytes(), bytes].concat();
    let digest = derive(Context::Checkpoint, &row[HASH_BYTES..]);
    row[..HASH_BYTES].copy_from_slice(digest.as_bytes());
    row
}

fn decode_checkpoint(row: &[u8]) -> Option<(Checkpoint, Vec<u8>)> {
    let (digest, covered) = row.split_first_chunk::<HASH_BYTES>()?;
    let (seq, rest) = covered.split_first_chunk::<8>()?;
    let (anchor, bytes) = rest.split_first_chunk::<HASH_BYTES>()?;
    let checkpoint = Checkpoint { seq: u64::from_be_bytes(*seq), anchor: Digest(*anchor) };
    (derive(Context::Checkpoint, covered).as_bytes() == digest).then(|| (checkpoint, bytes.to_vec()))
}
