//! The probabilities behind an answer: the transcript that the operator publishes for its proof. `verify --answers` checks it.

use super::output::receipt_of;
use super::partial::unwritable;
use crate::cli::UserError;
use crate::content::Resolver;
use crate::link::Link;
use crate::network::{MAX_BLOCK, Until};
use crate::storage::disk::write_atomic;
use crate::workload::{KnownModel, Models};
use anyhow::{Context, Result, ensure};
use cid::Cid;
use serde_json::{Value, json};
use std::f64::consts::LN_2;
use std::path::Path;
use std::time::{Duration, Instant};
use swarm_protocol::codec::{self, JobId};
use swarm_protocol::query::Query;
use swarm_protocol::sampler::Candidate;
use swarm_protocol::statement::{Body, Receipt, Signed};
use swarm_protocol::transcript::{Step, Transcript};
use swarm_protocol::tree::AcceptedProof;

/// The operator publishes what it has accepted a few times a minute.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(500);
const COSTS_IN_A_BIT: f64 = 4096.0;

/// Fetches the transcript of what a receipt is for, by way of the pool's tree.
pub(super) async fn fetch(link: &Link, signed: &Signed) -> Result<Transcript> {
    let (receipt, _) = receipt_of(signed).ok_or_else(|| no_text("receipt"))?;
    let until = Instant::now() + PUBLISHED_WITHIN;
    let accepted = loop {
        match accepted(link, &receipt, until).await {
            Ok(accepted) => break accepted,
            Err(error) if Instant::now() >= until => {
                return Err(UserError::input(format!("the answer's transcript was not found: {error:#}"))
                    .hint("the pool keeps it for some epochs: swarm-client wait asks again")
                    .into());
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let transcript = block(link, &accepted.transcript.cid(), Instant::now() + PUBLISHED_WITHIN).await?;
    Transcript::decode(&transcript).map_err(|_| no_text("transcript"))
}

/// `proofs/<proof>` in the tree that the operator names now.
async fn accepted(link: &Link, receipt: &Receipt, until: Instant) -> Result<AcceptedProof> {
    let answer = link.ask(Query::Beacon).await.context("the operator is away")?;
    let tree = link.statements_of(&answer).iter().find_map(|statement| match &statement.statement().body {
        Body::Beacon(beacon) => beacon.tree,
        _ => None,
    });
    let path = ["proofs".to_owned(), receipt.proof.to_string()];
    let mut resolver = Resolver::new(tree.context("the operator has published nothing yet")?, path);
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

/// Writes them as one JSON object.
pub(super) fn write(path: &Path, job: &JobId, transcript: &Transcript) -> Result<()> {
    let models = Models::load(&[])?;
    let known = models.get(&transcript.model).filter(|model| model.digest() == transcript.model_digest);
    let content: Vec<_> = transcript.steps.iter().map(|step| shown(step, known)).collect();
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
