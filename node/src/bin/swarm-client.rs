//! The client of a SwarmPool.

use std::process::ExitCode;

fn main() -> ExitCode {
    swarm_node::cli::client_main(std::env::args_os())
}
