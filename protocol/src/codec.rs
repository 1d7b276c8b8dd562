//! The one room that knows about CBOR: canonical DAG-CBOR for what is signed or linked, plain CBOR for what is neither.

use cid::Cid;
use cid::multibase::Base;
use ipld_core::codec::Links;
use ipld_core::ipld::Ipld;
use multihash::Multihash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_ipld_dagcbor::codec::DagCborCodec;
use serde_json::json;
use std::fmt;
use std::str::FromStr;
use swarm_crypto::digest::{self, Context, Digest};

const SHA2_256: u64 = 0x12;
const DAG_CBOR: u64 = 0x71;
const DAG_PB: u64 = 0x70;
const RAW: u64 = 0x55;

/// Why bytes are not what they claim to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not CBOR of the expected shape.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Decodes, but is not the one canonical encoding of its value.
    #[error("not canonical DAG-CBOR")]
    NotCanonical,
}

/// Longest message about a block that a refusal tells of, in characters.
const MAX_FAULT_CHARS: usize = 48;

impl CodecError {
    /// The decoder's message may quote the sender's bytes at any length; a refusal has to hold it.
    pub(crate) fn shortened(self) -> Self {
        match self {
            Self::Malformed(text) => Self::Malformed(text.chars().take(MAX_FAULT_CHARS).collect()),
            Self::NotCanonical => Self::NotCanonical,
        }
    }
}

/// Canonical DAG-CBOR of `value`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("our types are maps with string keys, integers, bytes and links")
}

/// Decodes canonical DAG-CBOR, refusing every other encoding of the same value.
pub fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CodecError> {
    let value: T = read(bytes)?;
    if is_encoding(bytes, &value) { Ok(value) } else { Err(CodecError::NotCanonical) }
}

/// True if `bytes` are what [`encode`] makes of `value`; found out without taking memory for them again.
pub(crate) fn is_encoding<T: Serialize>(bytes: &[u8], value: &T) -> bool {
    let mut expected = Expected(bytes);
    serde_ipld_dagcbor::to_writer(&mut expected, value).is_ok() && expected.0.is_empty()
}

/// Takes the bytes that it begins with, and no others.
struct Expected<'a>(&'a [u8]);

impl std::io::Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads DAG-CBOR that may not be canonical; whoever calls it compares the bytes with what [`encode`] makes of them.
pub(crate) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    check_claims(bytes)?;
    serde_ipld_dagcbor::from_slice(bytes).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// Refuses lists and maps that claim more items than bytes follow: decoders take memory for what is claimed, at every
/// level of nesting.
fn check_claims(mut bytes: &[u8]) -> Result<(), CodecError> {
    let mut owed = 1u64;
    while let Some((head, rest)) = bytes.split_first() {
        let width = match head & 31 {
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => 0,
        };
        let Some((argument, rest)) = rest.split_at_checked(width) else { return Ok(()) };
        let read = argument.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let argument = if width > 0 { read } else { u64::from(head & 31) };
        // Indefinite lengths, which plain CBOR has, claim nothing.
        let (items, content) = match head >> 5 {
            _ if head & 31 > 27 => (0, 0),
            2 | 3 => (0, argument),
            4 => (argument, 0),
            5 => (argument.saturating_mul(2), 0),
            6 => (1, 0),
            _ => (0, 0),
        };
        owed = owed.saturating_sub(1).saturating_add(items);
        let content = usize::try_from(content).ok().filter(|length| *length <= rest.len());
        let Some(length) = content.filter(|length| owed <= (rest.len() - length) as u64) else {
            return Err(CodecError::Malformed("more is claimed than follows".into()));
        };
        bytes = &rest[length..];
    }
    Ok(())
}

/// Plain CBOR, for ledger rows and frames that are never content-addressed.
pub fn to_row<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("our types are maps with string keys, integers and bytes")
}

