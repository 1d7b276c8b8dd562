//! A node says thousands of true things in the names of a thousand wallets that nobody knows, while honest jobs flow.

use crate::churn::{Usage, held, lets_go, settles};
use crate::harness::{Process, Site, short_job, text};
use crate::peer::Peer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm_crypto::address::PoolId;
use swarm_crypto::digest::blake3;
use swarm_crypto::key::SecretKey;
use swarm_node::network::Topic;
use swarm_protocol::Timestamp;
use swarm_protocol::allowance::STRANGERS;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::*;

const KEYS: u64 = 1000;
pub const HONEST_JOBS: usize = 10;
/// Shorter calm times say more about the machine than about the pool.
const LEAST_CALM: Duration = Duration::from_millis(1500);
const OPERATOR: [&str; 16] = [
    "--log",
    "info,swarm_node::operator=debug",
    "--epoch",
    "5s",
    "--window",
    "100ms",
    "--first-progress",
    "10s",
    "--progress",
    "10s",
    "--heartbeat",
    "2s",
    "--cooldown",
    "500ms",
    "--max-cooldown",
    "2s",
];

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

/// A key that nobody has heard of.
fn key(n: u64) -> SecretKey {
    SecretKey::from_bytes(&blake3(&n.to_be_bytes()).0).unwrap()
}

/// Four true statements of one wallet, of which the pool wants none.
fn sayings(pool: PoolId, by: &SecretKey, round: u64) -> Vec<(Topic, Signed)> {
    let job = JobId::of(&round.to_be_bytes());
    let heartbeat = Heartbeat {
        boot_at: now(),
        counter: round,
        models: vec![ModelOffer { model: "queenbee-nano".to_owned(), assurances: vec![Assurance::Seeded] }],
        slots: 1,
        mode: PayoutMode::Solo,
        ens: None,
        device: "cpu".to_owned(),
        vram_mb: 0,
        draining: true,
    };
    let bodies = [
        (Topic::Heartbeats, Body::Heartbeat(heartbeat)),
        (Topic::Jobs, Body::Cancel(Cancel { job })),
        (Topic::Claims, Body::Claim(Claim { job, attempt: 1 })),
        (Topic::Proofs, Body::Proof(nothing(job, round))),
    ];
    let sign = |body| Statement::derived(pool, by.address(), now(), body).sign(by);
    bodies.into_iter().map(|(topic, body)| (topic, sign(body))).collect()
}

fn nothing(job: JobId, round: u64) -> Proof {
    let (transcript, output) = (JobId::of(b"nothing"), swarm_protocol::codec::raw_cid(b"nothing"));
    let lease = blake3(&round.to_be_bytes());
    Proof { job, lease, transcript, transcript_bytes: 7, output, output_bytes: 7 }
}

/// What came of the flood.
#[derive(Debug, Default)]
struct Flood {
    gossiped: u64,
    taken: u64,
    refused: u64,
    time: Duration,
}

/// Gossips everything once and hands over one in four, until it is told to stop and all keys have spoken.
async fn flood(mut peer: Peer, stop: Arc<AtomicBool>) -> Flood {
    let operator = peer.meet("operator").await;
    let Answer::Pool { beacon, .. } = peer.ask(operator, &Query::Beacon).await else { panic!("no beacon") };
    let pool = Statement::decode(&beacon.payload).unwrap().header.pool;
    let (begun, mut flood) = (Instant::now(), Flood::default());
    for n in 0.. {
        if n >= KEYS && stop.load(Ordering::Relaxed) {
            break;
        }
        let sayings = sayings(pool, &key(n % KEYS), n);
        // A fresh statement, so that it is not known from the gossip.
        let handed = Body::Cancel(Cancel { job: JobId::of(&(n + 1_000_000).to_be_bytes()) });
        let handed = Statement::derived(pool, key(n % KEYS).address(), now(), handed).sign(&key(n % KEYS));
        for (topic, signed) in &sayings {
            peer.network.publish(*topic, signed.encode()).await.unwrap();
            flood.gossiped += 1;
        }
        match peer.ask(operator, &Query::Hand(handed)).await {
            Answer::Taken => flood.taken += 1,
            Answer::Refused(why) => {
                assert!(why.contains("new to the pool"), "{why}");
                flood.refused += 1;
            }
            other => panic!("an answer to something else: {other:?}"),
        }
    }
    flood.time = begun.elapsed();
    peer.network.shutdown().await;
    flood
}

