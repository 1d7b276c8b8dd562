//! The client's process: one command, one answer.

mod account;
mod output;
mod saved;
mod submit;
mod verify;

use crate::cli::{ClientArgs, ClientCommand, Exit, Subject, UserError};
use crate::clock::Clock;
use crate::home::home_root;
use crate::link::Link;
use crate::network::addresses::runtime_directory;
use crate::network::{AddressFile, BlockSource, Network, NetworkConfig, NetworkEvent};
use crate::session::{JoinTerms, join, wallet_key};
use crate::storage::blocks::{BlockStore, DEFAULT_QUOTA_BYTES};
use crate::storage::home::{DataDir, read_secret};
use crate::storage::pins::{KNOWN_OPERATORS_FILE, PinError};
use anyhow::{Context, Result};
use output::Printer;
use saved::Saved;
use std::sync::Arc;
use std::time::Duration;
use swarm_crypto::key::SecretKey;
use swarm_protocol::statement::Verified;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Everything a command works with.
pub(crate) struct Session {
    pub args: ClientArgs,
    pub key: SecretKey,
    pub clock: Clock,
    pub saved: Saved,
    pub printer: Printer,
    pub stop: CancellationToken,
}

/// A pool that was joined, for one command.
pub(crate) struct Connection {
    pub link: Link,
    pub events: mpsc::Receiver<NetworkEvent>,
    pub blocks: Arc<BlockStore>,
    pub beacon: Verified,
}

#[derive(Debug)]
struct Blocks(Arc<BlockStore>);

impl BlockSource for Blocks {
    fn block(&self, cid: &cid::Cid) -> Option<Vec<u8>> {
        self.0.block(cid)
    }
}

/// Runs one command.
pub async fn run(args: ClientArgs, stop: CancellationToken) -> Result<Exit> {
    let root = home_root(&args.files)?;
    let directory = DataDir::open_shared(&root, &args.pool.pool, "client", args.files.name.as_deref())?;
    let secret = match &args.files.key {
        Some(path) => read_secret(path)?
            .ok_or_else(|| UserError::misuse(format!("there is no key file {}", path.display())))?,
        None => directory.key()?,
    };
    let printer = Printer::new(args.output.json, args.output.quiet);
    let saved = Saved::new(directory.path());
    let session =
        Session { key: wallet_key(secret.expose())?, clock: Clock::start(), saved, printer, stop, args };
    match session.args.command.clone() {
        ClientCommand::Submit(submit) => submit::submit(session, &submit).await,
        ClientCommand::Wait { job } => submit::wait(session, job).await,
        ClientCommand::Cancel { job } => submit::cancel(session, job).await,
        ClientCommand::Status { job: Some(job) } => account::job(session, job).await,
        ClientCommand::Status { job: None } => account::pool(session).await,
        ClientCommand::Verify { subject } => match subject {
            Subject::Job(job) => verify::job(session, job).await,
            Subject::File(path) => verify::file(session, &path).await,
        },
    }
}

impl Session {
    /// Joins the pool, or says why not and what to do.
    pub async fn connect(&self) -> Result<Connection> {
        let mut identity = [0; 32];
        getrandom::fill(&mut identity).context("the system gives no random bytes")?;
        let network = &self.args.network;
        let mut config = NetworkConfig::new(identity, &self.args.pool.pool);
        if !network.listen.is_empty() {
            config.listen = network.listen.clone();
        }
        config.bootstrap = network.bootstrap.clone();
        config.mdns = !network.no_mdns;
        config.address_file = Some(AddressFile { directory: runtime_directory(), role: "client".to_owned() });
        config.agent = format!("swarm-client/{}", env!("CARGO_PKG_VERSION"));
        let blocks = Arc::new(BlockStore::in_memory(DEFAULT_QUOTA_BYTES)?);
        let (network, mut events) = Network::start(config, Arc::new(Blocks(blocks.clone()))).await?;
        let terms = JoinTerms {
            pool: self.args.pool.pool.clone(),
            operator: self.args.pool.operator,
            accept: self.args.pool.accept_operator,
            known_operators: home_root(&self.args.files)?.join(KNOWN_OPERATORS_FILE),
        };
        let patience = self.args.output.connect_timeout;
        let deadline = Instant::now() + Duration::from_millis(patience.0);
        let joined = tokio::select! {
            joined = join(&network, &mut events, &terms, self.clock, Some(deadline)) => joined,
            () = self.stop.cancelled() => Err(UserError::input("interrupted before the pool was found").into()),
        };
        let joined = joined.map_err(|error| not_joined(error, patience))?;
        let beacon = joined.beacon.clone();
        Ok(Connection { link: Link::new(network, joined, self.clock), events, blocks, beacon })
    }
}

fn not_joined(error: anyhow::Error, patience: swarm_protocol::Millis) -> anyhow::Error {
    if error.downcast_ref::<UserError>().is_some() {
        return error;
    }
    if error.downcast_ref::<PinError>().is_some() {
        let hint = "if the pool has announced the change, confirm it with --accept-operator 0x…";
        return UserError::misuse(error.to_string()).hint(hint).into();
    }
    let hint = "start one with `swarm-node --role operator`, or name a node with --bootstrap";
    UserError::misuse(format!("{error} (looked for {} s)", patience.0 / 1000)).hint(hint).into()
}
