//! What a node counts and measures, one struct for each subsystem; told to Prometheus on `--metrics`, and to nobody
//! without it.
//!
//! Counters move where things happen. Gauges are read by a [`Source`] when somebody asks. Labels have few values, all
//! of them named here, whatever peers send.

use crate::network::Network;
use crate::storage::blocks::BlockStore;
use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

mod bitswap;
mod content;
mod daemon;
mod devices;
mod ledger;
mod miner;
mod network;
mod pool;
mod process;
mod server;
mod text;

pub use bitswap::BitswapMetrics;
pub use content::ContentSource;
pub use daemon::{DaemonMetrics, DaemonSource};
pub use devices::DeviceSource;
pub use ledger::{LedgerMetrics, LedgerSource, MeasuredLedger};
pub use miner::MinerMetrics;
pub use network::{NetworkMetrics, NetworkSource, Refused};
pub use pool::{Figures, PoolMetrics, PoolSource};
pub use server::{MAX_CONNECTION_TIME, MAX_CONNECTIONS, MAX_QUESTION_BYTES, ServeError, Server};

/// How long one source may take to be read; what it showed last is shown again if it takes longer.
pub const MAX_SAMPLE_TIME: Duration = Duration::from_secs(2);

/// The address of `--metrics` without one.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9477";

type Label<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Label<N>, Counter>;
type Gauges<const N: usize> = Family<Label<N>, Gauge>;
/// For what is not whole.
type RealGauge = Gauge<f64, AtomicU64>;
type RealCounter = Counter<f64, AtomicU64>;

/// A subsystem's metrics.
pub trait Subsystem {
    /// Puts them under their names.
    fn register(&self, registry: &mut Registry);
}

/// What has to be read to be shown.
#[async_trait]
pub trait Source: Send + Sync {
    /// Reads it into the gauges; may be dropped half way.
    async fn sample(&self);
}

/// Everything that a node shows.
pub struct Exporter {
    registry: Registry,
    /// Locked by whoever is asking: many who ask at once cost one after the other.
    sources: Mutex<Vec<Box<dyn Source>>>,
    late: Counter,
}

impl Exporter {
    /// Shows what every node has: its program, its process, its peers, its content in a folder.
    pub fn of_node(role: &'static str, network: Network, blocks: Arc<BlockStore>, folder: &Path) -> Self {
        let mut exporter = Self::new(role);
        exporter.show(network.metrics());
        exporter.read(NetworkSource { network });
        let content = ContentSource::new(blocks, folder.to_owned());
        exporter.show(&content);
        exporter.read(content);
        exporter
    }

    fn new(role: &'static str) -> Self {
        let mut exporter =
            Self { registry: Registry::default(), sources: Mutex::default(), late: Counter::default() };
        let about = Gauges::default();
        about.get_or_create(&[("role", role), ("version", env!("CARGO_PKG_VERSION"))]).set(1);
        let registry = &mut exporter.registry;
        registry.register("swarmpool_build_info", "The program; always 1", about);
        let help = "Parts of the node that were not read in time: what is shown of them is older";
        registry.register("swarmpool_metrics_late", help, exporter.late.clone());
        if let Some(process) = process::ProcessSource::of_this_process() {
            exporter.show(&process.clone());
            exporter.read(process);
        }
        exporter
    }

    /// Shows a subsystem too.
    pub fn show(&mut self, metrics: &impl Subsystem) {
        metrics.register(&mut self.registry);
    }

    /// Reads a source whenever somebody asks.
    pub fn read(&mut self, source: impl Source + 'static) {
        self.sources.get_mut().push(Box::new(source));
    }

    /// All metrics as they are now, in Prometheus' text format 0.0.4.
    pub async fn text(&self) -> Result<String, fmt::Error> {
        let sources = self.sources.lock().await;
        let one = async |source: &dyn Source| {
            if timeout(MAX_SAMPLE_TIME, source.sample()).await.is_err() {
                self.late.inc();
            }
        };
        futures::future::join_all(sources.iter().map(|source| one(source.as_ref()))).await;
        text::encode(&self.registry)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

/// A number as gauges take it.
fn whole(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Sets one gauge of a family.
fn set<const N: usize>(family: &Gauges<N>, label: Label<N>, number: impl TryInto<i64>) {
    family.get_or_create(&label).set(whole(number));
}

/// Counters under these labels, shown from the start: what appears only with its first event has no rate before it.
fn counters<const N: usize>(labels: impl IntoIterator<Item = Label<N>>) -> Counters<N> {
    let family = Counters::default();
    labels.into_iter().for_each(|label| drop(family.get_or_create(&label)));
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hangs;

    #[async_trait]
    impl Source for Hangs {
        async fn sample(&self) {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_part_that_hangs_is_counted_and_the_others_are_shown() {
        let mut exporter = Exporter::new("miner");
        exporter.read(Hangs);
        let shown = timeout(2 * MAX_SAMPLE_TIME, exporter.text()).await.expect("it does not wait for ever");
        let shown = shown.unwrap();
        assert!(shown.contains("swarmpool_metrics_late_total 1\n"), "{shown}");
        assert!(!shown.contains("\nprocess_resident_memory_bytes 0\n"), "{shown}");
    }
}
