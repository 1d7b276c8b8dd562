//! Content by CID, within a quota: what is pinned stays, of the rest the least recently used goes first.
//!
//! Content of jobs is pinned until it is old, everything else that is pinned until it is unpinned. The blocks of the pool's tree are kept beside them, see `kept.rs`.
//!
//! A block that is only `put` is a cached copy and may be gone after a power cut; `pin` and `put_pinned` are
//! durable when they return.

mod changes;
mod kept;
mod stay;

pub use changes::MAX_CHANGED;
pub use kept::{MAX_KEPT_BLOCKS, MAX_KEPT_BYTES};

use super::disk::{DiskError, open_database, survive_damage};
use super::snapshot::{Snapshot, copy_table};
use cid::Cid;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};
use stay::{CONTENT, Stay, pin};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest block, in bytes.
pub const MAX_BLOCK_BYTES: usize = 1 << 20;
/// The most blocks in a store.
pub const MAX_BLOCKS: usize = 1 << 20;
/// The quota, in bytes of content, of a store whose owner states none.
pub const DEFAULT_QUOTA_BYTES: u64 = 4 << 30;

const CACHE_BYTES: usize = 32 << 20;
/// How many cached copies may wait for the disk.
const MAX_UNSYNCED_PUTS: u32 = 64;
const SHA2_256: u64 = 0x12;

const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
/// A block's number in order of arrival and its size.
const ARRIVALS: TableDefinition<'_, &[u8], (u64, u64)> = TableDefinition::new("block-arrivals");
const PINS: TableDefinition<'_, &[u8], ()> = TableDefinition::new("block-pins");
const TREE: TableDefinition<'_, &[u8], ()> = TableDefinition::new("block-tree");
/// Why the store refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlockError {
    #[error(
        "a block of {size} bytes is over the limit of {MAX_BLOCK_BYTES}; store it as several linked blocks"
    )]
    TooLarge { size: usize },
    #[error("the bytes do not match {cid}; fetch them from somebody else")]
    Mismatch { cid: Cid },
    #[error("{cid} is not hashed with sha2-256, the only hash that is accepted")]
    OtherHash { cid: Cid },
    #[error("{cid} is not in the store; fetch it before pinning it")]
    Absent { cid: Cid },
    #[error(
        "no room for {needed} bytes: {pinned} of the {quota} bytes allowed are pinned; unpin what is no longer needed or raise the quota"
    )]
    QuotaFull { needed: u64, pinned: u64, quota: u64 },
    #[error("the pool's tree is too large: {blocks} blocks and {bytes} bytes are kept for it")]
    TreeFull { blocks: usize, bytes: u64 },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl BlockError {
    /// Whether freeing space on the disk is the remedy.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_full())
    }
}

/// A store of blocks for many threads (share it in an `Arc`).
#[derive(Debug)]
pub struct BlockStore {
    database: Database,
    path: PathBuf,
    quota: u64,
    index: Mutex<Index>,
}

/// What a store holds, in bytes of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub pinned_bytes: u64,
    pub quota_bytes: u64,
    pub blocks: usize,
}

/// Sizes, pins and ages of all blocks; ages since the store was opened live only here.
#[derive(Debug, Default)]
struct Index {
    blocks: HashMap<Cid, Entry>,
    evictable: BTreeMap<u64, Cid>,
    bytes: u64,
    pinned_bytes: u64,
    /// Of blocks that are kept for the tree and not pinned.
    kept_bytes: u64,
    kept_blocks: usize,
    next_use: u64,
    unsynced_puts: u32,
    /// For a follower, if there is one.
    changed: Option<changes::Changed>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: u64,
    pinned: bool,
    /// For the tree.
    kept: bool,
}

fn copy(from: &redb::ReadTransaction, to: &Database) -> Result<(), redb::Error> {
    copy_table(from, to, BLOCKS, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))?;
    copy_table(from, to, ARRIVALS, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))?;
    copy_table(from, to, PINS, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))?;
    copy_table(from, to, CONTENT, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))?;
    copy_table(from, to, TREE, &mut |table, key, value| Ok(table.insert(key, value).map(|_| ())?))
}

