//! What `swarm-client` takes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::BoolishValueParser};
use swarm_protocol::Millis;
use swarm_protocol::codec::{JobId, Link};

use super::shared::{FileArgs, LogArgs, NetworkArgs, PoolArgs};
use super::values::{ContentPath, Earner, Subject, job_id, positive_duration, proof_id};

const HELP: &str = "\
{about}

{usage-heading} {usage}

Examples:
  swarm-client submit job.json          send a job, watch it, print the answer
  swarm-client submit --json job.json   the same, with one JSON object on stdout
  swarm-client status                   the pool, your jobs and your balance
  swarm-client watch                    the same as it changes, on a terminal
  swarm-client wait <JOB>               go on waiting for a job
  swarm-client verify <JOB>             check its receipt yourself
  swarm-client history                  what became of your money
  swarm-client get <CID> --car out.car  fetch content, as any IPFS tool reads it

{all-args}{after-help}";

const AFTER: &str = "\
Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 the job or the input
failed, 2 unexpected or misused. Every flag has an environment variable: --no-mdns is
SWARMPOOL_NO_MDNS; empty is the default. A flag beats the variable, that the file of --config.";

/// Send jobs to a SwarmPool and get answers with receipts
#[derive(Debug, Clone, Parser)]
#[command(name = "swarm-client", version, help_template = HELP, after_help = AFTER, max_term_width = 100, hide_possible_values = true,
          disable_help_subcommand = true)]
pub struct ClientArgs {
    #[command(subcommand)]
    pub command: ClientCommand,

    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub pool: PoolArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

impl ClientArgs {
    /// `swarm-node earnings`, which goes the client's way.
    pub fn earnings(node: super::NodeArgs, earnings: EarningsArgs) -> Self {
        let json = earnings.json;
        Self::visiting(node, json, ClientCommand::Earnings(Box::new(earnings)))
    }

    /// `swarm-node audit`, which does too.
    pub fn audit(mut node: super::NodeArgs, audit: AuditArgs) -> Self {
        let (json, models) = (audit.json, std::mem::take(&mut node.models));
        Self::visiting(node, json, ClientCommand::Audit(Box::new(AuditArgs { models, ..audit })))
    }

    fn visiting(node: super::NodeArgs, json: bool, command: ClientCommand) -> Self {
        let connect_timeout = Millis::from_secs(30);
        Self {
            output: OutputArgs { json, quiet: false, connect_timeout },
            command,
            pool: node.pool,
            network: node.network,
            files: node.files,
            log: node.log,
        }
    }
}

/// What is printed, and how long is waited for the operator.
#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Print one JSON object to stdout
    #[arg(long, global = true, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Print nothing but the answer and errors
    #[arg(long, short, global = true, env = "SWARMPOOL_QUIET", value_parser = BoolishValueParser::new())]
    pub quiet: bool,

    /// How long to look for the operator
    #[arg(long, global = true, env = "SWARMPOOL_CONNECT_TIMEOUT", default_value = "30s", value_name = "TIME",
          value_parser = positive_duration)]
    pub connect_timeout: Millis,
}

/// What the client is asked to do.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Send a job and wait for its answer
    Submit(SubmitArgs),
    /// Show what became of a job; without one, the pool, your jobs and your balance
    Status {
        /// The job's id
        #[arg(value_name = "JOB", value_parser = job_id)]
        job: Option<JobId>,
    },
    /// Watch the pool on the terminal: jobs, miners, epochs, your jobs, peers; q leaves
    Watch,
    /// Wait for a job sent earlier and print its answer
    #[command(visible_alias = "resume")]
    Wait {
        /// The job's id
        #[arg(value_name = "JOB", value_parser = job_id)]
        job: JobId,

        #[command(flatten)]
        reading: ReadingArgs,
    },
    /// Check a receipt, or all that the pool has sealed, without trusting the operator
    Verify(VerifyArgs),
    /// Show what you have in the pool
    Balance,
    /// Show what became of your money, recomputed from what the pool has sealed
    History(HistoryArgs),
    /// What a wallet has earned: `swarm-node earnings`
    #[command(skip)]
    Earnings(Box<EarningsArgs>),
    /// Check an accepted proof again with the model itself: `swarm-node audit`
    #[command(skip)]
    Audit(Box<AuditArgs>),
    /// Fetch content by its CID: an answer, an input, the pool's tree
    Get(GetArgs),
    /// Take back a job that no miner holds yet
    Cancel {
        /// The job's id
        #[arg(value_name = "JOB", value_parser = job_id)]
        job: JobId,
    },
}

/// What `submit` takes.
#[derive(Debug, Clone, Args)]
#[command(after_help = SUBMIT_HELP)]
pub struct SubmitArgs {
    /// The job file; docs/job.schema.json describes it
    #[arg(value_name = "JOB.JSON")]
    pub file: PathBuf,

    /// Print the job's id and do not wait for the answer
    #[arg(long, env = "SWARMPOOL_NO_WAIT", value_parser = BoolishValueParser::new(),
          conflicts_with_all = ["stream", "out", "logprobs"])]
    pub no_wait: bool,

    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How an answer is wanted.
#[derive(Debug, Clone, Args)]
pub struct ReadingArgs {
    /// Print the answer while it is made, straight from the miner
    #[arg(long, env = "SWARMPOOL_STREAM", value_parser = BoolishValueParser::new())]
    pub stream: bool,

    /// Write the answer to this file and not to stdout; a picture is not shown on a terminal, and has a file there anyway
    #[arg(long, short, env = "SWARMPOOL_OUT", value_name = "FILE", conflicts_with = "stream")]
    pub out: Option<PathBuf>,

