//! What is known of a pool at one moment: the facts behind `status` and `watch`. `docs/status.md` describes its JSON.

use crate::tables::PeerRow;
use crate::view::{Heard, Terms};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_protocol::Timestamp;
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::EpochHeader;
use swarm_protocol::query::Balances;
use swarm_protocol::statement::Reason;
use swarm_protocol::view::JobState;

/// Rows of one list.
pub(crate) const MAX_ROWS: usize = 500;

/// All that is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Survey {
    pub pool: String,
    pub operator: String,
    pub operator_in_reach: bool,
    pub as_of_ms: u64,
    pub age_ms: u64,
    pub epoch: u64,
    pub pending: u64,
    pub leased: u64,
    pub models: Vec<ModelRow>,
    pub tree: Option<String>,
    pub wallet: String,
    pub free_usdc: Option<String>,
    pub reserved_usdc: Option<String>,
    pub held_usdc: Option<String>,
    pub payable_usdc: Option<String>,
    pub jobs: Vec<JobRow>,
    pub my_jobs: Vec<JobRow>,
    pub miners: Vec<MinerRow>,
    pub epochs: Vec<EpochRow>,
    pub peers: Vec<PeerRow>,
    pub evidence: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ModelRow {
    pub model: String,
    pub miners: u64,
}

/// `state` is `pending`, `leased`, `answered`, `refunded`, or `unknown` to the pool: never admitted, or forgotten.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct JobRow {
    pub job: String,
    pub state: &'static str,
    pub model: Option<String>,
    pub price_usdc: Option<String>,
    pub attempt: Option<u32>,
    pub miner: Option<String>,
    pub miner_name: Option<String>,
    pub reason: Option<Reason>,
    pub since_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct MinerRow {
    pub wallet: String,
    pub name: Option<String>,
    pub live: bool,
    pub draining: bool,
    pub models: Vec<String>,
    pub slots: u32,
    pub leases: u32,
    pub device: String,
    pub vram_mb: u32,
    pub heard_ms: u64,
    pub started_ms: u64,
}

/// `state` is `open`, or `sealed`; the counts of a sealed epoch are there once its header was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct EpochRow {
    pub epoch: u64,
    pub state: &'static str,
    pub since_ms: Option<u64>,
    pub length_ms: Option<u64>,
    pub header: Option<String>,
    pub accepted: Option<u64>,
    pub refunded: Option<u64>,
    pub volume_usdc: Option<String>,
}

/// What a survey is made of, beside what was heard.
pub(crate) struct Sources<'a> {
    pub wallet: Address,
    pub now: Timestamp,
    pub mine: &'a BTreeSet<JobId>,
    pub balances: Option<Balances>,
    pub headers: &'a BTreeMap<u64, (Link, EpochHeader)>,
}

/// Fills in what follows from statements: everything but the peers.
pub(crate) fn of(heard: &Heard, sources: &Sources<'_>) -> Survey {
    let balance = |of: fn(&Balances) -> MicroUsdc| sources.balances.as_ref().map(|all| of(all).to_string());
    let mut survey = Survey {
        as_of_ms: heard.operator_at.0,
        age_ms: sources.now.since(heard.heard_at).0,
        wallet: sources.wallet.to_string(),
        free_usdc: balance(|all| all.free),
        reserved_usdc: balance(|all| all.reserved),
        held_usdc: balance(|all| all.held),
        payable_usdc: balance(|all| all.payable),
        miners: miners(heard, sources.now),
        epochs: epochs(heard, sources.headers),
        evidence: evidence(heard),
        ..Survey::default()
    };
    if let Some((beacon, _)) = &heard.beacon {
        survey.pool.clone_from(&beacon.name);
        (survey.epoch, survey.pending, survey.leased) = (beacon.epoch, beacon.pending, beacon.leased);
        survey.tree = beacon.tree.map(|root| root.to_string());
        let row = |supply: &swarm_protocol::statement::ModelSupply| ModelRow {
            model: supply.model.clone(),
            miners: supply.miners,
        };
        survey.models = beacon.models.iter().map(row).collect();
    }
    survey.jobs = jobs(heard);
    survey.my_jobs = my_jobs(heard, sources);
    survey
}

/// Open jobs, those that wait longest first, and then what has ended, the latest first.
fn jobs(heard: &Heard) -> Vec<JobRow> {
    let (mut ended, mut open): (Vec<_>, Vec<_>) =
        heard.view.jobs().partition(|(_, state)| state.end().is_some());
    open.sort_by_cached_key(|(job, _)| (heard.terms(job).map(|terms| terms.since), *job));
    open.truncate(MAX_ROWS);
    ended.sort_by_cached_key(|(job, state)| std::cmp::Reverse((heard.view.stated_at(job, state), *job)));
    ended.truncate(MAX_ROWS - open.len());
    open.into_iter().chain(ended).map(|(job, state)| job_row(heard, &job, Some(state))).collect()
}

