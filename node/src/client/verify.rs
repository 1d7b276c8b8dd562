//! Checking a receipt without trusting the operator's word.

use super::output::receipt_of;
use super::saved::{read_answer, read_receipt};
use super::{Connection, Session};
use crate::cli::{Exit, UserError};
use crate::home::home_root;
use crate::link::Link;
use crate::network::{MAX_BLOCK, Until};
use crate::storage::pins::{KNOWN_OPERATORS_FILE, known_operator};
use anyhow::{Result, anyhow};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::merkle;
use swarm_protocol::codec::{self, JobId, Link as Cid};
use swarm_protocol::money::FeeSplit;
use swarm_protocol::pool::{Entry, EpochHeader, Leaf, MAX_PAGE_LEAVES, Record, RecordReader};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, Intake, Receipt, Signed, Statement};
use tokio::time::Instant;

const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to ask for what nobody has: an operator may be starting again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Headers walked back at most: ten years of hours.
const MAX_WALK: u64 = 100_000;

/// Pages of records that are fetched to check one receipt: half a GiB.
const MAX_RECORD_PAGES: usize = 1024;
const EPOCH: &str = "epoch";
const RECORDS: &str = "records";

/// One thing that was checked.
struct Check {
    what: &'static str,
    found: Found,
}

enum Found {
    True(String),
    False(String),
    Open(String),
}

pub(super) async fn job(session: Session, job: JobId) -> Result<Exit> {
    match session.saved.receipt_path(&job)? {
        Some(path) => file(session, &path).await,
        None => Err(UserError::input(format!("no receipt of {job} is kept here"))
            .hint(format!("get it with swarm-client wait {job}"))
            .into()),
    }
}

pub(super) async fn file(session: Session, path: &Path) -> Result<Exit> {
    let (signed, differs) = read_receipt(path)?;
    let Some((receipt, operator)) = receipt_of(&signed) else {
        let error = UserError::input(format!("{} holds a statement, but no receipt", path.display()));
        return Err(error.hint("give verify the file that submit named").into());
    };
    let mut checks = vec![signature(&session, &signed, operator)?, split(&receipt), leaf(&receipt)];
    checks.push(match differs {
        None => yes("file", "its fields are those of the signed receipt"),
        Some(name) => no("file", format!("its field '{name}' is not what was signed")),
    });
    if let Some(answer) = read_answer(path).filter(|answer| !answer.is_empty()) {
        checks.push(output(&receipt, &answer));
    }
    checks.extend(match session.connect().await {
        Ok(connection) => against_epoch(&connection, &receipt).await,
        Err(error) => vec![open(EPOCH, format!("not checked: {error}"))],
    });
    session.printer.finish();
    report(&session, &receipt, &checks)
}

fn yes(what: &'static str, text: impl Into<String>) -> Check {
    Check { what, found: Found::True(text.into()) }
}

fn no(what: &'static str, text: impl Into<String>) -> Check {
    Check { what, found: Found::False(text.into()) }
}

fn open(what: &'static str, text: impl Into<String>) -> Check {
    Check { what, found: Found::Open(text.into()) }
}

fn signature(session: &Session, signed: &Signed, operator: Address) -> Result<Check> {
    const WHAT: &str = "signature";
    let name = &session.args.pool.pool;
    let known = match session.args.pool.operator {
        Some(address) => Some(address.to_string()),
        None => known_operator(&home_root(&session.args.files)?.join(KNOWN_OPERATORS_FILE), name)?,
    };
    let Some(known) = known else {
        let text = format!(
            "signed by {operator}, but no operator of {name} is known here; name one with --operator"
        );
        return Ok(no(WHAT, text));
    };
    if !known.eq_ignore_ascii_case(&operator.to_string()) {
        return Ok(no(WHAT, format!("signed by {operator}, the operator of {name} is {known}")));
    }
    let pool = PoolId::derive(name, operator, 0, Address::ZERO);
    let mut intake = Intake::new(pool, operator);
    Ok(match intake.verify(None, &signed.encode(), session.clock.now()) {
        Ok(_) => yes(WHAT, format!("by the operator of {name}, {operator}")),
        Err(rejection) => no(WHAT, rejection.to_string()),
    })
}

