use super::*;
use crate::protobuf::Fields;
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The largest node of a sharded folder whose names are addresses or CIDs.
const MAX_NODE_BYTES: usize = 32 << 10;

type Stored = BTreeMap<Cid, Vec<u8>>;

fn leaf(name: &str, content: &[u8], blocks: &mut Blocks) -> Leaf {
    let cid = raw_cid(content);
    blocks.add(cid, content.to_vec());
    Leaf { name: name.into(), cid, size: content.len() as u64, blocks: [cid].into() }
}

fn put(folder: &mut Folder, name: &str, content: &[u8], blocks: &mut Blocks) {
    let leaf = leaf(name, content, blocks);
    let old = folder.set(leaf, blocks);
    old.iter().flat_map(|old| &old.blocks).for_each(|cid| blocks.drop(cid));
}

fn take(folder: &mut Folder, name: &str, blocks: &mut Blocks) {
    let old = folder.remove(name, blocks);
    old.iter().flat_map(|old| &old.blocks).for_each(|cid| blocks.drop(cid));
}

fn scratch(names: &BTreeMap<String, u8>, hash: fn(&str) -> u64) -> (Cid, Stored) {
    let (mut folder, mut blocks) = (Folder::with_hash(hash), Blocks::default());
    names.iter().for_each(|(name, content)| put(&mut folder, name, &[*content], &mut blocks));
    let (root, _) = folder.store(&mut blocks);
    (root, blocks.take_changes().0.into_iter().collect())
}

fn store(stored: &mut Stored, changes: (Vec<(Cid, Vec<u8>)>, Vec<Cid>)) {
    for (cid, block) in changes.0 {
        assert!(stored.insert(cid, block).is_none(), "{cid} was there");
    }
    for cid in changes.1 {
        assert!(stored.remove(&cid).is_some(), "{cid} was not there");
    }
}

/// Names and targets in a node, as whoever fetches it reads them.
fn links(block: &[u8]) -> Vec<(String, Cid)> {
    let fields = Fields(block).map(Result::unwrap).filter(|(field, _)| *field == 2);
    let link = |value: crate::protobuf::Value<'_>| {
        let parts: BTreeMap<_, _> = Fields(value.bytes().unwrap()).map(Result::unwrap).collect();
        let name = String::from_utf8(parts[&2].bytes().unwrap().to_vec()).unwrap();
        (name, Cid::try_from(parts[&1].bytes().unwrap()).unwrap())
    };
    fields.map(|(_, value)| link(value)).collect()
}

/// What a walk from a node of a sharded folder finds, and the nodes that it passes.
fn walk(node: Cid, stored: &Stored, found: &mut BTreeMap<String, Cid>, passed: &mut BTreeSet<Cid>) {
    passed.insert(node);
    for (name, cid) in links(&stored[&node]) {
        match &name[2..] {
            "" => walk(cid, stored, found, passed),
            name => {
                passed.insert(cid);
                found.insert(name.to_owned(), cid);
            }
        }
    }
}

#[derive(Deserialize)]
struct Vector {
    files: u64,
    root: Cid,
    size: u64,
}

#[test]
fn folders_are_those_of_helias_importer() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/folders.json");
    let vectors = std::fs::read_to_string(path).unwrap();
    let vectors: Vec<serde_json::Value> = serde_json::from_str(&vectors).unwrap();
    assert!(vectors.len() > 5);
    for vector in vectors {
        let text = vector["root"].as_str().unwrap();
        let (files, size) = (vector["files"].as_u64().unwrap(), vector["size"].as_u64().unwrap());
        let vector = Vector { files, root: text.parse().unwrap(), size };
        let (mut folder, mut blocks) = (Folder::default(), Blocks::default());
        let names = (0..vector.files).map(|n| format!("bee-{n}"));
        names.for_each(|name| put(&mut folder, &name, name.as_bytes(), &mut blocks));
        assert_eq!(folder.store(&mut blocks), (vector.root, vector.size), "{files} files");
        assert_eq!(folder.len(), vector.files);
    }
}

#[test]
fn the_hash_is_the_first_half_of_murmur3() {
    assert_eq!(place_of(""), 0);
    assert_eq!(place_of("hello"), 0xcbd8_a7b3_41bd_9b02);
    assert_eq!(place_of("The quick brown fox jumps over the lazy dog"), 0xe34b_bc7b_bc07_1b6c);
}

