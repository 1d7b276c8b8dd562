//! Check B: the model run once more over what was delivered for a job, and how far apart the two runs are.

use crate::workload::{Delivery, KnownModel, paint_request, recomputed, rescore_request};
use anyhow::{Result, anyhow, bail};
use std::time::Instant;
use swarm_inference::{CancelToken, EmbedRequest, Engine, Flow, PaintRequest, RescoreRequest, Rescored};
use swarm_protocol::acceptance;
use swarm_protocol::distance::{Distances, Draws, measure, pictures, vectors};
use swarm_protocol::statement::{Assurance, Job, JobType};
use swarm_protocol::workload::{embed, image};

/// What bounds another run.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Ends it before.
    pub cancel: &'a CancelToken,
}

/// How far what was delivered for a job, and was found acceptable, is from what the model computes on `engine`.
pub fn distances(
    engine: &mut dyn Engine,
    model: &KnownModel,
    job: &Job,
    delivery: Delivery<'_>,
    bounds: Bounds<'_>,
) -> Result<Distances> {
    match job.job_type {
        JobType::LlmGen => of_text(engine, model, job, delivery, bounds),
        JobType::Embed => of_vectors(engine, model, delivery, bounds),
        JobType::SdInfer => of_picture(engine, delivery, bounds),
        JobType::TorchBench => bail!("nothing in a benchmark is left to compute again"),
    }
}

/// One pass over prompt and output.
fn of_text(
    engine: &mut dyn Engine,
    model: &KnownModel,
    job: &Job,
    (proof, transcript, _): Delivery<'_>,
    bounds: Bounds<'_>,
) -> Result<Distances> {
    let opened = acceptance::open(proof, transcript)?;
    let asked = rescore_request(opened.transcript(), model.manifest().top_k);
    let rescored = engine.rescore(&RescoreRequest { deadline: bounds.deadline, ..asked }, bounds.cancel)?;
    of_rescored(job, &opened, rescored)
}

fn of_rescored(job: &Job, opened: &acceptance::Opened, rescored: Vec<Rescored>) -> Result<Distances> {
    let own: Vec<_> = rescored.into_iter().map(recomputed).collect();
    let draws = Draws::of(&opened.proof().lease, &job.params);
    let draws = (job.assurance == Assurance::Seeded).then_some(&draws);
    measure(&opened.transcript().steps, &own, draws).map_err(|error| anyhow!("{error}"))
}

/// All texts again.
fn of_vectors(
    engine: &mut dyn Engine,
    model: &KnownModel,
    (_, transcript, output): Delivery<'_>,
    bounds: Bounds<'_>,
) -> Result<Distances> {
    let texts = embed::Transcript::decode(transcript)?.texts;
    let request = EmbedRequest { texts, deadline: bounds.deadline, max_memory_bytes: None };
    let mut own = Vec::with_capacity(output.len());
    engine.embed(&request, bounds.cancel, &mut |vector| {
        own.extend(vector.iter().flat_map(|number| number.to_le_bytes()));
        if own.len() <= output.len() { Flow::Continue } else { Flow::Stop }
    })?;
    Ok(vectors(output, &own, model.manifest().dimensions)?)
}

/// The picture again, from the same noise.
fn of_picture(
    engine: &mut dyn Engine,
    (_, transcript, output): Delivery<'_>,
    bounds: Bounds<'_>,
) -> Result<Distances> {
    let signed = image::Transcript::decode(transcript)?;
    let spec = image::Spec::parse(&signed.spec)?;
    let asked = paint_request(&spec, signed.prompt, signed.seed);
    let request = PaintRequest { deadline: bounds.deadline, ..asked };
    let mut steps = Vec::with_capacity(signed.steps.len());
    let painted = engine.paint(&request, bounds.cancel, &mut |summary| {
        steps.push(summary.to_vec());
        if steps.len() <= signed.steps.len() { Flow::Continue } else { Flow::Stop }
    })?;
    Ok(pictures(&spec, (&signed.steps, output), (&steps, &painted))?)
}
