//! Laws of the pool's ledger, for random histories of a few clients and miners.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::finding::{AuditEnd, Finding};
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::{
    ChainEvent, Close, Entry, Examination, ExamineFault, LeafAt, Pool, PoolConfig, PoolEffect, PoolEvent,
    Record, Replay, Said, Stage, State,
};
use swarm_protocol::statement::*;
use swarm_protocol::tree::{Change, Changes, Place, Summary, Tree};
use swarm_protocol::{Machine, Millis, Posted, Timestamp};

const MODEL: &str = "queenbee-nano";
const START: Timestamp = Timestamp(1_800_000_000_000);
pub(crate) const CREDIT: u64 = 2_000;
/// What the operator wants to put into the reserve.
const RESERVE: u64 = 500;

/// One thing that happens; numbers name people and, modulo how many there are, jobs.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Wait(u64),
    Beat(u8),
    /// The same in mode PPS.
    Share(u8),
    Job {
        client: u8,
        price: u64,
        life: u64,
    },
    Cancel {
        client: u8,
        job: Index,
    },
    Claim {
        miner: u8,
        job: Index,
    },
    Release {
        miner: u8,
        job: Index,
        cause: ReleaseCause,
    },
    Prove {
        miner: u8,
        job: Index,
    },
    Verdict(Result<u64, ExamineFault>),
    /// A job from its submission to its proof, as it goes when nothing is in the way.
    Answer {
        client: u8,
        miner: u8,
        price: u64,
        units: u64,
    },
    /// A job that fails at so many miners, each of which had begun.
    Fail {
        client: u8,
        times: u8,
    },
    /// One auditor that was asked says its next word.
    Attest(Finding, Index),
    /// All who are asked agree, and those asked after them.
    Inquest(Finding),
    Challenge(u8, Index),
    /// Answers that are challenged once their epochs are sealed, and found to differ.
    Cheat {
        miner: u8,
        times: u8,
        seen: Finding,
    },
    /// The same, but that the first auditor says that they hold.
    Slip {
        miner: u8,
        times: u8,
        seen: Finding,
    },
    Deposit(u8, u64),
    Reorg(Index),
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (client, miner) = (10..12u8, 2..6u8);
    let causes = vec![ReleaseCause::Withdrawn, ReleaseCause::EngineFailure];
    let faults = vec![
        Ok(12),
        Ok(7),
        Ok(0),
        Ok(u64::MAX),
        Err(ExamineFault::Unavailable("gone".into())),
        Err(ExamineFault::Unacceptable("false".into())),
    ];
    let findings = vec![Finding::Holds, Finding::Contradicts, Finding::Differs(7_000), Finding::Differs(9)];
    let job = any::<Index>();
    let step = prop_oneof![
        3 => (1..9_000u64).prop_map(Step::Wait),
        3 => miner.clone().prop_map(Step::Beat),
        2 => miner.clone().prop_map(Step::Share),
        3 => (client.clone(), prices(), 100..60_000u64)
            .prop_map(|(client, price, life)| Step::Job { client, price, life }),
        1 => (client, job.clone()).prop_map(|(client, job)| Step::Cancel { client, job }),
        5 => (miner.clone(), job.clone()).prop_map(|(miner, job)| Step::Claim { miner, job }),
        1 => (miner.clone(), job.clone(), select(causes))
            .prop_map(|(miner, job, cause)| Step::Release { miner, job, cause }),
        5 => (miner, job).prop_map(|(miner, job)| Step::Prove { miner, job }),
        5 => select(faults).prop_map(Step::Verdict),
        6 => (10..12u8, 2..6u8, prices(), prop_oneof![0..20u64, 1_000..2_000_000u64])
            .prop_map(|(client, miner, price, units)| Step::Answer { client, miner, price, units }),
        1 => (10..12u8, 1..4u8).prop_map(|(client, times)| Step::Fail { client, times }),
        3 => (select(findings.clone()), any::<Index>())
            .prop_map(|(finding, seat)| Step::Attest(finding, seat)),
        2 => select(findings).prop_map(Step::Inquest),
        3 => (10..12u8, any::<Index>()).prop_map(|(client, leaf)| Step::Challenge(client, leaf)),
        1 => (2..6u8, 1..5u8, select(vec![Finding::Contradicts, Finding::Differs(9), Finding::Differs(8)]))
            .prop_map(|(miner, times, seen)| Step::Cheat { miner, times, seen }),
        1 => (2..6u8, 1..6u8, select(vec![Finding::Contradicts, Finding::Differs(7_000), Finding::Differs(9)]))
            .prop_map(|(miner, times, seen)| Step::Slip { miner, times, seen }),
        1 => (10..12u8, prop_oneof![1..2_000u64, Just(u64::MAX / 2)])
            .prop_map(|(client, amount)| Step::Deposit(client, amount)),
        1 => any::<Index>().prop_map(Step::Reorg),
    ];
    vec(step, 1..70)
}

