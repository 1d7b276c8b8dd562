//! Everyone's view of a pool: what statements seen so far say of jobs and miners, whatever their order.
//!
//! A view is a state-based CRDT. Of jobs it holds facts, each with the latest time at which the operator stated it;
//! facts older than the `floor` are dropped, and the floor only rises: when it is told to, and when there are more than
//! [`MAX_FACTS`] facts. Of miners it holds the last heartbeat of each wallet, of epochs the headers that the operator
//! signed. Two views that saw the same statements,
//! in any order and through any merges, are equal.

use crate::codec::{JobId, Link, encode};
use crate::evidence::end_of;
use crate::statement::{Body, Heartbeat, Reason, Verified};
use crate::{Millis, Timestamp};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};

/// Most facts about jobs that a view holds; the oldest go first.
pub const MAX_FACTS: usize = 200_000;
/// Most miners that a view holds; those that started longest ago go first.
pub const MAX_MINERS: usize = 16_384;

/// Most sealed epochs that a view holds; those with the lowest numbers go first.
pub const MAX_EPOCHS: usize = 1024;
/// Headers that a view holds of one epoch: two are evidence, more are no better.
const MAX_HEADERS: usize = 2;

/// Where the operator says that a job is. States are ordered: pending(1) < leased(1) < pending(2) < … < the end, and of
/// two ends the one with the lower CID is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for a miner.
    Pending {
        /// The attempt it is listed for, from 1.
        attempt: u32,
    },
    /// A miner has it.
    Leased {
        /// The attempt.
        attempt: u32,
        /// Who holds the lease.
        wallet: Address,
    },
    /// It is done and paid.
    Accepted {
        /// The operator's `Receipt`.
        receipt: Link,
    },
    /// It ended without acceptance and was refunded.
    Refunded {
        /// The operator's `Refusal`.
        refusal: Link,
        /// Whether it expired, was cancelled or could not be run.
        reason: Reason,
    },
}

const LEAST: JobState = JobState::Pending { attempt: 0 };
const GREATEST: JobState = JobState::Accepted { receipt: Link([0; 32]) };

impl JobState {
    /// The statement that ended the job.
    pub fn end(&self) -> Option<Link> {
        match self {
            JobState::Pending { .. } | JobState::Leased { .. } => None,
            JobState::Accepted { receipt: id } | JobState::Refunded { refusal: id, .. } => Some(*id),
        }
    }

    fn rank(&self) -> (bool, u32, bool, Address, Reverse<Option<Link>>, bool) {
        let (attempt, holder) = match self {
            JobState::Pending { attempt } => (*attempt, None),
            JobState::Leased { attempt, wallet } => (*attempt, Some(*wallet)),
            JobState::Accepted { .. } | JobState::Refunded { .. } => (0, None),
        };
        let end = self.end();
        let accepted = matches!(self, JobState::Accepted { .. });
        (end.is_some(), attempt, holder.is_some(), holder.unwrap_or_default(), Reverse(end), accepted)
    }
}

impl Ord for JobState {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for JobState {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The last heartbeat of a miner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSeen {
    /// When it was signed.
    pub at: Timestamp,
    /// What it says.
    pub heartbeat: Heartbeat,
    id: Link,
}

impl LastSeen {
    fn stamp(&self) -> (Timestamp, u64, Link) {
        (self.heartbeat.boot_at, self.heartbeat.counter, self.id)
    }
}

/// What somebody has seen of a pool.
#[derive(Debug, Clone)]
pub struct View {
    floor: Timestamp,
    facts: BTreeMap<(JobId, JobState), Timestamp>,
    by_age: BTreeSet<(Timestamp, JobId, JobState)>,
    miners: BTreeMap<Address, LastSeen>,
    sealed: BTreeMap<u64, BTreeSet<Link>>,
    max_facts: usize,
    max_miners: usize,
}

impl Default for View {
    fn default() -> Self {
        Self::bounded(MAX_FACTS, MAX_MINERS)
    }
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.floor == other.floor
            && self.facts == other.facts
            && self.miners == other.miners
            && self.sealed == other.sealed
    }
}

impl Eq for View {}

impl View {
    /// An empty view of at most so many facts and miners. Views merge lawfully only with others of the same limits.
    pub fn bounded(max_facts: usize, max_miners: usize) -> Self {
        Self {
            floor: Timestamp::default(),
            facts: BTreeMap::new(),
            by_age: BTreeSet::new(),
            miners: BTreeMap::new(),
            sealed: BTreeMap::new(),
            max_facts,
            max_miners,
        }
    }

