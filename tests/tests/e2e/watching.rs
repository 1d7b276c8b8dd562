//! The pool as people and programs look at it: `watch` in a real terminal, `status` of clients and of nodes.

use crate::harness::{Process, Site, eventually, job_of, short_id, short_job};
use crate::peer::{POOL, Peer};
use crate::terminal::Terminal;
use rustix::process::Signal;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_node::network::NetworkEvent;
use swarm_protocol::codec::JobId;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::query::{Answer, Balances, Fate, Query, ViewPlace};
use swarm_protocol::statement::{
    Asset, Assurance, Beacon, Body, EpochOpened, EpochSealed, Heartbeat, Listing, ListingEntry, PayoutMode,
    Signed, Statement,
};
use swarm_protocol::{Posted, Timestamp};

/// Has the shell run `watch` and say how it left: its exit code, and whether the line's discipline is as it was.
/// The screen is emptied first: what an earlier one left there says nothing of this one.
fn start_watching(terminal: &Terminal, variables: &str) {
    terminal.type_line("clear");
    terminal.expect_that("an empty screen", |screen| !screen.contains("as it was"));
    terminal.type_line(&format!(
        "before=$(stty -g); {variables} swarm-client watch; echo \"left with $?\"; [ \"$before\" = \"$(stty -g)\" ] && echo 'as it ''was'"
    ));
}

/// The shell's screen is back, with the cursor, and takes lines.
fn assert_left(terminal: &Terminal, code: &str) {
    let screen = terminal.expect("as it was");
    assert!(screen.contains(&format!("left with {code}")), "{screen}");
    assert!(!screen.contains("q quit"), "{screen}");
    for (flag, value) in [("alternate_on", false), ("cursor_flag", true), ("mouse_any_flag", false)] {
        assert_eq!(terminal.flag(flag), value, "{flag}");
    }
    terminal.type_line("echo $((40 + 2)) still here");
    terminal.expect("42 still here");
}

/// The watching program's process.
fn watcher(site: &Site) -> rustix::process::Pid {
    let is_watcher = |id: &u32| {
        std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|all| all.ends_with(b"swarm-client\0watch\0"))
    };
    let id = eventually("a watching process", || site.running().into_iter().find(is_watcher));
    rustix::process::Pid::from_raw(id.cast_signed()).unwrap()
}

#[test]
fn a_job_goes_by_and_an_epoch_seals_on_the_screen() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "10s", "--heartbeat", "1s"]);
    let miner = site.slow_miner("alice.eth", Duration::from_millis(300), &[]);
    let terminal = Terminal::open(&site, 80, 24);
    terminal.type_line("echo written before");
    terminal.expect("written before");
    terminal.type_line("swarm-client watch; echo \"left with $?\"");
    let screen = terminal.expect("alice.eth");
    for shown in [
        "swarmpool.eth",
        "operator in reach",
        "Jobs (",
        "Miners (1)",
        "My jobs (",
        "Epochs (",
        "Peers (",
        "q quit",
    ] {
        assert!(screen.contains(shown), "{shown} is not in\n{screen}");
    }

    let job = site.announce(&site.job("job", &job_of("It is a truth", 12)));
    let of_job = |screen: &str, state: &str| {
        screen.lines().filter(|line| line.contains(&short_id(&job)) && line.contains(state)).count()
    };
    terminal.expect_that("the leased job, among all and among mine", |screen| of_job(screen, "leased") == 2);
    terminal.press(&["1"]);
    terminal.expect_that("who has it", |screen| {
        of_job(screen, "leased") == 1 && screen.contains("alice.eth (0x")
    });
    terminal.press(&["4"]);
    terminal.expect_that("its answer", |screen| of_job(screen, "answered") == 1);
    terminal.press(&["3"]);
    terminal.expect_that("an epoch sealed with its job", |screen| {
        screen.lines().any(|line| line.contains("sealed") && line.contains("0.10"))
    });

    terminal.press(&["0"]);
    for (width, height) in [(140, 45), (40, 12), (80, 24)] {
        terminal.resize(width, height);
        terminal.expect_that("the keys on the last line", |screen| {
            screen.lines().nth(usize::from(height) - 1).is_some_and(|line| line.contains("q quit"))
        });
    }
    terminal.resize(20, 5);
    terminal.expect("32x8 is needed");
    terminal.resize(80, 24);
    operator.kill();
    terminal.expect("OUT OF REACH");
    let operator = site.operator(&["--epoch", "10s", "--heartbeat", "1s"]);
    terminal.expect("operator in reach");

    terminal.press(&["q"]);
    let screen = terminal.expect("left with 0");
    assert!(screen.contains("written before"), "{screen}");
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn however_it_ends_the_terminal_is_as_it_was() {
    let site = Site::new();
    let operator = site.operator(&[]);
    let terminal = Terminal::open(&site, 80, 24);
    start_watching(&terminal, "");
    terminal.expect("q quit");
    assert!(terminal.flag("alternate_on"));
    terminal.press(&["q"]);
    assert_left(&terminal, "0");

    start_watching(&terminal, "");
    terminal.expect("q quit");
    terminal.press(&["C-c"]);
    assert_left(&terminal, "0");

    start_watching(&terminal, "");
    terminal.expect("q quit");
    rustix::process::kill_process(watcher(&site), Signal::TERM).unwrap();
    assert_left(&terminal, "0");

    start_watching(&terminal, "SWARMPOOL_WATCH_PANIC=true");
    let screen = terminal.expect("as it was");
    assert!(screen.contains("SWARMPOOL_WATCH_PANIC is set"), "{screen}");
    assert_left(&terminal, "101");
    operator.terminate().good();
}

