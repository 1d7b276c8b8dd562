//! swarm-node

pub mod cli;
pub mod config;
pub mod job_file;
pub mod network;
pub mod storage;
