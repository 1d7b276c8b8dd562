use super::dag_pb;
use super::{
    DAG_PB, MAX_DEPTH, MAX_FILE_BYTES, MAX_FOREIGN_LINKS, MAX_SPARE_BLOCKS, MIN_MEAN_BYTES, RAW, UnixFsError,
};
use cid::Cid;
use swarm_protocol::codec;

/// Walks a UnixFS file of a declared length, block after block, in the order of its bytes.
///
/// It asks for one block at a time, and takes no more memory than the links on the way down to that block: whoever
/// made the file can neither make it longer than declared, nor cut it finer or pile it higher than the limits allow.
#[derive(Debug)]
pub struct Reader {
    /// What is still to be read, the next last, with its length, or the most that it may be, and its depth.
    ahead: Vec<(Cid, Length, usize)>,
    blocks_left: u64,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Exactly(u64),
    AtMost(u64),
}

impl Length {
    fn check(self, found: u64) -> Result<(), UnixFsError> {
        match self {
            Length::Exactly(length) if found != length => Err(UnixFsError::Lengths),
            Length::AtMost(max) if found > max => Err(UnixFsError::TooLong(found)),
            Length::Exactly(_) | Length::AtMost(_) => Ok(()),
        }
    }
}

impl Reader {
    /// A reader of the file `root`, which is said to have so many bytes.
    pub fn new(root: Cid, length: u64) -> Result<Self, UnixFsError> {
        Self::begin(root, length, Length::Exactly(length))
    }

    /// A reader of the file `root`, whose length is unknown and must not be over `max`.
    pub fn at_most(root: Cid, max: u64) -> Result<Self, UnixFsError> {
        Self::begin(root, max, Length::AtMost(max))
    }

    fn begin(root: Cid, max: u64, length: Length) -> Result<Self, UnixFsError> {
        if max > MAX_FILE_BYTES {
            return Err(UnixFsError::TooLong(max));
        }
        Ok(Self { ahead: vec![(root, length, 0)], blocks_left: max / MIN_MEAN_BYTES + MAX_SPARE_BLOCKS })
    }

    /// The block that is needed next; none when the file is read.
    pub fn wanted(&self) -> Option<Cid> {
        self.ahead.last().map(|(cid, _, _)| *cid)
    }

    /// How many bytes of the file the block that is needed next holds, if it is a leaf of a known length.
    pub fn wanted_length(&self) -> Option<u64> {
        match self.ahead.last() {
            Some((cid, Length::Exactly(length), _)) if cid.codec() == RAW => Some(*length),
            _ => None,
        }
    }

    /// The next `most` blocks as far as they are known: that which is wanted, and others that are certain to follow.
    pub fn ahead(&self, most: usize) -> impl Iterator<Item = Cid> {
        self.ahead.iter().rev().take(most).map(|(cid, _, _)| *cid)
    }

    /// Whether the block is known to be wanted, now or later.
    pub fn needs(&self, cid: &Cid) -> bool {
        self.ahead.iter().any(|(ahead, _, _)| ahead == cid)
    }

    /// Takes the wanted block; gives the bytes of the file that are in it.
    pub fn supply<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], UnixFsError> {
        let Some((cid, length, depth)) = self.ahead.pop() else { return Err(UnixFsError::OtherBlock) };
        if !codec::names(&cid, block) {
            return Err(UnixFsError::OtherBlock);
        }
        self.blocks_left = self.blocks_left.checked_sub(1).ok_or(UnixFsError::TooManyBlocks)?;
        match cid.codec() {
            RAW => length.check(block.len() as u64).map(|()| block),
            DAG_PB => self.descend(block, length, depth),
            _ => Err(UnixFsError::NotAFile),
        }
    }

    fn descend<'a>(
        &mut self,
        block: &'a [u8],
        length: Length,
        depth: usize,
    ) -> Result<&'a [u8], UnixFsError> {
        let node = dag_pb::decode(block, MAX_FOREIGN_LINKS)?;
        let below: u64 = node.children.iter().map(|(_, length)| length).sum();
        length.check(below + node.data.len() as u64)?;
        if depth == MAX_DEPTH && !node.children.is_empty() {
            return Err(UnixFsError::TooDeep);
        }
        self.ahead.extend(
            node.children.into_iter().rev().map(|(cid, length)| (cid, Length::Exactly(length), depth + 1)),
        );
        Ok(node.data)
    }
}
