//! What became of a job.

use super::Session;
use super::output::receipt_json;
use crate::cli::{Exit, UserError};
use crate::words::who;
use anyhow::{Result, anyhow};
use serde_json::json;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Balances, Fate, Query};
use swarm_protocol::statement::{Body, Refusal, Signed, Statement};

pub(super) async fn job(session: Session, job: JobId) -> Result<Exit> {
    let connection = session.connect().await?;
    let answer = connection.link.ask(Query::Job { job }).await;
    session.printer.finish();
    let Some(Answer::Fate(fate)) = answer else {
        return Err(super::no_answer());
    };
    if let Some(signed) = signed_part(&fate) {
        connection.link.check(signed).map_err(|e| {
            anyhow!(
                "the operator's answer does not check: {e}; ask again, and ask the operator if it stays so"
            )
        })?;
    }
    connection.link.network().shutdown().await;
    if session.printer.is_json() {
        session.printer.object(&fate_json(&job, &fate));
    } else {
        session.printer.answer(fate_text(&fate).as_bytes());
    }
    match fate {
        Fate::Unknown => Err(UserError::input(format!("the pool knows no job {job}"))
            .hint("check the id, and that --pool is the pool it was sent to")
            .into()),
        Fate::Pending { .. } | Fate::Leased { .. } | Fate::Accepted { .. } | Fate::Ended { .. } => {
            Ok(Exit::Done)
        }
    }
}

/// What the client has in the pool, as its operator says.
pub(super) async fn balance(session: Session) -> Result<Exit> {
    let connection = session.connect().await?;
    let wallet = session.key.address();
    let answer = connection.link.ask(Query::Account { wallet }).await;
    session.printer.finish();
    connection.link.network().shutdown().await;
    let Some(Answer::Account(balances)) = answer else { return Err(super::no_answer()) };
    let Balances { free, reserved, held, payable } = balances;
    if session.printer.is_json() {
        session.printer.object(&json!({
            "wallet": wallet.to_string(), "free_usdc": free.to_string(), "reserved_usdc": reserved.to_string(),
            "held_usdc": held.to_string(), "payable_usdc": payable.to_string(),
        }));
        return Ok(Exit::Done);
    }
    let mut lines = vec![
        format!("wallet    {wallet}"),
        format!("free      {free} USDC"),
        format!("reserved  {reserved} USDC, for open jobs"),
    ];
    if held.0 + payable.0 > 0 {
        lines.push(format!("earned    {held} USDC held, {payable} USDC payable"));
    }
    session.printer.answer(lines.join("\n").as_bytes());
    Ok(Exit::Done)
}

fn signed_part(fate: &Fate) -> Option<&Signed> {
    match fate {
        Fate::Accepted { receipt, .. } => Some(receipt),
        Fate::Ended { refusal } => Some(refusal),
        Fate::Unknown | Fate::Pending { .. } | Fate::Leased { .. } => None,
    }
}

fn refusal_of(signed: &Signed) -> Option<Refusal> {
    match Statement::decode(&signed.payload).ok()?.body {
        Body::Refusal(refusal) => Some(refusal),
        _ => None,
    }
}

fn fate_text(fate: &Fate) -> String {
    match fate {
        Fate::Unknown => "unknown".to_owned(),
        Fate::Pending { attempt, ahead } => format!("pending: attempt {attempt}, {ahead} jobs before it"),
        Fate::Leased { wallet, name, units, proven, .. } => {
            let state = if *proven { "its proof is being checked" } else { "running" };
            format!("leased to {}: {state}, {units} tokens so far", who(wallet, name.as_deref()))
        }
        Fate::Accepted { receipt, name } => {
            let by = super::output::receipt_of(receipt).map(|(r, _)| who(&r.wallet, name.as_deref()));
            format!("answered by {}", by.unwrap_or_default())
        }
        Fate::Ended { refusal } => {
            format!("ended: {}", refusal_of(refusal).map(|r| r.detail).unwrap_or_default())
        }
    }
}

fn fate_json(job: &JobId, fate: &Fate) -> serde_json::Value {
    let job = job.to_string();
    match fate {
        Fate::Unknown => json!({ "job": job, "status": "unknown" }),
        Fate::Pending { attempt, ahead } => {
            json!({ "job": job, "status": "pending", "attempt": attempt, "ahead": ahead })
        }
        Fate::Leased { wallet, name, term, units, proven, .. } => json!({
            "job": job, "status": "leased", "miner": wallet.to_string(), "name": name, "attempt": term,
            "tokens": units, "proven": proven,
        }),
        Fate::Accepted { receipt, name } => {
            json!({ "job": job, "status": "answered", "name": name, "receipt": receipt_json(receipt) })
        }
        Fate::Ended { refusal } => {
            let refusal = refusal_of(refusal);
            json!({
                "job": job, "status": "refunded", "reason": refusal.as_ref().map(|r| r.reason),
                "detail": refusal.map(|r| r.detail),
            })
        }
    }
}
