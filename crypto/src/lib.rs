//! Digests, keys, signatures and Merkle trees: the leaf of the workspace.
//!
//! | module | what it follows |
//! |---|---|
//! | [`digest`] | BLAKE3 (derive-key and keyed modes), SHA-256, Keccak-256 |
//! | [`address`] | EIP-55 addresses, ENSIP-1 names, pool ids |
//! | [`key`] | ECDSA over secp256k1 with RFC 6979 nonces and low s |
//! | [`keyring`] | signature checks against remembered public keys |
//! | [`eip712`] | EIP-712 typed data, and the `Statement` every node signs |
//! | [`merkle`] | RFC 9162-shaped append-only tree |
//! | [`standard_tree`] | OpenZeppelin's standard tree of `[address, uint256]` |
//!
//! Nothing here reads a clock, randomness or the environment: whoever makes a key brings its bytes.

#![warn(missing_docs)]

mod bytes;

pub mod address;
pub mod digest;
pub mod eip712;
pub mod key;
pub mod keyring;
pub mod merkle;
pub mod standard_tree;

pub use address::{Address, PoolId};
pub use bytes::ParseError;
pub use digest::{Context, Digest};
pub use key::{PublicKey, SecretKey, Signature, SignatureError};
pub use keyring::Keyring;