fn status(site: &Site) -> Value {
    site.client(&["status", "--json"]).good().json()
}

#[test]
fn status_is_one_object_with_what_watch_shows() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "8s", "--heartbeat", "1s"]);
    let miner = site.miner("alice.eth", &[]);
    operator.expect("joined with matmul, queenbee-nano");
    let answered = site.submit(&site.job("job", &short_job("It is"))).good().json();
    let waiting = site.job("waiting", &job_of("It is", 5));
    let slow = site.slow_miner("bob.eth", Duration::from_secs(2), &[]);
    miner.terminate().good();
    operator.expect("epoch 0 sealed");
    let leased = site.announce(&waiting);
    slow.expect("is mine");
    let pending = site.announce(&waiting);

    let known = status(&site);
    let row = |list: &str, key: &str, value: &Value| {
        let rows = known[list].as_array().unwrap();
        rows.iter()
            .find(|row| row[key] == *value)
            .cloned()
            .unwrap_or_else(|| panic!("no {value} in {known:#}"))
    };
    assert_eq!((&known["pool"], &known["operator_in_reach"]), (&"swarmpool.eth".into(), &true.into()));
    assert_eq!((&known["pending"], &known["leased"]), (&1.into(), &1.into()));
    assert_eq!((&known["free_usdc"], &known["reserved_usdc"]), (&"99.70".into(), &"0.20".into()));
    let [done, leased, pending] = [answered["job"].clone(), leased.into(), pending.into()];
    assert_eq!(row("my_jobs", "job", &done)["state"], "answered");
    let bob = row("miners", "name", &"bob.eth".into());
    assert_eq!((&bob["live"], &bob["leases"], &bob["slots"]), (&true.into(), &1.into(), &1.into()));
    for list in ["jobs", "my_jobs"] {
        let held = row(list, "job", &leased);
        assert_eq!((&held["state"], &held["miner"]), (&"leased".into(), &bob["wallet"]));
        assert_eq!((&held["model"], &held["price_usdc"]), (&"queenbee-nano".into(), &"0.10".into()));
        assert_eq!(row(list, "job", &pending)["state"], "pending");
    }
    let sealed = row("epochs", "epoch", &0.into());
    assert_eq!((&sealed["state"], &sealed["accepted"]), (&"sealed".into(), &1.into()));
    assert_eq!(sealed["volume_usdc"], "0.10");
    let is_operator =
        |peer: &&Value| peer["agent"].as_str().is_some_and(|agent| agent.contains("(operator)"));
    let peer = known["peers"].as_array().unwrap().iter().find(is_operator).expect("the operator is a peer");
    assert_eq!(peer["route"], "direct");
    assert_eq!(known["evidence"], serde_json::json!([]));

    let page = site.client(&["status"]).good().stdout;
    for shown in ["pool      swarmpool.eth", "My jobs (3)", "leased", "bob.eth (0x", "sealed", "direct"] {
        assert!(page.contains(shown), "{shown} is not in\n{page}");
    }
    slow.kill();
    operator.terminate().good();
}

fn node_status(site: &Site, args: &[&str]) -> crate::harness::Finished {
    let mut command = site.command("swarm-node");
    command.arg("status").args(args);
    Process::start("status", command).finish()
}

