//! The virtual world: one clock, one queue of what is to come, and everybody in it.

use crate::actors::{Actor, ActorEvent};
use crate::checker::{Checker, Truth};
use crate::content::Content;
use crate::faults::{self, Fault};
use crate::mint::{Bytes, Mint, Node, OPERATOR, wallet};
use crate::network::{Asker, Network, Packet};
use crate::operator::Operator;
use crate::plan::Plan;
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_protocol::Timestamp;
use swarm_protocol::pool::PoolEvent;
use swarm_protocol::pool::verify::Verifier;
use swarm_protocol::query::Query;
use swarm_protocol::statement::{Kind, Role, Statement, Topic, Verified};

pub(crate) const POOL_NAME: &str = "swarmpool.eth";
pub(crate) const MODEL: &str = "queenbee-nano";
const START: u64 = 1_800_000_000_000;
/// Steps at one moment until the world is said to run in circles.
const MAX_STEPS_AT_ONCE: u64 = 3_000;

/// What is to come.
#[derive(Debug)]
pub(crate) enum Due {
    Deliver {
        to: Node,
        packet: Packet,
    },
    Batch,
    /// Something that life `life` of the operator asked for.
    Pool {
        life: u32,
        event: Box<PoolEvent>,
    },
    /// Something that life `life` of an actor asked for.
    Actor {
        node: Node,
        life: u32,
        event: ActorEvent,
    },
    Fault(Fault),
}

/// What happened in a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) admitted: u64,
    pub(crate) accepted: u64,
    pub(crate) refunded: u64,
    pub(crate) crashes: u64,
    pub(crate) effects: u64,
    pub(crate) epochs: u64,
    pub(crate) refused: u64,
    /// How often each kind of thing happened.
    pub(crate) seen: BTreeMap<String, u64>,
    /// Hash of the last row.
    pub(crate) head: Digest,
}

impl Tally {
    /// Counts something by the first words of its debug form.
    pub(crate) fn see(&mut self, what: &dyn std::fmt::Debug) {
        let text = format!("{what:?}");
        let name = text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        *self.seen.entry(name.to_owned()).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.rows += other.rows;
        self.admitted += other.admitted;
        self.accepted += other.accepted;
        self.refunded += other.refunded;
        self.crashes += other.crashes;
        self.effects += other.effects;
        self.epochs += other.epochs;
        self.refused += other.refused;
        for (what, times) in &other.seen {
            *self.seen.entry(what.clone()).or_default() += times;
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    /// True time since the start, in milliseconds.
    pub(crate) t: u64,
    queue: BTreeMap<(u64, u64), Due>,
    queued: u64,
    pub(crate) network: Network,
    clocks: Vec<i64>,
    pub(crate) operator: Operator,
    pub(crate) actors: Vec<Actor>,
    pub(crate) lives: Vec<u32>,
    wakes: Vec<Option<u64>>,
    pub(crate) mint: Mint,
    pub(crate) content: Content,
    pub(crate) checker: Checker,
    pub(crate) calm: bool,
    pub(crate) trace: bool,
    pub(crate) tally: Tally,
    pub(crate) wrong: Option<String>,
}

impl World {
    pub(crate) fn new(plan: Plan, trace: bool) -> Self {
        let nodes = 1 + plan.miners + plan.clients + plan.liars;
        let pool = PoolId::derive(POOL_NAME, wallet(OPERATOR), 0, Address::ZERO);
        let mut rng = Rng::new(plan.seed.wrapping_mul(0x9e37_79b9).wrapping_add(77));
        let operator = Operator::new(&plan, pool);
        let truth = Truth {
            pool,
            operator: wallet(OPERATOR),
            secret: operator.config.secret,
            posted: plan.posted.clone(),
            reserve: plan.reserve.0,
        };
        let skew = plan.skew;
        let clocks = (0..nodes).map(|_| if skew > 0 { rng.around(skew) } else { 0 }).collect();
        Self {
            network: Network::new(plan.network),
            rng,
            t: 0,
            queue: BTreeMap::new(),
            queued: 0,
            clocks,
            operator,
            actors: (1..nodes).map(|_| Actor::Absent).collect(),
            lives: vec![0; nodes],
            wakes: vec![None; nodes],
            mint: Mint::new(pool, plan.vouch),
            content: Content::default(),
            checker: Checker::new(truth),
            calm: false,
            trace,
            tally: Tally::default(),
            wrong: None,
            plan,
        }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.lives.len()
    }

    /// What a node's clock shows.
    pub(crate) fn clock(&self, node: Node) -> Timestamp {
        Timestamp((START + self.t).saturating_add_signed(self.clocks[node]))
    }

    pub(crate) fn set_clock(&mut self, node: Node, by: i64) {
        self.clocks[node] += by;
        self.plan_wake(node);
    }

    /// The true time at which a node's clock will show `at`.
    fn true_time(&self, node: Node, at: Timestamp) -> u64 {
        at.0.saturating_sub(START).saturating_add_signed(-self.clocks[node]).max(self.t)
    }

    pub(crate) fn after(&mut self, delay: u64, due: Due) {
        self.queued += 1;
        self.queue.insert((self.t + delay, self.queued), due);
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>7} {}", self.t, what());
        }
    }

