//! Operators that share a ledger: one is active, the others keep what it keeps and take its place when it is gone.

use super::content::Content;
use super::{BLOCKS_FILE, LEDGER_FILE, restore_with};
use crate::cli::{NodeArgs, RedisArgs};
use crate::clock::Clock;
use crate::home;
use crate::network::Network;
use crate::session::OPERATOR_AGENT;
use crate::storage::blocks::BlockStore;
use crate::storage::home::DataDir;
use crate::storage::ledger::{ACTIVE_FOR, LedgerError, RedisConfig, RedisLedger, RedisLog};
use crate::workload::Models;
use anyhow::{Context, Result};
use cid::Cid;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use swarm_crypto::address::PoolId;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::{Entry, EpochHeader, Record, Replay, State};
use swarm_protocol::statement::{Body, Input, Job, Proof, Statement};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// Between two looks at the log, and at who is active.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Between two words of the active process that it still is.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// Before a Redis that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// What is fetched at once of what the active process has.
const MAX_FETCHES: usize = 16;
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// That this process is the active one, for as long as it lives; says so when it is not any more.
#[derive(Debug)]
pub(super) struct Office {
    lost: watch::Receiver<Option<String>>,
    renewed: Arc<Mutex<Instant>>,
    _ends: SyncSender<()>,
}

impl Office {
    /// Whether nobody else can be active now: Redis has said so within the time for which it is promised.
    pub(super) fn is_sure(&self) -> bool {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < ACTIVE_FOR
    }
}

/// Whether a term ended because another process is active, or may be.
pub(super) fn is_deposed(error: &anyhow::Error) -> bool {
    let ledger = error.chain().find_map(|cause| cause.downcast_ref::<LedgerError>());
    matches!(ledger, Some(LedgerError::Deposed(_) | LedgerError::Redis { .. } | LedgerError::Conflict { .. }))
}

/// Waits until the office is lost; for ever if there is none to lose.
pub(super) async fn deposed(office: Option<&Office>) -> String {
    if let Some(office) = office {
        let mut lost = office.lost.clone();
        if let Ok(by) = lost.wait_for(Option::is_some).await {
            return by.clone().unwrap_or_default();
        }
    }
    std::future::pending().await
}

/// What this process calls itself towards Redis: the machine and the folder, of which it has the lock, so that one that
/// starts again need not wait for itself.
pub(super) fn config(redis: &RedisArgs, directory: &DataDir) -> RedisConfig {
    let machine = rustix::system::uname();
    let token = format!("{}:{}", machine.nodename().to_string_lossy(), directory.path().display());
    RedisConfig { urls: redis.urls.clone(), lossy: redis.lossy, token }
}

/// Stands by until this process is the active one; none if it is told to stop.
pub(super) async fn wait(
    args: &NodeArgs,
    redis: &RedisArgs,
    directory: &DataDir,
    id: &PoolId,
    models: &Arc<Models>,
    again: bool,
    stop: &CancellationToken,
) -> Result<Option<(RedisLedger, Office)>> {
    let config = config(redis, directory);
    let Some(mut follower) = Follower::open(&config, directory, id, again, stop).await? else {
        return Ok(None);
    };
    follower = follower.look().await?;
    if let Some(active) = &follower.active {
        tracing::info!("standing by: {active} is the active operator; what it keeps is copied here");
        let mirror = Mirror::start(args, directory, models).await?;
        follower.replay.state().into_iter().for_each(|state| mirror.catch_up(state));
        while follower.active.is_some() {
            mirror.take(std::mem::take(&mut follower.news)).await?;
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = stop.cancelled() => {
                    mirror.stop().await;
                    return Ok(None);
                }
            }
            follower = follower.look().await?;
        }
        mirror.take(std::mem::take(&mut follower.news)).await?;
        mirror.stop().await;
        tracing::info!("the active operator is gone; this one takes over");
    }
    let office = hold(config, id)?;
    Ok(Some((follower.ledger, office)))
}

