//! Blocks of the pool's tree: kept beside what is pinned and outside its quota, so that neither costs the other.

use super::{ARRIVALS, BLOCKS, BlockError, BlockStore, Index, TREE, check};
use cid::Cid;
use redb::Durability;
use std::collections::{BTreeMap, BTreeSet};

/// The most blocks that are kept for the tree alone.
pub const MAX_KEPT_BLOCKS: usize = 1 << 19;
/// The most bytes of such blocks.
pub const MAX_KEPT_BYTES: u64 = 1 << 30;

impl BlockStore {
    /// Stores these blocks or none and keeps them until they are let go; durable when it returns.
    pub fn keep(&self, blocks: &[(Cid, &[u8])]) -> Result<(), BlockError> {
        for (cid, bytes) in blocks {
            check(cid, bytes)?;
        }
        let mut index = self.lock();
        let new: BTreeMap<Cid, &[u8]> = blocks
            .iter()
            .filter(|(cid, _)| !index.blocks.get(cid).is_some_and(|entry| entry.kept))
            .copied()
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        index.check_kept(&new)?;
        let first_use = index.next_use;
        self.db(|store| {
            let transaction = store.begin()?;
            {
                let mut table = transaction.open_table(BLOCKS)?;
                let mut arrivals = transaction.open_table(ARRIVALS)?;
                let mut tree = transaction.open_table(TREE)?;
                for (number, (cid, bytes)) in (first_use..).zip(&new) {
                    let key = cid.to_bytes();
                    if !index.blocks.contains_key(cid) {
                        table.insert(key.as_slice(), *bytes)?;
                        arrivals.insert(key.as_slice(), (number, bytes.len() as u64))?;
                    }
                    tree.insert(key.as_slice(), ())?;
                }
            }
            Ok(transaction.commit()?)
        })?;
        index.unsynced_puts = 0;
        for (cid, bytes) in new {
            match index.blocks.contains_key(&cid) {
                true => index.set_kept(&cid, true),
                false => index.add(cid, bytes.len() as u64, false, true),
            }
        }
        Ok(())
    }

    /// Deletes blocks that were kept, but for those that are pinned. A power cut may bring them back.
    pub fn let_go(&self, cids: &[Cid]) -> Result<(), BlockError> {
        let mut index = self.lock();
        let is_kept = |cid: &&Cid| index.blocks.get(cid).is_some_and(|entry| entry.kept);
        let kept: BTreeSet<Cid> = cids.iter().filter(is_kept).copied().collect();
        if kept.is_empty() {
            return Ok(());
        }
        self.db(|store| {
            let mut transaction = store.begin()?;
            transaction.set_durability(Durability::None)?;
            {
                let mut table = transaction.open_table(BLOCKS)?;
                let mut arrivals = transaction.open_table(ARRIVALS)?;
                let mut tree = transaction.open_table(TREE)?;
                for cid in &kept {
                    let key = cid.to_bytes();
                    tree.remove(key.as_slice())?;
                    if !index.blocks[cid].pinned {
                        table.remove(key.as_slice())?;
                        arrivals.remove(key.as_slice())?;
                    }
                }
            }
            Ok(transaction.commit()?)
        })?;
        for cid in kept {
            match index.blocks[&cid].pinned {
                true => index.set_kept(&cid, false),
                false => _ = index.remove(&cid),
            }
            index.note(cid);
        }
        Ok(())
    }

    /// All blocks that are kept.
    pub fn kept(&self) -> Vec<Cid> {
        self.lock().blocks.iter().filter(|(_, entry)| entry.kept).map(|(cid, _)| *cid).collect()
    }
}

impl Index {
    fn check_kept(&self, new: &BTreeMap<Cid, &[u8]>) -> Result<(), BlockError> {
        let needed: u64 = new.values().map(|bytes| bytes.len() as u64).sum();
        if self.kept_blocks + new.len() > MAX_KEPT_BLOCKS || self.kept_bytes + needed > MAX_KEPT_BYTES {
            return Err(BlockError::TreeFull { blocks: self.kept_blocks, bytes: self.kept_bytes });
        }
        Ok(())
    }

