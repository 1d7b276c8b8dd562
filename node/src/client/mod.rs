//! The client's process: one command, one answer.

mod account;
mod along;
mod answer;
mod audit;
mod checks;
mod earnings;
mod get;
mod history;
mod lists;
mod logprobs;
mod lookout;
mod output;
mod partial;
mod recompute;
mod saved;
mod status;
mod submit;
mod survey;
mod verify;
mod watch;
mod written;

use crate::cli::{ClientArgs, ClientCommand, Exit, UserError};
use crate::clock::Clock;
use crate::home::{home_root, join_terms, visitor_config, wallet};
use crate::link::Link;
use crate::network::{Network, NetworkEvent};
use crate::session::join;
use crate::storage::blocks::{BlockStore, DEFAULT_QUOTA_BYTES};
use crate::storage::home::DataDir;
use anyhow::Result;
use output::Printer;
use saved::Saved;
use std::sync::Arc;
use swarm_crypto::key::SecretKey;
use swarm_protocol::statement::Verified;
use tokio::sync::mpsc;
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
    pub opened: Verified,
}

pub(crate) use watch::give_back;

/// The operator was there, but is silent.
fn no_answer() -> anyhow::Error {
    UserError::misuse("the operator did not answer").hint("try again; its log may say why").into()
}

/// Runs one command.
pub async fn run(args: ClientArgs, stop: CancellationToken) -> Result<Exit> {
    let root = home_root(&args.files)?;
    let directory = DataDir::open_shared(&root, &args.pool.pool, "client", args.files.name.as_deref())?;
    let key = wallet(&args.files, &directory)?;
    let printer = Printer::new(args.output.json, args.output.quiet);
    let saved = Saved::new(directory.path());
    let session = Session { key, clock: Clock::start(), saved, printer, stop, args };
    match session.args.command.clone() {
        ClientCommand::Submit(submit) => submit::submit(session, &submit).await,
        ClientCommand::Get(get) => get::content(session, &get).await,
        ClientCommand::Wait { job, reading } => submit::wait(session, job, reading).await,
        ClientCommand::Cancel { job } => submit::cancel(session, job).await,
        ClientCommand::Status { job: Some(job) } => account::job(session, job).await,
        ClientCommand::Status { job: None } => status::pool(session).await,
        ClientCommand::Watch => watch::watch(session).await,
        ClientCommand::Balance => account::balance(session).await,
        ClientCommand::History(history) => history::history(session, &history).await,
        ClientCommand::Earnings(earnings) => earnings::earnings(session, &earnings).await,
        ClientCommand::Audit(args) => audit::audit(session, &args).await,
        ClientCommand::Verify(verify) => verify::verify(session, &verify).await,
    }
}

impl Session {
    /// Joins the pool, or says why not and what to do.
    pub async fn connect(&self) -> Result<Connection> {
        let agent = format!("swarm-client/{}", env!("CARGO_PKG_VERSION"));
        let config = visitor_config(&self.args.network, &self.args.pool.pool, agent)?;
        let blocks = Arc::new(BlockStore::in_memory(DEFAULT_QUOTA_BYTES)?);
        let (network, mut events) = Network::start(config, blocks.clone()).await?;
        let terms = join_terms(&self.args.files, &self.args.pool)?;
        let patience = Some(self.args.output.connect_timeout);
        let joined = tokio::select! {
            joined = join(&network, &mut events, &terms, self.clock, patience) => joined?,
            () = self.stop.cancelled() => {
                let error = UserError::input("interrupted before the pool was found; nothing was sent");
                return Err(error.hint("run it again").into());
            }
        };
        let (beacon, opened) = (joined.beacon.clone(), joined.opened.clone());
        Ok(Connection { link: Link::new(network, joined, self.clock).await, events, blocks, beacon, opened })
    }
}
