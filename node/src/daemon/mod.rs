//! The owner's own IPFS daemon, beside the node's own store: what stays here is put there too, and what is missing here may
//! be there. Jobs depend on the node's store alone.

#[cfg(feature = "kubo")]
pub mod kubo;
mod lent;
mod lookup;
mod mirror;
mod standing;
#[cfg(test)]
mod tests;

pub use lookup::MAX_LOOKUP;
pub use standing::{DaemonStatus, Standing};

use crate::cli::UserError;
use crate::metrics::{DaemonMetrics, DaemonSource, Exporter};
use crate::network::{BlockSource, FetchError, Network, Until};
use crate::storage::blocks::BlockStore;
use crate::storage::content_store::{ContentStore, Reach, StoreError};
use crate::storage::home::DataDir;
use anyhow::Result;
use cid::Cid;
use lent::Lent;
use libp2p::PeerId;
use lookup::Lookup;
use mirror::{Mirror, Rests};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What the daemon was asked to pin for the tree.
const LENT_FILE: &str = "daemon.redb";

/// A daemon that has answered.
#[derive(Debug, Clone)]
pub struct Daemon {
    store: Arc<dyn ContentStore>,
    url: Arc<str>,
    metrics: DaemonMetrics,
}

impl Daemon {
    /// The daemon of `--ipfs-api`, if there is one.
    #[cfg(feature = "kubo")]
    pub async fn open(url: Option<&str>) -> Result<Option<Self>> {
        let Some(url) = url else { return Ok(None) };
        let (kubo, version) = kubo::Kubo::open(url).await.map_err(|error| not_opened(url, &error))?;
        tracing::info!("the IPFS daemon at {url} is there, version {version}");
        Ok(Some(Self { store: Arc::new(kubo), url: url.into(), metrics: DaemonMetrics::default() }))
    }

    /// A program without the feature takes no `--ipfs-api`.
    #[cfg(not(feature = "kubo"))]
    pub async fn open(_: Option<&str>) -> Result<Option<Self>> {
        Ok(None)
    }

    /// Begins to put there what stays in `blocks`, and to show the tree.
    pub fn mirror(
        &self,
        blocks: &Arc<BlockStore>,
        directory: &DataDir,
        tree: watch::Receiver<Option<Cid>>,
        stop: CancellationToken,
    ) -> Result<Mirroring> {
        let standing = Standing::new(&self.url, blocks, self.metrics.clone());
        let lent = Arc::new(Lent::open(&directory.file(LENT_FILE))?);
        let (blocks, to, rests) = (blocks.clone(), self.store.clone(), Rests::default());
        let mirror = Mirror { blocks, to, lent, tree, standing: standing.clone(), rests };
        Ok(Mirroring { standing, metrics: self.metrics.clone(), task: tokio::spawn(mirror.run(stop)) })
    }

    async fn get(&self, cid: &Cid, max_bytes: usize, until: Instant) -> Option<Vec<u8>> {
        let within = until.saturating_duration_since(Instant::now());
        match self.store.get(cid, Reach::Network, within).await {
            Ok(block) => block.filter(|block| block.len() <= max_bytes).inspect(|_| self.metrics.fetched()),
            Err(error) => {
                tracing::debug!(%cid, "the IPFS daemon does not give a block: {error}");
                None
            }
        }
    }
}

/// What peers get: what stays in `blocks`, and what the daemon has.
pub fn source(daemon: Option<&Daemon>, blocks: &Arc<BlockStore>) -> Arc<dyn BlockSource> {
    match daemon {
        None => blocks.clone(),
        Some(daemon) => Arc::new(Lookup::new(blocks.clone(), daemon.store.clone(), daemon.metrics.clone())),
    }
}

/// The block that peers bring, or the daemon if it is faster or they have none.
pub async fn fetch(
    daemon: Option<&Daemon>,
    network: &Network,
    cid: &Cid,
    likely: &[PeerId],
    max_bytes: usize,
    until: Until,
) -> Result<Vec<u8>, FetchError> {
    let by_peers = network.fetch(cid, likely, max_bytes, until);
    let Some(daemon) = daemon else { return by_peers.await };
    let by_daemon = daemon.get(cid, max_bytes, until.found);
    tokio::pin!(by_peers, by_daemon);
    tokio::select! {
        fetched = &mut by_peers => match fetched {
            Ok(block) => Ok(block),
            Err(error) => by_daemon.await.ok_or(error),
        },
        found = &mut by_daemon => match found {
            Some(block) => Ok(block),
            None => by_peers.await,
        },
    }
}

/// A mirror at work.
#[derive(Debug)]
pub struct Mirroring {
    standing: Standing,
    metrics: DaemonMetrics,
    task: JoinHandle<()>,
}

impl Mirroring {
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    pub fn show(&self, exporter: &mut Exporter) {
        exporter.show(&self.metrics);
        exporter.read(DaemonSource { metrics: self.metrics.clone(), standing: self.standing.clone() });
    }

    /// Waits for its end, once it was told to stop.
    pub async fn end(self) {
        // It ends by itself or with the process.
        let _ = self.task.await;
    }
}

#[cfg_attr(not(feature = "kubo"), allow(dead_code, reason = "nothing is opened without the feature"))]
fn not_opened(url: &str, error: &StoreError) -> UserError {
    match error {
        StoreError::Away(why) => UserError::input(format!("no IPFS daemon answers at {url}: {why}"))
            .hint("start it with ipfs daemon, or correct --ipfs-api"),
        StoreError::Refused(_) | StoreError::Block(_) => UserError::input(format!(
            "what answers at {url} is not the RPC of an IPFS daemon: {error}"
        ))
        .hint("--ipfs-api takes the address that the daemon's log calls RPC API server, usually port 5001"),
    }
}
