//! Blocks for peers: the node's own, then the daemon's. Peers ask for much that nobody here has, and whoever looks it up
//! holds a thread meanwhile: few look at once, and what was not there is not looked for again for a while.

use crate::metrics::DaemonMetrics;
use crate::network::BlockSource;
use crate::storage::blocks::BlockStore;
use crate::storage::content_store::{ContentStore, Reach};
use cid::Cid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Lookups at once; further ones find nothing.
const MAX_LOOKUPS: usize = 8;
/// How long the daemon is asked.
pub const MAX_LOOKUP: Duration = Duration::from_secs(2);
/// Blocks that are known to be absent, and for how long.
const MAX_ABSENT: usize = 4096;
const ABSENT_FOR: Duration = Duration::from_secs(10);
/// How long a daemon that does not answer is not asked.
const AWAY_FOR: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Lookup {
    blocks: Arc<BlockStore>,
    daemon: Arc<dyn ContentStore>,
    metrics: DaemonMetrics,
    places: Semaphore,
    known: Mutex<Known>,
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Known {
    absent: HashMap<Cid, Instant>,
    away_since: Option<Instant>,
}

impl Known {
    fn rules_out(&self, cid: &Cid) -> bool {
        self.away_since.is_some_and(|since| since.elapsed() < AWAY_FOR)
            || self.absent.get(cid).is_some_and(|since| since.elapsed() < ABSENT_FOR)
    }

    fn note_absent(&mut self, cid: Cid) {
        if self.absent.len() >= MAX_ABSENT {
            self.absent.retain(|_, since| since.elapsed() < ABSENT_FOR);
        }
        if self.absent.len() < MAX_ABSENT {
            self.absent.insert(cid, Instant::now());
        }
    }
}

impl Lookup {
    /// To be asked by threads that may wait; must be made within the runtime.
    pub fn new(blocks: Arc<BlockStore>, daemon: Arc<dyn ContentStore>, metrics: DaemonMetrics) -> Self {
        let places = Semaphore::new(MAX_LOOKUPS);
        Self { blocks, daemon, metrics, places, known: Mutex::default(), runtime: Handle::current() }
    }

    fn in_daemon(&self, cid: &Cid) -> Option<Vec<u8>> {
        let _place = self.places.try_acquire().ok()?;
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known().rules_out(cid) {
            return None;
        }
        match self.runtime.block_on(self.daemon.get(cid, Reach::Local, MAX_LOOKUP)) {
            Ok(Some(block)) => Some(block),
            Ok(None) => {
                known().note_absent(*cid);
                None
            }
            Err(error) => {
                tracing::debug!(%cid, "the IPFS daemon does not say whether it has a block: {error}");
                known().away_since = Some(Instant::now());
                None
            }
        }
    }
}

impl BlockSource for Lookup {
    fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        let own = BlockSource::block(self.blocks.as_ref(), cid);
        own.or_else(|| self.in_daemon(cid).inspect(|_| self.metrics.fetched()))
    }

    fn has(&self, cid: &Cid) -> bool {
        BlockSource::has(self.blocks.as_ref(), cid) || self.in_daemon(cid).is_some()
    }
}
