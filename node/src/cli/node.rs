//! What `swarm-node` takes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand, ValueEnum, parser::ValueSource};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::PayoutMode;
use swarm_protocol::{Millis, Posted};

use super::UserError;
use super::models::ModelsCommand;
use super::shared::{FileArgs, LogArgs, NetworkArgs, PoolArgs};
use super::values::{
    content_age, content_size, duration, ens_name, ipfs_api, listener, positive_duration, window,
};
use crate::devices::Devices;
use crate::metrics::DEFAULT_ADDRESS;
use crate::miner::Hours;
use crate::network::NetworkConfig;

const HELP: &str = "\
{about}

{usage-heading} {usage}

Examples:
  swarm-node --role operator                open a pool on this machine and network
  swarm-node --role miner --ens alice.eth   run its jobs and earn
  swarm-node --role miner --bootstrap ADDR  the same for a pool somewhere else
  swarm-node doctor                         whether this machine is ready, and what to do if not
  swarm-node status, earnings, audit        what nodes here do, and earned; check any answer again
  swarm-node explain, pause, resume, models why jobs went elsewhere; take none; what can be run

{all-args}{after-help}";

const AFTER: &str = "\
Every flag has an environment variable: --no-mdns is SWARMPOOL_NO_MDNS; empty is the default.
A flag beats the variable, that beats the file of --config. Ctrl-C or SIGTERM ends a node cleanly.";

/// Run a node of a SwarmPool: the operator, who arbitrates jobs, or a miner, who runs them
#[derive(Debug, Clone, Parser)]
#[command(name = "swarm-node", version, help_template = HELP, after_help = AFTER, max_term_width = 100, hide_possible_values = true,
          disable_help_subcommand = true, subcommand_negates_reqs = true)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,

    /// What this node is: operator or miner
    #[arg(long, env = "SWARMPOOL_ROLE", value_enum, required = true)]
    pub role: Option<NodeRole>,

    /// A further model: its manifest.json, or the name of a pulled one; repeatable
    #[arg(
        long = "model",
        global = true,
        env = "SWARMPOOL_MODEL",
        value_name = "FILE",
        value_delimiter = ','
    )]
    pub models: Vec<PathBuf>,

    /// Keep and serve the blocks of this CAR archive; repeatable
    #[arg(
        long,
        env = "SWARMPOOL_IMPORT",
        value_name = "FILE",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub import: Vec<PathBuf>,

    /// Your IPFS daemon, such as http://127.0.0.1:5001, in which everything that this node pins is to be pinned too
    #[arg(long, env = "SWARMPOOL_IPFS_API", value_name = "URL", hide_short_help = true, value_parser = ipfs_api)]
    pub ipfs_api: Option<String>,

    #[command(flatten)]
    pub pool: PoolArgs,
    #[command(flatten)]
    pub miner: MinerArgs,
    #[command(flatten)]
    pub operator: OperatorArgs,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
    #[command(flatten)]
    pub files: FileArgs,
    #[command(flatten)]
    pub log: LogArgs,
}

/// How much content a node keeps, and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Content")]
pub struct ContentArgs {
    /// Room for content: inputs, answers and transcripts of jobs, and what an operator publishes
    #[arg(long, env = "SWARMPOOL_CONTENT_QUOTA", default_value = "4GiB", value_name = "SIZE", value_parser = content_size,
          hide_short_help = true)]
    pub content_quota: u64,

    /// How long what belongs to a job stays in any case; after that, as long as there is room
    #[arg(long, env = "SWARMPOOL_KEEP_CONTENT", default_value = "3d", value_name = "TIME", value_parser = content_age,
          hide_short_help = true)]
    pub keep_content: Millis,
}

