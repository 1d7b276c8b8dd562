use serde::Deserialize;
use swarm_crypto::{
    Address, Digest,
    digest::keccak256,
    standard_tree::{MAX_PROOF_LEN, StandardTree, leaf, verify},
};

#[test]
fn the_root_is_the_one_a_contract_expects() {
    let entries = [
        ("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", 750_000),
        ("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC", 250_000),
        ("0x90F79bf6EB2c4f870365E785982E1f101E93b906", 1),
    ]
    .map(|(address, amount)| (address.parse().unwrap(), amount));
    let root = StandardTree::new(&entries).root();
    assert_eq!(root.to_string(), "c8dcb98b60c5fa950fd868e8dcfda7572e17da1e91469776060d5e310a3c0eb3");
}

#[derive(Deserialize)]
struct Published {
    root: Digest,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    address: Address,
    amount: String,
    proof: Vec<Digest>,
}

#[test]
fn trees_and_proofs_equal_those_of_openzeppelin() {
    let trees: Vec<Published> = crate::vectors("standard-trees.json");
    assert_eq!(trees.len(), 10);
    for Published { root, entries } in trees {
        let amounts: Vec<u128> = entries.iter().map(|entry| entry.amount.parse().unwrap()).collect();
        let pairs: Vec<_> = entries.iter().map(|entry| entry.address).zip(amounts).collect();
        let tree = StandardTree::new(&pairs);
        assert_eq!(tree.root(), root);
        for ((address, amount), entry) in pairs.iter().zip(&entries) {
            assert_eq!(tree.proof(*address, *amount).as_ref(), Some(&entry.proof));
            assert!(verify(*address, *amount, &entry.proof, &root));
            assert!(!verify(*address, *amount ^ 1, &entry.proof, &root));
            assert!(!verify(Address([1; 20]), *amount, &entry.proof, &root));
        }
    }
}

#[test]
fn the_order_of_the_entries_does_not_matter() {
    let mut entries: Vec<_> = (0..9).map(|number| (Address([number; 20]), u128::from(number))).collect();
    let root = StandardTree::new(&entries).root();
    entries.reverse();
    assert_eq!(StandardTree::new(&entries).root(), root);
    assert_eq!(StandardTree::new(&entries).proof(Address([1; 20]), 2), None);
}

#[test]
fn nothing_and_one_thing_have_roots_too() {
    let one = (Address([1; 20]), 1);
    assert_eq!(StandardTree::new(&[]).root(), Digest::ZERO);
    assert_eq!(StandardTree::new(&[]).proof(one.0, one.1), None);
    assert_eq!(StandardTree::new(&[one]).root(), leaf(one.0, one.1));
    assert_eq!(StandardTree::new(&[one]).proof(one.0, one.1), Some(vec![]));
}

#[test]
fn a_proof_longer_than_any_tree_is_refused() {
    let mut root = leaf(Address::ZERO, 7);
    let sibling = Digest([0xff; 32]);
    for length in 1..=MAX_PROOF_LEN + 1 {
        root = Digest(keccak256(&[root.0, sibling.0].concat()));
        let accepted = verify(Address::ZERO, 7, &vec![sibling; length], &root);
        assert_eq!(accepted, length <= MAX_PROOF_LEN, "{length}");
    }
}

#[test]
#[ignore = "prints trees for OpenZeppelin's package to check: scripts/settlement.sh runs both"]
fn write_trees() {
    let path = std::env::var("TREES").expect("TREES names a file");
    let trees = (1..=33).chain([100, 10_000]).map(|count: u64| {
        let account = |n: u64| {
            let digest = swarm_crypto::digest::blake3(&[count.to_be_bytes(), n.to_be_bytes()].concat());
            let (address, amount) = (digest.0[..20].try_into().unwrap(), digest.0[20..32].try_into().unwrap());
            let amount: [u8; 12] = amount;
            (Address(address), u128::from_be_bytes([[0; 4].as_slice(), &amount].concat().try_into().unwrap()))
        };
        let accounts: Vec<(Address, u128)> = (0..count).map(account).collect();
        let tree = StandardTree::new(&accounts);
        let entries: Vec<_> = accounts
            .iter()
            .map(|(address, amount)| {
                let proof = tree.proof(*address, *amount).unwrap();
                let proof: Vec<_> = proof.iter().map(ToString::to_string).collect();
                serde_json::json!({ "address": address.to_string(), "amount": amount.to_string(), "proof": proof })
            })
            .collect();
        serde_json::json!({ "root": tree.root().to_string(), "entries": entries })
    });
    let text = serde_json::to_vec(&trees.collect::<Vec<_>>()).unwrap();
    std::fs::write(path, text).unwrap();
}
