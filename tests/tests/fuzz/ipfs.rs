//! Formats of IPFS: Bitswap messages, files of UnixFS, archives, and what a crawler makes of them.

use crate::target::{Outcome, Target, name};
use cid::Cid;
use std::collections::HashMap;
use std::io::Cursor;
use swarm_crypto::digest::sha2_256;
use swarm_node::content::Reader;
use swarm_node::content::car::{CarError, CarReader, CarWriter};
use swarm_node::network::bitswap::{MAX_ENTRIES, MAX_MESSAGE_BLOCKS, Message};
use swarm_protocol::codec::raw_cid;

const DAG_PB: u64 = 0x70;
/// The longest file that a test asks for.
const MAX_FILE: u64 = 64 * 1024;

pub fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "bitswap-message",
            share: 100,
            max_bytes: 12_000,
            // A want of eight bytes takes a hundred, and what is read is written and read again.
            memory: (400, 64 * 1024),
            must: vec![
                "a message",
                "a message with what was skipped",
                "a message with unusable blocks",
                "Truncated",
                "WrongType",
                "LongNumber",
            ],
            run: Box::new(message),
        },
        Target {
            name: "unixfs-node",
            share: 60,
            max_bytes: 20_000,
            memory: (64, 64 * 1024),
            must: vec![
                "read",
                "NotAFile",
                "Lengths",
                "TooLong",
                "TooManyLinks",
                "Wire.Truncated",
                "Wire.WrongType",
            ],
            run: Box::new(node),
        },
        Target {
            name: "unixfs-file",
            share: 10,
            max_bytes: 2_000,
            memory: (4096, 1024 * 1024),
            must: vec!["read", "OtherBlock", "Lengths", "TooLong", "TooDeep", "TooManyBlocks"],
            run: Box::new(file),
        },
        Target {
            name: "car",
            share: 50,
            max_bytes: 9_000,
            // A root of one byte of CBOR, at the worst, is given the room of a CID.
            memory: (256, 64 * 1024),
            must: vec!["read", "NotACar", "TooLarge", "OtherBlock"],
            run: Box::new(car),
        },
    ]
}

fn message(bytes: &[u8]) -> Outcome {
    match Message::decode(bytes) {
        Ok(message) => {
            assert!(message.wants.len() <= MAX_ENTRIES && message.presences.len() <= MAX_ENTRIES);
            assert!(message.blocks.len() <= MAX_MESSAGE_BLOCKS);
            let again = Message::decode(&message.encode()).expect("what we write can be read");
            let read = Message { skipped: 0, unusable_blocks: 0, ..message.clone() };
            assert_eq!(again, read, "it does not come back");
            match (message.skipped, message.unusable_blocks) {
                (0, 0) => "a message".into(),
                (_, 0) => "a message with what was skipped".into(),
                _ => "a message with unusable blocks".into(),
            }
        }
        Err(error) => name(&error),
    }
}

fn dag_pb(block: &[u8]) -> Cid {
    let sha = cid::multihash::Multihash::wrap(0x12, &sha2_256(block)).expect("32 bytes fit");
    Cid::new_v1(DAG_PB, sha)
}

/// One node, whatever is below it.
fn node(bytes: &[u8]) -> Outcome {
    let mut reader = Reader::at_most(dag_pb(bytes), MAX_FILE).expect("a short file");
    match reader.supply(bytes) {
        Ok(data) => {
            assert!(data.len() <= bytes.len());
            "read".into()
        }
        Err(error) => name(&error),
    }
}

/// A whole file, built as the bytes say: each of them is a node over what was built last, with lies among them.
fn file(bytes: &[u8]) -> Outcome {
    let (root, blocks) = build(bytes);
    let mut reader = match Reader::at_most(root, MAX_FILE) {
        Ok(reader) => reader,
        Err(error) => return name(&error),
    };
    let (mut length, mut steps) = (0, 0);
    while let Some(wanted) = reader.wanted() {
        steps += 1;
        assert!(steps < 1_000, "a short file has few blocks");
        let other = b"another block".to_vec();
        match reader.supply(blocks.get(&wanted).unwrap_or(&other)) {
            Ok(data) => length += data.len() as u64,
            Err(error) => return name(&error),
        }
        assert!(length <= MAX_FILE, "longer than was allowed");
    }
    "read".into()
}

/// A block below: its CID and the bytes of the file in it.
type Child = (Cid, u64);

fn build(bytes: &[u8]) -> (Cid, HashMap<Cid, Vec<u8>>) {
    let mut blocks = HashMap::new();
    let mut made: Vec<Child> = vec![(raw_cid(b""), 0)];
    for byte in bytes {
        let children = match byte >> 6 {
            0 => {
                let leaf = vec![*byte; usize::from(byte & 63)];
                made.push((raw_cid(&leaf), leaf.len() as u64));
                blocks.insert(raw_cid(&leaf), leaf);
                continue;
            }
            1 => made.last().map(|child| vec![*child; usize::from(byte & 7)]).unwrap_or_default(),
            2 => made.iter().rev().take(usize::from(byte & 31)).copied().collect(),
            _ => made.last().copied().into_iter().collect(),
        };
        // The last kind of node says that one byte more is below it than there is.
        let lie = u64::from(byte >> 5 == 7);
        let (block, length) = encode(&children, lie);
        made.push((dag_pb(&block), length));
        blocks.insert(dag_pb(&block), block);
    }
    let forgotten = bytes.last().is_some_and(|byte| *byte == 0x55);
    let root = made.last().map(|(cid, _)| *cid).expect("there is one at least");
    if forgotten {
        blocks.remove(&root);
    }
    (root, blocks)
}

fn encode(children: &[Child], lie: u64) -> (Vec<u8>, u64) {
    let field = |out: &mut Vec<u8>, tag: u8, bytes: &[u8]| {
        out.push(tag);
        varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    };
    let (mut block, mut file) = (Vec::new(), vec![0x08, 2]);
    let below = children.iter().fold(0u64, |sum, (_, length)| sum.saturating_add(length.saturating_add(lie)));
    file.push(0x18);
    varint(&mut file, below);
    for (cid, length) in children {
        let mut link = Vec::new();
        field(&mut link, 0x0a, &cid.to_bytes());
        field(&mut block, 0x12, &link);
        file.push(0x20);
        varint(&mut file, length.saturating_add(lie));
    }
    field(&mut block, 0x0a, &file);
    (block, below)
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn car(bytes: &[u8]) -> Outcome {
    match read_car(bytes) {
        Ok((roots, blocks)) => {
            let mut writer = CarWriter::new(Vec::new(), &roots).expect("memory");
            for (cid, block) in &blocks {
                writer.put(cid, block).expect("memory");
            }
            let again = writer.finish().expect("memory");
            assert_eq!(read_car(&again).ok(), Some((roots, blocks)), "it does not come back");
            "read".into()
        }
        Err(error) => name(&error),
    }
}

type Car = (Vec<Cid>, Vec<(Cid, Vec<u8>)>);

fn read_car(bytes: &[u8]) -> Result<Car, CarError> {
    let mut reader = CarReader::new(Cursor::new(bytes))?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block()? {
        blocks.push(block);
    }
    Ok((reader.roots().to_vec(), blocks))
}
