//! What must hold, checked against a model of its own after every step. It reads rows and statements with the
//! protocol's codecs and shares no rule with the machines.

mod audits;
mod book;
mod epochs;
mod facts;
mod jobs;
mod leases;
mod pps;
mod speech;

use crate::mint::Mint;
pub(crate) use audits::Said;
pub(crate) use book::Book;
pub(crate) use facts::Facts;
use jobs::Stage;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::money::Account;
use swarm_protocol::pool::{self, ExamineFault, State};
use swarm_protocol::statement::{Kind, Nonce};
use swarm_protocol::{Millis, Posted, Timestamp};

pub(crate) type Law = Result<(), String>;

/// Fails with a message unless the condition holds.
macro_rules! must {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}
pub(crate) use must;

/// What an operator is told, and what nobody else knows.
#[derive(Debug, Clone)]
pub(crate) struct Truth {
    pub(crate) pool: PoolId,
    pub(crate) operator: Address,
    pub(crate) secret: [u8; 32],
    pub(crate) posted: Posted,
    /// What the operator wants to have put into the reserve.
    pub(crate) reserve: u64,
}

/// What a verdict on a proof demands.
#[derive(Debug)]
pub(crate) enum Due {
    Accepted(JobId),
    Ended(JobId),
}

#[derive(Debug)]
pub(crate) struct Checker {
    pub(crate) truth: Truth,
    pub(crate) book: Book,
    pub(crate) facts: Facts,
    /// Rows that are durable.
    durable: u64,
    /// Blocks the operator has stored.
    blocks: BTreeSet<Link>,
    /// The one header ever named for an epoch.
    sealed: BTreeMap<u64, Link>,
    /// What the operator said under each nonce.
    spoken: BTreeMap<(Kind, Nonce), Link>,
}

impl Checker {
    pub(crate) fn new(truth: Truth) -> Self {
        Self {
            book: Book::new(truth.clone()),
            truth,
            facts: Facts::default(),
            durable: 0,
            blocks: BTreeSet::new(),
            sealed: BTreeMap::new(),
            spoken: BTreeMap::new(),
        }
    }

    /// The machine asks for this row.
    pub(crate) fn produced(&mut self, row: &[u8], mint: &Mint) -> Law {
        self.book.apply(row, mint, Some(&self.facts))
    }

    /// So many rows are durable, and this is the machine that wrote them.
    pub(crate) fn appended(&mut self, rows: u64, live: &State) -> Law {
        self.durable = rows;
        must!(self.book.seq == rows, "{rows} rows are durable, {} were asked for", self.book.seq);
        self.matches(live)
    }

    /// The operator is gone; what it did not append never was.
    pub(crate) fn crashed(&mut self, rows: &[Vec<u8>], mint: &Mint) -> Law {
        self.facts = Facts::default();
        self.book = Book::new(self.truth.clone());
        self.durable = rows.len() as u64;
        rows.iter().try_for_each(|row| self.book.apply(row, mint, None))
    }

    pub(crate) fn stored(&mut self, block: &[u8]) {
        self.blocks.insert(Link::of(block));
    }

    /// The machine's state says of money and jobs what the rows say.
    fn matches(&self, live: &State) -> Law {
        let book = &self.book;
        let theirs: BTreeMap<Account, i128> = live.accounts().iter().map(|(a, b)| (*a, b)).collect();
        must!(theirs == book.balances, "balances differ: {theirs:?}, by the rows {:?}", book.balances);
        must!(live.next_seq() == book.seq && live.head() == book.head, "the state is not that of the rows");
        for (id, entry) in live.jobs() {
            let Some(job) = book.jobs.get(id) else { return Err(format!("job {id} is from nowhere")) };
            let same = match (&entry.stage, &job.stage) {
                (pool::Stage::Pending, Stage::Pending)
                | (pool::Stage::Expired, Stage::Expired(_))
                | (pool::Stage::Cancelled, Stage::Cancelled(_))
                | (pool::Stage::Unrunnable, Stage::Unrunnable(_)) => true,
                (pool::Stage::Leased(granted), Stage::Leased) => {
                    job.live_lease().is_some_and(|live| live.id == granted.lease)
                }
                (pool::Stage::Accepted(a), Stage::Accepted(b)) => (a.epoch, a.index) == (b.epoch, b.index),
                _ => false,
            };
            must!(same, "job {id} is {:?}, by the rows {:?}", entry.stage, job.stage);
        }
        for (id, job) in book.jobs.iter().filter(|(_, job)| !job.stage.is_terminal()) {
            must!(live.job(id).is_some(), "open job {id} of {} is lost", job.client);
        }
        Ok(())
    }

    /// No lease outlives its time, whatever its holder does.
    pub(crate) fn lease_times(&self) -> Law {
        let (now, posted) = (self.facts.now, &self.book.posted);
        for (id, job) in &self.book.jobs {
            let Some(lease) = job.live_lease() else { continue };
            let fresh = self.facts.started + posted.first_progress.max(posted.fetch);
            let stopped = self.facts.suspended_at(id, &lease.id).unwrap_or_default();
            let end = lease.until.max(fresh).max(stopped) + posted.fetch + Millis(2_000);
            must!(now <= end, "the lease on {id} until {:?} still lives at {now:?}", lease.until);
        }
        Ok(())
    }

    /// The machine is told the time.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.facts.tick(now);
        self.facts.review(&self.book);
    }

    /// The machine hears a verdict on a proof; what must follow at once, if anything.
    pub(crate) fn verdict(
        &mut self,
        job: &JobId,
        proof: Link,
        outcome: &Result<u64, ExamineFault>,
    ) -> Option<Due> {
        let lease = self.facts.examined(job, proof, outcome, &self.book)?;
        let known = self.book.jobs.get(job)?;
        known.provable().filter(|provable| provable.id == lease)?;
        match outcome {
            Ok(_) => Some(Due::Accepted(*job)),
            Err(ExamineFault::Unacceptable(_)) if known.live_lease().is_some() => Some(Due::Ended(*job)),
            Err(_) => None,
        }
    }

    /// What a verdict demanded was done.
    pub(crate) fn is_done(&self, due: &Due) -> Law {
        let stage = |job| self.book.jobs.get(job).map(|job| &job.stage);
        let done = match due {
            Due::Accepted(job) => matches!(stage(job), Some(Stage::Accepted(_))),
            Due::Ended(job) => !matches!(stage(job), Some(Stage::Leased)),
        };
        must!(done, "a verdict demands {due:?}, and nothing happens");
        Ok(())
    }

    /// Jobs that are neither answered nor refunded.
    pub(crate) fn open(&self) -> usize {
        self.book.jobs.values().filter(|job| !job.stage.is_terminal()).count()
    }
}
