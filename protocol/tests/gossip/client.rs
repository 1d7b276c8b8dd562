//! A client's node: jobs one after another, each with the real machine that waits for it.

use crate::miner::OUTPUT;
use crate::mint::{Node, wallet};
use crate::operator::MODEL;
use crate::world::{Event, World};
use std::collections::BTreeMap;
use swarm_protocol::codec::JobId;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::{Assurance, Input, Job, JobType, Params, Statement, Verified};
use swarm_protocol::submission::{self, Effect, Outcome, Submission};
use swarm_protocol::{Machine, Millis, Timestamp};

#[derive(Debug, Default)]
pub(crate) struct Client {
    waits: BTreeMap<JobId, (u64, Submission)>,
}

impl Client {
    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.waits.values().filter_map(|(_, wait)| wait.poll_timeout()).min()
    }

    pub(crate) fn submit(&mut self, world: &mut World, node: Node) {
        let statement = Statement::derived(
            world.mint.pool,
            wallet(node, 0),
            world.now(),
            job(world.t, world.now()).into(),
        );
        let said = world.mint.say(&statement);
        let mut wait = Submission::new(&said.verified).expect("it is a job");
        wait.handle(submission::Event::Connected, world.now());
        self.waits.insert(said.verified.id(), (world.t, wait));
        self.perform(world, node);
    }

    pub(crate) fn wake(&mut self, world: &mut World, node: Node) {
        let now = world.now();
        self.waits.values_mut().for_each(|(_, wait)| wait.handle_timeout(now));
        self.perform(world, node);
    }

    pub(crate) fn hear(&mut self, verified: &Verified, world: &mut World, node: Node) {
        let now = world.now();
        for (_, wait) in self.waits.values_mut() {
            wait.handle(submission::Event::Heard(Box::new(verified.clone())), now);
        }
        self.perform(world, node);
    }

    pub(crate) fn happens(&mut self, job: &JobId, event: submission::Event, world: &mut World, node: Node) {
        if let Some((_, wait)) = self.waits.get_mut(job) {
            wait.handle(event, world.now());
        }
        self.perform(world, node);
    }

    fn perform(&mut self, world: &mut World, node: Node) {
        let mut over = Vec::new();
        for (id, (since, wait)) in &mut self.waits {
            while let Some(effect) = wait.poll_effect() {
                match effect {
                    Effect::Publish(topic, signed) => {
                        let said = world.mint.known(&signed);
                        world.publish(node, topic, &said);
                    }
                    Effect::Hand(signed) => {
                        let said = world.mint.known(&signed);
                        world.hand(node, said);
                    }
                    Effect::Ask(query) => world.ask(node, query),
                    Effect::Fetch { cid, .. } => {
                        let fetched = submission::Event::OutputFetched { cid, bytes: Ok(OUTPUT.to_vec()) };
                        let delay = world.rng.range(100, 400);
                        world.later(node, delay, Event::Client(*id, Box::new(fetched)));
                    }
                    Effect::Done(outcome) => {
                        let answered = matches!(*outcome, Outcome::Answer { .. });
                        let measured = world.plan.measures(*since);
                        world.tally.end(answered, measured, world.t - *since);
                        over.push(*id);
                    }
                    Effect::Stage(_) | Effect::NoMiner { .. } => {}
                }
            }
        }
        over.iter().for_each(|id| {
            self.waits.remove(id);
        });
    }
}

fn job(n: u64, now: Timestamp) -> Job {
    let text = format!(
        "This is question {n} about the sky: why is it blue at noon, red at dusk and black at night? "
    );
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input: Input::Text(text.repeat(3)),
        params: Params { max_tokens: 256, temperature: 7_000, top_p: 9_000, seed: Some(n), stop: vec![] },
        price: MicroUsdc(100_000),
        not_after: now + Millis::from_secs(600),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}
