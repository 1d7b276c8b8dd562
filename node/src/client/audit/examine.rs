//! All checks of an accepted proof, the cheap ones first; the model is run once everything else holds.

use super::Subject;
use super::evidence::LeaseTerms;
use super::search::{job_of, proof_of};
use crate::cli::UserError;
use crate::client::Session;
use crate::client::checks::{Check, no, open, yes};
use crate::recheck::{self, Bounds};
use crate::workload::KnownModel;
use anyhow::Result;
use std::time::Instant;
use swarm_crypto::address::Address;
use swarm_inference::{CancelToken, Hardware, Registry};
use swarm_protocol::distance::{Distances, Measure};
use swarm_protocol::finding::{self, Finding};
use swarm_protocol::statement::{Assurance, Intake, Job, JobType, Proof, Signed, Statement, lease_id};
use swarm_protocol::transcript::Transcript;
use swarm_protocol::workload::{bench, embed, image};

/// What was found, and by whom.
pub(super) struct Found {
    pub finding: Finding,
    pub why: Option<String>,
    pub distances: Option<Distances>,
    pub provider: String,
    pub checks: Vec<Check>,
}

pub(super) async fn examine(session: &Session, subject: &Subject, model: &KnownModel) -> Result<Found> {
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
    match accepted(subject, &job, &proof, model)? {
        Ok(check) => checks.push(check),
        Err(why) => {
            checks.push(no("check A", &*why));
            broken.get_or_insert(why);
        }
    }
    let rules_only =
        |finding, why| Found { finding, why, distances: None, provider: String::new(), checks: vec![] };
    if let Some(why) = broken {
        checks.push(open("check B", "not run: the rules are broken already"));
        return Ok(Found { checks, ..rules_only(Finding::Contradicts, Some(why)) });
    }
    let Some(measure) = Measure::of(job.job_type) else {
        let why = "none of a benchmark: its products are checked, its times are its miner's word";
        checks.push(open("check B", why));
        return Ok(Found { checks, ..rules_only(Finding::Holds, None) });
    };
    let begun = Instant::now();
    session.printer.stage(format!("running {} once more", job.model));
    let (provider, distances) = compare(session, subject, job, proof, model).await?;
    let told =
        format!("{}; {:.2} s on {provider}", in_words(&distances, measure), begun.elapsed().as_secs_f64());
    let (finding, flaw) = finding::judge(Ok(&distances), &model.tolerance())?;
    let why = flaw.map(|flaw| flaw.to_string());
    checks.push(match &why {
        None => yes("check B", told),
        Some(why) => no("check B", format!("{why}; {told}")),
    });
    Ok(Found { finding, why, distances: Some(distances), provider, checks })
}

fn in_words(found: &Distances, measure: Measure) -> String {
    let Distances { mean, high, worst, strangers, strays, .. } = found;
    let told = format!("mean {mean}, nine in ten below {high}, worst {worst} of {}", measure.unit());
    match measure {
        Measure::Bits => format!("{told}; {strangers} strangers, {strays} strays"),
        Measure::Lengths | Measure::Shades => told,
    }
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

/// The acceptance rule once more, check A in it; why it is broken, if it is.
fn accepted(
    subject: &Subject,
    job: &Job,
    proof: &Proof,
    model: &KnownModel,
) -> Result<Result<Check, String>> {
    let workload = model.workload();
    if workload != job.job_type {
        let why =
            format!("nothing can be said of the proof: {} is for {} here", job.model, workload.as_str());
        return Err(UserError::misuse(why).hint("name the manifest of that model with --model").into());
    }
    let delivery = (proof, subject.transcript.as_slice(), subject.output.as_slice());
    let units = match model.accept(job, subject.linked.as_deref(), &[], delivery)? {
        Ok(units) => units,
        Err(fault) => {
            return match finding::judge(Err(&fault), &model.tolerance()) {
                Ok(_) => Ok(Err(fault.to_string())),
                Err(other) => Err(UserError::misuse(format!("nothing can be said of the proof: {other}"))
                    .hint("name the manifest of those weights with --model")
                    .into()),
            };
        }
    };
    let told = format!("{}; {units} work units", delivered(job, &subject.transcript)?);
    Ok(match &subject.recorded {
        Some(recorded) if recorded.units != units => {
            Err(format!("epoch {} counts {} work units, {units} were done", recorded.epoch, recorded.units))
        }
        Some(recorded) => Ok(yes("check A", format!("{told}, as epoch {} has it", recorded.epoch))),
        None => Ok(yes("check A", told)),
    })
}

/// What the rule has found of an acceptable delivery.
fn delivered(job: &Job, transcript: &[u8]) -> Result<String> {
    Ok(match job.job_type {
        JobType::LlmGen => {
            let what = match job.assurance {
                Assurance::Seeded => "are what its seed picks",
                Assurance::Distance => "are among its candidates",
            };
            format!("{} tokens {what}, and spell the output", Transcript::decode(transcript)?.steps.len())
        }
        JobType::Embed => {
            let texts = embed::Transcript::decode(transcript)?.texts.len();
            format!("{texts} vectors are of unit length, one for each text")
        }
        JobType::SdInfer => {
            let run = image::Transcript::decode(transcript)?;
            format!("a whole picture after {} steps, its noise of the seed that is due", run.steps.len())
        }
        JobType::TorchBench => {
            format!("{} products are right", bench::Transcript::decode(transcript)?.laps.len())
        }
    })
}

/// Check B: the model's own run.
async fn compare(
    session: &Session,
    subject: &Subject,
    job: Job,
    proof: Proof,
    model: &KnownModel,
) -> Result<(String, Distances)> {
    let (model, cancel) = (model.clone(), CancelToken::new());
    let (transcript, output) = (subject.transcript.clone(), subject.output.clone());
    let stop = cancel.clone();
    let work = tokio::task::spawn_blocking(move || {
        let registry = Registry::standard();
        let provider = registry.find(&Hardware::probe(), model.manifest())?.name();
        let mut engine = model.start(&registry)?;
        let (delivery, bounds) = ((&proof, &*transcript, &*output), Bounds { deadline: None, cancel: &stop });
        let found = recheck::distances(engine.as_mut(), &model, &job, delivery, bounds)?;
        Ok::<_, anyhow::Error>((provider.to_owned(), found))
    });
    tokio::select! {
        done = work => done?,
        () = session.stop.cancelled() => {
            cancel.cancel();
            Err(UserError::input("interrupted before all was computed").hint("run it again").into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_in_the_units_of_its_positions() {
        let [mean, high, worst] = [3, 5, 9];
        let found =
            Distances { positions: vec![], mean, high, worst, candidates: 7, strangers: 1, strays: 2 };
        let table = [
            (Measure::Bits, "4096ths of a bit; 1 strangers, 2 strays"),
            (Measure::Lengths, "65536ths of a vector's length"),
            // Of both kinds, and any of the three may be of either.
            (Measure::Shades, "4096ths of a latent (steps) and 256ths of a shade (tiles)"),
        ];
        for (measure, unit) in table {
            let due = format!("mean 3, nine in ten below 5, worst 9 of {unit}");
            assert_eq!(in_words(&found, measure), due);
        }
    }
}
