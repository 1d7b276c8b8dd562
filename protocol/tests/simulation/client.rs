//! An honest client: some jobs, each with the real machine that waits for it; sometimes it cancels one, says one
//! twice, or dies and comes back.

use crate::actors::{ActorEvent, Ear};
use crate::mint::{Bytes, Node, OPERATOR, wallet};
use crate::network::Packet;
use crate::rng::Rng;
use crate::world::{Due, MODEL, World};
use std::collections::BTreeMap;
use std::rc::Rc;
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::codec::JobId;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::statement::{
    Assurance, Body, Cancel, Challenge, Header, Input, Job, JobType, Nonce, Params, Signed, Statement, Topic,
    Verified,
};
use swarm_protocol::submission::{Effect, Event, Outcome, Submission};
use swarm_protocol::{Machine, Millis, Timestamp};

#[derive(Debug, Default)]
pub(crate) struct Client {
    ear: Ear,
    waits: BTreeMap<JobId, Submission>,
    /// Kept on disk: what was signed, and whether it is over.
    sent: BTreeMap<JobId, (Bytes, bool)>,
    connected: bool,
    /// How often each wait was found to be late.
    looks: BTreeMap<JobId, u32>,
}

/// Looks at a job that is over until its client is late.
const MAX_LOOKS: u32 = 6;

