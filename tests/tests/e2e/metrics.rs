//! What nodes show to Prometheus: only when asked to, in its format, under names that dashboard, alerts and the
//! operators' guide know; and the listener bears whoever else talks to it.

use crate::harness::{PATIENCE, Process, Site, eventually, job_of, short_job};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use swarm_node::metrics::{MAX_CONNECTION_TIME, MAX_CONNECTIONS, MAX_QUESTION_BYTES};

const TRY_AGAIN: [ErrorKind; 2] = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];

fn docs(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file)
}

/// Where a node says that it shows its metrics.
pub fn listener(node: &Process) -> SocketAddr {
    let line = node.expect("metrics on http://");
    line.split("http://").nth(1).unwrap().trim_end_matches("/metrics").parse().unwrap()
}

/// Sends bytes and reads until the other side closes.
fn say(address: SocketAddr, question: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = stream.write_all(question);
    assert!(sent.is_ok() || TRY_AGAIN.contains(&sent.unwrap_err().kind()));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if !TRY_AGAIN.contains(&error.kind()) => panic!("{error}"),
        Ok(_) | Err(_) => String::from_utf8(answer).unwrap(),
    }
}

pub fn scrape(address: SocketAddr) -> String {
    let answer = say(address, b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// The samples of an exposition, by name and labels.
pub fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(pair).collect()
}

/// The names under which an exposition can be queried.
fn names(text: &str) -> BTreeSet<String> {
    samples(text).keys().map(|sample| sample.split('{').next().unwrap().to_owned()).collect()
}

/// The families of an exposition, as it describes them.
fn families(text: &str) -> BTreeSet<String> {
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    described.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// The metrics that a query names.
fn metrics_in(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| word.starts_with("swarmpool_") || word.starts_with("process_");
    words.filter(ours).map(str::to_owned).collect()
}

/// Prometheus' own checker, where there is one.
fn promtool(args: &[&str], input: &str) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/promtool");
    let program = if own.exists() { own } else { PathBuf::from("promtool") };
    let started = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut checker = match started {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return println!("NOT CHECKED by promtool, which scripts/setup.sh fetches: {}", args.join(" "));
        }
        started => started.unwrap(),
    };
    // It may have seen enough already.
    let _ = checker.stdin.take().unwrap().write_all(input.as_bytes());
    let done = checker.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "promtool {}: {said}", args.join(" "));
}

/// An operator and a miner that have done a job, and what they show.
struct Shown {
    operator: String,
    miner: String,
}

impl Shown {
    fn after_one_job() -> Self {
        let site = Site::new();
        let operator = site.operator(&["--metrics", "0"]);
        let miner = site.miner("alice.eth", &["--metrics", "127.0.0.1:0", "--slots", "2"]);
        site.submit(&site.job("job", &job_of("The carriage", 20))).good();
        let mut costly = short_job("The carriage");
        costly["payment"]["amount"] = "1000".into();
        assert_eq!(site.submit(&site.job("costly", &costly)).code(), Some(1));
        let (to_operator, to_miner) = (listener(&operator), listener(&miner));
        // The clients leave, and the miner hears of its receipt.
        let shown = eventually("one miner and no client, and a receipt", || {
            let shown = Self { operator: scrape(to_operator), miner: scrape(to_miner) };
            let (at_operator, at_miner) = (samples(&shown.operator), samples(&shown.miner));
            let quiet = at_operator["swarmpool_network_peers{role=\"client\",route=\"direct\"}"] == 0.0
                && at_miner["swarmpool_miner_earned_microusdc_total"] > 0.0;
            quiet.then_some(shown)
        });
        miner.terminate().good();
        operator.terminate().good();
        shown
    }

    fn names(&self) -> BTreeSet<String> {
        names(&self.operator).union(&names(&self.miner)).cloned().collect()
    }
}

fn holds(text: &str, expected: &[(&str, f64)]) {
    let samples = samples(text);
    for (name, value) in expected {
        assert_eq!(samples.get(*name), Some(value), "{name} in\n{text}");
    }
}

