//! The one room that knows about CBOR: canonical DAG-CBOR for what is signed or linked, plain CBOR for what is neither.

use cid::Cid;
use multihash::Multihash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use swarm_crypto::digest::{self, Context, Digest};

const SHA2_256: u64 = 0x12;
const DAG_CBOR: u64 = 0x71;
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

/// Canonical DAG-CBOR of `value`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("our types are maps with string keys, integers, bytes and links")
}

/// Decodes canonical DAG-CBOR, refusing every other encoding of the same value.
pub fn decode<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CodecError> {
    let value: T = read(bytes)?;
    if encode(&value) != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// Reads DAG-CBOR that may not be canonical; whoever calls it compares the bytes with what [`encode`] makes of them.
pub(crate) fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    serde_ipld_dagcbor::from_slice(bytes).map_err(|e| CodecError::Malformed(e.to_string()))
}

/// Plain CBOR, for ledger rows and frames that are never content-addressed.
pub fn to_row<T: Serialize>(value: &T) -> Vec<u8> {
    serde_cbor::to_vec(value).expect("our types are maps with string keys, integers and bytes")
}

/// Decodes plain CBOR written by [`to_row`].
pub fn from_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
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
