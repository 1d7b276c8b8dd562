//! A node of a SwarmPool: operator or miner.

use std::process::ExitCode;

fn main() -> ExitCode {
    swarm_node::cli::node_main(std::env::args_os())
}
