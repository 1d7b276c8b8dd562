//! OpenZeppelin's standard Merkle tree over `[address, uint256]`, which contracts verify.
//!
//! A leaf is `keccak(keccak(abi.encode(address, amount)))`, a node `keccak(min ‖ max)`, leaves are sorted,
//! and the root of no entries is 32 zero bytes.

use crate::{
    address::Address,
    digest::{Digest, keccak256},
};

/// The longest proof that [`verify`] looks at: enough for 2^64 entries.
pub const MAX_PROOF_LEN: usize = 64;

/// A complete tree of `n` entries: `2n − 1` hashes, the root first, the leaves in descending order last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandardTree {
    nodes: Vec<Digest>,
}

impl StandardTree {
    /// The tree of these entries, whose order does not matter.
    pub fn new(entries: &[(Address, u128)]) -> Self {
        let mut leaves: Vec<Digest> =
            entries.iter().map(|(address, amount)| leaf(*address, *amount)).collect();
        leaves.sort_unstable_by(|a, b| b.cmp(a));
        let inner = leaves.len().saturating_sub(1);
        let mut nodes = vec![Digest::ZERO; inner];
        nodes.append(&mut leaves);
        for index in (0..inner).rev() {
            nodes[index] = node(&nodes[2 * index + 1], &nodes[2 * index + 2]);
        }
        Self { nodes }
    }

    /// The root; 32 zero bytes without entries.
    pub fn root(&self) -> Digest {
        self.nodes.first().copied().unwrap_or(Digest::ZERO)
    }

    /// The proof of an entry, from the leaf's sibling up; `None` if the entry is not in the tree.
    pub fn proof(&self, address: Address, amount: u128) -> Option<Vec<Digest>> {
        let leaves = self.nodes.len() / 2;
        let position =
            self.nodes[leaves..].binary_search_by(|other| leaf(address, amount).cmp(other)).ok()?;
        let mut index = leaves + position;
        let mut proof = Vec::new();
        while index > 0 {
            let sibling = if index % 2 == 1 { index + 1 } else { index - 1 };
            proof.push(self.nodes[sibling]);
            index = (index - 1) / 2;
        }
        Some(proof)
    }
}

/// Whether `proof` shows that `address` has `amount` under this root.
pub fn verify(address: Address, amount: u128, proof: &[Digest], root: &Digest) -> bool {
    let climb = |hash, sibling| node(&hash, sibling);
    proof.len() <= MAX_PROOF_LEN && proof.iter().fold(leaf(address, amount), climb) == *root
}

/// The double hash of an entry's ABI encoding.
pub fn leaf(address: Address, amount: u128) -> Digest {
    let mut encoded = [0; 64];
    encoded[12..32].copy_from_slice(&address.0);
    encoded[48..].copy_from_slice(&amount.to_be_bytes());
    Digest(keccak256(&keccak256(&encoded)))
}

fn node(a: &Digest, b: &Digest) -> Digest {
    let mut preimage = [0; 64];
    preimage[..32].copy_from_slice(&a.min(b).0);
    preimage[32..].copy_from_slice(&a.max(b).0);
    Digest(keccak256(&preimage))
}
