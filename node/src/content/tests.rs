use super::car::{CarError, CarReader, CarWriter};
use super::*;
use crate::protobuf::{put_bytes, put_number};
use cid::Cid;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use swarm_crypto::address::Address;
use swarm_crypto::key::Signature;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::{Pool, PoolConfig};
use swarm_protocol::statement::Signed;
use swarm_protocol::tree::{Change, Entry, Place, Tree};
use swarm_protocol::{Posted, Timestamp};

type Blocks = BTreeMap<Cid, Vec<u8>>;

/// The byte at each place of every file, as tests/interop/unixfs.mjs has it.
fn byte(place: usize) -> u8 {
    (place * 131 + place / 251 * 7 + place / 65_521) as u8
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(byte).collect()
}

fn write(content: &[u8], shape: Shape, piece: usize) -> (Child, Blocks) {
    let mut blocks = Blocks::new();
    let mut store = |cid, block| {
        blocks.insert(cid, block);
        Ok::<(), Infallible>(())
    };
    let mut writer = Writer::with_shape(shape);
    content.chunks(piece).for_each(|piece| writer.push(piece, &mut store).unwrap());
    let root = writer.finish(&mut store).unwrap();
    (root, blocks)
}

fn read(root: Cid, length: u64, blocks: &Blocks) -> Result<Vec<u8>, UnixFsError> {
    let mut reader = Reader::new(root, length)?;
    let mut content = Vec::new();
    while let Some(wanted) = reader.wanted() {
        content.extend_from_slice(reader.supply(&blocks[&wanted])?);
    }
    Ok(content)
}

#[test]
fn roots_are_those_of_helias_importer() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/unixfs.json");
    let vectors: Vec<serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(vectors.len() > 10);
    for vector in vectors {
        let number = |name: &str| vector[name].as_u64().unwrap();
        let length = number("length") as usize;
        let shape = Shape { chunk: number("chunk") as usize, links: number("links") as usize };
        let (root, blocks) = write(&content(length), shape, 70_001);
        assert_eq!(root.cid.to_string(), vector["root"].as_str().unwrap(), "{vector}");
        assert_eq!(root.length, number("length"));
        assert_eq!(read(root.cid, root.length, &blocks).unwrap(), content(length), "{vector}");
    }
}

#[tokio::test]
async fn a_file_is_read_ahead_in_order_with_each_block_fetched_once_and_few_held() {
    let numbers: Vec<u8> = (0..5_000u32).flat_map(u32::to_be_bytes).collect();
    let (root, blocks) = write(&numbers, Shape { chunk: 64, links: 12 }, 999);
    let (open, most) = (Cell::new(0), Cell::new(0));
    let fetches = RefCell::new(BTreeMap::<Cid, usize>::new());
    let fetch = |cid: Cid| {
        *fetches.borrow_mut().entry(cid).or_default() += 1;
        open.set(open.get() + 1);
        most.set(most.get().max(open.get()));
        // Later ones come first as often as not.
        let turns = cid.hash().digest()[0] % 8;
        let block = blocks[&cid].clone();
        async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            Ok(block)
        }
    };
    let mut read = Vec::new();
    let take = |_: &Cid, _: &[u8], content: &[u8]| {
        open.set(open.get() - 1);
        read.extend_from_slice(content);
        Ok(())
    };
    let total = read_ahead(Reader::at_most(root.cid, 1 << 20).unwrap(), fetch, take).await.unwrap();
    assert_eq!((total, &read), (20_000, &numbers));
    assert!(fetches.borrow().values().all(|times| *times == 1), "{fetches:?}");
    assert_eq!(fetches.borrow().len(), blocks.len());
    assert!((2..=MAX_AHEAD + MAX_DEPTH).contains(&most.get()), "{} at once", most.get());
}

