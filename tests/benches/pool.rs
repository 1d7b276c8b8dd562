//! The operator's machine with few and with many pending jobs: time per claim, memory per job.

mod support;

use anyhow::{Context, Result};
use std::hint::black_box;
use std::time::Duration;
use support::{Pairs, Target, timed};
use swarm_crypto::address::Address;
use swarm_crypto::digest::blake3;
use swarm_crypto::key::{SecretKey, Signature};
use swarm_protocol::codec::JobId;
use swarm_protocol::money::{Account, MicroUsdc, Transfer};
use swarm_protocol::pool::*;
use swarm_protocol::statement::*;
use swarm_protocol::{Machine, Millis, Posted, Timestamp};

const START: Timestamp = Timestamp(1_800_000_000_000);
const NOW: Timestamp = Timestamp(START.0 + 10_000);
const MODEL: &str = "queenbee-nano";
const FEW: u64 = 1_000;
const MANY: u64 = 1_000_000;
const JOBS_PER_CLIENT: u64 = 1_000;
const CLAIMS_PER_JOB: u8 = 8;
const ROUNDS: usize = 150;
const PRICE: MicroUsdc = MicroUsdc(100);
const MAX_JOB_BYTES: f64 = 500.0;

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).expect("a small scalar is a key")
}

fn config() -> PoolConfig {
    PoolConfig {
        node: None,
        reserve: swarm_protocol::money::MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: key(1).address(),
        models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
        posted: Posted::default(),
        secret: [7; 32],
    }
}

fn client(n: u64) -> Address {
    let mut address = Address::ZERO;
    address.0.copy_from_slice(&blake3(&n.to_be_bytes()).0[..20]);
    address
}

fn job(n: u64) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input: Input::Text(format!("Tell the story of the {n}th bee of the hive.")),
        params: Params { max_tokens: 64, temperature: 7_000, top_p: 9_500, seed: Some(n), stop: vec![] },
        price: PRICE,
        not_after: START + Millis::from_secs(23 * 3600) + Millis(n),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

/// What the process holds in memory, in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A pool with pending jobs, restored from rows, and miners that are alive.
struct Table {
    pool: Pool,
    intake: Intake,
    /// Jobs to race for, spread over the whole ledger.
    races: Vec<JobId>,
    /// Payload and signature bytes of all jobs.
    statement_bytes: u64,
}

impl Table {
    fn of(jobs: u64) -> Result<Self> {
        let mut fresh = Pool::create(config(), START);
        let Some(PoolEffect::Record(genesis)) = fresh.poll_effect() else { anyhow::bail!("no genesis") };
        let pool = fresh.id();
        let mut rows = Rows { replay: Replay::new(None), seq: 0 };
        rows.push(&genesis)?;
        let mut races = Vec::new();
        let mut statement_bytes = 0;
        for n in 0..jobs {
            let by = client(n / JOBS_PER_CLIENT);
            if n % JOBS_PER_CLIENT == 0 {
                let credit = Posted::default().test_credit;
                rows.entry(
                    Record::Credited { client: by },
                    Account::Outside,
                    Account::ClientFree(by),
                    credit,
                )?;
            }
            let payload = Statement::derived(pool, by, START, job(n).into()).encode();
            let signed = Signed { payload, signature: Signature([0; 65]) };
            statement_bytes += signed.payload.len() as u64 + 65;
            if n % (jobs / FEW) == 0 {
                races.push(signed.id());
            }
            let record = Record::Admitted { job: signed, seed: blake3(&n.to_be_bytes()) };
            rows.entry(record, Account::ClientFree(by), Account::ClientReserved(by), PRICE)?;
        }
        let state = rows.replay.finish().context("there was a genesis")?;
        let restored = Pool::restore(config(), state, START)?;
        let intake = Intake::new(pool, key(1).address());
        let mut table = Self { pool: restored, intake, races, statement_bytes };
        (0..CLAIMS_PER_JOB).for_each(|miner| table.register(miner));
        Ok(table)
    }