/// Decodes plain CBOR written by [`to_row`].
pub fn from_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    check_claims(bytes)?;
    serde_cbor::from_slice(bytes).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// `H(a, b, …)`: blake3 derive-key in `context` over the canonical DAG-CBOR array of `values`.
pub fn hash<T: Serialize>(context: Context, values: &T) -> Digest {
    digest::derive(context, &encode(values))
}

/// `keyed(k; a, b, …)`: keyed blake3 over the canonical DAG-CBOR array of `values`.
pub fn keyed<T: Serialize>(key: &[u8; 32], values: &T) -> Digest {
    digest::keyed(key, &encode(values))
}

/// CIDv1 (raw, sha2-256) of content bytes.
pub fn raw_cid(bytes: &[u8]) -> Cid {
    Cid::new_v1(RAW, multihash(digest::sha2_256(bytes)))
}

/// CIDv1 (raw) of content whose sha2-256 digest this is.
pub fn raw_cid_of(sha2_256: [u8; 32]) -> Cid {
    Cid::new_v1(RAW, multihash(sha2_256))
}

/// CIDv1 (dag-pb, sha2-256) of a DAG-PB block.
pub fn dag_pb_cid(block: &[u8]) -> Cid {
    Cid::new_v1(DAG_PB, multihash(digest::sha2_256(block)))
}

/// True for a CIDv1 of a DAG-PB block hashed with sha2-256.
pub fn is_dag_pb(cid: &Cid) -> bool {
    is_v1(cid) && cid.codec() == DAG_PB
}

/// True for a CIDv1 that may name a file: a raw block or the root of a UnixFS file, hashed with sha2-256.
pub fn may_be_file(cid: &Cid) -> bool {
    is_v1(cid) && matches!(cid.codec(), RAW | DAG_PB)
}

fn is_v1(cid: &Cid) -> bool {
    cid.version() == cid::Version::V1 && cid.hash().code() == SHA2_256 && cid.hash().size() == 32
}

/// All links in a block of canonical DAG-CBOR, in the order in which they lie there.
pub fn links(block: &[u8]) -> Result<Vec<Cid>, CodecError> {
    let links = DagCborCodec::links(block).map_err(|e| CodecError::Malformed(e.to_string()))?;
    Ok(links.collect())
}

/// Where a path through a block leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// To a link, with so many names of the path before it.
    Link(Cid, usize),
    /// To a value that is no link.
    Value,
    /// Nowhere.
    Nothing,
}

/// Follows fields of maps and places of lists in a DAG-CBOR block, up to the first link.
pub fn follow(block: &[u8], path: &[String]) -> Result<Followed, CodecError> {
    let value: Ipld = read(block)?;
    let mut at = &value;
    for (passed, name) in (0..).zip(path) {
        let next = match at {
            Ipld::Link(cid) => return Ok(Followed::Link(*cid, passed)),
            Ipld::Map(map) => map.get(name),
            Ipld::List(list) => name.parse::<usize>().ok().and_then(|place| list.get(place)),
            _ => None,
        };
        let Some(next) = next else { return Ok(Followed::Nothing) };
        at = next;
    }
    match at {
        Ipld::Link(cid) => Ok(Followed::Link(*cid, path.len())),
        _ => Ok(Followed::Value),
    }
}

/// A DAG-CBOR block as [DAG-JSON](https://ipld.io/specs/codecs/dag-json/spec/).
pub fn to_dag_json(block: &[u8]) -> Result<serde_json::Value, CodecError> {
    Ok(dag_json(&read(block)?))
}

fn dag_json(value: &Ipld) -> serde_json::Value {
    match value {
        Ipld::Null => serde_json::Value::Null,
        Ipld::Bool(value) => (*value).into(),
        Ipld::Integer(value) => i64::try_from(*value).map_or_else(
            |_| u64::try_from(*value).map_or_else(|_| value.to_string().into(), serde_json::Value::from),
            serde_json::Value::from,
        ),
        Ipld::Float(value) => (*value).into(),
        Ipld::String(text) => text.as_str().into(),
        Ipld::Bytes(bytes) => json!({ "/": { "bytes": Base::Base64.encode(bytes) } }),
        Ipld::List(values) => values.iter().map(dag_json).collect(),
        Ipld::Map(map) => serde_json::Value::Object(
            map.iter().map(|(name, value)| (name.clone(), dag_json(value))).collect(),
        ),
        Ipld::Link(cid) => json!({ "/": cid.to_string() }),
    }
}

