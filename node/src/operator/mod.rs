//! The operator's process: the pool machine with a ledger, content and peers around it.

mod backup;
mod content;
mod durable;
mod ingress;
mod published;
mod shell;
mod standby;
mod story;
mod tree;

pub use backup::ask as backup;
pub use published::replay_all;

use crate::cli::{Exit, NodeArgs, RedisArgs, UserError};
use crate::clock::Clock;
use crate::daemon::{self, Daemon, MAX_LOOKUP, Mirroring};
use crate::driver::{self, Input, MAX_INBOX};
use crate::home;
use crate::import;
use crate::metrics::{
    Exporter, LedgerMetrics, LedgerSource, MeasuredLedger, PoolMetrics, PoolSource, Server,
};
use crate::network::{Network, NetworkConfig, NetworkEvent};
use crate::session::OPERATOR_AGENT;
use crate::status;
use crate::storage::blocks::{BlockStore, DEFAULT_QUOTA_BYTES};
use crate::storage::disk::check_free_space;
use crate::storage::high_water::HighWater;
use crate::storage::home::DataDir;
use crate::storage::ledger::{ACTIVE_FOR, Ledger, LedgerError, MemoryLedger, RedbLedger, RedisLedger};
use crate::storage::sequencer::LedgerWriter;
use crate::upkeep;
use crate::workload::Models;
use anyhow::{Context, Result, anyhow};
use content::Content;
use durable::Durable;
use published::Compaction;
use shell::{OperatorAsk, OperatorInput, OperatorShell};
use standby::Office;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::key::SecretKey;
use swarm_protocol::pool::{Pool, PoolConfig, Replay, State};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tree::Garden;

/// The ledger, or the copy of one that is shared.
const LEDGER_FILE: &str = "ledger.redb";
const BLOCKS_FILE: &str = "blocks.redb";

/// Runs an operator until it is told to stop. One that shares its ledger stands by while another is active, and again
/// when another has taken its place.
pub async fn run(args: NodeArgs, stop: CancellationToken) -> Result<()> {
    let directory = home::data_dir(&args.files, &args.pool.pool, "operator", args.data_name())?;
    check_free_space(directory.path())?;
    let key = home::wallet(&args.files, &directory)?;
    let models = Arc::new(Models::load(&args.models)?);
    check_tolerances(&models, args.operator.audit_rate)?;
    let daemon = Daemon::open(args.ipfs_api.as_deref()).await?;
    let mut again = false;
    loop {
        match term(&args, &directory, &key, &models, daemon.as_ref(), again, &stop).await {
            Err(error) if standby::is_deposed(&error) && !stop.is_cancelled() => {
                tracing::warn!("{error}; standing by");
                again = true;
            }
            other => return other,
        }
    }
}

/// Refuses models of which honest auditors may be condemned.
fn check_tolerances(models: &Models, audit_rate: u32) -> Result<(), UserError> {
    match models.too_wide().next().filter(|_| audit_rate > 0) {
        Some(wide) => Err(UserError::misuse(wide).hint(
            "leave the model out, give its manifest the tolerance of swarm-node models calibrate, or start with --audit-rate 0",
        )),
        None => Ok(()),
    }
}

/// Gives back to Redis what it has lost and this operator's copy has.
pub async fn repair(args: &NodeArgs, redis: &RedisArgs) -> Result<Exit> {
    let directory = home::data_dir(&args.files, &args.pool.pool, "operator", args.data_name())?;
    let key = home::wallet(&args.files, &directory)?;
    let id = PoolId::derive(&args.pool.pool, key.address(), 0, Address::ZERO);
    let (redis, copy) = (standby::config(redis, &directory), directory.file(LEDGER_FILE));
    let restored = tokio::task::spawn_blocking(move || {
        let mut ledger = RedisLedger::open(redis, &copy, &id.0)?;
        // One that was active when a dump was made is so for a moment when it is put back.
        let until = Instant::now() + 2 * ACTIVE_FOR;
        while let Some(active) = ledger.take()? {
            if Instant::now() >= until {
                return Err(LedgerError::Deposed(active));
            }
            std::thread::sleep(ACTIVE_FOR / 8);
        }
        ledger.repair()
    });
    let restored = restored.await.context("the repair broke off")??;
    eprintln!("{restored} records were given back to Redis");
    Ok(Exit::Done)
}

