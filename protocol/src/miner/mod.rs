//! The miner: hears of jobs, races for them, runs what it wins, proves it and is paid.
//!
//! | file | what |
//! |---|---|
//! | `interface` | what goes in and what comes out |
//! | `contest` | listings, claims, and who won |
//! | `task` | leases in hand, from the lease to the receipt |
//! | `audits` | proofs of others that it is to look at, and what it found |
//! | `altered` | what is found of its own that it altered on purpose |
//! | `duty` | heartbeats, rosters, asking for open jobs, draining |
//!
//! It signs nothing: it says what is to be signed. It keeps nothing on disk: a miner that restarts has lost its leases
//! and asks for open jobs. Times are the miner's own; what the operator dates is used as a span only, so a clock that
//! is off by less than the skew allowance, or is set back, costs nothing.

mod altered;
mod audits;
mod contest;
mod duty;
mod interface;
mod task;
#[cfg(test)]
mod tests;

pub use altered::{MAX_CHALLENGES, MAX_INQUESTS};
pub use audits::{AuditSecret, MAX_AUDITS};
pub use contest::MAX_TRACKED_LISTINGS;
pub use duty::MAX_ROSTERS;
pub use interface::{
    Challenged, Config, Content, Decline, Delivered, Effect, Event, Looked, ModelTerms, Pause, Run, Story,
};
pub use task::MAX_RELEASES;

use crate::clock::Clock;
use crate::codec::JobId;
use crate::statement::{Body, MAX_JOB_LIFE, Statement, Topic, Verified};
use crate::{Machine, Millis, Timestamp};
use altered::OwnProofs;
use audits::Audits;
use contest::Contests;
use duty::Duty;
use std::collections::{BTreeMap, VecDeque};
use swarm_crypto::digest::Digest;
use task::{Giveback, Task};

/// Most finished or declined jobs remembered.
pub const MAX_PAST_JOBS: usize = 8192;

/// A miner of one pool.
#[derive(Debug)]
pub struct Miner {
    config: Config,
    clock: Clock,
    duty: Duty,
    contests: Contests,
    audits: Audits,
    own: OwnProofs,
    tasks: BTreeMap<Digest, Task>,
    givebacks: BTreeMap<Digest, Giveback>,
    past: BTreeMap<JobId, Past>,
    effects: VecDeque<Effect>,
}

/// A job that is not to be claimed for now.
#[derive(Debug, Clone, Copy)]
struct Past {
    /// The last term held; 0 if none was.
    term: u32,
    /// Whether its receipt came.
    earned: bool,
    until: Timestamp,
}

