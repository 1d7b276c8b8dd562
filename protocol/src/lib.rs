//! The rules of SwarmPool: what nodes say to each other and what follows from it.
//!
//! This crate is pure. It does no IO and reads no clock, randomness or environment; it holds no floats. Every role is
//! a [`Machine`]: events and times go in, effects come out, and the same inputs give the same outputs to the byte.
//! `docs/protocol.md` restates the rules as a specification with vectors.

pub mod acceptance;
pub mod allowance;
pub mod altered;
pub mod audit;
mod clock;
pub mod codec;
pub mod distance;
pub mod evidence;
pub mod finding;
mod machine;
pub mod miner;
pub mod money;
pub mod planted;
pub mod pool;
mod posted;
pub mod pps;
pub mod protobuf;
pub mod query;
pub mod race;
pub mod rejection;
pub mod sampler;
pub mod statement;
pub mod streamed;
pub mod submission;
mod time;
pub mod transcript;
pub mod tree;
pub mod view;
pub mod workload;

pub use machine::Machine;
pub use posted::Posted;
pub use rejection::{Rejection, Verdict};
pub use time::{Millis, Timestamp};