/// A ledger, followed as others write to it.
struct Follower {
    ledger: RedisLedger,
    replay: Replay,
    /// Rows that came since they were last taken, and their blocks.
    news: Vec<(Entry, Vec<Vec<u8>>)>,
    /// Who is the active process, if it is another.
    active: Option<String>,
}

impl Follower {
    /// Opens the ledger, and what of it is here; waits for a Redis that was there before.
    async fn open(
        config: &RedisConfig,
        directory: &DataDir,
        id: &PoolId,
        again: bool,
        stop: &CancellationToken,
    ) -> Result<Option<Self>> {
        loop {
            let (config, copy, id) = (config.clone(), directory.file(LEDGER_FILE), id.0);
            let blocks = directory.file(BLOCKS_FILE);
            let open = move || -> Result<Self> {
                let ledger = RedisLedger::open(config, &copy, &id)?;
                let replay = restore_with(&ledger, &blocks)?;
                Ok(Self { ledger, replay, news: Vec::new(), active: None })
            };
            match tokio::task::spawn_blocking(open).await.context("opening the ledger broke off")? {
                Err(error) if again && is_deposed(&error) => tracing::warn!("{error}; trying again"),
                other => return other.map(Some),
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
    }

    /// Takes what is new, and the office if nobody has it; then nothing more can come.
    async fn look(self) -> Result<Self> {
        let look = move || -> Result<Self> {
            let mut this = self;
            this.follow()?;
            this.active = match this.ledger.take() {
                Ok(active) => active,
                // Redis is away, so nobody can be said to be active.
                Err(error @ LedgerError::Redis { .. }) => Some(error.to_string()),
                Err(error) => return Err(error.into()),
            };
            if this.active.is_none() {
                this.follow()?;
            }
            Ok(this)
        };
        tokio::task::spawn_blocking(look).await.context("following the ledger broke off")?
    }

    fn follow(&mut self) -> Result<()> {
        let Self { ledger, replay, news, .. } = self;
        let followed = ledger.follow(&mut |seq, row| {
            let taken = replay.row_with_blocks(seq, row);
            news.push(taken.map_err(|e| LedgerError::Unusable { seq, reason: e.to_string() })?);
            Ok(())
        });
        match followed {
            Err(LedgerError::Redis { url, reason }) => {
                tracing::warn!("Redis at {url} is away ({reason}); going on when it is back");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

/// What the active process keeps, kept here too: blocks that follow from the records, and what clients and miners
/// delivered, as long as it can be had from anybody.
struct Mirror {
    content: Content,
    fetches: Arc<Semaphore>,
    ended: CancellationToken,
    listening: tokio::task::JoinHandle<()>,
}

impl Mirror {
    async fn start(args: &NodeArgs, directory: &DataDir, models: &Arc<Models>) -> Result<Self> {
        let blocks = Arc::new(BlockStore::open(&directory.file(BLOCKS_FILE), args.content.content_quota)?);
        let config =
            home::network_config(&args.network, directory, &args.pool.pool, "operator", OPERATOR_AGENT)?;
        let (network, mut events) = Network::start(args.limits.apply(config), blocks.clone()).await?;
        let listening = tokio::spawn(async move {
            // It says nothing and believes nothing; who asks is told so by silence.
            while events.recv().await.is_some() {}
        });
        let content = Content::new(network, blocks, None, models.clone(), Clock::start());
        let (fetches, ended) = (Arc::new(Semaphore::new(MAX_FETCHES)), CancellationToken::new());
        Ok(Self { content, fetches, ended, listening })
    }

    /// Fetches what was published with records that were never here, as a log that has dropped them has none for it.
    fn catch_up(&self, state: &State) {
        let (mut next, open) = (state.last_header().map(|(_, header)| header), state.open_pages());
        self.fetch_all(move |content| async move {
            let until = || tokio::time::Instant::now() + FETCH_TIMEOUT;
            for page in &open {
                content.published(page, until()).await?;
            }
            while let Some(link) = next {
                let header: EpochHeader = codec::decode(&content.published(&link, until()).await?)?;
                for page in header.leaf_pages.iter().chain(&header.record_pages) {
                    content.published(page, until()).await?;
                }
                next = header.previous;
            }
            tracing::info!("all that is published of sealed epochs is here too");
            Ok(())
        });
    }

    async fn take(&self, news: Vec<(Entry, Vec<Vec<u8>>)>) -> Result<()> {
        let blocks = news.iter().flat_map(|(_, blocks)| blocks);
        let blocks: Vec<(Cid, Vec<u8>)> =
            blocks.map(|block| (Link::of(block).cid(), block.clone())).collect();
        if !blocks.is_empty() {
            self.content.store(blocks).await?;
        }
        for (entry, _) in news {
            match entry.record {
                Record::Admitted { job, .. } => {
                    if let Some(Job { input: Input::Linked { cid, bytes }, .. }) = job_of(&job.payload) {
                        self.fetch_all(move |content| async move {
                            let until = tokio::time::Instant::now() + FETCH_TIMEOUT;
                            content.input(cid, bytes, &[], until).await
                        });
                    }
                }
                Record::Accepted { proof, .. } => {
                    if let Some(proof) = proof_of(&proof.payload) {
                        self.fetch_all(move |content| async move {
                            content.copy(&proof, tokio::time::Instant::now() + FETCH_TIMEOUT).await
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Does this once there is room for it, as long as this process stands by.
    fn fetch_all<F: Future<Output = Result<()>> + Send + 'static>(
        &self,
        work: impl FnOnce(Content) -> F + Send + 'static,
    ) {
        let (content, fetches, ended) = (self.content.clone(), self.fetches.clone(), self.ended.clone());
        tokio::spawn(async move {
            let Ok(_permit) = fetches.acquire().await else { return };
            let work = ended.run_until_cancelled(work(content));
            if let Some(Err(error)) = work.await {
                tracing::warn!("content of the active operator is not here: {error}");
            }
        });
    }

    async fn stop(self) {
        self.fetches.close();
        self.ended.cancel();
        self.content.network.shutdown().await;
        self.listening.abort();
        // The store's file is free for what comes next once nobody holds it any more.
        let blocks = Arc::downgrade(&self.content.blocks);
        drop(self);
        while blocks.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn job_of(payload: &[u8]) -> Option<Job> {
    match Statement::decode(payload).ok()?.body {
        Body::Job(job) => Some(job),
        _ => None,
    }
}

fn proof_of(payload: &[u8]) -> Option<Proof> {
    match Statement::decode(payload).ok()?.body {
        Body::Proof(proof) => Some(proof),
        _ => None,
    }
}

/// Says again and again that this process is the active one, on a thread and a connection of its own, until the office
/// is dropped or lost.
fn hold(config: RedisConfig, id: &PoolId) -> Result<Office> {
    let (ends, ended) = sync_channel::<()>(0);
    let (say, lost) = watch::channel(None);
    let mut log = RedisLog::open(config, &id.0)?;
    // The time runs from before Redis was asked.
    let renewed = Arc::new(Mutex::new(Instant::now()));
    let last = renewed.clone();
    let renew = move || {
        loop {
            let asked = Instant::now();
            match log.renew() {
                Ok(None) => *last.lock().unwrap_or_else(PoisonError::into_inner) = asked,
                Ok(Some(by)) => return drop(say.send(Some(by))),
                Err(error) if last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= ACTIVE_FOR => {
                    return drop(say.send(Some(format!("unknown, as {error}"))));
                }
                Err(_) => {}
            }
            match ended.recv_timeout(RENEW_INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    std::thread::Builder::new().name("office".to_owned()).spawn(renew).context("cannot start a thread")?;
    Ok(Office { lost, renewed, _ends: ends })
}
