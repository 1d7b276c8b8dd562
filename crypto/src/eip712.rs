//! EIP-712 typed structured data, as far as the pool needs it.

use std::sync::LazyLock;

use crate::{
    address::{Address, PoolId},
    digest::{Digest, keccak256},
};

/// A member of a typed struct; arrays are not supported, and none of the pool's structs has one.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// `address`
    Address(Address),
    /// `uint8` to `uint256`, as far as it fits.
    Uint(u128),
    /// `bytes32`
    Bytes32([u8; 32]),
    /// `bytes`
    Bytes(&'a [u8]),
    /// `string`
    String(&'a str),
    /// A nested struct, by its [`struct_hash`].
    Struct([u8; 32]),
}

impl Value<'_> {
    /// The 32-byte word that stands for the value in its struct (EIP-712 `encodeData`).
    pub fn encode(&self) -> [u8; 32] {
        let mut word = [0; 32];
        match self {
            Self::Address(address) => word[12..].copy_from_slice(&address.0),
            Self::Uint(number) => word[16..].copy_from_slice(&number.to_be_bytes()),
            Self::Bytes32(bytes) | Self::Struct(bytes) => word = *bytes,
            Self::Bytes(bytes) => word = keccak256(bytes),
            Self::String(text) => word = keccak256(text.as_bytes()),
        }
        word
    }
}

/// The hash of a struct's type, written as EIP-712 `encodeType`: its members, then the types they refer to.
pub fn type_hash(encoded_type: &str) -> [u8; 32] {
    keccak256(encoded_type.as_bytes())
}

/// EIP-712 `hashStruct`; the values are in the order of the type's members.
pub fn struct_hash(type_hash: &[u8; 32], values: &[Value<'_>]) -> [u8; 32] {
    let mut encoded = Vec::with_capacity(32 * (values.len() + 1));
    encoded.extend_from_slice(type_hash);
    for value in values {
        encoded.extend_from_slice(&value.encode());
    }
    keccak256(&encoded)
}

/// What is signed: the hash of `0x1901 ‖ domain separator ‖ struct hash`.
pub fn signing_hash(domain_separator: &[u8; 32], struct_hash: &[u8; 32]) -> [u8; 32] {
    let mut preimage = [0; 66];
    preimage[..2].copy_from_slice(&[0x19, 0x01]);
    preimage[2..34].copy_from_slice(domain_separator);
    preimage[34..].copy_from_slice(struct_hash);
    keccak256(&preimage)
}

/// The separator of a pool's domain `{name: "SwarmPool", version: "1", salt: pool id}`.
pub fn domain_separator(pool: &PoolId) -> [u8; 32] {
    static TYPE: LazyLock<[u8; 32]> =
        LazyLock::new(|| type_hash("EIP712Domain(string name,string version,bytes32 salt)"));
    static NAME: LazyLock<[u8; 32]> = LazyLock::new(|| Value::String("SwarmPool").encode());
    static VERSION: LazyLock<[u8; 32]> = LazyLock::new(|| Value::String("1").encode());
    struct_hash(&TYPE, &[Value::Bytes32(*NAME), Value::Bytes32(*VERSION), Value::Bytes32(pool.0)])
}

/// What the signer of a statement signs: `Statement(string kind,bytes32 digest)` in the pool's domain,
/// `digest` being the BLAKE3 of the payload bytes.
pub fn statement_hash(pool: &PoolId, kind: &str, digest: &Digest) -> [u8; 32] {
    static TYPE: LazyLock<[u8; 32]> = LazyLock::new(|| type_hash("Statement(string kind,bytes32 digest)"));
    let statement = struct_hash(&TYPE, &[Value::String(kind), Value::Bytes32(digest.0)]);
    signing_hash(&domain_separator(pool), &statement)
}
