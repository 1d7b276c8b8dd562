use super::body::Body;
use crate::codec::{self, CodecError, Link};
use crate::{Rejection, Timestamp};
use ipld_core::ipld::Ipld;
use serde::{Deserialize, Serialize};
use std::fmt;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use swarm_crypto::eip712::statement_hash;
use swarm_crypto::key::{SecretKey, Signature};

/// The longest statement, signature included, in bytes.
pub const MAX_STATEMENT_BYTES: usize = 8 * 1024;

/// The one protocol version that this crate speaks.
pub const VERSION: u64 = 1;

/// The five gossip topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Jobs, their admission and their listing.
    Jobs,
    /// Claims and leases.
    Claims,
    /// Proofs and receipts.
    Proofs,
    /// Miners' and the operator's signs of life.
    Heartbeats,
    /// Epochs opened and sealed.
    Epochs,
}

/// Who may sign a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Any wallet.
    Anyone,
    /// The pool's operator only.
    Operator,
}

macro_rules! kinds {
    ($($variant:ident = $name:literal, $topic:expr, $role:ident, $built:literal;)*) => {
        /// Every kind of statement of the protocol, built or not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the specification lists them")]
        pub enum Kind { $($variant),* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// The kind's name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Kind::$variant => $name),* }
            }

            /// The kind of this name.
            pub fn parse(name: &str) -> Option<Kind> {
                match name { $($name => Some(Kind::$variant),)* _ => None }
            }

            /// The topics that carry it; none if it only travels directly.
            pub fn topics(self) -> &'static [Topic] {
                match self { $(Kind::$variant => $topic),* }
            }

            /// Who may sign it.
            pub fn signer(self) -> Role {
                match self { $(Kind::$variant => Role::$role),* }
            }

            /// False for kinds that are refused by name in this version.
            pub fn is_built(self) -> bool {
                match self { $(Kind::$variant => $built),* }
            }
        }
    };
}

kinds! {
    Job = "job", &[Topic::Jobs], Anyone, true;
    Cancel = "cancel", &[Topic::Jobs], Anyone, true;
    Admitted = "admitted", &[Topic::Jobs], Operator, true;
    Refusal = "refusal", &[Topic::Jobs, Topic::Proofs], Operator, true;
    Listing = "listing", &[Topic::Jobs], Operator, true;
    Claim = "claim", &[Topic::Claims], Anyone, true;
    Release = "release", &[Topic::Claims], Anyone, true;
    Lease = "lease", &[Topic::Claims], Operator, true;
    LeaseEnded = "lease_ended", &[Topic::Claims], Operator, true;
    Proof = "proof", &[Topic::Proofs], Anyone, true;
    Attestation = "attestation", &[Topic::Proofs], Anyone, true;
    Challenge = "challenge", &[Topic::Proofs], Anyone, true;
    Receipt = "receipt", &[Topic::Proofs], Operator, true;
    AuditPicked = "audit_picked", &[Topic::Proofs], Operator, true;
    Heartbeat = "heartbeat", &[Topic::Heartbeats], Anyone, true;
    Revocation = "revocation", &[Topic::Heartbeats], Anyone, false;
    Beacon = "beacon", &[Topic::Heartbeats], Operator, true;
    EpochOpened = "epoch_opened", &[Topic::Epochs], Operator, true;
    EpochSealed = "epoch_sealed", &[Topic::Epochs], Operator, true;
    Progress = "progress", &[], Anyone, true;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A number used once per (pool, signer, kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nonce(#[serde(with = "serde_bytes")] pub [u8; 16]);

/// What every statement says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The pool it is meant for; nothing signed for one pool means anything in another.
    pub pool: PoolId,
    /// The wallet that signs.
    pub by: Address,
    /// When, by the signer's clock.
    pub at: Timestamp,
    /// Used once per signer and kind.
    pub nonce: Nonce,
}

/// An unsigned statement: header and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Who, where, when.
    pub header: Header,
    /// What is said.
    pub body: Body,
}

/// The fields of every kind.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    kind: &'a str,
    v: u64,
    pool: PoolId,
    by: Address,
    at: Timestamp,
    nonce: Nonce,
}

