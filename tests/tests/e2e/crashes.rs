//! The operator dies, again and again, at chosen places and at any: nothing is lost, and nothing happens twice.

use crate::harness::{Finished, Process, Site, job_of, text};
use crate::peer::Peer;
use crate::redis::Redis;
use crate::reference;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm_node::network::{NetworkEvent, Verdict};
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::statement::{Body, Receipt, Signed, Statement};

/// At least three at each place, and ten wherever it is. `OPERATOR_KILLS=1000` is for the night.
const KILLS: u64 = 52;
const CUSTOMERS: usize = 3;
const OPERATOR: [&str; 16] = [
    "--epoch",
    "2s",
    "--keep-epochs",
    "1",
    "--window",
    "100ms",
    "--first-progress",
    "3s",
    "--progress",
    "3s",
    "--heartbeat",
    "1s",
    "--cooldown",
    "500ms",
    "--max-cooldown",
    "2s",
];
/// Each place and the most visits that are survived there; the first two are between Redis and the copy, if there is a
/// Redis.
const PLACES: [(&str, u64); 13] = [
    ("after-redis", 12),
    ("before-trim", 1),
    ("before-append", 12),
    ("before-commit", 12),
    ("after-commit", 12),
    ("after-append", 12),
    ("between-effects", 40),
    ("after-boundary", 2),
    ("before-header-signed", 2),
    ("mid-checkpoint", 2),
    ("before-compaction", 1),
    ("mid-compaction", 1),
    ("after-compaction", 1),
];
/// How long a place may stay unvisited before the operator is killed wherever it is.
const MAX_LIFE: Duration = Duration::from_secs(12);

/// A small generator, so that a seed is a run's choices again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("CRASH_SEED").map_or(now, |seed| seed.parse().unwrap());
        println!("CRASH_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 31) % limit
    }
}

/// Sends job after job until told to stop, and keeps what each came to.
fn custom(site: &Site, number: usize, stop: &AtomicBool) -> Vec<Finished> {
    let (name, mut ended) = (format!("c{number}"), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let tokens = 4 + (ended.len() as u32 % 5) * 12;
        let job = text(&site.job(&name, &job_of("It is a truth universally", tokens)));
        let args = ["--name", &name, "--connect-timeout", "60s", "submit", "--json", &job];
        ended.push(site.client(&args));
    }
    ended
}

/// Lets the customers go, also when the test fails.
struct Closing<'a>(&'a AtomicBool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One life of the operator, which ends with SIGKILL.
fn live_and_die(site: &Site, flags: &[&str], places: &[(&str, u64)], dice: &mut Dice, kill: u64) -> String {
    let at_random = kill % 4 == 3;
    let (place, most) = places[(kill - kill / 4) as usize % places.len()];
    let place = format!("{place}:{}", 1 + dice.below(most));
    let variables = if at_random { vec![] } else { vec![("SWARMPOOL_CRASH_AT", place.as_str())] };
    let mut operator = site.operator_with(flags, &variables);
    let life = if at_random { Duration::from_millis(200 + dice.below(3000)) } else { MAX_LIFE };
    let end = Instant::now() + life;
    while operator.is_running() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (died, finished) = match operator.is_running() {
        true => (format!("after {life:?}"), operator.kill()),
        false => (place, operator.finish()),
    };
    assert_eq!(finished.status.signal(), Some(9), "{died}:\n{}", finished.stderr);
    died
}

/// What the operator signed, as a stranger hears it.
#[derive(Default)]
struct Heard {
    headers: BTreeMap<u64, Link>,
    receipts: BTreeMap<JobId, Receipt>,
}

impl Heard {
    fn statement(&mut self, data: &[u8]) {
        let statement = Statement::decode(&Signed::decode(data).unwrap().payload).unwrap();
        match statement.body {
            Body::EpochSealed(sealed) => {
                let first = *self.headers.entry(sealed.epoch).or_insert(sealed.header);
                assert_eq!(first, sealed.header, "two headers signed for epoch {}", sealed.epoch);
            }
            Body::Receipt(receipt) => {
                let first = self.receipts.entry(receipt.job).or_insert_with(|| receipt.clone());
                assert_eq!(*first, receipt, "two receipts for one job");
            }
            _ => {}
        }
    }
}

async fn listen(mut peer: Peer, heard: Arc<Mutex<Heard>>) {
    while let Some(event) = peer.events.recv().await {
        if let NetworkEvent::Gossip { id, from, data, .. } = event {
            heard.lock().unwrap().statement(&data);
            peer.network.verdict(id, from, Verdict::Accept).await.unwrap();
        }
    }
}

