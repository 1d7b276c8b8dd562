use super::AuditSecret;
use crate::altered::Altering;
use crate::audit::Misled;
use crate::codec::{JobId, Link};
use crate::finding::{AuditEnd, Finding};
use crate::money::MicroUsdc;
use crate::query::{Fate, Query};
use crate::race::Roster;
use crate::statement::{
    Assurance, AuditPicked, EndCause, Job, PayoutMode, PpsTerms, Reason, ReleaseCause, Signed, Statement,
    Topic, Verified,
};
use crate::{Millis, Timestamp};
use cid::Cid;
use std::sync::Arc;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;

/// Who a miner is and what it offers; fixed for the life of its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The pool it mines in.
    pub pool: PoolId,
    /// The wallet that signs and earns.
    pub wallet: Address,
    /// Jobs it runs at once while all its engines are up; 1 to [`crate::statement::MAX_SLOTS`].
    pub slots: u32,
    /// What it serves; at most [`crate::statement::MAX_MODELS`].
    pub models: Vec<ModelTerms>,
    /// How it wants to be paid.
    pub mode: PayoutMode,
    /// Its ENS name, if it claims one.
    pub ens: Option<String>,
    /// The device, for people.
    pub device: String,
    /// Device memory in MiB.
    pub vram_mb: u32,
    /// When the process started.
    pub boot_at: Timestamp,
    /// What the salts of its seals follow from.
    pub audit_secret: AuditSecret,
    /// Which of its proofs it alters on purpose, if it does.
    pub altering: Option<Altering>,
}

/// A model that the miner serves, and on which terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTerms {
    /// Its name.
    pub model: String,
    /// The assurances it can be served with.
    pub assurances: Vec<Assurance>,
    /// Jobs below this price are declined.
    pub min_price: MicroUsdc,
    /// Device memory that it takes, in MiB.
    pub vram_mb: u32,
}

/// What can happen to a miner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A statement came, by gossip or inside an answer to [`Query::Beacon`] or [`Query::Job`].
    Heard(Box<Verified>),
    /// The listings that answer [`Query::OpenJobs`].
    OpenJobs(Vec<Verified>),
    /// The answer to [`Query::Job`]; what it holds signed was [`Event::Heard`] just before.
    Fate {
        /// Which job.
        job: JobId,
        /// What became of it.
        fate: Fate,
    },
    /// The roster's block was fetched.
    RosterLearned {
        /// The epoch it was fetched for.
        epoch: u64,
        /// The roster.
        roster: Arc<Roster>,
    },
    /// What [`Effect::Prepare`] led to.
    JobReady {
        /// For which lease.
        lease: Digest,
        /// The job's content, or why there is none.
        content: Result<Box<Content>, String>,
    },
    /// The engine got on.
    EngineProgress {
        /// Under which lease.
        lease: Digest,
        /// Tokens (or the workload's own steps) so far.
        units: u64,
        /// Digest of the transcript so far.
        prefix: Digest,
    },
    /// The engine is through; what it made is stored and can be fetched.
    EngineDone {
        /// Under which lease.
        lease: Digest,
        /// What came out, or why nothing did.
        outcome: Result<Delivered, String>,
    },
    /// What [`Effect::Audit`] led to.
    Audited {
        /// The epoch that accepted the proof.
        epoch: u64,
        /// Its index among the epoch's acceptances.
        index: u64,
        /// What was found, or why nothing could be.
        outcome: Result<Looked, String>,
    },
    /// What runs this model has changed: an engine of it is gone, or is back. Jobs in hand end by [`Event::EngineDone`].
    Engines {
        /// The model's name.
        model: String,
        /// Jobs of it that can be run at once for now; 0 while nothing runs it, and never above [`Config::slots`].
        slots: u32,
    },
    /// The operator can be asked.
    Connected,
    /// The operator cannot be asked any more.
    Disconnected,
    /// Take no more jobs until [`Event::Resume`] for the same reason; the running ones go on.
    Pause(Pause),
    /// This reason is gone: take jobs again if there is no other.
    Resume(Pause),
    /// Take no more jobs, finish the running ones and then stop.
    Drain {
        /// How long the running jobs may take; then they are released.
        grace: Millis,
    },
}

/// A job's content, as the shell fetched it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The client's statement.
    pub job: Verified,
    /// The text behind a linked input; nothing for any other.
    pub linked: Option<String>,
}

/// What an engine made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The transcript's block.
    pub transcript: Link,
    /// Its length in bytes.
    pub transcript_bytes: u64,
    /// The output's raw block.
    pub output: Cid,
    /// Its length in bytes.
    pub output_bytes: u64,
    /// How far the costs that it names are from the model's, in 1/4096 bit in the mean; none if they are the model's.
    pub altered: Option<u32>,
}

