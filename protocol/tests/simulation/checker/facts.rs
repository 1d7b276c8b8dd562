//! What the operator has heard in this life: what it may know beyond the rows.

use super::Book;
use super::jobs::{JobFacts, LeaseFacts};
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::pool::{Examination, ExamineFault};
use swarm_protocol::statement::{Body, Heartbeat, ReleaseCause, Verified};
use swarm_protocol::{Millis, Posted, Timestamp};

#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The latest time that the machine was told.
    pub(crate) now: Timestamp,
    pub(crate) started: Timestamp,
    /// The first row of this life.
    first_row: u64,
    beats: BTreeMap<Address, (Timestamp, Heartbeat)>,
    pub(crate) claims: BTreeMap<(JobId, u32), Vec<HeardClaim>>,
    exams: BTreeMap<JobId, Exam>,
    examined: BTreeSet<Digest>,
    verdicts: BTreeMap<Link, Result<u64, ExamineFault>>,
    progress: BTreeMap<Digest, (u64, Timestamp)>,
    releases: BTreeSet<(Digest, Address, bool)>,
}

#[derive(Debug)]
pub(crate) struct HeardClaim {
    pub(crate) wallet: Address,
    pub(crate) at: Timestamp,
    /// The window posted then.
    pub(crate) window: Millis,
    /// Nobody could doubt, then and ever since, that it was eligible: a window that closes spends what is not.
    pub(crate) sure: bool,
}

#[derive(Debug)]
struct Exam {
    proof: Link,
    lease: Digest,
    at: Timestamp,
    /// It is the lease's first, and stops its clock.
    suspends: bool,
}

impl Facts {
    pub(crate) fn started(&mut self, now: Timestamp, first_row: u64) {
        (self.now, self.started, self.first_row) = (now, now, first_row);
    }

    /// The machine is told the time; to it, time never goes back.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Looks again whose claims are beyond doubt.
    pub(crate) fn review(&mut self, book: &Book) {
        let mut claims = std::mem::take(&mut self.claims);
        claims.retain(|(job, _), _| book.jobs.get(job).is_some_and(|job| !job.stage.is_terminal()));
        for ((job, _), heard) in &mut claims {
            for claim in heard.iter_mut().filter(|claim| claim.sure) {
                claim.sure = self.surely_eligible(&claim.wallet, &book.jobs[job], book);
            }
        }
        self.claims = claims;
    }

    /// The machine is about to hear this.
    pub(crate) fn heard(&mut self, verified: &Verified, book: &Book) {
        let (now, by) = (self.now, verified.statement().header.by);
        match &verified.statement().body {
            Body::Heartbeat(heartbeat) => {
                let order = |h: &Heartbeat| (h.boot_at, h.counter);
                if self.beats.get(&by).is_none_or(|(_, known)| order(known) < order(heartbeat)) {
                    self.beats.insert(by, (now, heartbeat.clone()));
                }
            }
            Body::Claim(claim) => {
                let Some(job) = book.jobs.get(&claim.job) else { return };
                let open = matches!(job.stage, super::Stage::Pending)
                    && job.attempts.len() == claim.attempt as usize;
                if open {
                    let sure = self.surely_eligible(&by, job, book);
                    let heard = HeardClaim { wallet: by, at: now, window: book.posted.window, sure };
                    self.claims.entry((claim.job, claim.attempt)).or_default().push(heard);
                }
            }
            Body::Progress(progress) => {
                let known = self.progress.get(&progress.lease).map_or(0, |(units, _)| *units);
                let holder = book.jobs.get(&progress.job).and_then(JobFacts::live_lease);
                let holds = holder.is_some_and(|live| live.id == progress.lease && live.wallet == by);
                if holds && progress.units > known {
                    self.progress.insert(progress.lease, (progress.units, now));
                }
            }
            Body::Release(release) => {
                let engine = release.cause == ReleaseCause::EngineFailure;
                self.releases.insert((release.lease, by, engine));
            }
            _ => {}
        }
    }

    /// The machine asks for a proof to be examined.
    pub(crate) fn examining(&mut self, asked: &Examination) {
        let (proof, lease, at) = (asked.proof_id, asked.proof.lease, self.now);
        let suspends = self.examined.insert(lease);
        self.exams.insert(asked.id, Exam { proof, lease, at, suspends });
    }

    /// The machine is about to hear a verdict; if it comes in time, this is the lease that it is about.
    pub(crate) fn examined(
        &mut self,
        job: &JobId,
        proof: Link,
        outcome: &Result<u64, ExamineFault>,
        book: &Book,
    ) -> Option<Digest> {
        let exam = self.exams.get(job).filter(|exam| exam.proof == proof)?;
        let in_time = (self.now < exam.at + book.posted.fetch).then_some(exam.lease);
        self.exams.remove(job);
        self.verdicts.insert(proof, outcome.clone());
        in_time
    }

    pub(crate) fn verdict(&self, proof: &Link) -> Option<&Result<u64, ExamineFault>> {
        self.verdicts.get(proof)
    }

    /// A bad verdict on a proof under this lease was heard.
    pub(crate) fn released(&self, lease: Digest, by: Address, engine: bool) -> bool {
        self.releases.contains(&(lease, by, engine))
    }

    /// Before this, no lack of progress ends the lease.
    pub(crate) fn patience(&self, lease: &LeaseFacts, posted: &Posted) -> Timestamp {
        let first = posted.first_progress.min(posted.progress);
        match self.progress.get(&lease.id) {
            Some((_, at)) => *at + posted.progress,
            None if lease.seq < self.first_row => self.started + first.min(posted.fetch),
            None => lease.at + first,
        }
    }

    pub(crate) fn refused_any(&self) -> bool {
        self.verdicts.values().any(|verdict| matches!(verdict, Err(ExamineFault::Unacceptable(_))))
    }

    /// A proof is being examined, and until its verdict the lease's clock stands still.
    pub(crate) fn is_suspended(&self, job: &JobId, lease: &Digest, book: &Book) -> bool {
        self.exams.get(job).is_some_and(|exam| {
            exam.lease == *lease && exam.suspends && self.now < exam.at + book.posted.fetch
        })
    }

    /// When the proof came that stopped the lease's clock, if it is still being examined.
    pub(crate) fn suspended_at(&self, job: &JobId, lease: &Digest) -> Option<Timestamp> {
        let exam = self.exams.get(job).filter(|exam| exam.lease == *lease && exam.suspends);
        exam.map(|exam| exam.at)
    }

    /// Wallets that said a heartbeat in this life.
    pub(crate) fn wallets(&self) -> impl Iterator<Item = &Address> {
        self.beats.keys()
    }

    /// By everything that can be known, this wallet could lease this job now.
    pub(crate) fn surely_eligible(&self, wallet: &Address, job: &JobFacts, book: &Book) -> bool {
        let Some((at, beat)) = self.beats.get(wallet) else { return false };
        let offers = beat
            .models
            .iter()
            .any(|offer| offer.model == job.body.model && offer.assurances.contains(&job.body.assurance));
        self.now < *at + book.posted.heartbeat.times(2)
            && !beat.draining
            && offers
            && (job.body.vram_mb == 0 || beat.vram_mb >= job.body.vram_mb)
            && book.live_leases(wallet) == 0
            && book.wallets.get(wallet).is_none_or(|known| known.last_loss_at.is_none())
            && !job.barred().any(|(barred, _)| barred == *wallet)
    }
}