/// Times of honest jobs, one after the other, shortest first.
fn honest(site: &Site, job: &str) -> Vec<Duration> {
    let one = |_| {
        let begun = Instant::now();
        site.client(&["submit", "--json", job]).good();
        begun.elapsed()
    };
    let mut times: Vec<Duration> = (0..HONEST_JOBS).map(one).collect();
    times.sort();
    times
}

/// A pool in which honest jobs flow, and how it was before anybody did it harm.
pub struct Besieged {
    pub site: Site,
    pub operator: Process,
    /// Times of honest jobs before, shortest first.
    pub calm: Vec<Duration>,
    miners: [Process; 2],
    job: String,
    before: Usage,
    holdings: (u64, serde_json::Value),
}

impl Besieged {
    pub fn start(site: Site, more: &[&str]) -> Self {
        let operator = site.operator(&[&OPERATOR[..], more].concat());
        let miners = ["alice.eth", "bob.eth"].map(|name| site.miner(name, &[]));
        let job = text(&site.job("job", &short_job("The carriage")));
        honest(&site, &job);
        let (before, holdings) = (Usage::of(&operator), held(&operator));
        let calm = honest(&site, &job);
        Self { site, operator, calm, miners, job, before, holdings }
    }

    /// Times of honest jobs now.
    pub fn honest(&self) -> Vec<Duration> {
        honest(&self.site, &self.job)
    }

    /// The longest of honest jobs under attack is at most twice what it was, or what it may well be.
    pub fn bears(&self, what: &str, attacked: &[Duration]) {
        let bound = self.calm[HONEST_JOBS - 1].max(LEAST_CALM) * 2;
        assert!(attacked[HONEST_JOBS - 1] <= bound, "{what}: {attacked:?}, calm {:?}", self.calm);
    }

    /// Waits until the operator, after so many jobs, is as it was, and ends all.
    pub fn recovers(self, jobs: u64) {
        settles("the operator", &self.operator, self.before, jobs);
        lets_go(&self.operator, &self.holdings);
        self.honest();
        for miner in self.miners {
            miner.terminate().good();
        }
        self.operator.terminate().good();
    }
}

#[test]
fn a_thousand_strangers_behind_one_node_keep_no_honest_job_waiting() {
    let pool = Besieged::start(Site::new(), &[]);
    let (operator, calm) = (&pool.operator, &pool.calm);

    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let peer = runtime.block_on(Peer::start(&pool.site, "a stranger"));
    let flood = runtime.spawn(flood(peer, stop.clone()));
    operator.expect("not taken: too many statements of wallets");
    let attacked = pool.honest();
    stop.store(true, Ordering::Relaxed);
    let flood = runtime.block_on(flood).unwrap();
    drop(runtime);

    let ignored = operator.lines_with("not taken: too many statements of wallets").len();
    println!("{flood:?}, {ignored} not taken by the operator");
    println!(
        "honest jobs, median and longest: calm {:?} {:?}, attacked {:?} {:?}",
        calm[HONEST_JOBS / 2],
        calm[HONEST_JOBS - 1],
        attacked[HONEST_JOBS / 2],
        attacked[HONEST_JOBS - 1]
    );
    pool.bears("strangers", &attacked);
    let allowed = u64::from(STRANGERS.burst) + u64::from(STRANGERS.per_second) * (flood.time.as_secs() + 1);
    assert!(flood.taken <= allowed, "{} of at most {allowed} strangers' statements taken", flood.taken);
    pool.recovers(40);
}
