//! Everybody but the operator: honest miners and clients run the real machines, liars do as they like.

use crate::client::Client;
use crate::liar::Liar;
use crate::miner::MinerShell;
use crate::mint::Node;
use crate::network::Packet;
use crate::world::World;
use cid::Cid;
use std::rc::Rc;
use swarm_crypto::digest::Digest;
use swarm_protocol::Timestamp;
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::miner::{Delivered, Looked};
use swarm_protocol::statement::Verified;

#[derive(Debug)]
pub(crate) enum Actor {
    Miner(Box<MinerShell>),
    Client(Box<Client>),
    Liar(Box<Liar>),
    Absent,
}

/// What can happen to an actor.
#[derive(Debug, Clone)]
pub(crate) enum ActorEvent {
    Wake,
    Packet(Packet),
    Connected,
    Disconnected,
    /// The engine got on, or is through.
    Engine {
        lease: Digest,
        report: EngineReport,
    },
    /// The time to fetch a job's content is over.
    Prepared {
        lease: Digest,
        job: JobId,
    },
    /// A look at somebody's proof is over.
    Audited {
        epoch: u64,
        index: u64,
        outcome: Result<Looked, String>,
    },
    Roster {
        epoch: u64,
        roster: Link,
    },
    Output {
        job: JobId,
        cid: Cid,
    },
    Submit,
    Cancel(JobId),
    Drain,
    /// A liar's turn.
    Lie,
}

#[derive(Debug, Clone)]
pub(crate) enum EngineReport {
    Progress(u64, Digest),
    Done(Result<Delivered, String>),
}

impl Actor {
    pub(crate) fn handle(&mut self, world: &mut World, node: Node, event: ActorEvent) {
        match self {
            Actor::Miner(miner) => miner.handle(world, node, event),
            Actor::Client(client) => client.handle(world, node, event),
            Actor::Liar(liar) => liar.handle(world, node, event),
            Actor::Absent => {}
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        match self {
            Actor::Miner(miner) => miner.poll_timeout(),
            Actor::Client(client) => client.poll_timeout(),
            Actor::Liar(_) | Actor::Absent => None,
        }
    }

    /// Whether it waits for something that must come.
    pub(crate) fn waits(&self) -> bool {
        match self {
            Actor::Client(client) => client.waits(),
            Actor::Miner(_) | Actor::Liar(_) | Actor::Absent => false,
        }
    }
}

/// Gossip is taken once.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    heard: std::collections::HashSet<crate::mint::Bytes>,
}

impl Ear {
    pub(crate) fn hear(&mut self, world: &mut World, node: Node, packet: &Packet) -> Option<Rc<Verified>> {
        let Packet::Gossip(topic, bytes) = packet else { return None };
        if self.heard.contains(bytes) {
            return None;
        }
        let verified = world.hear(node, *topic, bytes)?;
        self.heard.insert(bytes.clone());
        Some(verified)
    }
}
