//! The only crate with IO: network, content, ledger, and the processes of operator, miner and client.

pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod content;
pub mod daemon;
pub mod devices;
mod doctor;
pub mod driver;
mod evidence;
mod home;
mod import;
pub mod job_file;
mod known;
mod link;
pub mod metrics;
pub mod miner;
mod models;
pub mod network;
mod nvidia;
pub mod operator;
pub mod providers;
pub mod recheck;
mod session;
mod socket;
mod status;
pub mod storage;
mod tables;
mod upkeep;
mod view;
mod wire;
mod words;
pub mod workload;

use swarm_protocol::protobuf;