/// What can be asked of nodes that run.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum NodeCommand {
    /// Show what the nodes that run here are doing, and how their peers are connected
    #[command(hide = true)]
    Status {
        /// Print one JSON object to stdout
        #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
    },
    /// Look at this machine, its models, the network and the pool, and say what is wrong and what to do
    #[command(hide = true)]
    Doctor {
        /// Print one JSON object to stdout
        #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
    },
    /// Fetch, list, check and remove the models that nodes here run
    #[command(hide = true, subcommand)]
    Models(ModelsCommand),
    /// Say why the last jobs were not this miner's, and what the pool pays for which models
    #[command(hide = true)]
    Explain {
        /// Print one JSON object to stdout
        #[arg(long, env = "SWARMPOOL_JSON", value_parser = BoolishValueParser::new())]
        json: bool,
    },
    /// Have the miners that run here take no more jobs; what they run they finish
    #[command(hide = true)]
    Pause,
    /// Have them take jobs again
    #[command(hide = true)]
    Resume,
    /// Copy the folder of the operator that runs here, while it runs
    #[command(hide = true)]
    Backup {
        /// Where to; it must not be there yet
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// Give back to Redis the records that it has lost and this operator's copy has
    #[command(hide = true)]
    Repair(RedisArgs),
    /// Show what a miner has earned, job by job, recomputed from what the pool has sealed
    #[command(hide = true)]
    Earnings(super::client::EarningsArgs),
    /// Check an accepted proof again: its statements, its lease, its tokens, and with the model itself its probabilities
    #[command(hide = true)]
    Audit(super::client::AuditArgs),
}

/// What a node can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeRole {
    Operator,
    Miner,
}

impl NodeRole {
    /// The role's name, as in `--role` and in the data directory.
    pub fn name(self) -> &'static str {
        match self {
            NodeRole::Operator => "operator",
            NodeRole::Miner => "miner",
        }
    }
}

/// How many connections others may open.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Connections at once; a quarter of them are kept for those that this node opens itself
    #[arg(long, env = "SWARMPOOL_MAX_CONNECTIONS", default_value = "1024", value_name = "N", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub max_connections: u32,

    /// Connections at once from one address, or from one /64 of IPv6; a home or a farm may share one
    #[arg(long, env = "SWARMPOOL_MAX_CONNECTIONS_PER_IP", default_value = "32", value_name = "N",
          hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections_per_ip: u32,

    /// Connections at once from one /24 of IPv4, or from one /56 of IPv6
    #[arg(long, env = "SWARMPOOL_MAX_CONNECTIONS_PER_SUBNET", default_value = "128", value_name = "N",
          hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections_per_subnet: u32,
}

impl LimitArgs {
    /// Puts them in force.
    pub fn apply(&self, config: NetworkConfig) -> NetworkConfig {
        NetworkConfig {
            max_connections: self.max_connections,
            max_connections_per_ip: self.max_connections_per_ip,
            max_connections_per_subnet: self.max_connections_per_subnet,
            ..config
        }
    }

    /// Refuses limits of which one can never be reached.
    fn check(&self) -> Result<(), UserError> {
        let limits = [
            ("max-connections-per-ip", self.max_connections_per_ip),
            ("max-connections-per-subnet", self.max_connections_per_subnet),
            ("max-connections", self.max_connections),
        ];
        let is_odd = |pair: &&[(&str, u32)]| pair[0].1 > pair[1].1;
        let Some([(inner, n), (outer, m)]) = limits.windows(2).find(is_odd) else { return Ok(()) };
        Err(UserError::misuse(format!("--{inner} {n} can never be reached: --{outer} is {m}"))
            .hint(format!("raise --{outer}, or lower --{inner}")))
    }
}

/// What is shown to Prometheus.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsArgs {
    /// Show metrics to Prometheus over HTTP at this address, or at this port of the loopback; without a value at
    /// 127.0.0.1:9477 [default: none are shown]
    #[arg(long = "metrics", env = "SWARMPOOL_METRICS", value_name = "ADDR", num_args = 0..=1,
          default_missing_value = DEFAULT_ADDRESS, value_parser = listener)]
    pub address: Option<SocketAddr>,
}

/// What only a miner takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Miner")]
pub struct MinerArgs {
    /// Your ENS name, shown to others
    #[arg(long, global = true, env = "SWARMPOOL_ENS", value_name = "NAME", value_parser = ens_name)]
    pub ens: Option<String>,

    /// Jobs to run at once, on each device
    #[arg(long, alias = "max-concurrency", env = "SWARMPOOL_SLOTS", default_value = "1", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=swarm_inference::MAX_BATCH_SEQUENCES as i64))]
    pub slots: u32,

    /// The least price in USDC that you work for
    #[arg(long, env = "SWARMPOOL_MIN_PRICE", default_value = "0", value_name = "USDC")]
    pub min_price: MicroUsdc,