fn split(receipt: &Receipt) -> Check {
    let due = FeeSplit::of(receipt.price);
    let text = format!("{} = {} + {} USDC", receipt.price, receipt.miner_part, receipt.operator_part);
    if due.miner == receipt.miner_part && due.operator == receipt.operator_part {
        yes("split", text)
    } else {
        no("split", format!("{text}, but {} + {} are due", due.miner, due.operator))
    }
}

fn leaf(receipt: &Receipt) -> Check {
    let Receipt { job, proof, wallet, price, units, mode, .. } = receipt.clone();
    if (Leaf { job, proof, wallet, price, units, mode }).hash() == receipt.leaf {
        yes("leaf", format!("{} follows from job, proof, wallet, price, units", receipt.leaf))
    } else {
        no("leaf", "it does not follow from the receipt's own fields")
    }
}

fn output(receipt: &Receipt, answer: &[u8]) -> Check {
    if codec::names(&receipt.output, answer) && answer.len() as u64 == receipt.output_bytes {
        yes("answer", format!("the kept answer is {}", receipt.output))
    } else {
        no("answer", format!("the kept answer is not {}", receipt.output))
    }
}

async fn against_epoch(connection: &Connection, receipt: &Receipt) -> Vec<Check> {
    let link = &connection.link;
    let unavailable = |what, error: anyhow::Error| open(what, format!("unavailable: {error}"));
    let checks = match sealed(link, receipt).await {
        Ok(Ok(header)) => vec![
            in_leaves(link, &header, receipt).await.unwrap_or_else(|error| unavailable(EPOCH, error)),
            in_records(link, &header, receipt).await.unwrap_or_else(|error| unavailable(RECORDS, error)),
        ],
        Ok(Err(unsealed)) => vec![unsealed],
        Err(error) => vec![unavailable(EPOCH, error)],
    };
    link.network().shutdown().await;
    checks
}

/// The header of the receipt's epoch, or why there is none yet.
async fn sealed(link: &Link, receipt: &Receipt) -> Result<Result<EpochHeader, Check>> {
    let Some(Answer::Sealed(sealed)) = link.ask(Query::Sealed).await else {
        return Err(anyhow!("the operator does not answer"));
    };
    let Some(signed) = sealed else { return Ok(Err(open(EPOCH, "no epoch is sealed yet"))) };
    link.check(&signed)?;
    let Body::EpochSealed(newest) = Statement::decode(&signed.payload)?.body else {
        return Err(anyhow!("the operator sent no sealed epoch"));
    };
    if newest.epoch < receipt.epoch {
        let text = format!("epoch {} is not sealed yet; verify again later", receipt.epoch);
        return Ok(Err(open(EPOCH, text)));
    }
    walk_back(link, newest.header, newest.epoch, receipt.epoch).await.map(Ok)
}

async fn in_leaves(link: &Link, header: &EpochHeader, receipt: &Receipt) -> Result<Check> {
    let index = usize::try_from(receipt.index)?;
    let Some(page) = header.leaf_pages.get(index / MAX_PAGE_LEAVES) else {
        return Ok(no(
            EPOCH,
            format!("index {} is beyond the {} leaves", receipt.index, header.counts.accepted),
        ));
    };
    let mut leaves: Vec<Digest> = Vec::new();
    for page in &header.leaf_pages {
        leaves.extend(codec::decode::<Vec<Digest>>(&fetch(link, page).await?)?);
    }
    if merkle::root(&leaves) != header.proofs_root {
        return Ok(no(EPOCH, format!("the leaves of page {page} do not give the root of the header")));
    }
    Ok(match leaves.get(index) {
        Some(leaf) if *leaf == receipt.leaf => {
            yes(EPOCH, format!("leaf {} of {} in sealed epoch {}", index, leaves.len(), receipt.epoch))
        }
        Some(_) => no(EPOCH, format!("epoch {} holds another leaf at index {index}", receipt.epoch)),
        None => no(EPOCH, format!("index {index} is beyond the {} leaves", leaves.len())),
    })
}

