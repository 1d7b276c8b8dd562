//! How the daemon stands to the node: there or not, and how far behind.

use crate::metrics::DaemonMetrics;
use crate::storage::blocks::BlockStore;
use crate::storage::content_store::StoreError;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Shared by whoever works with the daemon and whoever tells of it.
#[derive(Debug, Clone)]
pub struct Standing {
    url: Arc<str>,
    /// Others wait until nobody holds the store any more.
    blocks: Weak<BlockStore>,
    state: Arc<Mutex<State>>,
    metrics: DaemonMetrics,
}

#[derive(Debug, Default)]
struct State {
    /// Why it does not have everything, since it last had, or could be asked.
    trouble: Option<String>,
    /// In hand or refused.
    waiting: usize,
    times_equal: u64,
    is_equal: bool,
    compared: bool,
    put: u64,
}

/// As it is told. `docs/status.md` describes its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    pub api: String,
    /// Blocks that are still to be put there or let go there, as far as is known.
    pub behind: u64,
    /// Whether that is all: not while both stores have not been compared.
    pub compared: bool,
    pub trouble: Option<String>,
}

impl Standing {
    pub fn new(url: &str, blocks: &Arc<BlockStore>, metrics: DaemonMetrics) -> Self {
        Self { url: url.into(), blocks: Arc::downgrade(blocks), state: Arc::default(), metrics }
    }

    /// How it is now.
    pub fn status(&self) -> DaemonStatus {
        let (noted, is_lost) = self.changed();
        let state = self.lock();
        DaemonStatus {
            api: self.url.to_string(),
            behind: (noted + state.waiting) as u64,
            compared: state.compared && !is_lost,
            trouble: state.trouble.clone(),
        }
    }

    pub(super) fn times_equal(&self) -> u64 {
        self.lock().times_equal
    }

    pub(super) fn compared(&self, compared: bool) {
        self.lock().compared = compared;
    }

    pub(super) fn wait_for(&self, blocks: usize) {
        self.lock().waiting = blocks;
    }

    pub(super) fn put(&self, blocks: usize) {
        self.metrics.put(blocks);
        self.lock().put += blocks as u64;
    }

    pub(super) fn let_go(&self, blocks: usize) {
        self.metrics.let_go(blocks);
    }

    pub(super) fn refused(&self, why: &str) {
        self.metrics.refused();
        self.lock().trouble = Some(why.to_owned());
    }

    /// It has everything. That is told when it had not for a while, not for each block.
    pub(super) fn equal(&self) {
        let mut state = self.lock();
        state.times_equal += 1;
        let was_in_trouble = state.trouble.take().is_some();
        if was_in_trouble || !state.is_equal {
            let put = std::mem::take(&mut state.put);
            tracing::info!(
                "the IPFS daemon has everything that is pinned here; {put} blocks were put into it"
            );
        }
        state.is_equal = true;
        self.metrics.reached(true);
    }

    pub(super) fn failed(&self, error: &StoreError) {
        let mut state = self.lock();
        let why = error.to_string();
        if state.is_equal || state.trouble.as_ref() != Some(&why) {
            let waiting = self.changed().0 + state.waiting;
            tracing::warn!(
                "the IPFS daemon at {} does not keep up, {waiting} blocks or more wait for it: {why}",
                self.url
            );
        }
        (state.is_equal, state.compared) = (false, false);
        state.waiting = 0;
        state.trouble = Some(why);
        self.metrics.reached(false);
    }

    fn changed(&self) -> (usize, bool) {
        self.blocks.upgrade().map_or((0, true), |blocks| blocks.changed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