    /// Take jobs at these hours only, by this machine's clock, such as 22:00-06:30 or 00:00-07:00,19:00-24:00
    #[arg(long, env = "SWARMPOOL_HOURS", value_name = "HOURS", hide_short_help = true)]
    pub hours: Option<Hours>,

    /// The most power in watts that each GPU of NVIDIA's may take while the miner runs; only root may set it
    #[arg(long, env = "SWARMPOOL_POWER_LIMIT", value_name = "WATTS", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub power_limit: Option<u32>,

    /// What runs models: auto, a GPU if the engine can use one; gpu, or the miner does not start; cpu
    #[arg(
        long,
        env = "SWARMPOOL_ACCEL_MODE",
        value_enum,
        default_value = "auto",
        value_name = "MODE",
        global = true
    )]
    pub accel_mode: AccelMode,

    /// What engines run on, each device by itself: auto, all GPUs, or else the processor; or a list, of GPUs by their
    /// numbers in nvidia-smi and of cpu, such as 0,2 or cpu,cpu, which share the cores
    #[arg(
        long,
        env = "SWARMPOOL_DEVICES",
        default_value = "auto",
        value_name = "LIST",
        global = true,
        hide_short_help = true
    )]
    pub devices: Devices,

    /// The program that runs models [default: swarm-engine beside this program]
    #[arg(long, env = "SWARMPOOL_ENGINE", value_name = "PATH", global = true, hide_short_help = true)]
    pub engine: Option<PathBuf>,

    /// The most memory in MiB that one of its processes may take for data [default: any]
    #[arg(long, env = "SWARMPOOL_ENGINE_MEMORY", value_name = "MIB", global = true, hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub engine_memory: Option<u32>,

    /// A server that runs models, such as vLLM or llama-server: its URL. docs/providers.md says what it has to do
    #[arg(
        long,
        env = "SWARMPOOL_SERVER",
        value_name = "URL",
        global = true,
        hide_short_help = true,
        requires = "server_models"
    )]
    pub server: Option<String>,

    /// A model that the server runs, and what the server calls it if that is another name; repeatable
    #[arg(
        long = "server-model",
        env = "SWARMPOOL_SERVER_MODEL",
        value_name = "MODEL[=NAME]",
        global = true,
        value_delimiter = ',',
        requires = "server",
        hide_short_help = true
    )]
    pub server_models: Vec<String>,

    /// What starts the server, words apart by spaces; it ends with the miner [default: it runs already]
    #[arg(
        long,
        env = "SWARMPOOL_SERVER_COMMAND",
        value_name = "COMMAND",
        global = true,
        requires = "server",
        hide_short_help = true
    )]
    pub server_command: Option<String>,

    /// How you are paid: solo, three quarters of the price of your own jobs; pps, for work units at the pool's rate,
    /// which is steadier. Counts from the next epoch on
    #[arg(long, env = "SWARMPOOL_PAYOUT", value_enum, default_value = "solo")]
    pub payout: Payout,

    /// Percent of your proofs of text, at most 10, whose log-probabilities are altered on purpose, their answers never, to
    /// find auditors who do not look. An honest audit of one is a miss of yours: docs/audits.md [default: none are]
    #[arg(long, env = "SWARMPOOL_ALTER_PROOFS", value_name = "PERCENT", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..=10))]
    pub alter_proofs: Option<u32>,
}

/// What is to run models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccelMode {
    Auto,
    Gpu,
    Cpu,
}

/// How a miner wants to be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Payout {
    Solo,
    Pps,
}

impl From<Payout> for PayoutMode {
    fn from(payout: Payout) -> Self {
        match payout {
            Payout::Solo => PayoutMode::Solo,
            Payout::Pps => PayoutMode::Pps,
        }
    }
}

/// Which Redis is meant.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RedisArgs {
    /// The Redis that has lost records; repeatable, the first that is a master is used
    #[arg(
        long = "redis-url",
        env = "SWARMPOOL_REDIS_URL",
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub urls: Vec<String>,

    /// Accept a Redis that can lose what it has acknowledged
    #[arg(long = "redis-lossy", env = "SWARMPOOL_REDIS_LOSSY", value_parser = BoolishValueParser::new(),
          hide_short_help = true)]
    pub lossy: bool,
}

