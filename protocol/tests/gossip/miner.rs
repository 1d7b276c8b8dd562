//! A miner's node: the real machine, and an engine that takes some seconds.

use crate::mint::Node;
use crate::operator::MODEL;
use crate::world::{Event, World};
use std::sync::Arc;
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::miner::{self, Config, Content, Delivered, Effect, Miner, ModelTerms};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::{Assurance, PayoutMode};
use swarm_protocol::{Machine, Timestamp};

/// How long an engine runs.
const RUN: (u64, u64) = (1_000, 5_000);
pub(crate) const OUTPUT: &[u8] = b"Because the blue part of its light is scattered most.";

#[derive(Debug)]
pub(crate) struct MinerShell {
    machine: Miner,
}

impl MinerShell {
    pub(crate) fn new(world: &World, wallet: Address) -> Self {
        let terms = ModelTerms {
            model: MODEL.into(),
            assurances: vec![Assurance::Seeded, Assurance::Distance],
            min_price: MicroUsdc(0),
            vram_mb: 0,
        };
        let config = Config {
            pool: world.mint.pool,
            wallet,
            slots: 1,
            models: vec![terms],
            mode: PayoutMode::Solo,
            ens: None,
            device: "NVIDIA GeForce RTX 4090".into(),
            vram_mb: 24_564,
            boot_at: world.now(),
            audit_secret: miner::AuditSecret::of(&[7; 32]),
            altering: None,
        };
        Self { machine: Miner::new(config) }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    pub(crate) fn wake(&mut self, world: &mut World, node: Node) {
        self.machine.handle_timeout(world.now());
        self.perform(world, node);
    }

    pub(crate) fn tell(&mut self, event: miner::Event, world: &mut World, node: Node) {
        self.machine.handle(event, world.now());
        self.perform(world, node);
    }

    pub(crate) fn happens(&mut self, event: miner::Event, world: &mut World, node: Node) {
        self.tell(event, world, node);
    }

    fn perform(&mut self, world: &mut World, node: Node) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Publish(topic, statement) => world.say(node, topic, &statement),
                Effect::Hand(statement) => {
                    let said = world.mint.say(&statement);
                    world.hand(node, said);
                }
                Effect::Ask(query) => world.ask(node, query),
                Effect::FetchRoster { epoch, roster } => fetch_roster(world, node, epoch, &roster),
                Effect::Prepare { lease, job } => prepare(world, node, lease, &job),
                Effect::Infer(run) => infer(world, node, run.lease),
                Effect::Audit(_) | Effect::Evidence(_) => unreachable!("nothing is audited here"),
                Effect::Abort { .. } | Effect::Story(_) | Effect::Finished => {}
            }
        }
    }
}

fn fetch_roster(world: &mut World, node: Node, epoch: u64, roster: &Link) {
    if let Some(roster) = world.operator.rosters.get(roster) {
        let event = miner::Event::RosterLearned { epoch, roster: Arc::clone(roster) };
        let delay = world.rng.range(100, 2_000);
        world.later(node, delay, Event::Miner(Box::new(event)));
    }
}

fn prepare(world: &mut World, node: Node, lease: Digest, job: &JobId) {
    let signed = world.operator.pool.snapshot(job);
    let content = signed.map(|signed| world.mint.known(&signed).verified.clone());
    let content = content.map(|job| Box::new(Content { job, linked: None })).ok_or("nobody has it".into());
    let delay = world.rng.range(100, 300);
    world.later(node, delay, Event::Miner(Box::new(miner::Event::JobReady { lease, content })));
}

fn infer(world: &mut World, node: Node, lease: Digest) {
    let takes = world.rng.range(RUN.0, RUN.1);
    for units in 1..=takes / 900 {
        let prefix = blake3(&units.to_be_bytes());
        let event = miner::Event::EngineProgress { lease, units, prefix };
        world.later(node, units * 900, Event::Miner(Box::new(event)));
    }
    let delivered = Delivered {
        transcript: Link(lease.0),
        transcript_bytes: 4_000,
        output: raw_cid(OUTPUT),
        output_bytes: OUTPUT.len() as u64,
        altered: None,
    };
    let event = miner::Event::EngineDone { lease, outcome: Ok(delivered) };
    world.later(node, takes, Event::Miner(Box::new(event)));
}
