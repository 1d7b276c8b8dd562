//! swarm-node

pub mod storage;
