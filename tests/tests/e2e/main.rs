//! The programs as people start them: real processes that speak over the loopback, each test in folders of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod along;
mod audits;
mod backup;
mod churn;
mod compaction;
mod crashes;
mod demo;
mod devices;
mod doctor;
mod engines;
mod floods;
mod forgeries;
mod gossips;
#[allow(dead_code, reason = "what one module needs, another does not")]
mod harness;
mod helia;
mod homes;
mod hostile;
mod hub;
mod inputs;
mod internet;
mod kubo;
mod many_jobs;
mod metrics;
mod miners;
mod mistakes;
mod models;
mod payouts;
#[allow(dead_code, reason = "what one module needs, another does not")]
mod peer;
mod pulls;
mod rechecks;
mod recompute;
mod redis;
mod reference;
mod replay;
mod restarts;
mod servers;
mod settings;
mod shards;
mod shared;
mod soak;
mod streams;
mod terminal;
mod tree;
mod watching;
mod workloads;
