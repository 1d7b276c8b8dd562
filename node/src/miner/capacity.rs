//! What a miner offers, and how much of it is up.

use super::engines::Engines;
use crate::cli::MinerArgs;
use crate::clock::Clock;
use crate::devices;
use crate::driver::Input;
use crate::metrics::MinerMetrics;
use crate::providers::{Gone, Providers};
use crate::workload::Models;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::PoolId;
use swarm_crypto::key::SecretKey;
use swarm_inference::Hardware;
use swarm_protocol::altered::Altering;
use swarm_protocol::miner::{AuditSecret, Config, Event, ModelTerms};
use swarm_protocol::statement::Assurance;
use tokio::sync::{mpsc, watch};

const MIB: u64 = 1 << 20;
/// A share is in 1/10000.
const PARTS_OF_A_PERCENT: u32 = 100;

/// Jobs that can be run at once while all engines are up: so many on each device.
pub fn slots(args: &MinerArgs, providers: &Providers) -> u32 {
    args.slots * u32::try_from(providers.devices.len()).unwrap_or(u32::MAX)
}

/// What a miner offers.
#[derive(Clone, Copy)]
pub struct Offer<'a> {
    pub args: &'a MinerArgs,
    pub models: &'a Models,
    pub engines: &'a Engines,
    pub providers: &'a Providers,
}

impl Offer<'_> {
    /// As the miner says it in a pool.
    pub fn config(self, pool: &PoolId, key: &SecretKey, clock: Clock) -> Config {
        let Self { args, models, engines, providers } = self;
        let terms = |(model, assurances): (&String, &Vec<Assurance>)| ModelTerms {
            model: model.clone(),
            assurances: assurances.clone(),
            min_price: args.min_price,
            vram_mb: models
                .get(model)
                .map_or(0, |model| mebibytes(model.manifest().weight_bytes().next_multiple_of(MIB))),
        };
        // What a processor's models may take is the machine's memory.
        let host = args.engine_memory.unwrap_or_else(|| mebibytes(Hardware::probe().memory_bytes));
        Config {
            pool: *pool,
            wallet: key.address(),
            slots: slots(args, providers),
            models: engines.models().iter().map(terms).collect(),
            mode: args.payout.into(),
            ens: args.ens.clone(),
            device: devices::in_words(&providers.devices),
            vram_mb: devices::memory_mib(&providers.devices, host),
            boot_at: clock.now(),
            audit_secret: AuditSecret::of(&key.to_bytes()),
            altering: args
                .alter_proofs
                .map(|percent| Altering::of(&key.to_bytes(), PARTS_OF_A_PERCENT * percent)),
        }
    }

    /// All of it, as nothing is gone.
    pub fn whole(self) -> Whole {
        Whole {
            slots_of_a_device: self.args.slots,
            devices: self.providers.devices.len(),
            models: self.engines.models().keys().cloned().collect(),
        }
    }
}

/// Whole ones, as far as the wire can say.
fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

/// What there is while nothing is gone.
#[derive(Debug, Clone)]
pub struct Whole {
    slots_of_a_device: u32,
    devices: usize,
    models: Vec<String>,
}

impl Whole {
    /// Jobs of a model at once, with so many devices gone.
    fn without(&self, gone: usize) -> u32 {
        self.slots_of_a_device * u32::try_from(self.devices.saturating_sub(gone)).unwrap_or(u32::MAX)
    }

    /// Jobs at once of the model that is best off, as heartbeats say it. A model that nothing is heard of, such as one that a
    /// server runs, has lost nothing.
    fn at_once(&self, gone: &Gone) -> u32 {
        let lost = |model| gone.get(model).map_or(0, BTreeSet::len);
        self.without(self.models.iter().map(lost).min().unwrap_or(0))
    }
}

/// Tells the miner how many jobs of each model can be run, as engines end and come back.
pub async fn keep(
    whole: Whole,
    mut gone: watch::Receiver<Gone>,
    inbox: mpsc::Sender<Input<Event, ()>>,
    metrics: MinerMetrics,
) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let now = gone.borrow_and_update().clone();
        metrics.has_engines(whole.at_once(&now));
        for (model, devices) in now {
            let before = told.insert(model.clone(), devices.len()).unwrap_or(0);
            metrics.lost_engines(devices.len().saturating_sub(before));
            let event = Event::Engines { model, slots: whole.without(devices.len()) };
            if devices.len() != before && inbox.send(Input::Event(event)).await.is_err() {
                return;
            }
        }
        if gone.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models, and the devices that each has lost.
    type Lost = [(&'static str, &'static [usize])];

    fn gone(models: &Lost) -> Gone {
        models.iter().map(|(name, devices)| ((*name).to_owned(), devices.iter().copied().collect())).collect()
    }

    #[test]
    fn what_can_run_at_once_is_what_the_model_that_is_best_off_can() {
        let models = ["matmul", "nano"].map(str::to_owned).to_vec();
        let whole = Whole { slots_of_a_device: 2, devices: 2, models };
        let table: [(&Lost, u32); 7] = [
            (&[], 4),
            (&[("nano", &[]), ("matmul", &[])], 4),
            (&[("nano", &[1]), ("matmul", &[])], 4),
            // A server runs the other.
            (&[("nano", &[1])], 4),
            (&[("nano", &[1]), ("matmul", &[1])], 2),
            // With two jobs in hand neither is claimed any more, whichever these are.
            (&[("nano", &[1]), ("matmul", &[0])], 2),
            (&[("nano", &[0, 1]), ("matmul", &[0, 1])], 0),
        ];
        for (lost, expected) in table {
            assert_eq!(whole.at_once(&gone(lost)), expected, "{lost:?}");
        }
    }
}