#[test]
fn a_change_costs_a_few_nodes_of_bounded_size() {
    let (mut folder, mut blocks) = (Folder::default(), Blocks::default());
    let name = |n: u32| raw_cid(&n.to_be_bytes()).to_string();
    (0..20_000).for_each(|n| put(&mut folder, &name(n), b"x", &mut blocks));
    folder.store(&mut blocks);
    let (fresh, _) = blocks.take_changes();
    let largest = fresh.iter().map(|(_, block)| block.len()).max().unwrap();
    assert!(largest <= MAX_NODE_BYTES, "{largest}");
    assert!(fresh.len() > 256);
    put(&mut folder, "one more", b"y", &mut blocks);
    folder.store(&mut blocks);
    let (fresh, gone) = blocks.take_changes();
    assert!(fresh.len() <= 5 && gone.len() < fresh.len(), "{} {}", fresh.len(), gone.len());
    folder.store(&mut blocks);
    assert_eq!(blocks.take_changes(), (vec![], vec![]));
}

#[test]
fn of_names_that_cannot_be_told_apart_the_first_is_shown() {
    let hash = |name: &str| u64::from(name.len() == 1);
    let (mut folder, mut blocks) = (Folder::with_hash(hash), Blocks::default());
    for name in ["c", "a", "b", "long"] {
        put(&mut folder, name, name.as_bytes(), &mut blocks);
    }
    let shown = |folder: &mut Folder| {
        let (mut found, mut blocks) = (BTreeMap::new(), Blocks::default());
        let mut fresh = Folder::with_hash(hash);
        for name in ["a", "b", "c", "long"].iter().filter(|name| folder.get(name).is_some()) {
            put(&mut fresh, name, name.as_bytes(), &mut blocks);
        }
        let (root, _) = fresh.store(&mut blocks);
        let stored: Stored = blocks.take_changes().0.into_iter().collect();
        walk(root, &stored, &mut found, &mut BTreeSet::new());
        (root, found.into_keys().collect::<Vec<_>>())
    };
    let (root, names) = shown(&mut folder);
    assert_eq!((folder.store(&mut blocks).0, names), (root, vec!["a".to_owned(), "long".to_owned()]));
    take(&mut folder, "a", &mut blocks);
    take(&mut folder, "c", &mut blocks);
    let (root, names) = shown(&mut folder);
    assert_eq!((folder.store(&mut blocks).0, names), (root, vec!["b".to_owned(), "long".to_owned()]));
    assert_eq!(folder.len(), 2);
}

/// Puts or takes a name, or publishes.
fn steps() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
    proptest::collection::vec((0..400u16, proptest::option::weighted(0.6, any::<u8>())), 0..400)
}

/// Many names share the first bytes of their hashes, so that the tree is deep; some share all.
fn crowded(name: &str) -> u64 {
    place_of(name) & 0x0303_0303_0303_0303
}

proptest! {
    #[test]
    fn the_root_is_that_of_a_folder_made_at_once(steps in steps(), every in 1..50usize) {
        let (mut folder, mut blocks) = (Folder::with_hash(crowded), Blocks::default());
        let (mut names, mut stored) = (BTreeMap::new(), Stored::new());
        for (count, (number, content)) in steps.iter().enumerate() {
            let name = format!("n{number}");
            match content {
                Some(content) => {
                    put(&mut folder, &name, &[*content], &mut blocks);
                    names.insert(name, *content);
                }
                None => {
                    take(&mut folder, &name, &mut blocks);
                    names.remove(&name);
                }
            }
            if count % every == 0 {
                folder.store(&mut blocks);
                store(&mut stored, blocks.take_changes());
            }
        }
        let (root, _) = folder.store(&mut blocks);
        store(&mut stored, blocks.take_changes());
        prop_assert_eq!(folder.len(), names.len() as u64);
        prop_assert_eq!((root, &stored), (scratch(&names, crowded).0, &scratch(&names, crowded).1));
        let (mut found, mut passed) = (BTreeMap::new(), BTreeSet::new());
        walk(root, &stored, &mut found, &mut passed);
        let mut shown = BTreeMap::new();
        names.iter().for_each(|(name, content)| _ = shown.entry(crowded(name)).or_insert((name.clone(), *content)));
        let wanted: BTreeMap<String, Cid> =
            shown.values().map(|(name, content)| (name.clone(), raw_cid(&[*content]))).collect();
        prop_assert_eq!(found, wanted);
        if shown.len() == names.len() {
            prop_assert_eq!(passed, stored.keys().copied().collect::<BTreeSet<_>>());
        }
    }
}