/// From below the least to more than anybody has.
fn prices() -> impl Strategy<Value = u64> {
    prop_oneof![3..8u64, 3..900u64, Just(u64::MAX / 3)]
}

pub(crate) fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn config() -> PoolConfig {
    posting(4_000)
}

/// The same with another audit rate.
fn posting(audit_rate: u32) -> PoolConfig {
    let posted = Posted {
        epoch: Millis(8_000),
        first_progress: Millis(3_000),
        lease: Millis(6_000),
        cooldown: Millis(500),
        established: MicroUsdc(1),
        fee_unit: MicroUsdc(40),
        test_credit: MicroUsdc(CREDIT),
        audit_rate,
        ..Posted::default()
    };
    PoolConfig {
        node: None,
        reserve: MicroUsdc(RESERVE),
        name: "swarmpool.eth".into(),
        operator: key(1).address(),
        models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
        posted,
        secret: [7; 32],
    }
}

/// A pool, what it wrote, and everybody else.
pub(crate) struct Table {
    pub(crate) pool: Pool,
    intake: Intake,
    pub(crate) now: Timestamp,
    pub(crate) rows: Vec<Vec<u8>>,
    jobs: Vec<JobId>,
    pub(crate) asked: Vec<Examination>,
    beats: u64,
    job_type: JobType,
    deposits: Vec<Digest>,
    /// What each auditor has sealed.
    sealed: BTreeMap<(LeafAt, Address), Finding>,
    /// What auditors were told.
    pub(crate) picked: Vec<AuditPicked>,
    published: Published,
    /// Blocks of headers and pages, and all others that the pool stores.
    pub(crate) blocks: BTreeMap<Link, Vec<u8>>,
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
    pub(crate) fn new() -> Self {
        Self::of(config())
    }

    /// A pool that audits at this rate, and takes whoever is on its roster for established.
    pub(crate) fn posting(audit_rate: u32) -> Self {
        Self::with_epochs_of(posting(audit_rate).posted.epoch, audit_rate)
    }

    /// The same with longer epochs.
    pub(crate) fn with_epochs_of(epoch: Millis, audit_rate: u32) -> Self {
        let config = posting(audit_rate);
        let posted = Posted { established: MicroUsdc(0), epoch, ..config.posted };
        Self::of(PoolConfig { posted, ..config })
    }

    /// The same with nothing in the reserve, which the operator's debits stand for.
    pub(crate) fn without_reserve(audit_rate: u32) -> Self {
        let config = posting(audit_rate);
        let posted = Posted { established: MicroUsdc(0), ..config.posted };
        Self::of(PoolConfig { posted, reserve: MicroUsdc(0), ..config })
    }

    /// A pool whose one model is for jobs of this type.
    pub(crate) fn serving(job_type: JobType, audit_rate: u32) -> Self {
        let config = posting(audit_rate);
        let posted = Posted { established: MicroUsdc(0), ..config.posted };
        Self::of(PoolConfig { posted, models: [(MODEL.to_owned(), job_type)].into(), ..config })
    }

