//! Nodes with their owner's IPFS daemon beside them: a real one that dies and comes back, and one that lies.

#[path = "../../../node/src/daemon/tests/ipfs.rs"]
mod ipfs;

use crate::harness::{Process, Site, eventually, short_id, short_job};
use cid::Cid;
use ipfs::Ipfs;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use swarm_node::content::import;
use swarm_protocol::codec;
use swarm_protocol::pool::EpochHeader;

const OPERATOR: [&str; 4] = ["--heartbeat", "1s", "--epoch", "3s"];
const EQUAL: &str = "has everything that is pinned here";
const VERSION: &str = r#"{"Version":"0.32.1","Commit":"","Repo":"16"}"#;

fn operator(site: &Site, url: &str) -> Process {
    site.operator(&[&OPERATOR[..], &["--ipfs-api", url]].concat())
}

/// What the operator says of its daemon.
fn standing(site: &Site) -> Value {
    let mut command = site.command("swarm-node");
    command.args(["--role", "operator", "status", "--json"]);
    Process::start("status", command).finish().good().json()["nodes"][0]["ipfs"].clone()
}

fn root(site: &Site) -> Option<String> {
    let status = site.client(&["status", "--json"]).good().json();
    status["tree"].as_str().map(str::to_owned)
}

/// The CID of the newest sealed epoch's header, which the operator says, and the line where it says so.
fn sealed(operator: &Process, epoch: &Value) -> String {
    let told = operator.expect(&format!("epoch {epoch} sealed as "));
    told.split("sealed as ").nth(1).unwrap().split(':').next().unwrap().to_owned()
}

/// The daemon has this block, pinned for itself.
fn is_pinned(ipfs: &Ipfs, cid: &str) -> Option<()> {
    let (status, body) = ipfs.ask(&format!("pin/ls?arg={cid}&cid-base=base32"));
    let pins: Value = serde_json::from_slice(&body).ok()?;
    (status == 200 && pins["Keys"][cid]["Type"] == "direct").then_some(())
}

/// What the daemon's own commands read of an answered job: its answer, its epoch's header, and the pool's tree.
fn daemon_has(ipfs: &Ipfs, site: &Site, operator: &Process, answered: &Value) {
    let output = answered["receipt"]["output"].as_str().unwrap();
    let header = sealed(operator, &answered["receipt"]["epoch"]);
    eventually("the header is in the daemon", || is_pinned(ipfs, &header));
    eventually("the answer is in the daemon", || is_pinned(ipfs, output));
    assert_eq!(ipfs.ask(&format!("cat?arg={output}")).1, answered["answer"].as_str().unwrap().as_bytes());
    // js-ipfs fails to write a whole node that has links as JSON, and follows paths through it.
    assert_eq!(ipfs.json(&format!("dag/get?arg={header}/epoch")), answered["receipt"]["epoch"]);
    let read: EpochHeader = codec::decode(&ipfs.ask(&format!("block/get?arg={header}")).1).unwrap();
    eventually("the records are in the daemon", || is_pinned(ipfs, &read.record_pages[0].to_string()));
    let first = ipfs.json(&format!("dag/get?arg={header}/record_pages/0/first_seq"));
    assert_eq!(first, read.first_seq);
    eventually("the tree is in the daemon's files", || {
        let shown = ipfs.ask("files/stat?arg=/swarmpool").1;
        let shown: Value = serde_json::from_slice(&shown).ok()?;
        let shown: Cid = shown["Hash"].as_str()?.parse().ok()?;
        (shown.to_string() == root(site)?).then_some(())
    });
    let state = ipfs.ask("files/read?arg=/swarmpool/state.json").1;
    let state: Value = serde_json::from_slice(&state).unwrap();
    assert!(state["counts"]["accepted"].is_u64(), "{state}");
}

fn submit(site: &Site, prompt: &str) -> Value {
    site.submit(&site.job("job", &short_job(prompt))).good().json()
}

#[test]
#[ignore = "needs an IPFS daemon: scripts/kubo.sh, and so scripts/test.sh, installs one"]
fn a_daemon_holds_what_the_pool_pins_also_what_it_missed() {
    let mut ipfs = Ipfs::start();
    let site = Site::new();
    let operator = operator(&site, &ipfs.url());
    operator.expect("the IPFS daemon at");
    let miner = site.miner("alice.eth", &["--ipfs-api", &ipfs.url()]);
    let first = submit(&site, "Once upon a time");
    daemon_has(&ipfs, &site, &operator, &first);

    ipfs.kill();
    let missed = submit(&site, "And they lived");
    operator.expect("does not keep up");
    let told = eventually("it is told", || Some(standing(&site)).filter(|told| !told["trouble"].is_null()));
    assert!(told["behind"].as_u64().unwrap() > 0 || told["compared"] == false, "{told}");
    let from = operator.mark();
    ipfs.run();
    operator.expect_after(from, EQUAL);
    daemon_has(&ipfs, &site, &operator, &missed);
    daemon_has(&ipfs, &site, &operator, &first);

    // The operator is gone for a while too, and what it let go before it was.
    operator.kill();
    let operator = self::operator(&site, &ipfs.url());
    operator.expect(EQUAL);
    let last = submit(&site, "happily");
    daemon_has(&ipfs, &site, &operator, &last);
    old_trees_are_let_go(&ipfs, &site);
    miner.terminate().good();
    operator.terminate().good();
}