    /// Remembers the first law that is broken.
    pub(crate) fn hold(&mut self, law: Result<(), String>) {
        if let (Err(what), None) = (law, &self.wrong) {
            self.note(|| format!("BROKEN: {what}"));
            self.wrong = Some(what);
        }
    }

    /// What the operator has published verifies, as anybody would do it.
    fn recompute(&self) -> Result<(), String> {
        let mut verifier = Verifier::new();
        for (header, link, _) in self.checker.book.headers.values() {
            let block = |link| &self.operator.blocks[link];
            let verified = verifier.begin(block(link)).and_then(|()| {
                header.record_pages.iter().try_for_each(|page| verifier.page(block(page)))?;
                verifier.finish()
            });
            verified.map_err(|fault| format!("what is published does not verify: {fault}"))?;
        }
        Ok(())
    }

    /// Lets the world run until nothing is left to wait for, or a law is broken.
    pub(crate) fn run(mut self) -> Result<Tally, (u64, String)> {
        faults::begin(&mut self);
        let mut steps = (0, 0);
        let end = self.plan.calm_at + faults::patience(&self.plan);
        while self.wrong.is_none() && !faults::is_over(&self) {
            if self.t > end {
                let what = faults::unfinished(&self);
                self.hold(Err(format!("the faults stopped, but {what}")));
            }
            let before = self.t;
            if !self.step() {
                break;
            }
            steps = if self.t == before { (before, steps.1 + 1) } else { (self.t, 0) };
            if steps.1 > MAX_STEPS_AT_ONCE {
                self.hold(Err("the world runs in circles".into()));
            }
        }
        if self.wrong.is_none() {
            let published = self.recompute();
            self.hold(published);
        }
        self.tally.epochs = self.checker.book.epoch.number;
        self.tally.rows = self.operator.ledger.len() as u64;
        self.tally.head = self.checker.book.head;
        match self.wrong {
            Some(what) => Err((self.t, what)),
            None => Ok(self.tally),
        }
    }

    fn step(&mut self) -> bool {
        let wake = self.wakes.iter().enumerate().filter_map(|(node, at)| at.map(|at| (at, node))).min();
        let due = self.queue.keys().next().map(|(at, _)| *at);
        match (wake, due) {
            (Some((at, node)), due) if due.is_none_or(|due| at <= due) => {
                self.t = at.max(self.t);
                self.wake(node);
            }
            (_, Some(_)) => {
                let Some(((at, _), due)) = self.queue.pop_first() else { return false };
                self.t = at.max(self.t);
                self.meet(due);
            }
            _ => return false,
        }
        true
    }

