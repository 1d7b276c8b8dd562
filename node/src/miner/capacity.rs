//! What a miner offers, and how much of it is up.

use super::engines::Engines;
use crate::cli::MinerArgs;
use crate::clock::Clock;
use crate::devices;
use crate::driver::Input;
use crate::metrics::MinerMetrics;
use crate::providers::{Gone, Providers};
use crate::workload::Models;
use std::collections::BTreeMap;
use swarm_crypto::address::PoolId;
use swarm_crypto::key::SecretKey;
use swarm_inference::Hardware;
use swarm_protocol::miner::{AuditSecret, Config, Event, ModelTerms};
use swarm_protocol::statement::Assurance;
use tokio::sync::{mpsc, watch};

const MIB: u64 = 1 << 20;

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
        }
    }

    /// All of it, as nothing is gone.
    pub fn whole(self) -> Whole {
        Whole { slots_of_a_device: self.args.slots, devices: self.providers.devices.len() }
    }
}

/// Whole ones, as far as the wire can say.
fn mebibytes(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

/// What there is while nothing is gone.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    slots_of_a_device: u32,
    devices: usize,
}

impl Whole {
    /// What is left with so many devices gone.
    fn without(self, gone: usize) -> u32 {
        self.slots_of_a_device * u32::try_from(self.devices.saturating_sub(gone)).unwrap_or(u32::MAX)
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
        for (model, devices) in now {
            let before = told.insert(model.clone(), devices.len()).unwrap_or(0);
            metrics.lost_engines(devices.len().saturating_sub(before));
            let event = Event::Engines { model, slots: whole.without(devices.len()) };
            if devices.len() != before && inbox.send(Input::Event(event)).await.is_err() {
                return;
            }
        }
        // Of the model that is best off: others may be run by a server, of which nothing is heard here.
        metrics.has_engines(whole.without(told.values().min().copied().unwrap_or(0)));
        if gone.changed().await.is_err() {
            return;
        }
    }
}