#[test]
fn metrics_tell_what_happened_and_every_name_is_known() {
    let shown = Shown::after_one_job();
    holds(
        &shown.operator,
        &[
            ("swarmpool_build_info{role=\"operator\",version=\"0.1.0\"}", 1.0),
            ("swarmpool_pool_jobs_admitted_total", 1.0),
            ("swarmpool_pool_jobs_ended_total{end=\"accepted\"}", 1.0),
            ("swarmpool_pool_jobs{state=\"pending\"}", 0.0),
            ("swarmpool_pool_leases_total", 1.0),
            ("swarmpool_pool_receipts_total", 1.0),
            ("swarmpool_pool_booked_microusdc_total{part=\"miner\"}", 75_000.0),
            ("swarmpool_pool_booked_microusdc_total{part=\"operator\"}", 25_000.0),
            ("swarmpool_pool_balance_microusdc{class=\"client_free\"}", 99_900_000.0),
            ("swarmpool_pool_balance_microusdc{class=\"outside\"}", 100_000_000.0),
            ("swarmpool_pool_miners", 1.0),
            ("swarmpool_pool_epoch_length_seconds", 3600.0),
            ("swarmpool_network_peers{role=\"miner\",route=\"direct\"}", 1.0),
            ("swarmpool_network_messages_total{topic=\"proofs\",verdict=\"accept\"}", 1.0),
            ("swarmpool_content_quota_bytes", (4u64 << 30) as f64),
        ],
    );
    holds(
        &shown.miner,
        &[
            ("swarmpool_build_info{role=\"miner\",version=\"0.1.0\"}", 1.0),
            ("swarmpool_miner_races_total{outcome=\"won\"}", 1.0),
            ("swarmpool_miner_runs_total", 1.0),
            ("swarmpool_miner_jobs_total{outcome=\"accepted\"}", 1.0),
            ("swarmpool_miner_tokens_total", 20.0),
            ("swarmpool_miner_engines", 2.0),
            ("swarmpool_miner_engines_busy", 0.0),
            ("swarmpool_miner_earned_microusdc_total", 75_000.0),
            ("swarmpool_miner_operator_connected", 1.0),
            ("swarmpool_network_peers{role=\"operator\",route=\"direct\"}", 1.0),
        ],
    );
    let operator = samples(&shown.operator);
    let above_zero = [
        "swarmpool_pool_refusals_total{reason=\"no_funds\"}",
        "swarmpool_ledger_batches_total",
        "swarmpool_ledger_records_total",
        "swarmpool_ledger_appended_bytes_total",
        "swarmpool_ledger_append_seconds_sum",
        "swarmpool_ledger_file_bytes",
        "swarmpool_bitswap_bytes_total{direction=\"received\"}",
        "swarmpool_content_blocks",
        "swarmpool_content_pinned_bytes",
        "swarmpool_disk_available_bytes",
        "swarmpool_runtime_tasks",
        "process_resident_memory_bytes",
        "process_open_fds",
    ];
    above_zero.iter().for_each(|name| assert!(operator[*name] > 0.0, "{name}"));
    for text in [&shown.operator, &shown.miner] {
        promtool(&["check", "metrics"], text);
    }
    every_name_is_known(&shown);
}

fn every_name_is_known(shown: &Shown) {
    let known = shown.names();
    let dashboard = queries(&std::fs::read_to_string(docs("grafana/swarmpool.json")).unwrap());
    let on_dashboard: BTreeSet<String> = dashboard.iter().flat_map(|query| metrics_in(query)).collect();
    let alerts = std::fs::read_to_string(docs("prometheus/alerts.yml")).unwrap();
    for name in on_dashboard.union(&metrics_in(&alerts)) {
        assert!(known.contains(name), "no node shows {name}");
    }
    let guide = std::fs::read_to_string(docs("operations.md")).unwrap();
    for family in families(&shown.operator).union(&families(&shown.miner)) {
        let shown_there = on_dashboard.iter().any(|name| name.starts_with(family.as_str()));
        assert!(shown_there, "the dashboard does not show {family}");
        assert!(guide.contains(&format!("`{family}`")), "docs/operations.md does not explain {family}");
    }
}

