//! An honest miner: the real machine, an engine that is sometimes slow or broken, a process that can end.

use crate::actors::{ActorEvent, Ear, EngineReport};
use crate::client::POISON;
use crate::content::Quality;
use crate::mint::{Node, OPERATOR, wallet};
use crate::network::Packet;
use crate::world::{Due, MODEL, World};
use std::collections::BTreeSet;
use std::rc::Rc;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::finding::Finding;
use swarm_protocol::miner::{
    AuditSecret, Config, Content, Delivered, Effect, Event, Looked, Miner, ModelTerms, Run, Story,
};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::race::Roster;
use swarm_protocol::statement::{Assurance, AuditPicked, Input, PayoutMode, Signed, Verified};
use swarm_protocol::{Machine, Millis, Timestamp};

#[derive(Debug)]
pub(crate) struct MinerShell {
    machine: Miner,
    ear: Ear,
    running: BTreeSet<Digest>,
    /// Its engine takes longer than any lease, now and then.
    slow: bool,
    audits: Character,
}

/// How a miner stands to audits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Character {
    Honest,
    /// It says of everything that it holds.
    Lazy,
    /// What it proves is not what the model gives.
    False,
}

impl MinerShell {
    pub(crate) fn new(world: &mut World, node: Node) -> Self {
        let terms = ModelTerms {
            model: MODEL.into(),
            assurances: vec![Assurance::Seeded, Assurance::Distance],
            min_price: MicroUsdc(0),
            vram_mb: 0,
        };
        let config = Config {
            pool: world.mint.pool,
            wallet: wallet(node),
            slots: 1 + u32::from(node.is_multiple_of(2)),
            models: vec![terms],
            mode: if world.rng.chance(500) { PayoutMode::Pps } else { PayoutMode::Solo },
            ens: (!node.is_multiple_of(3)).then(|| format!("miner{}.eth", node % 2)),
            device: "cpu".into(),
            vram_mb: 0,
            boot_at: world.clock(node),
            audit_secret: AuditSecret::of(&[7; 32]),
            altering: None,
        };
        let slow = world.rng.chance(250);
        let audits = match (world.plan.seed + node as u64) % 4 {
            0 => Character::Lazy,
            1 => Character::False,
            _ => Character::Honest,
        };
        Self { machine: Miner::new(config), ear: Ear::default(), running: BTreeSet::new(), slow, audits }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.machine.poll_timeout()
    }

    pub(crate) fn handle(&mut self, world: &mut World, node: Node, event: ActorEvent) {
        let now = world.clock(node);
        match event {
            ActorEvent::Wake => self.machine.handle_timeout(now),
            ActorEvent::Packet(Packet::Answer(_, answer)) => self.take(world, *answer, now),
            ActorEvent::Packet(packet) => {
                if let Some(verified) = self.ear.hear(world, node, &packet) {
                    self.tell(Event::Heard(Box::new((*verified).clone())), now);
                }
            }
            ActorEvent::Connected => self.tell(Event::Connected, now),
            ActorEvent::Disconnected => self.tell(Event::Disconnected, now),
            ActorEvent::Engine { lease, report } => self.report(lease, report, now),
            ActorEvent::Prepared { lease, job } => {
                let content = content(world, node, &job);
                self.tell(Event::JobReady { lease, content }, now);
            }
            ActorEvent::Roster { epoch, roster } => {
                let block = world.operator.block(&roster).cloned();
                let cut = world.network.is_cut(node, OPERATOR);
                let roster = block.filter(|_| !cut).map(|b| swarm_protocol::codec::decode::<Roster>(&b));
                if let Some(Ok(roster)) = roster {
                    self.tell(Event::RosterLearned { epoch, roster: roster.into() }, now);
                }
            }
            ActorEvent::Audited { epoch, index, outcome } => {
                self.tell(Event::Audited { epoch, index, outcome }, now);
            }
            ActorEvent::Drain => self.tell(Event::Drain { grace: Millis(2_000) }, now),
            ActorEvent::Output { .. } | ActorEvent::Submit | ActorEvent::Cancel(_) | ActorEvent::Lie => {}
        }
        while let Some(effect) = self.machine.poll_effect() {
            self.perform(world, node, effect);
        }
    }

