//! Signatures of record pages, checked on other threads while the pages before are read.

use anyhow::{Context, Result};
use std::sync::{Arc, Mutex, PoisonError};
use swarm_crypto::keyring::Keyring;
use swarm_protocol::pool::verify::Proven;
use tokio::sync::Semaphore;

/// As many threads as there are cores.
pub struct Workers {
    free: Semaphore,
    /// Keys that resting threads remember.
    keyrings: Arc<Mutex<Vec<Keyring>>>,
}

impl Default for Workers {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { free: Semaphore::new(cores), keyrings: Arc::default() }
    }
}

impl Workers {
    /// Gives a page back with what was found good in it.
    pub async fn prove(&self, block: Vec<u8>) -> Result<(Vec<u8>, Proven)> {
        let _permit = self.free.acquire().await?;
        let keyrings = self.keyrings.clone();
        let checked = tokio::task::spawn_blocking(move || {
            let resting = || keyrings.lock().unwrap_or_else(PoisonError::into_inner);
            let mut keyring = resting().pop().unwrap_or_default();
            let proven = Proven::of(&block, &mut keyring);
            resting().push(keyring);
            (block, proven)
        });
        checked.await.context("a check broke off")
    }
}
