//! The rules seen from outside: vectors made by other implementations, and what must be refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuses;
mod acceptance;
mod altered;
mod auditors;
mod audits;
mod favours;
mod histories;
mod laws;
mod pictures;
mod rechecked;
mod record_pages;
mod sampler;
mod second;
mod specification;
mod statements;
mod tampering;
mod three_roles;
mod toy;
mod transcript;
mod verification;
mod view;
mod workloads;

use serde::de::DeserializeOwned;

fn path(file: &str) -> String {
    format!("{}/../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Reads a file of `tests/vectors`.
fn vectors<T: DeserializeOwned>(file: &str) -> T {
    let path = path(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