fn check_answers(jobs: &[Finished], reading: &reference::Reading) {
    let mut answered = BTreeMap::new();
    for job in jobs {
        assert_eq!(job.code(), Some(0), "{}", job.stderr);
        let told: Value = job.json();
        let id: JobId = told["job"].as_str().unwrap().parse().unwrap();
        let receipt = &told["receipt"];
        let place = (receipt["epoch"].as_u64().unwrap(), receipt["index"].as_u64().unwrap());
        assert!(!told["answer"].as_str().unwrap().is_empty());
        assert_eq!(reading.receipts.get(&id), Some(&place), "the receipt of {id} is not in the ledger");
        assert!(answered.insert(id, place).is_none());
    }
    assert_eq!(&answered, &reading.receipts, "a job was accepted whose client has no answer");
}

#[test]
fn nothing_is_lost_or_happens_twice_when_the_operator_is_killed() {
    killed_again_and_again(&OPERATOR, &PLACES[2..]);
}

#[test]
fn nothing_is_lost_or_happens_twice_on_redis_when_the_operator_is_killed() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.url();
    killed_again_and_again(&[&OPERATOR[..], &["--redis-url", &url]].concat(), &PLACES);
}

fn killed_again_and_again(flags: &[&str], places: &[(&str, u64)]) {
    let kills = std::env::var("OPERATOR_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let (site, mut dice, stop) = (Site::new(), Dice::new(), AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let peer = runtime.block_on(Peer::start(&site, "stranger"));
    let listener = runtime.spawn(listen(peer, heard.clone()));

    let mut miners: Vec<Process> = Vec::new();
    let jobs = std::thread::scope(|scope| {
        let (site, stop) = (&site, &stop);
        let closing = Closing(stop);
        let first = site.operator(flags);
        miners.extend(
            ["alice.eth", "bob.eth", "carol.eth", "dave.eth", "erin.eth"].map(|ens| site.miner(ens, &[])),
        );
        let customers: Vec<_> = (0..CUSTOMERS).map(|n| scope.spawn(move || custom(site, n, stop))).collect();
        first.kill();
        for kill in 0..kills {
            println!("kill {kill}: {}", live_and_die(site, flags, places, &mut dice, kill));
        }
        let last = site.operator(flags);
        drop(closing);
        let jobs: Vec<Finished> =
            customers.into_iter().flat_map(|customer| customer.join().unwrap()).collect();
        let sealed = last.mark();
        last.expect_after(sealed, "sealed as");
        last.expect_after(last.mark(), "sealed as");
        last.terminate().good();
        jobs
    });
    miners.into_iter().for_each(|miner| drop(miner.terminate().good()));
    assert!(!listener.is_finished(), "the stranger heard what must not be");
    listener.abort();

    let (dropped, reading) = (reference::dropped(&site), reference::read(&site));
    println!("{dropped} rows are published and not in the ledger any more");
    assert!(dropped > 0, "the ledger was never compacted");
    println!("{} jobs, {} rows, {} epochs", jobs.len(), reading.rows(), reading.headers().len());
    assert!(jobs.len() as u64 >= kills / 4, "too few jobs for the kills to have met any");
    check_answers(&jobs, &reading);
    assert!(reading.jobs.values().all(|job| job.fate == reference::Fate::Accepted));
    let (heard, headers) = (heard.lock().unwrap(), reading.headers());
    assert!(heard.headers.iter().all(|(number, link)| headers.get(number) == Some(link)));
    let places = heard.receipts.iter().map(|(job, receipt)| (*job, (receipt.epoch, receipt.index)));
    assert!(places.into_iter().all(|(job, place)| reading.receipts.get(&job) == Some(&place)));
    assert!(!heard.headers.is_empty() && !heard.receipts.is_empty());
}

#[test]
fn every_header_is_there_wherever_its_epoch_was_cut_off() {
    let site = Site::new();
    let operator = ["--epoch", "300ms", "--keep-epochs", "1"];
    for place in [
        "before-commit",
        "after-append",
        "after-boundary",
        "before-header-signed",
        "mid-checkpoint",
        "mid-compaction",
        "after-compaction",
    ] {
        // With no jobs, each third commit is a boundary and each third a header.
        for visit in 1..=4 {
            let at = format!("{place}:{visit}");
            let died = site.operator_with(&operator, &[("SWARMPOOL_CRASH_AT", &at)]).finish();
            assert_eq!(died.status.signal(), Some(9), "{at}:\n{}", died.stderr);
        }
    }
    let last = site.operator(&operator);
    last.expect("sealed as");
    last.terminate().good();
    assert!(reference::read(&site).headers().len() > 10);
}
