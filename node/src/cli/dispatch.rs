//! Where the parsed command lines go.

use super::{ClientArgs, Exit, NodeArgs, NodeCommand, NodeRole};
use crate::{client, doctor, miner, models, operator, status};
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long blocking work may hold up the end of the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Threads that wait for disks and hashes; further work waits for one.
const MAX_BLOCKING_THREADS: usize = 128;
/// How long such a thread stays when there is nothing to do: below the time between two looks at the address file.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

pub(super) fn node(mut args: NodeArgs) -> Result<Exit> {
    models::resolve(&mut args)?;
    finish(runtime()?, async {
        let stop = on_signals()?;
        match args.command.clone() {
            Some(NodeCommand::Status { json }) => return status::show(&args, json).await,
            Some(NodeCommand::Doctor { json }) => return doctor::show(&args, json).await,
            Some(NodeCommand::Models(command)) => return models::run(&args, &command, stop).await,
            Some(NodeCommand::Explain { json }) => return status::explain(&args, json).await,
            Some(NodeCommand::Pause) => return miner::tell(&args, miner::Order::Pause).await,
            Some(NodeCommand::Resume) => return miner::tell(&args, miner::Order::Resume).await,
            Some(NodeCommand::Backup { folder }) => return operator::backup(&args, &folder).await,
            Some(NodeCommand::Repair(redis)) => return operator::repair(&args, &redis).await,
            Some(NodeCommand::Earnings(earnings)) => {
                return client::run(ClientArgs::earnings(args, earnings), stop).await;
            }
            Some(NodeCommand::Audit(audit)) => {
                return client::run(ClientArgs::audit(args, audit), stop).await;
            }
            None => {}
        }
        match args.role.context("a role is required unless a command is given; see swarm-node --help")? {
            NodeRole::Operator => operator::run(args, stop).await?,
            NodeRole::Miner => miner::run(args, stop).await?,
        }
        Ok(Exit::Done)
    })
}

pub(super) fn client(args: ClientArgs) -> Result<Exit> {
    finish(runtime()?, async {
        let stop = on_signals()?;
        client::run(args, stop).await
    })
}

fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(KEEP_ALIVE)
        .build()
        .context("cannot start the runtime")
}

fn finish(runtime: Runtime, work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    outcome
}

/// Cancelled by the first SIGTERM or Ctrl-C; a second one ends the process at once.
fn on_signals() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let token = stop.clone();
    tokio::spawn(async move {
        for count in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
            if count > 0 {
                client::give_back();
                std::process::exit(130);
            }
            token.cancel();
        }
    });
    Ok(stop)
}
