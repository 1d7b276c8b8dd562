//! From a CID and a path to what lies there: through folders by name, through DAG-CBOR by field.

use super::{DAG_CBOR, DAG_PB, MAX_FOREIGN_LINKS, UnixFsError, decode_folder};
use cid::Cid;
use std::collections::VecDeque;
use swarm_protocol::codec::{self, CodecError};
use swarm_protocol::tree::{FANOUT_BITS, place_of};

/// The longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("there is no '{name}' in {at}")]
    Absent { name: String, at: Cid },
    #[error("{0} has nothing below it")]
    NoFolder(Cid),
    #[error("'{name}' in {at} is a value of that block and no block of its own")]
    Value { name: String, at: Cid },
    #[error("{0} was not what was asked for")]
    OtherBlock(Cid),
    #[error("{at} cannot be read: {reason}")]
    Unreadable { at: Cid, reason: String },
}

/// Follows a path block by block.
#[derive(Debug)]
pub struct Resolver {
    at: Cid,
    ahead: VecDeque<String>,
    /// Nodes of one sharded folder passed so far.
    depth: u32,
}

impl Resolver {
    /// From `root` along these names.
    pub fn new(root: Cid, path: impl IntoIterator<Item = String>) -> Self {
        Self { at: root, ahead: path.into_iter().collect(), depth: 0 }
    }

    /// Where it is now: the end of the path once nothing more is wanted.
    pub fn at(&self) -> Cid {
        self.at
    }

    /// The block that is wanted next; none at the end of the path.
    pub fn wanted(&self) -> Option<Cid> {
        (!self.ahead.is_empty()).then_some(self.at)
    }

    /// Takes the block that is wanted.
    pub fn supply(&mut self, block: &[u8]) -> Result<(), PathError> {
        if !codec::names(&self.at, block) {
            return Err(PathError::OtherBlock(self.at));
        }
        match self.at.codec() {
            DAG_PB => self.enter(block),
            DAG_CBOR => self.follow(block),
            _ => Err(PathError::NoFolder(self.at)),
        }
    }

    fn enter(&mut self, block: &[u8]) -> Result<(), PathError> {
        let Some(name) = self.ahead.front() else { return Ok(()) };
        let at = self.at;
        let absent = || PathError::Absent { name: name.clone(), at };
        let folder = decode_folder(block, MAX_FOREIGN_LINKS).map_err(|error| match error {
            UnixFsError::NotAFolder => PathError::NoFolder(at),
            error => PathError::Unreadable { at, reason: error.to_string() },
        })?;
        let find = |wanted: &str| folder.links.iter().find(|(name, _)| name == wanted).map(|(_, cid)| *cid);
        if !folder.is_sharded {
            self.at = find(name).ok_or_else(absent)?;
        } else {
            let place = place_of(name).checked_shl(FANOUT_BITS * self.depth).filter(|_| self.depth < 8);
            let place = format!("{:02X}", place.ok_or_else(absent)? >> (u64::BITS - FANOUT_BITS));
            match (find(&format!("{place}{name}")), find(&place)) {
                (Some(cid), _) => self.at = cid,
                (None, Some(below)) => {
                    (self.at, self.depth) = (below, self.depth + 1);
                    return Ok(());
                }
                (None, None) => return Err(absent()),
            }
        }
        self.ahead.pop_front();
        self.depth = 0;
        Ok(())
    }

    fn follow(&mut self, block: &[u8]) -> Result<(), PathError> {
        let at = self.at;
        let names: Vec<String> = self.ahead.iter().cloned().collect();
        let found = codec::follow(block, &names)
            .map_err(|error: CodecError| PathError::Unreadable { at, reason: error.to_string() })?;
        let name = names.join("/");
        match found {
            codec::Followed::Link(cid, passed) => {
                self.at = cid;
                self.ahead.drain(..passed);
                Ok(())
            }
            codec::Followed::Value => Err(PathError::Value { name, at }),
            codec::Followed::Nothing => Err(PathError::Absent { name, at }),
        }
    }
}
