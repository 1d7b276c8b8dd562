//! What begins and ceases to stay in a store, noted for one follower: a name only, the store itself says what holds now.

use super::{BlockError, BlockStore, Index, PINS, TREE};
use cid::Cid;
use redb::{ReadableDatabase, ReadableTable};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::Notify;

/// The most blocks that are noted; a follower that is further behind has to compare everything.
pub const MAX_CHANGED: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Changed {
    waiting: BTreeSet<Cid>,
    /// More than could be noted.
    lost: bool,
    wake: Arc<Notify>,
}

impl Changed {
    fn note(&mut self, cid: Cid) {
        if self.waiting.len() < MAX_CHANGED || self.waiting.contains(&cid) {
            self.waiting.insert(cid);
        } else {
            self.lost = true;
        }
        self.wake.notify_one();
    }
}

impl Index {
    pub(super) fn note(&mut self, cid: Cid) {
        if let Some(changed) = &mut self.changed {
            changed.note(cid);
        }
    }
}

impl BlockStore {
    /// Begins to note what changes, all as lost at first; wakes the follower whenever there is something.
    pub fn follow(&self) -> Arc<Notify> {
        let changed = Changed { lost: true, ..Changed::default() };
        let wake = changed.wake.clone();
        self.lock().changed = Some(changed);
        wake
    }

    /// Takes at most so many of the blocks that have changed.
    pub fn take_changed(&self, most: usize) -> Vec<Cid> {
        let mut index = self.lock();
        let Some(changed) = &mut index.changed else { return Vec::new() };
        std::iter::from_fn(|| changed.waiting.pop_first()).take(most).collect()
    }

    /// Notes blocks as changed, as they are if they were taken in vain.
    pub fn note_changed(&self, cids: impl IntoIterator<Item = Cid>) {
        let mut index = self.lock();
        cids.into_iter().for_each(|cid| index.note(cid));
    }

    /// How many blocks wait for the follower, and whether there are more than could be noted.
    pub fn changed(&self) -> (usize, bool) {
        self.lock().changed.as_ref().map_or((0, false), |changed| (changed.waiting.len(), changed.lost))
    }

    /// Whether changes were lost until now; whoever asks compares everything then.
    pub fn take_lost(&self) -> bool {
        self.lock().changed.as_mut().is_some_and(|changed| std::mem::take(&mut changed.lost))
    }

    /// The follower has to compare everything, later.
    pub fn lose_changes(&self) {
        if let Some(changed) = &mut self.lock().changed {
            changed.lost = true;
        }
    }

    /// All blocks that stay, some perhaps twice, from the file: others use the store meanwhile.
    pub fn each_staying(&self, mut each: impl FnMut(Cid) -> ControlFlow<()>) -> Result<(), BlockError> {
        self.db(|store| {
            let transaction = store.database.begin_read()?;
            for table in [PINS, TREE] {
                for row in transaction.open_table(table)?.iter()? {
                    let cid = Cid::try_from(row?.0.value());
                    let cid = cid.map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                    if each(cid).is_break() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_protocol::codec::raw_cid;

    fn pin(store: &BlockStore, text: &str) -> Cid {
        let cid = raw_cid(text.as_bytes());
        store.put_pinned(&[(cid, text.as_bytes())]).unwrap();
        cid
    }

    fn staying(store: &BlockStore) -> BTreeSet<Cid> {
        let mut staying = BTreeSet::new();
        let each = |cid| {
            staying.insert(cid);
            ControlFlow::Continue(())
        };
        store.each_staying(each).unwrap();
        staying
    }

    #[test]
    fn every_block_that_begins_or_ceases_to_stay_is_noted_once() {
        let store = BlockStore::in_memory(1 << 20).unwrap();
        let before = pin(&store, "before");
        store.follow();
        assert!(store.take_lost() && !store.take_lost());
        let (cached, pinned) = (raw_cid(b"cached"), pin(&store, "pinned"));
        store.put(&cached, b"cached").unwrap();
        store.get(&pinned).unwrap();
        pin(&store, "pinned");
        store.pin_content(&[before], swarm_protocol::Timestamp(1)).unwrap();
        assert_eq!(store.take_changed(9), [pinned]);
        store.pin_content(&[cached], swarm_protocol::Timestamp(1)).unwrap();
        store.unpin(&before).unwrap();
        let node = raw_cid(b"node");
        store.keep(&[(node, b"node")]).unwrap();
        let noted: BTreeSet<Cid> = store.take_changed(9).into_iter().collect();
        assert_eq!(noted, [cached, before, node].into());
        assert_eq!(staying(&store), [cached, pinned, node].into());
        store.let_go(&[node]).unwrap();
        assert_eq!((store.changed(), store.take_changed(9)), ((1, false), vec![node]));
        assert_eq!(staying(&store), [cached, pinned].into());
    }

    #[test]
    fn a_follower_that_is_too_far_behind_is_told_so() {
        let store = BlockStore::in_memory(1 << 20).unwrap();
        store.follow();
        store.take_lost();
        let cids = (0..MAX_CHANGED as u32 + 1).map(|n| raw_cid(&n.to_be_bytes()));
        store.note_changed(cids.clone().take(MAX_CHANGED));
        store.note_changed(cids.clone().take(1));
        assert_eq!(store.changed(), (MAX_CHANGED, false));
        store.note_changed(cids);
        assert_eq!(store.changed(), (MAX_CHANGED, true));
        assert_eq!(store.take_changed(10).len(), 10);
        assert!(store.take_lost());
    }

    #[test]
    fn whoever_is_not_followed_notes_nothing() {
        let store = BlockStore::in_memory(1 << 20).unwrap();
        pin(&store, "pinned");
        assert_eq!((store.changed(), store.take_changed(9).len()), ((0, false), 0));
    }
}