    fn tell(&mut self, event: Event, now: Timestamp) {
        self.machine.handle(event, now);
    }

    fn report(&mut self, lease: Digest, report: EngineReport, now: Timestamp) {
        if !self.running.contains(&lease) {
            return;
        }
        match report {
            EngineReport::Progress(units, prefix) => {
                self.tell(Event::EngineProgress { lease, units, prefix }, now);
            }
            EngineReport::Done(outcome) => {
                self.running.remove(&lease);
                self.tell(Event::EngineDone { lease, outcome }, now);
            }
        }
    }

    fn take(&mut self, world: &mut World, (query, answer): (Query, Answer), now: Timestamp) {
        let mut judged = |signed: &Signed| world.judge(&signed.encode().into());
        let heard = |verified: Rc<Verified>| Event::Heard(Box::new((*verified).clone()));
        match (query, answer) {
            (Query::OpenJobs { .. }, Answer::Jobs(listings)) => {
                let listings = listings.iter().filter_map(judged).map(|v| (*v).clone()).collect();
                self.tell(Event::OpenJobs(listings), now);
            }
            (Query::Job { job }, Answer::Fate(fate)) => {
                if let Fate::Accepted { receipt: signed, .. } | Fate::Ended { refusal: signed } = &fate
                    && let Some(verified) = judged(signed)
                {
                    self.tell(heard(verified), now);
                }
                self.tell(Event::Fate { job, fate }, now);
            }
            (Query::Beacon, Answer::Pool { beacon, opened }) => {
                for verified in [judged(&beacon), judged(&opened)].into_iter().flatten() {
                    self.tell(heard(verified), now);
                }
            }
            _ => {}
        }
    }

    fn perform(&mut self, world: &mut World, node: Node, effect: Effect) {
        match effect {
            Effect::Publish(topic, statement) => {
                world.note(|| format!("miner {node} says {:?}", statement.body));
                let bytes = world.sign(node, &statement);
                world.gossip(node, topic, &bytes);
            }
            Effect::Hand(statement) => {
                let bytes = world.sign(node, &statement);
                world.send(node, OPERATOR, Packet::Hand(bytes));
            }
            Effect::Ask(query) => world.ask(node, query),
            Effect::FetchRoster { epoch, roster } => {
                later(world, node, (5, 200), ActorEvent::Roster { epoch, roster });
            }
            Effect::Prepare { lease, job } => {
                later(world, node, (5, 400), ActorEvent::Prepared { lease, job });
            }
            Effect::Infer(run) => self.infer(world, node, &run),
            Effect::Audit(picked) => self.look(world, node, &picked),
            Effect::Evidence(both) => world.hold(Err(format!("miner {node} was misled: {both:?}"))),
            Effect::Abort { lease } => {
                self.running.remove(&lease);
            }
            Effect::Story(story) => {
                world.note(|| format!("miner {node}: {story:?}"));
                if let Story::Underpaid { .. } = story {
                    world.hold(Err(format!("miner {node} is underpaid: {story:?}")));
                }
            }
            Effect::Finished => world.note(|| format!("miner {node} has finished")),
        }
    }

    fn look(&self, world: &mut World, node: Node, picked: &AuditPicked) {
        let fails = !world.calm && world.rng.chance(world.plan.mishaps);
        let outcome = match self.audits {
            _ if fails => Err("nobody has it".to_owned()),
            Character::Lazy => Ok(Finding::Holds),
            Character::Honest | Character::False => Ok(world.content.truth(&picked.transcript)),
        };
        let outcome = outcome.map(|finding| looked(world, picked, finding));
        let event = ActorEvent::Audited { epoch: picked.epoch, index: picked.index, outcome };
        later(world, node, (20, 1_500), event);
    }