impl Miner {
    /// A miner that has heard of nothing yet and speaks once it is connected.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            clock: Clock::default(),
            duty: Duty::default(),
            contests: Contests::default(),
            audits: Audits::default(),
            own: OwnProofs::default(),
            tasks: BTreeMap::new(),
            givebacks: BTreeMap::new(),
            past: BTreeMap::new(),
            effects: VecDeque::new(),
        }
    }

    /// Leases in hand, from the lease to the receipt.
    pub fn leases(&self) -> usize {
        self.tasks.len()
    }

    /// Listings followed at this moment.
    pub fn tracked(&self) -> usize {
        self.contests.len()
    }

    fn hear(&mut self, verified: &Verified, now: Timestamp) {
        let header = &verified.statement().header;
        match &verified.statement().body {
            Body::Listing(listing) => self.hear_listing(listing, now),
            Body::Claim(claim) => self.hear_claim(claim, header.by, now),
            Body::Lease(lease) => self.hear_lease(lease, header.at, now),
            Body::LeaseEnded(ended) => self.hear_lease_ended(ended, now),
            Body::Receipt(receipt) => self.hear_receipt(receipt, now),
            Body::Refusal(refusal) => self.hear_refusal(refusal, now),
            Body::Beacon(beacon) => self.hear_beacon(beacon, now),
            Body::EpochOpened(opened) => self.hear_epoch_opened(opened, now),
            Body::AuditPicked(picked) => self.hear_audit_picked(picked, verified, now),
            Body::Attestation(said) => self.hear_attestation(said, header.by),
            Body::Job(_)
            | Body::Cancel(_)
            | Body::Admitted(_)
            | Body::Release(_)
            | Body::Proof(_)
            | Body::Challenge(_)
            | Body::Heartbeat(_)
            | Body::EpochSealed(_)
            | Body::Progress(_) => {}
        }
    }

    fn run_due(&mut self, now: Timestamp) {
        self.run_due_contests(now);
        self.run_due_tasks(now);
        self.run_due_givebacks(now);
        self.run_due_challenges(now);
        self.run_due_duties(now);
    }

    /// Whether one more job of a model can be run: with fewer jobs in hand than its engines have slots, one of them has room.
    fn has_slot(&self, model: &str) -> bool {
        self.taken_slots() < usize::try_from(self.slots_of(model)).unwrap_or(usize::MAX)
    }

    /// Whether a job of a model whose lease is granted can be run: others that were claimed may not be granted.
    fn can_run(&self, model: &str) -> bool {
        self.running() < usize::try_from(self.slots_of(model)).unwrap_or(usize::MAX)
    }

    fn running(&self) -> usize {
        self.tasks.values().filter(|task| task.takes_slot()).count()
    }

    fn taken_slots(&self) -> usize {
        self.running() + self.givebacks.len() + self.contests.claimed()
    }

    fn state(&self, body: impl Into<Body>, now: Timestamp) -> Statement {
        self.state_at(body, self.clock.show(now))
    }

    fn state_at(&self, body: impl Into<Body>, shown: Timestamp) -> Statement {
        Statement::derived(self.config.pool, self.config.wallet, shown, body.into())
    }

    /// By gossip, so that everybody knows, and directly, so that the operator knows at once.
    fn say(&mut self, topic: Topic, statement: Statement) {
        self.effects.push_back(Effect::Publish(topic, statement.clone()));
        self.hand(statement);
    }

    fn hand(&mut self, statement: Statement) {
        if self.duty.connected {
            self.effects.push_back(Effect::Hand(statement));
        }
    }

    fn tell(&mut self, story: Story) {
        self.effects.push_back(Effect::Story(story));
    }

    /// Keeps from claiming the job while it can still be valid.
    fn shun(&mut self, job: JobId, term: u32, now: Timestamp) {
        self.shun_for(job, term, MAX_JOB_LIFE.times(2), now);
    }

    fn shun_for(&mut self, job: JobId, term: u32, span: Millis, now: Timestamp) {
        if self.past.len() >= MAX_PAST_JOBS {
            self.past.retain(|_, past| past.until > now);
        }
        if self.past.len() >= MAX_PAST_JOBS
            && let Some(oldest) = self.past.iter().min_by_key(|(_, past)| past.until).map(|(job, _)| *job)
        {
            self.past.remove(&oldest);
        }
        let past = self.past.entry(job).or_insert(Past { term, earned: false, until: now });
        (past.term, past.until) = (past.term.max(term), past.until.max(now + span));
    }

    fn past(&self, job: &JobId, now: Timestamp) -> Option<Past> {
        self.past.get(job).copied().filter(|past| past.until > now)
    }
}

impl Machine for Miner {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, event: Event, now: Timestamp) {
        let now = self.clock.read(now);
        match event {
            Event::Heard(verified) => self.hear(&verified, now),
            Event::OpenJobs(listings) => self.take_open_jobs(&listings, now),
            Event::Fate { job, fate } => self.take_fate(job, &fate, now),
            Event::RosterLearned { epoch, roster } => self.learn_roster(epoch, roster),
            Event::JobReady { lease, content } => self.take_content(lease, content, now),
            Event::EngineProgress { lease, units, prefix } => self.take_progress(lease, units, prefix, now),
            Event::EngineDone { lease, outcome } => self.take_outcome(lease, outcome, now),
            Event::Audited { epoch, index, outcome } => self.take_finding((epoch, index), outcome, now),
            Event::Engines { model, slots } => self.take_engines(model, slots, now),
            Event::Connected => self.connect(now),
            Event::Disconnected => self.duty.connected = false,
            Event::Pause(why) => self.pause(why, now),
            Event::Resume(why) => self.resume(why, now),
            Event::Drain { grace } => self.drain(grace, now),
        }
        self.run_due(now);
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        let now = self.clock.read(now);
        self.run_due(now);
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let tasks = self.tasks.values().filter_map(|task| task.due(self.duty.connected)).min();
        let givebacks = self.givebacks.values().map(Giveback::due).min();
        let due = [self.contests.due(), tasks, givebacks, self.own.due(), self.duty_due()]
            .into_iter()
            .flatten()
            .min();
        due.map(|due| self.clock.show(due))
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
