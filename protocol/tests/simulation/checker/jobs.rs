use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_protocol::Timestamp;
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::statement::{EndCause, Job, Nonce, Proof, Signed};

/// A job as the rows tell it, and the row of each thing told.
#[derive(Debug)]
pub(crate) struct JobFacts {
    pub(crate) client: Address,
    pub(crate) nonce: Nonce,
    pub(crate) body: Job,
    pub(crate) seq: u64,
    pub(crate) stage: Stage,
    pub(crate) attempts: Vec<Attempt>,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) seed: Digest,
    pub(crate) epoch: u64,
    pub(crate) listed_at: Timestamp,
    pub(crate) seq: u64,
    pub(crate) lease: Option<LeaseFacts>,
}

#[derive(Debug)]
pub(crate) struct LeaseFacts {
    pub(crate) id: Digest,
    pub(crate) wallet: Address,
    pub(crate) at: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) window: u32,
    pub(crate) named: Vec<Link>,
    pub(crate) seq: u64,
    pub(crate) ended: Option<(EndCause, u64)>,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Pending,
    Leased,
    Accepted(Box<Accepted>),
    Expired(u64),
    Cancelled(u64),
    Unrunnable(u64),
}

#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) index: u64,
    pub(crate) leaf: Digest,
    pub(crate) proof: Link,
    pub(crate) signed: Signed,
    pub(crate) body: Proof,
    pub(crate) wallet: Address,
    pub(crate) units: u64,
    /// For those paid by share: the rate, if there was one.
    pub(crate) rate: Option<Option<u64>>,
}

impl super::book::Book {
    /// The lease and the proof by which a job was accepted.
    pub(crate) fn accepted_proof(&self, job: &JobId) -> Option<(Digest, Signed)> {
        match &self.jobs.get(job)?.stage {
            Stage::Accepted(accepted) => Some((accepted.body.lease, accepted.signed.clone())),
            _ => None,
        }
    }
}

impl Stage {
    pub(crate) fn is_terminal(&self) -> bool {
        !matches!(self, Stage::Pending | Stage::Leased)
    }
}

impl JobFacts {
    pub(crate) fn latest(&self) -> &Attempt {
        self.attempts.last().expect("an admitted job is listed")
    }

    pub(crate) fn live_lease(&self) -> Option<&LeaseFacts> {
        match self.stage {
            Stage::Leased => self.latest().lease.as_ref(),
            _ => None,
        }
    }

    /// The lease that a proof may name: the live one, or the latest if time ended it and nobody holds the job.
    pub(crate) fn provable(&self) -> Option<&LeaseFacts> {
        match self.stage {
            Stage::Leased => self.live_lease(),
            Stage::Pending => {
                let last = self.attempts.iter().rev().nth(1).and_then(|attempt| attempt.lease.as_ref());
                last.filter(|last| last.ended.is_some_and(|(cause, _)| by_time(cause)))
            }
            _ => None,
        }
    }

    pub(crate) fn leases(&self) -> impl Iterator<Item = &LeaseFacts> {
        self.attempts.iter().filter_map(|attempt| attempt.lease.as_ref())
    }

    /// Whoever held it and did not finish.
    pub(crate) fn barred(&self) -> impl Iterator<Item = (Address, EndCause)> {
        self.leases().filter_map(|lease| lease.ended.map(|(cause, _)| (lease.wallet, cause)))
    }

    pub(crate) fn last_valid_at(&self, signed_at: Timestamp) -> Timestamp {
        self.body.not_after.min(signed_at + swarm_protocol::statement::MAX_JOB_LIFE)
    }
}

/// Whether only time ended a lease.
pub(crate) fn by_time(cause: EndCause) -> bool {
    matches!(cause, EndCause::NoProgress | EndCause::TimedOut)
}

/// What an end costs, in half losses.
pub(crate) fn halves(cause: EndCause) -> u32 {
    match cause {
        EndCause::Released => 0,
        EndCause::ReleasedLate | EndCause::EngineFailure => 1,
        EndCause::NoProgress | EndCause::TimedOut | EndCause::BadProof => 2,
    }
}