/// Roots change with every record, and only the last eight stay.
fn old_trees_are_let_go(ipfs: &Ipfs, site: &Site) {
    let old = root(site).unwrap();
    eventually("it is pinned", || is_pinned(ipfs, &old));
    for n in 0..12 {
        submit(site, &format!("bee {n}"));
        eventually("another tree", || root(site).filter(|root| *root != old));
    }
    eventually("the old root is let go", || match is_pinned(ipfs, &old) {
        None => Some(()),
        Some(()) => {
            site.announce(&site.job("more", &short_job("one more")));
            None
        }
    });
}

#[test]
#[ignore = "needs an IPFS daemon: scripts/kubo.sh, and so scripts/test.sh, installs one"]
fn what_only_the_daemon_has_is_an_input_and_reaches_others() {
    let ipfs = Ipfs::start();
    let site = Site::new();
    let operator = operator(&site, &ipfs.url());
    let _miner = site.miner("alice.eth", &[]);
    let text = "Once upon a time. ".repeat(3);
    let (cid, _) = import(text.as_bytes());
    put_by_hand(&ipfs, text.as_bytes());
    let file = site.home().join("got");
    site.client(&["get", &cid.to_string(), "--out", file.to_str().unwrap()]).good();
    assert_eq!(std::fs::read(file).unwrap(), text.as_bytes(), "a client has it from the operator");
    let mut job = short_job("");
    job["input"] = json!({ "cid": cid.to_string(), "bytes": text.len() });
    let done = site.submit(&site.job("linked", &job)).good().json();
    operator.expect(&format!("new job {}", short_id(done["job"].as_str().unwrap())));
    eventually("what the job names is pinned", || is_pinned(&ipfs, &cid.to_string()));
    operator.terminate().good();
}

/// As its owner would, with the daemon's own command.
fn put_by_hand(ipfs: &Ipfs, content: &[u8]) {
    let body = [
        b"--x\r\nContent-Disposition: form-data; name=\"data\"; filename=\"data\"\r\nContent-Type: application/octet-stream\r\n\r\n",
        content,
        b"\r\n--x--\r\n",
    ]
    .concat();
    let mut stream = std::net::TcpStream::connect(ipfs.url().trim_start_matches("http://")).unwrap();
    let head = format!(
        "POST /api/v0/block/put?format=raw&version=1 HTTP/1.0\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
}

/// Says that it is a daemon, and then lies in turn; for ever, on a thread of its own.
fn liar() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (turn, stream) in listener.incoming().enumerate() {
            std::thread::spawn(move || lie(turn, stream.unwrap()));
        }
    });
    url
}

fn lie(turn: usize, mut stream: std::net::TcpStream) -> std::io::Result<()> {
    let mut asked = [0; 4096];
    let length = stream.read(&mut asked)?;
    if String::from_utf8_lossy(&asked[..length]).contains("/version") {
        return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{VERSION}", VERSION.len());
    }
    let ok = b"HTTP/1.1 200 OK\r\n\r\n";
    match turn % 5 {
        0 => stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"),
        1 => stream.write_all(&[ok, b"{\"Keys\":".as_slice()].concat()),
        2 => Ok(()),
        3 => {
            stream.write_all(ok)?;
            loop {
                stream.write_all(&[b'x'; 65_536])?;
            }
        }
        _ => {
            stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 65_536])?;
            }
        }
    }
}

#[test]
#[ignore = "needs the feature kubo: scripts/kubo.sh, and so scripts/test.sh, builds it"]
fn a_daemon_that_lies_harms_no_job() {
    let site = Site::new();
    let url = liar();
    let operator = operator(&site, &url);
    let miner = site.miner("alice.eth", &["--ipfs-api", &url]);
    let done = submit(&site, "Once upon a time");
    assert!(!done["answer"].as_str().unwrap().is_empty());
    operator.expect("does not keep up");
    assert!(!standing(&site)["trouble"].is_null());
    sealed(&operator, &done["receipt"]["epoch"]);
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
#[ignore = "needs the feature kubo: scripts/kubo.sh, and so scripts/test.sh, builds it"]
fn a_daemon_that_is_none_is_told_in_one_line() {
    let site = Site::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let page = TcpListener::bind("127.0.0.1:0").unwrap();
    let website = page.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in page.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone");
        }
    });
    for (url, code, expected) in [
        (format!("http://{closed}"), 1, "no IPFS daemon answers at"),
        (format!("http://{website}"), 1, "is not the RPC of an IPFS daemon"),
        ("localhost:5001".to_owned(), 2, "write an address like http://127.0.0.1:5001"),
    ] {
        for role in ["operator", "miner"] {
            let mut command = site.command("swarm-node");
            command.args(["--role", role, "--ipfs-api", &url]);
            let done = Process::start(role, command).finish();
            assert_eq!(done.code(), Some(code), "{}", done.stderr);
            let lines: Vec<&str> = done.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
            assert!(
                lines.len() == 2 && lines[0].contains(expected) && lines[1].contains('→'),
                "{}",
                done.stderr
            );
        }
    }
}
