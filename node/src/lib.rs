//! swarm-node

pub mod network;
pub mod storage;
