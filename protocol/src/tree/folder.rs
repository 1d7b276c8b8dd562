//! A UnixFS folder of any size as a trie over the hashes of names (a HAMT), of which only what changed is encoded again.

use super::blocks::Blocks;
use super::node::{self, FANOUT_BITS, NodeLink, place_of};
use crate::codec::dag_pb_cid;
use cid::Cid;
use std::mem;

/// Nodes on the way down until a hash is used up.
const MAX_DEPTH: u32 = u64::BITS / FANOUT_BITS;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub name: Box<str>,
    pub cid: Cid,
    /// Bytes of the blocks from `cid` down.
    pub size: u64,
    /// The blocks that the tree holds for this name.
    pub blocks: Box<[Cid]>,
}

#[derive(Debug)]
pub(super) struct Folder {
    root: Shard,
    len: u64,
    hash: fn(&str) -> u64,
}

#[derive(Debug, Default)]
struct Shard {
    /// By place.
    slots: Vec<(u8, Slot)>,
    /// Its block as it was last encoded, with the bytes from there down; none if it has changed since.
    stored: Option<(Cid, u64)>,
}

#[derive(Debug)]
enum Slot {
    Leaf(Leaf),
    /// Names with the same hash, of which the format can show one: the first.
    Twins(Vec<Leaf>),
    Shard(Box<Shard>),
}

impl Default for Folder {
    fn default() -> Self {
        Self::with_hash(place_of)
    }
}

impl Folder {
    pub fn with_hash(hash: fn(&str) -> u64) -> Self {
        Self { root: Shard::default(), len: 0, hash }
    }

    /// How many names it holds.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn get(&self, name: &str) -> Option<&Leaf> {
        let hash = (self.hash)(name);
        let mut shard = &self.root;
        for depth in 0..MAX_DEPTH {
            match &shard.slots[shard.find(place(hash, depth)).ok()?].1 {
                Slot::Leaf(leaf) => return Some(leaf).filter(|leaf| *leaf.name == *name),
                Slot::Twins(twins) => return twins.iter().find(|leaf| *leaf.name == *name),
                Slot::Shard(below) => shard = below,
            }
        }
        None
    }

    /// Puts a name in; gives what it stood for before.
    pub fn set(&mut self, leaf: Leaf, blocks: &mut Blocks) -> Option<Leaf> {
        let old = self.root.set(leaf, 0, self.hash, blocks);
        self.len += u64::from(old.is_none());
        old
    }

    /// Takes a name out; gives what it stood for.
    pub fn remove(&mut self, name: &str, blocks: &mut Blocks) -> Option<Leaf> {
        let old = self.root.remove(name, (self.hash)(name), 0, blocks)?;
        self.len -= 1;
        Some(old)
    }

    /// Encodes what has changed; gives the folder's block and the bytes from there down.
    pub fn store(&mut self, blocks: &mut Blocks) -> (Cid, u64) {
        self.root.store(blocks)
    }
}

fn place(hash: u64, depth: u32) -> u8 {
    hash.to_be_bytes()[depth as usize]
}

impl Shard {
    fn find(&self, place: u8) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&place, |(place, _)| *place)
    }

    fn touch(&mut self, blocks: &mut Blocks) {
        if let Some((cid, _)) = self.stored.take() {
            blocks.drop(&cid);
        }
    }

    fn set(&mut self, leaf: Leaf, depth: u32, hash: fn(&str) -> u64, blocks: &mut Blocks) -> Option<Leaf> {
        self.touch(blocks);
        let place = place(hash(&leaf.name), depth);
        match self.find(place) {
            Err(index) => {
                self.slots.insert(index, (place, Slot::Leaf(leaf)));
                None
            }
            Ok(index) => self.slots[index].1.set(leaf, depth + 1, hash, blocks),
        }
    }

    fn remove(&mut self, name: &str, hash: u64, depth: u32, blocks: &mut Blocks) -> Option<Leaf> {
        let index = self.find(place(hash, depth)).ok()?;
        let slot = &mut self.slots[index].1;
        let removed = match slot {
            Slot::Leaf(leaf) if *leaf.name != *name => return None,
            Slot::Leaf(_) => match self.slots.remove(index).1 {
                Slot::Leaf(leaf) => leaf,
                Slot::Twins(_) | Slot::Shard(_) => unreachable!("it was a leaf"),
            },
            Slot::Twins(twins) => {
                let removed = twins.remove(twins.iter().position(|leaf| *leaf.name == *name)?);
                if let [last] = twins.as_slice() {
                    *slot = Slot::Leaf(last.clone());
                }
                removed
            }
            Slot::Shard(below) => {
                let removed = below.remove(name, hash, depth + 1, blocks)?;
                if let [(_, Slot::Leaf(last))] = below.slots.as_slice() {
                    *slot = Slot::Leaf(last.clone());
                }
                removed
            }
        };
        self.touch(blocks);
        Some(removed)
    }

    fn store(&mut self, blocks: &mut Blocks) -> (Cid, u64) {
        if let Some(stored) = self.stored {
            return stored;
        }
        let links: Vec<NodeLink> =
            self.slots.iter_mut().map(|(place, slot)| slot.link(*place, blocks)).collect();
        let block = node::sharded(&links, self.slots.iter().map(|(place, _)| *place));
        let size = block.len() as u64 + links.iter().map(|link| link.size).sum::<u64>();
        let cid = dag_pb_cid(&block);
        blocks.add(cid, block);
        self.stored = Some((cid, size));
        (cid, size)
    }
}

impl Slot {
    /// `depth` is that of a node in this place.
    fn set(&mut self, leaf: Leaf, depth: u32, hash: fn(&str) -> u64, blocks: &mut Blocks) -> Option<Leaf> {
        match self {
            Slot::Shard(below) => below.set(leaf, depth, hash, blocks),
            Slot::Twins(twins) => match twins.binary_search_by(|twin| twin.name.cmp(&leaf.name)) {
                Ok(index) => Some(mem::replace(&mut twins[index], leaf)),
                Err(index) => {
                    twins.insert(index, leaf);
                    None
                }
            },
            Slot::Leaf(old) if old.name == leaf.name => Some(mem::replace(old, leaf)),
            Slot::Leaf(old) if depth == MAX_DEPTH => {
                let mut twins = vec![old.clone(), leaf];
                twins.sort_by(|a, b| a.name.cmp(&b.name));
                *self = Slot::Twins(twins);
                None
            }
            Slot::Leaf(old) => {
                let mut below = Shard::default();
                below.set(old.clone(), depth, hash, blocks);
                below.set(leaf, depth, hash, blocks);
                *self = Slot::Shard(Box::new(below));
                None
            }
        }
    }

    fn link(&mut self, place: u8, blocks: &mut Blocks) -> NodeLink {
        match self {
            Slot::Leaf(leaf) => leaf.link(place),
            Slot::Twins(twins) => twins[0].link(place),
            Slot::Shard(below) => {
                let (cid, size) = below.store(blocks);
                NodeLink { name: format!("{place:02X}"), cid, size }
            }
        }
    }
}

impl Leaf {
    fn link(&self, place: u8) -> NodeLink {
        NodeLink { name: format!("{place:02X}{}", self.name), cid: self.cid, size: self.size }
    }
}
