use super::sybils::Sybils;
use std::collections::BTreeMap;
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{self, JobId, Link};
use swarm_protocol::finding::Finding;
use swarm_protocol::miner::{self, Miner, Story};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{JobFate, Pool, PoolConfig, PoolEffect, PoolEvent, Replay, Stage};
use swarm_protocol::query::{Fate, MAX_OPEN_JOBS, Query};
use swarm_protocol::race::Roster;
use swarm_protocol::statement::{
    Assurance, Body, Identified, Input, Intake, Job, JobType, Listing, Params, PayoutMode, Reason, Signed,
    Statement, Topic, Verified,
};
use swarm_protocol::submission::{self, Outcome, Submission};
use swarm_protocol::{Machine, Millis, Posted, Timestamp};

const START: Timestamp = Timestamp(1_800_000_000_000);
pub(super) const MODEL: &str = "queenbee-nano";
const OUTPUT: &[u8] = b"upon a time";
pub(super) const OPERATOR: Id = 1;
pub(super) const FIRST_MINER: Id = 2;
pub(super) const FIRST_CLIENT: Id = 100;

/// A node and its key.
pub(super) type Id = u16;

pub(super) fn key(n: Id) -> SecretKey {
    let [high, low] = n.to_be_bytes();
    let mut bytes = [low; 32];
    // Keys are below the order of the curve.
    bytes[0] = low.wrapping_add(high) & 0x7f;
    SecretKey::from_bytes(&bytes).unwrap()
}

#[derive(Clone)]
pub(super) enum Arrival {
    Gossip(Topic, Signed),
    Handed(Signed),
    Pool(Box<PoolEvent>),
    Miner(miner::Event),
    Client(submission::Event),
}

pub(super) struct Node<M> {
    pub(super) machine: M,
    intake: Intake,
}

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) pool: Node<Pool>,
    pub(super) miners: BTreeMap<Id, Node<Miner>>,
    clients: BTreeMap<Id, Node<Submission>>,
    arrivals: BTreeMap<(Timestamp, u64), (Id, Arrival)>,
    sent: u64,
    dice: u64,
    lost_percent: u64,
    pub(super) work: Millis,
    pub(super) rows: Vec<Vec<u8>>,
    blocks: BTreeMap<Link, Vec<u8>>,
    jobs: BTreeMap<JobId, Signed>,
    /// What miners have handed in, by the job.
    proofs: BTreeMap<JobId, Signed>,
    pub(super) stories: Vec<(Id, Story)>,
    pub(super) outcomes: BTreeMap<Id, Outcome>,
    /// When each client had its outcome.
    pub(super) ended_at: BTreeMap<Id, Timestamp>,
    pub(super) sybils: Option<Sybils>,
    posted: Posted,
    /// Whose proofs are false.
    pub(super) cheat: Option<Id>,
}

/// Short times, so that a game is short too.
pub(super) fn posted() -> Posted {
    Posted {
        epoch: Millis::from_secs(20),
        first_progress: Millis::from_secs(5),
        progress: Millis::from_secs(5),
        fetch: Millis::from_secs(5),
        heartbeat: Millis::from_secs(3),
        cooldown: Millis::from_secs(1),
        audit_rate: 0,
        ..Posted::default()
    }
}

fn pool_config(posted: Posted) -> PoolConfig {
    let models = [(MODEL.to_owned(), JobType::LlmGen)].into();
    PoolConfig {
        node: None,
        reserve: swarm_protocol::money::MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: key(OPERATOR).address(),
        models,
        posted,
        secret: [7; 32],
    }
}

/// Gossip is taken once; what is handed over, or asked for, may come again.
fn heard(intake: &mut Intake, said: Arrival, now: Timestamp) -> Option<Verified> {
    match said {
        Arrival::Gossip(topic, signed) => intake.accept(Some(topic), &signed.encode(), now).ok(),
        Arrival::Handed(signed) => intake.verify(None, &signed.encode(), now).ok(),
        Arrival::Pool(_) | Arrival::Miner(_) | Arrival::Client(_) => unreachable!("not said by anybody"),
    }
}

impl World {
    pub(super) fn new(miners: Id, lost_percent: u64, seed: u64) -> Self {
        Self::with(posted(), miners, lost_percent, seed)
    }

