//! The embedded ledger: one redb file, two-phase commits, one fsynced commit per batch.

use super::run::{self, Run};
use super::{
    Ledger, LedgerError, NO_RECORD, Visit, check_append, check_checkpoint, check_dropped, check_from,
};
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

const FORMAT: u32 = 5;
/// The same without dropped records and with one checkpoint: opening it makes it one of [`FORMAT`].
const FORMAT_BEFORE: u32 = 4;
const CACHE_BYTES: usize = 32 << 20;
const HASH_BYTES: usize = 32;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-meta");
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger-records");
const CHECKPOINT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-checkpoint");
const META_FORMAT: &str = "format";
const META_POOL: &str = "pool";
const META_BASE: &str = "base";
/// Where the two checkpoints are, the newer in either.
const SLOTS: [&str; 2] = ["latest", "other"];
/// Rows that are dropped in one commit.
const MAX_DROPPED_ROWS: u64 = 64;

/// A [`Ledger`] in one file; a row is a run of records, under the number of its first.
#[derive(Debug)]
pub struct RedbLedger {
    database: Database,
    path: PathBuf,
    next_seq: u64,
    rows: u64,
    head: Digest,
    base: Base,
    checkpoints: [Option<Checkpoint>; 2],
}

/// Where the records begin that were not dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Base {
    seq: u64,
    /// Rows that were dropped.
    rows: u64,
    /// The hash of the record before.
    anchor: Digest,
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
        let mut ledger = Self {
            database,
            path: path.to_owned(),
            next_seq: 0,
            rows: 0,
            head: NO_RECORD,
            base: Base::GENESIS,
            checkpoints: [None; 2],
        };
        ledger.identify(pool)?;
        ledger.look()?;
        Ok(ledger)
    }

    /// Finds out what is there, and checks its chain from the newest checkpoint on.
    fn look(&mut self) -> Result<(), LedgerError> {
        self.base = self.db(|ledger| read_base(&ledger.database.begin_read()?))?;
        (self.next_seq, self.rows) = self.db(|ledger| count(&ledger.database.begin_read()?, &ledger.base))?;
        for (place, slot) in SLOTS.iter().enumerate() {
            self.checkpoints[place] = self.read_checkpoint(slot)?.map(|(checkpoint, _)| checkpoint);
        }
        let from = self.newest().map_or(self.base.seq, |(_, checkpoint)| checkpoint.seq);
        self.head = self.walk(from, &mut |_, _| Ok(()))?;
        Ok(())
    }

    /// The newest checkpoint, and the slot that it is in.
    fn newest(&self) -> Option<(usize, Checkpoint)> {
        let kept =
            self.checkpoints.iter().enumerate().filter_map(|(slot, kept)| kept.map(|kept| (slot, kept)));
        kept.max_by_key(|(_, checkpoint)| checkpoint.seq)
    }

    /// Begins an empty ledger where a checkpoint of another ledger of the pool ends.
    pub(super) fn begin_with(&mut self, checkpoint: &[u8]) -> Result<(), LedgerError> {
        check_append(0, self.next_seq, &[])?;
        let Some((Checkpoint { seq, anchor }, _)) = decode_checkpoint(checkpoint) else {
            return Err(LedgerError::Unusable { seq: 0, reason: "the checkpoint is damaged".to_owned() });
        };
        let base = Base { seq, rows: 0, anchor };
        self.db(|ledger| {
            let transaction = ledger.begin()?;
            transaction.open_table(META)?.insert(META_BASE, base.encode().as_slice())?;
            transaction.open_table(CHECKPOINT)?.insert(SLOTS[0], checkpoint)?;
            Ok(transaction.commit()?)
        })?;
        self.look()
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
        let format = <[u8; 4]>::try_from(format.as_slice()).map_or(0, u32::from_be_bytes);
        if format != FORMAT && format != FORMAT_BEFORE {
            return Err(LedgerError::OtherFormat { path: self.path.clone(), known: FORMAT, found: format });
        }
        if found != pool {
            return Err(LedgerError::OtherPool {
                path: self.path.clone(),
                expected: hex::encode(pool),
                found: hex::encode(found),
            });
        }
        if format == FORMAT_BEFORE {
            self.db(|ledger| {
                let transaction = ledger.begin()?;
                transaction.open_table(META)?.insert(META_FORMAT, FORMAT.to_be_bytes().as_slice())?;
                Ok(transaction.commit()?)
            })?;
            tracing::info!(
                "{}: ledger format {FORMAT_BEFORE} is {FORMAT} now; older versions cannot read it any more",
                self.path.display()
            );
        }
        Ok(())
    }

    /// The newest checkpoint as another ledger takes it, and its place.
    pub(super) fn newest_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        let Some((slot, _)) = self.newest() else { return Ok(None) };
        let read = self.read_checkpoint(SLOTS[slot])?;
        Ok(read.map(|(checkpoint, bytes)| (checkpoint.seq, encode_checkpoint(&checkpoint, &bytes))))
    }

    /// Visits the records from `from` on, proving each run against the one before; returns the last hash.
    fn walk(&self, from: u64, f: &mut Visit<'_>) -> Result<Digest, LedgerError> {
        let (start, mut previous) = self.db(|ledger| {
            let records = ledger.database.begin_read()?.open_table(RECORDS)?;
            let row = records.range(..=from)?.next_back().transpose()?;
            let base = (ledger.base.seq, ledger.base.anchor);
            Ok(row.filter(|(key, _)| key.value() != ledger.base.seq).map_or(base, |(key, row)| {
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

    /// The checkpoint of a slot, unless there is none or it is damaged; refuses one that is not about this chain.
    fn read_checkpoint(&self, slot: &str) -> Result<Option<(Checkpoint, Vec<u8>)>, LedgerError> {
        let Some(row) = self.db(|ledger| {
            let table = ledger.database.begin_read()?.open_table(CHECKPOINT)?;
            Ok(table.get(slot)?.map(|value| value.value().to_vec()))
        })?
        else {
            return Ok(None);
        };
        let Some((checkpoint, bytes)) = decode_checkpoint(&row) else {
            tracing::warn!(path = %self.path.display(), "a checkpoint is damaged; more records are replayed instead");
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

    fn first_seq(&self) -> u64 {
        self.base.seq
    }

    fn head(&self) -> Digest {
        self.head
    }

    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        check_from(from, self.base.seq)?;
        match from < self.next_seq {
            true => self.walk(from, f).map(|_| ()),
            false => Ok(()),
        }
    }

    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        check_checkpoint(seq, self.next_seq, bytes)?;
        let slot = match self.newest() {
            Some((_, newest)) if newest.seq >= seq => return Ok(()),
            Some((slot, _)) => 1 - slot,
            None => 0,
        };
        let checkpoint = Checkpoint { seq, anchor: self.hash_before(seq)? };
        let row = encode_checkpoint(&checkpoint, bytes);
        self.db(|ledger| {
            let transaction = ledger.begin()?;
            transaction.open_table(CHECKPOINT)?.insert(SLOTS[slot], row.as_slice())?;
            crash_point("mid-checkpoint");
            Ok(transaction.commit()?)
        })?;
        self.checkpoints[slot] = Some(checkpoint);
        Ok(())
    }

    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        let Some((slot, _)) = self.newest() else { return Ok(None) };
        Ok(self.read_checkpoint(SLOTS[slot])?.map(|(checkpoint, bytes)| (checkpoint.seq, bytes)))
    }

    fn compact(&mut self, seq: u64, last: Digest) -> Result<u64, LedgerError> {
        let [Some(one), Some(other)] = self.checkpoints else { return Ok(self.base.seq) };
        if seq > self.base.seq {
            check_dropped(seq, self.hash_at(seq - 1)?, last)?;
        }
        let before = seq.min(one.seq).min(other.seq);
        self.base = self.db(|ledger| {
            let transaction = ledger.begin()?;
            let base = drop_rows(&transaction, ledger.base, before)?;
            crash_point("mid-compaction");
            match base == ledger.base {
                true => transaction.abort()?,
                false => transaction.commit()?,
            }
            Ok(base)
        })?;
        crash_point("after-compaction");
        Ok(self.base.seq)
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
        let Some((first, row)) = row else {
            return Ok((seq.checked_add(1) == Some(self.base.seq)).then_some(self.base.anchor));
        };
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

/// Drops rows whose records are all before `before`; says where the rest begins.
fn drop_rows(transaction: &WriteTransaction, mut base: Base, before: u64) -> Result<Base, redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    for _ in 0..MAX_DROPPED_ROWS {
        let next = match records.first()? {
            Some((first, row)) => Run::decode(row.value()).filter(|_| first.value() == base.seq).map(|run| {
                Base { seq: base.seq + run.records.len() as u64, rows: base.rows + 1, anchor: run.end }
            }),
            None => break,
        };
        match next {
            Some(next) if next.seq <= before => base = next,
            Some(_) => break,
            None => return Err(redb::Error::Corrupted(format!("record {} is missing", base.seq))),
        }
        records.pop_first()?;
    }
    transaction.open_table(META)?.insert(META_BASE, base.encode().as_slice())?;
    Ok(base)
}

/// The number of the next record, and of rows, dropped ones too.
fn count(transaction: &ReadTransaction, base: &Base) -> Result<(u64, u64), redb::Error> {
    let records = transaction.open_table(RECORDS)?;
    let rows = base.rows + records.len()?;
    let Some((first, row)) = records.last()? else { return Ok((base.seq, rows)) };
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

impl Base {
    const GENESIS: Self = Self { seq: 0, rows: 0, anchor: NO_RECORD };

    fn encode(&self) -> Vec<u8> {
        [self.seq.to_be_bytes().as_slice(), &self.rows.to_be_bytes(), self.anchor.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (seq, rest) = bytes.split_first_chunk()?;
        let (rows, anchor) = rest.split_first_chunk()?;
        let anchor = Digest(anchor.try_into().ok()?);
        Some(Self { seq: u64::from_be_bytes(*seq), rows: u64::from_be_bytes(*rows), anchor })
    }
}

fn read_base(transaction: &ReadTransaction) -> Result<Base, redb::Error> {
    match transaction.open_table(META)?.get(META_BASE)? {
        None => Ok(Base::GENESIS),
        Some(bytes) => Base::decode(bytes.value())
            .ok_or_else(|| redb::Error::Corrupted("it does not say where it begins".to_owned())),
    }
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
