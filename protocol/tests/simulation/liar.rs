//! A liar is client and miner at once, follows no rule and remembers what others said.

use crate::actors::{ActorEvent, Ear};
use crate::client;
use crate::content::Quality;
use crate::forge;
use crate::miner::deliver;
use crate::mint::{Bytes, Node, OPERATOR, wallet};
use crate::network::Packet;
use crate::world::{Due, MODEL, World};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::finding::Finding;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::{
    Assurance, Attestation, AuditPicked, Body, Cancel, Claim, Heartbeat, Input, JobType, Listing,
    ListingEntry, ModelOffer, PayoutMode, Progress, Proof, Release, ReleaseCause, Statement, Topic, Word,
};
use swarm_protocol::{Millis, Timestamp};

const MAX_MEMORY: usize = 200;

#[derive(Debug, Default)]
pub(crate) struct Liar {
    ear: Ear,
    beats: u64,
    beat_at: Timestamp,
    heard: Vec<(Topic, Bytes)>,
    listed: Vec<ListingEntry>,
    jobs: Vec<JobId>,
    /// Leases seen, and whose.
    leases: Vec<(JobId, Digest, Address)>,
    mine: Vec<(JobId, Digest)>,
}

impl Liar {
    pub(crate) fn handle(&mut self, world: &mut World, node: Node, event: ActorEvent) {
        match event {
            ActorEvent::Packet(packet) => self.listen(world, node, &packet),
            ActorEvent::Lie if !world.calm => {
                let now = world.clock(node);
                if now >= self.beat_at {
                    self.beat(world, node, now);
                }
                for _ in 0..world.rng.range(1, 2) {
                    self.lie(world, node, now);
                }
                let (delay, life) = (world.rng.range(50, 900), world.lives[node]);
                world.after(delay, Due::Actor { node, life, event: ActorEvent::Lie });
            }
            _ => {}
        }
    }

    fn listen(&mut self, world: &mut World, node: Node, packet: &Packet) {
        let Packet::Gossip(topic, bytes) = packet else { return };
        if self.heard.len() < MAX_MEMORY {
            self.heard.push((*topic, bytes.clone()));
        } else if let Some(at) = world.rng.index(MAX_MEMORY) {
            self.heard[at] = (*topic, bytes.clone());
        }
        let Some(verified) = self.ear.hear(world, node, packet) else { return };
        match &verified.statement().body {
            Body::Job(_) => self.jobs.push(verified.id()),
            Body::Listing(Listing { entries }) => {
                self.listed.extend(entries.iter().cloned());
                if world.rng.chance(700)
                    && let Some(entry) = entries.first()
                {
                    let claim = Claim { job: entry.job, attempt: entry.attempt };
                    self.say(world, node, claim);
                }
            }
            Body::AuditPicked(picked) => self.attest(world, node, picked),
            Body::Lease(lease) => {
                self.leases.push((lease.job, lease.lease, lease.wallet));
                if lease.wallet == wallet(node) {
                    self.mine.push((lease.job, lease.lease));
                }
            }
            _ => {}
        }
    }

    /// As an auditor it says what it likes, and sometimes speaks for others.
    fn attest(&self, world: &mut World, node: Node, picked: &AuditPicked) {
        let AuditPicked { epoch, index, lease, auditor, .. } = *picked;
        if !world.rng.chance(if auditor == wallet(node) { 800 } else { 200 }) {
            return;
        }
        let findings = [Finding::Holds, Finding::Contradicts, Finding::Differs(9_000), Finding::Differs(200)];
        let finding = findings[usize::from(lease.0[1] % 4)];
        let salt = blake3(lease.as_bytes());
        let word = match picked.open {
            false => Word::Sealed(finding.seal(&world.mint.pool, &lease, &auditor, &salt)),
            true => Word::Opened { finding, salt },
        };
        self.say(world, node, Attestation { epoch, index, lease, word });
    }

    fn say(&self, world: &mut World, node: Node, body: impl Into<Body>) {
        let statement = Statement::derived(world.mint.pool, wallet(node), world.clock(node), body.into());
        world.note(|| format!("liar {node} says {:?}", statement.body));
        client::say(world, node, &statement);
    }

    fn beat(&mut self, world: &mut World, node: Node, now: Timestamp) {
        self.beat_at = now + world.plan.posted.heartbeat;
        self.beats += 1;
        let assurances = vec![Assurance::Seeded, Assurance::Distance];
        let heartbeat = Heartbeat {
            boot_at: Timestamp(1),
            counter: self.beats,
            models: vec![ModelOffer { model: MODEL.into(), assurances }],
            slots: u32::try_from(world.rng.range(1, 4)).expect("few"),
            mode: if world.rng.chance(50) { PayoutMode::Pps } else { PayoutMode::Solo },
            ens: world.rng.chance(300).then(|| "miner1.eth".into()),
            device: "a lie".into(),
            vram_mb: 0,
            draining: world.rng.chance(30),
        };
        self.say(world, node, heartbeat);
    }