    /// Takes what a statement says of jobs, miners and epochs; many kinds say nothing of them.
    pub fn apply(&mut self, verified: &Verified) {
        let at = verified.statement().header.at;
        let mut state = |job: JobId, state| self.learn(job, state, at);
        match &verified.statement().body {
            Body::Admitted(admitted) => state(admitted.job, JobState::Pending { attempt: 1 }),
            Body::Listing(listing) => listing
                .entries
                .iter()
                .for_each(|entry| state(entry.job, JobState::Pending { attempt: entry.attempt })),
            Body::Lease(lease) => {
                state(lease.job, JobState::Leased { attempt: lease.term, wallet: lease.wallet })
            }
            Body::Receipt(receipt) => state(receipt.job, JobState::Accepted { receipt: verified.id() }),
            Body::Refusal(refusal) if end_of(verified.statement()).is_some() => {
                state(refusal.job, JobState::Refunded { refusal: verified.id(), reason: refusal.reason })
            }
            Body::Heartbeat(heartbeat) => {
                let seen = LastSeen { at, heartbeat: heartbeat.clone(), id: verified.id() };
                self.see(verified.statement().header.by, seen);
            }
            Body::EpochSealed(sealed) => self.seal(sealed.epoch, sealed.header),
            Body::Refusal(_)
            | Body::Job(_)
            | Body::Cancel(_)
            | Body::Claim(_)
            | Body::Release(_)
            | Body::LeaseEnded(_)
            | Body::Progress(_)
            | Body::Proof(_)
            | Body::AuditPicked(_)
            | Body::Attestation(_)
            | Body::Challenge(_)
            | Body::Beacon(_)
            | Body::EpochOpened(_) => {}
        }
        self.keep_within_limits();
    }

    /// Joins another view into this one: the least view that contains both.
    pub fn merge(&mut self, other: &View) {
        self.raise_floor(other.floor);
        for ((job, state), at) in &other.facts {
            self.learn(*job, *state, *at);
        }
        for (wallet, seen) in &other.miners {
            self.see(*wallet, seen.clone());
        }
        for (epoch, headers) in &other.sealed {
            headers.iter().for_each(|header| self.seal(*epoch, *header));
        }
        self.keep_within_limits();
    }

    /// Forgets what was last stated before `floor`, now and from now on.
    pub fn raise_floor(&mut self, floor: Timestamp) {
        self.floor = self.floor.max(floor);
        while let Some(oldest) = self.by_age.first().copied().filter(|(at, ..)| *at < self.floor) {
            self.by_age.remove(&oldest);
            self.facts.remove(&(oldest.1, oldest.2));
        }
    }

    /// Facts last stated before this are forgotten.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// Where `job` is.
    pub fn job(&self, job: &JobId) -> Option<JobState> {
        self.facts.range((*job, LEAST)..=(*job, GREATEST)).next_back().map(|((_, state), _)| *state)
    }

    /// When the operator last stated that `job` is in `state`.
    pub fn stated_at(&self, job: &JobId, state: &JobState) -> Option<Timestamp> {
        self.facts.get(&(*job, *state)).copied()
    }

    /// Every job and where it is.
    pub fn jobs(&self) -> impl Iterator<Item = (JobId, JobState)> {
        let mut facts = self.facts.keys().peekable();
        std::iter::from_fn(move || {
            let mut last = *facts.next()?;
            while let Some(next) = facts.next_if(|(job, _)| *job == last.0) {
                last = *next;
            }
            Some(last)
        })
    }

