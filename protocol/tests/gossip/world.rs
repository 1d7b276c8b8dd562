//! The virtual world: one clock, one queue, and every node's machine.

use crate::client::Client;
use crate::miner::MinerShell;
use crate::mint::{Mint, Node, OPERATOR, Said, wallet};
use crate::operator::Operator;
use crate::overlay::{Gossip, Overlay, SETTLED};
use crate::report::{Report, Tally};
use crate::rng::Rng;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet};
use std::rc::Rc;
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::codec::JobId;
use swarm_protocol::pool::PoolEvent;
use swarm_protocol::query::Query;
use swarm_protocol::statement::{Body, Statement, Topic};
use swarm_protocol::{Machine, Millis, Timestamp, miner, submission};

const START: u64 = 1_800_000_000_000;
/// When all have joined.
const JOINED: u64 = 20_000;
/// When the first boundary is: it makes the roster, and posts how often a heartbeat is wanted.
pub(crate) const BOUNDARY: u64 = 60_000;
/// Jobs before the boundary, so that some miners are established after it.
const EARLY_JOBS: u64 = 20;
const EARLY: (u64, u64) = (22_000, 34_000);
/// From when on things are counted.
const MEASURED: u64 = 70_000;
/// How long jobs keep coming.
const BUSY: u64 = 40_000;
/// By when all must be answered.
const END: u64 = 240_000;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) jobs: u64,
    /// In a thousand, of each message on each link.
    pub(crate) loss: u64,
    /// Miners of a hundred that are replaced by others in a minute.
    pub(crate) churn: u64,
    /// Of so many heartbeats one is gossiped, and all are handed over: the cost of one says that of all.
    pub(crate) heartbeat_sample: u64,
    pub(crate) gossip: Gossip,
}

impl Plan {
    fn clients(&self) -> usize {
        (self.nodes / 50).max(4)
    }

    fn miners(&self) -> std::ops::Range<Node> {
        1 + self.clients()..self.nodes
    }

    pub(crate) fn measures(&self, at: u64) -> bool {
        at >= MEASURED
    }
}

/// What is to come.
#[derive(Debug)]
pub(crate) enum Due {
    Gossip { from: Node, to: Node, message: usize },
    Ids { from: Node, to: Node, ids: Vec<usize> },
    Wanted { from: Node, to: Node, ids: Vec<usize> },
    Handed { from: Node, said: Rc<Said> },
    Asked { from: Node, life: u32, query: Query },
    Happens { node: Node, life: u32, event: Event },
    Pool(Box<PoolEvent>),
    Beat { node: Node, life: u32 },
    Wake(Node),
    Join(Node),
    Leave,
    Submit(Node),
}

/// What only one node hears.
#[derive(Debug)]
pub(crate) enum Event {
    Miner(Box<miner::Event>),
    Client(JobId, Box<submission::Event>),
    /// A statement inside an answer.
    Told(Rc<Said>),
}

#[derive(Debug)]
struct Queued {
    at: u64,
    turn: u64,
    due: Due,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest.
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.turn).cmp(&(self.at, self.turn))
    }
}

#[derive(Debug)]
pub(crate) enum Role {
    Operator,
    Miner(Box<MinerShell>),
    Client(Box<Client>),
    Absent,
}

/// A node, and the process that it runs.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) up: bool,
    pub(crate) since: u64,
    pub(crate) life: u32,
    pub(crate) peer: Digest,
    role: Role,
    wakes_at: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) t: u64,
    queue: BinaryHeap<Queued>,
    turns: u64,
    pub(crate) mint: Mint,
    pub(crate) overlay: Overlay,
    pub(crate) operator: Operator,
    pub(crate) nodes: Vec<Place>,
    /// Wallets on the roster, with a lease or with a job; everybody learns of them as they are published.
    pub(crate) known: HashSet<Address>,
    pub(crate) tally: Tally,
}

impl World {
    pub(crate) fn run(plan: Plan) -> Report {
        let mut world = Self::new(plan);
        world.begin();
        while world.t < END && !(world.t > MEASURED + BUSY && world.tally.is_done()) {
            world.step();
        }
        let until = world.t + SETTLED;
        while world.t < until {
            world.step();
        }
        world.settle(0);
        Report::of(&world, MEASURED)
    }

