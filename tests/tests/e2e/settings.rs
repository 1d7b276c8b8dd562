//! Settings that are there and empty, as in a service's file from which somebody has taken a value away.

use crate::harness::{Process, Site};
use clap::{Command, CommandFactory};
use std::collections::BTreeSet;
use std::ffi::OsString;
use swarm_node::cli::{ClientArgs, NodeArgs};

/// Not of this machine's network, whatever the variables say.
const HERE: [&str; 3] = ["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];

/// The variables of a program but the one that keeps tests apart.
fn variables(command: &Command) -> BTreeSet<OsString> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env()).map(OsString::from);
    let all = own.chain(command.get_subcommands().flat_map(variables));
    all.filter(|name| name != "SWARMPOOL_HOME").collect()
}

#[test]
fn empty_variables_are_none() {
    let site = Site::new();
    let start = |program: &str, args: &[&str], of: &Command| {
        let mut command = site.command(program);
        command.args(args).args(HERE).envs(variables(of).into_iter().map(|name| (name, "")));
        Process::start(program, command)
    };
    let operator = start("swarm-node", &["--role", "operator"], &NodeArgs::command());
    operator.expect("listening on");
    let miner = start("swarm-node", &["--role", "miner"], &NodeArgs::command());
    miner.expect("joined swarmpool.eth");
    let shown = start("swarm-client", &["status", "--json"], &ClientArgs::command()).finish().good().json();
    assert_eq!(shown["pool"], "swarmpool.eth", "{shown}");
    for node in [miner, operator] {
        node.terminate().good();
    }
}
