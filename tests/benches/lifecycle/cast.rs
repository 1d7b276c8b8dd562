//! Clients and miners who say what is to be said when its time comes; all of it was signed before.

use std::collections::BTreeMap;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::blake3;
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{JobId, raw_cid};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::*;
use swarm_protocol::{Millis, Timestamp, race};

pub const MODEL: &str = "queenbee-nano";
pub const SECRET: [u8; 32] = [7; 32];
/// Each runs one job at a time, as a wallet does that nobody knows yet; so many jobs are in flight.
pub const MINERS: usize = 128;
const CLIENTS: usize = 32;

pub fn key(n: usize) -> SecretKey {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&(n as u64 + 1).to_be_bytes());
    SecretKey::from_bytes(&bytes).expect("a small scalar is a key")
}

/// What is said of one job by others than the operator, as it travels.
pub struct Life {
    pub id: JobId,
    pub job: Vec<u8>,
    pub claim: Vec<u8>,
    pub proof: Vec<u8>,
}

/// Who signs, in one pool.
pub struct Cast {
    pool: PoolId,
    clients: Vec<SecretKey>,
    miners: Vec<SecretKey>,
}

impl Cast {
    pub fn of(pool: PoolId) -> Self {
        let clients = (1..=CLIENTS).map(key).collect();
        let miners = (1 + CLIENTS..=CLIENTS + MINERS).map(key).collect();
        Self { pool, clients, miners }
    }

    fn say(&self, key: &SecretKey, at: Timestamp, body: impl Into<Body>) -> Signed {
        Statement::derived(self.pool, key.address(), at, body.into()).sign(key)
    }

    /// What makes the miners known.
    pub fn heartbeats(&self, at: Timestamp) -> Vec<Vec<u8>> {
        let heartbeat = Heartbeat {
            boot_at: at,
            counter: 0,
            models: vec![ModelOffer { model: MODEL.into(), assurances: vec![Assurance::Seeded] }],
            slots: 1,
            mode: PayoutMode::Solo,
            ens: None,
            device: "cpu".into(),
            vram_mb: 0,
            draining: false,
        };
        self.miners.iter().map(|miner| self.say(miner, at, heartbeat.clone()).encode()).collect()
    }

    /// The `n`th job's statements; leases follow from the pool's secret, so the proof can be signed before.
    pub fn life(&self, n: usize, at: Timestamp) -> Life {
        let (client, miner) = (&self.clients[n % CLIENTS], &self.miners[n % MINERS]);
        let job = self.say(client, at, job(n, at));
        let id = job.id();
        let seed = race::draw_seed(&race::epoch_secret(&SECRET, &self.pool, 0).0, &id, 1);
        let lease = lease_id(&self.pool, &id, 1, &miner.address(), &seed);
        let proof = Proof {
            job: id,
            lease,
            transcript: swarm_protocol::codec::Link(blake3(&n.to_be_bytes()).0),
            transcript_bytes: 4_000,
            output: raw_cid(b"text"),
            output_bytes: 4,
        };
        let claim = self.say(miner, at, Claim { job: id, attempt: 1 });
        Life { id, job: job.encode(), claim: claim.encode(), proof: self.say(miner, at, proof).encode() }
    }
}

pub fn job(n: usize, at: Timestamp) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input: Input::Text(format!("Tell the story of the {n}th bee of the hive.")),
        params: Params {
            max_tokens: 64,
            temperature: 7_000,
            top_p: 9_500,
            seed: Some(n as u64),
            stop: vec![],
        },
        price: MicroUsdc(100),
        not_after: at + Millis::from_secs(600),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

/// Where every job stands for its client and its miner.
pub struct Play {
    lives: Vec<Life>,
    by_id: BTreeMap<JobId, usize>,
    pub done: usize,
}

/// What the operator has said of a job.
#[derive(Debug, Clone, Copy)]
pub enum Heard {
    Joined,
    Listed(JobId),
    Leased(JobId),
    Receipted(JobId),
}

impl Play {
    pub fn of(cast: &Cast, jobs: usize, at: Timestamp) -> Self {
        let lives: Vec<Life> = (0..jobs).map(|n| cast.life(n, at)).collect();
        let by_id = lives.iter().enumerate().map(|(n, life)| (life.id, n)).collect();
        Self { lives, by_id, done: 0 }
    }

    pub fn is_over(&self) -> bool {
        self.done == self.lives.len()
    }

    /// The first job of each miner.
    pub fn begin(&mut self) -> Vec<(Topic, Vec<u8>)> {
        let most = MINERS.min(self.lives.len());
        self.lives[..most].iter_mut().map(|life| (Topic::Jobs, std::mem::take(&mut life.job))).collect()
    }

    /// What is said next, now that this was heard.
    pub fn hear(&mut self, heard: Heard) -> Option<(Topic, Vec<u8>)> {
        let take = std::mem::take;
        match heard {
            Heard::Joined => None,
            Heard::Listed(id) => Some((Topic::Claims, take(&mut self.lives[self.by_id[&id]].claim))),
            Heard::Leased(id) => Some((Topic::Proofs, take(&mut self.lives[self.by_id[&id]].proof))),
            Heard::Receipted(id) => {
                self.done += 1;
                let next = self.by_id[&id] + MINERS;
                self.lives.get_mut(next).map(|life| (Topic::Jobs, take(&mut life.job)))
            }
        }
    }
}

/// A pool's id under this operator.
pub fn pool_id(name: &str) -> PoolId {
    PoolId::derive(name, key(0).address(), 0, Address::ZERO)
}
