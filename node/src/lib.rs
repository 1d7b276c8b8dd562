//! swarm-node

pub mod network;
