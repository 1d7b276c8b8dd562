//! Messages of `/ipfs/bitswap/1.2.0`, as the Bitswap specification gives them.

use cid::multihash::Multihash;
use cid::{Cid, Version};
use sha2::{Digest, Sha256};

use super::{MAX_ENTRIES, MAX_MESSAGE_BLOCKS};
use crate::protobuf::{Fields, WireError, put_bytes, put_number, put_varint, varint};

const SHA2_256: u64 = 0x12;
const DIGEST_BYTES: usize = 32;
const DAG_PB: u64 = 0x70;
/// Longer ones hold digests that nobody here can check.
const MAX_CID: usize = 96;
/// Largest block that IPFS nodes exchange. One over our own limit is told as too large, not as a lie.
const MAX_FOREIGN_BLOCK: usize = 2 << 20;
/// What surrounds the CID of a want or of a presence, and a block, at most.
const FRAMING: usize = 32;

/// One message: wants, answers to wants, and blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Changes of the sender's wantlist, at most [`MAX_ENTRIES`].
    pub wants: Vec<Want>,
    /// Whether `wants` replace all earlier ones.
    pub full: bool,
    /// Blocks, at most [`MAX_MESSAGE_BLOCKS`], each with the CID that its bytes have.
    pub blocks: Vec<Block>,
    /// What the sender has and has not, at most [`MAX_ENTRIES`].
    pub presences: Vec<Presence>,
    /// Entries that were over a limit or unintelligible. They take no memory.
    pub skipped: usize,
    /// Blocks that were over a limit or whose CID cannot be computed here. They take no memory.
    pub unusable_blocks: usize,
}

/// An entry of a wantlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    pub cid: Cid,
    pub priority: i32,
    pub kind: WantKind,
    pub cancel: bool,
    pub send_dont_have: bool,
}

/// What a want asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantKind {
    /// The block.
    Block,
    /// Whether the peer has it.
    Have,
}

/// A block and the CID computed from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub cid: Cid,
    pub data: Vec<u8>,
}

/// HAVE or DONT_HAVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presence {
    pub cid: Cid,
    pub has: bool,
}

/// Whether a block with this CID can be checked here: sha2-256 with 32 bytes.
pub fn is_checkable(cid: &Cid) -> bool {
    cid.hash().code() == SHA2_256 && usize::from(cid.hash().size()) == DIGEST_BYTES
}

impl Want {
    /// Asks, or asks no more if `cancel`.
    pub fn new(cid: Cid, kind: WantKind, cancel: bool) -> Self {
        Self { cid, priority: 1, kind, cancel, send_dont_have: !cancel }
    }

    /// Bytes that it takes in a message, at most.
    pub fn weight(&self) -> usize {
        self.cid.encoded_len() + FRAMING
    }
}

impl Block {
    /// Bytes that it takes in a message, at most.
    pub fn weight(&self) -> usize {
        self.data.len() + FRAMING
    }
}

impl Presence {
    /// Bytes that it takes in a message, at most.
    pub fn weight(&self) -> usize {
        self.cid.encoded_len() + FRAMING
    }
}