    /// Open jobs of which nothing was stated since `since`: whoever asked for all open jobs then does not know their end.
    pub fn unstated(&self, since: Timestamp) -> impl Iterator<Item = JobId> {
        let last_stated =
            |job: JobId| self.facts.range((job, LEAST)..=(job, GREATEST)).map(|(_, at)| *at).max();
        let open = self.jobs().filter(|(_, state)| state.end().is_none());
        open.map(|(job, _)| job).filter(move |job| last_stated(*job) < Some(since))
    }

    /// The sealed epochs and the header of each; of two, the one with the lower CID.
    pub fn sealed(&self) -> impl DoubleEndedIterator<Item = (u64, Link)> {
        self.sealed.iter().filter_map(|(epoch, headers)| Some((*epoch, *headers.first()?)))
    }

    /// Epochs that the operator sealed twice: evidence against it.
    pub fn sealed_twice(&self) -> impl Iterator<Item = (u64, [Link; 2])> {
        self.sealed.iter().filter_map(|(epoch, headers)| {
            let mut headers = headers.iter().copied();
            Some((*epoch, [headers.next()?, headers.next()?]))
        })
    }

    /// Jobs that the operator ended twice: evidence against it, the two statements with the lowest CIDs each.
    pub fn evidence(&self) -> impl Iterator<Item = (JobId, [Link; 2])> {
        self.jobs().filter_map(|(job, state)| {
            let least = state.end()?;
            let ends = self.facts.range((job, LEAST)..(job, state));
            let next = ends.rev().find_map(|((_, state), _)| state.end())?;
            Some((job, [least, next]))
        })
    }

    /// The miners and when each was last heard of.
    pub fn miners(&self) -> &BTreeMap<Address, LastSeen> {
        &self.miners
    }

    /// How many miners were heard of within `span` before `now`.
    pub fn live_miners(&self, now: Timestamp, span: Millis) -> usize {
        self.miners.values().filter(|seen| now.since(seen.at) <= span).count()
    }

    /// blake3 over the canonical encoding of all that the view holds: equal views have equal digests.
    pub fn digest(&self) -> Digest {
        let facts: Vec<_> = self.facts.iter().map(|((job, state), at)| (job, state, at)).collect();
        let miners: Vec<_> = self.miners.iter().map(|(wallet, seen)| (wallet, seen.id)).collect();
        let sealed: Vec<_> = self.sealed.iter().collect();
        blake3(&encode(&(self.floor, facts, miners, sealed)))
    }

    fn learn(&mut self, job: JobId, state: JobState, at: Timestamp) {
        if at < self.floor {
            return;
        }
        match self.facts.insert((job, state), at) {
            Some(before) if before >= at => _ = self.facts.insert((job, state), before),
            Some(before) => {
                self.by_age.remove(&(before, job, state));
                self.by_age.insert((at, job, state));
            }
            None => _ = self.by_age.insert((at, job, state)),
        }
    }

    fn see(&mut self, wallet: Address, seen: LastSeen) {
        let known = self.miners.get(&wallet);
        if known.is_none_or(|known| known.stamp() < seen.stamp()) {
            self.miners.insert(wallet, seen);
        }
    }

    fn seal(&mut self, epoch: u64, header: Link) {
        let headers = self.sealed.entry(epoch).or_default();
        headers.insert(header);
        if headers.len() > MAX_HEADERS {
            headers.pop_last();
        }
        if self.sealed.len() > MAX_EPOCHS {
            self.sealed.pop_first();
        }
    }

    fn keep_within_limits(&mut self) {
        while self.facts.len() > self.max_facts
            && let Some((oldest, ..)) = self.by_age.first().copied().filter(|(at, ..)| at.0 < u64::MAX)
        {
            self.raise_floor(oldest + Millis(1));
        }
        while self.miners.len() > self.max_miners
            && let Some((_, wallet)) = self.miners.iter().map(|(w, seen)| (seen.stamp(), *w)).min()
        {
            self.miners.remove(&wallet);
        }
    }
}
