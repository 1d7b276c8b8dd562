//! The store of a node's content, as its owner wants it.

use crate::cli::ContentArgs;
use crate::clock::Clock;
use crate::storage::blocks::{BlockError, BlockStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use swarm_protocol::Timestamp;
use tokio_util::sync::CancellationToken;

/// Between two looks for content that is old.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Opens the store in this file; content of jobs that nobody has named for long may go from it until `stop`.
pub fn open(
    args: &ContentArgs,
    file: &Path,
    clock: Clock,
    stop: CancellationToken,
) -> Result<Arc<BlockStore>, BlockError> {
    let blocks = Arc::new(BlockStore::open(file, args.content_quota)?);
    let (store, keep) = (Arc::downgrade(&blocks), args.keep_content.0);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            looks.tick().await;
            let Some(store) = store.upgrade() else { return };
            let before = Timestamp(clock.now().0.saturating_sub(keep));
            // Whoever needs the disk next is told what is wrong with it.
            match tokio::task::spawn_blocking(move || store.let_content_go(before)).await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(old)) => tracing::info!("{old} blocks of old jobs make room when it is needed"),
                Ok(Err(error)) => tracing::warn!("content of old jobs stays: {error}"),
            }
        }
    }));
    Ok(blocks)
}