/// Chains the epoch's published records from the header before to this one, and looks for the acceptance on the way.
async fn in_records(link: &Link, header: &EpochHeader, receipt: &Receipt) -> Result<Check> {
    if header.record_pages.len() > MAX_RECORD_PAGES {
        return Ok(open(RECORDS, format!("not checked: {} pages are too many", header.record_pages.len())));
    }
    let before = match &header.previous {
        Some(previous) => codec::decode::<EpochHeader>(&fetch(link, previous).await?)?.range_hash,
        None => Digest::ZERO,
    };
    let (mut reader, mut accepted) = (RecordReader::new(header.first_seq, before), false);
    let is_this = |entry: &Entry| match &entry.record {
        Record::Accepted { job, proof, units, .. } => {
            (*job, proof.id(), *units) == (receipt.job, receipt.proof, receipt.units)
        }
        _ => false,
    };
    for page in &header.record_pages {
        match reader.supply(&fetch(link, page).await?) {
            Ok(rows) => accepted |= rows.iter().any(|row| is_this(&row.entry)),
            Err(fault) => return Ok(no(RECORDS, fault.to_string())),
        }
    }
    let (_boundary, next, head) = match reader.finish() {
        Ok(end) => end,
        Err(fault) => return Ok(no(RECORDS, fault.to_string())),
    };
    if (next, head) != (header.end_seq + 1, header.range_hash) {
        return Ok(no(
            RECORDS,
            format!("the records end in {head} before {next}, the header says otherwise"),
        ));
    }
    let text = format!("records {} to {} chain to the header", header.first_seq, header.end_seq);
    Ok(if accepted {
        yes(RECORDS, text)
    } else {
        no(RECORDS, format!("{text}, but none accepts this proof"))
    })
}

async fn walk_back(link: &Link, newest: Cid, number: u64, wanted: u64) -> Result<EpochHeader> {
    let mut cid = newest;
    for epoch in (wanted..=number).rev().take(usize::try_from(MAX_WALK)?) {
        let header: EpochHeader = codec::decode(&fetch(link, &cid).await?)?;
        if header.epoch != epoch || header.pool != link.pool() {
            return Err(anyhow!("header {cid} is not the one of epoch {epoch}"));
        }
        if epoch == wanted {
            return Ok(header);
        }
        cid = header.previous.ok_or_else(|| anyhow!("the chain of headers ends at epoch {epoch}"))?;
    }
    Err(anyhow!("epoch {wanted} is too far back"))
}

async fn fetch(link: &Link, cid: &Cid) -> Result<Vec<u8>> {
    let from: Vec<_> = link.peer().into_iter().collect();
    let now = Instant::now();
    let until = Until { found: now + PATIENCE, fetched: now + FETCH_TIMEOUT };
    Ok(link.network().fetch(&cid.cid(), &from, MAX_BLOCK, until).await?)
}

fn report(session: &Session, receipt: &Receipt, checks: &[Check]) -> Result<Exit> {
    let word = |found: &Found| match found {
        Found::True(text) => ("ok", text.clone()),
        Found::False(text) => ("FALSE", text.clone()),
        Found::Open(text) => ("open", text.clone()),
    };
    if session.printer.is_json() {
        let rows = checks.iter().map(|check| {
            let (result, text) = word(&check.found);
            json!({ "check": check.what, "result": result.to_lowercase(), "detail": text })
        });
        let rows: Vec<_> = rows.collect();
        session.printer.object(&json!({ "job": receipt.job.to_string(), "checks": rows }));
    } else {
        let lines: Vec<String> = checks
            .iter()
            .map(|check| {
                let (result, text) = word(&check.found);
                format!("{:<6} {:<10} {text}", result, check.what)
            })
            .collect();
        session.printer.answer(lines.join("\n").as_bytes());
    }
    match checks.iter().find(|check| matches!(check.found, Found::False(_))) {
        Some(Check { what, found: Found::False(text) }) => Err(UserError::input(format!(
            "the receipt is not good: {text}"
        ))
        .hint(match *what {
            "split" | "leaf" | EPOCH | RECORDS => {
                "the operator signed it all the same: keep the file, it is evidence"
            }
            _ => "somebody has changed it since the operator signed: get it again with swarm-client wait",
        })
        .into()),
        _ => Ok(Exit::Done),
    }
}
