//! The pool: jobs, leases, receipts, epochs, money.

use super::{Counters, Gauges, Label, RealGauge, Source, Subsystem, counters, set, whole};
use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use swarm_protocol::money::FeeSplit;
use swarm_protocol::pool::{Holdings, Pool, PoolStory, Totals};
use swarm_protocol::statement::{EndCause, Reason};
use swarm_protocol::{Millis, Timestamp};
use tokio::sync::oneshot;

const ENDS: [&str; 4] = ["accepted", "expired", "cancelled", "unrunnable"];
const CAUSES: [EndCause; 6] = [
    EndCause::NoProgress,
    EndCause::TimedOut,
    EndCause::BadProof,
    EndCause::Released,
    EndCause::ReleasedLate,
    EndCause::EngineFailure,
];
const MINER: Label<1> = [("part", "miner")];
const OPERATOR: Label<1> = [("part", "operator")];

/// What the operator counts. Counters begin at 0 with the process; money is in millionths of a USDC.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    jobs: Gauges<1>,
    admitted: Counter,
    ended: Counters<1>,
    refusals: Counters<1>,
    leases: Counter,
    leases_ended: Counters<1>,
    receipts: Counter,
    units: Counter,
    booked: Counters<1>,
    balance: Gauges<1>,
    miners: Gauge,
    claims: Gauge,
    examined: Gauge,
    epoch: Gauge,
    sealed_epoch: Gauge,
    epoch_age: RealGauge,
    epoch_length: RealGauge,
}

impl Default for PoolMetrics {
    fn default() -> Self {
        let [admitted, leases, receipts, units] = Default::default();
        let [miners, claims, examined, epoch, sealed_epoch] = Default::default();
        let [epoch_age, epoch_length] = Default::default();
        let ended = counters(ENDS.map(|end| [("end", end)]));
        let refusals = counters([[("reason", reason_name(Reason::NoFunds))]]);
        let leases_ended = counters(CAUSES.map(|cause| [("cause", cause_name(cause))]));
        let booked = counters([MINER, OPERATOR]);
        let [jobs, balance] = [(); 2].map(|()| Gauges::<1>::default());
        Self {
            jobs,
            admitted,
            ended,
            refusals,
            leases,
            leases_ended,
            receipts,
            units,
            booked,
            balance,
            miners,
            claims,
            examined,
            epoch,
            sealed_epoch,
            epoch_age,
            epoch_length,
        }
    }
}

impl PoolMetrics {
    /// Something has happened.
    pub fn note(&self, story: &PoolStory) {
        match story {
            PoolStory::NewJob { .. } => _ = self.admitted.inc(),
            PoolStory::Refused { reason, .. } => {
                self.refusals.get_or_create(&[("reason", reason_name(*reason))]).inc();
            }
            PoolStory::Leased { .. } => _ = self.leases.inc(),
            PoolStory::LeaseEnded { cause, .. } => {
                self.leases_ended.get_or_create(&[("cause", cause_name(*cause))]).inc();
            }
            PoolStory::Accepted { price, units, .. } => {
                self.ended.get_or_create(&[("end", "accepted")]).inc();
                self.receipts.inc();
                self.units.inc_by(*units);
                let split = FeeSplit::of(*price);
                self.booked.get_or_create(&MINER).inc_by(split.miner.0);
                self.booked.get_or_create(&OPERATOR).inc_by(split.operator.0);
            }
            PoolStory::Closed { end, .. } => _ = self.ended.get_or_create(&[("end", end)]).inc(),
            PoolStory::MinerJoined { .. }
            | PoolStory::MinerOffline { .. }
            | PoolStory::EpochOpened { .. }
            | PoolStory::EpochSealed { .. }
            | PoolStory::Settled { .. } => {}
        }
    }

    fn show(&self, figures: &Figures) {
        let Figures { holdings, totals, epoch, sealed, age, length } = figures;
        set(&self.jobs, [("state", "pending")], holdings.queue);
        set(&self.jobs, [("state", "leased")], holdings.runs);
        self.miners.set(whole(holdings.miners));
        self.claims.set(whole(holdings.claims));
        self.examined.set(whole(holdings.examined));
        self.epoch.set(whole(*epoch));
        self.sealed_epoch.set(sealed.map_or(-1, whole));
        self.epoch_age.set(seconds(*age));
        self.epoch_length.set(seconds(*length));
        for (class, amount) in [
            ("outside", totals.outside),
            ("shortfall", totals.shortfall),
            ("client_free", totals.client_free),
            ("client_reserved", totals.client_reserved),
            ("miner_held", totals.miner_held),
            ("miner_payable", totals.miner_payable),
            ("operator_held", totals.operator_held),
            ("operator_payable", totals.operator_payable),
            ("reserve", totals.reserve),
        ] {
            set(&self.balance, [("class", class)], amount);
        }
    }
}