/// The payload: one map of the common fields and the body's own.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(flatten)]
    envelope: Envelope<'a>,
    #[serde(flatten)]
    body: &'a Body,
}

impl Statement {
    /// A statement whose nonce is a digest of its content, so that saying the same again is the same statement.
    pub fn derived(pool: PoolId, by: Address, at: Timestamp, body: Body) -> Self {
        let digest = blake3(&codec::encode(&(at, body.kind().as_str(), &body)));
        let nonce = Nonce(digest.0[..16].try_into().expect("16 of 32 bytes"));
        Self { header: Header { pool, by, at, nonce }, body }
    }

    /// The kind of its body.
    pub fn kind(&self) -> Kind {
        self.body.kind()
    }

    /// The canonical payload bytes: the DAG-CBOR map `{kind, v, pool, by, at, nonce, …}`.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&self.payload())
    }

    fn payload(&self) -> Payload<'_> {
        let Header { pool, by, at, nonce } = self.header.clone();
        let envelope = Envelope { kind: self.kind().as_str(), v: VERSION, pool, by, at, nonce };
        Payload { envelope, body: &self.body }
    }

    /// Reads payload bytes, refusing everything that is not the canonical form of what it says.
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        let Envelope { kind, v, pool, by, at, nonce } = codec::read(bytes)?;
        if v != VERSION {
            return Err(foreign(bytes, Rejection::UnknownVersion(v)));
        }
        let Some(kind) = Kind::parse(kind) else {
            return Err(foreign(bytes, Rejection::UnknownKind(kind.to_owned())));
        };
        if !kind.is_built() {
            return Err(foreign(bytes, Rejection::Unbuilt(kind)));
        }
        let statement = Self { header: Header { pool, by, at, nonce }, body: Body::read(kind, bytes)? };
        statement.body.check_bounds()?;
        // Unknown fields, which were passed over, are missing here.
        if !codec::is_encoding(bytes, &statement.payload()) {
            return Err(CodecError::NotCanonical.into());
        }
        Ok(statement)
    }

    /// Reads payload bytes that [`Statement::decode`] has taken before: their form is not looked at again.
    pub(crate) fn reread(bytes: &[u8]) -> Result<Self, Rejection> {
        let Envelope { kind, v: _, pool, by, at, nonce } = codec::read(bytes)?;
        let kind = Kind::parse(kind).ok_or_else(|| Rejection::UnknownKind(kind.to_owned()))?;
        Ok(Self { header: Header { pool, by, at, nonce }, body: Body::read(kind, bytes)? })
    }

    /// Signs it with `key`, which must be the key of the wallet that it names.
    pub fn sign(&self, key: &SecretKey) -> Signed {
        let payload = self.encode();
        let hash = signing_hash(&self.header.pool, self.kind(), &payload);
        Signed { signature: key.sign_prehash(&hash), payload }
    }
}

/// Why a statement that newer nodes may understand goes no further here: only canonical bytes are nobody's fault.
fn foreign(bytes: &[u8], rejection: Rejection) -> Rejection {
    codec::decode::<Ipld>(bytes).map_or_else(Rejection::from, |_| rejection)
}

pub(super) fn signing_hash(pool: &PoolId, kind: Kind, payload: &[u8]) -> [u8; 32] {
    let digest: Digest = blake3(payload);
    statement_hash(pool, kind.as_str(), &digest)
}

/// A snapshot: payload and signature, as it is sent and stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The canonical payload bytes.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// EIP-712 signature over their digest.
    pub signature: Signature,
}

impl Signed {
    /// Reads a snapshot's canonical bytes, which say nothing yet about the payload or the signature.
    pub fn decode(bytes: &[u8]) -> Result<Self, Rejection> {
        if bytes.len() > MAX_STATEMENT_BYTES {
            return Err(Rejection::TooLong(bytes.len()));
        }
        Ok(codec::decode(bytes)?)
    }

    /// The snapshot's canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The statement's id: the CID of the payload bytes, signature excluded.
    pub fn id(&self) -> Link {
        Link::of(&self.payload)
    }
}
