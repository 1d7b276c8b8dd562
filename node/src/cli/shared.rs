//! What both programs take.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use libp2p::Multiaddr;
use swarm_crypto::Address;
use tracing_subscriber::EnvFilter;

use super::UserError;
use super::values::{ens_name, node_name};

/// Which pool, and whose.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Pool")]
pub struct PoolArgs {
    /// The pool's name
    #[arg(long, global = true, env = "SWARMPOOL_POOL", default_value = "swarmpool.eth", value_name = "NAME",
          value_parser = ens_name)]
    pub pool: String,

    /// The operator's address [default: the first one found, remembered]
    #[arg(long, global = true, env = "SWARMPOOL_OPERATOR", value_name = "0x…")]
    pub operator: Option<Address>,

    /// Accept that the pool's operator has changed to this address
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "SWARMPOOL_ACCEPT_OPERATOR",
        value_name = "0x…"
    )]
    pub accept_operator: Option<Address>,
}

/// How others are found.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// A node to connect to, such as /ip4/203.0.113.5/tcp/4001; repeatable
    #[arg(long, global = true, env = "SWARMPOOL_BOOTSTRAP", value_name = "MULTIADDR", value_delimiter = ',')]
    pub bootstrap: Vec<Multiaddr>,

    /// Address to listen on; may be repeated [default: free ports of every interface, TCP and QUIC]
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "SWARMPOOL_LISTEN",
        value_name = "MULTIADDR",
        value_delimiter = ','
    )]
    pub listen: Vec<Multiaddr>,

    /// Further address at which others reach this node, such as a router that forwards to it; repeatable
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "SWARMPOOL_ANNOUNCE",
        value_name = "MULTIADDR",
        value_delimiter = ','
    )]
    pub announce: Vec<Multiaddr>,

    /// Do not look for nodes on the local network
    #[arg(long, global = true, env = "SWARMPOOL_NO_MDNS", value_parser = BoolishValueParser::new())]
    pub no_mdns: bool,
}

/// Where things are kept.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files")]
pub struct FileArgs {
    /// Folder of everything that SwarmPool keeps [default: ~/.local/share/swarmpool]
    #[arg(long, global = true, visible_alias = "data-dir", env = "SWARMPOOL_HOME", value_name = "FOLDER")]
    pub home: Option<PathBuf>,

    /// Tells this one's files from those of others of its kind [default: none, or a miner's ENS name]
    #[arg(long, global = true, env = "SWARMPOOL_NAME", value_parser = node_name)]
    pub name: Option<String>,

    /// File with the wallet's key in hexadecimal [default: made at the first start]
    #[arg(long, global = true, env = "SWARMPOOL_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// File of settings: lines such as pool = "swarmpool.eth", named like the flags
    #[arg(long, global = true, env = "SWARMPOOL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How much is logged, to stderr.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Log more; twice for everything
    #[arg(long, short, global = true, env = "SWARMPOOL_VERBOSE", action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to log, as a tracing filter such as warn,swarm_node=debug
    #[arg(long, global = true, hide_short_help = true, env = "SWARMPOOL_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

impl LogArgs {
    /// Sends the log to stderr; `quiet` is the filter where the user asks for none.
    pub(super) fn start(&self, quiet: &str) -> Result<(), UserError> {
        let filter = match (&self.log, self.verbose) {
            (Some(filter), _) => filter,
            (None, 0) => quiet,
            (None, 1) => "info,swarm_node=debug",
            (None, _) => "debug,swarm_node=trace,libp2p_kad=debug",
        };
        // Kademlia warns that its table is empty, as it is at each start.
        let filter = EnvFilter::try_new(format!("libp2p_kad=error,{filter}")).map_err(|error| {
            UserError::misuse(format!("--log {filter}: {error}")).hint("write it like warn,swarm_node=debug")
        })?;
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        subscriber.try_init().map_err(|error| {
            UserError::misuse(format!("the log cannot be started: {error}")).hint("leave --log out")
        })
    }
}
