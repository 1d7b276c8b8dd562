//! Published vectors, other implementations' results and laws.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod address;
mod digest;
mod eip712;
mod key;
mod keyring;
mod merkle;
mod standard_tree;
mod wycheproof;

use serde::de::DeserializeOwned;

/// Reads a file of `tests/vectors`.
fn vectors<T: DeserializeOwned>(file: &str) -> T {
    let path = format!("{}/../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

/// Decodes hexadecimal of a length that the type knows.
fn bytes<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}
