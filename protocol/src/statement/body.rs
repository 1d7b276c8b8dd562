use super::wire::Kind;
use crate::codec::{self, JobId, Link};
use crate::finding::Finding;
use crate::money::MicroUsdc;
use crate::{Millis, Posted, Rejection, Timestamp};
use cid::Cid;
use serde::{Deserialize, Serialize};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// A client's wish: input, model, price and until when it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The workload.
    pub job_type: JobType,
    /// Name of the model.
    pub model: String,
    /// What the model is given.
    pub input: Input,
    /// How it is to sample.
    pub params: Params,
    /// What the client pays, all in.
    pub price: MicroUsdc,
    /// When the job expires unless it is leased; at most 24 h after it was signed.
    pub not_after: Timestamp,
    /// The longest run, in seconds.
    pub max_runtime_s: u32,
    /// Device memory the job may use, in MiB; 0 is any.
    pub vram_mb: u32,
    /// How checkable the answer must be.
    pub assurance: Assurance,
}

/// The workloads of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobType {
    /// Text by a language model.
    LlmGen,
    /// Embedding vectors.
    Embed,
    /// Images by Stable Diffusion.
    SdInfer,
    /// A matrix-product benchmark.
    TorchBench,
}

impl JobType {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlmGen => "llm_gen",
            Self::Embed => "embed",
            Self::SdInfer => "sd_infer",
            Self::TorchBench => "torch_bench",
        }
    }
}

/// What a model is given. Everything but `Sealed` is public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// Text in the statement itself.
    Text(String),
    /// Chat messages in the statement itself.
    Chat(Vec<Message>),
    /// Text elsewhere, UTF-8, of a declared length in bytes.
    Linked {
        /// One raw block, or the root of a UnixFS file.
        cid: Cid,
        /// The text's length.
        bytes: u64,
    },
    /// Encrypted input; refused by name until it is built.
    Sealed {
        /// The ciphertext.
        cid: Cid,
    },
}

/// One turn of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Sampling parameters; temperature and top-p in 1/10000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The most tokens to generate.
    pub max_tokens: u32,
    /// 0 is greedy, 10000 is the model's own distribution.
    pub temperature: u32,
    /// Share of probability that stays in play, 1 to 10000.
    pub top_p: u32,
    /// Varies the sampling within one lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Texts that end the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// How checkable an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assurance {
    /// Every token follows from the signed log-probabilities and the lease's seed.
    Seeded,
    /// Only the distance of the log-probabilities is checkable.
    Distance,
}

/// The client takes a pending job back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which.
    pub job: JobId,
}

/// The job is in the jobpool and its price is reserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Which.
    pub job: JobId,
    /// In which epoch.
    pub epoch: u64,
}

/// The operator will not do what a statement asks, or cannot do it any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The statement refused: a job, a cancel, a claim, a proof, an attestation or a challenge.
    pub subject: Link,
    /// The job it is about.
    pub job: JobId,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    pub detail: String,
}

/// Why the operator refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The client's free balance is below the price.
    NoFunds,
    /// The price is below the least price.
    PriceTooLow,
    /// `not_after` has passed, or lies more than 24 h after the signing.
    Expired,
    /// The client has too many open jobs.
    TooManyOpenJobs,
    /// The pool has no room for another job.
    PoolFull,
    /// The workload or variant is not built.
    Unsupported,
    /// The pool does not know the model.
    UnknownModel,
    /// The input could not be fetched, or is not what its CID names.
    InputUnavailable,
    /// The nonce was used for another job.
    NonceReused,
    /// The pool lacks money and admits nothing until it is made good.
    Shortfall,
    /// No such job.
    UnknownJob,
    /// The job is not pending.
    NotPending,
    /// The job belongs to somebody else.
    NotYours,
    /// The lease is not one of the job's that could still be proven.
    StaleLease,
    /// The proof's content could not be fetched.
    ContentUnavailable,
    /// The proof's content breaks the workload's acceptance rule.
    Unacceptable,
    /// The wallet cannot have this job: it lost or released it, cools down, or has no free slot.
    NotEligible,
    /// The job expired and was refunded.
    JobExpired,
    /// The job was cancelled and refunded.
    JobCancelled,
    /// No miner could run the job; it was refunded.
    JobUnrunnable,
    /// The proof cannot be audited now, or not by this wallet.
    NotAuditable,
}

/// Jobs open to claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// At most [`crate::statement::MAX_LISTING_ENTRIES`].
    pub entries: Vec<ListingEntry>,
}

/// One job open to claims, and all that the race for it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListingEntry {
    /// Which job.
    pub job: JobId,
    /// Which attempt at it, from 1.
    pub attempt: u32,
    /// Seed of this attempt's draw.
    pub seed: Digest,
    /// The epoch whose roster and weights hold.
    pub epoch: u64,
    /// Name of the model.
    pub model: String,
    /// The job's price.
    pub price: MicroUsdc,
    /// The assurance asked for.
    pub assurance: Assurance,
    /// The most memory the job may use on the device, in MiB; 0 is any.
    pub vram_mb: u32,
    /// When the listing was recorded.
    pub listed_at: Timestamp,
    /// Estimated live free weight of classes 1 and 2.
    pub free: (u64, u64),
}

