//! Nodes of a file: DAG-PB blocks that hold UnixFS, as <https://ipld.io/specs/codecs/dag-pb/spec/> and
//! <https://specs.ipfs.tech/unixfs/> give them.

use super::{DAG_PB, RAW, UnixFsError};
use crate::protobuf::{Fields, put_bytes, put_number};
use cid::Cid;
use swarm_protocol::tree::{FANOUT, MURMUR3, PLAIN_FOLDER, SHARDED_FOLDER};

/// What may lie in a folder's node.
#[derive(Debug, PartialEq, Eq)]
pub struct Folder {
    /// Whether its names are spread over several nodes by their hashes.
    pub is_sharded: bool,
    /// Names and what they stand for; in a sharded folder names begin with two digits, and those that are no longer
    /// stand for nodes.
    pub links: Vec<(String, Cid)>,
}

/// What UnixFS calls a file, and a piece of one.
const FILE: u64 = 2;
const PIECE: u64 = 0;

/// Something below a node, or the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    pub cid: Cid,
    /// Bytes of the file that it holds.
    pub length: u64,
    /// Bytes of all blocks below and with it.
    pub size: u64,
}

/// A node as it was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Node<'a> {
    /// Bytes of the file that lie in the node, before those below.
    pub data: &'a [u8],
    /// What is below it, with the bytes of the file that each holds.
    pub children: Vec<(Cid, u64)>,
}

/// The block of a node over these children.
pub fn encode(children: &[Child]) -> Vec<u8> {
    let mut out = Vec::new();
    for child in children {
        let mut link = Vec::new();
        put_bytes(&mut link, 1, &child.cid.to_bytes());
        put_bytes(&mut link, 2, b"");
        put_number(&mut link, 3, child.size);
        put_bytes(&mut out, 2, &link);
    }
    let mut file = Vec::new();
    put_number(&mut file, 1, FILE);
    put_number(&mut file, 3, children.iter().map(|child| child.length).sum());
    children.iter().for_each(|child| put_number(&mut file, 4, child.length));
    put_bytes(&mut out, 1, &file);
    out
}

/// The block of a folder of one node over these names, which must be in their order, each once.
pub fn encode_folder(links: &[(&str, Child)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, child) in links {
        let mut link = Vec::new();
        put_bytes(&mut link, 1, &child.cid.to_bytes());
        put_bytes(&mut link, 2, name.as_bytes());
        put_number(&mut link, 3, child.size);
        put_bytes(&mut out, 2, &link);
    }
    let mut folder = Vec::new();
    put_number(&mut folder, 1, PLAIN_FOLDER);
    put_bytes(&mut out, 1, &folder);
    out
}

/// Reads a node of a file; takes memory for at most `max_children`.
pub fn decode(block: &[u8], max_children: usize) -> Result<Node<'_>, UnixFsError> {
    let (mut links, mut file) = (Vec::new(), None);
    for field in Fields(block) {
        match field? {
            (1, value) => file = Some(value.bytes()?),
            (2, _) if links.len() == max_children => return Err(UnixFsError::TooManyLinks),
            (2, value) => links.push(decode_link(value.bytes()?)?),
            _ => return Err(UnixFsError::NotAFile),
        }
    }
    let (data, lengths, declared) = decode_file(file.ok_or(UnixFsError::NotAFile)?, max_children)?;
    let below = lengths.iter().try_fold(data.len() as u64, |sum, length| sum.checked_add(*length));
    if lengths.len() != links.len() || below != Some(declared) || lengths.contains(&0) {
        return Err(UnixFsError::Lengths);
    }
    Ok(Node { data, children: links.into_iter().zip(lengths).collect() })
}

/// Reads a node of a folder, whole or sharded as most are; takes memory for at most `max_links`.
pub fn decode_folder(block: &[u8], max_links: usize) -> Result<Folder, UnixFsError> {
    let (mut links, mut about) = (Vec::new(), &[][..]);
    for field in Fields(block) {
        match field? {
            (1, value) => about = value.bytes()?,
            (2, _) if links.len() == max_links => return Err(UnixFsError::TooManyLinks),
            (2, value) => links.push(decode_entry(value.bytes()?)?),
            _ => return Err(UnixFsError::NotAFolder),
        }
    }
    let (mut kind, mut hash, mut fanout) = (None, None, None);
    for field in Fields(about) {
        match field? {
            (1, value) => kind = Some(value.number()?),
            (5, value) => hash = Some(value.number()?),
            (6, value) => fanout = Some(value.number()?),
            _ => {}
        }
    }
    let is_sharded = match (kind, hash, fanout) {
        (Some(PLAIN_FOLDER), ..) => false,
        (Some(SHARDED_FOLDER), Some(MURMUR3), Some(FANOUT)) => true,
        _ => return Err(UnixFsError::NotAFolder),
    };
    let is_short = |(name, _): &(String, Cid)| !name.is_char_boundary(2);
    if is_sharded && links.iter().any(is_short) {
        return Err(UnixFsError::NotAFolder);
    }
    Ok(Folder { is_sharded, links })
}

/// All links of a node, a file's or a folder's.
pub fn links(block: &[u8], max_links: usize) -> Result<Vec<Cid>, UnixFsError> {
    let mut links = Vec::new();
    for field in Fields(block) {
        match field? {
            (2, _) if links.len() == max_links => return Err(UnixFsError::TooManyLinks),
            (2, value) => links.push(decode_entry(value.bytes()?)?.1),
            _ => {}
        }
    }
    Ok(links)
}

fn decode_entry(bytes: &[u8]) -> Result<(String, Cid), UnixFsError> {
    let (mut name, mut cid) = (Some(String::new()), None);
    for field in Fields(bytes) {
        match field? {
            (1, value) => cid = Cid::try_from(value.bytes()?).ok(),
            (2, value) => name = String::from_utf8(value.bytes()?.to_vec()).ok(),
            _ => {}
        }
    }
    name.zip(cid).ok_or(UnixFsError::NotAFolder)
}

fn decode_link(bytes: &[u8]) -> Result<Cid, UnixFsError> {
    let mut cid = None;
    for field in Fields(bytes) {
        if let (1, value) = field? {
            cid = Some(Cid::try_from(value.bytes()?).map_err(|_| UnixFsError::NotAFile)?);
        }
    }
    cid.filter(|cid| matches!(cid.codec(), RAW | DAG_PB)).ok_or(UnixFsError::NotAFile)
}

fn decode_file(bytes: &[u8], max_children: usize) -> Result<(&[u8], Vec<u64>, u64), UnixFsError> {
    let (mut kind, mut data, mut lengths, mut declared) = (None, &[][..], Vec::new(), None);
    for field in Fields(bytes) {
        match field? {
            (1, value) => kind = Some(value.number()?),
            (2, value) => data = value.bytes()?,
            (3, value) => declared = Some(value.number()?),
            (4, _) if lengths.len() == max_children => return Err(UnixFsError::TooManyLinks),
            (4, value) => lengths.push(value.number()?),
            _ => {}
        }
    }
    match kind {
        Some(FILE | PIECE) => Ok((data, lengths, declared.unwrap_or(data.len() as u64))),
        _ => Err(UnixFsError::NotAFile),
    }
}
