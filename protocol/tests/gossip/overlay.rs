//! Gossip between nodes, modelled on gossipsub 1.1 with the node's own numbers: a mesh for each topic, everything
//! published to all peers, everything valid forwarded along the mesh once, and every second the ids of what is recent
//! to some peers outside it, who ask for what they lack.

use crate::mint::{Node, OPERATOR, Said};
use crate::rng::Rng;
use crate::world::{Due, World};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use swarm_protocol::allowance::{Allowance, Class, Meter};
use swarm_protocol::codec::Link;
use swarm_protocol::statement::{Kind, Role, Topic};

pub(crate) const TOPICS: [Topic; 5] =
    [Topic::Jobs, Topic::Claims, Topic::Proofs, Topic::Heartbeats, Topic::Epochs];

/// Peers that a node dials besides the operator; as many dial it, in the mean.
const DIALS: usize = 12;
/// Peers that the operator's node takes by default: three quarters of its connections.
const MAX_OPERATOR_PEERS: usize = 768;
/// A message is asked for once in this time.
const IWANT_FOLLOWUP: u64 = 3_000;
/// How long a message is kept for those who ask.
const KEPT: u64 = 10_000;
/// After this time a message is counted.
pub(crate) const SETTLED: u64 = 12_000;
/// From a message's arrival until it has its verdict and goes on.
const VERDICT: u64 = 2;
/// The frame of an id in IHAVE and IWANT: 32 bytes and their tag.
const ID_BYTES: u64 = 34;
/// Around a statement in a gossipsub frame: tags, lengths and the topic's name.
const FRAME_BYTES: u64 = 34;

/// gossipsub's numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gossip {
    pub(crate) mesh: usize,
    pub(crate) mesh_low: usize,
    pub(crate) mesh_high: usize,
    /// Peers outside the mesh that hear of ids, at least.
    pub(crate) lazy: usize,
    /// Heartbeats for which ids are told.
    pub(crate) history: usize,
    pub(crate) flood_publish: bool,
}

impl Gossip {
    /// What `node/src/network/behaviour.rs` sets, and what it leaves as gossipsub has it.
    pub(crate) const NODE: Self =
        Self { mesh: 8, mesh_low: 6, mesh_high: 12, lazy: 6, history: 3, flood_publish: true };
}

/// A message under way, and what it cost.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: usize,
    said: Rc<Said>,
    by: Node,
    pub(crate) published_at: u64,
    seen: Vec<u64>,
    pub(crate) copies: u64,
    /// Bytes of IHAVE and IWANT about it.
    pub(crate) control: u64,
    /// Nodes that were there all the time, and how many of them have it.
    pub(crate) awaited: u64,
    pub(crate) delivered: u64,
}

impl Message {
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.said.bytes.len() as u64 + FRAME_BYTES
    }

    /// What is settled is old, and everybody has it.
    fn has(&self, node: Node) -> bool {
        self.seen.get(node / 64).is_none_or(|seen| seen >> (node % 64) & 1 == 1)
    }

    /// True if it is new to the node.
    fn mark(&mut self, node: Node) -> bool {
        let new = !self.has(node);
        if new {
            self.seen[node / 64] |= 1 << (node % 64);
        }
        new
    }

    fn forget(&mut self, node: Node) {
        self.seen[node / 64] &= !(1 << (node % 64));
    }
}

/// What one node knows of gossip.
#[derive(Debug, Default)]
struct Seat {
    peers: Vec<Node>,
    mesh: [Vec<Node>; TOPICS.len()],
    /// What it got, by heartbeat, newest first.
    recent: VecDeque<Vec<usize>>,
    asked: Vec<(usize, u64)>,
    allowance: Allowance,
}

#[derive(Debug)]
pub(crate) struct Overlay {
    gossip: Gossip,
    seats: Vec<Seat>,
    pub(crate) messages: Vec<Message>,
    ids: HashMap<(usize, Link), usize>,
    unsettled: VecDeque<usize>,
    /// Messages that nodes had to pass over because strangers said too much.
    pub(crate) throttled: u64,
    /// Milliseconds from publication to each first arrival of what is measured.
    pub(crate) spans: Vec<u32>,
}

/// At most `most` of them, by chance.
fn some(rng: &mut Rng, mut of: Vec<Node>, most: usize) -> Vec<Node> {
    for n in 0..most.min(of.len()) {
        let other = n + rng.index(of.len() - n).expect("some are left");
        of.swap(n, other);
    }
    of.truncate(most);
    of
}

impl Overlay {
    pub(crate) fn new(nodes: usize, gossip: Gossip) -> Self {
        Self {
            gossip,
            seats: (0..nodes).map(|_| Seat::default()).collect(),
            messages: Vec::new(),
            ids: HashMap::new(),
            unsettled: VecDeque::new(),
            throttled: 0,
            spans: Vec::new(),
        }
    }

