//! What a run cost, in one line of a table.

use crate::overlay::TOPICS;
use crate::world::World;
use std::collections::BTreeMap;
use swarm_protocol::codec::JobId;
use swarm_protocol::statement::Topic;

/// What is counted while a world runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Jobs that are submitted in all.
    pub(crate) jobs: u64,
    ended: u64,
    answered: u64,
    /// From submission to answer, of what is measured.
    spans: Vec<u64>,
    /// By job and attempt, and those before the first boundary apart: the window was as short as it may be then.
    pub(crate) claims: BTreeMap<(JobId, u32), u64>,
    pub(crate) early_claims: BTreeMap<(JobId, u32), u64>,
    pub(crate) leases: u64,
    pub(crate) heartbeats: u64,
    pub(crate) questions: u64,
    /// Answers that offered a job to a miner that asked.
    pub(crate) opened: u64,
    pub(crate) left: u64,
}

impl Tally {
    pub(crate) fn end(&mut self, answered: bool, measured: bool, span: u64) {
        self.ended += 1;
        self.answered += u64::from(answered);
        if measured {
            self.spans.push(span);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.ended == self.jobs
    }
}

/// The figures of one run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) nodes: usize,
    pub(crate) jobs: u64,
    pub(crate) answered: u64,
    /// Of the messages about jobs: of those who should have them, who has.
    pub(crate) delivery: f64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    /// Arrivals of a message at a node that has it.
    pub(crate) copies: f64,
    pub(crate) claims: f64,
    pub(crate) early_claims: f64,
    /// What a node receives for a job: statements, as often as they come, and ids.
    pub(crate) bytes: f64,
    control: f64,
    /// What it would be if every statement came once.
    pub(crate) once: f64,
    /// Heartbeats a second, of all miners together.
    pub(crate) heartbeats: f64,
    heartbeat_bytes: f64,
    pub(crate) questions: f64,
    opened: f64,
    throttled: u64,
    left: u64,
    job_p50: u64,
    job_p99: u64,
}

impl Report {
    pub(crate) const HEAD: &str = "\
| nodes | jobs | answered | delivery % | p50 ms | p99 ms | copies | claims a job | and with a window of 400 ms | bytes a job and node | of it ids | with one copy | heartbeats/s | heartbeat bytes/s a node | questions/s | offers a job | passed over | replaced | job p50 ms | job p99 ms |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

    pub(crate) fn of(world: &World, from: u64) -> Self {
        let seconds = (world.t - from) as f64 / 1000.0;
        let (nodes, tally) = (world.plan.nodes as f64, &world.tally);
        let measured = || world.overlay.messages.iter().filter(|message| message.published_at >= from);
        let about_jobs = |topic: usize| matches!(TOPICS[topic], Topic::Jobs | Topic::Claims | Topic::Proofs);
        let (mut awaited, mut delivered, mut copies, mut bytes, mut control, mut once) = (0, 0, 0, 0, 0, 0);
        let mut beats = 0;
        for message in measured() {
            let cost = message.copies * message.wire_bytes();
            if about_jobs(message.topic) {
                awaited += message.awaited;
                delivered += message.delivered;
                copies += message.copies;
                bytes += cost + message.control;
                control += message.control;
                once += message.wire_bytes();
            } else if TOPICS[message.topic] == Topic::Heartbeats {
                beats += cost + message.control;
            }
        }
        let jobs = world.plan.jobs;
        let per_job = |count: u64| count as f64 / jobs as f64;
        Self {
            nodes: world.plan.nodes,
            jobs: tally.jobs,
            answered: tally.answered,
            delivery: delivered as f64 / awaited as f64,
            p50: percentile(&world.overlay.spans, 50),
            p99: percentile(&world.overlay.spans, 99),
            copies: copies as f64 / delivered as f64,
            claims: mean(&tally.claims),
            early_claims: mean(&tally.early_claims),
            bytes: per_job(bytes) / nodes,
            control: per_job(control) / nodes,
            once: per_job(once),
            heartbeats: tally.heartbeats as f64 / seconds,
            heartbeat_bytes: (beats * world.plan.heartbeat_sample) as f64 / nodes / seconds,
            questions: tally.questions as f64 / seconds,
            opened: per_job(tally.opened),
            throttled: world.overlay.throttled,
            left: tally.left,
            job_p50: percentile(&tally.spans, 50),
            job_p99: percentile(&tally.spans, 99),
        }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "| {} | {} | {} | {:.3} | {} | {} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} | {:.0} | {:.1} | {:.1} | {} | {} | {} | {} |",
            self.nodes,
            self.jobs,
            self.answered,
            self.delivery * 100.0,
            self.p50,
            self.p99,
            self.copies,
            self.claims,
            self.early_claims,
            self.bytes,
            self.control,
            self.once,
            self.heartbeats,
            self.heartbeat_bytes,
            self.questions,
            self.opened,
            self.throttled,
            self.left,
            self.job_p50,
            self.job_p99,
        )
    }
}

fn mean(claims: &BTreeMap<(JobId, u32), u64>) -> f64 {
    claims.values().sum::<u64>() as f64 / claims.len() as f64
}

fn percentile<T: Copy + Ord + Into<u64>>(of: &[T], percent: usize) -> u64 {
    let mut sorted = of.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).map_or(0, |value| (*value).into())
}