impl BlockStore {
    /// The store as it is now, to be copied while it goes on.
    pub fn snapshot(&self) -> Result<Snapshot, DiskError> {
        let transaction =
            self.database.begin_read().map_err(|error| DiskError::database(&self.path, error))?;
        Ok(Snapshot::of(transaction, &self.path, copy))
    }

    /// Opens or creates the store in this file, with at most `quota` bytes of content.
    pub fn open(path: &Path, quota: u64) -> Result<Self, BlockError> {
        let database = open_database(path, CACHE_BYTES)?;
        survive_damage(path, || Self::start(database, path, quota))
    }

    /// A store that is gone with the process, for tests.
    pub fn in_memory(quota: u64) -> Result<Self, BlockError> {
        Self::with_backend(InMemoryBackend::new(), quota)
    }

    pub(crate) fn with_backend(backend: impl StorageBackend, quota: u64) -> Result<Self, BlockError> {
        let path = Path::new("the blocks' storage");
        survive_damage(path, || {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)
                .map_err(|error| DiskError::database(path, error))?;
            Self::start(database, path, quota)
        })
    }

    fn start(database: Database, path: &Path, quota: u64) -> Result<Self, BlockError> {
        let index = read_index(&database).map_err(|error| DiskError::database(path, error))?;
        Ok(Self { database, path: path.to_owned(), quota, index: Mutex::new(index) })
    }

    /// Stores a block whose bytes match its CID, evicting unpinned blocks where it needs their room.
    pub fn put(&self, cid: &Cid, bytes: &[u8]) -> Result<(), BlockError> {
        self.insert(&[(*cid, bytes)], Stay::AsLongAsThereIsRoom)
    }

    /// Stores and pins all these blocks or none; durable when it returns.
    pub fn put_pinned(&self, blocks: &[(Cid, &[u8])]) -> Result<(), BlockError> {
        self.insert(blocks, Stay::ForGood)
    }

    /// A block's bytes, checked again; it counts as used. A block that has rotted on disk is dropped.
    pub fn get(&self, cid: &Cid) -> Result<Option<Vec<u8>>, BlockError> {
        if !self.lock().touch(cid) {
            return Ok(None);
        }
        let bytes = self.db(|store| {
            let blocks = store.database.begin_read()?.open_table(BLOCKS)?;
            Ok(blocks.get(cid.to_bytes().as_slice())?.map(|row| row.value().to_vec()))
        })?;
        match bytes {
            Some(bytes) if check(cid, &bytes).is_err() => {
                tracing::error!(%cid, path = %self.path.display(), "a block has rotted on disk and is dropped; it must be fetched again");
                self.drop_block(cid).map(|()| None)
            }
            bytes => Ok(bytes),
        }
    }

    /// A block's bytes, or nothing if it is absent or cannot be read, which is logged.
    pub fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        self.get(cid).unwrap_or_else(|error| {
            tracing::warn!(%cid, %error, "a block cannot be read");
            None
        })
    }

    /// Whether the block is in the store.
    pub fn has(&self, cid: &Cid) -> bool {
        self.lock().blocks.contains_key(cid)
    }

    /// Whether the block is in the store and will stay.
    pub fn is_pinned(&self, cid: &Cid) -> bool {
        self.lock().blocks.get(cid).is_some_and(|entry| entry.pinned || entry.kept)
    }

    /// Whether the block stays for the pool's tree and for nothing else.
    pub fn is_of_tree_alone(&self, cid: &Cid) -> bool {
        self.lock().blocks.get(cid).is_some_and(|entry| entry.kept && !entry.pinned)
    }

    /// Lets a block be evicted again; a block that is not pinned or not there stays so.
    pub fn unpin(&self, cid: &Cid) -> Result<(), BlockError> {
        let mut index = self.lock();
        if index.blocks.get(cid).is_some_and(|entry| entry.pinned) {
            self.db(|store| {
                let transaction = store.begin()?;
                transaction.open_table(PINS)?.remove(cid.to_bytes().as_slice())?;
                transaction.open_table(CONTENT)?.remove(cid.to_bytes().as_slice())?;
                Ok(transaction.commit()?)
            })?;
            index.set_pinned(cid, false);
        }
        Ok(())
    }

    /// Bytes of content held, pinned or not.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let index = self.lock();
        let (bytes, pinned_bytes) = (index.bytes, index.pinned_bytes);
        Usage { bytes, pinned_bytes, quota_bytes: self.quota, blocks: index.blocks.len() }
    }

    fn insert(&self, blocks: &[(Cid, &[u8])], stay: Stay) -> Result<(), BlockError> {
        let pinned = stay != Stay::AsLongAsThereIsRoom;
        for (cid, bytes) in blocks {
            check(cid, bytes)?;
        }
        let mut index = self.lock();
        let mut plan = index.plan(blocks);
        let stays = match stay {
            Stay::AsLongAsThereIsRoom => true,
            Stay::ForGood => {
                blocks.iter().all(|(cid, _)| index.blocks.get(cid).is_some_and(|entry| entry.pinned))
                    && !self.db(|store| store.is_content(blocks))?
            }
            Stay::From(_) => false,
        };
        if plan.fresh.is_empty() && stays {
            blocks.iter().for_each(|(cid, _)| _ = index.touch(cid));
            return Ok(());
        }
        index.make_room(&mut plan, self.quota)?;
        let durable = pinned || index.unsynced_puts >= MAX_UNSYNCED_PUTS;
        let first_use = index.next_use;
        self.db(|store| store.write(&plan, blocks, stay, first_use, durable))?;
        index.unsynced_puts = if durable { 0 } else { index.unsynced_puts + 1 };
        for cid in &plan.evicted {
            index.remove(cid);
        }
        for (cid, bytes) in &plan.fresh {
            index.add(*cid, bytes.len() as u64, false, false);
        }
        for (cid, _) in blocks {
            index.touch(cid);
            if pinned {
                index.set_pinned(cid, true);
            }
        }
        Ok(())
    }

    fn write(
        &self,
        plan: &Plan<'_>,
        blocks: &[(Cid, &[u8])],
        stay: Stay,
        first_use: u64,
        durable: bool,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.begin()?;
        if !durable {
            transaction.set_durability(Durability::None)?;
        }
        {
            let mut table = transaction.open_table(BLOCKS)?;
            let mut arrivals = transaction.open_table(ARRIVALS)?;
            for cid in &plan.evicted {
                table.remove(cid.to_bytes().as_slice())?;
                arrivals.remove(cid.to_bytes().as_slice())?;
            }
            for (number, (cid, bytes)) in (first_use..).zip(&plan.fresh) {
                table.insert(cid.to_bytes().as_slice(), *bytes)?;
                arrivals.insert(cid.to_bytes().as_slice(), (number, bytes.len() as u64))?;
            }
        }
        let cids: Vec<Cid> = blocks.iter().map(|(cid, _)| *cid).collect();
        pin(&transaction, &cids, stay)?;
        Ok(transaction.commit()?)
    }

    fn drop_block(&self, cid: &Cid) -> Result<(), BlockError> {
        let mut index = self.lock();
        self.db(|store| {
            let transaction = store.begin()?;
            transaction.open_table(BLOCKS)?.remove(cid.to_bytes().as_slice())?;
            transaction.open_table(PINS)?.remove(cid.to_bytes().as_slice())?;
            transaction.open_table(CONTENT)?.remove(cid.to_bytes().as_slice())?;
            transaction.open_table(TREE)?.remove(cid.to_bytes().as_slice())?;
            Ok(transaction.commit()?)
        })?;
        index.remove(cid);
        Ok(())
    }

    fn begin(&self) -> Result<WriteTransaction, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }

    fn db<T>(&self, run: impl FnOnce(&Self) -> Result<T, redb::Error>) -> Result<T, BlockError> {
        run(self).map_err(|error| DiskError::database(&self.path, error).into())
    }

    /// The index changes only after the database did, in steps that cannot panic half way.
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an insertion adds and what it throws out.
struct Plan<'a> {
    fresh: BTreeMap<Cid, &'a [u8]>,
    /// Blocks of this insertion that are here already and must not be thrown out for its sake.
    kept: Vec<Cid>,
    evicted: Vec<Cid>,
}

