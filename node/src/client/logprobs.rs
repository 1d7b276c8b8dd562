//! The probabilities behind an answer: the transcript that the operator publishes for its proof. `verify --answers` checks it.

use super::Session;
use super::output::receipt_of;
use super::partial::unwritable;
use crate::cli::UserError;
use crate::content::Resolver;
use crate::link::Link;
use crate::models::Lookup;
use crate::network::{MAX_BLOCK, Until};
use crate::storage::disk::write_atomic;
use crate::words::clean;
use crate::workload::KnownModel;
use anyhow::{Context, Result, ensure};
use cid::Cid;
use serde_json::{Value, json};
use std::f64::consts::LN_2;
use std::path::Path;
use std::time::{Duration, Instant};
use swarm_protocol::Millis;
use swarm_protocol::codec::{self, JobId};
use swarm_protocol::query::Query;
use swarm_protocol::sampler::Candidate;
use swarm_protocol::statement::{Beacon, Body, Receipt, Signed};
use swarm_protocol::transcript::{Step, Transcript};
use swarm_protocol::tree::AcceptedProof;

/// An operator publishes its tree at least twice between two beacons, which come as often as heartbeats do: within so many of
/// these what it has accepted is in the tree that it names.
const HEARTBEATS: u64 = 2;
/// Added to that for fetching; and the most that is waited, whatever the pool posts.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_WAIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);
const COSTS_IN_A_BIT: f64 = 4096.0;

/// Fetches the transcript of what a receipt is for, by way of the pool's tree.
pub(super) async fn fetch(link: &Link, signed: &Signed) -> Result<Transcript> {
    let (receipt, _) = receipt_of(signed).ok_or_else(|| no_text("receipt"))?;
    let begun = Instant::now();
    let mut until = begun + FETCH_TIMEOUT;
    let accepted = loop {
        let named = beacon(link).await;
        if let Ok(beacon) = &named {
            until = begun + published_within(beacon.posted.heartbeat);
        }
        let found = match named {
            Ok(beacon) => accepted(link, &receipt, &beacon, until).await,
            Err(away) => Err(away),
        };
        match found {
            Ok(accepted) => break accepted,
            Err(error) if Instant::now() >= until => {
                return Err(UserError::input(format!("the answer's transcript was not found: {error:#}"))
                    .hint("the pool keeps it for some epochs: swarm-client wait asks again")
                    .into());
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let until = until.max(Instant::now() + FETCH_TIMEOUT);
    let transcript = block(link, &accepted.transcript.cid(), until).await?;
    Transcript::decode(&transcript).map_err(|_| no_text("transcript"))
}

/// How long to wait for what was accepted to be published, where heartbeats are so far apart.
fn published_within(heartbeat: Millis) -> Duration {
    let wait = Duration::from_millis(heartbeat.0.saturating_mul(HEARTBEATS)).saturating_add(FETCH_TIMEOUT);
    wait.min(MAX_WAIT)
}

async fn beacon(link: &Link) -> Result<Beacon> {
    let answer = link.ask(Query::Beacon).await.context("the operator is away")?;
    let said =
        link.statements_of(&answer).into_iter().find_map(|statement| match &statement.statement().body {
            Body::Beacon(beacon) => Some(beacon.clone()),
            _ => None,
        });
    said.context("the operator says nothing of its pool")
}

/// `proofs/<proof>` in the tree that the operator names now.
async fn accepted(link: &Link, receipt: &Receipt, beacon: &Beacon, until: Instant) -> Result<AcceptedProof> {
    let path = ["proofs".to_owned(), receipt.proof.to_string()];
    let mut resolver = Resolver::new(beacon.tree.context("the operator has published nothing yet")?, path);
    while let Some(cid) = resolver.wanted() {
        resolver.supply(&block(link, &cid, until).await?)?;
    }
    let accepted: AcceptedProof = codec::decode(&block(link, &resolver.at(), until).await?)?;
    ensure!(accepted.output == receipt.output, "the operator has published another output for it");
    Ok(accepted)
}

async fn block(link: &Link, cid: &Cid, until: Instant) -> Result<Vec<u8>> {
    let from: Vec<_> = link.peer().into_iter().collect();
    let left = until.saturating_duration_since(Instant::now());
    Ok(link.network().fetch(cid, &from, MAX_BLOCK, Until::within(left)).await?)
}

fn no_text(what: &str) -> anyhow::Error {
    UserError::input(format!("the {what} of this job holds no log-probabilities"))
        .hint("leave --logprobs out: only text has them")
        .into()
}

/// Writes them as one JSON object; of tokens the text too, if their model is here.
pub(super) async fn write(
    session: &Session,
    path: &Path,
    job: &JobId,
    transcript: &Transcript,
) -> Result<()> {
    let known = match Lookup::of(&session.args.files)?.get(&transcript.model).await {
        Ok(model) if model.digest() == transcript.model_digest => Some(model),
        other => {
            let name = clean(&transcript.model);
            let why = match other {
                Ok(_) => format!(
                    "the model {name} here has other weights than the answer's: pull the pool's, then run this again"
                ),
                Err(error) => format!("{error:#}"),
            };
            session.printer.note(&format!("warning: tokens have ids and no text: {why}"));
            None
        }
    };
    let content: Vec<_> = transcript.steps.iter().map(|step| shown(step, known.as_deref())).collect();
    let object = json!({
        "job": job.to_string(), "model": transcript.model, "model_digest": transcript.model_digest.to_string(),
        "stop": transcript.stop, "logprobs": { "content": content },
    });
    write_atomic(path, format!("{object:#}\n").as_bytes())
        .map_err(|error| unwritable(path, &std::io::Error::other(error)))?;
    Ok(())
}

/// A token and what it was chosen from, in the shape of the OpenAI API, and with ids.
fn shown(step: &Step, model: Option<&KnownModel>) -> Value {
    let chosen = step.candidates.iter().find(|candidate| candidate.token == step.token);
    let mut shown = token(step.token, chosen.map(|chosen| chosen.cost), model);
    shown["top_logprobs"] =
        step.candidates.iter().map(|Candidate { token: id, cost }| token(*id, Some(*cost), model)).collect();
    shown
}

fn token(id: u32, cost: Option<u32>, model: Option<&KnownModel>) -> Value {
    let piece = model.and_then(|model| model.piece(id));
    let text = piece.as_ref().map(|piece| String::from_utf8_lossy(piece).into_owned());
    let logprob = cost.map(|cost| -f64::from(cost) / COSTS_IN_A_BIT * LN_2);
    json!({ "id": id, "token": text, "bytes": piece, "logprob": logprob })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_follows_the_heartbeats_that_the_pool_posts_and_has_an_end() {
        let waits = |seconds| published_within(Millis::from_secs(seconds)).as_secs();
        assert_eq!([waits(1), waits(30), waits(60), waits(3600)], [12, 70, 130, 300]);
        assert_eq!(published_within(Millis(u64::MAX)), MAX_WAIT);
    }
}
