//! The lists of a survey as rows of text, for `status` and for `watch`.

use super::survey::{EpochRow, JobRow, MinerRow, Survey};
use crate::tables::{Column, PEER_COLUMNS, age, column, tail};
use crate::words::{clean, span};
use swarm_protocol::Millis;

/// A list; every cell is clean.
#[derive(Debug, Clone)]
pub(crate) struct List {
    pub title: &'static str,
    pub columns: &'static [Column],
    pub rows: Vec<Vec<String>>,
    /// What is said when there are none.
    pub empty: &'static str,
}

const JOB_COLUMNS: [Column; 6] = [
    column("job", 9, 0),
    column("state", 20, 0),
    column("age", 6, 1),
    column("price", 9, 2),
    column("model", 18, 3),
    column("miner", 26, 1),
];
const MINER_COLUMNS: [Column; 6] = [
    column("miner", 26, 0),
    column("state", 8, 0),
    column("busy", 6, 1),
    column("heard", 6, 2),
    column("models", 24, 3),
    column("device", 16, 4),
];
const EPOCH_COLUMNS: [Column; 6] = [
    column("epoch", 6, 0),
    column("state", 22, 0),
    column("answered", 8, 1),
    column("refunded", 8, 3),
    column("volume", 11, 2),
    column("header", 12, 4),
];

/// The five lists, in the order in which they are shown.
pub(crate) fn lists(survey: &Survey) -> [List; 5] {
    let now = survey.as_of_ms.saturating_add(survey.age_ms);
    let jobs = |title, rows: &[JobRow], empty| {
        let rows = rows.iter().map(|row| job(row, now)).collect();
        List { title, columns: &JOB_COLUMNS, rows, empty }
    };
    [
        jobs("Jobs", &survey.jobs, "no job is open; send one with: swarm-client submit job.json"),
        List {
            title: "Miners",
            columns: &MINER_COLUMNS,
            rows: survey.miners.iter().map(|row| miner(row, now)).collect(),
            empty: "no miner is known; start one with: swarm-node --role miner",
        },
        List {
            title: "Epochs",
            columns: &EPOCH_COLUMNS,
            rows: survey.epochs.iter().map(|row| epoch(row, now)).collect(),
            empty: "no epoch is known yet",
        },
        jobs("My jobs", &survey.my_jobs, "you have sent no job; send one with: swarm-client submit job.json"),
        List {
            title: "Peers",
            columns: &PEER_COLUMNS,
            rows: survey.peers.iter().map(|row| row.cells(now)).collect(),
            empty: "connected to nobody; looking for nodes",
        },
    ]
}

/// A wallet by the name that it claims, and by its address, short.
fn miner_name(wallet: &str, name: Option<&str>) -> String {
    let short = format!("{}…{}", wallet.get(..6).unwrap_or(wallet), wallet.get(38..).unwrap_or_default());
    name.map_or(short.clone(), |name| format!("{} ({short})", clean(name)))
}

fn job(row: &JobRow, now: u64) -> Vec<String> {
    let state = match (row.attempt, row.reason) {
        (Some(attempt), _) if attempt > 1 => format!("{}, attempt {attempt}", row.state),
        (_, Some(reason)) => format!("{}: {}", row.state, end(reason)),
        _ => row.state.to_owned(),
    };
    vec![
        tail(&row.job),
        state,
        row.since_ms.map(|since| age(since, now)).unwrap_or_default(),
        row.price_usdc.clone().unwrap_or_default(),
        clean(row.model.as_deref().unwrap_or_default()),
        row.miner.as_deref().map(|m| miner_name(m, row.miner_name.as_deref())).unwrap_or_default(),
    ]
}

fn end(reason: swarm_protocol::statement::Reason) -> &'static str {
    use swarm_protocol::statement::Reason;
    match reason {
        Reason::JobExpired => "expired",
        Reason::JobCancelled => "cancelled",
        Reason::JobUnrunnable => "unrunnable",
        _ => "ended",
    }
}

fn miner(row: &MinerRow, now: u64) -> Vec<String> {
    let state = match (row.live, row.draining) {
        (false, _) => "gone",
        (true, true) => "stopping",
        (true, false) => "live",
    };
    vec![
        miner_name(&row.wallet, row.name.as_deref()),
        state.to_owned(),
        format!("{}/{}", row.leases, row.slots),
        age(row.heard_ms, now),
        clean(&row.models.join(", ")),
        clean(&row.device),
    ]
}

fn epoch(row: &EpochRow, now: u64) -> Vec<String> {
    let state = match (row.since_ms, row.length_ms) {
        (Some(since), Some(length)) => {
            format!("open, {} left", span(Millis(since.saturating_add(length).saturating_sub(now))))
        }
        _ => row.state.to_owned(),
    };
    let count = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    vec![
        row.epoch.to_string(),
        state,
        count(row.accepted),
        count(row.refunded),
        row.volume_usdc.clone().unwrap_or_default(),
        row.header.as_deref().map(tail).unwrap_or_default(),
    ]
}
