//! What a restart may forget: who is alive, claims in hand, deadlines, proofs being checked.

use super::record::LeafAt;
use super::{JobEntry, Stage, State};
use crate::codec::{JobId, Link};
use crate::planted::{self, Bug};
use crate::race::Rank;
use crate::statement::{Heartbeat, Proof, Reason, Signed, Verified};
use crate::{Millis, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// Most miners alive in one pool.
pub const MAX_LIVE_MINERS: usize = 100_000;
/// Most claims in hand for one job.
pub const MAX_CLAIMS_PER_JOB: usize = 256;
/// Most progress reports remembered of one lease.
pub const MAX_PROGRESS: usize = 512;
/// Most refused jobs remembered.
const MAX_REFUSED_JOBS: usize = 16_384;
/// Most listing-to-claim times behind the posted window.
const MAX_CLAIM_TIMES: usize = 1000;
/// Heartbeats missed until a miner counts as offline.
pub const MISSED_HEARTBEATS: u64 = 3;

/// A miner that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveMiner {
    /// When it was last heard, by our clock.
    pub seen_at: Timestamp,
    /// What it said.
    pub heartbeat: Heartbeat,
    /// The same, as it came.
    pub signed: Signed,
    /// The name it goes by, once nothing contradicts it; and whether ENS confirmed it.
    pub name: Option<(String, bool)>,
}

impl LiveMiner {
    /// Whether it serves `model`.
    pub fn serves(&self, model: &str) -> bool {
        !self.heartbeat.draining && self.heartbeat.models.iter().any(|offer| offer.model == model)
    }
}

/// A proof that is being fetched and checked.
#[derive(Debug, Clone)]
pub(super) struct Examined {
    pub id: Link,
    pub signed: Signed,
    pub lease: Digest,
    pub until: Timestamp,
    /// The lease's clock stands still until its verdict.
    pub suspends: bool,
}

/// What is known of a live lease beyond its record.
#[derive(Debug, Clone, Default)]
pub(super) struct Run {
    pub deadline: Timestamp,
    pub progress: Vec<(u64, Digest)>,
    /// A proof has stopped its clock; none does so again.
    pub suspended: bool,
}

/// Something due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The close of a window of one attempt.
    Window(JobId, u32),
    Deadline(JobId),
    Examination(JobId),
    Expiry(JobId),
    Offline(Address),
    Beacon,
}

/// How many entries there are in every map of what a restart may forget. A pool at rest holds its miners, the timers
/// of their silence and of the next beacon, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Holdings {
    /// Miners alive.
    pub miners: usize,
    /// Claims in hand.
    pub claims: usize,
    /// Live leases.
    pub runs: usize,
    /// Wallets with a live lease.
    pub leases: usize,
    /// Proofs being checked.
    pub examined: usize,
    /// Jobs whose input is being fetched.
    pub awaited_inputs: usize,
    /// Pending jobs.
    pub queue: usize,
    /// Pending jobs, by when they expire.
    pub expiries: usize,
    /// Pending jobs that the next listing names.
    pub to_list: usize,
    /// Everything else that is due at a time.
    pub timers: usize,
    /// Audits that wait for an auditor's word.
    pub seats: usize,
}

#[derive(Debug, Default)]
pub(super) struct Live {
    pub now: Timestamp,
    /// When this process took over.
    pub started_at: Timestamp,
    pub miners: BTreeMap<Address, LiveMiner>,
    /// By job and by rank in the race as the roster has it, whoever is live.
    pub claims: BTreeMap<JobId, BTreeMap<Rank, Signed>>,
    pub runs: BTreeMap<JobId, Run>,
    pub examined: BTreeMap<JobId, Examined>,
    pub awaited_inputs: BTreeMap<JobId, Verified>,
    pub to_list: BTreeSet<JobId>,
    /// Free weights by class of each model's latest listing.
    pub free: BTreeMap<u32, (u64, u64)>,
    /// Jobs that were refused, and why.
    pub refused: BTreeMap<JobId, (Reason, String)>,
    refused_order: VecDeque<JobId>,
    /// Live leases by wallet, a tally of the state.
    pub leases: BTreeMap<Address, u32>,
    /// Pending jobs by model and the record that listed them.
    pub queue: BTreeMap<(u32, u64), JobId>,
    /// When pending jobs expire, with their keys in the queue.
    expiries: BTreeSet<(Timestamp, (u32, u64))>,
    timers: BTreeSet<(Timestamp, Timer)>,
    claim_times: VecDeque<Millis>,
    pub pending: u64,
    pub leased: u64,
    /// Root of the last tree that was published.
    pub tree: Option<cid::Cid>,
    /// What auditors are to speak of.
    pub seats: BTreeMap<Address, VecDeque<LeafAt>>,
}

impl Live {
    /// What follows from the durable state alone.
    pub fn of(state: &State) -> Self {
        let mut live = Self::default();
        for (id, entry) in &state.jobs {
            match &entry.stage {
                Stage::Pending => live.enqueue(*id, entry),
                Stage::Leased(granted) => live.leased_to(*id, granted.wallet),
                Stage::Accepted(_) | Stage::Expired | Stage::Cancelled | Stage::Unrunnable => {}
            }
        }
        live.seat(state);
        live
    }

    /// What auditors are to speak of now.
    pub fn seat(&mut self, state: &State) {
        self.seats.clear();
        for (auditor, at) in state.live_seats() {
            self.seat_auditor(auditor, at);
        }
    }