    fn lie(&mut self, world: &mut World, node: Node, now: Timestamp) {
        match world.rng.below(16) {
            0..=2 => self.claim(world, node),
            3..=6 => self.prove(world, node),
            7 => self.give_back(world, node),
            8 => self.progress(world, node),
            9 => self.submit(world, node, now),
            10 => self.cancel(world, node),
            11 | 12 => self.replay(world, node),
            _ => self.forge(world, node),
        }
    }

    fn claim(&mut self, world: &mut World, node: Node) {
        let Some(at) = world.rng.index(self.listed.len()) else { return };
        let ListingEntry { job, attempt, .. } = self.listed[at];
        let attempt = if world.rng.chance(150) { attempt + 1 } else { attempt };
        self.say(world, node, Claim { job, attempt });
    }

    /// Of its own leases, old ones too, and of others'; good, bad or missing.
    fn prove(&mut self, world: &mut World, node: Node) {
        let own = world.rng.index(self.mine.len()).filter(|_| world.rng.chance(850)).map(|at| self.mine[at]);
        let others = world.rng.index(self.leases.len()).map(|at| (self.leases[at].0, self.leases[at].1));
        let Some((job, lease)) = own.or(others) else { return };
        let good = deliver(world, &lease);
        let bad = Link::of(&[lease.as_bytes(), &b"bad"[..]].concat());
        world.content.set_quality(bad, Quality::Bad);
        let transcript = match world.rng.below(10) {
            0..=6 => good.transcript,
            7 => bad,
            _ => Link::of(&world.rng.bytes::<8>()),
        };
        let (output, output_bytes) = (good.output, good.output_bytes);
        self.say(world, node, Proof { job, lease, transcript, transcript_bytes: 100, output, output_bytes });
    }

    fn give_back(&mut self, world: &mut World, node: Node) {
        let Some(at) = world.rng.index(self.leases.len()) else { return };
        let (job, lease, _) = self.leases[at];
        let causes = [ReleaseCause::Withdrawn, ReleaseCause::ContentUnavailable, ReleaseCause::EngineFailure];
        let cause = *world.rng.pick(&causes);
        self.say(world, node, Release { job, lease, cause });
    }

    fn progress(&mut self, world: &mut World, node: Node) {
        let Some(at) = world.rng.index(self.leases.len()) else { return };
        let (job, lease, _) = self.leases[at];
        let (units, prefix) = (world.rng.below(50), blake3(&world.rng.bytes::<4>()));
        self.say(world, node, Progress { job, lease, units, prefix });
    }

    /// Jobs that should be refused, nonces used twice, bytes sent many times.
    fn submit(&mut self, world: &mut World, node: Node, now: Timestamp) {
        let mut body = client::job(&mut world.rng, now);
        match world.rng.below(10) {
            0 => body.price = MicroUsdc(u64::MAX),
            1 => body.price = MicroUsdc(3),
            2 => body.not_after = now + Millis::from_secs(100_000),
            3 => body.model = "gpt-∞".into(),
            4 => body.input = Input::Sealed { cid: raw_cid(b"secret") },
            5 => body.job_type = JobType::Embed,
            _ => {}
        }
        let pool = world.mint.pool;
        let statement = client::of(&mut world.rng, pool, wallet(node), now, body);
        for _ in 0..world.rng.range(1, 3) {
            client::say(world, node, &statement);
        }
        if world.rng.chance(500) {
            let mut other = statement;
            if let Body::Job(job) = &mut other.body {
                job.price = MicroUsdc(job.price.0.saturating_add(1).clamp(4, 500));
            }
            client::say(world, node, &other);
        }
    }

    fn cancel(&mut self, world: &mut World, node: Node) {
        if let Some(at) = world.rng.index(self.jobs.len()) {
            let job = self.jobs[at];
            self.say(world, node, Cancel { job });
        }
    }

    fn replay(&mut self, world: &mut World, node: Node) {
        let Some(at) = world.rng.index(self.heard.len()) else { return };
        let (topic, bytes) = self.heard[at].clone();
        if world.rng.chance(500) {
            world.gossip(node, topic, &bytes);
        } else {
            world.send(node, OPERATOR, Packet::Hand(bytes));
        }
    }

    fn forge(&mut self, world: &mut World, node: Node) {
        let Some(at) = world.rng.index(self.heard.len()) else { return };
        let (topic, bytes) = self.heard[at].clone();
        let Some(bytes) = forge::forge(world, node, &bytes) else { return };
        world.note(|| format!("liar {node} forges {:?}", World::kind(&bytes)));
        let topics = [topic, topic, topic, Topic::Jobs, Topic::Claims, Topic::Epochs];
        let topic = *world.rng.pick(&topics);
        world.gossip(node, topic, &bytes);
        world.send(node, OPERATOR, Packet::Hand(bytes));
    }
}