#[test]
fn a_node_tells_its_owner_how_its_peers_are_connected() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let operator = site.operator(&["--heartbeat", "1s"]);
    let miner = site.miner("alice.eth", &[]);
    operator.expect("joined with matmul, queenbee-nano");
    let told = eventually("a measured round trip", || {
        let told = node_status(&site, &["--json"]).good().json();
        let measured = told["nodes"].as_array()?.iter().all(|node| node["peers"][0]["latency_ms"].is_u64());
        measured.then_some(told)
    });
    let nodes = told["nodes"].as_array().unwrap();
    assert_eq!(
        nodes.iter().map(|node| node["node"].clone()).collect::<Vec<_>>(),
        ["miner-alice.eth", "operator"]
    );
    assert_eq!(
        (&nodes[0]["peers"][0]["peer"], &nodes[1]["peers"][0]["peer"]),
        (&nodes[1]["peer"], &nodes[0]["peer"])
    );
    for (node, process) in nodes.iter().zip([&miner, &operator]) {
        assert_eq!(node["process"], process.id());
        let peer = &node["peers"][0];
        assert!(peer["route"] == "direct" && peer["since_ms"].as_u64() <= node["now_ms"].as_u64(), "{peer}");
    }
    assert_eq!(nodes[0]["view"]["operator_in_reach"], true);
    let mode = std::fs::metadata(site.data("operator").join("status.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let page = node_status(&site, &["--name", "alice.eth"]).good().stdout;
    assert!(
        page.starts_with("miner-alice.eth\n") && page.contains("direct") && page.contains("Peers (1)"),
        "{page}"
    );
    assert!(!page.contains("\noperator\n"), "{page}");
    operator.kill();
    eventually("a miner that misses its operator", || {
        let told = node_status(&site, &["--json"]).good().json();
        let alone =
            told["nodes"].as_array()?.len() == 1 && told["nodes"][0]["view"]["operator_in_reach"] == false;
        alone.then_some(())
    });
    miner.terminate().good();
    assert_eq!(node_status(&site, &[]).code(), Some(1));
}

/// Answers a client as an operator would, but for its pages: they never end, and of what is in them one heartbeat alone
/// is signed as it should be.
fn answer_falsely(key: &SecretKey, pool: PoolId, query: &Query) -> Answer {
    let now = Timestamp(u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap());
    let signed = |by: &SecretKey, body: Body| Statement::derived(pool, by.address(), now, body).sign(by);
    let heartbeat = |ens: &str| Heartbeat {
        boot_at: now,
        counter: 0,
        models: Vec::new(),
        slots: 1,
        mode: PayoutMode::Solo,
        ens: Some(ens.to_owned()),
        device: "\u{1b}[2Jcpu".to_owned(),
        vram_mb: 0,
        draining: false,
    };
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
    let epoch = EpochOpened {
        epoch: 0,
        secret_hash: Digest::ZERO,
        roster: JobId::of(b"roster"),
        posted: Posted::default(),
    };
    let sealed = |epoch| Body::from(EpochSealed { epoch, header: JobId::of(b"header") });
    let miner = SecretKey::from_bytes(&[8; 32]).unwrap();
    match query {
        Query::Beacon => {
            Answer::Pool { beacon: signed(key, beacon.into()), opened: signed(key, epoch.into()) }
        }
        Query::View { .. } => {
            let mut forged = signed(&miner, heartbeat("forged.eth").into());
            forged.signature.0[7] ^= 1;
            let lease = Listing { entries: vec![entry(now)] };
            let statements = vec![
                signed(&miner, heartbeat("true.eth").into()),
                forged,
                signed(&miner, lease.into()),
                signed(&miner, sealed(7)),
                Signed { payload: b"nothing".to_vec(), ..signed(key, sealed(8)) },
            ];
            Answer::View { statements, next: Some(ViewPlace::START) }
        }
        Query::Account { .. } => Answer::Account(Balances::default()),
        Query::Job { .. } => Answer::Fate(Fate::Unknown),
        _ => Answer::Sealed(None),
    }
}

fn entry(listed_at: Timestamp) -> ListingEntry {
    ListingEntry {
        job: JobId::of(b"a job that nobody sent"),
        attempt: 1,
        seed: Digest::ZERO,
        epoch: 0,
        model: "m".into(),
        price: MicroUsdc(4),
        assurance: Assurance::Seeded,
        vram_mb: 0,
        listed_at,
        free: (0, 0),
    }
}

#[test]
fn what_is_not_signed_as_it_should_be_is_not_shown() {
    let site = Site::new();
    let key = SecretKey::from_bytes(&[7; 32]).unwrap();
    let pool = PoolId::derive(POOL, key.address(), 0, Address::ZERO);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut peer = runtime.block_on(Peer::start(&site, "swarm-node/0.1.0 (operator)"));
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = pages.clone();
    let answering = runtime.spawn(async move {
        while let Some(event) = peer.events.recv().await {
            if let NetworkEvent::SyncRequest { data, reply, .. } = event {
                let query = Query::decode(&data).unwrap();
                counted.fetch_add(usize::from(matches!(query, Query::View { .. })), Ordering::Relaxed);
                reply.send(answer_falsely(&key, pool, &query).encode()).await.unwrap();
            }
        }
    });
    let known = status(&site);
    let names: Vec<_> =
        known["miners"].as_array().unwrap().iter().map(|miner| miner["name"].clone()).collect();
    assert_eq!(names, ["true.eth"]);
    assert_eq!((&known["jobs"], &known["pending"]), (&serde_json::json!([]), &0.into()));
    assert!(known["epochs"].as_array().unwrap().iter().all(|epoch| epoch["state"] == "open"), "{known:#}");
    assert!(pages.load(Ordering::Relaxed) <= 256, "pages without end are not read without end");
    let page = site.client(&["status"]).good().stdout;
    assert!(page.contains("true.eth") && !page.contains('\u{1b}'), "{page:?}");
    answering.abort();
}
