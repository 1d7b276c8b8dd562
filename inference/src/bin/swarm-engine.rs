//! Runs a model for a node that started this process: orders come on standard input, reports go to standard output.

use std::process::ExitCode;

use swarm_inference::{Registry, device_name, serve};

const ABOUT: &str = "\
Runs a model for swarm-node, which starts this program by itself: there is nothing to do with it by hand.

  swarm-node --role miner    starts it
  swarm-node doctor          whether it works on this machine
  swarm-engine --device      what computes models and benchmarks here: cuda, metal or cpu";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => serve_node(),
        Some("--version" | "-V") => {
            println!("swarm-engine {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some("--device") => {
            println!("{}", device_name());
            ExitCode::SUCCESS
        }
        Some("--help" | "-h") => {
            println!("{ABOUT}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!(
                "error: swarm-engine takes no argument such as '{other}'\n  → run swarm-node --role miner, which starts it"
            );
            ExitCode::from(2)
        }
    }
}

fn serve_node() -> ExitCode {
    match serve(&mut std::io::stdin().lock(), std::io::stdout(), &Registry::standard()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swarm-engine: {error}");
            ExitCode::from(2)
        }
    }
}