/// Runs until told to stop, or deposed.
async fn term(
    args: &NodeArgs,
    directory: &DataDir,
    key: &SecretKey,
    models: &Arc<Models>,
    daemon: Option<&Daemon>,
    again: bool,
    stop: &CancellationToken,
) -> Result<()> {
    let id = PoolId::derive(&args.pool.pool, key.address(), 0, Address::ZERO);
    let (ledger, office): (Box<dyn Ledger>, _) = match args.operator.redis() {
        None => (open_ledger(args, directory, &id)?, None),
        Some(redis) => match standby::wait(args, &redis, directory, &id, models, again, stop).await? {
            Some((ledger, office)) => (Box::new(ledger), Some(Arc::new(office))),
            None => return Ok(()),
        },
    };
    let clock = Clock::start();
    let network = network_of(args, directory)?;
    let node = network.peer_id()?.to_string();
    let (pool, high_water) = open_pool(args, directory, key, node, models, ledger.as_ref(), clock)?;
    let (ledger_metrics, first_seq) = (LedgerMetrics::default(), ledger.first_seq());
    let ledger = Box::new(MeasuredLedger { ledger, metrics: ledger_metrics.clone() });
    let (writer, thread) = LedgerWriter::spawn(ledger).context("cannot start the ledger's thread")?;

    let blocks = upkeep::open(&args.content, &directory.file(BLOCKS_FILE), clock, stop.clone())?;
    let held = Arc::downgrade(&blocks);
    import::archives(&args.import, &blocks).await?;
    let compaction = Compaction::new(blocks.clone(), writer.clone(), args.operator.keep_epochs, first_seq);
    let durable = Durable::new(writer.clone(), high_water, compaction);
    let (network, events) = Network::start(network, daemon::source(daemon, &blocks)).await?;
    tracing::info!("operator {} of pool {} ({})", key.address(), args.pool.pool, id);
    let content = Content::new(network.clone(), blocks, daemon.cloned(), models.clone(), clock);
    let serving = Serving { args, directory, key, content, durable, writer, ledger_metrics, office };
    let outcome = serving.run(pool, events, stop).await;
    network.shutdown().await;
    released(&held).await;
    // The ledger's thread ends with its last handle; joining it means that the file is closed.
    let _ = tokio::task::spawn_blocking(move || thread.join().is_ok()).await;
    outcome
}

fn network_of(args: &NodeArgs, directory: &DataDir) -> Result<NetworkConfig> {
    let mut config =
        home::network_config(&args.network, directory, &args.pool.pool, "operator", OPERATOR_AGENT)?;
    config.relay = !args.operator.no_relay;
    Ok(args.limits.apply(config))
}

/// An active operator, all of which is open.
struct Serving<'a> {
    args: &'a NodeArgs,
    directory: &'a DataDir,
    key: &'a SecretKey,
    content: Content,
    durable: Durable,
    writer: LedgerWriter,
    ledger_metrics: LedgerMetrics,
    office: Option<Arc<Office>>,
}

impl Serving<'_> {
    /// Serves the pool until told to stop, or deposed.
    async fn run(
        self,
        mut pool: Pool,
        events: mpsc::Receiver<NetworkEvent>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let Self { args, directory, key, content, durable, writer, ledger_metrics, office } = self;
        let (network, blocks, clock) = (content.network.clone(), content.blocks.clone(), content.clock);
        let growing = stop.child_token();
        let (shown_tree, tree) = watch::channel(None);
        let daemon = content.daemon.clone();
        let mirror =
            daemon.map(|daemon| daemon.mirror(&blocks, directory, tree, growing.clone())).transpose()?;
        let (alone, of) = (status::Joined::default(), mirror.as_ref().map(Mirroring::standing));
        let name = &args.pool.pool;
        let answering =
            status::answer(directory, "operator", name, key.address(), &network, clock, &alone, of);
        let copying = backup::serve(directory, &writer, &blocks);
        drop(writer);
        let ((inbox, mut inputs), metrics) = (mpsc::channel(MAX_INBOX), PoolMetrics::default());
        let shown = match args.metrics.address {
            Some(address) => {
                let mut exporter =
                    Exporter::of_node("operator", network.clone(), blocks.clone(), directory.path());
                mirror.iter().for_each(|mirror| mirror.show(&mut exporter));
                show(&mut exporter, &metrics, ledger_metrics, directory.file(LEDGER_FILE), inbox.clone());
                Some(Server::start(address, exporter).await?)
            }
            None => None,
        };
        let garden = Garden::plant(&pool, &blocks);
        drop(blocks);
        let mut shell =
            OperatorShell::new(key.clone(), content, durable, clock, inbox.clone(), metrics, office.clone());
        let every = tree::interval(pool.state().posted());
        let gardener = tree::spawn(garden, shell.feed(), every, inbox.clone(), shown_tree, growing.clone());
        let (peers, known) = (shell.peers(), shell.known());
        known.replace(pool.state().known_wallets());
        let ingress = ingress::Ingress::new(network, inbox, pool.id(), shell.operator(), peers, known, clock);
        let mut ingress = tokio::spawn(ingress.run(events));
        let outcome = tokio::select! {
            outcome = driver::run(&mut pool, &mut shell, &mut inputs, clock, stop) => outcome,
            by = standby::deposed(office.as_deref()) => Err(LedgerError::Deposed(by).into()),
            _ = &mut ingress => Err(anyhow!("the network's events ended; start the operator again")),
        };
        ingress.abort();
        drop((shown, copying, answering));
        growing.cancel();
        // Nobody is to wait for a place in it any more.
        drop(inputs);
        if let Some(gardener) = gardener {
            let _ = gardener.await;
        }
        if let Some(mirror) = mirror {
            mirror.end().await;
        }
        if outcome.is_ok() {
            shell.close(pool.state()).await?;
        }
        outcome
    }
}