impl Client {
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.waits.values().filter_map(Machine::poll_timeout).min()
    }

    pub(crate) fn waits(&self) -> bool {
        !self.waits.is_empty()
    }

    /// What a new process knows: the jobs that it signed.
    pub(crate) fn resumed(&self, world: &mut World, node: Node) -> Self {
        let mut waits = BTreeMap::new();
        for (id, (bytes, _)) in self.sent.iter().filter(|(_, (_, over))| !over) {
            let by_id = world.rng.chance(200) && world.checker.book.jobs.contains_key(id);
            let resumed = if by_id {
                Some(Submission::resume(*id, world.clock(node)))
            } else {
                world.judge(bytes).and_then(|verified| Submission::new(&verified))
            };
            waits.extend(resumed.map(|wait| (*id, wait)));
        }
        Self { ear: Ear::default(), waits, sent: self.sent.clone(), connected: false, looks: BTreeMap::new() }
    }

    /// Jobs that have been over for a while, and are still waited for.
    pub(crate) fn late(&mut self, is_over: impl Fn(&JobId) -> bool) -> Vec<JobId> {
        let mut late = Vec::new();
        for id in self.waits.keys().filter(|id| is_over(id)) {
            let looks = self.looks.entry(*id).or_default();
            *looks += 1;
            late.extend((*looks > MAX_LOOKS).then_some(*id));
        }
        late
    }

    pub(crate) fn handle(&mut self, world: &mut World, node: Node, event: ActorEvent) {
        let now = world.clock(node);
        match event {
            ActorEvent::Wake => self.waits.values_mut().for_each(|wait| wait.handle_timeout(now)),
            ActorEvent::Packet(Packet::Answer(_, answer)) => self.take(world, *answer, now),
            ActorEvent::Packet(packet) => {
                if let Some(verified) = self.ear.hear(world, node, &packet) {
                    self.heard(&verified, now);
                    self.lose_patience(world, node, &verified);
                    doubt(world, node, &verified);
                }
            }
            ActorEvent::Connected | ActorEvent::Disconnected => {
                self.connected = matches!(event, ActorEvent::Connected);
                let event = || if self.connected { Event::Connected } else { Event::Disconnected };
                self.waits.values_mut().for_each(|wait| wait.handle(event(), now));
            }
            ActorEvent::Output { job, cid } => {
                let fails = !world.calm && world.rng.chance(world.plan.mishaps);
                let text = world.content.get(&cid).filter(|_| !fails);
                let bytes = text.map(|text| text.as_bytes().to_vec()).ok_or("nobody has it".to_owned());
                if let Some(wait) = self.waits.get_mut(&job) {
                    wait.handle(Event::OutputFetched { cid, bytes }, now);
                }
            }
            ActorEvent::Submit => self.submit(world, node, now),
            ActorEvent::Cancel(job) => {
                let cancel = Statement::derived(world.mint.pool, wallet(node), now, Cancel { job }.into());
                say(world, node, &cancel);
            }
            ActorEvent::Engine { .. }
            | ActorEvent::Audited { .. }
            | ActorEvent::Prepared { .. }
            | ActorEvent::Roster { .. }
            | ActorEvent::Drain
            | ActorEvent::Lie => {}
        }
        self.perform(world, node);
    }

    fn heard(&mut self, verified: &Rc<Verified>, now: Timestamp) {
        let waits = self.waits.values_mut();
        waits.for_each(|wait| wait.handle(Event::Heard(Box::new((**verified).clone())), now));
    }

    /// A lost lease is reason enough to give a job up, now and then.
    fn lose_patience(&self, world: &mut World, node: Node, verified: &Verified) {
        let Body::LeaseEnded(ended) = &verified.statement().body else { return };
        if self.waits.contains_key(&ended.job) && !world.calm && world.rng.chance(400) {
            let (delay, life) = (world.rng.below(400), world.lives[node]);
            world.after(delay, Due::Actor { node, life, event: ActorEvent::Cancel(ended.job) });
        }
    }

    fn take(&mut self, world: &mut World, (query, answer): (Query, Answer), now: Timestamp) {
        let signed: Vec<Signed> = match (query, answer) {
            (
                Query::Job { .. },
                Answer::Fate(Fate::Accepted { receipt: signed, .. } | Fate::Ended { refusal: signed }),
            ) => {
                vec![signed]
            }
            (Query::Job { job }, Answer::Fate(fate)) => {
                if let Some(wait) = self.waits.get_mut(&job) {
                    wait.handle(Event::Fate(fate), now);
                }
                Vec::new()
            }
            (_, Answer::Pool { beacon, opened }) => vec![beacon, opened],
            _ => Vec::new(),
        };
        for signed in signed {
            if let Some(verified) = world.judge(&signed.encode().into()) {
                self.heard(&verified, now);
            }
        }
    }

    fn submit(&mut self, world: &mut World, node: Node, now: Timestamp) {
        let body = job(&mut world.rng, now);
        if let Input::Linked { .. } = &body.input {
            world.content.put(LINKED);
        }
        let statement = of(&mut world.rng, world.mint.pool, wallet(node), now, body);
        let bytes = world.sign(node, &statement);
        let Some(verified) = world.judge(&bytes) else { return };
        let Some(mut wait) = Submission::new(&verified) else { return };
        world.note(|| format!("client {node} submits {}", verified.id()));
        if self.connected {
            wait.handle(Event::Connected, now);
        } else {
            wait.handle_timeout(now);
        }
        self.waits.insert(verified.id(), wait);
        self.sent.insert(verified.id(), (bytes.clone(), false));
        whims(world, node, verified.id(), &bytes);
    }

    fn perform(&mut self, world: &mut World, node: Node) {
        let mut over = Vec::new();
        for (id, wait) in &mut self.waits {
            while let Some(effect) = wait.poll_effect() {
                match effect {
                    Effect::Publish(topic, signed) => world.gossip(node, topic, &signed.encode().into()),
                    Effect::Hand(signed) => {
                        world.send(node, OPERATOR, Packet::Hand(signed.encode().into()));
                    }
                    Effect::Ask(query) => world.ask(node, query),
                    Effect::Fetch { cid, .. } => {
                        let delay = world.rng.range(5, 300);
                        let (life, event) = (world.lives[node], ActorEvent::Output { job: *id, cid });
                        world.after(delay, Due::Actor { node, life, event });
                    }
                    Effect::Stage(stage) => world.note(|| format!("client {node}: {id} is {stage}")),
                    Effect::NoMiner { .. } => {}
                    Effect::Done(outcome) => {
                        world.note(|| format!("client {node}: {id} ends: {outcome:?}"));
                        let law = ended(world, id, &outcome);
                        world.hold(law);
                        over.push(*id);
                    }
                }
            }
        }
        for id in over {
            self.waits.remove(&id);
            self.sent.entry(id).and_modify(|(_, over)| *over = true);
        }
    }
}

