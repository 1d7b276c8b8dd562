//! What people do wrong and what they are told: one line that says what is wrong, one that says what to do.
//!
//! The whole table is `snapshots/e2e__mistakes__*.snap`; `INSTA_UPDATE=always` writes it anew.

use crate::harness::{Finished, PATIENCE, Process, Site, job_of, short_job, text};
use crate::peer::{POOL, Peer};
use serde_json::{Value, json};
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::key::SecretKey;
use swarm_node::network::NetworkEvent;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::Answer;
use swarm_protocol::statement::{Asset, Beacon, Body, Signed, Statement};
use swarm_protocol::{Posted, Timestamp};

const NOBODY: &str = "0x0000000000000000000000000000000000000001";

/// The table: each mistake, what was told, and the exit code.
#[derive(Default)]
struct Table {
    text: String,
    secrets: Vec<(String, &'static str)>,
}

impl Table {
    fn of(site: &Site) -> Self {
        let mut table = Self::default();
        table.hide(&site.home(), "<home>");
        table.hide(&site.runtime(), "<runtime>");
        table.hide(site.home().parent().unwrap(), "<site>");
        table
    }

    fn hide(&mut self, path: &Path, name: &'static str) {
        self.secrets.push((text(path), name));
    }

    /// Adds a mistake; it has to end with an error, in two lines.
    fn add(&mut self, mistake: &str, told: &Finished) {
        let lines: Vec<&str> = told.stderr.lines().collect();
        let errors = lines.iter().filter(|line| line.starts_with("error: ")).count();
        let [.., error, hint] = lines[..] else { panic!("{mistake}: {told:?}") };
        assert!(
            errors == 1 && error.starts_with("error: ") && hint.starts_with("  → "),
            "{mistake}: {told:?}"
        );
        assert!(matches!(told.code(), Some(1 | 2)), "{mistake}: {told:?}");
        self.note(mistake, told);
    }

    /// Adds what was told, whatever it is.
    fn note(&mut self, mistake: &str, told: &Finished) {
        let code = told.code().map_or("a signal".to_owned(), |code| code.to_string());
        writeln!(self.text, "--- {mistake} (exit {code})").unwrap();
        for line in told.stderr.lines() {
            let plain = self.secrets.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
            writeln!(self.text, "{}", normal(&plain)).unwrap();
        }
        self.text.push('\n');
    }
}

/// A line without what differs from run to run: the time, ids, addresses, ports and process numbers.
fn normal(line: &str) -> String {
    let stamped = line.starts_with("20") && line.get(10..11) == Some("T");
    let line = if stamped { line.split_once("Z ").map_or(line, |(_, rest)| rest.trim_start()) } else { line };
    let mut out = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        out.push_str(normal_word(word, &out));
        let next = after.chars().next().map_or(0, char::len_utf8);
        out.push_str(&after[..next]);
        rest = &after[next..];
    }
    out
}

fn normal_word<'a>(word: &'a str, before: &str) -> &'a str {
    let number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    if word.starts_with("0x") && word.len() == 42 && word != NOBODY {
        "<address>"
    } else if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "<digest>"
    } else if word.len() > 40 && (word.starts_with("bafy") || word.starts_with("bafk")) {
        "<cid>"
    } else if number && is_port(word, before) {
        "<port>"
    } else if number && before.ends_with("process ") {
        "<pid>"
    } else {
        word
    }
}

/// Ports that were given out, and those of multiaddrs.
fn is_port(word: &str, before: &str) -> bool {
    (before.ends_with("/tcp/") && word.len() > 3) || (before.ends_with("127.0.0.1:") && word.len() > 4)
}

fn client(site: &Site, args: &[&str]) -> Finished {
    site.client(&[&["--connect-timeout", "30s"], args].concat())
}

fn node(site: &Site, args: &[&str]) -> Process {
    let mut command = site.command("swarm-node");
    command.env("SWARMPOOL_LOG", "warn").args(args);
    Process::start("node", command)
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut job = short_job("It is");
    change(&mut job);
    job
}

fn amount(amount: Value) -> Value {
    with(|job| job["payment"]["amount"] = amount)
}

