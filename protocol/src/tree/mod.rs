//! The pool as one tree of IPLD blocks, so that anyone can browse it from one CID with any IPFS tool.
//!
//! ```text
//! <root>/jobs/pending/<job>    the job's snapshot: payload and signature
//! <root>/jobs/claimed/<job>    its lease, which links the snapshot
//! <root>/proofs/<proof>        what was accepted, which links transcript and output
//! <root>/epochs/<number>       the header of a sealed epoch
//! <root>/miners/<address>      the roster's entry, standing and earnings
//! <root>/state.json            the pool in figures
//! ```
//!
//! Folders are UnixFS; the five that grow are sharded always, by 8 bits of a name's hash at each node, so that no node
//! has more than 256 links and a change costs the nodes above it, however much there is beside them. The same content
//! gives the same root, whatever happened on the way.

mod blocks;
mod entry;
mod folder;
mod node;
#[cfg(test)]
mod tests;

pub use entry::{AcceptedProof, ClaimedJob, Entry, MinerAccount, Summary};
pub use node::{FANOUT, FANOUT_BITS, MURMUR3, PLAIN_FOLDER, SHARDED_FOLDER, place_of};

use crate::codec::{dag_pb_cid, raw_cid};
use blocks::Blocks;
use cid::Cid;
use folder::{Folder, Leaf};
use node::NodeLink;

/// A folder of the tree that grows with the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `jobs/pending`.
    Pending,
    /// `jobs/claimed`.
    Claimed,
    /// `proofs`.
    Proofs,
    /// `epochs`.
    Epochs,
    /// `miners`.
    Miners,
}

/// A name of the tree that now stands for something else, or for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which folder.
    pub place: Place,
    /// Which name there.
    pub name: String,
    /// What it stands for now.
    pub entry: Option<Entry>,
}

/// What a turn of the pool changed in its tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The names; the last change of a name counts.
    pub changes: Vec<Change>,
    /// The figures after them.
    pub summary: Summary,
}

/// The tree of a state, and how its blocks differ from those of the tree before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The root.
    pub root: Cid,
    /// Blocks that were not part of the tree before.
    pub fresh: Vec<(Cid, Vec<u8>)>,
    /// Blocks that no longer are.
    pub gone: Vec<Cid>,
}

/// The tree, kept in step with the pool by its changes.
#[derive(Debug, Default)]
pub struct Tree {
    pending: Folder,
    claimed: Folder,
    proofs: Folder,
    epochs: Folder,
    miners: Folder,
    /// Above and beside the folders, as last published.
    top: Vec<Cid>,
    blocks: Blocks,
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many names the folder holds.
    pub fn len(&self, place: Place) -> u64 {
        match place {
            Place::Pending => self.pending.len(),
            Place::Claimed => self.claimed.len(),
            Place::Proofs => self.proofs.len(),
            Place::Epochs => self.epochs.len(),
            Place::Miners => self.miners.len(),
        }
    }

    /// Whether the block is part of the tree.
    pub fn names(&self, cid: &Cid) -> bool {
        self.blocks.has(cid)
    }

    fn folder(&mut self, place: Place) -> (&mut Folder, &mut Blocks) {
        let folder = match place {
            Place::Pending => &mut self.pending,
            Place::Claimed => &mut self.claimed,
            Place::Proofs => &mut self.proofs,
            Place::Epochs => &mut self.epochs,
            Place::Miners => &mut self.miners,
        };
        (folder, &mut self.blocks)
    }

    /// Takes one change. A name that is taken out and is not there is no change.
    pub fn apply(&mut self, change: &Change) {
        let (folder, blocks) = self.folder(change.place);
        let old = match &change.entry {
            None => folder.remove(&change.name, blocks),
            Some(entry) => {
                let (cid, size, held) = entry.encode();
                if folder.get(&change.name).is_some_and(|leaf| leaf.cid == cid) {
                    return;
                }
                let names = held.iter().map(|(cid, _)| *cid).collect();
                held.into_iter().for_each(|(cid, block)| blocks.add(cid, block));
                folder.set(Leaf { name: change.name.as_str().into(), cid, size, blocks: names }, blocks)
            }
        };
        old.iter().flat_map(|leaf| &leaf.blocks).for_each(|cid| blocks.drop(cid));
    }

    /// The blocks that came and went since this was last asked, without a new root: for whoever stores a large tree
    /// in steps.
    pub fn take_blocks(&mut self) -> (Vec<(Cid, Vec<u8>)>, Vec<Cid>) {
        self.blocks.take_changes()
    }

    /// The tree as it is now; encodes the nodes above what has changed since the last time.
    pub fn publish(&mut self, summary: &Summary) -> Published {
        let state = summary.encode();
        let jobs = vec![self.link("claimed", Place::Claimed), self.link("pending", Place::Pending)];
        let (epochs, miners) = (self.link("epochs", Place::Epochs), self.link("miners", Place::Miners));
        let proofs = self.link("proofs", Place::Proofs);
        let above = std::mem::take(&mut self.top);
        let jobs = self.top_folder("jobs", &jobs);
        let state_link =
            NodeLink { name: "state.json".into(), cid: raw_cid(&state), size: state.len() as u64 };
        self.hold(state_link.cid, state);
        let root = self.top_folder("", &[epochs, jobs, miners, proofs, state_link]).cid;
        above.iter().for_each(|cid| self.blocks.drop(cid));
        let (fresh, gone) = self.blocks.take_changes();
        Published { root, fresh, gone }
    }

    fn link(&mut self, name: &str, place: Place) -> NodeLink {
        let (folder, blocks) = self.folder(place);
        let (cid, size) = folder.store(blocks);
        NodeLink { name: name.to_owned(), cid, size }
    }

    fn top_folder(&mut self, name: &str, links: &[NodeLink]) -> NodeLink {
        let block = node::plain(links);
        let size = block.len() as u64 + links.iter().map(|link| link.size).sum::<u64>();
        let cid = dag_pb_cid(&block);
        self.hold(cid, block);
        NodeLink { name: name.to_owned(), cid, size }
    }

    fn hold(&mut self, cid: Cid, block: Vec<u8>) {
        self.blocks.add(cid, block);
        self.top.push(cid);
    }
}
