//! Blocks on their way.

use super::{Counters, Label, Subsystem, counters, whole};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

const RECEIVED: Label<1> = [("direction", "received")];
const SENT: Label<1> = [("direction", "sent")];

/// What Bitswap carries.
#[derive(Debug, Clone)]
pub struct BitswapMetrics {
    blocks: Counters<1>,
    bytes: Counters<1>,
    wants: Counters<1>,
    wants_held: Gauge,
}

impl Default for BitswapMetrics {
    fn default() -> Self {
        let [blocks, bytes, wants] = [(); 3].map(|()| counters([RECEIVED, SENT]));
        Self { blocks, bytes, wants, wants_held: Gauge::default() }
    }
}

impl BitswapMetrics {
    /// A message came with so many wants and with blocks of these sizes.
    pub fn received(&self, wants: usize, blocks: impl Iterator<Item = usize>) {
        self.count(&RECEIVED, wants, blocks);
    }

    /// A message went out.
    pub fn sent(&self, wants: usize, blocks: impl Iterator<Item = usize>) {
        self.count(&SENT, wants, blocks);
    }

    /// So many wants of others are held now.
    pub fn hold(&self, wants: usize) {
        self.wants_held.set(whole(wants));
    }

    fn count(&self, label: &Label<1>, wants: usize, blocks: impl Iterator<Item = usize>) {
        self.wants.get_or_create(label).inc_by(wants as u64);
        let (count, bytes) = blocks.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes as u64));
        self.blocks.get_or_create(label).inc_by(count);
        self.bytes.get_or_create(label).inc_by(bytes);
    }
}

impl Subsystem for BitswapMetrics {
    fn register(&self, registry: &mut Registry) {
        let bitswap = registry.sub_registry_with_prefix("swarmpool_bitswap");
        bitswap.register("blocks", "Blocks received and sent", self.blocks.clone());
        bitswap.register("bytes", "Bytes of blocks received and sent", self.bytes.clone());
        bitswap.register("wants", "Wants received and sent, cancels among them", self.wants.clone());
        bitswap.register("wants_held", "Wants of others that are held", self.wants_held.clone());
    }
}
