use super::dag_pb::{self, Child};
use super::{CHUNK_BYTES, DAG_PB, MAX_LINKS, RAW};
use cid::Cid;
use cid::multihash::Multihash;
use sha2::{Digest, Sha256};
use std::convert::Infallible;

const SHA2_256: u64 = 0x12;

/// How a file is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the file in one leaf, at least 1.
    pub chunk: usize,
    /// Links of one node, at least 2.
    pub links: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { chunk: CHUNK_BYTES, links: MAX_LINKS }
    }
}

/// Cuts a stream of bytes into the blocks of a UnixFS file: raw leaves under a balanced tree, CIDv1 with sha2-256.
///
/// It holds one leaf and, for each level of the tree, the links of one node, however long the file is.
#[derive(Debug, Default)]
pub struct Writer {
    shape: Shape,
    leaf: Vec<u8>,
    /// What has no node above it yet, from the leaves up.
    levels: Vec<Vec<Child>>,
}

/// Cuts a whole file as Helia does: its root and its blocks.
pub fn import(content: &[u8]) -> (Cid, Vec<(Cid, Vec<u8>)>) {
    let mut blocks = Vec::new();
    let mut store = |cid, block| {
        blocks.push((cid, block));
        Ok::<(), Infallible>(())
    };
    let mut writer = Writer::new();
    let Ok(()) = writer.push(content, &mut store);
    let Ok(root) = writer.finish(&mut store);
    (root.cid, blocks)
}

impl Writer {
    /// A writer that cuts as Helia does.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that cuts otherwise.
    pub fn with_shape(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

    /// Takes the next bytes of the file; every block that is full goes to `store`.
    pub fn push<E>(
        &mut self,
        mut bytes: &[u8],
        store: &mut impl FnMut(Cid, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.leaf.len() == self.shape.chunk {
                self.put_leaf(store)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.shape.chunk - self.leaf.len()));
            self.leaf.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Stores what is left and says what the file is. An empty file is an empty leaf.
    pub fn finish<E>(mut self, store: &mut impl FnMut(Cid, Vec<u8>) -> Result<(), E>) -> Result<Child, E> {
        self.put_leaf(store)?;
        let mut level = 0;
        loop {
            let last = level + 1 == self.levels.len();
            let here = &mut self.levels[level];
            if let ([root], true) = (here.as_slice(), last) {
                return Ok(*root);
            }
            let node = std::mem::take(here);
            if !node.is_empty() {
                self.put_node(level, &node, store)?;
            }
            level += 1;
        }
    }

    fn put_leaf<E>(&mut self, store: &mut impl FnMut(Cid, Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let block = std::mem::take(&mut self.leaf);
        let (cid, length) = (cid_of(RAW, &block), block.len() as u64);
        store(cid, block)?;
        self.put(0, Child { cid, length, size: length }, store)
    }

    fn put<E>(
        &mut self,
        level: usize,
        child: Child,
        store: &mut impl FnMut(Cid, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let here = &mut self.levels[level];
        if here.len() < self.shape.links {
            here.push(child);
            return Ok(());
        }
        let full = std::mem::replace(here, vec![child]);
        self.put_node(level, &full, store)
    }

    fn put_node<E>(
        &mut self,
        level: usize,
        children: &[Child],
        store: &mut impl FnMut(Cid, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let block = dag_pb::encode(children);
        let cid = cid_of(DAG_PB, &block);
        let length = children.iter().map(|child| child.length).sum();
        let size = block.len() as u64 + children.iter().map(|child| child.size).sum::<u64>();
        store(cid, block)?;
        self.put(level + 1, Child { cid, length, size }, store)
    }
}

pub(super) fn cid_of(codec: u64, block: &[u8]) -> Cid {
    let hash = Multihash::wrap(SHA2_256, &Sha256::digest(block)).expect("a multihash has room for 32 bytes");
    Cid::new_v1(codec, hash)
}