    /// A job as this pool's model does it.
    fn asked_for(&self, job: Job) -> Job {
        let input = match self.job_type {
            JobType::LlmGen | JobType::Embed => "once",
            JobType::SdInfer => "64 64 1 1000\na bee",
            JobType::TorchBench => "f32 1 1 1 1",
        };
        Job { job_type: self.job_type, input: Input::Text(input.into()), ..job }
    }

    /// The same pool, once its process has ended and only so many rows were left of it.
    pub(crate) fn restarted(&self, rows: usize) -> Pool {
        let mut state = None;
        for row in &self.rows[..rows] {
            let entry = Entry::decode(row).unwrap();
            match &mut state {
                None => state = Some(State::genesis(&entry, row)),
                Some(state) => _ = state.apply(&entry, row),
            }
        }
        let posted = self.pool.state().posted().clone();
        Pool::restore(PoolConfig { posted, ..config() }, state.unwrap(), self.now).unwrap()
    }

    fn of(config: PoolConfig) -> Self {
        let job_type = config.models[MODEL];
        let pool = Pool::create(config, START);
        let intake = Intake::new(pool.id(), key(1).address());
        let (rows, jobs, asked, deposits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let published = Published::of(&pool, &[]);
        let (now, beats, blocks) = (START, 0, BTreeMap::new());
        let (sealed, picked) = (BTreeMap::new(), Vec::new());
        let mut table = Self {
            pool,
            intake,
            now,
            rows,
            jobs,
            asked,
            beats,
            job_type,
            deposits,
            sealed,
            picked,
            published,
            blocks,
        };
        table.settle();
        table
    }

    fn settle(&mut self) {
        while let Some(effect) = self.pool.poll_effect() {
            match effect {
                PoolEffect::Record(row) => self.rows.push(row),
                PoolEffect::Examine(asked) => self.asked.push(*asked),
                PoolEffect::Tree(changes) => self.published.take(&changes),
                PoolEffect::Publish(_, Statement { body: Body::AuditPicked(picked), .. }) => {
                    self.picked.push(picked);
                }
                PoolEffect::Store(block) => _ = self.blocks.insert(Link::of(&block), block),
                _ => {}
            }
        }
    }

    pub(crate) fn sign(&self, by: u8, body: impl Into<Body>) -> Signed {
        Statement::derived(self.pool.id(), key(by).address(), self.now, body.into()).sign(&key(by))
    }

    pub(crate) fn say(&mut self, by: u8, body: impl Into<Body>) -> Link {
        let signed = self.sign(by, body);
        self.hear(&signed);
        signed.id()
    }

    /// A statement comes, for the first time or again.
    pub(crate) fn hear(&mut self, signed: &Signed) {
        let verified = self.intake.verify(None, &signed.encode(), self.now).unwrap();
        self.pool.handle(PoolEvent::Statement(Identified::new(verified, false)), self.now);
        self.settle();
    }

    pub(crate) fn happen(&mut self, event: PoolEvent) {
        self.pool.handle(event, self.now);
        self.settle();
    }

    fn job(&self, index: &Index) -> Option<JobId> {
        (!self.jobs.is_empty()).then(|| self.jobs[index.index(self.jobs.len())])
    }

    /// Who is to speak, and of what.
    pub(crate) fn seats(&self) -> Vec<(LeafAt, Address, Said)> {
        let held = self.pool.state().held().iter();
        held.flat_map(|(epoch, held)| {
            held.audits.iter().flat_map(move |(index, audit)| {
                let live = audit.seats.iter().filter(|seat| seat.is_live());
                let at = LeafAt { epoch: *epoch, index: *index };
                live.map(move |seat| (at, seat.auditor, seat.said))
            })
        })
        .collect()
    }

    /// An auditor's next word: the seal of its finding, or what it has sealed.
    pub(crate) fn attest(&mut self, at: LeafAt, auditor: Address, said: Said, finding: Finding) {
        let lease = self.pool.state().held()[&at.epoch].leaves[usize::try_from(at.index).unwrap()].lease;
        let salt = blake3(&auditor.0);
        let word = if said == Said::Nothing {
            self.sealed.insert((at, auditor), finding);
            Word::Sealed(finding.seal(&self.pool.id(), &lease, &auditor, &salt))
        } else {
            Word::Opened { finding: self.sealed[&(at, auditor)], salt }
        };
        let by = (1..20).find(|n| key(*n).address() == auditor).unwrap();
        self.say(by, Attestation { epoch: at.epoch, index: at.index, lease, word });
    }

    /// All who are asked agree, and those asked after them.
    pub(crate) fn inquest(&mut self, finding: Finding) {
        for _ in 0..12 {
            for (at, auditor, said) in self.seats() {
                self.attest(at, auditor, said, finding);
            }
        }
    }

    /// The acceptances in the ledger whose money is held.
    pub(crate) fn leaves(&self) -> Vec<(LeafAt, JobId)> {
        let held = self.pool.state().held().iter();
        held.flat_map(|(epoch, held)| {
            let at = |index| LeafAt { epoch: *epoch, index };
            held.leaves.iter().zip(0..).map(move |(leaf, index)| (at(index), leaf.job))
        })
        .collect()
    }

    pub(crate) fn challenge(&mut self, by: u8, at: LeafAt, job: JobId) {
        self.say(by, Challenge { epoch: at.epoch, index: at.index, job });
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

    pub(crate) fn wait(&mut self, span: u64) {
        let until = self.now + Millis(span);
        while let Some(at) = self.pool.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.pool.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    pub(crate) fn take(&mut self, step: &Step) {
        match step {
            Step::Wait(span) => self.wait(*span),
            Step::Beat(miner) => {
                self.beats += 1;
                let heartbeat = heartbeat(self.beats);
                self.say(*miner, heartbeat);
            }
            Step::Share(miner) => {
                self.beats += 1;
                let heartbeat = Heartbeat { mode: PayoutMode::Pps, draining: false, ..heartbeat(self.beats) };
                self.say(*miner, heartbeat);
            }
            Step::Answer { client, miner, price, units } => {
                self.beats += 1;
                let mode = if miner % 2 == 0 { PayoutMode::Solo } else { PayoutMode::Pps };
                let beat = Heartbeat { mode, draining: false, ens: None, ..heartbeat(self.beats) };
                self.say(*miner, beat);
                let job = self.say(*client, self.asked_for(wish(*price, self.now + Millis(60_000))));
                self.jobs.push(job);
                self.say(*miner, Claim { job, attempt: 1 });
                self.wait(2_500);
                let lease = self.lease(&job);
                self.say(*miner, proof(job, lease));
                if let Some(asked) = self.asked.pop_if(|asked| asked.id == job) {
                    let (proof, outcome) = (asked.proof_id, Ok(*units));
                    self.happen(PoolEvent::Examined { job, proof, outcome });
                }
            }
            Step::Fail { client, times } => {
                let job = self.say(*client, self.asked_for(wish(80, self.now + Millis(60_000))));
                self.jobs.push(job);
                for (miner, attempt) in (2..2 + times).zip(1..) {
                    self.beats += 1;
                    let beat = Heartbeat { draining: false, ens: None, ..heartbeat(self.beats) };
                    self.say(miner, beat);
                    self.say(miner, Claim { job, attempt });
                    self.wait(2_500);
                    let lease = self.lease(&job);
                    self.say(miner, Progress { job, lease, units: 1, prefix: lease });
                    self.say(miner, Release { job, lease, cause: ReleaseCause::EngineFailure });
                }
            }
            Step::Attest(finding, index) => {
                let seats = self.seats();
                if !seats.is_empty() {
                    let (at, auditor, said) = seats[index.index(seats.len())];
                    self.attest(at, auditor, said, *finding);
                }
            }
            Step::Inquest(finding) => self.inquest(*finding),
            Step::Cheat { miner, times, seen } => {
                for _ in 0..*times {
                    (2..6).for_each(|n| self.take(&Step::Beat(n)));
                    self.take(&Step::Answer { client: 10, miner: *miner, price: 40, units: 9 });
                    self.wait(9_000);
                    if let Some((at, job)) = self.leaves().last().copied() {
                        self.challenge(11, at, job);
                    }
                    self.inquest(*seen);
                }
            }
            Step::Slip { miner, times, seen } => {
                for _ in 0..*times {
                    self.take(&Step::Cheat { miner: *miner, times: 1, seen: Finding::Holds });
                    self.wait(1);
                    if let Some((at, job)) = self.leaves().last().copied() {
                        self.challenge(11, at, job);
                    }
                    self.inquest(*seen);
                }
            }
            Step::Challenge(client, index) => {
                let leaves = self.leaves();
                if !leaves.is_empty() {
                    let (at, job) = leaves[index.index(leaves.len())];
                    self.challenge(*client, at, job);
                }
            }
            Step::Deposit(client, amount) => {
                let reference = swarm_crypto::digest::blake3(&self.deposits.len().to_be_bytes());
                self.deposits.push(reference);
                let (client, amount) = (key(*client).address(), MicroUsdc(*amount));
                self.happen(PoolEvent::Chain(ChainEvent::Deposited { client, amount, reference }));
            }
            Step::Reorg(which) => {
                if !self.deposits.is_empty() {
                    let reference = self.deposits[which.index(self.deposits.len())];
                    self.happen(PoolEvent::Chain(ChainEvent::Undone { reference }));
                }
            }
            Step::Job { client, price, life } => {
                let job = self.asked_for(wish(*price, self.now + Millis(*life)));
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
                let lease = self.lease(&job);
                self.say(*miner, proof(job, lease));
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

pub(crate) fn proof(job: JobId, lease: swarm_crypto::digest::Digest) -> Proof {
    let (transcript_bytes, output_bytes, output) = (1, 4, raw_cid(b"text"));
    Proof { job, lease, transcript: job, transcript_bytes, output, output_bytes }
}

pub(crate) fn heartbeat(counter: u64) -> Heartbeat {
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

pub(crate) fn wish(price: u64, not_after: Timestamp) -> Job {
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

/// 10,000 histories, or as many as HISTORIES says.
pub(crate) fn how_many() -> u32 {
    std::env::var("HISTORIES").map_or(10_000, |text| text.parse().expect("HISTORIES is a number"))
}

/// What must hold of money at each boundary: it has paid out no more than clients were debited and than is known to be lacking.
fn settled(state: &State, epoch: u64) -> Result<(), TestCaseError> {
    let payouts: u128 = state.accounts().payouts().values().sum();
    let debits: u128 = state.lifetime_debits().values().sum();
    let lacking = state.accounts().balance(&Account::Shortfall).unsigned_abs();
    prop_assert!(
        payouts <= debits + lacking,
        "boundary {}: {} over {} + {}",
        epoch,
        payouts,
        debits,
        lacking
    );
    let held = state.accounts().iter().filter(|(account, _)| matches!(account, Account::MinerHeld(_)));
    let held: i128 = held.map(|(_, balance)| balance).sum();
    let due: u64 = state.held().values().flat_map(|held| held.miners.values()).map(|amount| amount.0).sum();
    prop_assert_eq!(held, i128::from(due));
    Ok(())
}

/// What each client should have, by what became of its deposits and jobs.
fn ledger_of(entries: impl Iterator<Item = Entry>) -> BTreeMap<Address, i128> {
    let mut moved = BTreeMap::<Address, i128>::new();
    let is_client = |account: &Account| match account {
        Account::ClientFree(client) | Account::ClientReserved(client) => Some(*client),
        _ => None,
    };
    for transfer in entries.flat_map(|entry| entry.transfers) {
        let amount = i128::from(transfer.amount.0);
        is_client(&transfer.from).into_iter().for_each(|client| *moved.entry(client).or_default() -= amount);
        is_client(&transfer.to).into_iter().for_each(|client| *moved.entry(client).or_default() += amount);
    }
    moved
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

proptest! {
    #![proptest_config(ProptestConfig { cases: how_many(), ..ProptestConfig::default() })]

    #[test]
    fn money_is_conserved_after_every_row(steps in steps()) {
        let mut table = Table::new();
        for step in &steps {
            table.take(step);
        }
        let mut replay = None;
        for row in &table.rows {
            replay = fold(replay, std::slice::from_ref(row));
            let state = replay.as_ref().unwrap();
            prop_assert_eq!(state.accounts().total(), 0);
            let may = |account: &Account| matches!(account, Account::Outside | Account::Shortfall);
            prop_assert!(state.accounts().iter().all(|(account, balance)| may(account) || balance > 0));
            if let Record::Boundary(boundary) = Entry::decode(row).unwrap().record {
                settled(state, boundary.epoch)?;
            }
        }
        // What a client is charged beyond its jobs that stand is what it paid for challenges; nothing is lost.
        let entries = table.rows.iter().map(|row| Entry::decode(row).unwrap());
        let state = table.pool.state();
        for (client, moved) in ledger_of(entries) {
            let left = state.accounts().balance(&Account::ClientFree(client))
                + state.accounts().balance(&Account::ClientReserved(client));
            prop_assert_eq!(left, moved);
        }
    }
}

fn opened(seat: &swarm_protocol::pool::Seat) -> bool {
    matches!(seat.said, Said::Opened(_))
}

/// What a row shows of the money's rules, as far as it is not in every history.
fn shown(entry: &Entry, state: &State, before: Option<&State>) -> Vec<&'static str> {
    let from = |wanted: fn(&Account) -> bool| entry.transfers.iter().any(|transfer| wanted(&transfer.from));
    let to = |wanted: fn(&Account) -> bool| entry.transfers.iter().any(|transfer| wanted(&transfer.to));
    let is_reserve = |account: &Account| matches!(account, Account::Reserve);
    let is_shortfall = |account: &Account| matches!(account, Account::Shortfall);
    let mut shown = Vec::new();
    let mut note = |name, holds: bool| shown.extend(holds.then_some(name));
    note("a shortfall", from(is_shortfall));
    note("a shortfall made good", to(is_shortfall));
    match &entry.record {
        Record::Accepted { .. } => {
            note("accepted by share", to(is_reserve));
            note("accepted solo", to(|account| matches!(account, Account::MinerHeld(_))));
        }
        Record::Boundary(boundary) => {
            note("credits", from(is_reserve));
            note("a rate", !boundary.rates.is_empty());
            note("credits scaled down", state.held().get(&boundary.epoch).is_some_and(|held| held.scaled));
            let modes = |state: &State| {
                let mode = |n| state.mode(&key(n).address());
                (2..6).map(mode).collect::<Vec<_>>()
            };
            note("a change of mode", before.is_some_and(|before| modes(before) != modes(state)));
            note("an epoch without proofs", !state.held().contains_key(&boundary.epoch));
            let late = boundary.epoch.checked_sub(2).is_some_and(|due| state.held().contains_key(&due));
            note("money that waits for an audit", late);
        }
        Record::Overturned { leaf } => {
            let end = state.audit(*leaf).and_then(|audit| audit.end);
            note("a proof overturned for its wallet's score", end == Some(AuditEnd::Differs));
            note("a share overturned", from(is_reserve));
            note("a share overturned after its credit", to(is_reserve));
            note(
                "a solo proof overturned",
                from(|account| matches!(account, Account::MinerHeld(_))) && !to(is_reserve),
            );
        }
        Record::DepositUndone { .. } => {
            note("a deposit undone", true);
            note("a spent deposit undone", from(|account| matches!(account, Account::OperatorHeld(_))));
        }
        Record::AuditPaid { .. } => {
            note("an audit", from(|account| matches!(account, Account::OperatorHeld(_))));
            note("an audit for a challenger", from(|account| matches!(account, Account::ClientReserved(_))));
        }
        Record::AuditPicked { leaf, .. } => {
            let audit = before.and_then(|before| before.audit(*leaf));
            note("another opinion", audit.is_some_and(|audit| audit.seats.iter().any(opened)));
            note(
                "an auditor in place of a silent one",
                audit.is_some_and(|audit| !audit.seats.iter().any(opened)),
            );
        }
        Record::AuditClosed { leaf, end } => {
            let audit = before.and_then(|before| before.audit(*leaf));
            let asked = audit.is_some_and(|audit| !audit.seats.is_empty());
            note("an audit that nobody could serve", *end == AuditEnd::Unserved && !asked);
            note("an audit that nobody served", *end == AuditEnd::Unserved && asked);
            note("a proof that holds", *end == AuditEnd::Holds);
            note("a proof that differs", *end == AuditEnd::Differs);
            note("a proof that contradicts", *end == AuditEnd::Contradicts);
        }
        Record::Challenged { .. } => note("a challenge", true),
        Record::ChallengeReturned { .. } => {
            note("a challenge that was right", from(|account| matches!(account, Account::OperatorHeld(_))));
            note("a challenge unheard", from(|account| matches!(account, Account::ClientReserved(_))));
        }
        Record::Closed { end, .. } => note(
            match end {
                Close::Expired => "an expired job",
                Close::Cancelled(_) => "a cancelled job",
                Close::Unrunnable => "an unrunnable job",
            },
            true,
        ),
        Record::Deposited { amount, .. } => {
            note("a deposit near the limit of 64 bits", amount.0 > u64::MAX / 4)
        }
        Record::Admitted { .. } => {
            let price = entry.transfers[0].amount.0;
            note("the least price", price == 4);
            note("a price near the limit of 64 bits", price > u64::MAX / 4);
        }
        _ => {}
    }
    shown
}

const SHOWN: [&str; 34] = [
    "a challenge unheard",
    "a proof overturned for its wallet's score",
    "a proof that contradicts",
    "a proof that differs",
    "a proof that holds",
    "an audit for a challenger",
    "an audit that nobody could serve",
    "an audit that nobody served",
    "an auditor in place of a silent one",
    "another opinion",
    "money that waits for an audit",
    "a challenge",
    "a cancelled job",
    "a challenge that was right",
    "a change of mode",
    "a deposit near the limit of 64 bits",
    "a deposit undone",
    "a rate",
    "a price near the limit of 64 bits",
    "a share overturned",
    "a share overturned after its credit",
    "a shortfall",
    "a shortfall made good",
    "a solo proof overturned",
    "a spent deposit undone",
    "accepted by share",
    "accepted solo",
    "an audit",
    "an epoch without proofs",
    "an expired job",
    "an unrunnable job",
    "the least price",
    "credits",
    "credits scaled down",
];

#[test]
fn the_histories_show_every_rule_of_the_money() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, u32>::new();
    for _ in 0..300 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let mut table = Table::new();
        steps.iter().for_each(|step| table.take(step));
        table.wait(20_000);
        let mut state: Option<State> = None;
        for row in &table.rows {
            let before = state.clone();
            state = fold(state, std::slice::from_ref(row));
            let entry = Entry::decode(row).unwrap();
            for name in shown(&entry, state.as_ref().unwrap(), before.as_ref()) {
                *seen.entry(name).or_default() += 1;
            }
        }
    }
    println!("{seen:?}");
    let missing: Vec<_> = SHOWN.iter().filter(|name| !seen.contains_key(*name)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}, of {seen:?}");
}
