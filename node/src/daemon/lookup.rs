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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::content_store::StoreError;
    use async_trait::async_trait;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use swarm_protocol::codec::raw_cid;

    /// Has one block, and an answer for everybody only once it is let.
    #[derive(Debug, Default)]
    struct Daemon {
        asked: AtomicUsize,
        held: Option<Semaphore>,
        is_away: bool,
    }

    #[async_trait]
    impl ContentStore for Daemon {
        async fn put_pinned(&self, _: &[(Cid, Vec<u8>)]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn get(&self, cid: &Cid, reach: Reach, _: Duration) -> Result<Option<Vec<u8>>, StoreError> {
            assert_eq!(reach, Reach::Local, "peers must not make the daemon search");
            self.asked.fetch_add(1, Ordering::SeqCst);
            if let Some(held) = &self.held {
                let _ = held.acquire().await;
            }
            match self.is_away {
                true => Err(StoreError::Away("it is away".to_owned())),
                false => Ok((*cid == raw_cid(b"theirs")).then(|| b"theirs".to_vec())),
            }
        }

        async fn unpin(&self, _: &[Cid]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn pinned(&self, _: &mut (dyn FnMut(Cid) + Send)) -> Result<(), StoreError> {
            Ok(())
        }
    }

    async fn lookup(daemon: Daemon) -> (Arc<Lookup>, Arc<Daemon>) {
        let blocks = Arc::new(BlockStore::in_memory(1 << 20).unwrap());
        blocks.put_pinned(&[(raw_cid(b"ours"), b"ours")]).unwrap();
        let daemon = Arc::new(daemon);
        (Arc::new(Lookup::new(blocks, daemon.clone(), DaemonMetrics::default())), daemon)
    }

    async fn find(lookup: &Arc<Lookup>, text: &'static [u8]) -> Option<Vec<u8>> {
        let lookup = lookup.clone();
        tokio::task::spawn_blocking(move || lookup.block(&raw_cid(text))).await.unwrap()
    }

    #[tokio::test]
    async fn the_daemon_is_asked_for_what_is_missing_and_not_again_and_again() {
        let (lookup, daemon) = lookup(Daemon::default()).await;
        assert_eq!(find(&lookup, b"ours").await, Some(b"ours".to_vec()));
        assert_eq!(daemon.asked.load(Ordering::SeqCst), 0);
        assert_eq!(find(&lookup, b"theirs").await, Some(b"theirs".to_vec()));
        for _ in 0..5 {
            assert_eq!(find(&lookup, b"nobody's").await, None);
        }
        assert_eq!(daemon.asked.load(Ordering::SeqCst), 2);
        let away = Daemon { is_away: true, ..Daemon::default() };
        let (lookup, daemon) = self::lookup(away).await;
        for text in [b"one".as_slice(), b"two", b"theirs"] {
            assert_eq!(find(&lookup, text).await, None);
        }
        assert_eq!(daemon.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_slow_daemon_holds_few_threads() {
        let held = Daemon { held: Some(Semaphore::new(0)), ..Daemon::default() };
        let (lookup, daemon) = lookup(held).await;
        let waiting: Vec<_> = (0..MAX_LOOKUPS)
            .map(|_| {
                let lookup = lookup.clone();
                tokio::task::spawn_blocking(move || lookup.block(&raw_cid(b"theirs")))
            })
            .collect();
        while daemon.asked.load(Ordering::SeqCst) < MAX_LOOKUPS {
            tokio::task::yield_now().await;
        }
        assert_eq!(find(&lookup, b"theirs").await, None, "no place is left");
        daemon.held.as_ref().unwrap().add_permits(MAX_LOOKUPS);
        for found in waiting {
            assert_eq!(found.await.unwrap(), Some(b"theirs".to_vec()));
        }
    }
}