    fn new(plan: Plan) -> Self {
        let operator = Operator::new(Timestamp(START), Millis(BOUNDARY));
        let place = |node: Node| Place {
            up: node == OPERATOR,
            since: 0,
            life: 0,
            peer: blake3(&(node as u64).to_be_bytes()),
            role: if node == OPERATOR { Role::Operator } else { Role::Absent },
            wakes_at: None,
        };
        Self {
            rng: Rng::new(plan.seed),
            t: 0,
            queue: BinaryHeap::new(),
            turns: 0,
            mint: Mint::new(operator.pool.id()),
            overlay: Overlay::new(plan.nodes, plan.gossip),
            operator,
            nodes: (0..plan.nodes).map(place).collect(),
            known: HashSet::new(),
            tally: Tally::default(),
            plan,
        }
    }

    fn begin(&mut self) {
        self.after(0, Due::Beat { node: OPERATOR, life: 0 });
        self.operator_acts();
        for node in 1..self.plan.nodes {
            let delay = self.rng.below(JOINED);
            self.after(delay, Due::Join(node));
        }
        let clients = self.plan.clients() as u64;
        let (early, busy) = ((EARLY.0, EARLY.1, EARLY_JOBS), (MEASURED, MEASURED + BUSY, self.plan.jobs));
        for (from, until, jobs) in [early, busy] {
            for job in 0..jobs {
                let client = 1 + usize::try_from(job % clients).expect("few");
                self.after(from + (until - from) * job / jobs, Due::Submit(client));
            }
        }
        self.tally.jobs = EARLY_JOBS + self.plan.jobs;
        if self.plan.churn > 0 {
            self.after(JOINED, Due::Leave);
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(START + self.t)
    }

    pub(crate) fn after(&mut self, delay: u64, due: Due) {
        self.turns += 1;
        self.queue.push(Queued { at: self.t + delay, turn: self.turns, due });
    }

    /// Over a link of 50 to 150 ms, which loses some.
    pub(crate) fn send(&mut self, from: Node, to: Node, after: u64, due: Due) {
        if self.rng.chance(self.plan.loss) {
            return;
        }
        let (a, b) = (from.min(to) as u64, from.max(to) as u64);
        let latency = 50 + Rng::new(a << 32 | b).below(101);
        self.after(latency + after, due);
    }

    fn step(&mut self) {
        let Some(Queued { at, due, .. }) = self.queue.pop() else { return };
        self.t = at;
        match due {
            Due::Gossip { from, to, message } => self.gossip_comes(from, to, message),
            Due::Ids { from, to, ids } => self.ids_come(from, to, ids),
            Due::Wanted { from, to, ids } => self.wanted(from, to, ids),
            Due::Handed { from, said } => {
                self.operator_takes(from, None, &said);
            }
            Due::Asked { from, life, query } => self.operator_answers(from, life, &query),
            Due::Happens { node, life, event } if self.nodes[node].life == life => self.meet(node, event),
            Due::Happens { .. } => {}
            Due::Pool(event) => self.operator_handles(*event),
            Due::Beat { node, life } => {
                if self.nodes[node].up && self.nodes[node].life == life {
                    self.beat(node);
                    self.after(1000, Due::Beat { node, life });
                }
            }
            Due::Wake(node) => self.wake(node),
            Due::Join(node) => self.join(node),
            Due::Leave => self.leave(),
            Due::Submit(client) => self.act(client, |role, world, node| {
                if let Role::Client(client) = role {
                    client.submit(world, node);
                }
            }),
        }
    }

    fn join(&mut self, node: Node) {
        let life = self.nodes[node].life;
        let role = if self.plan.miners().contains(&node) {
            Role::Miner(Box::new(MinerShell::new(self, wallet(node, life))))
        } else {
            Role::Client(Box::default())
        };
        let place = &mut self.nodes[node];
        (place.up, place.since, place.role, place.wakes_at) = (true, self.t, role, None);
        self.dial(node);
        let phase = self.rng.below(1000);
        self.after(phase, Due::Beat { node, life });
        self.act(node, |role, world, node| match role {
            Role::Miner(miner) => miner.tell(miner::Event::Connected, world, node),
            Role::Client(_) | Role::Operator | Role::Absent => {}
        });
    }

    /// A miner's process ends, and a stranger comes in its place a little later.
    fn leave(&mut self) {
        let miners = self.plan.miners();
        let mean = 60_000 * 100 / (self.plan.churn * miners.len() as u64);
        let next = self.rng.range(1, 2 * mean);
        self.after(next, Due::Leave);
        let node = miners.start + self.rng.index(miners.len()).expect("there are miners");
        if self.nodes[node].up {
            let place = &mut self.nodes[node];
            (place.up, place.role, place.life) = (false, Role::Absent, place.life + 1);
            self.overlay.leave(node);
            self.tally.left += 1;
            let away = self.rng.range(1_000, 10_000);
            self.after(away, Due::Join(node));
        }
    }

    /// Lets a node's role act on the world.
    fn act(&mut self, node: Node, act: impl FnOnce(&mut Role, &mut World, Node)) {
        let mut role = std::mem::replace(&mut self.nodes[node].role, Role::Absent);
        act(&mut role, self, node);
        let due = match &role {
            Role::Miner(miner) => miner.poll_timeout(),
            Role::Client(client) => client.poll_timeout(),
            Role::Operator => self.operator.pool.poll_timeout(),
            Role::Absent => None,
        };
        self.nodes[node].role = role;
        if let Some(at) = due {
            self.wake_at(node, at.0.saturating_sub(START).max(self.t));
        }
    }

    pub(crate) fn wake_at(&mut self, node: Node, at: u64) {
        let place = &mut self.nodes[node];
        if place.wakes_at.is_none_or(|earlier| at < earlier) {
            place.wakes_at = Some(at);
            self.after(at - self.t, Due::Wake(node));
        }
    }

    fn wake(&mut self, node: Node) {
        if !self.nodes[node].up || self.nodes[node].wakes_at != Some(self.t) {
            return;
        }
        self.nodes[node].wakes_at = None;
        self.act(node, |role, world, node| match role {
            Role::Miner(miner) => miner.wake(world, node),
            Role::Client(client) => client.wake(world, node),
            Role::Operator => world.operator_wakes(),
            Role::Absent => {}
        });
    }

    fn meet(&mut self, node: Node, event: Event) {
        match event {
            Event::Told(said) => self.hear(node, &said),
            Event::Miner(event) => self.act(node, |role, world, node| {
                if let Role::Miner(miner) = role {
                    miner.happens(*event, world, node);
                }
            }),
            Event::Client(job, event) => self.act(node, |role, world, node| {
                if let Role::Client(client) = role {
                    client.happens(&job, *event, world, node);
                }
            }),
        }
    }

    pub(crate) fn hear(&mut self, node: Node, said: &Rc<Said>) {
        self.act(node, |role, world, node| match role {
            Role::Miner(miner) => {
                miner.tell(miner::Event::Heard(Box::new(said.verified.clone())), world, node)
            }
            Role::Client(client) => client.hear(&said.verified, world, node),
            Role::Operator | Role::Absent => {}
        });
    }

    /// Signs and gossips what a node says.
    pub(crate) fn say(&mut self, node: Node, topic: Topic, statement: &Statement) {
        let said = self.mint.say(statement);
        let measured = self.plan.measures(self.t);
        match &statement.body {
            Body::Heartbeat(_) => {
                self.tally.heartbeats += u64::from(measured);
                if self.rng.below(self.plan.heartbeat_sample) > 0 {
                    return;
                }
            }
            Body::Claim(claim) => {
                let claims = if measured { &mut self.tally.claims } else { &mut self.tally.early_claims };
                *claims.entry((claim.job, claim.attempt)).or_default() += 1;
            }
            _ => {}
        }
        self.publish(node, topic, &said);
    }

    pub(crate) fn hand(&mut self, node: Node, said: Rc<Said>) {
        self.send(node, OPERATOR, 0, Due::Handed { from: node, said });
    }

    pub(crate) fn ask(&mut self, node: Node, query: Query) {
        self.tally.questions += u64::from(self.plan.measures(self.t));
        let life = self.nodes[node].life;
        self.send(node, OPERATOR, 0, Due::Asked { from: node, life, query });
    }

    /// Something that comes to this life of a node, later.
    pub(crate) fn later(&mut self, node: Node, delay: u64, event: Event) {
        let life = self.nodes[node].life;
        self.after(delay, Due::Happens { node, life, event });
    }
}