    fn wake(&mut self, node: Node) {
        self.wakes[node] = None;
        if node == OPERATOR {
            crate::operator::batch(self);
        } else {
            self.act(node, ActorEvent::Wake);
        }
        self.plan_wake(node);
    }

    fn meet(&mut self, due: Due) {
        match due {
            Due::Deliver { to, packet } if to == OPERATOR => crate::operator::receive(self, packet),
            Due::Deliver { packet: Packet::Answer(to, _), .. } if self.lives[to.node] != to.life => {}
            Due::Deliver { to, packet } => self.act(to, ActorEvent::Packet(packet)),
            Due::Batch => crate::operator::batch(self),
            Due::Pool { life, event } => crate::operator::answered(self, life, event),
            Due::Actor { node, life, event } => {
                if self.lives[node] == life {
                    self.act(node, event);
                }
            }
            Due::Fault(fault) => faults::strike(self, fault),
        }
        self.plan_wake(OPERATOR);
    }

    pub(crate) fn act(&mut self, node: Node, event: ActorEvent) {
        let mut actor = std::mem::replace(&mut self.actors[node - 1], Actor::Absent);
        actor.handle(self, node, event);
        self.actors[node - 1] = actor;
        self.plan_wake(node);
    }

    pub(crate) fn plan_wake(&mut self, node: Node) {
        let due = if node == OPERATOR {
            self.operator.poll_timeout()
        } else {
            self.actors[node - 1].poll_timeout()
        };
        self.wakes[node] = due.map(|at| self.true_time(node, at));
    }

    pub(crate) fn send(&mut self, from: Node, to: Node, packet: Packet) {
        let copies = if packet.comes_once() { 1 } else { usize::MAX };
        for delay in self.network.arrivals(&mut self.rng, from, to).into_iter().take(copies) {
            self.after(delay, Due::Deliver { to, packet: packet.clone() });
        }
    }

    pub(crate) fn ask(&mut self, node: Node, query: Query) {
        let asker = Asker { node, life: self.lives[node] };
        self.send(node, OPERATOR, Packet::Ask(asker, query));
    }

    pub(crate) fn gossip(&mut self, from: Node, topic: Topic, bytes: &Bytes) {
        for to in (0..self.nodes()).filter(|to| *to != from) {
            self.send(from, to, Packet::Gossip(topic, bytes.clone()));
        }
    }

    /// Signs as `node`, who may say anything.
    pub(crate) fn sign(&mut self, node: Node, statement: &Statement) -> Bytes {
        self.mint.sign(node, statement)
    }

    /// What an honest listener makes of bytes; nobody may be deceived.
    pub(crate) fn judge(&mut self, bytes: &Bytes) -> Option<Rc<Verified>> {
        let verified = self.mint.judge(bytes)?;
        let (kind, by) = (verified.statement().kind(), verified.statement().header.by);
        let of_operator = kind.signer() == Role::Operator;
        let foreign = !self.mint.is_genuine(bytes) && self.plan.bug.is_none();
        if foreign || (of_operator && by != wallet(OPERATOR)) {
            let what = format!("a listener believes what was never said: {:?}", verified.statement());
            self.hold(Err(what));
        }
        Some(verified)
    }

    /// As [`World::judge`], for gossip that comes to `node` on `topic`.
    pub(crate) fn hear(&mut self, node: Node, topic: Topic, bytes: &Bytes) -> Option<Rc<Verified>> {
        let verified = self.judge(bytes)?;
        let statement = verified.statement();
        let fits = statement.kind().topics().contains(&topic);
        let skew = swarm_protocol::statement::SKEW;
        (fits && statement.header.at <= self.clock(node) + skew).then_some(verified)
    }

    pub(crate) fn kind(bytes: &Bytes) -> Option<Kind> {
        let signed = swarm_protocol::statement::Signed::decode(bytes).ok()?;
        Statement::decode(&signed.payload).ok().map(|statement| statement.kind())
    }
}
