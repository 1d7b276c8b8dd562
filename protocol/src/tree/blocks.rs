use cid::Cid;
use std::collections::{BTreeMap, BTreeSet};

/// Which blocks the tree is made of, and what of that has changed since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    named: BTreeMap<Cid, u32>,
    fresh: BTreeMap<Cid, Vec<u8>>,
    gone: BTreeSet<Cid>,
}

impl Blocks {
    /// One more place names the block.
    pub fn add(&mut self, cid: Cid, block: Vec<u8>) {
        let names = self.named.entry(cid).or_default();
        *names += 1;
        if *names == 1 && !self.gone.remove(&cid) {
            self.fresh.insert(cid, block);
        }
    }

    /// One place less names the block.
    pub fn drop(&mut self, cid: &Cid) {
        let names = self.named.get_mut(cid).expect("only what was added is dropped");
        *names -= 1;
        if *names == 0 {
            self.named.remove(cid);
            if self.fresh.remove(cid).is_none() {
                self.gone.insert(*cid);
            }
        }
    }

    pub fn has(&self, cid: &Cid) -> bool {
        self.named.contains_key(cid)
    }

    pub fn take_changes(&mut self) -> (Vec<(Cid, Vec<u8>)>, Vec<Cid>) {
        let fresh = std::mem::take(&mut self.fresh).into_iter().collect();
        (fresh, std::mem::take(&mut self.gone).into_iter().collect())
    }
}
