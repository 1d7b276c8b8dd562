//! The owner's IPFS daemon.

use super::{Counters, Label, Source, Subsystem, counters, whole};
use crate::daemon::Standing;
use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

const PUT: Label<1> = [("what", "put")];
const LET_GO: Label<1> = [("what", "let_go")];
const REFUSED: Label<1> = [("what", "refused")];

/// What goes to the daemon and comes from it.
#[derive(Debug, Clone)]
pub struct DaemonMetrics {
    blocks: Counters<1>,
    fetched: Counter,
    reached: Gauge,
    behind: Gauge,
    compared: Gauge,
}

impl Default for DaemonMetrics {
    fn default() -> Self {
        let [reached, behind, compared] = Default::default();
        Self {
            blocks: counters([PUT, LET_GO, REFUSED]),
            fetched: Counter::default(),
            reached,
            behind,
            compared,
        }
    }
}

impl DaemonMetrics {
    /// It has taken so many blocks.
    pub fn put(&self, blocks: usize) {
        self.blocks.get_or_create(&PUT).inc_by(blocks as u64);
    }

    /// It was told that so many may go.
    pub fn let_go(&self, blocks: usize) {
        self.blocks.get_or_create(&LET_GO).inc_by(blocks as u64);
    }

    /// It has not taken a block.
    pub fn refused(&self) {
        self.blocks.get_or_create(&REFUSED).inc();
    }

    /// It had a block that was missing here.
    pub fn fetched(&self) {
        self.fetched.inc();
    }

    /// Whether it does what it is asked for.
    pub fn reached(&self, is_reached: bool) {
        self.reached.set(is_reached.into());
    }
}

impl Subsystem for DaemonMetrics {
    fn register(&self, registry: &mut Registry) {
        let daemon = registry.sub_registry_with_prefix("swarmpool_ipfs");
        daemon.register(
            "blocks",
            "Blocks put into the IPFS daemon, let go there, refused by it",
            self.blocks.clone(),
        );
        daemon.register(
            "fetched_blocks",
            "Blocks that the IPFS daemon had and the node had not",
            self.fetched.clone(),
        );
        daemon.register("reached", "Whether the IPFS daemon does what it is asked for", self.reached.clone());
        daemon.register("behind_blocks", "Blocks known to wait for the IPFS daemon", self.behind.clone());
        let help = "Whether nothing but those is missing there";
        daemon.register("compared", help, self.compared.clone());
    }
}

/// Reads how far the daemon is behind.
#[derive(Debug)]
pub struct DaemonSource {
    pub metrics: DaemonMetrics,
    pub standing: Standing,
}

#[async_trait]
impl Source for DaemonSource {
    async fn sample(&self) {
        let status = self.standing.status();
        self.metrics.behind.set(whole(status.behind));
        self.metrics.compared.set(status.compared.into());
    }
}