/// A miner's wish to do a job; grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: u32,
}

/// The holder gives a lease back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which job.
    pub job: JobId,
    /// Which lease.
    pub lease: Digest,
    /// Why.
    pub cause: ReleaseCause,
}

/// Why a lease is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseCause {
    /// The miner is shutting down, or took one job too many.
    Withdrawn,
    /// The job's content could not be fetched.
    ContentUnavailable,
    /// The engine failed on it.
    EngineFailure,
}

/// The operator's time-bounded, exclusive right to one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The lease's id: `H(pool id, job, term, wallet, draw seed)`.
    pub lease: Digest,
    /// Which job.
    pub job: JobId,
    /// The attempt.
    pub term: u32,
    /// Who holds it.
    pub wallet: Address,
    /// The attempt's draw seed.
    pub seed: Digest,
    /// The window at whose close it was decided.
    pub window: u32,
    /// The best claims considered, best first; at most [`crate::statement::MAX_NAMED_CLAIMS`].
    pub claims: Vec<Link>,
    /// When it ends at the latest.
    pub until: Timestamp,
}

/// A lease is over without acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEnded {
    /// Which job.
    pub job: JobId,
    /// Which lease.
    pub lease: Digest,
    /// Why.
    pub cause: EndCause,
}

/// Why a lease ended without acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// No progress in time.
    NoProgress,
    /// The lease ran out without a proof.
    TimedOut,
    /// Its proof was refused.
    BadProof,
    /// Given back at once, for nothing.
    Released,
    /// Given back late.
    ReleasedLate,
    /// The engine failed after progress.
    EngineFailure,
}

/// The holder is still at work. Travels directly, never by gossip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which job.
    pub job: JobId,
    /// Which lease.
    pub lease: Digest,
    /// Tokens (or the workload's own steps) so far.
    pub units: u64,
    /// Digest of the transcript so far.
    pub prefix: Digest,
}

/// What the lease holder ran and what came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Which job.
    pub job: JobId,
    /// Which lease.
    pub lease: Digest,
    /// The transcript's block.
    pub transcript: Link,
    /// Its length in bytes.
    pub transcript_bytes: u64,
    /// The output's raw block.
    pub output: Cid,
    /// Its length in bytes.
    pub output_bytes: u64,
}

/// A proof that is to be audited, all that an auditor needs to look at it, and what is wanted of it next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPicked {
    /// The epoch that accepted the proof.
    pub epoch: u64,
    /// Its index among the epoch's acceptances.
    pub index: u64,
    /// Who looks.
    pub auditor: Address,
    /// Which job.
    pub job: JobId,
    /// The block of the client's snapshot of it.
    pub asked: Link,
    /// Which proof.
    pub proof: Link,
    /// Who made it.
    pub wallet: Address,
    /// Under which lease.
    pub lease: Digest,
    /// The transcript's block.
    pub transcript: Link,
    /// Its length in bytes.
    pub transcript_bytes: u64,
    /// The output's raw block.
    pub output: Cid,
    /// Its length in bytes.
    pub output_bytes: u64,
    /// False while the finding is to be sealed; true once all are sealed and it is to be opened.
    pub open: bool,
    /// The boundary at which it is too late.
    pub until: u64,
    /// The challenge that pays for the look, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Link>,
}

/// What an auditor found: first as a seal, then opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The epoch that accepted the proof.
    pub epoch: u64,
    /// Its index among the epoch's acceptances.
    pub index: u64,
    /// Under which lease it was made.
    pub lease: Digest,
    /// The seal, or what opens it.
    pub word: Word,
}

/// One of an auditor's two words about a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Word {
    /// [`Finding::seal`].
    Sealed(Digest),
    /// What was sealed.
    Opened {
        /// The finding.
        finding: Finding,
        /// 32 bytes that nobody could guess.
        salt: Digest,
    },
}

/// Somebody pays for an audit of a proof whose money is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The epoch that accepted the proof.
    pub epoch: u64,
    /// Its index among the epoch's acceptances.
    pub index: u64,
    /// Which job's.
    pub job: JobId,
}

/// The operator's promise that a proof is in an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which job.
    pub job: JobId,
    /// Which proof.
    pub proof: Link,
    /// The client who pays.
    pub client: Address,
    /// The wallet that earned.
    pub wallet: Address,
    /// The epoch that holds it.
    pub epoch: u64,
    /// The leaf's index among the epoch's acceptances.
    pub index: u64,
    /// The leaf's hash.
    pub leaf: Digest,
    /// The job's price.
    pub price: MicroUsdc,
    /// The miner's part of it.
    pub miner_part: MicroUsdc,
    /// The operator's part of it.
    pub operator_part: MicroUsdc,
    /// Verified work units.
    pub units: u64,
    /// How the miner is paid.
    pub mode: PayoutMode,
    /// In what.
    pub asset: Asset,
    /// The output's raw block.
    pub output: Cid,
    /// Its length in bytes.
    pub output_bytes: u64,
    /// The boundary at which the money becomes payable.
    pub held_until: u64,
    /// How work units are paid, in mode `pps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pps: Option<PpsTerms>,
}

