//! The embedded ledger: one redb file, two-phase commits, one fsynced commit per batch.

use super::{Ledger, LedgerError, NO_RECORD, Visit, chain_hash, check_append, check_checkpoint};
use crate::storage::crash::crash_point;
use crate::storage::disk::{DiskError, open_database, survive_damage};
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, TableDefinition, WriteTransaction,
};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use swarm_crypto::digest::{Context, Digest, derive};

const FORMAT: u32 = 1;
const CACHE_BYTES: usize = 32 << 20;
const HASH_BYTES: usize = 32;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-meta");
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger-records");
const CHECKPOINT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-checkpoint");
const META_FORMAT: &str = "format";
const META_POOL: &str = "pool";
const LATEST: &str = "latest";

/// A [`Ledger`] in one file; a row is the record's hash and then the record.
#[derive(Debug)]
pub struct RedbLedger {
    database: Database,
    path: PathBuf,
    next_seq: u64,
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
            Self { database, path: path.to_owned(), next_seq: 0, head: NO_RECORD, checkpoint: None };
        ledger.identify(pool)?;
        ledger.next_seq = ledger.db(|ledger| count(&ledger.database.begin_read()?))?;
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

    /// Visits the records from `from` on, proving each against the one before; returns the last hash.
    fn walk(&self, from: u64, f: &mut Visit<'_>) -> Result<Digest, LedgerError> {
        let mut previous = self.hash_before(from)?;
        let mut expected = from;
        let rows = self.db(|ledger| {
            let records = ledger.database.begin_read()?.open_table(RECORDS)?;
            Ok(records.range(from..)?)
        })?;
        for row in rows {
            let (key, value) = row.map_err(|error| DiskError::database(&self.path, error))?;
            let (stored, record) = self.split(value.value())?;
            let hash = chain_hash(&previous, record);
            if key.value() != expected || hash != stored {
                return Err(self.damaged(format!("record {expected} is missing or breaks the chain")));
            }
            f(expected, record)?;
            previous = hash;
            expected += 1;
        }
        match expected >= self.next_seq {
            true => Ok(previous),
            false => Err(self.damaged(format!("record {expected} is missing"))),
        }
    }

    fn hash_before(&self, seq: u64) -> Result<Digest, LedgerError> {
        match seq.checked_sub(1) {
            None => Ok(NO_RECORD),
            Some(before) => {
                self.hash_at(before)?.ok_or_else(|| self.damaged(format!("record {before} is missing")))
            }
        }
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

    fn split<'a>(&self, row: &'a [u8]) -> Result<(Digest, &'a [u8]), LedgerError> {
        let (hash, record) = row
            .split_first_chunk::<HASH_BYTES>()
            .ok_or_else(|| self.damaged("a record is cut short".to_owned()))?;
        Ok((Digest(*hash), record))
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
        let head = self.db(|ledger| {
            let transaction = ledger.begin()?;
            let head = insert(&transaction, expected_seq, ledger.head, batch)?;
            crash_point("before-commit");
            transaction.commit()?;
            Ok(head)
        })?;
        crash_point("after-commit");
        self.next_seq += batch.len() as u64;
        self.head = head;
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

    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
        let row = self.db(|ledger| {
            let records = ledger.database.begin_read()?.open_table(RECORDS)?;
            Ok(records.get(seq)?)
        })?;
        row.map(|row| self.split(row.value()).map(|(hash, _)| hash)).transpose()
    }
}

fn insert(
    transaction: &WriteTransaction,
    first: u64,
    previous: Digest,
    batch: &[Vec<u8>],
) -> Result<Digest, redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut end = records.upper_bound_mut(Bound::<u64>::Unbounded)?;
    let mut head = previous;
    let mut row = Vec::new();
    for (seq, record) in (first..).zip(batch) {
        head = chain_hash(&head, record);
        row.clear();
        row.extend_from_slice(head.as_bytes());
        row.extend_from_slice(record);
        end.insert_before(seq, row.as_slice())?;
    }
    end.close()?;
    Ok(head)
}

/// The number of records, which is also the key after the last one.
fn count(transaction: &ReadTransaction) -> Result<u64, redb::Error> {
    let records = transaction.open_table(RECORDS)?;
    let next = records.last()?.map_or(0, |(key, _)| key.value().saturating_add(1));
    match records.len()? == next {
        true => Ok(next),
        false => Err(redb::Error::Corrupted(format!(
            "it holds {} records, but the last one is number {}",
            records.len()?,
            next - 1
        ))),
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
