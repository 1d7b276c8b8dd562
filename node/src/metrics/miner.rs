//! The miner: races, jobs, engines, earnings.

use super::{Counters, RealCounter, Subsystem, counters, whole};
use crate::miner::Pace;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Instant;
use swarm_protocol::finding::AuditEnd;
use swarm_protocol::miner::{Challenged, Story};

const FINDINGS: [&str; 4] = ["holds", "contradicts", "differs", "none"];
const ALTERED: [&str; 7] =
    ["made", "called_good", "found_out", "challenged", "not_challenged", "right", "outvoted"];
const FIRST_TOKEN_SECONDS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
const TOKENS_PER_SECOND: [f64; 9] = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0];
const OUTCOMES: [&str; 5] = ["accepted", "refused", "lease_lost", "released", "underpaid"];

/// What a miner counts. Counters begin at 0 with the process; money is in millionths of a USDC.
#[derive(Debug, Clone)]
pub struct MinerMetrics {
    claims: Counter,
    races: Counters<1>,
    declined: Counter,
    runs: Counter,
    jobs: Counters<1>,
    audits: Counters<1>,
    altered: Counters<1>,
    tokens: Counter,
    engines_gone: Counter,
    engines: Gauge,
    engines_busy: Gauge,
    busy_seconds: RealCounter,
    joules: RealCounter,
    first_token_seconds: Histogram,
    tokens_per_second: Histogram,
    earned: Counter,
    operator_connected: Gauge,
}

impl Default for MinerMetrics {
    fn default() -> Self {
        let [claims, declined, runs, tokens, earned, engines_gone] = Default::default();
        let [engines, engines_busy, operator_connected] = Default::default();
        let races = counters(["won", "lost"].map(|outcome| [("outcome", outcome)]));
        let jobs = counters(OUTCOMES.map(|outcome| [("outcome", outcome)]));
        let audits = counters(FINDINGS.map(|finding| [("finding", finding)]));
        let altered = counters(ALTERED.map(|event| [("event", event)]));
        let [busy_seconds, joules] = Default::default();
        let first_token_seconds = Histogram::new(FIRST_TOKEN_SECONDS);
        let tokens_per_second = Histogram::new(TOKENS_PER_SECOND);
        Self {
            claims,
            races,
            declined,
            runs,
            jobs,
            audits,
            altered,
            tokens,
            engines_gone,
            engines,
            engines_busy,
            busy_seconds,
            joules,
            first_token_seconds,
            tokens_per_second,
            earned,
            operator_connected,
        }
    }
}

impl MinerMetrics {
    /// Something has happened.
    pub fn note(&self, story: &Story) {
        match story {
            Story::Claiming { .. } => _ = self.claims.inc(),
            Story::Won { .. } => self.raced("won"),
            Story::Lost { .. } => self.raced("lost"),
            Story::Declined { .. } => _ = self.declined.inc(),
            Story::Executing { .. } => _ = self.runs.inc(),
            Story::Earned { amount, .. } => {
                self.earned.inc_by(amount.0);
                self.came_to("accepted");
            }
            // What it is paid is known at the boundary.
            Story::Shared { .. } => self.came_to("accepted"),
            Story::Underpaid { .. } => self.came_to("underpaid"),
            Story::Refused { .. } => self.came_to("refused"),
            Story::LeaseLost { .. } => self.came_to("lease_lost"),
            Story::Released { .. } => self.came_to("released"),
            Story::Audited { finding, .. } => self.found(finding.word()),
            Story::NotAudited { .. } => self.found("none"),
            Story::Misled { .. } => self.found("misled"),
            Story::Altered { .. } => self.altered("made"),
            Story::AlteredAudited { end: AuditEnd::Holds | AuditEnd::Unserved, .. } => {
                self.altered("called_good")
            }
            Story::AlteredAudited { .. } => self.altered("found_out"),
            Story::Challenge { how, .. } => match how {
                Challenged::Asked => {}
                Challenged::Looks(_) => self.altered("challenged"),
                Challenged::Not(_) => self.altered("not_challenged"),
                Challenged::Ended(AuditEnd::Holds | AuditEnd::Unserved) => self.altered("outvoted"),
                Challenged::Ended(AuditEnd::Contradicts | AuditEnd::Differs) => self.altered("right"),
            },
            Story::NewJob { .. }
            | Story::ProofSubmitted { .. }
            | Story::Draining { .. }
            | Story::Paused { .. }
            | Story::Resumed => {}
        }
    }