#[test]
fn a_file_is_read_only_as_what_it_was_said_to_be() {
    let (root, blocks) = write(&content(500), Shape { chunk: 16, links: 3 }, 500);
    assert_eq!(read(root.cid, 499, &blocks), Err(UnixFsError::Lengths));
    assert_eq!(read(root.cid, 501, &blocks), Err(UnixFsError::Lengths));
    assert_eq!(
        Reader::new(root.cid, MAX_FILE_BYTES + 1).unwrap_err(),
        UnixFsError::TooLong(MAX_FILE_BYTES + 1)
    );
    let mut unknown = Reader::at_most(root.cid, 499).unwrap();
    assert_eq!(unknown.supply(&blocks[&root.cid]), Err(UnixFsError::TooLong(500)));
    let mut unknown = Reader::at_most(root.cid, 500).unwrap();
    assert_eq!(unknown.supply(&blocks[&root.cid]), Ok(&[][..]));
    let mut reader = Reader::new(root.cid, 500).unwrap();
    assert_eq!(reader.supply(b"something else"), Err(UnixFsError::OtherBlock));
}

#[test]
fn nobody_has_to_fetch_a_file_byte_by_byte() {
    let (root, blocks) = write(&content(5000), Shape { chunk: 1, links: 100 }, 5000);
    assert_eq!(read(root.cid, 5000, &blocks), Err(UnixFsError::TooManyBlocks));
}

#[test]
fn a_tower_of_nodes_is_not_climbed() {
    let (mut top, mut blocks) = write(b"x", Shape::default(), 1);
    for _ in 0..=MAX_DEPTH {
        let block = dag_pb::encode(&[top]);
        let mut one = |cid, block| {
            blocks.insert(cid, block);
            Ok::<(), Infallible>(())
        };
        let cid = writer::cid_of(DAG_PB, &block);
        one(cid, block).unwrap();
        top = Child { cid, ..top };
    }
    assert_eq!(read(top.cid, 1, &blocks), Err(UnixFsError::TooDeep));
}

#[test]
fn a_node_with_a_million_links_takes_no_memory() {
    let (leaf, _) = write(b"x", Shape::default(), 1);
    let block = dag_pb::encode(&vec![leaf; 1_000_000]);
    assert_eq!(dag_pb::decode(&block, MAX_FOREIGN_LINKS), Err(UnixFsError::TooManyLinks));
}

#[test]
fn an_archive_holds_what_was_put_in() {
    let (root, blocks) = write(&content(500), Shape { chunk: 16, links: 3 }, 500);
    let mut writer = CarWriter::new(Vec::new(), &[root.cid]).unwrap();
    blocks.iter().for_each(|(cid, block)| writer.put(cid, block).unwrap());
    let archive = writer.finish().unwrap();
    let mut reader = CarReader::new(archive.as_slice()).unwrap();
    assert_eq!(reader.roots(), [root.cid]);
    let mut found = Blocks::new();
    while let Some((cid, block)) = reader.next_block().unwrap() {
        found.insert(cid, block);
    }
    assert_eq!(found, blocks);
    let mut changed = archive.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut reader = CarReader::new(changed.as_slice()).unwrap();
    let outcome = std::iter::from_fn(|| reader.next_block().transpose()).find_map(Result::err);
    assert!(matches!(outcome, Some(CarError::OtherBlock(_))), "{outcome:?}");
    let cut = &archive[..archive.len() - 1];
    let mut reader = CarReader::new(cut).unwrap();
    let outcome = std::iter::from_fn(|| reader.next_block().transpose()).find_map(Result::err);
    assert!(matches!(outcome, Some(CarError::NotACar)), "{outcome:?}");
}

#[test]
fn a_section_of_a_terabyte_takes_no_memory() {
    let mut archive = CarWriter::new(Vec::new(), &[]).unwrap().finish().unwrap();
    crate::protobuf::put_varint(&mut archive, 1 << 40);
    let mut reader = CarReader::new(archive.as_slice()).unwrap();
    assert!(matches!(reader.next_block(), Err(CarError::TooLarge { size, .. }) if size == 1 << 40));
}