    fn hear(&mut self, by: &SecretKey, body: impl Into<Body>) -> Identified {
        let signed = Statement::derived(self.pool.id(), by.address(), NOW, body.into()).sign(by);
        let verified = self.intake.verify(None, &signed.encode(), NOW).expect("it was just signed");
        Identified::new(verified, false)
    }

    fn handle(&mut self, heard: impl IntoIterator<Item = Identified>) {
        for identified in heard {
            self.pool.handle(PoolEvent::Statement(identified), NOW);
        }
        while let Some(effect) = self.pool.poll_effect() {
            black_box(effect);
        }
    }

    fn register(&mut self, miner: u8) {
        let heartbeat = Heartbeat {
            boot_at: START,
            counter: 0,
            models: vec![ModelOffer { model: MODEL.into(), assurances: vec![Assurance::Seeded] }],
            slots: 1,
            mode: PayoutMode::Solo,
            ens: None,
            device: "cpu".into(),
            vram_mb: 0,
            draining: false,
        };
        let heard = self.hear(&miner_key(miner), heartbeat);
        self.handle([heard]);
    }

    /// All miners claim a job; it is leased to the best and given back off the clock.
    fn race(&mut self) -> Duration {
        let job = self.races.pop().expect("there are more jobs than rounds");
        let claims: Vec<Identified> = (0..CLAIMS_PER_JOB)
            .map(|miner| self.hear(&miner_key(miner), Claim { job, attempt: 1 }))
            .collect();
        let time = timed(|| self.handle(claims)).1;
        let entry = self.pool.state().job(&job).expect("it is pending");
        let (lease, wallet) = match &entry.stage {
            Stage::Leased(granted) => (granted.lease, granted.wallet),
            other => panic!("all have claimed, and it is {other:?}"),
        };
        let winner = (0..CLAIMS_PER_JOB).map(miner_key).find(|key| key.address() == wallet);
        let winner = winner.expect("a miner won");
        let released = self.hear(&winner, Release { job, lease, cause: ReleaseCause::Withdrawn });
        self.handle([released]);
        time
    }
}

fn miner_key(n: u8) -> SecretKey {
    key(10 + n)
}

struct Rows {
    replay: Replay,
    seq: u64,
}

impl Rows {
    fn entry(&mut self, record: Record, from: Account, to: Account, amount: MicroUsdc) -> Result<()> {
        let transfers = vec![Transfer { from, to, amount }];
        self.push(&Entry { at: START, record, transfers }.encode())
    }

    fn push(&mut self, row: &[u8]) -> Result<()> {
        self.replay.row(self.seq, row)?;
        self.seq += 1;
        Ok(())
    }
}

fn main() -> Result<()> {
    support::machine();
    let mut few = Table::of(FEW)?;
    let before = resident()?;
    let (many, time) = timed(|| Table::of(MANY));
    let mut many = many?;
    let held = resident()?.saturating_sub(before);
    println!("{MANY} jobs replayed from rows in {:.1} s", time.as_secs_f64());
    let bytes = held.saturating_sub(many.statement_bytes) as f64 / MANY as f64;
    println!("memory: {held} bytes, of them statements {}", many.statement_bytes);

    let pairs = Pairs::of(ROUNDS, || few.race(), || many.race());
    let claims = f64::from(CLAIMS_PER_JOB);
    println!(
        "{FEW} pending: {:.1} us per claim, {:.0} claims/s",
        pairs.first() * 1e6 / claims,
        claims / pairs.first()
    );
    println!(
        "{MANY} pending: {:.1} us per claim, {:.0} claims/s",
        pairs.second() * 1e6 / claims,
        claims / pairs.second()
    );
    support::ratio("pool/claim-time-1M-over-1k", pairs.second_over_first(), Target::AtMost(3.0));
    support::ratio("pool/bytes-per-job", bytes, Target::AtMost(MAX_JOB_BYTES));
    Ok(())
}