    fn raced(&self, outcome: &'static str) {
        self.races.get_or_create(&[("outcome", outcome)]).inc();
    }

    fn came_to(&self, outcome: &'static str) {
        self.jobs.get_or_create(&[("outcome", outcome)]).inc();
    }

    fn found(&self, finding: &'static str) {
        self.audits.get_or_create(&[("finding", finding)]).inc();
    }

    fn altered(&self, event: &'static str) {
        self.altered.get_or_create(&[("event", event)]).inc();
    }

    /// A token was made.
    pub fn token(&self) {
        self.tokens.inc();
    }

    /// A job has used so much energy, as far as the machine tells.
    pub fn used(&self, joules: Option<f64>) {
        self.joules.inc_by(joules.unwrap_or_default());
    }

    /// A job of text went so fast.
    pub fn went(&self, pace: &Pace) {
        self.first_token_seconds.observe(pace.first_token_s);
        // Of a single token there is no rate.
        if pace.tokens > 1 {
            self.tokens_per_second.observe(pace.tokens_per_s);
        }
    }

    /// So many engines have ended by themselves.
    pub fn lost_engines(&self, engines: usize) {
        self.engines_gone.inc_by(engines as u64);
    }

    /// So many jobs can run at once now.
    pub fn has_engines(&self, engines: u32) {
        self.engines.set(whole(engines));
    }

    /// The operator is connected, or is not.
    pub fn operator_is_there(&self, is_there: bool) {
        self.operator_connected.set(i64::from(is_there));
    }

    /// An engine is at work until the value is dropped.
    pub fn work(&self) -> Work {
        self.engines_busy.inc();
        Work { metrics: self.clone(), begun: Instant::now() }
    }
}

/// An engine at work.
#[derive(Debug)]
pub struct Work {
    metrics: MinerMetrics,
    begun: Instant,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.metrics.engines_busy.dec();
        self.metrics.busy_seconds.inc_by(self.begun.elapsed().as_secs_f64());
    }
}

impl Subsystem for MinerMetrics {
    fn register(&self, registry: &mut Registry) {
        let miner = registry.sub_registry_with_prefix("swarmpool_miner");
        miner.register("claims", "Claims made", self.claims.clone());
        miner.register(
            "races",
            "Races in which this miner claimed, by who got the lease",
            self.races.clone(),
        );
        miner.register("jobs_declined", "Jobs that were not for this miner", self.declined.clone());
        miner.register("runs", "Jobs begun on an engine", self.runs.clone());
        miner.register("jobs", "Leases that are over, by what came of them", self.jobs.clone());
        miner.register("audits", "Looks at proofs of other miners, by what was found", self.audits.clone());
        let help = "Own proofs that were altered on purpose, by what came of them";
        miner.register("altered_proofs", help, self.altered.clone());
        miner.register("tokens", "Tokens made", self.tokens.clone());
        let help = "Engines that ended by themselves";
        miner.register("engines_gone", help, self.engines_gone.clone());
        miner.register("engines", "Jobs that can run at once", self.engines.clone());
        miner.register("engines_busy", "Jobs that run now", self.engines_busy.clone());
        miner.register("engine_busy_seconds", "Time that engines have worked", self.busy_seconds.clone());
        let help = "Energy that jobs have used, where the machine tells it";
        miner.register("energy_joules", help, self.joules.clone());
        let help = "Time from an engine's begin of a text to its first token";
        miner.register("first_token_seconds", help, self.first_token_seconds.clone());
        let help = "Tokens a second after the first, of each text";
        miner.register("tokens_per_second", help, self.tokens_per_second.clone());
        let help = "What receipts promise, in millionths of a USDC";
        miner.register("earned_microusdc", help, self.earned.clone());
        let help = "1 while the operator is connected";
        miner.register("operator_connected", help, self.operator_connected.clone());
    }
}
