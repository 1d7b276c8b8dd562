//! Others are paid to look at a proof as well.

use super::Recorded;
use crate::cli::UserError;
use crate::client::{Connection, Session, no_answer};
use crate::link::Heard;
use anyhow::Result;
use std::time::Duration;
use swarm_crypto::address::Address;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, Challenge, Statement};

/// How long the operator may take to say what it makes of a challenge.
const PATIENCE: Duration = Duration::from_secs(20);

/// Challenges an accepted proof; gives who looks.
pub(super) async fn challenge(session: &Session, job: JobId, recorded: &Recorded) -> Result<Address> {
    let mut connection = session.connect().await?;
    let place = Challenge { epoch: recorded.epoch, index: recorded.index, job };
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(PATIENCE, send(session, &mut connection, place)) => outcome,
        () = session.stop.cancelled() => Ok(Err(UserError::input("interrupted").hint("run it again").into())),
    };
    connection.link.network().shutdown().await;
    outcome.unwrap_or_else(|_| Err(no_answer()))
}

async fn send(session: &Session, connection: &mut Connection, place: Challenge) -> Result<Address> {
    let (link, refused) = (&connection.link, |why: String| {
        UserError::input(format!("the challenge was refused: {why}")).hint("the evidence of --out stays good")
    });
    let (by, at) = (session.key.address(), session.clock.now());
    let signed = Statement::derived(link.pool(), by, at, place.into()).sign(&session.key);
    let id = signed.id();
    match link.ask(Query::Hand(signed)).await {
        Some(Answer::Taken) => {}
        Some(_) | None => return Err(no_answer()),
    }
    while let Some(event) = connection.events.recv().await {
        let (Heard::Statement(heard) | Heard::Moved(heard)) = link.hear(event).await else { continue };
        match &heard.statement().body {
            Body::Refusal(refusal) if refusal.subject == id => {
                return Err(refused(refusal.detail.clone()).into());
            }
            // Auditors are reminded of other looks at the same proof meanwhile.
            Body::AuditPicked(picked) if picked.challenge == Some(id) => return Ok(picked.auditor),
            _ => {}
        }
    }
    Err(no_answer())
}
