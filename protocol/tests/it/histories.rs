//! Laws of the pool's ledger, for random histories of a few clients and miners.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::{
    Entry, Examination, ExamineFault, Pool, PoolConfig, PoolEffect, PoolEvent, Replay, Stage, State,
};
use swarm_protocol::statement::*;
use swarm_protocol::tree::{Change, Changes, Place, Summary, Tree};
use swarm_protocol::{Machine, Millis, Posted, Timestamp};

const MODEL: &str = "queenbee-nano";
const START: Timestamp = Timestamp(1_800_000_000_000);
const CREDIT: u64 = 2_000;

/// One thing that happens; numbers name people and, modulo how many there are, jobs.
#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Beat(u8),
    Job { client: u8, price: u64, life: u64 },
    Cancel { client: u8, job: Index },
    Claim { miner: u8, job: Index },
    Release { miner: u8, job: Index, cause: ReleaseCause },
    Prove { miner: u8, job: Index },
    Verdict(Result<u64, ExamineFault>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (client, miner) = (10..12u8, 2..6u8);
    let causes = vec![ReleaseCause::Withdrawn, ReleaseCause::EngineFailure];
    let faults = vec![
        Ok(12),
        Ok(7),
        Err(ExamineFault::Unavailable("gone".into())),
        Err(ExamineFault::Unacceptable("false".into())),
    ];
    let job = any::<Index>();
    let step = prop_oneof![
        3 => (1..9_000u64).prop_map(Step::Wait),
        3 => miner.clone().prop_map(Step::Beat),
        3 => (client.clone(), 3..900u64, 100..60_000u64)
            .prop_map(|(client, price, life)| Step::Job { client, price, life }),
        1 => (client, job.clone()).prop_map(|(client, job)| Step::Cancel { client, job }),
        5 => (miner.clone(), job.clone()).prop_map(|(miner, job)| Step::Claim { miner, job }),
        1 => (miner.clone(), job.clone(), select(causes))
            .prop_map(|(miner, job, cause)| Step::Release { miner, job, cause }),
        5 => (miner, job).prop_map(|(miner, job)| Step::Prove { miner, job }),
        5 => select(faults).prop_map(Step::Verdict),
    ];
    vec(step, 1..70)
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn config() -> PoolConfig {
    let posted = Posted {
        epoch: Millis(8_000),
        first_progress: Millis(3_000),
        lease: Millis(6_000),
        cooldown: Millis(500),
        established: MicroUsdc(150),
        fee_unit: MicroUsdc(40),
        test_credit: MicroUsdc(CREDIT),
        ..Posted::default()
    };
    PoolConfig {
        reserve: swarm_protocol::money::MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: key(1).address(),
        models: [MODEL.to_owned()].into(),
        posted,
        secret: [7; 32],
    }
}

/// A pool, what it wrote, and everybody else.
struct Table {
    pool: Pool,
    intake: Intake,
    now: Timestamp,
    rows: Vec<Vec<u8>>,
    jobs: Vec<JobId>,
    asked: Vec<Examination>,
    beats: u64,
    published: Published,
}

/// The tree as its shell keeps it.
#[derive(Default)]
struct Published {
    tree: Tree,
    stored: BTreeMap<cid::Cid, Vec<u8>>,
    headers: Vec<Change>,
    turns: usize,
}

impl Published {
    fn take(&mut self, changes: &Changes) {
        changes.changes.iter().for_each(|change| self.tree.apply(change));
        let headers = changes.changes.iter().filter(|change| change.place == Place::Epochs);
        self.headers.extend(headers.cloned());
        self.turns += 1;
        if self.turns.is_multiple_of(5) {
            self.publish(&changes.summary);
        }
    }

    fn publish(&mut self, summary: &Summary) -> cid::Cid {
        let published = self.tree.publish(summary);
        self.stored.extend(published.fresh);
        published.gone.iter().for_each(|cid| assert!(self.stored.remove(cid).is_some(), "{cid}"));
        published.root
    }

    /// A tree made at once of all that a pool holds.
    fn of(pool: &Pool, headers: &[Change]) -> Self {
        let mut made = Self::default();
        headers.iter().cloned().chain(pool.tree()).for_each(|change| made.tree.apply(&change));
        made
    }
}

impl Table {
    fn new() -> Self {
        let pool = Pool::create(config(), START);
        let intake = Intake::new(pool.id(), key(1).address());
        let (rows, jobs, asked) = (Vec::new(), Vec::new(), Vec::new());
        let published = Published::of(&pool, &[]);
        let mut table = Self { pool, intake, now: START, rows, jobs, asked, beats: 0, published };
        table.settle();
        table
    }

    fn settle(&mut self) {
        while let Some(effect) = self.pool.poll_effect() {
            match effect {
                PoolEffect::Record(row) => self.rows.push(row),
                PoolEffect::Examine(asked) => self.asked.push(*asked),
                PoolEffect::Tree(changes) => self.published.take(&changes),
                _ => {}
            }
        }
    }

    fn say(&mut self, by: u8, body: impl Into<Body>) -> Link {
        let signed =
            Statement::derived(self.pool.id(), key(by).address(), self.now, body.into()).sign(&key(by));
        let verified = self.intake.verify(None, &signed.encode(), self.now).unwrap();
        self.pool.handle(PoolEvent::Statement(Identified::new(verified, false)), self.now);
        self.settle();
        signed.id()
    }

    fn job(&self, index: &Index) -> Option<JobId> {
        (!self.jobs.is_empty()).then(|| self.jobs[index.index(self.jobs.len())])
    }

    /// The live lease of a job, or the one that could still be proven.
    fn lease(&self, job: &JobId) -> swarm_crypto::digest::Digest {
        let entry = self.pool.state().job(job);
        let late = entry.and_then(|entry| entry.late.as_deref().map(|(lease, _)| *lease));
        match entry.map(|entry| &entry.stage) {
            Some(Stage::Leased(granted)) => granted.lease,
            _ => late.unwrap_or(swarm_crypto::digest::Digest::ZERO),
        }
    }

    fn wait(&mut self, span: u64) {
        let until = self.now + Millis(span);
        while let Some(at) = self.pool.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.pool.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Wait(span) => self.wait(*span),
            Step::Beat(miner) => {
                self.beats += 1;
                let heartbeat = heartbeat(self.beats);
                self.say(*miner, heartbeat);
            }
            Step::Job { client, price, life } => {
                let job = wish(*price, self.now + Millis(*life));
                let id = self.say(*client, job);
                self.jobs.push(id);
            }
            Step::Cancel { client, job } => {
                if let Some(job) = self.job(job) {
                    self.say(*client, Cancel { job });
                }
            }
            Step::Claim { miner, job } => {
                let Some(job) = self.job(job) else { return };
                let attempt = self.pool.state().job(&job).map_or(1, |entry| entry.attempt);
                self.say(*miner, Claim { job, attempt });
            }
            Step::Release { miner, job, cause } => {
                let Some(job) = self.job(job) else { return };
                let lease = self.lease(&job);
                self.say(*miner, Release { job, lease, cause: *cause });
            }
            Step::Prove { miner, job } => {
                let Some(job) = self.job(job) else { return };
                let (lease, output) = (self.lease(&job), raw_cid(b"text"));
                let (transcript_bytes, output_bytes) = (1, 4);
                let proof = Proof { job, lease, transcript: job, transcript_bytes, output, output_bytes };
                self.say(*miner, proof);
            }
            Step::Verdict(outcome) => {
                let Some(asked) = self.asked.pop() else { return };
                let (job, proof, outcome) = (asked.id, asked.proof_id, outcome.clone());
                self.pool.handle(PoolEvent::Examined { job, proof, outcome }, self.now);
                self.settle();
            }
        }
    }
}

