//! Digests, and the contexts that keep one use of BLAKE3 apart from another.

use std::sync::OnceLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use sha2::Digest as _;

use crate::bytes::{fixed_bytes, hex_text};

/// A 32-byte digest; its order is that of the big-endian 256-bit integer it spells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

fixed_bytes!(Digest, 32);
hex_text!(Digest);

impl Digest {
    /// 32 zero bytes: the root of an empty tree.
    pub const ZERO: Self = Self([0; 32]);

    /// The first eight bytes as a big-endian integer.
    pub const fn first_u64_be(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// What a digest is for: digests of different contexts never coincide, whatever was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Context {
    /// A wallet's draws in a race.
    Draw,
    /// A lease id.
    Lease,
    /// The seed of a job's sampler.
    Sampling,
    /// A leaf of the proofs tree.
    Leaf,
    /// An inner node of the proofs tree.
    Node,
    /// The digest of a transcript's prefix.
    Prefix,
    /// A ledger record chained to the one before.
    Ledger,
    /// A checkpoint of the pool.
    Checkpoint,
    /// The draw seed of a listing.
    Listing,
    /// A wallet's starting position in the queue of open jobs.
    Queue,
    /// A model's manifest.
    Manifest,
    /// A job's input.
    Input,
    /// A job's output.
    Output,
    /// The commitment to an epoch's secret.
    EpochSecret,
    /// The records of an epoch's ledger range.
    Range,
}

impl Context {
    const COUNT: usize = Self::Range as usize + 1;

    /// The derive-key context string, `swarmpool v1 <name>`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Draw => "swarmpool v1 draw",
            Self::Lease => "swarmpool v1 lease",
            Self::Sampling => "swarmpool v1 sampling",
            Self::Leaf => "swarmpool v1 leaf",
            Self::Node => "swarmpool v1 node",
            Self::Prefix => "swarmpool v1 prefix",
            Self::Ledger => "swarmpool v1 ledger",
            Self::Checkpoint => "swarmpool v1 checkpoint",
            Self::Listing => "swarmpool v1 listing",
            Self::Queue => "swarmpool v1 queue",
            Self::Manifest => "swarmpool v1 manifest",
            Self::Input => "swarmpool v1 input",
            Self::Output => "swarmpool v1 output",
            Self::EpochSecret => "swarmpool v1 epoch secret",
            Self::Range => "swarmpool v1 range",
        }
    }
}

/// BLAKE3 in derive-key mode: `bytes` as the key material under `context`.
pub fn derive(context: Context, bytes: &[u8]) -> Digest {
    // What the mode makes of its context is the same every time, and half the work for a short input.
    static KEYS: [OnceLock<ContextKey>; Context::COUNT] = [const { OnceLock::new() }; Context::COUNT];
    let key = KEYS[context as usize].get_or_init(|| hash_derive_key_context(context.as_str()));
    Digest(*blake3::Hasher::new_from_context_key(key).update(bytes).finalize().as_bytes())
}

/// BLAKE3 in keyed mode.
pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(key, bytes).as_bytes())
}

/// BLAKE3 without key or context, as files and statement payloads are hashed.
pub fn blake3(bytes: &[u8]) -> Digest {
    Digest(*blake3::hash(bytes).as_bytes())
}

/// SHA-256 (FIPS 180-4), the multihash of every CID.
pub fn sha2_256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

/// Keccak-256 as Ethereum uses it (the padding before FIPS 202).
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    sha3::Keccak256::digest(bytes).into()
}