/// What a miner asks of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Sign the statement and gossip it.
    Publish(Topic, Statement),
    /// Sign the statement and hand it to the operator; the answer does not matter.
    Hand(Statement),
    /// Ask the operator; a lost answer is asked for again.
    Ask(Query),
    /// Fetch the roster's block and answer with [`Event::RosterLearned`].
    FetchRoster {
        /// The epoch it holds for.
        epoch: u64,
        /// The block.
        roster: Link,
    },
    /// Fetch the job's snapshot and its input, and answer with [`Event::JobReady`].
    Prepare {
        /// For which lease.
        lease: Digest,
        /// Which job.
        job: JobId,
    },
    /// Run the job; answer with [`Event::EngineProgress`] and one [`Event::EngineDone`].
    Infer(Box<Run>),
    /// Stop fetching or running for this lease; nothing of it is wanted any more.
    Abort {
        /// Which.
        lease: Digest,
    },
    /// Look at somebody's proof with the model itself, and look up in the sealed records which was accepted; answer with
    /// one [`Event::Audited`].
    Audit(Box<AuditPicked>),
    /// Keep two statements that the operator cannot have meant both, for anybody to check.
    Evidence(Box<[Signed; 2]>),
    /// Tell whoever reads the log.
    Story(Story),
    /// The miner has drained; the process may end.
    Finished,
}

/// What a look brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// What is to be said of the content that the operator named, or why nothing is.
    pub finding: Result<Finding, String>,
    /// The lease under which the job was accepted, as the records of the epoch have it.
    pub lease: Digest,
    /// The proof by which it was.
    pub proof: Box<Verified>,
}

/// What an engine is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Under which lease.
    pub lease: Digest,
    /// The job's id.
    pub id: JobId,
    /// The job.
    pub job: Job,
    /// The text behind a linked input; nothing for any other.
    pub linked: Option<String>,
    /// `H(lease id, params.seed)`: the seed of the sampler.
    pub seed: Digest,
    /// When the lease ends, by this miner's clock.
    pub until: Timestamp,
    /// Whether its costs are to be altered ([`crate::altered`]).
    pub altered: bool,
}

/// What a reader of the miner's log wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for what they are")]
pub enum Story {
    /// A job that suits was announced.
    NewJob {
        job: JobId,
        attempt: u32,
        model: String,
        price: MicroUsdc,
    },
    /// The job is not for this miner.
    Declined {
        job: JobId,
        reason: Decline,
    },
    /// A claim went out, so long after the job was heard of.
    Claiming {
        job: JobId,
        class: u8,
        waited: Millis,
    },
    /// The lease is this miner's.
    Won {
        job: JobId,
        lease: Digest,
        term: u32,
    },
    /// The lease is somebody else's.
    Lost {
        job: JobId,
        to: Address,
    },
    /// The engine runs.
    Executing {
        job: JobId,
        lease: Digest,
    },
    /// The proof went out.
    ProofSubmitted {
        job: JobId,
        proof: Link,
    },
    /// The receipt came; the money becomes payable at the boundary `held_until`.
    Earned {
        job: JobId,
        amount: MicroUsdc,
        epoch: u64,
        held_until: u64,
    },
    Shared {
        job: JobId,
        units: u64,
        terms: PpsTerms,
        epoch: u64,
        held_until: u64,
    },
    /// The receipt came and names less than was due: keep it, it is evidence.
    Underpaid {
        job: JobId,
        due: MicroUsdc,
        paid: MicroUsdc,
    },
    /// The operator refused the proof.
    Refused {
        job: JobId,
        reason: Reason,
        detail: String,
    },
    /// The lease ended without acceptance.
    LeaseLost {
        job: JobId,
        cause: EndCause,
    },
    /// The lease was given back.
    Released {
        job: JobId,
        cause: ReleaseCause,
        why: String,
    },
    /// A proof of another miner was looked at.
    Audited {
        job: JobId,
        wallet: Address,
        finding: Finding,
    },
    /// It could not be, for now.
    NotAudited {
        job: JobId,
        why: String,
    },
    /// The operator named something else than was accepted; nothing is said of it.
    Misled {
        job: JobId,
        how: Misled,
    },
    /// The costs that the proof names are altered on purpose, by so many 4096ths of a bit in the mean.
    Altered {
        job: JobId,
        mean: u32,
    },
    /// What came of the audit of such a proof.
    AlteredAudited {
        job: JobId,
        end: AuditEnd,
    },
    /// Such a proof was called good, which this miner challenges.
    Challenge {
        job: JobId,
        how: Challenged,
    },
    /// No new jobs from here on; so many are still in hand.
    Draining {
        running: u32,
    },
    /// No new jobs for now; so many are still in hand.
    Paused {
        why: Pause,
        running: u32,
    },
    /// Jobs are taken again.
    Resumed,
}

/// How a challenge gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenged {
    /// There is none, for this reason.
    Not(String),
    /// It is sent.
    Asked,
    /// It is taken: this auditor looks.
    Looks(Address),
    /// The audit has ended again.
    Ended(AuditEnd),
}

/// Why a miner takes no jobs for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pause {
    /// Its owner said so.
    Owner,
    /// Its owner wants it to work at other hours only.
    Hours,
}

/// Why a job is not for this miner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Decline {
    #[error("model {0} is not served here")]
    Model(String),
    #[error("assurance {0:?} is not offered for this model")]
    Assurance(Assurance),
    #[error("{price} USDC is below the least price of {least} USDC")]
    Price { price: MicroUsdc, least: MicroUsdc },
    #[error("the job asks for {allowed} MiB of device memory: here are {here}, and the model takes {needed}")]
    Memory { allowed: u32, here: u32, needed: u32 },
    #[error("the engine of model {0} is being started again")]
    Engine(String),
    #[error("all slots are taken")]
    Busy,
    #[error("this miner held a lease on it before")]
    HeldBefore,
    #[error("the lease's id is not the one that follows from its fields")]
    FalseLease,
}