    pub(super) fn with(posted: Posted, miners: Id, lost_percent: u64, seed: u64) -> Self {
        let pool = Pool::create(pool_config(posted.clone()), START);
        let intake = Intake::new(pool.id(), key(OPERATOR).address());
        let mut world = Self {
            now: START,
            pool: Node { machine: pool, intake },
            miners: BTreeMap::new(),
            clients: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            sent: 0,
            dice: seed * 2 + 1,
            lost_percent,
            work: Millis(2500),
            rows: vec![],
            blocks: BTreeMap::new(),
            jobs: BTreeMap::new(),
            proofs: BTreeMap::new(),
            stories: vec![],
            outcomes: BTreeMap::new(),
            ended_at: BTreeMap::new(),
            sybils: None,
            posted,
            cheat: None,
        };
        world.settle_pool();
        (0..miners).for_each(|n| world.start_miner(FIRST_MINER + n, 1 + u32::from(n % 2)));
        world.run(1000);
        world
    }

    fn intake(&self) -> Intake {
        Intake::new(self.pool.machine.id(), key(OPERATOR).address())
    }

    pub(super) fn start_miner(&mut self, n: Id, slots: u32) {
        let config = miner::Config {
            pool: self.pool.machine.id(),
            wallet: key(n).address(),
            slots,
            models: vec![miner::ModelTerms {
                model: MODEL.into(),
                assurances: vec![Assurance::Seeded],
                min_price: MicroUsdc(4),
                vram_mb: 0,
            }],
            mode: PayoutMode::Solo,
            ens: None,
            device: "cpu".into(),
            vram_mb: 0,
            boot_at: self.now,
            audit_secret: miner::AuditSecret::of(&key(n).to_bytes()),
            altering: None,
        };
        self.miners.insert(n, Node { machine: Miner::new(config), intake: self.intake() });
        self.to(n, Arrival::Miner(miner::Event::Connected));
    }

    pub(super) fn submit(&mut self, n: Id, nonce: u64) -> JobId {
        let job = Job {
            job_type: JobType::LlmGen,
            model: MODEL.into(),
            input: Input::Text("Once".into()),
            params: Params { max_tokens: 8, temperature: 0, top_p: 10_000, seed: Some(nonce), stop: vec![] },
            price: MicroUsdc(100_001),
            not_after: self.now + Millis::from_secs(200),
            max_runtime_s: 60,
            vram_mb: 0,
            assurance: Assurance::Seeded,
        };
        let wallet = key(n).address();
        let signed = Statement::derived(self.pool.machine.id(), wallet, self.now, job.into()).sign(&key(n));
        let mut intake = self.intake();
        let verified = intake.verify(None, &signed.encode(), self.now).unwrap();
        let machine = Submission::new(&verified).unwrap();
        self.jobs.insert(signed.id(), signed.clone());
        self.clients.insert(n, Node { machine, intake });
        self.to(n, Arrival::Client(submission::Event::Connected));
        signed.id()
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    pub(super) fn to(&mut self, n: Id, arrival: Arrival) {
        self.after(Millis(0), n, arrival);
    }

    fn after(&mut self, delay: Millis, n: Id, arrival: Arrival) {
        self.sent += 1;
        self.arrivals.insert((self.now + delay, self.sent), (n, arrival));
    }

    /// Over the network: late, and sometimes never or twice.
    pub(super) fn send(&mut self, n: Id, arrival: Arrival) {
        let copies = if self.roll(100) < self.lost_percent { 0 } else { 1 + self.roll(100) / 95 };
        for _ in 0..copies {
            let delay = Millis(5 + self.roll(60));
            self.after(delay, n, arrival.clone());
        }
    }

    fn gossip(&mut self, from: Id, topic: Topic, statement: &Statement) {
        let signed = statement.sign(&key(from));
        let all: Vec<Id> = [OPERATOR]
            .into_iter()
            .chain(self.miners.keys().copied())
            .chain(self.clients.keys().filter(|n| !self.outcomes.contains_key(n)).copied())
            .collect();
        for n in all.into_iter().filter(|n| *n != from) {
            self.send(n, Arrival::Gossip(topic, signed.clone()));
        }
        if let Some(mut sybils) = self.sybils.take() {
            sybils.hear(self, statement);
            self.sybils = Some(sybils);
        }
    }

    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + Millis(ms);
        while self.step(end) {}
        self.now = end;
    }

