//! Links between nodes: what is lost, doubled, late or cut off.

use crate::mint::{Bytes, Node};
use crate::plan::Weather;
use crate::rng::Rng;
use std::collections::BTreeSet;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::Topic;

/// What travels.
#[derive(Debug, Clone)]
pub(crate) enum Packet {
    Gossip(Topic, Bytes),
    Hand(Bytes),
    Ask(Asker, Query),
    Answer(Asker, Box<(Query, Answer)>),
}

/// One life of a node: an answer to an earlier one finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) node: Node,
    pub(crate) life: u32,
}

impl Packet {
    /// Questions and answers travel on a connection and come once.
    pub(crate) fn comes_once(&self) -> bool {
        matches!(self, Packet::Ask(..) | Packet::Answer(..))
    }
}

#[derive(Debug)]
pub(crate) struct Network {
    weather: Weather,
    cut: BTreeSet<(Node, Node)>,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Self {
        Self { weather, cut: BTreeSet::new() }
    }

    /// When the copies of a packet arrive, from now; none if it is lost.
    pub(crate) fn arrivals(&self, rng: &mut Rng, from: Node, to: Node) -> Vec<u64> {
        let Weather { loss, twice, strays, delay } = self.weather;
        if self.cut.contains(&(from, to)) || rng.chance(loss) {
            return Vec::new();
        }
        let copies = if rng.chance(twice) { 2 } else { 1 };
        let mut late =
            || if rng.chance(strays) { rng.range(1_000, 8_000) } else { rng.range(delay.0, delay.1) };
        (0..copies).map(|_| late()).collect()
    }

    /// Cuts these nodes off from the others; `one_way` leaves what they say unharmed.
    pub(crate) fn part(&mut self, nodes: &[Node], all: usize, one_way: bool) {
        for inside in nodes {
            for outside in (0..all).filter(|node| !nodes.contains(node)) {
                self.cut.insert((outside, *inside));
                if !one_way {
                    self.cut.insert((*inside, outside));
                }
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn calm(&mut self) {
        self.weather = Weather::CALM;
        self.heal();
    }

    pub(crate) fn is_cut(&self, a: Node, b: Node) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }
}
