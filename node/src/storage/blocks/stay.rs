//! How long blocks stay: content of jobs until it is old, everything else that is pinned for good.

use super::{BlockError, BlockStore, PINS};
use cid::Cid;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use swarm_protocol::Timestamp;

/// Of what is pinned, the content of jobs, and when it was named last, in milliseconds.
pub(super) const CONTENT: TableDefinition<'_, &[u8], u64> = TableDefinition::new("block-content");
/// Blocks that are unpinned in one commit.
const MAX_UNPINNED: usize = 1024;

/// How long a block stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    AsLongAsThereIsRoom,
    ForGood,
    /// Until it is old: content of a job that is named now.
    From(Timestamp),
}

impl BlockStore {
    /// Stores and pins all these blocks or none as content of a job that is named now; durable when it returns.
    pub fn put_content(&self, blocks: &[(Cid, &[u8])], now: Timestamp) -> Result<(), BlockError> {
        self.insert(blocks, Stay::From(now))
    }

    /// Keeps these stored blocks, or none if one is absent, as content of a job that is named now; durable when it
    /// returns.
    pub fn pin_content(&self, cids: &[Cid], now: Timestamp) -> Result<(), BlockError> {
        let mut index = self.lock();
        if let Some(absent) = cids.iter().find(|cid| !index.blocks.contains_key(cid)) {
            return Err(BlockError::Absent { cid: *absent });
        }
        self.db(|store| {
            let transaction = store.begin()?;
            pin(&transaction, cids, Stay::From(now))?;
            Ok(transaction.commit()?)
        })?;
        index.unsynced_puts = 0;
        cids.iter().for_each(|cid| index.set_pinned(cid, true));
        Ok(())
    }

    /// Unpins content that was last named before this time; says how many blocks that were. They stay as long as there is
    /// room.
    pub fn let_content_go(&self, before: Timestamp) -> Result<usize, BlockError> {
        let mut unpinned = 0;
        loop {
            // Nobody names it again in between.
            let mut index = self.lock();
            let old = self.db(|store| store.unpin_content(before))?;
            old.iter().for_each(|cid| index.set_pinned(cid, false));
            unpinned += old.len();
            if old.len() < MAX_UNPINNED {
                return Ok(unpinned);
            }
        }
    }

    fn unpin_content(&self, before: Timestamp) -> Result<Vec<Cid>, redb::Error> {
        let mut old = Vec::new();
        for row in self.database.begin_read()?.open_table(CONTENT)?.iter()? {
            let (key, since) = row?;
            if since.value() < before.0 && old.len() < MAX_UNPINNED {
                let cid = Cid::try_from(key.value());
                old.push(cid.map_err(|error| redb::Error::Corrupted(error.to_string()))?);
            }
        }
        if !old.is_empty() {
            let transaction = self.begin()?;
            for cid in &old {
                transaction.open_table(CONTENT)?.remove(cid.to_bytes().as_slice())?;
                transaction.open_table(PINS)?.remove(cid.to_bytes().as_slice())?;
            }
            transaction.commit()?;
        }
        Ok(old)
    }

    /// Whether any of these blocks may go one day.
    pub(super) fn is_content(&self, blocks: &[(Cid, &[u8])]) -> Result<bool, redb::Error> {
        let content = self.database.begin_read()?.open_table(CONTENT)?;
        for (cid, _) in blocks {
            if content.get(cid.to_bytes().as_slice())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Notes how long blocks stay; what stays for good does so whatever comes later.
pub(super) fn pin(transaction: &WriteTransaction, cids: &[Cid], stay: Stay) -> Result<(), redb::Error> {
    let mut pins = transaction.open_table(PINS)?;
    let mut content = transaction.open_table(CONTENT)?;
    for cid in cids {
        let key = cid.to_bytes();
        let key = key.as_slice();
        let is_pinned = pins.get(key)?.is_some();
        match stay {
            Stay::AsLongAsThereIsRoom => continue,
            Stay::ForGood => _ = content.remove(key)?,
            Stay::From(now) => {
                let since = content.get(key)?.map(|since| since.value());
                if !is_pinned || since.is_some_and(|since| since < now.0) {
                    content.insert(key, now.0)?;
                }
            }
        }
        pins.insert(key, ())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_protocol::codec::raw_cid;

    const NOW: Timestamp = Timestamp(1_000);

    fn block(text: &str) -> (Cid, Vec<u8>) {
        (raw_cid(text.as_bytes()), text.as_bytes().to_vec())
    }

    #[test]
    fn content_may_go_once_nobody_has_named_it_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let store = BlockStore::open(&path, 12).unwrap();
        let [(a, a_bytes), (b, b_bytes), (c, c_bytes)] = ["aaaa", "bbbb", "cccc"].map(block);
        let at = |seconds: u64| Timestamp(seconds * 1000);
        store.put_content(&[(a, &a_bytes), (b, &b_bytes), (c, &c_bytes)], at(1)).unwrap();
        // Another job names it, and something that is to stay is the same block.
        store.pin_content(&[b], at(9)).unwrap();
        store.put_pinned(&[(c, &c_bytes)]).unwrap();
        store.put_content(&[(c, &c_bytes)], at(2)).unwrap();
        assert_eq!(store.let_content_go(at(1)).unwrap(), 0);
        assert_eq!(store.let_content_go(at(9)).unwrap(), 1);
        assert_eq!([a, b, c].map(|cid| store.is_pinned(&cid)), [false, true, true]);
        assert!(store.has(&a), "there is room for it");
        drop(store);
        let store = BlockStore::open(&path, 12).unwrap();
        assert_eq!([a, b, c].map(|cid| store.is_pinned(&cid)), [false, true, true]);
        let (d, d_bytes) = block("dddd");
        store.put_pinned(&[(d, &d_bytes)]).unwrap();
        assert!(!store.has(&a));
        assert_eq!(store.let_content_go(at(100)).unwrap(), 1, "what is for good stays");
        assert_eq!([b, c, d].map(|cid| store.is_pinned(&cid)), [false, true, true]);
    }

    #[test]
    fn more_content_than_fits_a_commit_goes_in_several() {
        let store = BlockStore::in_memory(1 << 20).unwrap();
        let blocks: Vec<_> = (0..=MAX_UNPINNED).map(|n| block(&n.to_string())).collect();
        let borrowed: Vec<_> = blocks.iter().map(|(cid, bytes)| (*cid, bytes.as_slice())).collect();
        store.put_content(&borrowed, NOW).unwrap();
        assert_eq!(store.let_content_go(Timestamp(NOW.0 + 1)).unwrap(), MAX_UNPINNED + 1);
        assert_eq!(store.usage().pinned_bytes, 0);
    }
}