/// Where the operator keeps its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LedgerKind {
    Redb,
    Memory,
}

/// What only the operator takes. The numbers are posted to all nodes at the start of each epoch.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operator (its numbers are posted to all nodes; --help lists them)")]
pub struct OperatorArgs {
    /// Where records are kept: redb, a file, or memory, lost at the end
    #[arg(long, env = "SWARMPOOL_LEDGER", value_enum, default_value = "redb")]
    pub ledger: LedgerKind,

    /// Keep records on this Redis, which further operator processes may share: one is active, the others stand by;
    /// repeatable, the first that is a master is used
    #[arg(
        long,
        env = "SWARMPOOL_REDIS_URL",
        value_name = "URL",
        value_delimiter = ',',
        hide_short_help = true
    )]
    pub redis_url: Vec<String>,

    /// Accept a Redis that can lose what it has acknowledged
    #[arg(long, env = "SWARMPOOL_REDIS_LOSSY", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    pub redis_lossy: bool,

    /// Sealed epochs whose records stay in the ledger; those of older ones are in their published pages only
    #[arg(long, env = "SWARMPOOL_KEEP_EPOCHS", default_value = "24", value_name = "N", hide_short_help = true,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_epochs: u64,

    /// Do not relay between nodes that others cannot reach
    #[arg(long, env = "SWARMPOOL_NO_RELAY", value_parser = clap::builder::BoolishValueParser::new(),
          hide_short_help = true)]
    pub no_relay: bool,

    /// Length of an epoch, after which it is sealed
    #[arg(long, env = "SWARMPOOL_EPOCH", default_value = "1h", value_name = "TIME", value_parser = positive_duration)]
    pub epoch: Millis,

    /// How long claims on a job are collected; 0 gives it to the first
    #[arg(long, env = "SWARMPOOL_WINDOW", default_value = "400ms", value_name = "TIME", value_parser = window,
          hide_short_help = true)]
    pub window: Millis,

    /// The longest time that a miner may hold a job
    #[arg(long, env = "SWARMPOOL_LEASE", default_value = "300s", value_name = "TIME",
          value_parser = positive_duration, hide_short_help = true)]
    pub lease: Millis,

    /// How soon a miner must report its first progress
    #[arg(long, env = "SWARMPOOL_FIRST_PROGRESS", default_value = "30s", value_name = "TIME",
          value_parser = positive_duration, hide_short_help = true)]
    pub first_progress: Millis,

    /// How soon after one report the next must come
    #[arg(long, env = "SWARMPOOL_PROGRESS", default_value = "30s", value_name = "TIME",
          value_parser = positive_duration, hide_short_help = true)]
    pub progress: Millis,

    /// How long a proof's content may take to fetch
    #[arg(long, env = "SWARMPOOL_FETCH_TIMEOUT", default_value = "30s", value_name = "TIME",
          value_parser = positive_duration, hide_short_help = true)]
    pub fetch_timeout: Millis,

    /// How often a miner says that it is alive
    #[arg(long, env = "SWARMPOOL_HEARTBEAT", default_value = "30s", value_name = "TIME",
          value_parser = positive_duration, hide_short_help = true)]
    pub heartbeat: Millis,

    /// How long a miner that lost a job gets no other; doubles with each loss
    #[arg(long, env = "SWARMPOOL_COOLDOWN", default_value = "30s", value_name = "TIME", value_parser = duration,
          hide_short_help = true)]
    pub cooldown: Millis,

    /// The longest such pause
    #[arg(long, env = "SWARMPOOL_MAX_COOLDOWN", default_value = "1h", value_name = "TIME", value_parser = duration,
          hide_short_help = true)]
    pub max_cooldown: Millis,

    /// Fees earned for the operator from which a miner counts as established
    #[arg(
        long,
        env = "SWARMPOOL_ESTABLISHED",
        default_value = "1.00",
        value_name = "USDC",
        hide_short_help = true
    )]
    pub established: MicroUsdc,

    /// Fees earned per doubling of a miner's weight in the draw
    #[arg(
        long,
        env = "SWARMPOOL_FEE_UNIT",
        default_value = "0.25",
        value_name = "USDC",
        hide_short_help = true
    )]
    pub fee_unit: MicroUsdc,

    /// Credit that every new client of a test pool starts with
    #[arg(
        long,
        env = "SWARMPOOL_TEST_CREDIT",
        default_value = "100",
        value_name = "USDC",
        hide_short_help = true
    )]
    pub test_credit: MicroUsdc,

    /// How much of your own free USDC to put into the reserve, which pays miners who chose pps; in all, not each time
    #[arg(long, env = "SWARMPOOL_RESERVE", default_value = "0", value_name = "USDC", hide_short_help = true)]
    pub reserve: MicroUsdc,

    /// Percent of the accepted proofs that other miners look at, each for a quarter of the job's price
    #[arg(long, env = "SWARMPOOL_AUDIT_RATE", default_value = "5", value_name = "PERCENT", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(..=100))]
    pub audit_rate: u32,

    /// Open jobs that one client may have at once
    #[arg(long, env = "SWARMPOOL_MAX_OPEN_JOBS", default_value = "10000", value_name = "N", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_open_jobs: u32,
}