#[test]
fn in_a_job_file() {
    let site = Site::new();
    let mut table = Table::of(&site);
    let file = |name: &str, text: &str| {
        let path = site.home().parent().unwrap().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut submit =
        |mistake: &str, path: PathBuf| table.add(mistake, &client(&site, &["submit", &text(&path)]));
    submit("malformed JSON", file("job.json", "{\n  \"job_type\": llm_gen\n}"));
    submit("cut short", file("job.json", "{\n  \"job_type\": \"llm_gen\","));
    submit("not text", site.home().parent().unwrap().join("jobs"));
    submit("missing file", site.home().parent().unwrap().join("none.json"));
    submit("field given twice", file("job.json", r#"{"model": "a", "model": "b"}"#));
    let table_of_jobs = [
        ("unknown field", with(|job| job["max_token"] = 4.into())),
        ("unknown field further in", with(|job| job["params"]["max_token"] = 4.into())),
        ("missing field", with(|job| drop(job.as_object_mut().unwrap().remove("payment")))),
        ("seven decimals", amount(json!("0.1234567"))),
        ("a number for an amount", amount(json!(0.1))),
        ("negative amount", amount(json!("-0.10"))),
        ("NaN", amount(json!("NaN"))),
        ("zero price", amount(json!("0"))),
        ("a price too small to share", amount(json!("0.000003"))),
        ("wrong currency", with(|job| job["payment"]["currency"] = "EUR".into())),
        ("parameters of another workload", with(|job| job["job_type"] = "sd_infer".into())),
        ("sealed input", with(|job| job["input"] = json!({ "sealed": {} }))),
        ("two inputs", with(|job| job["input"] = json!({ "text": "a", "file": "b.txt" }))),
        ("input file missing", with(|job| job["input"] = json!({ "file": "none.txt" }))),
        ("too long to live", with(|job| job["ttl_s"] = 90_000.into())),
        ("no time to live", with(|job| job["ttl_s"] = 0.into())),
        ("too many tokens", with(|job| job["params"]["max_tokens"] = 100_000.into())),
        ("temperature too fine", with(|job| job["params"]["temperature"] = json!(0.12345))),
    ];
    for (mistake, job) in table_of_jobs {
        submit(mistake, site.job("job", &job));
    }
    let large = site.job("job", &short_job(&"word ".repeat(4000)));
    table.add("large input without waiting", &client(&site, &["submit", "--no-wait", &text(&large)]));
    insta::assert_snapshot!("in_a_job_file", table.text);
}

#[test]
fn on_the_command_line() {
    let site = Site::new();
    let mut table = Table::of(&site);
    for (mistake, args) in [
        ("no job file", "submit"),
        ("unknown command", "sumbit job.json"),
        ("unknown flag", "status --fast"),
        ("a flag of the miner", "submit job.json --ens alice.eth"),
        ("malformed id", "status nonsense"),
        ("malformed operator", "status --operator alice.eth"),
        ("malformed time", "status --connect-timeout 5"),
        ("watch without a terminal", "watch"),
        ("watch as JSON", "watch --json"),
    ] {
        table.add(mistake, &client(&site, &args.split(' ').collect::<Vec<_>>()));
    }
    for (mistake, args) in [
        ("no role", "--no-mdns"),
        ("unknown role", "--role boss"),
        ("a name for an operator", "--role operator --ens alice.eth"),
        (
            "an operator for an operator",
            "--role operator --operator 0x0000000000000000000000000000000000000001",
        ),
        ("bad duration", "--role operator --epoch 1hour"),
        ("window too long", "--role operator --window 3s"),
        ("bad multiaddr", "--role miner --bootstrap 127.0.0.1:4001"),
        ("malformed name", "--role miner --ens Alice"),
        ("malformed price", "--role miner --min-price 1e-3"),
        ("missing settings", "--role miner --config none.toml"),
        ("malformed filter", "--role miner --log swarm_node=loud"),
        ("metrics at a name", "--role miner --metrics localhost"),
        ("metrics at a URL", "--role operator --metrics http://127.0.0.1:9477/metrics"),
        ("too few connections", "--role operator --max-connections 4"),
        ("too many connections", "--role operator --max-connections 1000000"),
        ("no connections from an address", "--role operator --max-connections-per-ip 0"),
        ("more from an address than from its network", "--role miner --max-connections-per-ip 200"),
        ("more from a network than in all", "--role miner --max-connections 100"),
        ("status of no node", "status"),
        ("status of one node that does not run", "status --name alice.eth"),
        ("an unknown flag of status", "status --yaml"),
    ] {
        table.add(mistake, &node(&site, &args.split(' ').collect::<Vec<_>>()).finish());
    }
    insta::assert_snapshot!("on_the_command_line", table.text);
}

#[test]
fn in_the_pool() {
    let site = Site::new();
    let mut table = Table::of(&site);
    // The time that an answer takes counts too.
    table.secrets.extend(["59 s", "61 s", "62 s"].map(|off| (off.to_owned(), "60 s")));
    let job = text(&site.job("job", &short_job("It is")));
    table.add("no operator", &client(&site, &["submit", "--connect-timeout", "1s", &job]));
    let operator = site.operator(&[]);
    let shifted = |program: &str, offset: &str, args: &[&str]| {
        let mut command = site.command(program);
        command.env("SWARMPOOL_LOG", "warn").env("SWARMPOOL_CLOCK_OFFSET_MS", offset).args(args);
        Process::start("shifted", command).finish()
    };
    table.add("another operator", &client(&site, &["submit", "--operator", NOBODY, &job]));
    let known = site.home().join("known_operators.json");
    std::fs::write(&known, format!("{{\"{POOL}\": \"{NOBODY}\"}}")).unwrap();
    table.add("a changed operator, to a client", &client(&site, &["submit", &job]));
    table.add("a changed operator, to a miner", &node(&site, &["--role", "miner"]).finish());
    std::fs::write(&known, "{}}").unwrap();
    table.add("damaged list of operators", &client(&site, &["submit", &job]));
    std::fs::remove_file(&known).unwrap();
    table.add("client's clock ahead", &shifted("swarm-client", "60000", &["submit", &job]));
    table.add("client's clock behind", &shifted("swarm-client", "-60000", &["submit", &job]));
    table.add("miner's clock ahead", &shifted("swarm-node", "60000", &["--role", "miner"]));
    table.add("miner's clock behind", &shifted("swarm-node", "-60000", &["--role", "miner"]));
    let mut submit = |mistake: &str, job: Value| {
        table.add(mistake, &client(&site, &["submit", &text(&site.job("job", &job))]));
    };
    submit("no funds", amount(json!("1000")));
    submit("unknown model", with(|job| job["model"] = "gpt-5".into()));
    submit("expired", with(|job| job["ttl_s"] = 1.into()));
    let nowhere = JobId::of(b"nowhere").to_string();
    for command in ["status", "wait", "cancel", "verify"] {
        table.add(&format!("{command} of an unknown job"), &client(&site, &[command, &nowhere]));
    }
    table.add("second operator", &node(&site, &["--role", "operator"]).finish());
    operator.terminate().good();
    insta::assert_snapshot!("in_the_pool", table.text);
}

#[test]
fn with_a_receipt() {
    let site = Site::new();
    let mut table = Table::of(&site);
    let operator = site.operator(&["--window", "0"]);
    let miner = site.miner("alice.eth", &[]);
    let answered = site.submit(&site.job("job", &short_job("It is"))).good().json();
    let (receipt, id) = (&answered["receipt"], answered["job"].as_str().unwrap());
    assert_eq!(client(&site, &["verify", id]).code(), Some(0));
    let path = site.home().parent().unwrap().join("receipt.json");
    let mut verify = |mistake: &str, text: &str| {
        std::fs::write(&path, text).unwrap();
        table.add(mistake, &client(&site, &["verify", path.to_str().unwrap()]));
    };
    verify("garbage", "garbage");
    verify("no receipt", "{}");
    verify("not hexadecimal", r#"{"signed": "xyz"}"#);
    verify("no statement", r#"{"signed": "00ff"}"#);
    let statement = std::fs::read(site.data("client").join(format!("jobs/{id}.job"))).unwrap();
    verify("another statement", &json!({ "signed": hex::encode(statement) }).to_string());
    for field in receipt.as_object().unwrap().keys().filter(|field| *field != "signed") {
        let mut changed = receipt.clone();
        changed[field] = match &receipt[field] {
            Value::String(text) => format!("{text}0").into(),
            number => (number.as_u64().unwrap() + 1).into(),
        };
        verify(&format!("{field} changed in the file"), &changed.to_string());
    }
    let signed = Signed::decode(&hex::decode(receipt["signed"].as_str().unwrap()).unwrap()).unwrap();
    for (field, payload) in tampered(&signed) {
        let forged = Signed { payload, ..signed.clone() };
        verify(
            &format!("{field} changed in the statement"),
            &json!({ "signed": hex::encode(forged.encode()) }).to_string(),
        );
    }
    table.add("missing file", &client(&site, &["verify", "none.json"]));
    miner.terminate().good();
    operator.terminate().good();
    insta::assert_snapshot!("with_a_receipt", table.text);
}

/// The receipt's payload with one field changed at a time.
fn tampered(signed: &Signed) -> Vec<(&'static str, Vec<u8>)> {
    let statement = Statement::decode(&signed.payload).unwrap();
    let Body::Receipt(receipt) = &statement.body else { panic!("not a receipt") };
    let with = |field, change: fn(&mut swarm_protocol::statement::Receipt)| {
        let mut receipt = receipt.clone();
        change(&mut receipt);
        (field, Statement { header: statement.header.clone(), body: Body::Receipt(receipt) }.encode())
    };
    vec![
        with("job", |r| r.job = JobId::of(b"other")),
        with("proof", |r| r.proof = JobId::of(b"other")),
        with("client", |r| r.client = Address([9; 20])),
        with("wallet", |r| r.wallet = Address([9; 20])),
        with("epoch", |r| r.epoch += 1),
        with("index", |r| r.index += 1),
        with("leaf", |r| r.leaf.0[0] ^= 1),
        with("price", |r| r.price.0 += 4),
        with("miner part", |r| r.miner_part.0 += 1),
        with("operator part", |r| r.operator_part.0 += 1),
        with("units", |r| r.units += 1),
        with("mode", |r| r.mode = swarm_protocol::statement::PayoutMode::Pps),
        with("asset", |r| r.asset = Asset::Usdc { chain: 1, contract: Address([9; 20]) }),
        with("output", |r| r.output = swarm_protocol::codec::raw_cid(b"other")),
        with("output length", |r| r.output_bytes += 1),
        with("held until", |r| r.held_until += 1),
    ]
}

/// A copy of a home that a pool has lived in.
struct Lived {
    site: Site,
}

impl Lived {
    fn new() -> Self {
        let site = Site::new();
        site.operator(&[]).terminate().good();
        Self { site }
    }

    /// The same home again, on another site.
    fn copy(&self) -> Site {
        let site = Site::new();
        let (from, to) = (self.site.data("operator"), site.data("operator"));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
            std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
        site
    }
}

#[test]
fn in_a_nodes_files() {
    let lived = Lived::new();
    let mut text_of_all = String::new();
    let mut case = |mistake: &str, args: &[&str], spoil: &dyn Fn(&Path)| {
        let site = lived.copy();
        spoil(&site.data("operator"));
        let mut table = Table::of(&site);
        table.add(mistake, &node(&site, &[&["--role", "operator"], args].concat()).finish());
        text_of_all.push_str(&table.text);
    };
    let set = |name: &'static str, text: &'static str| {
        move |home: &Path| std::fs::write(home.join(name), text).unwrap()
    };
    let mode = |name: &'static str, mode| {
        move |home: &Path| std::fs::set_permissions(home.join(name), PermissionsExt::from_mode(mode)).unwrap()
    };
    let remove = |name: &'static str| move |home: &Path| std::fs::remove_file(home.join(name)).unwrap();
    let key = "1111111111111111111111111111111111111111111111111111111111111111\n";
    case("ledger that is none", &[], &set("ledger.redb", "not a database, whatever it says"));
    case("ledger cut short", &[], &|home| {
        let ledger = std::fs::OpenOptions::new().write(true).open(home.join("ledger.redb")).unwrap();
        ledger.set_len(9000).unwrap();
    });
    case("ledger gone", &[], &remove("ledger.redb"));
    case("ledger of another pool", &[], &set("key", key));
    case("mark damaged", &[], &set("high_water", "{"));
    case("content damaged", &[], &set("blocks.redb", "not a database"));
    case("pool secret missing", &[], &remove("pool.secret"));
    case("another pool secret", &[], &set("pool.secret", key));
    case("key readable by others", &[], &mode("key", 0o644));
    case("pool secret readable by the group", &[], &mode("pool.secret", 0o640));
    case("malformed key", &[], &set("key", "correct horse battery staple"));
    case("a key that is none", &[], &set("key", &"ff".repeat(32).leak()[..]));
    case("--key names nothing", &["--key", "none.key"], &|_| {});
    case("home is a file", &["--home", "/dev/null"], &|_| {});
    case("home cannot be written", &["--home", "/proc/swarmpool"], &|_| {});
    let model = |manifest: &str| {
        let folder = lived.site.home().parent().unwrap().join("models");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("manifest.json"), manifest).unwrap();
        text(&folder.join("manifest.json"))
    };
    let queenbee = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/queenbee-nano");
    let good = std::fs::read_to_string(queenbee.join("manifest.json")).unwrap();
    let mut hidden = Vec::new();
    for (mistake, manifest) in [
        ("manifest that is none", "{".to_owned()),
        ("weights missing", good.clone()),
        ("weights that the manifest does not name", good),
    ] {
        let path = model(&manifest);
        if mistake.starts_with("weights that") {
            let mut weights = std::fs::read(queenbee.join("queenbee-nano-q8_0.gguf")).unwrap();
            *weights.last_mut().unwrap() ^= 1;
            std::fs::write(Path::new(&path).with_file_name("queenbee-nano-q8_0.gguf"), weights).unwrap();
        }
        case(mistake, &["--model", &path], &|_| {});
        hidden.push(path);
    }
    case("no model there", &["--model", "none.json"], &|_| {});
    let elsewhere = text(lived.site.home().parent().unwrap());
    let text_of_all = without_sizes(&text_of_all.replace(&elsewhere, "<lived>"));
    insta::assert_snapshot!("in_a_nodes_files", text_of_all);
}

/// How large a database is depends on how long its node has lived.
fn without_sizes(text: &str) -> String {
    let mut parts = text.split("layout_len=");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        format!("{text}layout_len=<n>{}", part.trim_start_matches(|c: char| c.is_ascii_digit()))
    })
}

#[test]
fn on_this_machine() {
    let site = Site::new();
    let mut table = Table::of(&site);
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", busy.local_addr().unwrap().port());
    table.add("busy port", &node(&site, &["--role", "operator", "--listen", &address]).finish());
    let address = busy.local_addr().unwrap().to_string();
    table.add("busy port for metrics", &node(&site, &["--role", "operator", "--metrics", &address]).finish());
    let foreign = "/ip4/192.0.2.1/tcp/4001";
    table.add(
        "an address of another machine",
        &node(&site, &["--role", "operator", "--listen", foreign]).finish(),
    );
    std::fs::set_permissions(site.runtime(), PermissionsExt::from_mode(0o755)).unwrap();
    table.add("runtime folder open to others", &node(&site, &["--role", "operator"]).finish());
    std::fs::set_permissions(site.runtime(), PermissionsExt::from_mode(0o700)).unwrap();
    table.add("a GPU is wanted", &node(&site, &["--role", "miner", "--accel-mode", "gpu"]).finish());
    let memory = node(&site, &["--role", "operator", "--ledger", "memory"]);
    memory.expect("LOST");
    table.note("ledger in memory", &memory.terminate());
    insta::assert_snapshot!("on_this_machine", table.text);
}

#[test]
fn with_an_operator_of_another_version() {
    let site = Site::new();
    let mut table = Table::of(&site);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let introduction = introduction_of_version_2();
    let mut peer = runtime.block_on(Peer::start(&site, "swarm-node/9.0.0 (operator)"));
    let answering = runtime.spawn(async move {
        while let Some(event) = peer.events.recv().await {
            if let NetworkEvent::SyncRequest { reply, .. } = event {
                reply.send(introduction.encode()).await.unwrap();
            }
        }
    });
    let job = text(&site.job("job", &short_job("It is")));
    let patience = ["submit", "--connect-timeout", "10s"];
    table.add("operator of another version", &client(&site, &[&patience[..], &[&job]].concat()));
    let miner = node(&site, &["--role", "miner"]);
    miner.expect("another version");
    table.note("the same, to a miner, which goes on looking", &miner.terminate());
    answering.abort();
    insta::assert_snapshot!("with_an_operator_of_another_version", table.text);
}

fn introduction_of_version_2() -> Answer {
    let key = SecretKey::from_bytes(&[7; 32]).unwrap();
    let beacon = Beacon {
        node: None,
        name: POOL.to_owned(),
        asset: Asset::Test,
        chain: 0,
        contract: Address::ZERO,
        epoch: 0,
        pending: 0,
        leased: 0,
        models: Vec::new(),
        posted: Posted::default(),
        tree: None,
    };
    let pool = PoolId::derive(POOL, key.address(), 0, Address::ZERO);
    let mut signed = Statement::derived(pool, key.address(), Timestamp(0), Body::Beacon(beacon)).sign(&key);
    let at = signed.payload.windows(3).position(|bytes| bytes == b"\x61v\x01").unwrap();
    signed.payload[at + 2] = 2;
    Answer::Pool { beacon: signed.clone(), opened: signed }
}

/// A limit on file sizes fails writes as a full disk does, for any user and without mounting one.
fn with_room_for(site: &Site, kibibytes: u64, program: &str, args: &[&str]) -> Process {
    let unlimited = site.command(program);
    let mut command = std::process::Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", kibibytes * 2);
    command.args(["-c", &script]).arg(unlimited.get_program()).args(args).stdin(std::process::Stdio::null());
    for (name, value) in unlimited.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Process::start("short of room", command)
}

/// Announces jobs until `node` ends; gives those that were taken.
fn announce_until_end_of(node: &mut Process, site: &Site, job: &Value) -> Vec<String> {
    let job = text(&site.job("job", job));
    let stop = std::time::Instant::now() + PATIENCE;
    let mut taken = Vec::new();
    while node.is_running() {
        assert!(std::time::Instant::now() < stop, "it found room");
        let done = client(site, &["submit", "--no-wait", "--json", &job]);
        if done.code() == Some(0) {
            taken.push(done.json()["job"].as_str().unwrap().to_owned());
        }
    }
    taken
}

#[test]
fn on_a_full_disk() {
    let site = Site::new();
    let mut table = Table::of(&site);
    // Which of the two is full first is chance.
    table.secrets.extend(["ledger.redb", "blocks.redb"].map(|file| (file.to_owned(), "<file>")));
    site.operator(&[]).terminate().good();
    let operator = ["--role", "operator", "--log", "warn"];
    let mut full = with_room_for(&site, 256, "swarm-node", &operator);
    let first = site.announce(&site.job("job", &short_job("It is")));
    // Too long for the model, but not for the ledger.
    let taken = announce_until_end_of(&mut full, &site, &short_job(&"It is ".repeat(800)));
    table.add("full disk under an operator", &full.finish());

    let operator = site.operator(&["--window", "0"]);
    // The job at which the disk was full was taken, but never admitted: nothing was promised for it.
    let is_known = |id: &&String| client(&site, &["status", id]).code() == Some(0);
    let known = taken.iter().filter(is_known).count();
    assert!(known > 3 && known + 1 >= taken.len(), "{known} of {} jobs outlived the full disk", taken.len());

    let miner = ["--role", "miner", "--log", "warn"];
    let mut full = with_room_for(&site, 256, "swarm-node", &miner);
    announce_until_end_of(&mut full, &site, &job_of("It is", 200));
    table.add("full disk under a miner", &full.finish());
    let job = text(&site.job("job", &short_job("It is")));
    table.add(
        "full disk under a client",
        &with_room_for(&site, 0, "swarm-client", &["submit", &job]).finish(),
    );

    let miner = site.miner("alice.eth", &[]);
    client(&site, &["wait", &first]).good();
    miner.terminate().good();
    operator.terminate().good();
    insta::assert_snapshot!("on_a_full_disk", table.text);
}
