//! The store of blocks, and the disk beneath it.

use super::{Source, Subsystem, whole};
use crate::storage::blocks::BlockStore;
use crate::storage::disk::available_bytes;
use async_trait::async_trait;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::path::PathBuf;
use std::sync::Arc;

/// A node's blocks and the room for them.
#[derive(Debug, Clone)]
pub struct ContentSource {
    blocks: Arc<BlockStore>,
    folder: PathBuf,
    bytes: Gauge,
    pinned_bytes: Gauge,
    quota_bytes: Gauge,
    count: Gauge,
    disk_available: Gauge,
}

impl ContentSource {
    /// Of this store, in this folder.
    pub fn new(blocks: Arc<BlockStore>, folder: PathBuf) -> Self {
        let [bytes, pinned_bytes, quota_bytes, count, disk_available] = Default::default();
        Self { blocks, folder, bytes, pinned_bytes, quota_bytes, count, disk_available }
    }
}

impl Subsystem for ContentSource {
    fn register(&self, registry: &mut Registry) {
        let content = registry.sub_registry_with_prefix("swarmpool_content");
        content.register("bytes", "Content held, pinned or not", self.bytes.clone());
        content.register("pinned_bytes", "Content held that stays", self.pinned_bytes.clone());
        content.register("quota_bytes", "Content that may be held", self.quota_bytes.clone());
        content.register("blocks", "Blocks held", self.count.clone());
        let help = "Room on the disk that holds the node's files";
        registry.register("swarmpool_disk_available_bytes", help, self.disk_available.clone());
    }
}

#[async_trait]
impl Source for ContentSource {
    async fn sample(&self) {
        let usage = self.blocks.usage();
        self.bytes.set(whole(usage.bytes));
        self.pinned_bytes.set(whole(usage.pinned_bytes));
        self.quota_bytes.set(whole(usage.quota_bytes));
        self.count.set(whole(usage.blocks));
        if let Ok(available) = available_bytes(&self.folder) {
            self.disk_available.set(whole(available));
        }
    }
}