    /// Write the log-probability of each token, and of those it was chosen from, to this file as JSON, as the operator
    /// publishes them some seconds later; tokens have their text if the model is built in or was pulled (models pull). They
    /// are what the miner signed; some alter those of a few proofs on purpose, which swarm-node audit shows (docs/audits.md)
    #[arg(long, env = "SWARMPOOL_LOGPROBS", value_name = "FILE")]
    pub logprobs: Option<PathBuf>,
}

/// What `verify` takes.
#[derive(Debug, Clone, Args)]
#[command(after_help = VERIFY_HELP)]
pub struct VerifyArgs {
    /// A file with a receipt, a job's id, or the CID of an epoch's header; without one, the newest epoch
    #[arg(value_name = "RECEIPT|JOB|EPOCH")]
    pub subject: Option<Subject>,

    /// Recompute the whole pool for a receipt too, and not only its own epoch
    #[arg(long, env = "SWARMPOOL_WHOLE", value_parser = BoolishValueParser::new())]
    pub whole: bool,

    /// Recompute the answers too, of models that are built in or were pulled (models pull), as far as their transcripts can
    /// still be had
    #[arg(long, env = "SWARMPOOL_ANSWERS", value_parser = BoolishValueParser::new())]
    pub answers: bool,

    #[command(flatten)]
    pub sealed: SealedArgs,
}

/// What `history` takes.
#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// How many movements to show, the last ones
    #[arg(long, env = "SWARMPOOL_LAST", value_name = "N", default_value = "20")]
    pub last: u32,

    /// Print all of them as CSV
    #[arg(long, env = "SWARMPOOL_CSV", value_parser = BoolishValueParser::new(), conflicts_with = "json")]
    pub csv: bool,

    #[command(flatten)]
    pub sealed: SealedArgs,
}

/// What `earnings` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct EarningsArgs {
    /// Whose: an address, or a miner of this machine by its name [default: the only one here]
    #[arg(value_name = "0x…|NAME")]
    pub whose: Option<Earner>,

    /// Show every job, not only epochs
    #[arg(long, env = "SWARMPOOL_JOBS", value_parser = BoolishValueParser::new())]
    pub jobs: bool,

    /// Print every job as CSV
    #[arg(long, env = "SWARMPOOL_CSV", value_parser = BoolishValueParser::new(), conflicts_with = "json")]
    pub csv: bool,

    /// Print one JSON object to stdout, every job in it
    #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Write the proofs to this file: each job's under its epoch's root, and the payout's as a contract takes it
    #[arg(long, env = "SWARMPOOL_PROOFS", value_name = "FILE")]
    pub proofs: Option<PathBuf>,

    #[command(flatten)]
    pub sealed: SealedArgs,
}

/// What `audit` takes.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct AuditArgs {
    /// The proof's id, as a receipt and the pool's tree have it
    #[arg(value_name = "PROOF", value_parser = proof_id, required_unless_present = "from")]
    pub proof: Option<Link>,

    /// Repeat an audit from its evidence alone, and ask nobody
    #[arg(long, env = "SWARMPOOL_FROM", value_name = "FILE", conflicts_with_all = ["proof", "car", "save"])]
    pub from: Option<PathBuf>,

    /// Write the evidence to this file: the statements, what they name, the tolerance, and every position's distance
    #[arg(long, env = "SWARMPOOL_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// If it does not hold, pay for others to look too: a quarter of the job's price, returned if they find the same
    #[arg(long, env = "SWARMPOOL_CHALLENGE", value_parser = BoolishValueParser::new(), conflicts_with_all = ["from", "car"])]
    pub challenge: bool,

    /// Print one JSON object to stdout
    #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,

    #[command(flatten)]
    pub sealed: SealedArgs,

    /// The models of --model.
    #[arg(skip)]
    pub models: Vec<PathBuf>,
}

/// Where what a pool has sealed is read from.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SealedArgs {
    /// Take everything from this archive and ask nobody
    #[arg(long, env = "SWARMPOOL_CAR", value_name = "FILE")]
    pub car: Option<PathBuf>,

    /// Write what was read to this archive, so that others can check it
    #[arg(long, env = "SWARMPOOL_SAVE", value_name = "FILE", conflicts_with = "car")]
    pub save: Option<PathBuf>,
}

/// What `get` takes.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// What to fetch: a file, a folder, which is listed, or a block; as DAG-JSON with --json
    #[arg(value_name = "CID[/PATH]")]
    pub content: ContentPath,

    /// Write it to this file and not to stdout
    #[arg(long, short, env = "SWARMPOOL_OUT", value_name = "FILE", conflicts_with = "car")]
    pub out: Option<PathBuf>,

    /// Write its blocks and all that they link to this file, a CAR archive that any IPFS tool reads
    #[arg(long, env = "SWARMPOOL_CAR", value_name = "FILE")]
    pub car: Option<PathBuf>,

    /// The longest content that is fetched, in MiB
    #[arg(long, env = "SWARMPOOL_MAX_MIB", value_name = "MIB", default_value = "1024",
          value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_mib: u32,
}

const VERIFY_HELP: &str = "\
Without a receipt, and with --whole, --car or --save, everything is recomputed from the pool's first record on:
signatures, draws, leases, money, rates, rosters, roots and the chain of headers. The first thing
that is wrong is named. What a record does not show is taken on the operator's word: who was alive,
and that an answer was there in time; --answers recomputes the answers.";

const SUBMIT_HELP: &str = r#"A job file:
  {
    "job_type": "llm_gen",
    "model": "queenbee-nano",
    "input": { "text": "It is a truth universally acknowledged, that" },
    "params": { "max_tokens": 60 },
    "payment": { "amount": "0.10", "currency": "USDC" }
  }
examples/embed.json, picture.json and bench.json are of the other job types; docs/job.schema.json has all fields."#;