/// Waits for whoever still reads from the store, which the next term opens.
async fn released(blocks: &Weak<BlockStore>) {
    let released = async {
        while blocks.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Who takes longer keeps the next term waiting, which says so.
    let _ = timeout(MAX_LOOKUP, released).await;
}

/// What an operator shows beside what every node does.
fn show(
    exporter: &mut Exporter,
    pool: &PoolMetrics,
    ledger: LedgerMetrics,
    file: PathBuf,
    inbox: mpsc::Sender<OperatorInput>,
) {
    exporter.show(pool);
    exporter.show(&ledger);
    exporter.read(LedgerSource { metrics: ledger, file });
    let ask = move |answer| {
        let inbox = inbox.clone();
        // The inbox is gone only when the process is.
        async move { _ = inbox.send(Input::Ask(OperatorAsk::Figures(answer))).await }
    };
    exporter.read(PoolSource { metrics: pool.clone(), ask });
}

fn open_ledger(args: &NodeArgs, directory: &DataDir, id: &PoolId) -> Result<Box<dyn Ledger>> {
    Ok(match args.operator.ledger {
        crate::cli::LedgerKind::Memory => {
            tracing::warn!(
                "--ledger memory: jobs, balances and receipts are LOST when this process ends; for tests only"
            );
            Box::new(MemoryLedger::new())
        }
        crate::cli::LedgerKind::Redb => Box::new(RedbLedger::open(&directory.file(LEDGER_FILE), &id.0)?),
    })
}

fn open_pool(
    args: &NodeArgs,
    directory: &DataDir,
    key: &SecretKey,
    node: String,
    models: &Models,
    ledger: &dyn Ledger,
    clock: Clock,
) -> Result<(Pool, HighWater)> {
    let is_genesis = ledger.next_seq() == 0;
    let mark = if args.operator.ledger == crate::cli::LedgerKind::Memory {
        "high_water.memory"
    } else {
        "high_water"
    };
    if args.operator.ledger == crate::cli::LedgerKind::Memory {
        let _ = std::fs::remove_file(directory.file(mark));
    }
    let high_water = HighWater::open(&directory.file(mark))?;
    high_water.check(ledger)?;
    let config = PoolConfig {
        node: Some(node),
        reserve: args.operator.reserve,
        name: args.pool.pool.clone(),
        operator: key.address(),
        models: models.workloads(),
        posted: args.operator.posted(),
        secret: *directory.pool_secret(is_genesis)?.expose(),
    };
    let Some(state) = restore(ledger, &directory.file(BLOCKS_FILE))? else {
        return Ok((Pool::create(config, clock.now()), high_water));
    };
    let header = state.last_header().map(|(number, link)| (number, link.to_string()));
    high_water.check_header(header.as_ref().map(|(number, link)| (*number, link.as_str())))?;
    let open = state.jobs().filter(|(_, job)| !job.stage.is_terminal()).count();
    tracing::info!(
        "ledger replayed: {} records, epoch {}, {open} open jobs",
        state.next_seq(),
        state.epoch().number
    );
    Ok((Pool::restore(config, state, clock.now())?, high_water))
}

/// The state of a ledger: its checkpoint, and the rows after it. Without a checkpoint that can be read, all rows, for
/// which what it has dropped is read from what is published in this file of blocks.
pub fn restore(ledger: &dyn Ledger, blocks: &Path) -> Result<Option<State>> {
    Ok(restore_with(ledger, blocks)?.finish())
}

/// The same, to be gone on with.
fn restore_with(ledger: &dyn Ledger, blocks: &Path) -> Result<Replay> {
    let (from, checkpoint) = checkpoint_of(ledger)?.unzip();
    let mut replay = Replay::new(checkpoint);
    let mut row = |seq: u64, row: &[u8]| {
        replay.row(seq, row).map_err(|e| LedgerError::Unusable { seq, reason: e.to_string() })
    };
    match from {
        Some(from) => ledger.replay(from, &mut row)?,
        None if ledger.first_seq() == 0 => ledger.replay(0, &mut row)?,
        None => {
            tracing::info!("reading the records of sealed epochs from their published pages");
            let blocks = BlockStore::open(blocks, DEFAULT_QUOTA_BYTES)?;
            published::replay_all(ledger, &blocks, &mut row).map_err(|error| {
                anyhow!(
                    "no checkpoint can be read, and not all records are here ({error:#}); restore a backup"
                )
            })?;
        }
    }
    Ok(replay)
}

/// The newest checkpoint, unless another version wrote it, which kept something else.
fn checkpoint_of(ledger: &dyn Ledger) -> Result<Option<(u64, State)>> {
    let Some((seq, bytes)) = ledger.load_checkpoint()? else { return Ok(None) };
    match State::from_checkpoint(&bytes) {
        Ok(state) => Ok(Some((seq, state))),
        Err(error) => {
            tracing::warn!("the checkpoint is not one of this version ({error}); replaying all records");
            Ok(None)
        }
    }
}