/// A tree of a pool with so many pending jobs: its root and its blocks.
fn tree(jobs: u64) -> (Cid, Blocks) {
    let config = PoolConfig {
        node: None,
        reserve: swarm_protocol::money::MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: Address::ZERO,
        models: BTreeMap::new(),
        posted: Posted::default(),
        secret: [7; 32],
    };
    let mut tree = Tree::new();
    for n in 0..jobs {
        let job = Signed { payload: n.to_be_bytes().to_vec(), signature: Signature([0; 65]) };
        let name = format!("job-{n}");
        tree.apply(&Change { place: Place::Pending, name, entry: Some(Entry::Job(job)) });
    }
    let published = tree.publish(&Pool::create(config, Timestamp(0)).summary());
    (published.root, published.fresh.into_iter().collect())
}

fn resolve(root: Cid, path: &str, blocks: &Blocks) -> Result<Cid, PathError> {
    let mut resolver = Resolver::new(root, path.split('/').map(str::to_owned));
    while let Some(wanted) = resolver.wanted() {
        resolver.supply(&blocks[&wanted])?;
    }
    Ok(resolver.at())
}

fn list(folder: Cid, blocks: &Blocks) -> BTreeMap<String, Cid> {
    let (mut listing, mut names) = (Listing::new(folder), BTreeMap::new());
    while let Some(wanted) = listing.wanted() {
        names.extend(listing.supply(&blocks[&wanted]).unwrap());
    }
    names
}

#[test]
fn a_tree_is_listed_walked_and_read_by_its_paths() {
    let (root, blocks) = tree(3000);
    let top: Vec<String> = list(root, &blocks).into_keys().collect();
    assert_eq!(top, ["epochs", "jobs", "miners", "proofs", "state.json"]);
    let pending = resolve(root, "jobs/pending", &blocks).unwrap();
    let jobs = list(pending, &blocks);
    assert_eq!(jobs.len(), 3000);
    for (name, cid) in &jobs {
        assert_eq!(resolve(root, &format!("jobs/pending/{name}"), &blocks), Ok(*cid));
    }
    let state = resolve(root, "state.json", &blocks).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&blocks[&state]).is_ok());
    for nowhere in ["jobs/pending/job-3000", "jobs/elsewhere", "nothing"] {
        assert!(matches!(resolve(root, nowhere, &blocks), Err(PathError::Absent { .. })), "{nowhere}");
    }
    assert_eq!(resolve(root, "state.json/x", &blocks), Err(PathError::NoFolder(state)));
    let job = resolve(root, "jobs/pending/job-7", &blocks).unwrap();
    let inside = resolve(root, "jobs/pending/job-7/payload", &blocks);
    assert_eq!(inside, Err(PathError::Value { name: "payload".into(), at: job }));

    let (mut walk, mut found) = (Walk::new(root, 1 << 30), Blocks::new());
    while let Some(wanted) = walk.wanted() {
        walk.supply(&wanted, &blocks[&wanted]).unwrap();
        assert_eq!(found.insert(wanted, blocks[&wanted].clone()), None, "each once");
    }
    assert!(walk.is_done());
    assert_eq!(found, blocks);
}