fn heartbeat(counter: u64) -> Heartbeat {
    Heartbeat {
        boot_at: START,
        counter,
        models: vec![ModelOffer { model: MODEL.into(), assurances: vec![Assurance::Seeded] }],
        slots: 2,
        mode: PayoutMode::Solo,
        ens: counter.is_multiple_of(3).then(|| format!("miner{}.eth", counter % 2)),
        device: "cpu".into(),
        vram_mb: 0,
        draining: counter.is_multiple_of(11),
    }
}

fn wish(price: u64, not_after: Timestamp) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input: Input::Text("once".into()),
        params: Params { max_tokens: 8, temperature: 0, top_p: 10_000, seed: None, stop: vec![] },
        price: MicroUsdc(price),
        not_after,
        max_runtime_s: 30,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

fn fold(from: Option<State>, rows: &[Vec<u8>]) -> Option<State> {
    let mut replay = Replay::new(from);
    rows.iter().zip(0..).for_each(|(row, seq)| replay.row(seq, row).unwrap());
    replay.finish()
}

/// What each client has, whatever became of its jobs.
fn spent(rows: &[Vec<u8>]) -> BTreeMap<Address, i128> {
    let transfers = rows.iter().flat_map(|row| Entry::decode(row).unwrap().transfers);
    let mut spent = BTreeMap::new();
    for transfer in transfers {
        if let (Account::ClientReserved(client), Account::MinerHeld(_) | Account::OperatorHeld(_)) =
            (transfer.from, transfer.to)
        {
            *spent.entry(client).or_default() += i128::from(transfer.amount.0);
        }
    }
    spent
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_fold_of_the_rows_is_the_live_state_from_every_checkpoint(steps in steps(), cut in any::<Index>()) {
        let mut table = Table::new();
        for step in &steps {
            table.take(step);
        }
        let live = table.pool.state();
        let whole = fold(None, &table.rows);
        prop_assert_eq!(whole.as_ref(), Some(live));
        let cut = 1 + cut.index(table.rows.len());
        let checkpoint = fold(None, &table.rows[..cut]).unwrap();
        let read = State::from_checkpoint(&checkpoint.checkpoint()).unwrap();
        prop_assert_eq!(&read, &checkpoint);
        let resumed = fold(Some(read), &table.rows[cut..]);
        prop_assert_eq!(resumed.as_ref(), Some(live));
    }

    #[test]
    fn money_is_conserved_after_every_row(steps in steps()) {
        let mut table = Table::new();
        for step in &steps {
            table.take(step);
        }
        let mut replay = None;
        for row in &table.rows {
            replay = fold(replay, std::slice::from_ref(row));
            let accounts = replay.as_ref().unwrap().accounts();
            prop_assert_eq!(accounts.total(), 0);
            prop_assert!(accounts.iter().all(|(account, balance)| *account == Account::Outside || balance > 0));
        }
        let accounts = table.pool.state().accounts();
        for (client, spent) in spent(&table.rows) {
            let left = accounts.balance(&Account::ClientFree(client))
                + accounts.balance(&Account::ClientReserved(client));
            prop_assert_eq!(left + spent, i128::from(CREDIT));
        }
    }
    #[test]
    fn the_tree_kept_by_changes_is_the_tree_made_at_once_also_after_a_restart(steps in steps()) {
        let mut table = Table::new();
        for step in &steps {
            table.take(step);
        }
        let summary = table.pool.summary();
        let root = table.published.publish(&summary);
        let mut scratch = Published::of(&table.pool, &table.published.headers);
        prop_assert_eq!(scratch.publish(&summary), root);
        prop_assert_eq!(&scratch.stored, &table.published.stored);
        let state = fold(None, &table.rows).unwrap();
        let restored = Pool::restore(config(), state, table.now + Millis(5)).unwrap();
        prop_assert_eq!(restored.summary(), summary.clone());
        prop_assert_eq!(Published::of(&restored, &table.published.headers).publish(&summary), root);
    }
}
