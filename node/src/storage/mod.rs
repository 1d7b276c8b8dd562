//! What a node keeps on disk: the ledger's records, content blocks, keys and the marks that survive a crash.
//!
//! Everything here is bytes. Nothing in this module knows what a job, a record or a statement means.

pub mod blocks;
pub mod content_store;
pub mod crash;
pub mod disk;
pub mod high_water;
pub mod home;
pub mod ledger;
pub mod pins;
pub mod sequencer;
pub mod snapshot;

#[cfg(test)]
mod tests;