/// The client's own jobs, the latest first.
fn my_jobs(heard: &Heard, sources: &Sources<'_>) -> Vec<JobRow> {
    let is_mine = |job: &JobId| heard.terms(job).is_some_and(|terms| terms.client == Some(sources.wallet));
    let seen = heard.view.jobs().map(|(job, _)| job).filter(is_mine);
    let all: BTreeSet<JobId> = seen.chain(sources.mine.iter().copied()).collect();
    let mut all: Vec<JobId> = all.into_iter().collect();
    all.sort_by_cached_key(|job| std::cmp::Reverse((heard.terms(job).map(|terms| terms.since), *job)));
    all.truncate(MAX_ROWS);
    all.iter().map(|job| job_row(heard, job, heard.view.job(job))).collect()
}

fn job_row(heard: &Heard, job: &JobId, state: Option<JobState>) -> JobRow {
    let terms = heard.terms(job);
    let model = terms.map(|terms: &Terms| terms.model.clone()).filter(|model| !model.is_empty());
    let mut row = JobRow {
        job: job.to_string(),
        state: "unknown",
        model,
        price_usdc: terms.map(|terms| terms.price.to_string()),
        since_ms: terms.map(|terms| terms.since.0),
        ..JobRow::default()
    };
    match state {
        None => {}
        Some(JobState::Pending { attempt }) => (row.state, row.attempt) = ("pending", Some(attempt)),
        Some(JobState::Leased { attempt, wallet }) => {
            (row.state, row.attempt) = ("leased", Some(attempt));
            (row.miner, row.miner_name) = (Some(wallet.to_string()), name(heard, &wallet));
        }
        Some(JobState::Accepted { .. }) => {
            row.state = "answered";
            let earner = terms.and_then(|terms| terms.earner);
            row.miner = earner.map(|wallet| wallet.to_string());
            row.miner_name = earner.and_then(|wallet| name(heard, &wallet));
        }
        Some(JobState::Refunded { reason, .. }) => (row.state, row.reason) = ("refunded", Some(reason)),
    }
    row
}

fn name(heard: &Heard, wallet: &Address) -> Option<String> {
    heard.view.miners().get(wallet)?.heartbeat.ens.clone()
}

/// The miners, those alive first, by name.
fn miners(heard: &Heard, now: Timestamp) -> Vec<MinerRow> {
    let patience = heard.patience();
    let mut leases: BTreeMap<Address, u32> = BTreeMap::new();
    for (_, state) in heard.view.jobs() {
        if let JobState::Leased { wallet, .. } = state {
            *leases.entry(wallet).or_default() += 1;
        }
    }
    let row = |(wallet, seen): (&Address, &swarm_protocol::view::LastSeen)| MinerRow {
        wallet: wallet.to_string(),
        name: seen.heartbeat.ens.clone(),
        live: now.since(seen.at) <= patience,
        draining: seen.heartbeat.draining,
        models: seen.heartbeat.models.iter().map(|offer| offer.model.clone()).collect(),
        slots: seen.heartbeat.slots,
        leases: leases.get(wallet).copied().unwrap_or(0),
        device: seen.heartbeat.device.clone(),
        vram_mb: seen.heartbeat.vram_mb,
        heard_ms: seen.at.0,
        started_ms: seen.heartbeat.boot_at.0,
    };
    let mut rows: Vec<MinerRow> = heard.view.miners().iter().map(row).collect();
    rows.sort_by(|a, b| {
        (!a.live, a.draining, &a.name, &a.wallet).cmp(&(!b.live, b.draining, &b.name, &b.wallet))
    });
    rows.truncate(MAX_ROWS);
    rows
}

/// The open epoch and the sealed ones, the newest first.
fn epochs(heard: &Heard, headers: &BTreeMap<u64, (Link, EpochHeader)>) -> Vec<EpochRow> {
    let open = heard.opened.as_ref().map(|(opened, since)| EpochRow {
        epoch: opened.epoch,
        state: "open",
        since_ms: since.map(|since| since.0),
        length_ms: Some(opened.posted.epoch.0),
        ..EpochRow::default()
    });
    let told = heard.view.sealed();
    let walked = headers.iter().map(|(epoch, (link, _))| (*epoch, *link));
    let all: BTreeMap<u64, Link> = walked.chain(told).collect();
    let sealed = all.into_iter().rev().map(|(epoch, link)| {
        let header = headers.get(&epoch).filter(|(known, _)| *known == link).map(|(_, header)| header);
        let refunded =
            |header: &EpochHeader| header.counts.expired + header.counts.cancelled + header.counts.unrunnable;
        EpochRow {
            epoch,
            state: "sealed",
            header: Some(link.to_string()),
            accepted: header.map(|header| header.counts.accepted),
            refunded: header.map(refunded),
            volume_usdc: header.map(|header| header.volume.to_string()),
            ..EpochRow::default()
        }
    });
    open.into_iter().chain(sealed).take(MAX_ROWS).collect()
}

/// What the operator cannot have signed in good faith.
fn evidence(heard: &Heard) -> Vec<String> {
    let jobs = heard.view.evidence().map(|(job, [a, b])| format!("job {job} has two ends: {a} and {b}"));
    let epochs = heard.view.sealed_twice();
    let epochs = epochs.map(|(epoch, [a, b])| format!("epoch {epoch} has two headers: {a} and {b}"));
    jobs.chain(epochs).take(MAX_ROWS).collect()
}