impl Index {
    fn plan<'a>(&self, blocks: &[(Cid, &'a [u8])]) -> Plan<'a> {
        let is_here = |cid: &Cid| self.blocks.contains_key(cid);
        Plan {
            fresh: blocks.iter().filter(|(cid, _)| !is_here(cid)).copied().collect(),
            kept: blocks.iter().map(|(cid, _)| *cid).filter(is_here).collect(),
            evicted: Vec::new(),
        }
    }

    fn make_room(&self, plan: &mut Plan<'_>, quota: u64) -> Result<(), BlockError> {
        let needed: u64 = plan.fresh.values().map(|bytes| bytes.len() as u64).sum();
        let mut bytes = self.bytes - self.kept_bytes + needed;
        let mut count = self.blocks.len() - self.kept_blocks + plan.fresh.len();
        let mut oldest = self.evictable.values().filter(|cid| !plan.kept.contains(cid));
        while bytes > quota || count > MAX_BLOCKS {
            let Some(cid) = oldest.next() else {
                let pinned = self.pinned_bytes;
                return Err(BlockError::QuotaFull { needed, pinned, quota });
            };
            bytes -= self.blocks[cid].bytes;
            count -= 1;
            plan.evicted.push(*cid);
        }
        Ok(())
    }

    fn add(&mut self, cid: Cid, bytes: u64, pinned: bool, kept: bool) {
        if pinned || kept {
            self.note(cid);
        }
        self.use_again(cid, Entry { bytes, used: 0, pinned, kept });
    }

    fn insert(&mut self, cid: Cid, entry: Entry) {
        self.bytes += entry.bytes;
        match entry {
            Entry { pinned: true, .. } => self.pinned_bytes += entry.bytes,
            Entry { kept: true, .. } => {
                self.kept_bytes += entry.bytes;
                self.kept_blocks += 1;
            }
            _ => _ = self.evictable.insert(entry.used, cid),
        }
        self.blocks.insert(cid, entry);
    }

    fn remove(&mut self, cid: &Cid) -> Option<Entry> {
        let entry = self.blocks.remove(cid)?;
        self.bytes -= entry.bytes;
        match entry {
            Entry { pinned: true, .. } => self.pinned_bytes -= entry.bytes,
            Entry { kept: true, .. } => {
                self.kept_bytes -= entry.bytes;
                self.kept_blocks -= 1;
            }
            _ => _ = self.evictable.remove(&entry.used),
        }
        Some(entry)
    }

    fn set_pinned(&mut self, cid: &Cid, pinned: bool) {
        if let Some(entry) = self.remove(cid) {
            self.use_again(*cid, Entry { pinned, ..entry });
            if entry.pinned != pinned {
                self.note(*cid);
            }
        }
    }

    fn touch(&mut self, cid: &Cid) -> bool {
        let Some(entry) = self.remove(cid) else {
            return false;
        };
        self.use_again(*cid, entry);
        true
    }

    fn use_again(&mut self, cid: Cid, entry: Entry) {
        let used = self.next_use;
        self.next_use += 1;
        self.insert(cid, Entry { used, ..entry });
    }
}