    pub(super) fn run_until_done(&mut self) {
        let end = self.now + Millis::from_secs(400);
        while self.outcomes.len() < self.clients.len() && self.now < end {
            self.run(500);
        }
        self.run(5000);
    }

    fn step(&mut self, end: Timestamp) -> bool {
        let mut due: Vec<(Timestamp, Id)> = vec![];
        due.extend(self.pool.machine.poll_timeout().map(|at| (at, OPERATOR)));
        due.extend(self.miners.iter().filter_map(|(n, node)| Some((node.machine.poll_timeout()?, *n))));
        due.extend(self.clients.iter().filter_map(|(n, node)| Some((node.machine.poll_timeout()?, *n))));
        let timer = due.into_iter().min().filter(|(at, _)| *at <= end);
        let arrival = self.arrivals.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= end);
        match (timer, arrival) {
            (Some((at, n)), arrival) if arrival.is_none_or(|arrival| at < arrival) => {
                self.now = self.now.max(at);
                self.wake(n);
            }
            (_, Some(at)) => {
                self.now = self.now.max(at);
                let (_, (n, arrival)) = self.arrivals.pop_first().unwrap();
                self.deliver(n, arrival);
            }
            (_, None) => return false,
        }
        true
    }

    fn wake(&mut self, n: Id) {
        let now = self.now;
        if n == OPERATOR {
            self.pool.machine.handle_timeout(now);
            self.settle_pool();
        } else if let Some(node) = self.miners.get_mut(&n) {
            node.machine.handle_timeout(now);
            self.settle_miner(n);
        } else if let Some(node) = self.clients.get_mut(&n) {
            node.machine.handle_timeout(now);
            self.settle_client(n);
        }
    }

    fn deliver(&mut self, n: Id, arrival: Arrival) {
        let now = self.now;
        if n == OPERATOR {
            let event = match arrival {
                Arrival::Pool(event) => Some(*event),
                said => heard(&mut self.pool.intake, said, now)
                    .map(|verified| PoolEvent::Statement(Identified::new(verified, false))),
            };
            event.into_iter().for_each(|event| self.pool.machine.handle(event, now));
            self.settle_pool();
        } else if let Some(node) = self.miners.get_mut(&n) {
            let event = match arrival {
                Arrival::Miner(event) => Some(event),
                said => heard(&mut node.intake, said, now).map(|said| miner::Event::Heard(Box::new(said))),
            };
            event.into_iter().for_each(|event| node.machine.handle(event, now));
            self.settle_miner(n);
        } else if let Some(node) = self.clients.get_mut(&n) {
            let event = match arrival {
                Arrival::Client(event) => Some(event),
                said => {
                    heard(&mut node.intake, said, now).map(|said| submission::Event::Heard(Box::new(said)))
                }
            };
            event.into_iter().for_each(|event| node.machine.handle(event, now));
            self.settle_client(n);
        }
    }

    fn settle_pool(&mut self) {
        while let Some(effect) = self.pool.machine.poll_effect() {
            match effect {
                PoolEffect::Record(row) => self.rows.push(row),
                PoolEffect::Publish(topic, statement) => self.gossip(OPERATOR, topic, &statement),
                PoolEffect::Store(block) => {
                    self.blocks.insert(Link::of(&block), block);
                }
                PoolEffect::Examine(examination) => {
                    let (job, proof) = (examination.id, examination.proof_id);
                    let event = PoolEvent::Examined { job, proof, outcome: Ok(20) };
                    self.after(Millis(20), OPERATOR, Arrival::Pool(Box::new(event)));
                }
                PoolEffect::FetchInput { .. } | PoolEffect::Tree(_) | PoolEffect::Story(_) => {}
            }
        }
    }

    fn settle_miner(&mut self, n: Id) {
        use miner::{Effect, Event};
        while let Some(effect) = self.miners.get_mut(&n).and_then(|node| node.machine.poll_effect()) {
            match effect {
                Effect::Publish(topic, statement) => self.gossip(n, topic, &statement),
                Effect::Hand(statement) => {
                    let signed = statement.sign(&key(n));
                    if let Body::Proof(proof) = &statement.body {
                        self.proofs.insert(proof.job, signed.clone());
                    }
                    self.send(OPERATOR, Arrival::Handed(signed));
                }
                Effect::Ask(query) => self.answer_miner(n, &query),
                Effect::FetchRoster { epoch, roster } => {
                    if let Some(block) = self.blocks.get(&roster) {
                        let roster = codec::decode::<Roster>(block).unwrap().into();
                        self.send(n, Arrival::Miner(Event::RosterLearned { epoch, roster }));
                    }
                }
                Effect::Prepare { lease, job } => {
                    let signed = self.jobs[&job].encode();
                    let job = self.intake().verify(None, &signed, self.now).unwrap();
                    let content = Ok(Box::new(miner::Content { job, linked: None }));
                    self.after(Millis(30), n, Arrival::Miner(Event::JobReady { lease, content }));
                }
                Effect::Infer(run) => self.infer(n, run.lease),
                Effect::Audit(picked) => {
                    let (epoch, index) = (picked.epoch, picked.index);
                    let is_false = self.cheat.is_some_and(|n| key(n).address() == picked.wallet);
                    let finding = if is_false { Finding::Contradicts } else { Finding::Holds };
                    let signed = self.proofs[&picked.job].encode();
                    let proof = self.intake().verify(None, &signed, self.now).unwrap().into();
                    let outcome = Ok(miner::Looked { finding: Ok(finding), lease: picked.lease, proof });
                    self.after(Millis(400), n, Arrival::Miner(Event::Audited { epoch, index, outcome }));
                }
                Effect::Story(story) => self.stories.push((n, story)),
                Effect::Evidence(both) => panic!("an honest operator misleads nobody: {both:?}"),
                Effect::Abort { .. } | Effect::Finished => {}
            }
        }
    }

    fn infer(&mut self, n: Id, lease: Digest) {
        use miner::Event;
        for units in 1..5 {
            let progress = Event::EngineProgress { lease, units, prefix: Digest::ZERO };
            self.after(Millis(self.work.0 / 5 * units), n, Arrival::Miner(progress));
        }
        let delivered = miner::Delivered {
            transcript: Link(lease.0),
            transcript_bytes: 100,
            output: codec::raw_cid(OUTPUT),
            output_bytes: OUTPUT.len() as u64,
            altered: None,
        };
        self.after(self.work, n, Arrival::Miner(Event::EngineDone { lease, outcome: Ok(delivered) }));
    }

    fn answer_miner(&mut self, n: Id, query: &Query) {
        match query {
            Query::OpenJobs { wallet, models } => {
                let entries = self.pool.machine.open_jobs(wallet, models, MAX_OPEN_JOBS, self.now);
                let listings =
                    if entries.is_empty() { vec![] } else { vec![self.verified(Listing { entries })] };
                self.send(n, Arrival::Miner(miner::Event::OpenJobs(listings)));
            }
            Query::Job { job } => {
                let (signed, fate) = self.fate(job);
                signed.into_iter().for_each(|signed| self.to(n, Arrival::Handed(signed)));
                self.send(n, Arrival::Miner(miner::Event::Fate { job: *job, fate }));
            }
            Query::Beacon => self.answer_beacon(n),
            _ => unreachable!("never asked"),
        }
    }

    fn answer_beacon(&mut self, n: Id) {
        for statement in
            [self.pool.machine.beacon_statement(self.now), self.pool.machine.epoch_opened(self.now)]
        {
            self.send(n, Arrival::Handed(statement.sign(&key(OPERATOR))));
        }
    }

    fn verified(&self, body: impl Into<Body>) -> Verified {
        let operator = key(OPERATOR);
        let statement = Statement::derived(self.pool.machine.id(), operator.address(), self.now, body.into());
        self.intake().verify(None, &statement.sign(&operator).encode(), self.now).unwrap()
    }

    fn fate(&self, job: &JobId) -> (Option<Signed>, Fate) {
        let sign = |statement: Box<Statement>| statement.sign(&key(OPERATOR));
        match self.pool.machine.fate(job) {
            JobFate::Unknown => (None, Fate::Unknown),
            JobFate::Pending { attempt, ahead } => (None, Fate::Pending { attempt, ahead }),
            JobFate::Leased { lease, wallet, name, term, units, proven } => {
                (None, Fate::Leased { lease, wallet, name, term, units, proven })
            }
            JobFate::Accepted(receipt, name) => {
                let receipt = sign(receipt);
                (Some(receipt.clone()), Fate::Accepted { receipt, name })
            }
            JobFate::Ended(refusal) => {
                let refusal = sign(refusal);
                (Some(refusal.clone()), Fate::Ended { refusal })
            }
        }
    }

    fn settle_client(&mut self, n: Id) {
        use submission::{Effect, Event};
        while let Some(effect) = self.clients.get_mut(&n).and_then(|node| node.machine.poll_effect()) {
            match effect {
                Effect::Publish(topic, signed) => self.send(OPERATOR, Arrival::Gossip(topic, signed)),
                Effect::Hand(signed) => self.send(OPERATOR, Arrival::Handed(signed)),
                Effect::Ask(Query::Job { job }) => {
                    let (signed, fate) = self.fate(&job);
                    signed.into_iter().for_each(|signed| self.to(n, Arrival::Handed(signed)));
                    self.send(n, Arrival::Client(Event::Fate(fate)));
                }
                Effect::Ask(_) => self.answer_beacon(n),
                Effect::Fetch { cid, .. } => {
                    self.send(n, Arrival::Client(Event::OutputFetched { cid, bytes: Ok(OUTPUT.to_vec()) }));
                }
                Effect::Stage(_) | Effect::NoMiner { .. } => {}
                Effect::Done(outcome) => {
                    assert!(self.outcomes.insert(n, *outcome).is_none(), "done once");
                    self.ended_at.insert(n, self.now);
                }
            }
        }
    }

    /// The operator dies, comes back from its ledger, and everybody connects again.
    pub(super) fn restart_operator(&mut self) {
        let mut replay = Replay::new(None);
        for (seq, row) in self.rows.iter().enumerate() {
            replay.row(seq as u64, row).unwrap();
        }
        let state = replay.finish().unwrap();
        let machine = Pool::restore(pool_config(self.posted.clone()), state, self.now).unwrap();
        self.pool = Node { machine, intake: self.intake() };
        self.arrivals.retain(|_, (n, _)| *n != OPERATOR);
        self.settle_pool();
        for n in self.miners.keys().copied().collect::<Vec<_>>() {
            self.to(n, Arrival::Miner(miner::Event::Disconnected));
            self.after(Millis(100), n, Arrival::Miner(miner::Event::Connected));
        }
        for n in self.clients.keys().copied().collect::<Vec<_>>() {
            self.to(n, Arrival::Client(submission::Event::Disconnected));
            self.after(Millis(100), n, Arrival::Client(submission::Event::Connected));
        }
    }

    /// Every client has an answer, or its money back because all miners lost its job.
    pub(super) fn assert_settled(&self, least_answered: usize) {
        let mut answered = 0;
        for n in self.clients.keys() {
            match self.outcomes.get(n) {
                Some(Outcome::Answer { .. }) => answered += 1,
                Some(Outcome::Refused { reason: Reason::JobExpired, .. }) => {}
                other => panic!("client {n}: {other:?}"),
            }
        }
        assert!(answered >= least_answered, "{answered} of {} are answered", self.clients.len());
        let state = self.pool.machine.state();
        assert_eq!(state.accounts().total(), 0);
        assert!(state.jobs().all(|(_, job)| matches!(job.stage, Stage::Accepted(_) | Stage::Expired)));
        let wallets = (FIRST_MINER..FIRST_CLIENT).map(|n| key(n).address());
        let earned =
            wallets.map(|wallet| self.pool.machine.earned(&wallet)).map(|(held, free)| held.0 + free.0);
        assert_eq!(earned.sum::<u64>(), 75_000 * answered as u64);
    }

    pub(super) fn assert_all_answered(&self) {
        self.assert_settled(self.clients.len());
    }

    pub(super) fn told(&self, pick: impl Fn(&Story) -> bool) -> Vec<Id> {
        self.stories.iter().filter(|(_, story)| pick(story)).map(|(n, _)| *n).collect()
    }
}
