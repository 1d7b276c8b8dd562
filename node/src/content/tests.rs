use super::car::{CarError, CarReader, CarWriter};
use super::*;
use cid::Cid;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;

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
        if let Ok(mut reader) = CarReader::new(bytes.as_slice()) {
            while let Ok(Some(_)) = reader.next_block() {}
        }
    }
}
