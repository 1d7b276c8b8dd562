//! Walks over blocks that link each other, whoever made them.

use super::dag_pb::{self, decode_folder};
use super::{DAG_CBOR, DAG_PB, MAX_FOREIGN_LINKS, RAW, UnixFsError};
use cid::Cid;
use std::collections::BTreeSet;
use swarm_protocol::codec::{self, CodecError};

/// The most blocks of one walk.
pub const MAX_WALK_BLOCKS: usize = 1 << 20;

/// Why a walk ends early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    #[error("{0} was not asked for")]
    NotAsked(Cid),
    #[error("{0} has another content than its CID says")]
    OtherBlock(Cid),
    #[error("{0} is of a kind whose links are not known: {1:#x}")]
    OtherCodec(Cid, u64),
    #[error("{cid} cannot be read: {reason}")]
    Unreadable { cid: Cid, reason: String },
    #[error("{0} has too many links")]
    TooManyLinks(Cid),
    #[error("there are more than {MAX_WALK_BLOCKS} blocks")]
    TooManyBlocks,
    #[error("there are more than {0} bytes")]
    TooLong(u64),
}

/// Walks over all blocks below a root, each once: raw blocks, files and folders, and DAG-CBOR.
///
/// Several blocks may be asked for at once. Whoever made them can neither make it go in circles, nor go on past the
/// limits on blocks and bytes.
#[derive(Debug)]
pub struct Walk {
    /// Next to be asked for, the last first.
    ahead: Vec<Cid>,
    asked: BTreeSet<Cid>,
    seen: BTreeSet<Cid>,
    bytes_left: u64,
    max_bytes: u64,
}

impl Walk {
    /// A walk that begins at `root` and takes at most so many bytes.
    pub fn new(root: Cid, max_bytes: u64) -> Self {
        let (asked, seen) = (BTreeSet::new(), BTreeSet::from([root]));
        Self { ahead: vec![root], asked, seen, bytes_left: max_bytes, max_bytes }
    }

    /// A block that is wanted and was not asked for yet; it counts as asked for now.
    pub fn wanted(&mut self) -> Option<Cid> {
        let cid = self.ahead.pop()?;
        self.asked.insert(cid);
        Some(cid)
    }

    /// Takes a block that was asked for.
    pub fn supply(&mut self, cid: &Cid, block: &[u8]) -> Result<(), WalkError> {
        if !self.asked.remove(cid) {
            return Err(WalkError::NotAsked(*cid));
        }
        if !codec::names(cid, block) {
            return Err(WalkError::OtherBlock(*cid));
        }
        let left = self.bytes_left.checked_sub(block.len() as u64);
        self.bytes_left = left.ok_or(WalkError::TooLong(self.max_bytes))?;
        let links = links(cid, block)?;
        let from = self.ahead.len();
        self.ahead.extend(links.into_iter().filter(|link| self.seen.insert(*link)));
        self.ahead[from..].reverse();
        if self.seen.len() > MAX_WALK_BLOCKS { Err(WalkError::TooManyBlocks) } else { Ok(()) }
    }

    /// Whether every block has come.
    pub fn is_done(&self) -> bool {
        self.ahead.is_empty() && self.asked.is_empty()
    }
}

fn links(cid: &Cid, block: &[u8]) -> Result<Vec<Cid>, WalkError> {
    let unreadable = |reason: String| WalkError::Unreadable { cid: *cid, reason };
    let links = match cid.codec() {
        RAW => Vec::new(),
        DAG_PB => dag_pb::links(block, MAX_FOREIGN_LINKS).map_err(|error| match error {
            UnixFsError::TooManyLinks => WalkError::TooManyLinks(*cid),
            error => unreadable(error.to_string()),
        })?,
        DAG_CBOR => codec::links(block).map_err(|error: CodecError| unreadable(error.to_string()))?,
        other => return Err(WalkError::OtherCodec(*cid, other)),
    };
    if links.len() > MAX_FOREIGN_LINKS { Err(WalkError::TooManyLinks(*cid)) } else { Ok(links) }
}

/// Reads all names of a folder, however many nodes it has.
#[derive(Debug)]
pub struct Listing {
    ahead: Vec<(Cid, usize)>,
    nodes_left: usize,
}

/// Nodes above one another in a sharded folder.
const MAX_LEVELS: usize = 8;

impl Listing {
    pub fn new(folder: Cid) -> Self {
        Self { ahead: vec![(folder, 1)], nodes_left: MAX_WALK_BLOCKS }
    }

    /// The node that is wanted next; none once all are read.
    pub fn wanted(&self) -> Option<Cid> {
        self.ahead.last().map(|(cid, _)| *cid)
    }

    /// Takes the node that is wanted; gives the names in it and what they stand for.
    pub fn supply(&mut self, block: &[u8]) -> Result<Vec<(String, Cid)>, UnixFsError> {
        let (cid, level) = self.ahead.pop().ok_or(UnixFsError::OtherBlock)?;
        if cid.codec() != DAG_PB || !codec::names(&cid, block) {
            return Err(UnixFsError::OtherBlock);
        }
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or(UnixFsError::TooManyBlocks)?;
        let folder = decode_folder(block, MAX_FOREIGN_LINKS)?;
        if !folder.is_sharded {
            return Ok(folder.links);
        }
        let (nodes, names): (Vec<_>, Vec<_>) =
            folder.links.into_iter().partition(|(name, _)| name.len() == 2);
        if level == MAX_LEVELS && !nodes.is_empty() {
            return Err(UnixFsError::TooDeep);
        }
        self.ahead.extend(nodes.into_iter().rev().map(|(_, cid)| (cid, level + 1)));
        Ok(names.into_iter().map(|(name, cid)| (name[2..].to_owned(), cid)).collect())
    }
}