    fn link(&mut self, a: Node, b: Node) {
        if a == b || self.seats[a].peers.contains(&b) {
            return;
        }
        self.seats[a].peers.push(b);
        self.seats[b].peers.push(a);
        for topic in 0..TOPICS.len() {
            let low = self.gossip.mesh_low;
            if self.seats[a].mesh[topic].len() < low || self.seats[b].mesh[topic].len() < low {
                self.graft(topic, a, b);
            }
        }
    }

    fn graft(&mut self, topic: usize, a: Node, b: Node) {
        for (this, other) in [(a, b), (b, a)] {
            if !self.seats[this].mesh[topic].contains(&other) {
                self.seats[this].mesh[topic].push(other);
            }
        }
    }

    fn prune(&mut self, topic: usize, a: Node, b: Node) {
        self.seats[a].mesh[topic].retain(|peer| *peer != b);
        self.seats[b].mesh[topic].retain(|peer| *peer != a);
    }

    /// Closes all connections of a node that is gone.
    pub(crate) fn leave(&mut self, node: Node) {
        let peers = std::mem::take(&mut self.seats[node]).peers;
        for peer in peers {
            self.seats[peer].peers.retain(|other| *other != node);
            (0..TOPICS.len()).for_each(|topic| self.prune(topic, peer, node));
        }
    }
}

impl World {
    /// Dials some peers, and the operator if it takes more.
    pub(crate) fn dial(&mut self, node: Node) {
        if self.overlay.seats[OPERATOR].peers.len() < MAX_OPERATOR_PEERS {
            self.overlay.link(node, OPERATOR);
        }
        for _ in 0..DIALS {
            let peer = self.rng.index(self.nodes.len()).expect("there are nodes");
            if peer != OPERATOR && self.nodes[peer].up {
                self.overlay.link(node, peer);
            }
        }
        for message in &self.overlay.unsettled {
            self.overlay.messages[*message].forget(node);
        }
    }

    pub(crate) fn publish(&mut self, node: Node, topic: Topic, said: &Rc<Said>) {
        let topic = TOPICS.iter().position(|known| *known == topic).expect("one of five");
        let new = self.overlay.messages.len();
        if *self.overlay.ids.entry((topic, said.verified.id())).or_insert(new) != new {
            return;
        }
        let mut message = Message {
            topic,
            said: said.clone(),
            by: node,
            published_at: self.t,
            seen: vec![0; self.nodes.len().div_ceil(64)],
            copies: 0,
            control: 0,
            awaited: 0,
            delivered: 0,
        };
        message.mark(node);
        self.overlay.messages.push(message);
        self.overlay.unsettled.push_back(new);
        let seat = &self.overlay.seats[node];
        let flood = self.overlay.gossip.flood_publish;
        let to = if flood { seat.peers.clone() } else { seat.mesh[topic].clone() };
        self.keep(node, new);
        to.into_iter().for_each(|to| self.transmit(node, to, new, 0));
    }

    fn keep(&mut self, node: Node, message: usize) {
        let recent = &mut self.overlay.seats[node].recent;
        if recent.is_empty() {
            recent.push_front(Vec::new());
        }
        recent[0].push(message);
    }

    fn transmit(&mut self, from: Node, to: Node, message: usize, after: u64) {
        self.send(from, to, after, Due::Gossip { from, to, message });
    }

    pub(crate) fn gossip_comes(&mut self, from: Node, to: Node, message: usize) {
        if !self.nodes[to].up {
            return;
        }
        let t = self.t;
        let known = &mut self.overlay.messages[message];
        known.copies += 1;
        if !known.mark(to) {
            return;
        }
        let (topic, said, published_at) = (known.topic, known.said.clone(), known.published_at);
        if self.plan.measures(published_at) && topic < 3 {
            self.overlay.spans.push((t - published_at).try_into().expect("short"));
        }
        if !self.judge(from, to, topic, &said) {
            return;
        }
        self.keep(to, message);
        for peer in self.overlay.seats[to].mesh[topic].clone() {
            if peer != from {
                self.transmit(to, peer, message, VERDICT);
            }
        }
        if to != OPERATOR {
            self.hear(to, &said);
        }
    }

    /// The verdict of `node`; the operator's comes from its own way in.
    fn judge(&mut self, from: Node, node: Node, topic: usize, said: &Rc<Said>) -> bool {
        let accepted = if node == OPERATOR {
            self.operator_takes(from, Some(TOPICS[topic]), said)
        } else {
            self.may_pass(from, node, said)
        };
        self.overlay.throttled += u64::from(!accepted);
        accepted
    }

