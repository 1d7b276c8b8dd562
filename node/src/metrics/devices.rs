//! The devices that a miner's engines compute on.

use super::{Source, Subsystem, whole};
use crate::devices::Device;
use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use swarm_inference::{DeviceStats, Registry as Providers};

/// The name of a device, of which there are at most [`crate::devices::MAX_DEVICES`].
type Label = Vec<(&'static str, String)>;

/// How the devices are used.
#[derive(Debug, Clone)]
pub struct DeviceSource {
    providers: Providers,
    names: Vec<String>,
    up: Family<Label, Gauge>,
    running: Family<Label, Gauge>,
    begun: Family<Label, Counter>,
}

impl DeviceSource {
    pub fn new(providers: Providers, devices: &[Device]) -> Self {
        let names = devices.iter().map(|device| device.name.clone()).collect();
        let (up, running, begun) = (Family::default(), Family::default(), Family::default());
        Self { providers, names, up, running, begun }
    }

    fn note(&self, name: &str, stats: &DeviceStats) {
        let label = vec![("device", name.to_owned())];
        self.up.get_or_create(&label).set(i64::from(stats.is_up));
        self.running.get_or_create(&label).set(whole(stats.running));
        let begun = self.begun.get_or_create(&label);
        begun.inc_by(stats.begun.saturating_sub(begun.get()));
    }
}

#[async_trait]
impl Source for DeviceSource {
    async fn sample(&self) {
        let stats = self.providers.providers().flat_map(|provider| provider.devices());
        self.names.iter().zip(stats).for_each(|(name, stats)| self.note(name, &stats));
    }
}

impl Subsystem for DeviceSource {
    fn register(&self, registry: &mut Registry) {
        let miner = registry.sub_registry_with_prefix("swarmpool_miner_device");
        miner.register("up", "1 while all models can be run on the device", self.up.clone());
        let help = "Jobs, and looks at proofs of others, that run on the device now";
        miner.register("running", help, self.running.clone());
        miner.register("begun", "Jobs and looks that were begun on the device", self.begun.clone());
    }
}
