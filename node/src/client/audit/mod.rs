//! `swarm-node audit`: any accepted proof, checked again with the model itself.

mod challenge;
mod evidence;
mod examine;
mod search;

use super::Session;
use super::checks::{open, report};
use super::recompute::begin;
use crate::cli::{AuditArgs, Exit, UserError};
use crate::storage::disk::write_atomic;
use crate::workload::{KnownModel, Models};
use anyhow::Result;
use evidence::{Content, Evidence, LeaseTerms};
use examine::{Found, examine};
use search::job_of;
use serde_json::{Value, json};
use std::path::Path;
use swarm_protocol::distance::{Distances, Measure};
use swarm_protocol::finding::Finding;
use swarm_protocol::statement::Signed;

/// An accepted proof, and all that it names.
struct Subject {
    job: Signed,
    proof: Signed,
    lease: LeaseTerms,
    transcript: Vec<u8>,
    output: Vec<u8>,
    /// The text behind a linked input.
    linked: Option<String>,
    /// What the pool's records say of it; nothing where only a file was at hand.
    recorded: Option<Recorded>,
}

/// Where a proof was accepted.
struct Recorded {
    epoch: u64,
    /// Its place among the epoch's acceptances.
    index: u64,
    units: u64,
}

pub(super) async fn audit(session: Session, args: &AuditArgs) -> Result<Exit> {
    let (subject, mut checks) = match (&args.from, &args.proof) {
        (Some(path), _) => (evidence::read(path)?, vec![open("sealed", "not looked at: from a file alone")]),
        (None, Some(proof)) => {
            let pool = begin(&session, &args.sealed, None).await?;
            let found = search::find(&session, &pool, proof).await;
            let sealed = pool.sealed.clone();
            pool.close(&session).await?;
            (found?, vec![sealed])
        }
        (None, None) => {
            return Err(UserError::misuse("nothing to audit was named")
                .hint("name the id of a proof, or a file of evidence with --from")
                .into());
        }
    };
    let models = Models::load(&args.models)?;
    let (_, job) = job_of(&subject.job)?;
    let model = models.get(&job.model).ok_or_else(|| {
        UserError::misuse(format!("the model {} is not known here", crate::words::clean(&job.model)))
            .hint("name its manifest.json with --model")
    })?;
    let mut found = examine(&session, &subject, model).await?;
    checks.append(&mut found.checks);
    let file = evidence_of(&subject, model, &found)?;
    if let Some(path) = &args.out {
        keep(path, &file)?;
        session.printer.note(&format!("the evidence is in {}", path.display()));
    }
    let looks = match (&found.finding, &subject.recorded) {
        (Finding::Contradicts | Finding::Differs(_), Some(recorded)) if args.challenge => {
            Some(challenge::challenge(&session, subject.job.id(), recorded).await)
        }
        _ => None,
    };
    match &looks {
        Some(Ok(auditor)) => session
            .printer
            .note(&format!("{auditor} looks too; what that costs comes back if it finds the same")),
        Some(Err(error)) => session.printer.note(&format!("warning: nobody else looks: {error:#}")),
        None => {}
    }
    let looks = looks.and_then(Result::ok).map(|auditor| auditor.to_string());
    let about = json!({
        "id": file.proof, "job": file.job, "wallet": subject.lease.wallet.to_string(), "model": file.model,
        "finding": file.finding, "why": file.why, "unit": file.unit, "tolerance": file.tolerance,
        "distances": file.distances.as_ref().map(summary), "challenged": looks,
    });
    report(&session, ("proof", about), &checks, hint)
}

fn summary(found: &Distances) -> Value {
    json!({
        "positions": found.positions.len(), "mean": found.mean, "high": found.high, "worst": found.worst,
        "candidates": found.candidates, "strangers": found.strangers, "strays": found.strays,
    })
}

fn hint(what: &str) -> &'static str {
    match what {
        "check B" => "one miss decides nothing, many of one wallet do: docs/audits.md; --out keeps this one",
        "sealed" => "name the operator whom you trust with --operator",
        _ => "the operator should not have accepted it: --out keeps the evidence",
    }
}

fn evidence_of(subject: &Subject, model: &KnownModel, found: &Found) -> Result<Evidence> {
    let measure = Measure::of(model.workload());
    Ok(Evidence {
        audit: "an accepted proof, checked again with the model itself".to_owned(),
        finding: found.finding.word().to_owned(),
        why: found.why.clone(),
        proof: subject.proof.id().to_string(),
        job: subject.job.id().to_string(),
        lease: (&subject.lease).into(),
        model: model.manifest().name.clone(),
        model_digest: model.digest().to_string(),
        provider: found.provider.clone(),
        unit: measure.map(|measure| measure.unit().to_owned()),
        tolerance: measure.map(|_| model.tolerance()),
        distances: found.distances.clone(),
        content: Content::of(subject),
    })
}

fn keep(path: &Path, file: &Evidence) -> Result<()> {
    let text = format!("{}\n", serde_json::to_string_pretty(file)?);
    Ok(write_atomic(path, text.as_bytes())?)
}
