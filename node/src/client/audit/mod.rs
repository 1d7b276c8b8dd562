//! `swarm-node audit`: any accepted proof, checked again with the model itself.

mod challenge;
mod evidence;
mod search;

use super::Session;
use super::checks::{Check, no, open, report, yes};
use super::recompute::begin;
use crate::cli::{AuditArgs, Exit, UserError};
use crate::storage::disk::write_atomic;
use crate::workload::{KnownModel, Models, distances, rescore_request};
use anyhow::Result;
use evidence::{Content, Evidence, LeaseTerms};
use search::{job_of, proof_of};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;
use swarm_crypto::address::Address;
use swarm_inference::{CancelToken, Hardware, Registry};
use swarm_protocol::acceptance::Opened;
use swarm_protocol::distance::Distances;
use swarm_protocol::finding::{self, Finding};
use swarm_protocol::statement::{Assurance, Intake, Job, JobType, Proof, Signed, Statement, lease_id};

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

/// What was found, and by whom.
struct Found {
    finding: Finding,
    why: Option<String>,
    distances: Option<Distances>,
    provider: String,
    checks: Vec<Check>,
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
        "finding": file.finding, "why": file.why, "tolerance": file.tolerance,
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

/// All checks, the cheap ones first; the model is run once everything else holds.
async fn examine(session: &Session, subject: &Subject, model: &KnownModel) -> Result<Found> {
    let ((_, job), (claimed, proof)) = (job_of(&subject.job)?, proof_of(&subject.proof)?);
    let mut checks = Vec::new();
    let mut broken = None;
    for check in [signatures(subject), leased(subject, &claimed, &proof)] {
        match check {
            Ok(check) => checks.push(check),
            Err((what, why)) => {
                broken.get_or_insert(why.clone());
                checks.push(no(what, why));
            }
        }
    }
    let opened = match accepted(subject, &job, &proof, model)? {
        Ok((opened, check)) => {
            checks.push(check);
            Ok(opened)
        }
        Err(why) => {
            checks.push(no("check A", &*why));
            Err(why)
        }
    };
    let opened = match (broken, opened) {
        (None, Ok(opened)) => opened,
        (Some(why), _) | (None, Err(why)) => {
            checks.push(open("check B", "not run: the rules are broken already"));
            let (finding, why, provider) = (Finding::Contradicts, Some(why), String::new());
            return Ok(Found { finding, why, distances: None, provider, checks });
        }
    };
    let begun = Instant::now();
    session.printer.stage(format!("running {} over {} tokens", job.model, opened.tokens().count()));
    let (provider, distances) = compare(session, &job, opened, model).await?;
    let took = begun.elapsed().as_secs_f64();
    let told = format!(
        "mean {}, nine in ten below {}, worst {} of 4096ths of a bit; {} strangers, {} strays; {took:.2} s on {provider}",
        distances.mean, distances.high, distances.worst, distances.strangers, distances.strays
    );
    let (finding, flaw) = finding::judge(Ok(&distances), &model.tolerance())?;
    let why = flaw.map(|flaw| flaw.to_string());
    checks.push(match &why {
        None => yes("check B", told),
        Some(why) => no("check B", format!("{why}; {told}")),
    });
    Ok(Found { finding, why, distances: Some(distances), provider, checks })
}

type Step = Result<Check, (&'static str, String)>;

/// Both statements are signed by whom they name.
fn signatures(subject: &Subject) -> Step {
    const WHAT: &str = "signatures";
    let said = |signed: &Signed| -> Result<Address, String> {
        let statement = Statement::decode(&signed.payload).map_err(|error| error.to_string())?;
        let mut intake = Intake::new(statement.header.pool, Address::ZERO);
        // By its own clock: it may be old.
        let verified = intake.verify(None, &signed.encode(), statement.header.at);
        verified.map(|_| statement.header.by).map_err(|rejection| rejection.to_string())
    };
    let client = said(&subject.job).map_err(|why| (WHAT, format!("of the job: {why}")))?;
    let miner = said(&subject.proof).map_err(|why| (WHAT, format!("of the proof: {why}")))?;
    Ok(yes(WHAT, format!("the job by {client}, the proof by {miner}")))
}

/// The proof is of this job, by the holder of the lease that it names.
fn leased(subject: &Subject, claimed: &Statement, proof: &Proof) -> Step {
    const WHAT: &str = "lease";
    let LeaseTerms { term, wallet, seed } = &subject.lease;
    let due = lease_id(&claimed.header.pool, &subject.job.id(), *term, wallet, seed);
    if proof.job != subject.job.id() || proof.lease != due || claimed.header.by != *wallet {
        return Err((WHAT, format!("the proof is not one under the lease of {wallet}, attempt {term}")));
    }
    Ok(yes(WHAT, format!("{due}, attempt {term}, held by who proved it")))
}

type Accepted = Result<(Opened, Check), String>;

/// The acceptance rule once more, check A in it.
fn accepted(subject: &Subject, job: &Job, proof: &Proof, model: &KnownModel) -> Result<Accepted> {
    if job.job_type != JobType::LlmGen {
        let what = job.job_type.as_str();
        return Err(UserError::input(format!("the job is {what}, and only text is computed again so far"))
            .hint("swarm-client verify --answers checks what it delivered by its own rule")
            .into());
    }
    let delivery = (proof, subject.transcript.as_slice(), subject.output.as_slice());
    let (opened, units) = match model.accept_text(job, subject.linked.as_deref(), &[], delivery)? {
        Ok(accepted) => accepted,
        Err(fault) => {
            return match finding::judge(Err(&fault), &model.tolerance()) {
                Ok(_) => Ok(Err(fault.to_string())),
                Err(other) => Err(UserError::misuse(format!("nothing can be said of the proof: {other}"))
                    .hint("name the manifest of those weights with --model")
                    .into()),
            };
        }
    };
    let tokens = opened.tokens().count();
    let what = match job.assurance {
        Assurance::Seeded => "are what its seed picks",
        Assurance::Distance => "are among its candidates",
    };
    let told = format!("{tokens} tokens {what}, and spell the output; {units} work units");
    Ok(match &subject.recorded {
        Some(recorded) if recorded.units != units => {
            Err(format!("epoch {} counts {} work units, {units} were done", recorded.epoch, recorded.units))
        }
        Some(recorded) => Ok((opened, yes("check A", format!("{told}, as epoch {} has it", recorded.epoch)))),
        None => Ok((opened, yes("check A", told))),
    })
}

/// Check B: the model's own pass over prompt and output.
async fn compare(
    session: &Session,
    job: &Job,
    opened: Opened,
    model: &KnownModel,
) -> Result<(String, Distances)> {
    let (model, cancel) = (model.clone(), CancelToken::new());
    let (request, stop) = (rescore_request(opened.transcript(), model.manifest().top_k), cancel.clone());
    let work = tokio::task::spawn_blocking(move || {
        let registry = Registry::standard();
        let provider = registry.find(&Hardware::probe(), model.manifest())?.name();
        let mut engine = model.start(&registry)?;
        Ok::<_, anyhow::Error>((provider.to_owned(), engine.rescore(&request, &stop)?))
    });
    let (provider, rescored) = tokio::select! {
        done = work => done??,
        () = session.stop.cancelled() => {
            cancel.cancel();
            return Err(UserError::input("interrupted before all was computed").hint("run it again").into());
        }
    };
    Ok((provider, distances(job, &opened, rescored)?))
}

fn evidence_of(subject: &Subject, model: &KnownModel, found: &Found) -> Result<Evidence> {
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
        tolerance: model.tolerance(),
        distances: found.distances.clone(),
        content: Content::of(subject),
    })
}

fn keep(path: &Path, file: &Evidence) -> Result<()> {
    let text = format!("{}\n", serde_json::to_string_pretty(file)?);
    Ok(write_atomic(path, text.as_bytes())?)
}