impl Message {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty() && !self.full && self.blocks.is_empty() && self.presences.is_empty()
    }

    /// Reads the body of a message. Memory taken is bounded by the limits of [`Message`]'s fields and by the
    /// length of `bytes`, which the caller bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut message = Message::default();
        for field in Fields(bytes) {
            match field? {
                (1, value) => message.read_wantlist(value.bytes()?)?,
                // Blocks as version 1.0.0 sent them.
                (2, value) => value.bytes().map(|_| message.unusable_blocks += 1)?,
                (3, value) => message.read_block(value.bytes()?)?,
                (4, value) => message.read_presence(value.bytes()?)?,
                _ => {}
            }
        }
        Ok(message)
    }

    fn read_wantlist(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        for field in Fields(bytes) {
            match field? {
                (1, value) => self.read_want(value.bytes()?)?,
                (2, value) => self.full = value.number()? != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_want(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let (mut cid, mut priority, mut kind) = (None, 0, Some(WantKind::Block));
        let (mut cancel, mut send_dont_have) = (false, false);
        for field in Fields(bytes) {
            match field? {
                (1, value) => cid = read_cid(value.bytes()?),
                (2, value) => priority = value.number()? as i32,
                (3, value) => cancel = value.number()? != 0,
                (4, value) => kind = want_kind(value.number()?),
                (5, value) => send_dont_have = value.number()? != 0,
                _ => {}
            }
        }
        match (cid, kind) {
            (Some(cid), Some(kind)) if self.wants.len() < MAX_ENTRIES => {
                self.wants.push(Want { cid, priority, kind, cancel, send_dont_have });
            }
            _ => self.skipped += 1,
        }
        Ok(())
    }

    fn read_block(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let (mut prefix, mut data) = (&[][..], &[][..]);
        for field in Fields(bytes) {
            match field? {
                (1, value) => prefix = value.bytes()?,
                (2, value) => data = value.bytes()?,
                _ => {}
            }
        }
        if self.blocks.len() >= MAX_MESSAGE_BLOCKS || data.len() > MAX_FOREIGN_BLOCK {
            self.unusable_blocks += 1;
            return Ok(());
        }
        match cid_by_prefix(prefix, data) {
            Some(cid) => self.blocks.push(Block { cid, data: data.to_vec() }),
            None => self.unusable_blocks += 1,
        }
        Ok(())
    }

    fn read_presence(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let (mut cid, mut has) = (None, Some(true));
        for field in Fields(bytes) {
            match field? {
                (1, value) => cid = read_cid(value.bytes()?),
                (2, value) => has = [true, false].get(value.number()? as usize).copied(),
                _ => {}
            }
        }
        match (cid, has) {
            (Some(cid), Some(has)) if self.presences.len() < MAX_ENTRIES => {
                self.presences.push(Presence { cid, has });
            }
            _ => self.skipped += 1,
        }
        Ok(())
    }

    /// The message as it goes over a stream: its length as a varint, then its body.
    pub fn encode_framed(&self) -> Vec<u8> {
        let body = self.encode();
        let mut framed = Vec::with_capacity(body.len() + 10);
        put_varint(&mut framed, body.len() as u64);
        framed.extend_from_slice(&body);
        framed
    }

    /// The body of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.wants.is_empty() || self.full {
            put_bytes(&mut out, 1, &self.encode_wantlist());
        }
        for block in &self.blocks {
            let mut inner = Vec::with_capacity(block.weight());
            put_bytes(&mut inner, 1, &prefix_of(&block.cid));
            put_bytes(&mut inner, 2, &block.data);
            put_bytes(&mut out, 3, &inner);
        }
        for presence in &self.presences {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, &presence.cid.to_bytes());
            put_number(&mut inner, 2, u64::from(!presence.has));
            put_bytes(&mut out, 4, &inner);
        }
        out
    }

    fn encode_wantlist(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for want in &self.wants {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, &want.cid.to_bytes());
            // protobuf writes a negative number as one of 64 bits.
            put_number(&mut inner, 2, i64::from(want.priority).cast_unsigned());
            put_number(&mut inner, 3, u64::from(want.cancel));
            put_number(&mut inner, 4, u64::from(want.kind == WantKind::Have));
            put_number(&mut inner, 5, u64::from(want.send_dont_have));
            put_bytes(&mut list, 1, &inner);
        }
        put_number(&mut list, 2, u64::from(self.full));
        list
    }
}

fn want_kind(number: u64) -> Option<WantKind> {
    [WantKind::Block, WantKind::Have].get(usize::try_from(number).ok()?).copied()
}

fn read_cid(bytes: &[u8]) -> Option<Cid> {
    let cid = Cid::try_from(bytes.get(..bytes.len().min(MAX_CID + 1))?).ok()?;
    // What is read must be what is answered.
    (cid.encoded_len() == bytes.len()).then_some(cid)
}

fn prefix_of(cid: &Cid) -> Vec<u8> {
    let mut prefix = Vec::new();
    let numbers = [cid.version().into(), cid.codec(), cid.hash().code(), cid.hash().size().into()];
    numbers.into_iter().for_each(|number| put_varint(&mut prefix, number));
    prefix
}

fn cid_by_prefix(prefix: &[u8], data: &[u8]) -> Option<Cid> {
    let (version, rest) = varint(prefix).ok()?;
    let (codec, rest) = varint(rest).ok()?;
    let (code, rest) = varint(rest).ok()?;
    let (length, rest) = varint(rest).ok()?;
    if code != SHA2_256 || length != DIGEST_BYTES as u64 || !rest.is_empty() {
        return None;
    }
    let version = Version::try_from(version).ok()?;
    if version == Version::V0 && codec != DAG_PB {
        return None;
    }
    let hash = Multihash::wrap(SHA2_256, &Sha256::digest(data)).ok()?;
    Cid::new(version, codec, hash).ok()
}