    fn infer(&mut self, world: &mut World, node: Node, run: &Run) {
        self.running.insert(run.lease);
        let lease = run.lease;
        let posted = &world.plan.posted;
        let patience = posted.lease.0 + 2_000;
        let slow = self.slow && !world.calm && world.rng.chance(400);
        let poison = run.job.params.max_tokens == POISON;
        let takes = if slow {
            world.rng.range(1_000, patience)
        } else {
            world.rng.range(if poison { 750 } else { 20 }, 1_500)
        };
        let silent = slow && world.rng.chance(500);
        let beat = 700;
        for n in 1..=if silent { 0 } else { takes / beat } {
            let report = EngineReport::Progress(n, blake3(&n.to_be_bytes()));
            self.after(world, node, n * beat, ActorEvent::Engine { lease, report });
        }
        let fails = poison || (!world.calm && world.rng.chance(world.plan.mishaps));
        let outcome = if fails { Err("out of memory".to_owned()) } else { Ok(deliver(world, &lease)) };
        if let (Ok(delivered), Character::False) = (&outcome, self.audits) {
            let finding = match lease.0[0] % 4 {
                0 | 1 => Finding::Contradicts,
                2 => Finding::Differs(300),
                _ => Finding::Differs(6_000),
            };
            world.content.falsify(delivered.transcript, finding);
        }
        let report = EngineReport::Done(outcome);
        self.after(world, node, takes, ActorEvent::Engine { lease, report });
    }

    fn after(&self, world: &mut World, node: Node, delay: u64, event: ActorEvent) {
        let life = world.lives[node];
        world.after(delay, Due::Actor { node, life, event });
    }
}

/// What the records have of it besides.
fn looked(world: &mut World, picked: &AuditPicked, finding: Finding) -> Looked {
    let (lease, signed) =
        world.checker.book.accepted_proof(&picked.job).expect("only what was accepted is audited");
    let proof = world.judge(&signed.encode().into()).expect("what was accepted was said");
    Looked { finding: Ok(finding), lease, proof: Box::new((*proof).clone()) }
}

fn later(world: &mut World, node: Node, (low, high): (u64, u64), event: ActorEvent) {
    let delay = world.rng.range(low, high);
    let life = world.lives[node];
    world.after(delay, Due::Actor { node, life, event });
}

/// A good answer under a lease.
pub(crate) fn deliver(world: &mut World, lease: &Digest) -> Delivered {
    let text = format!("the answer under {lease}");
    let transcript = Link::of(text.as_bytes());
    world.content.set_quality(transcript, Quality::Good(12));
    let output = world.content.put(&text);
    let output_bytes = text.len() as u64;
    Delivered { transcript, transcript_bytes: 100, output, output_bytes, altered: None }
}

fn content(world: &mut World, node: Node, job: &JobId) -> Result<Box<Content>, String> {
    let fails = !world.calm && world.rng.chance(world.plan.mishaps);
    if fails || world.network.is_cut(node, OPERATOR) {
        return Err("timed out".into());
    }
    let signed = world.operator.pool.as_ref().and_then(|pool| pool.snapshot(job)).ok_or("nobody has it")?;
    let verified = world.judge(&signed.encode().into()).ok_or("bad bytes")?;
    let linked = match &verified.statement().body {
        swarm_protocol::statement::Body::Job(job) => match &job.input {
            Input::Linked { cid, .. } => Some(world.content.get(cid).cloned().ok_or("nobody has it")?),
            Input::Text(_) | Input::Chat(_) | Input::Sealed { .. } => None,
        },
        _ => None,
    };
    Ok(Box::new(Content { job: (*verified).clone(), linked }))
}