/// All queries of a dashboard.
fn queries(dashboard: &str) -> Vec<String> {
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn prometheus_can_read_the_alerts_and_each_is_explained() {
    let file = docs("prometheus/alerts.yml");
    promtool(&["check", "rules", file.to_str().unwrap()], "");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/prometheus/alerts.yml");
    promtool(&["test", "rules", tests.to_str().unwrap()], "");
    let [alerts, tests] = [file, tests].map(|path| std::fs::read_to_string(path).unwrap());
    let guide = std::fs::read_to_string(docs("operations.md")).unwrap();
    let alert = |line: &str| line.trim().strip_prefix("- alert: ").map(str::to_owned);
    let alerts: Vec<String> = alerts.lines().filter_map(alert).collect();
    assert!(alerts.len() > 20);
    for alert in alerts {
        assert!(guide.contains(&format!("**{alert}**")), "docs/operations.md does not explain {alert}");
        assert!(tests.contains(&format!("alertname: {alert}\n")), "no test makes {alert} fire");
    }
}

#[test]
fn prometheus_can_read_every_query_of_the_dashboard() {
    let queries = queries(&std::fs::read_to_string(docs("grafana/swarmpool.json")).unwrap());
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
        writeln!(rules, "      - record: panel:{number}\n        expr: {}", json!(query)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yml");
    std::fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()], "");
}

/// The TCP ports on which a process listens.
fn ports(process: &Process) -> BTreeSet<u16> {
    let handles = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let links = handles.filter_map(|handle| std::fs::read_link(handle.ok()?.path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap());
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let listening = |row: &str| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let port = u16::from_str_radix(words[1].rsplit(':').next().unwrap(), 16).unwrap();
        (words[3] == "0A" && sockets.contains(words[9])).then_some(port)
    };
    rows.filter_map(listening).collect()
}

#[test]
fn nothing_listens_unless_a_flag_asks_and_then_on_the_loopback() {
    let site = Site::new();
    let silent = site.operator(&[]);
    let listens = silent.expect("listening on");
    let libp2p = listens.rsplit_once('/').unwrap().1.parse().unwrap();
    assert_eq!(ports(&silent), BTreeSet::from([libp2p]));
    silent.terminate().good();
    let operator = site.operator(&["--metrics", "0"]);
    let shown = listener(&operator);
    assert!(shown.ip().is_loopback());
    let others: BTreeSet<u16> = ports(&operator).into_iter().filter(|port| *port != shown.port()).collect();
    assert_eq!(others.len(), 1);
    operator.terminate().good();
    assert!(TcpStream::connect(shown).is_err());
}

#[test]
fn the_listener_bears_bad_questions_and_many_of_them() {
    let site = Site::new();
    let operator = site.operator(&["--metrics", "0"]);
    let address = listener(&operator);
    scrape(address);
    let open = || samples(&scrape(address))["process_open_fds"];
    let before = open();
    let long = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(2 * MAX_QUESTION_BYTES));
    for (question, status) in [
        (&b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 3\r\n\r\nabc", "405"),
        (b"POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 99999999999\r\n\r\n", "405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"GET /metrics\r\n\r\n", "400"),
        (long.as_bytes(), "431"),
    ] {
        let answer = say(address, question);
        assert!(
            answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {answer}"
        );
    }
    assert_eq!(say(address, b"HEAD /metrics HTTP/1.0\r\n\r\n").split("\r\n\r\n").nth(1), Some(""));

    // Who says nothing is cut off, and who asks meanwhile waits no longer than that.
    let begun = Instant::now();
    let mut silent: Vec<TcpStream> =
        (0..4 * MAX_CONNECTIONS).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /metr").unwrap();
    }
    let waiting = std::thread::spawn(move || scrape(address));
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A time-out is told before the end, or the connection is simply gone.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    waiting.join().unwrap();
    assert!(begun.elapsed() < 5 * MAX_CONNECTION_TIME, "{:?}", begun.elapsed());
    println!("{} silent connections were closed within {:?}", 4 * MAX_CONNECTIONS, begun.elapsed());
    eventually("all handles are given back", || (open() <= before).then_some(()));
    assert!(begun.elapsed() > Duration::from_secs(1), "silence was not waited out");
    operator.terminate().good();
}