/// Refuses bytes that a CID does not name, or that no store takes.
pub(crate) fn check(cid: &Cid, bytes: &[u8]) -> Result<(), BlockError> {
    if bytes.len() > MAX_BLOCK_BYTES {
        return Err(BlockError::TooLarge { size: bytes.len() });
    }
    if cid.hash().code() != SHA2_256 {
        return Err(BlockError::OtherHash { cid: *cid });
    }
    match cid.hash().digest() == swarm_crypto::digest::sha2_256(bytes) {
        true => Ok(()),
        false => Err(BlockError::Mismatch { cid: *cid }),
    }
}

fn read_index(database: &Database) -> Result<Index, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    let mut rows = Vec::new();
    {
        transaction.open_table(BLOCKS)?;
        transaction.open_table(CONTENT)?;
        let arrivals = transaction.open_table(ARRIVALS)?;
        let pins = transaction.open_table(PINS)?;
        let tree = transaction.open_table(TREE)?;
        for row in arrivals.iter()? {
            let (key, value) = row?;
            let cid =
                Cid::try_from(key.value()).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
            let (pinned, kept) = (pins.get(key.value())?.is_some(), tree.get(key.value())?.is_some());
            rows.push((value.value(), cid, pinned, kept));
        }
    }
    transaction.commit()?;
    rows.sort_by_key(|((number, _), ..)| *number);
    let mut index = Index::default();
    for ((number, bytes), cid, pinned, kept) in rows {
        index.next_use = index.next_use.max(number);
        index.add(cid, bytes, pinned, kept);
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cid::multihash::Multihash;
    use std::sync::Arc;

    const NOW: swarm_protocol::Timestamp = swarm_protocol::Timestamp(1_000);

    const RAW: u64 = 0x55;

    fn block(text: &str) -> (Cid, Vec<u8>) {
        let bytes = text.as_bytes().to_vec();
        let digest = swarm_crypto::digest::sha2_256(&bytes);
        let cid = Cid::new_v1(RAW, Multihash::wrap(SHA2_256, &digest).unwrap());
        (cid, bytes)
    }

    fn put(store: &BlockStore, text: &str) -> Cid {
        let (cid, bytes) = block(text);
        store.put(&cid, &bytes).unwrap();
        cid
    }

    #[test]
    fn a_block_is_found_by_its_cid_also_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let (cid, bytes) = block("hello");
        let store = BlockStore::open(&path, 100).unwrap();
        assert_eq!((store.get(&cid).unwrap(), store.has(&cid)), (None, false));
        store.put(&cid, &bytes).unwrap();
        store.put(&cid, &bytes).unwrap();
        drop(store);
        let store = BlockStore::open(&path, 100).unwrap();
        assert_eq!(store.block(&cid), Some(bytes));
        assert!(store.has(&cid) && !store.is_pinned(&cid));
        assert_eq!(store.bytes(), 5);
    }

    #[test]
    fn a_cid_computed_elsewhere_matches() {
        let cid: Cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e".parse().unwrap();
        let store = BlockStore::in_memory(100).unwrap();
        store.put(&cid, b"hello world").unwrap();
        assert_eq!(put(&store, "hello world"), cid);
    }

    #[test]
    fn bytes_that_do_not_match_are_refused() {
        let store = BlockStore::in_memory(1 << 30).unwrap();
        let (cid, _) = block("hello");
        assert!(matches!(store.put(&cid, b"hellO"), Err(BlockError::Mismatch { .. })));
        let blake = Cid::new_v1(RAW, Multihash::wrap(0x1e, &[1; 32]).unwrap());
        assert!(matches!(store.put(&blake, b"x"), Err(BlockError::OtherHash { .. })));
        let (large, bytes) = block(&"x".repeat(MAX_BLOCK_BYTES + 1));
        assert!(matches!(store.put(&large, &bytes), Err(BlockError::TooLarge { .. })));
        let good = block("good");
        let mixed = [(good.0, good.1.as_slice()), (cid, b"bad".as_slice())];
        assert!(store.put_pinned(&mixed).is_err());
        assert!(!store.has(&good.0) && !store.has(&cid));
        put(&store, &"x".repeat(MAX_BLOCK_BYTES));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let store = BlockStore::in_memory(12).unwrap();
        let [a, b, c] = ["aaaa", "bbbb", "cccc"].map(|text| put(&store, text));
        store.get(&a).unwrap();
        let d = put(&store, "dddd");
        assert_eq!([a, b, c, d].map(|cid| store.has(&cid)), [true, false, true, true]);
        put(&store, "cccc");
        put(&store, "eeee");
        assert_eq!([a, c, d].map(|cid| store.has(&cid)), [false, true, true]);
        assert_eq!(store.bytes(), 12);
    }

    #[test]
    fn the_order_of_arrival_survives_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let words = ["pppp", "dddd", "zzzz", "aaaa"];
        let store = BlockStore::open(&path, 16).unwrap();
        let cids = words.map(|text| put(&store, text));
        drop(store);
        let store = BlockStore::open(&path, 16).unwrap();
        put(&store, "new!new!");
        assert_eq!(cids.map(|cid| store.has(&cid)), [false, false, true, true]);
    }

    #[test]
    fn what_is_pinned_is_never_evicted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let store = BlockStore::open(&path, 12).unwrap();
        let a = put(&store, "aaaa");
        store.pin_content(&[a], NOW).unwrap();
        store.pin_content(&[a], NOW).unwrap();
        let (b, bytes) = block("bbbb");
        store.put_pinned(&[(b, &bytes)]).unwrap();
        drop(store);
        let store = BlockStore::open(&path, 12).unwrap();
        for text in ["cccc", "dddd", "eeee"] {
            put(&store, text);
        }
        assert!(store.is_pinned(&a) && store.is_pinned(&b));
        let (large, bytes) = block("more than is left");
        let refused = store.put(&large, &bytes).unwrap_err();
        assert!(matches!(refused, BlockError::QuotaFull { pinned: 8, quota: 12, .. }), "{refused}");
        assert!(store.has(&block("eeee").0), "a refused block must not evict");
        store.unpin(&a).unwrap();
        store.unpin(&a).unwrap();
        put(&store, "ffffffff");
        assert_eq!((store.has(&a), store.has(&b)), (false, true));
    }

    #[test]
    fn pinning_a_cached_block_does_not_evict_it_for_its_neighbours() {
        let store = BlockStore::in_memory(8).unwrap();
        let (old, fresh) = (block("aaaa"), block("bbbb"));
        put(&store, "aaaa");
        put(&store, "xxxx");
        store.put_pinned(&[(old.0, &old.1), (fresh.0, &fresh.1), (fresh.0, &fresh.1)]).unwrap();
        assert!(store.is_pinned(&old.0) && store.is_pinned(&fresh.0));
        assert_eq!(store.bytes(), 8);
    }

    #[test]
    fn an_absent_block_cannot_be_pinned() {
        let store = BlockStore::in_memory(8).unwrap();
        assert!(matches!(store.pin_content(&[block("a").0], NOW), Err(BlockError::Absent { .. })));
        store.unpin(&block("a").0).unwrap();
    }

    #[test]
    fn a_rotten_block_is_dropped_and_can_be_put_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let cid = put(&BlockStore::open(&path, 100).unwrap(), "hello");
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let row = b"hellO".as_slice();
        transaction.open_table(BLOCKS).unwrap().insert(cid.to_bytes().as_slice(), row).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let store = BlockStore::open(&path, 100).unwrap();
        store.pin_content(&[cid], NOW).unwrap();
        assert_eq!(store.get(&cid).unwrap(), None);
        assert!(!store.has(&cid) && store.bytes() == 0);
        store.put(&cid, b"hello").unwrap();
        assert_eq!(store.block(&cid), Some(b"hello".to_vec()));
    }

    #[test]
    fn many_threads_share_a_store() {
        let store = Arc::new(BlockStore::in_memory(1_000).unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let store = store.clone();
                scope.spawn(move || {
                    for n in 0..50 {
                        let cid = put(&store, &format!("{thread} {n}"));
                        if n % 10 == 0 {
                            store
                                .pin_content(&[cid], NOW)
                                .or_else(|error| match error {
                                    BlockError::Absent { .. } => Ok(()),
                                    other => Err(other),
                                })
                                .unwrap();
                        }
                        store.block(&block(&format!("0 {n}")).0);
                    }
                });
            }
        });
        assert!(store.bytes() <= 1_000);
        let index = store.lock();
        assert_eq!(index.bytes, index.blocks.values().map(|entry| entry.bytes).sum::<u64>());
    }
}