    /// An auditor is to speak of an acceptance.
    pub fn seat_auditor(&mut self, auditor: Address, at: LeafAt) {
        self.seats.entry(auditor).or_default().push_back(at);
    }

    pub fn holdings(&self) -> Holdings {
        Holdings {
            miners: self.miners.len(),
            claims: self.claims.values().map(BTreeMap::len).sum(),
            runs: self.runs.len(),
            leases: self.leases.len(),
            examined: self.examined.len(),
            awaited_inputs: self.awaited_inputs.len(),
            queue: self.queue.len(),
            expiries: self.expiries.len(),
            to_list: self.to_list.len(),
            timers: self.timers.len(),
            seats: self.seats.values().map(VecDeque::len).sum(),
        }
    }

    pub fn enqueue(&mut self, id: JobId, entry: &JobEntry) {
        self.queue.insert(entry.place(), id);
        self.expiries.insert((entry.not_after, entry.place()));
        self.pending += 1;
    }

    pub fn dequeue(&mut self, id: &JobId, entry: &JobEntry) {
        if self.queue.remove(&entry.place()).is_some() {
            self.expiries.remove(&(entry.not_after, entry.place()));
            self.pending -= 1;
            if planted::is(Bug::ClockExpiresLease) {
                self.set(entry.not_after, Timer::Expiry(*id));
            }
        }
        self.claims.remove(id);
        self.to_list.remove(id);
    }

    pub fn leased_to(&mut self, id: JobId, wallet: Address) {
        *self.leases.entry(wallet).or_default() += 1;
        self.runs.insert(id, Run::default());
        self.leased += 1;
    }

    pub fn lease_over(&mut self, id: &JobId, wallet: &Address) {
        if let Some(count) = self.leases.get_mut(wallet) {
            *count -= 1;
            if *count == 0 {
                self.leases.remove(wallet);
            }
        }
        if let Some(run) = self.runs.remove(id) {
            self.timers.remove(&(run.deadline, Timer::Deadline(*id)));
        }
        self.leased -= 1;
    }

    /// Moves a live lease's deadline.
    pub fn set_deadline(&mut self, id: JobId, at: Timestamp) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let old = std::mem::replace(&mut run.deadline, at);
        self.timers.remove(&(old, Timer::Deadline(id)));
        self.set(at, Timer::Deadline(id));
    }

    pub fn begin_examination(&mut self, job: JobId, examined: Examined) {
        self.set(examined.until, Timer::Examination(job));
        self.examined.insert(job, examined);
    }

    pub fn end_examination(&mut self, job: &JobId) -> Option<Examined> {
        let examined = self.examined.remove(job)?;
        self.timers.remove(&(examined.until, Timer::Examination(*job)));
        Some(examined)
    }

    pub fn is_examined(&self, job: &JobId) -> bool {
        self.examined.contains_key(job)
    }

    /// Whether the clock of the job's lease stands still.
    pub fn is_suspended(&self, job: &JobId) -> bool {
        self.examined.get(job).is_some_and(|examined| examined.suspends)
    }

    /// How many pending jobs of its model are before this pending one.
    pub fn ahead(&self, entry: &JobEntry) -> u64 {
        self.queue.range((entry.model, 0)..entry.place()).take(10_000).count() as u64
    }

    pub fn heard(&mut self, wallet: Address, miner: LiveMiner, patience: Millis) {
        if let Some(before) = self.miners.get(&wallet) {
            self.timers.remove(&(before.seen_at + patience, Timer::Offline(wallet)));
        }
        self.set(miner.seen_at + patience, Timer::Offline(wallet));
        self.miners.insert(wallet, miner);
    }

    pub fn set(&mut self, at: Timestamp, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub fn next_timer(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let expiry = self.expiries.first().map(|(at, _)| *at);
        timer.into_iter().chain(expiry).min()
    }

    pub fn pop_due(&mut self, now: Timestamp) -> Option<Timer> {
        let due = self.next_timer().filter(|at| *at <= now)?;
        if self.timers.first().is_some_and(|(at, _)| *at == due) {
            return self.timers.pop_first().map(|(_, timer)| timer);
        }
        let (_, place) = self.expiries.pop_first()?;
        Some(Timer::Expiry(self.queue[&place]))
    }

    pub fn note_refused(&mut self, id: JobId, reason: Reason, detail: String) {
        if self.refused.insert(id, (reason, detail)).is_none() {
            self.refused_order.push_back(id);
        }
        if self.refused_order.len() > MAX_REFUSED_JOBS
            && let Some(oldest) = self.refused_order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }

    pub fn note_claim_time(&mut self, span: Millis) {
        if self.claim_times.len() == MAX_CLAIM_TIMES {
            self.claim_times.pop_front();
        }
        self.claim_times.push_back(span);
    }

    /// The p99 of the listing-to-claim times noted.
    pub fn claim_p99(&self) -> Millis {
        let mut times: Vec<Millis> = self.claim_times.iter().copied().collect();
        times.sort_unstable();
        times.get((times.len() * 99 / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// What a proof in hand says, decoded again from its bytes.
pub(super) fn proof_of(signed: &Signed) -> Proof {
    match crate::statement::Statement::reread(&signed.payload).map(|statement| statement.body) {
        Ok(crate::statement::Body::Proof(proof)) => proof,
        _ => panic!("a proof in hand was verified"),
    }
}
