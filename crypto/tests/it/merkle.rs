use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use swarm_crypto::{
    Digest,
    digest::{Context, derive},
    merkle::{
        PoolHash, Tree, TreeHash, inclusion_proof, inclusion_proof_with, leaf, root, root_with,
        verify_inclusion, verify_inclusion_with,
    },
};

/// The hashes of RFC 6962 and RFC 9162.
enum Rfc9162 {}

impl TreeHash for Rfc9162 {
    fn leaf(data: &[u8]) -> Digest {
        Digest(Sha256::new().chain_update([0]).chain_update(data).finalize().into())
    }

    fn node(left: &Digest, right: &Digest) -> Digest {
        Digest(Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into())
    }

    fn empty() -> Digest {
        Digest(Sha256::digest([]).into())
    }
}

/// The leaves and roots that certificate transparency logs are tested with.
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];
/// Leaf index, number of leaves, proof.
const PROOFS: [(u64, usize, &[&str]); 5] = [
    (0, 1, &[]),
    (
        0,
        8,
        &[
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        &[
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        &[
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
];

fn published_leaves() -> Vec<Digest> {
    LEAVES.iter().map(|data| Rfc9162::leaf(&hex::decode(data).unwrap())).collect()
}

#[test]
fn roots_are_the_published_ones() {
    let leaves = published_leaves();
    let mut tree = Tree::<Rfc9162>::default();
    for (count, expected) in ROOTS.iter().enumerate() {
        assert_eq!(root_with::<Rfc9162>(&leaves[..count]).to_string(), *expected);
        assert_eq!(tree.root().to_string(), *expected);
        if let Some(next) = leaves.get(count) {
            assert_eq!(tree.append(*next), count as u64);
        }
    }
}

#[test]
fn inclusion_proofs_are_the_published_ones() {
    let leaves = published_leaves();
    for (index, count, expected) in PROOFS {
        let proof = inclusion_proof_with::<Rfc9162>(&leaves[..count], index).unwrap();
        let shown: Vec<String> = proof.iter().map(Digest::to_string).collect();
        assert_eq!(shown, expected, "leaf {index} of {count}");
        let (leaf, root) = (&leaves[index as usize], ROOTS[count].parse().unwrap());
        assert!(verify_inclusion_with::<Rfc9162>(leaf, index, count as u64, &proof, &root));
    }
}

#[test]
fn the_pool_tree_hashes_with_its_contexts() {
    assert_eq!(root(&[]), Digest::ZERO);
    let (a, b) = (leaf(b"a"), leaf(b"b"));
    assert_eq!(a, derive(Context::Leaf, b"a"));
    assert_eq!(root(&[a]), a);
    assert_eq!(root(&[a, b]), derive(Context::Node, &[a.0, b.0].concat()));
}

fn numbered(count: usize) -> Vec<Digest> {
    (0..count).map(|number| leaf(&number.to_be_bytes())).collect()
}

proptest! {
    #[test]
    fn appending_equals_building_at_once(count in 0_usize..300) {
        let leaves = numbered(count);
        let mut tree = Tree::new();
        for (index, leaf) in leaves.iter().enumerate() {
            prop_assert_eq!(tree.append(*leaf), index as u64);
        }
        prop_assert_eq!(tree.len(), count as u64);
        prop_assert_eq!(tree.root(), root(&leaves));
    }

    #[test]
    fn every_leaf_and_no_other_is_included(count in 1_usize..200, index: prop::sample::Index, other: prop::sample::Index) {
        let leaves = numbered(count);
        let (index, other) = (index.index(count), other.index(count + 1));
        let (root, count) = (root(&leaves), count as u64);
        let proof = inclusion_proof(&leaves, index as u64).unwrap();
        prop_assert!(verify_inclusion(&leaves[index], index as u64, count, &proof, &root));
        if index != other {
            prop_assert!(!verify_inclusion(&leaves[index], other as u64, count, &proof, &root));
        }
        prop_assert!(!verify_inclusion(&leaf(b"other"), index as u64, count, &proof, &root));
        prop_assert!(!verify_inclusion(&leaves[index], index as u64, count, &proof, &leaf(b"other")));
        let longer = [proof.as_slice(), &[root]].concat();
        prop_assert!(!verify_inclusion(&leaves[index], index as u64, count, &longer, &root));
        if let Some((_, shorter)) = proof.split_last() {
            prop_assert!(!verify_inclusion(&leaves[index], index as u64, count, shorter, &root));
        }
    }

    #[test]
    fn a_stored_tree_goes_on_where_it_stopped(before in 0_usize..100, after in 0_usize..100) {
        let leaves = numbered(before + after);
        let mut tree = Tree::new();
        for leaf in &leaves[..before] {
            tree.append(*leaf);
        }
        let bytes = serde_ipld_dagcbor::to_vec(&tree).unwrap();
        let mut stored: Tree = serde_ipld_dagcbor::from_slice(&bytes).unwrap();
        prop_assert_eq!(&stored, &tree);
        for leaf in &leaves[before..] {
            stored.append(*leaf);
        }
        prop_assert_eq!(stored.root(), root(&leaves));
    }
}

#[test]
fn there_is_no_proof_beyond_the_end() {
    let leaves = numbered(3);
    assert_eq!(inclusion_proof(&leaves, 3), None);
    assert_eq!(inclusion_proof(&[], 0), None);
    assert!(!verify_inclusion(&leaves[0], 0, 0, &[], &leaves[0]));
    assert!(!verify_inclusion(&leaves[0], 1, 1, &[], &leaves[0]));
}

/// RFC 9162 stops where the tree does, even if the hashes above would give the root that is asked for.
#[test]
fn a_proof_does_not_climb_above_the_root() {
    let (leaf, above) = (leaf(b"leaf"), leaf(b"above"));
    let higher = PoolHash::node(&above, &leaf);
    assert!(!verify_inclusion(&leaf, 0, 1, &[above], &higher));
    assert!(verify_inclusion(&leaf, 1, 2, &[above], &higher));
}

#[test]
fn a_stored_tree_with_peaks_missing_is_refused() {
    let mut tree = Tree::new();
    for leaf in numbered(3) {
        tree.append(leaf);
    }
    let json = serde_json::to_string(&tree).unwrap();
    assert_eq!(serde_json::from_str::<Tree>(&json).unwrap(), tree);
    let error = serde_json::from_str::<Tree>(&json.replace("\"count\":3", "\"count\":4")).unwrap_err();
    assert!(error.to_string().contains("peaks do not fit"), "{error}");
}