impl Subsystem for PoolMetrics {
    fn register(&self, registry: &mut Registry) {
        let pool = registry.sub_registry_with_prefix("swarmpool_pool");
        pool.register("jobs", "Open jobs, by their state", self.jobs.clone());
        pool.register("jobs_admitted", "Jobs admitted", self.admitted.clone());
        pool.register("jobs_ended", "Jobs that are over, by how they ended", self.ended.clone());
        pool.register("refusals", "Jobs, claims and proofs refused", self.refusals.clone());
        pool.register("leases", "Leases granted", self.leases.clone());
        pool.register(
            "leases_ended",
            "Leases that ended without an accepted proof",
            self.leases_ended.clone(),
        );
        pool.register("receipts", "Receipts given", self.receipts.clone());
        pool.register("work_units", "Verified work units", self.units.clone());
        let help = "Prices of accepted jobs, as they were split, in millionths of a USDC";
        pool.register("booked_microusdc", help, self.booked.clone());
        let help = "Balances by class of account, in millionths of a USDC; outside and shortfall as debts";
        pool.register("balance_microusdc", help, self.balance.clone());
        pool.register("miners", "Miners alive", self.miners.clone());
        pool.register("claims", "Claims in hand", self.claims.clone());
        pool.register("proofs_examined", "Proofs being fetched and checked", self.examined.clone());
        pool.register("epoch", "The open epoch", self.epoch.clone());
        pool.register(
            "sealed_epoch",
            "The last sealed epoch; -1 if there is none",
            self.sealed_epoch.clone(),
        );
        pool.register("epoch_age_seconds", "Age of the open epoch", self.epoch_age.clone());
        pool.register("epoch_length_seconds", "Age at which an epoch ends", self.epoch_length.clone());
    }
}

/// A pool's state in numbers.
#[derive(Debug, Clone)]
pub struct Figures {
    holdings: Holdings,
    totals: Totals,
    epoch: u64,
    sealed: Option<u64>,
    age: Millis,
    length: Millis,
}

impl Figures {
    /// Of this pool, now.
    pub fn of(pool: &Pool, now: Timestamp) -> Self {
        let state = pool.state();
        Self {
            holdings: pool.holdings(),
            totals: Totals::of(state.accounts()),
            epoch: state.epoch().number,
            sealed: state.last_header().map(|(number, _)| number),
            age: now.since(state.epoch().opened_at),
            length: state.posted().epoch,
        }
    }
}

/// Asks the pool for its figures.
pub struct PoolSource<F> {
    pub metrics: PoolMetrics,
    /// Puts the question; what it is given is answered or dropped.
    pub ask: F,
}

impl<F> std::fmt::Debug for PoolSource<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolSource").finish_non_exhaustive()
    }
}

#[async_trait]
impl<F, A> Source for PoolSource<F>
where
    F: Fn(oneshot::Sender<Figures>) -> A + Send + Sync,
    A: Future<Output = ()> + Send,
{
    async fn sample(&self) {
        let (answer, answered) = oneshot::channel();
        (self.ask)(answer).await;
        // A pool that is closing answers nothing.
        if let Ok(figures) = answered.await {
            self.metrics.show(&figures);
        }
    }
}

fn seconds(millis: Millis) -> f64 {
    millis.0 as f64 / 1000.0
}

fn cause_name(cause: EndCause) -> &'static str {
    match cause {
        EndCause::NoProgress => "no_progress",
        EndCause::TimedOut => "timed_out",
        EndCause::BadProof => "bad_proof",
        EndCause::Released => "released",
        EndCause::ReleasedLate => "released_late",
        EndCause::EngineFailure => "engine_failure",
    }
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::NoFunds => "no_funds",
        Reason::PriceTooLow => "price_too_low",
        Reason::Expired => "expired",
        Reason::TooManyOpenJobs => "too_many_open_jobs",
        Reason::PoolFull => "pool_full",
        Reason::Unsupported => "unsupported",
        Reason::UnknownModel => "unknown_model",
        Reason::InputUnavailable => "input_unavailable",
        Reason::NonceReused => "nonce_reused",
        Reason::Shortfall => "shortfall",
        Reason::UnknownJob => "unknown_job",
        Reason::NotPending => "not_pending",
        Reason::NotYours => "not_yours",
        Reason::StaleLease => "stale_lease",
        Reason::ContentUnavailable => "content_unavailable",
        Reason::Unacceptable => "unacceptable",
        Reason::NotEligible => "not_eligible",
        Reason::NotAuditable => "not_auditable",
        Reason::JobExpired => "job_expired",
        Reason::JobCancelled => "job_cancelled",
        Reason::JobUnrunnable => "job_unrunnable",
    }
}