    fn set_kept(&mut self, cid: &Cid, kept: bool) {
        if let Some(entry) = self.remove(cid) {
            self.insert(*cid, super::Entry { kept, ..entry });
            self.note(*cid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_protocol::codec::raw_cid;

    fn keep(store: &BlockStore, text: &str) -> Cid {
        let cid = raw_cid(text.as_bytes());
        store.keep(&[(cid, text.as_bytes())]).unwrap();
        cid
    }

    fn pin(store: &BlockStore, text: &str) -> Result<Cid, BlockError> {
        let cid = raw_cid(text.as_bytes());
        store.put_pinned(&[(cid, text.as_bytes())]).map(|()| cid)
    }

    #[test]
    fn what_is_kept_is_served_until_it_is_let_go_also_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let store = BlockStore::open(&path, 100).unwrap();
        let (a, b) = (keep(&store, "aaaa"), keep(&store, "bbbb"));
        drop(store);
        let store = BlockStore::open(&path, 100).unwrap();
        let mut kept = store.kept();
        kept.sort();
        let mut both = vec![a, b];
        both.sort();
        assert_eq!(kept, both);
        assert!(store.is_pinned(&a));
        store.let_go(&[a, a, raw_cid(b"never here")]).unwrap();
        keep(&store, "cccc");
        drop(store);
        let store = BlockStore::open(&path, 100).unwrap();
        assert_eq!((store.has(&a), store.block(&b)), (false, Some(b"bbbb".to_vec())));
        assert_eq!(store.bytes(), 8);
    }

    #[test]
    fn a_block_of_a_job_outlives_the_tree_that_held_it_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blocks.redb");
        let store = BlockStore::open(&path, 100).unwrap();
        let (first, later) = (pin(&store, "input").unwrap(), keep(&store, "file"));
        assert_eq!((keep(&store, "input"), pin(&store, "file").unwrap()), (first, later));
        store.let_go(&[first, later]).unwrap();
        assert!(store.kept().is_empty());
        assert!(store.is_pinned(&first) && store.is_pinned(&later));
        drop(store);
        let store = BlockStore::open(&path, 100).unwrap();
        assert!(store.is_pinned(&first) && store.is_pinned(&later) && store.kept().is_empty());
        store.unpin(&first).unwrap();
        assert!(store.has(&first) && !store.is_pinned(&first));
        keep(&store, "input");
        store.pin_content(&[later], swarm_protocol::Timestamp(1)).unwrap();
        store.unpin(&later).unwrap();
        assert!(store.is_pinned(&first) && !store.is_pinned(&later));
    }

    #[test]
    fn the_tree_takes_no_room_of_jobs_and_jobs_none_of_the_tree() {
        let store = BlockStore::in_memory(8).unwrap();
        let tree: Vec<Cid> = ["aaaaaaaa", "bbbbbbbb"].map(|text| keep(&store, text)).into();
        let jobs = ["cccc", "dddd"].map(|text| pin(&store, text).unwrap());
        assert!(matches!(pin(&store, "e"), Err(BlockError::QuotaFull { .. })));
        assert!(tree.iter().chain(&jobs).all(|cid| store.is_pinned(cid)));
        assert_eq!(keep(&store, "f"), raw_cid(b"f"));
    }

    #[test]
    fn a_tree_over_the_limit_is_refused_whole() {
        let store = BlockStore::in_memory(8).unwrap();
        store.lock().kept_blocks = MAX_KEPT_BLOCKS - 1;
        let (a, b) = (raw_cid(b"a"), raw_cid(b"b"));
        let refused = store.keep(&[(a, b"a"), (b, b"b")]).unwrap_err();
        assert!(matches!(refused, BlockError::TreeFull { .. }), "{refused}");
        assert!(!store.has(&a) && !store.has(&b));
        store.keep(&[(a, b"a")]).unwrap();
    }
}