/// What an acceptance in mode `pps` will be credited at the boundary that ends its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PpsTerms {
    /// Micro-USDC for a million work units; absent while there is no rate, when the epoch's pot is shared by units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// The most that it can be.
    pub at_most: MicroUsdc,
}

/// How a miner is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayoutMode {
    /// The miner part of the miner's own jobs.
    Solo,
    /// Work units at a posted rate.
    Pps,
}

/// What a pool's money is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Asset {
    /// Test credit; worth nothing.
    Test,
    /// USDC in a contract on a chain.
    Usdc {
        /// EIP-155 chain id.
        chain: u64,
        /// The pool's contract.
        contract: Address,
    },
}

/// A miner is alive; the first one registers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When the process started; with `counter` it orders heartbeats.
    pub boot_at: Timestamp,
    /// Counts up from 0 within one process.
    pub counter: u64,
    /// What it serves.
    pub models: Vec<ModelOffer>,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// How it wants to be paid.
    pub mode: PayoutMode,
    /// Its ENS name, if it claims one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ens: Option<String>,
    /// The device, for people.
    pub device: String,
    /// Device memory in MiB.
    pub vram_mb: u32,
    /// True once it takes no more jobs: it is shutting down or paused.
    pub draining: bool,
}

/// A model that a miner serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelOffer {
    /// Its name.
    pub model: String,
    /// The assurances it can be served with.
    pub assurances: Vec<Assurance>,
}

/// The operator's sign of life, and how a node learns of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// The pool's name.
    pub name: String,
    /// Its asset.
    pub asset: Asset,
    /// Its chain's EIP-155 id, 0 where there is none.
    pub chain: u64,
    /// Its contract, zero where there is none.
    pub contract: Address,
    /// The open epoch.
    pub epoch: u64,
    /// Jobs pending.
    pub pending: u64,
    /// Jobs leased.
    pub leased: u64,
    /// Live miners by model; at most [`crate::statement::MAX_MODELS`].
    pub models: Vec<ModelSupply>,
    /// Numbers in force.
    pub posted: Posted,
    /// Root of the pool's tree: CIDv1, dag-pb, sha2-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<Cid>,
    /// The node that says this: its libp2p peer id. Whoever repeats it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// How many live miners serve a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSupply {
    /// The model's name.
    pub model: String,
    /// Live miners that serve it.
    pub miners: u64,
    /// What a million of its work units are paid in mode `pps`, in micro-USDC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// A new epoch is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochOpened {
    /// Its number.
    pub epoch: u64,
    /// `H(s_N)`: commits to the secret that seeds its draws.
    pub secret_hash: Digest,
    /// The roster's block.
    pub roster: Link,
    /// Numbers in force.
    pub posted: Posted,
}

/// An epoch is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochSealed {
    /// Its number.
    pub epoch: u64,
    /// The header's block.
    pub header: Link,
}

macro_rules! bodies {
    ($($kind:ident),* $(,)?) => {
        /// What a statement says.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        #[expect(missing_docs, reason = "each variant is documented at its struct")]
        pub enum Body { $($kind($kind)),* }

        impl Body {
            /// The kind of this body.
            pub fn kind(&self) -> Kind {
                match self { $(Body::$kind(_) => Kind::$kind),* }
            }

            /// Reads the fields of `kind` from a payload and passes over all others, the common ones among them.
            pub(super) fn read(kind: Kind, payload: &[u8]) -> Result<Self, Rejection> {
                match kind {
                    $(Kind::$kind => Ok(Body::$kind(codec::read(payload)?)),)*
                    Kind::Revocation => Err(Rejection::Unbuilt(kind)),
                }
            }
        }

        $(impl From<$kind> for Body {
            fn from(body: $kind) -> Body {
                Body::$kind(body)
            }
        })*
    };
}

bodies!(
    Job,
    Cancel,
    Admitted,
    Refusal,
    Listing,
    Claim,
    Release,
    Lease,
    LeaseEnded,
    Proof,
    Attestation,
    Challenge,
    Receipt,
    AuditPicked,
    Heartbeat,
    Beacon,
    EpochOpened,
    EpochSealed,
    Progress,
);

/// `lease id = H(pool id, job, term, wallet, draw seed)`: no free field.
pub fn lease_id(
    pool: &swarm_crypto::address::PoolId,
    job: &JobId,
    term: u32,
    wallet: &Address,
    seed: &Digest,
) -> Digest {
    codec::hash(swarm_crypto::digest::Context::Lease, &(pool, job, term, wallet, seed))
}

/// How long before a message's time, and after it, clocks may differ.
pub const SKEW: Millis = Millis::from_secs(30);

/// The longest life of a job.
pub const MAX_JOB_LIFE: Millis = Millis::from_secs(24 * 3600);
