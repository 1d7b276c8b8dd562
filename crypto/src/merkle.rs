//! An append-only Merkle tree of the shape of RFC 9162 (and RFC 6962), section 2.1.
//!
//! The pool's tree is over BLAKE3: a leaf is `derive(Leaf, data)`, an inner node `derive(Node, left ‖ right)`,
//! the root of nothing 32 zero bytes. Functions take leaf hashes, made by [`leaf`]. The shape is generic over
//! [`TreeHash`], so that the published SHA-256 vectors run through the same code.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Serialize};

use crate::digest::{Context, Digest, derive};

/// The hashes of a tree.
pub trait TreeHash {
    /// The hash of a leaf's data.
    fn leaf(data: &[u8]) -> Digest;
    /// The hash of an inner node.
    fn node(left: &Digest, right: &Digest) -> Digest;
    /// The root of a tree without leaves.
    fn empty() -> Digest;
}

/// The pool's own hashes: BLAKE3 with a context each for leaves and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolHash {}

impl TreeHash for PoolHash {
    fn leaf(data: &[u8]) -> Digest {
        derive(Context::Leaf, data)
    }

    fn node(left: &Digest, right: &Digest) -> Digest {
        let mut preimage = [0; 64];
        preimage[..32].copy_from_slice(&left.0);
        preimage[32..].copy_from_slice(&right.0);
        derive(Context::Node, &preimage)
    }

    fn empty() -> Digest {
        Digest::ZERO
    }
}

/// The hash of a leaf of the pool's tree.
pub fn leaf(data: &[u8]) -> Digest {
    PoolHash::leaf(data)
}

/// The root of the pool's tree over these leaf hashes.
pub fn root(leaves: &[Digest]) -> Digest {
    root_with::<PoolHash>(leaves)
}

/// The proof that leaf `index` is in the pool's tree over `leaves`, from the leaf's sibling up; `None` beyond the end.
pub fn inclusion_proof(leaves: &[Digest], index: u64) -> Option<Vec<Digest>> {
    inclusion_proof_with::<PoolHash>(leaves, index)
}

/// Whether `proof` shows that `leaf` is the leaf `index` of the pool's tree of `count` leaves with this root.
pub fn verify_inclusion(leaf: &Digest, index: u64, count: u64, proof: &[Digest], root: &Digest) -> bool {
    verify_inclusion_with::<PoolHash>(leaf, index, count, proof, root)
}

/// [`root`] with other hashes.
pub fn root_with<H: TreeHash>(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => H::empty(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            H::node(&root_with::<H>(left), &root_with::<H>(right))
        }
    }
}

/// [`inclusion_proof`] with other hashes.
pub fn inclusion_proof_with<H: TreeHash>(leaves: &[Digest], index: u64) -> Option<Vec<Digest>> {
    let mut index = usize::try_from(index).ok().filter(|index| *index < leaves.len())?;
    let mut leaves = leaves;
    let mut proof = Vec::new();
    while leaves.len() > 1 {
        let at = split(leaves.len());
        let (left, right) = leaves.split_at(at);
        if index < at {
            proof.push(root_with::<H>(right));
            leaves = left;
        } else {
            proof.push(root_with::<H>(left));
            leaves = right;
            index -= at;
        }
    }
    proof.reverse();
    Some(proof)
}

/// [`verify_inclusion`] with other hashes (RFC 9162, section 2.1.3.2).
pub fn verify_inclusion_with<H: TreeHash>(
    leaf: &Digest,
    index: u64,
    count: u64,
    proof: &[Digest],
    root: &Digest,
) -> bool {
    if index >= count {
        return false;
    }
    let (mut node, mut last) = (index, count - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = H::node(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = H::node(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

/// A tree that grows by appending and keeps only the roots of its complete subtrees: one per bit of its length.
#[derive(Serialize, Deserialize)]
#[serde(try_from = "Frontier", into = "Frontier", bound = "")]
pub struct Tree<H: TreeHash = PoolHash> {
    frontier: Frontier,
    hash: PhantomData<H>,
}

/// The serialised form: the number of leaves, and the roots of the complete subtrees, largest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frontier {
    count: u64,
    peaks: Vec<Digest>,
}

/// A stored tree does not have one peak per set bit of its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tree's peaks do not fit its length")]
pub struct FrontierError;

impl Tree {
    /// A tree of the pool's own hashes, without leaves; [`Default`] makes one of other hashes.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<H: TreeHash> Tree<H> {
    /// How many leaves were appended.
    pub fn len(&self) -> u64 {
        self.frontier.count
    }

    /// Whether no leaf was appended.
    pub fn is_empty(&self) -> bool {
        self.frontier.count == 0
    }

    /// Appends a leaf hash and returns its index.
    pub fn append(&mut self, leaf: Digest) -> u64 {
        let Frontier { count, peaks } = &mut self.frontier;
        let index = *count;
        let mut hash = leaf;
        for _ in 0..index.trailing_ones() {
            let left = peaks.pop().expect("one peak per set bit of the count");
            hash = H::node(&left, &hash);
        }
        peaks.push(hash);
        *count += 1;
        index
    }

    /// The root over all leaves appended so far.
    pub fn root(&self) -> Digest {
        let mut peaks = self.frontier.peaks.iter().rev();
        let Some(smallest) = peaks.next() else {
            return H::empty();
        };
        peaks.fold(*smallest, |right, left| H::node(left, &right))
    }
}

impl<H: TreeHash> Default for Tree<H> {
    fn default() -> Self {
        Self { frontier: Frontier::default(), hash: PhantomData }
    }
}

impl<H: TreeHash> Clone for Tree<H> {
    fn clone(&self) -> Self {
        Self { frontier: self.frontier.clone(), hash: PhantomData }
    }
}

impl<H: TreeHash> PartialEq for Tree<H> {
    fn eq(&self, other: &Self) -> bool {
        self.frontier == other.frontier
    }
}

impl<H: TreeHash> Eq for Tree<H> {}

impl<H: TreeHash> fmt::Debug for Tree<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("len", &self.len()).field("root", &self.root()).finish()
    }
}

impl<H: TreeHash> TryFrom<Frontier> for Tree<H> {
    type Error = FrontierError;

    fn try_from(frontier: Frontier) -> Result<Self, FrontierError> {
        if u64::from(frontier.count.count_ones()) == frontier.peaks.len() as u64 {
            Ok(Self { frontier, hash: PhantomData })
        } else {
            Err(FrontierError)
        }
    }
}

impl<H: TreeHash> From<Tree<H>> for Frontier {
    fn from(tree: Tree<H>) -> Self {
        tree.frontier
    }
}
