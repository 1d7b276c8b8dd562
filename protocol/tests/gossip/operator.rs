//! The operator's node: the real way in and the real pool; its disk is quick and its checks take a moment.

use crate::mint::{Node, OPERATOR, Said, wallet};
use crate::world::{Due, Event, World};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{JobFate, Pool, PoolConfig, PoolEffect, PoolEvent, PoolStory};
use swarm_protocol::query::{Fate, MAX_OPEN_JOBS, Query};
use swarm_protocol::race::Roster;
use swarm_protocol::statement::{Carrier, Identified, Intake, JobType, Listing, Statement, Topic};
use swarm_protocol::{Machine, Millis, Posted, Timestamp, miner, submission};

pub(crate) const MODEL: &str = "queenbee-nano";
/// Fetching and checking a proof.
const EXAMINATION: (u64, u64) = (50, 250);
/// An answer about the pool as it is now may be so old.
const FRESH: u64 = 500;

#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) pool: Pool,
    intake: Intake,
    pub(crate) rosters: HashMap<Link, Arc<Roster>>,
    /// Beacon and open epoch, as answered last.
    told: Option<(u64, [Rc<Said>; 2])>,
}

impl Operator {
    pub(crate) fn new(now: Timestamp, epoch: Millis) -> Self {
        let config = PoolConfig {
            node: None,
            reserve: swarm_protocol::money::MicroUsdc(0),
            name: "swarmpool.eth".into(),
            operator: wallet(OPERATOR, 0),
            models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
            // Whoever has earned anything is established.
            posted: Posted { epoch, audit_rate: 0, established: MicroUsdc(1), ..Posted::default() },
            secret: [7; 32],
        };
        let pool = Pool::create(config, now);
        let intake = Intake::new(pool.id(), wallet(OPERATOR, 0));
        Self { pool, intake, rosters: HashMap::new(), told: None }
    }
}

impl World {
    /// True if the statement is valid, new and within what its sender may say.
    pub(crate) fn operator_takes(&mut self, from: Node, topic: Option<Topic>, said: &Said) -> bool {
        let known = &self.known;
        let carrier = Carrier { peer: self.nodes[from].peer, knows: &|by| known.contains(by) };
        let now = self.now();
        match self.operator.intake.accept_from(&carrier, topic, &said.bytes, now) {
            Ok(verified) => {
                self.operator_handles(PoolEvent::Statement(Identified::new(verified, false)));
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn operator_handles(&mut self, event: PoolEvent) {
        let now = self.now();
        self.operator.pool.handle(event, now);
        self.operator_acts();
    }

    pub(crate) fn operator_wakes(&mut self) {
        let now = self.now();
        self.operator.pool.handle_timeout(now);
        self.operator_acts();
    }

    pub(crate) fn operator_acts(&mut self) {
        while let Some(effect) = self.operator.pool.poll_effect() {
            match effect {
                PoolEffect::Publish(topic, statement) => self.say(OPERATOR, topic, &statement),
                PoolEffect::Store(block) => self.store(&block),
                PoolEffect::Examine(asked) => {
                    let outcome = Ok(20);
                    let event = PoolEvent::Examined { job: asked.id, proof: asked.proof_id, outcome };
                    let delay = self.rng.range(EXAMINATION.0, EXAMINATION.1);
                    self.after(delay, Due::Pool(Box::new(event)));
                }
                PoolEffect::Story(story) => self.learn(&story),
                PoolEffect::Record(_) | PoolEffect::FetchInput { .. } | PoolEffect::Tree(_) => {}
            }
        }
        if let Some(at) = self.operator.pool.poll_timeout() {
            let delay = at.since(self.now()).0;
            self.wake_at(OPERATOR, self.t + delay);
        }
    }

    fn store(&mut self, block: &[u8]) {
        if let Ok(roster) = codec::decode::<Roster>(block) {
            self.known.extend(roster.0.iter().map(|entry| entry.wallet));
            self.operator.rosters.insert(Link::of(block), Arc::new(roster));
        }
    }

    fn learn(&mut self, story: &PoolStory) {
        match story {
            PoolStory::NewJob { client: wallet, .. } => {
                self.known.insert(*wallet);
            }
            PoolStory::Leased { wallet, .. } => {
                self.known.insert(*wallet);
                self.tally.leases += u64::from(self.plan.measures(self.t));
            }
            _ => {}
        }
    }

    pub(crate) fn operator_answers(&mut self, to: Node, life: u32, query: &Query) {
        let now = self.now();
        let miner = |event| Event::Miner(Box::new(event));
        match query {
            Query::OpenJobs { wallet, models } => {
                let entries = self.operator.pool.open_jobs(wallet, models, MAX_OPEN_JOBS, now);
                self.tally.opened += u64::from(self.plan.measures(self.t) && !entries.is_empty());
                let listing = (!entries.is_empty()).then(|| {
                    let listing = Statement::derived(
                        self.mint.pool,
                        crate::mint::wallet(OPERATOR, 0),
                        now,
                        Listing { entries }.into(),
                    );
                    self.mint.say(&listing).verified.clone()
                });
                let listings = listing.into_iter().collect();
                self.tell(to, life, miner(miner::Event::OpenJobs(listings)));
            }
            Query::Job { job } => {
                let (said, fate) = self.fate(job);
                said.into_iter().for_each(|said| self.tell(to, life, Event::Told(said)));
                self.tell(to, life, miner(miner::Event::Fate { job: *job, fate: fate.clone() }));
                self.tell(to, life, Event::Client(*job, Box::new(submission::Event::Fate(fate))));
            }
            Query::Beacon => {
                for said in self.pool_now() {
                    self.tell(to, life, Event::Told(said));
                }
            }
            _ => unreachable!("nobody asks this"),
        }
    }

    fn tell(&mut self, node: Node, life: u32, event: Event) {
        self.send(OPERATOR, node, 0, Due::Happens { node, life, event });
    }

    fn pool_now(&mut self) -> [Rc<Said>; 2] {
        if let Some((at, told)) = &self.operator.told
            && at + FRESH > self.t
        {
            return told.clone();
        }
        let (pool, now) = (&self.operator.pool, self.now());
        let (opened, beacon) = (pool.epoch_opened(now), pool.beacon_statement(now));
        let told = [self.mint.say(&opened), self.mint.say(&beacon)];
        self.operator.told = Some((self.t, told.clone()));
        told
    }

    fn fate(&mut self, job: &codec::JobId) -> (Option<Rc<Said>>, Fate) {
        match self.operator.pool.fate(job) {
            JobFate::Unknown => (None, Fate::Unknown),
            JobFate::Pending { attempt, ahead } => (None, Fate::Pending { attempt, ahead }),
            JobFate::Leased { lease, wallet, name, term, units, proven } => {
                (None, Fate::Leased { lease, wallet, name, term, units, proven })
            }
            JobFate::Accepted(receipt, name) => {
                let said = self.mint.say(&receipt);
                (Some(said.clone()), Fate::Accepted { receipt: said.verified.signed().clone(), name })
            }
            JobFate::Ended(refusal) => {
                let said = self.mint.say(&refusal);
                (Some(said.clone()), Fate::Ended { refusal: said.verified.signed().clone() })
            }
        }
    }
}