impl OperatorArgs {
    /// The numbers that the pool posts.
    pub fn posted(&self) -> Posted {
        Posted {
            epoch: self.epoch,
            window: self.window,
            lease: self.lease,
            first_progress: self.first_progress,
            progress: self.progress,
            fetch: self.fetch_timeout,
            heartbeat: self.heartbeat,
            cooldown: self.cooldown,
            max_cooldown: self.max_cooldown,
            established: self.established,
            fee_unit: self.fee_unit,
            test_credit: self.test_credit,
            max_open_jobs: self.max_open_jobs,
            audit_rate: 100 * self.audit_rate,
            ..Posted::default()
        }
    }
}

impl OperatorArgs {
    /// The Redis to share, if one is named.
    pub fn redis(&self) -> Option<RedisArgs> {
        let (urls, lossy) = (self.redis_url.clone(), self.redis_lossy);
        (!urls.is_empty()).then_some(RedisArgs { urls, lossy })
    }
}

impl NodeArgs {
    /// The name that tells this node's files from those of others of its role.
    pub fn data_name(&self) -> Option<&str> {
        self.files.name.as_deref().or(match self.role {
            Some(NodeRole::Operator) | None => None,
            Some(NodeRole::Miner) => self.miner.ens.as_deref(),
        })
    }

    /// Refuses what is not built, and flags that the role does not have.
    pub(super) fn check(&self, matches: &ArgMatches) -> Result<(), UserError> {
        let (role, other, one, group) = match self.role {
            None => return Ok(()),
            Some(NodeRole::Operator) => ("operator", "miner", "a miner", "MinerArgs"),
            Some(NodeRole::Miner) => ("miner", "operator", "an operator", "OperatorArgs"),
        };
        if let Some(flag) = typed_flag(matches, group) {
            return Err(UserError::misuse(format!(
                "--{flag} belongs to --role {other}, not to --role {role}"
            ))
            .hint(format!("leave --{flag} out, or start {one} of its own")));
        }
        if self.ipfs_api.is_some() && !cfg!(feature = "kubo") {
            return Err(UserError::misuse("--ipfs-api is not built into this program").hint(
                "build it with cargo build --release --locked --features swarm-node/kubo, or leave it out",
            ));
        }
        let is_operator = self.role == Some(NodeRole::Operator);
        if is_operator && (self.pool.operator.is_some() || self.pool.accept_operator.is_some()) {
            return Err(UserError::misuse("an operator takes no --operator or --accept-operator")
                .hint("its address follows from its key; choose that with --key"));
        }
        if self.operator.ledger == LedgerKind::Memory && !self.operator.redis_url.is_empty() {
            return Err(UserError::misuse(
                "--ledger memory and --redis-url are two places for the same records",
            )
            .hint("leave one of them out"));
        }
        self.limits.check()
    }
}

/// A flag of `group` that was typed: variables may be set for several nodes at once.
fn typed_flag(matches: &ArgMatches, group: &str) -> Option<String> {
    let command = NodeArgs::command();
    let members = command.get_groups().find(|found| found.get_id() == group)?.get_args();
    let typed = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    members.into_iter().find(typed).map(|id| id.as_str().replace('_', "-"))
}
