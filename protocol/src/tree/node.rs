//! Nodes of folders as blocks: DAG-PB that holds UnixFS, as <https://specs.ipfs.tech/unixfs/> gives it.

use crate::protobuf::{put_bytes, put_number};
use cid::Cid;

/// Bits of a name's hash that choose a place in one node of a sharded folder.
pub const FANOUT_BITS: u32 = 8;
/// Places in one node of a sharded folder.
pub const FANOUT: u64 = 1 << FANOUT_BITS;
/// The number of murmur3-x64-64, the hash of sharded folders.
pub const MURMUR3: u64 = 0x22;
/// What UnixFS calls a folder of one node.
pub const PLAIN_FOLDER: u64 = 1;
/// What UnixFS calls a node of a sharded folder.
pub const SHARDED_FOLDER: u64 = 5;

/// A link of a node: name, target, and the bytes of all blocks from the target down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeLink {
    pub name: String,
    pub cid: Cid,
    pub size: u64,
}

/// The block of a folder that lies in one node; its links are in the order of their names.
pub(super) fn plain(links: &[NodeLink]) -> Vec<u8> {
    let mut folder = Vec::new();
    put_number(&mut folder, 1, PLAIN_FOLDER);
    node(links, &folder)
}

/// The block of a node of a sharded folder, which has something at these places.
pub(super) fn sharded(links: &[NodeLink], places: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bits = [0u8; (FANOUT / 8) as usize];
    places.for_each(|place| bits[bits.len() - 1 - usize::from(place / 8)] |= 1 << (place % 8));
    let from = bits.iter().position(|byte| *byte != 0).unwrap_or(bits.len());
    let mut folder = Vec::new();
    put_number(&mut folder, 1, SHARDED_FOLDER);
    put_bytes(&mut folder, 2, &bits[from..]);
    put_number(&mut folder, 5, MURMUR3);
    put_number(&mut folder, 6, FANOUT);
    node(links, &folder)
}

fn node(links: &[NodeLink], folder: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for link in links {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, 1, &link.cid.to_bytes());
        put_bytes(&mut bytes, 2, link.name.as_bytes());
        put_number(&mut bytes, 3, link.size);
        put_bytes(&mut out, 2, &bytes);
    }
    put_bytes(&mut out, 1, folder);
    out
}

/// The place of a name in a sharded folder: [`FANOUT_BITS`] for each node on the way down, the highest first.
///
/// It is the first half of MurmurHash3 x64 with seed 0, as the UnixFS specification asks.
pub fn place_of(name: &str) -> u64 {
    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;
    let (mix1, mix2) = (
        |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2),
        |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1),
    );
    let (mut h1, mut h2) = (0u64, 0u64);
    let (blocks, rest) = name.as_bytes().as_chunks::<16>();
    for block in blocks {
        let (k1, k2) = halves(block);
        h1 = (h1 ^ mix1(k1)).rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 = (h2 ^ mix2(k2)).rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    let mut tail = [0; 16];
    tail[..rest.len()].copy_from_slice(rest);
    let (k1, k2) = halves(&tail);
    let length = name.len() as u64;
    (h1, h2) = (h1 ^ mix1(k1) ^ length, h2 ^ mix2(k2) ^ length);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    avalanche(h1).wrapping_add(avalanche(h2))
}

fn halves(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    (both as u64, (both >> 64) as u64)
}

fn avalanche(mut k: u64) -> u64 {
    k = (k ^ (k >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    k = (k ^ (k >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}