#[test]
fn a_walk_goes_through_dag_cbor_and_no_further_than_it_may() {
    let leaf = codec::encode(&"leaf");
    let leaf_cid = Link::of(&leaf).cid();
    let top = codec::encode(&BTreeMap::from([("below", vec![leaf_cid, codec::raw_cid(b"raw"), leaf_cid])]));
    let cid = Link::of(&top).cid();
    let mut walk = Walk::new(cid, 1000);
    assert_eq!(walk.supply(&cid, &top), Err(WalkError::NotAsked(cid)));
    assert_eq!((walk.wanted(), walk.wanted()), (Some(cid), None));
    assert!(!walk.is_done());
    walk.supply(&cid, &top).unwrap();
    assert_eq!(
        (walk.wanted(), walk.wanted(), walk.wanted()),
        (Some(leaf_cid), Some(codec::raw_cid(b"raw")), None)
    );
    assert_eq!(walk.supply(&leaf_cid, b"other"), Err(WalkError::OtherBlock(leaf_cid)));
    assert_eq!(walk.supply(&codec::raw_cid(b"raw"), b"raw"), Ok(()));
    let mut short = Walk::new(cid, top.len() as u64 - 1);
    short.wanted();
    assert_eq!(short.supply(&cid, &top), Err(WalkError::TooLong(top.len() as u64 - 1)));
    let many = codec::encode(
        &(0..=MAX_FOREIGN_LINKS as u32).map(|n| codec::raw_cid(&n.to_be_bytes())).collect::<Vec<_>>(),
    );
    let cid = Link::of(&many).cid();
    let mut walk = Walk::new(cid, 1 << 30);
    walk.wanted();
    assert_eq!(walk.supply(&cid, &many), Err(WalkError::TooManyLinks(cid)));
}

#[test]
fn a_tower_of_folders_and_nested_lists_are_refused() {
    let level = |below: Cid| {
        let mut folder = Vec::new();
        [(1, 5), (5, 0x22), (6, 256)]
            .iter()
            .for_each(|(field, value)| put_number(&mut folder, *field, *value));
        let (mut link, mut block) = (Vec::new(), Vec::new());
        put_bytes(&mut link, 1, &below.to_bytes());
        put_bytes(&mut link, 2, b"00");
        put_bytes(&mut block, 2, &link);
        put_bytes(&mut block, 1, &folder);
        (codec::dag_pb_cid(&block), block)
    };
    let (mut top, mut blocks) = (codec::raw_cid(b"x"), Blocks::new());
    for _ in 0..20 {
        let (cid, block) = level(top);
        blocks.insert(cid, block);
        top = cid;
    }
    let mut listing = Listing::new(top);
    let outcome = std::iter::from_fn(|| listing.wanted().map(|cid| listing.supply(&blocks[&cid])))
        .find_map(Result::err);
    assert_eq!(outcome, Some(UnixFsError::TooDeep));
    assert!(matches!(resolve(top, "name", &blocks), Err(PathError::Absent { .. })));
    assert!(codec::links(&[0x81; 100_000]).is_err());
    assert!(codec::to_dag_json(&[0x81; 100_000]).is_err());
}

#[test]
fn dag_json_is_as_its_specification_has_it() {
    let block = codec::encode(&(
        BTreeMap::from([("b", serde_bytes::ByteBuf::from(vec![1, 2]))]),
        -3i64,
        u64::MAX,
        Link([7; 32]),
    ));
    let json = codec::to_dag_json(&block).unwrap().to_string();
    let cid = Link([7; 32]);
    assert_eq!(
        json,
        format!(r#"[{{"b":{{"/":{{"bytes":"AQI"}}}}}},-3,18446744073709551615,{{"/":"{cid}"}}]"#)
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read(length in 0usize..3000, chunk in 30usize..200, links in 2usize..5, piece in 1usize..4000) {
        let (root, blocks) = write(&content(length), Shape { chunk, links }, piece);
        prop_assert_eq!(root.length, length as u64);
        // Equal leaves are one block.
        prop_assert!(root.size >= blocks.values().map(|block| block.len() as u64).sum());
        prop_assert_eq!(read(root.cid, root.length, &blocks), Ok(content(length)));
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(node) = dag_pb::decode(&bytes, 16) {
            prop_assert!(node.children.len() <= 16);
        }
        if let Ok(folder) = decode_folder(&bytes, 16) {
            prop_assert!(folder.links.len() <= 16);
        }
        let _ = (codec::links(&bytes), codec::to_dag_json(&bytes));
        if let Ok(mut reader) = CarReader::new(bytes.as_slice()) {
            while let Ok(Some(_)) = reader.next_block() {}
        }
    }
}