/// What a client is told must be what the rows say.
fn ended(world: &World, id: &JobId, outcome: &Outcome) -> Result<(), String> {
    let job = world.checker.book.jobs.get(id);
    let open = job.is_some_and(|job| !job.stage.is_terminal());
    match outcome {
        Outcome::Answer { output, .. } => {
            let text = String::from_utf8_lossy(output);
            if text.starts_with("the answer under") {
                Ok(())
            } else {
                Err(format!("{id} is answered {text}"))
            }
        }
        Outcome::Disputed { fault, .. } => Err(format!("{id} is disputed: {fault}")),
        Outcome::Unknown if open => Err(format!("{id} is said to be unknown, and open")),
        // A refusal is not durable: an operator that restarts may take the same bytes.
        Outcome::Refused { reason, .. } if open && world.tally.crashes == 0 => {
            Err(format!("{id} is refused by {reason:?}, and open"))
        }
        Outcome::GaveUp { .. } if world.calm && open => Err(format!("{id} is given up, and open")),
        Outcome::Refused { .. } | Outcome::NoOutput { .. } | Outcome::Unknown | Outcome::GaveUp { .. } => {
            Ok(())
        }
    }
}

/// Clients change their minds, and their packets come back.
fn whims(world: &mut World, node: Node, id: JobId, bytes: &Bytes) {
    let life = world.lives[node];
    if world.rng.chance(250) {
        let delay = world.rng.range(1, 9_000);
        world.after(delay, Due::Actor { node, life, event: ActorEvent::Cancel(id) });
    }
    for _ in 0..world.rng.below(4) {
        let delay = world.rng.range(10, 30_000);
        let packet = Packet::Hand(bytes.clone());
        world.after(delay, Due::Deliver { to: OPERATOR, packet });
    }
}

/// No engine gets through a job of so many tokens.
pub(crate) const POISON: u32 = 13;

const LINKED: &str = "a question too long to be said";

pub(crate) fn of(rng: &mut Rng, pool: PoolId, by: Address, at: Timestamp, body: Job) -> Statement {
    Statement { header: Header { pool, by, at, nonce: Nonce(rng.bytes()) }, body: body.into() }
}

/// A job that a pool may take.
pub(crate) fn job(rng: &mut Rng, now: Timestamp) -> Job {
    let input = if rng.chance(150) {
        let cid = swarm_protocol::codec::raw_cid(LINKED.as_bytes());
        Input::Linked { cid, bytes: LINKED.len() as u64 }
    } else {
        Input::Text("why is the sky blue?".into())
    };
    let max_tokens = if rng.chance(80) { POISON } else { 16 };
    let life = if rng.chance(300) { rng.range(800, 5_000) } else { rng.range(8_000, 45_000) };
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input,
        params: Params { max_tokens, temperature: 7_000, top_p: 9_000, seed: None, stop: Vec::new() },
        price: MicroUsdc(rng.range(4, 400)),
        not_after: now + Millis(life),
        max_runtime_s: u32::try_from(rng.range(3, 20)).expect("small"),
        vram_mb: 0,
        assurance: if rng.chance(300) { Assurance::Distance } else { Assurance::Seeded },
    }
}

/// Once an epoch is sealed anybody may pay for a look at what it accepted; now and then somebody does, or tries.
fn doubt(world: &mut World, node: Node, verified: &Rc<Verified>) {
    let sealed = matches!(verified.statement().body, Body::EpochSealed(_));
    if !sealed || world.plan.posted.audit_rate == 0 || !world.rng.chance(500) {
        return;
    }
    let held = world.checker.book.held.iter();
    let places =
        held.flat_map(|(epoch, held)| held.accepted.iter().zip(0..).map(|(a, index)| (*epoch, index, a.job)));
    let places: Vec<(u64, u64, JobId)> = places.collect();
    let Some(at) = world.rng.index(places.len()) else { return };
    let (epoch, index, job) = places[at];
    let now = world.clock(node);
    let challenge = Challenge { epoch, index, job };
    let challenge = Statement::derived(world.mint.pool, wallet(node), now, challenge.into());
    say(world, node, &challenge);
}

/// By gossip and by hand.
pub(crate) fn say(world: &mut World, node: Node, statement: &Statement) {
    let bytes = world.sign(node, statement);
    let topic = statement.kind().topics().first().copied().unwrap_or(Topic::Jobs);
    world.gossip(node, topic, &bytes);
    world.send(node, OPERATOR, Packet::Hand(bytes));
}