    fn may_pass(&mut self, from: Node, node: Node, said: &Said) -> bool {
        let (by, kind): (_, Kind) = (said.verified.statement().header.by, said.verified.statement().kind());
        if kind.signer() == Role::Operator {
            return true;
        }
        let class = Class::of(kind).filter(|_| self.known.contains(&by));
        let meter = class.map_or(Meter::Forwarded(self.nodes[from].peer), |class| Meter::Signer(by, class));
        let now = self.now();
        self.overlay.seats[node].allowance.take(meter, now).is_ok()
    }

    /// gossipsub's heartbeat, every second: the mesh is mended, and ids are told.
    pub(crate) fn beat(&mut self, node: Node) {
        if node == OPERATOR {
            self.settle(SETTLED);
        }
        for topic in 0..TOPICS.len() {
            self.mend(node, topic);
            self.tell_ids(node, topic);
        }
        let history = self.overlay.gossip.history;
        let seat = &mut self.overlay.seats[node];
        seat.recent.push_front(Vec::new());
        seat.recent.truncate(history);
        let t = self.t;
        seat.asked.retain(|(_, until)| *until > t);
        if seat.peers.len() < DIALS {
            self.redial(node);
        }
    }

    fn redial(&mut self, node: Node) {
        let peer = self.rng.index(self.nodes.len()).expect("there are nodes");
        if self.nodes[peer].up && peer != OPERATOR {
            self.overlay.link(node, peer);
        }
    }

    fn mend(&mut self, node: Node, topic: usize) {
        let Gossip { mesh, mesh_low, mesh_high, .. } = self.overlay.gossip;
        let length = self.overlay.seats[node].mesh[topic].len();
        if length < mesh_low {
            let outside = self.outside(node, topic);
            for peer in some(&mut self.rng, outside, mesh - length) {
                self.overlay.graft(topic, node, peer);
            }
        } else if length > mesh_high {
            let inside = self.overlay.seats[node].mesh[topic].clone();
            for peer in some(&mut self.rng, inside, length - mesh) {
                self.overlay.prune(topic, node, peer);
            }
        }
    }

    fn outside(&self, node: Node, topic: usize) -> Vec<Node> {
        let seat = &self.overlay.seats[node];
        seat.peers.iter().filter(|peer| !seat.mesh[topic].contains(peer)).copied().collect()
    }

    fn tell_ids(&mut self, node: Node, topic: usize) {
        let recent = self.overlay.seats[node].recent.iter().flatten().copied();
        let ids: Vec<usize> = recent.filter(|id| self.overlay.messages[*id].topic == topic).collect();
        if ids.is_empty() {
            return;
        }
        let outside = self.outside(node, topic);
        let most = self.overlay.gossip.lazy.max(outside.len() / 4);
        for to in some(&mut self.rng, outside, most) {
            let mut lacking = Vec::new();
            for id in &ids {
                let message = &mut self.overlay.messages[*id];
                message.control += ID_BYTES;
                lacking.extend((!message.has(to)).then_some(*id));
            }
            // Whoever has it all by now does nothing with them.
            if !lacking.is_empty() {
                self.send(node, to, 0, Due::Ids { from: node, to, ids: lacking });
            }
        }
    }

    pub(crate) fn ids_come(&mut self, from: Node, to: Node, ids: Vec<usize>) {
        let until = self.t + IWANT_FOLLOWUP;
        let seat = &mut self.overlay.seats[to];
        let mut wanted = Vec::new();
        for id in ids {
            let message = &mut self.overlay.messages[id];
            if !message.has(to) && !seat.asked.iter().any(|(asked, _)| *asked == id) {
                message.control += ID_BYTES;
                seat.asked.push((id, until));
                wanted.push(id);
            }
        }
        if !wanted.is_empty() && self.nodes[to].up {
            self.send(to, from, 0, Due::Wanted { from: to, to: from, ids: wanted });
        }
    }

    pub(crate) fn wanted(&mut self, from: Node, to: Node, ids: Vec<usize>) {
        for id in ids {
            if self.nodes[to].up && self.t < self.overlay.messages[id].published_at + KEPT {
                self.transmit(to, from, id, 0);
            }
        }
    }

    /// Counts who has the messages that are older than `age`, among those who were there all the time.
    pub(crate) fn settle(&mut self, age: u64) {
        while let Some(first) = self.overlay.unsettled.front().copied() {
            let message = &mut self.overlay.messages[first];
            if message.published_at + age > self.t {
                return;
            }
            for (node, there) in self.nodes.iter().enumerate() {
                if there.up && node != message.by && there.since <= message.published_at {
                    message.awaited += 1;
                    message.delivered += u64::from(message.has(node));
                }
            }
            message.seen = Vec::new();
            self.overlay.unsettled.pop_front();
        }
    }
}