/// True if `bytes` are what `cid` names; false for every hash function but sha2-256.
pub fn names(cid: &Cid, bytes: &[u8]) -> bool {
    cid.hash().code() == SHA2_256 && cid.hash().digest() == digest::sha2_256(bytes)
}

fn multihash(sha: [u8; 32]) -> Multihash<64> {
    Multihash::wrap(SHA2_256, &sha).expect("32 bytes fit into 64")
}

/// A link to a canonical DAG-CBOR block: CIDv1, dag-cbor, sha2-256; kept as its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link(pub [u8; 32]);

/// A job's id: the CID of its payload bytes.
pub type JobId = Link;

impl Link {
    /// The link to the block `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(digest::sha2_256(bytes))
    }

    /// The link as a CID.
    pub fn cid(&self) -> Cid {
        Cid::new_v1(DAG_CBOR, multihash(self.0))
    }
}

impl From<Link> for Cid {
    fn from(link: Link) -> Cid {
        link.cid()
    }
}

impl TryFrom<Cid> for Link {
    type Error = CodecError;
    fn try_from(cid: Cid) -> Result<Self, CodecError> {
        let fault = || CodecError::Malformed(format!("{cid} is not a CIDv1 of dag-cbor and sha2-256"));
        if cid.codec() != DAG_CBOR || cid.hash().code() != SHA2_256 {
            return Err(fault());
        }
        Ok(Self(cid.hash().digest().try_into().map_err(|_| fault())?))
    }
}

impl FromStr for Link {
    type Err = CodecError;
    fn from_str(text: &str) -> Result<Self, CodecError> {
        Cid::from_str(text)
            .map_err(|e| CodecError::Malformed(format!("'{text}' is not a CID: {e}")))?
            .try_into()
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cid().fmt(f)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cid().fmt(f)
    }
}

impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.cid().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            Cid::deserialize(deserializer)?.try_into().map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipld_core::ipld::Ipld;

    #[test]
    fn what_claims_more_than_follows_is_refused_before_memory_is_taken() {
        let list = |claimed: u64| [&[0x9b][..], &claimed.to_be_bytes()].concat();
        let map = |claimed: u64| [&[0xbb][..], &claimed.to_be_bytes()].concat();
        let bombs = [
            list(u64::MAX),
            map(1 << 63),
            list(1 << 20).repeat(200),
            vec![0x84, 1, 2],
            b"\x5a\x01\0\0\0a".into(),
        ];
        for bomb in bombs {
            let claimed = CodecError::Malformed("more is claimed than follows".into());
            assert_eq!(decode::<Ipld>(&bomb), Err(claimed.clone()), "{bomb:02x?}");
            assert_eq!(from_row::<Vec<u8>>(&bomb), Err(claimed), "{bomb:02x?}");
        }
    }

    #[test]
    fn whatever_is_written_claims_no_more_than_it_holds() {
        let list = |items: Vec<Ipld>| Ipld::List(items);
        let map =
            Ipld::Map([("a".to_owned(), list(vec![])), ("b".to_owned(), Ipld::Link(raw_cid(b"x")))].into());
        let value =
            list(vec![map, list(vec![Ipld::Integer(-1 << 40); 300]), Ipld::Bytes(vec![7; 300]), Ipld::Null]);
        assert_eq!(decode(&encode(&value)), Ok(value));
        assert_eq!(from_row(b"\x9f\x01\x82\x02\x03\xff"), Ok((1u8, (2u8, 3u8))), "an indefinite length");
    }
}
