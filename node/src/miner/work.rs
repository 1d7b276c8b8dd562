//! One job on one engine: from what a client signed to the transcript and the output that a proof names.

use super::pace::Pace;
use crate::workload::{
    KnownModel, NormativeSampler, bench_request, paint_request, prompt_text, step, stop_reason,
};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use swarm_crypto::digest::Digest;
use swarm_inference::{
    BenchRequest, CancelToken, EmbedRequest, Engine, Flow, GenerateRequest, PaintRequest, Sampling,
};
use swarm_protocol::altered;
use swarm_protocol::distance::Draws;
use swarm_protocol::finding::can_audit;
use swarm_protocol::miner::Run;
use swarm_protocol::statement::{JobType, Params};
use swarm_protocol::transcript::{PrefixDigest, Step, Transcript};
use swarm_protocol::workload::{bench, embed, image};

/// What a run left behind.
#[derive(Debug)]
pub struct Made {
    /// The transcript's block.
    pub transcript: Vec<u8>,
    /// The output.
    pub output: Vec<u8>,
    /// Of text.
    pub pace: Option<Pace>,
    /// How far its costs are from the model's, in the mean; none if they are the model's.
    pub altered: Option<u32>,
}

/// Who hears of every token, text, step or lap: what of a text became certain with it, how many there are, and the digest of
/// the transcript up to there.
type Progress<'a> = &'a mut dyn FnMut(&[u8], u64, Digest);

/// A job, and what bounds the work on it.
pub struct Task<'a> {
    /// What is to be done, under which lease.
    pub run: &'a Run,
    /// With what.
    pub model: &'a KnownModel,
    /// How long it may take.
    pub within: Duration,
    /// Ends it before.
    pub cancel: &'a CancelToken,
}

impl Task<'_> {
    fn deadline(&self) -> Option<Instant> {
        Some(Instant::now() + self.within)
    }
}

/// Does what a job asks, if it is what the engine is for; `progress` hears of every step.
pub fn carry_out(engine: &mut dyn Engine, task: &Task<'_>, progress: Progress<'_>) -> Result<Made> {
    let mut other = other_weights()?;
    let engine = other.as_deref_mut().unwrap_or(engine);
    match task.run.job.job_type {
        JobType::LlmGen => generate(engine, task, progress),
        JobType::Embed => embed(engine, task, progress),
        JobType::TorchBench => benchmark(engine, task, progress),
        JobType::SdInfer => paint(engine, task, progress),
    }
}

/// What a job may take of the device's memory, if it says so.
fn max_memory(run: &Run) -> Option<u64> {
    (run.job.vram_mb > 0).then(|| u64::from(run.job.vram_mb) << 20)
}

/// Continues a job's prompt.
fn generate(engine: &mut dyn Engine, task: &Task<'_>, progress: Progress<'_>) -> Result<Made> {
    let Task { run, model, cancel, .. } = *task;
    let prompt = model.prompt_ids(&run.job, run.linked.as_deref())?;
    let request = GenerateRequest {
        prompt_ids: prompt.clone(),
        max_tokens: run.job.params.max_tokens,
        stop: run.job.params.stop.clone(),
        sampling: Sampling {
            temperature: run.job.params.temperature,
            top_p: run.job.params.top_p,
            seed: run.job.params.seed,
        },
        deadline: task.deadline(),
        max_memory_bytes: max_memory(run),
    };
    let mut prefix = PrefixDigest::new(&run.lease, &model.digest(), &prompt);
    let mut steps = Vec::new();
    let mut sampler = NormativeSampler::new(&run.job, run.seed);
    let mut costs = Costs::of(task);
    let mut sink = |made: &swarm_inference::Step| {
        let taken = costs.signed(step(made));
        prefix.push(&taken);
        steps.push(taken);
        progress(&made.text, prefix.steps(), prefix.digest());
        std::thread::sleep(token_pause());
        Flow::Continue
    };
    let generation = engine.generate(&request, &mut sampler, cancel, &mut sink)?;
    let transcript = Transcript {
        model: run.job.model.clone(),
        model_digest: model.digest(),
        prompt,
        steps,
        stop: stop_reason(generation.stop_reason),
    };
    let pace = Some(Pace::of(&generation));
    Ok(Made { transcript: transcript.encode(), output: generation.output, pace, altered: costs.mean() })
}

/// The costs that are signed: the model's own, or those of a proof that is altered on purpose.
struct Costs {
    draws: Option<Draws>,
    positions: u64,
    distance: u64,
}

impl Costs {
    fn of(task: &Task<'_>) -> Self {
        let Params { temperature, top_p, .. } = task.run.job.params;
        let is_altered = task.run.altered && can_audit(&task.model.tolerance());
        let draws = is_altered.then_some(Draws { seed: task.run.seed, temperature, top_p });
        Self { draws, positions: 0, distance: 0 }
    }

    /// The next step, as it is signed.
    fn signed(&mut self, step: Step) -> Step {
        let place = self.positions;
        self.positions += 1;
        let altered = self.draws.as_ref().and_then(|draws| altered::alter(&step, place, draws));
        let Some((altered, distance)) = altered else { return step };
        self.distance += u64::from(distance);
        altered
    }

    fn mean(&self) -> Option<u32> {
        let mean = self.distance.checked_div(self.positions).filter(|mean| *mean > 0)?;
        u32::try_from(mean).ok()
    }
}

/// Embeds a job's texts.
fn embed(engine: &mut dyn Engine, task: &Task<'_>, progress: Progress<'_>) -> Result<Made> {
    let Task { run, model, cancel, .. } = *task;
    let texts = model.text_ids(&run.job, run.linked.as_deref())?;
    let deadline = task.deadline();
    let request = EmbedRequest { texts: texts.clone(), deadline, max_memory_bytes: max_memory(run) };
    let mut prefix = embed::PrefixDigest::new(&run.lease, &model.digest());
    let (mut output, mut waiting) = (Vec::new(), texts.iter());
    let mut sink = |vector: &[f32]| {
        let Some(ids) = waiting.next() else { return Flow::Stop };
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        prefix.push(ids, &bytes);
        output.extend(bytes);
        progress(&[], prefix.texts(), prefix.digest());
        std::thread::sleep(token_pause());
        Flow::Continue
    };
    engine.embed(&request, cancel, &mut sink)?;
    let transcript = embed::Transcript { model: run.job.model.clone(), model_digest: model.digest(), texts };
    Ok(Made { transcript: transcript.encode(), output, pace: None, altered: None })
}

/// Paints the picture that a job asks for.
fn paint(engine: &mut dyn Engine, task: &Task<'_>, progress: Progress<'_>) -> Result<Made> {
    let Task { run, model, cancel, .. } = *task;
    let (spec, prompt) = model.picture(&run.job)?;
    let seed = image::noise_seed(&run.lease, run.job.params.seed);
    let deadline = task.deadline();
    let asked = paint_request(&spec, prompt.clone(), seed);
    let request = PaintRequest { deadline, max_memory_bytes: max_memory(run), ..asked };
    let spec = spec.to_string();
    let mut prefix = image::PrefixDigest::new(&run.lease, &model.digest(), &spec, &prompt, &seed);
    let mut steps = Vec::new();
    let mut sink = |summary: &[i32]| {
        prefix.push(summary);
        steps.push(summary.to_vec());
        progress(&[], prefix.steps(), prefix.digest());
        std::thread::sleep(token_pause());
        Flow::Continue
    };
    let output = engine.paint(&request, cancel, &mut sink)?;
    let (model, model_digest) = (run.job.model.clone(), model.digest());
    let transcript = image::Transcript { model, model_digest, spec, prompt, seed, steps };
    Ok(Made { transcript: transcript.encode(), output, pace: None, altered: None })
}

/// Measures what a job names.
fn benchmark(engine: &mut dyn Engine, task: &Task<'_>, progress: Progress<'_>) -> Result<Made> {
    let Task { run, model, cancel, .. } = *task;
    let text = prompt_text(&run.job, run.linked.as_deref())?;
    let spec = bench::Spec::parse(&text)?;
    let deadline = task.deadline();
    let request =
        BenchRequest { deadline, max_memory_bytes: max_memory(run), ..bench_request(&spec, run.seed) };
    let mut prefix = bench::PrefixDigest::new(&run.lease, &model.digest(), &text);
    let mut laps = Vec::new();
    let mut sink = |lap: swarm_inference::Lap| {
        let lap = (u64::try_from(lap.time.as_nanos()).unwrap_or(u64::MAX), lap.checksum);
        prefix.push(lap);
        laps.push(lap);
        progress(&[], prefix.laps(), prefix.digest());
        std::thread::sleep(token_pause());
        Flow::Continue
    };
    engine.benchmark(&request, cancel, &mut sink)?;
    let figures = bench::Figures::of(&spec, &laps).context("the laps took no time")?;
    let (model, model_digest) = (run.job.model.clone(), model.digest());
    let transcript = bench::Transcript { model, model_digest, spec: text, laps };
    Ok(Made { transcript: transcript.encode(), output: figures.encode(), pace: None, altered: None })
}

/// `SWARMPOOL_TOKEN_PAUSE_MS` makes jobs of small models long in debug builds, for tests.
#[cfg(debug_assertions)]
fn token_pause() -> Duration {
    let pause = std::env::var("SWARMPOOL_TOKEN_PAUSE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(pause.unwrap_or(0))
}

#[cfg(not(debug_assertions))]
fn token_pause() -> Duration {
    Duration::ZERO
}

/// `SWARMPOOL_CHEAT_MODEL` names the manifest of a model that a debug build runs in place of the one that it offers, for
/// tests of audits.
#[cfg(debug_assertions)]
fn other_weights() -> Result<Option<Box<dyn Engine>>> {
    let Some(path) = std::env::var_os("SWARMPOOL_CHEAT_MODEL") else { return Ok(None) };
    let model = swarm_inference::Model::from_manifest_file(std::path::Path::new(&path))?;
    let registry = swarm_inference::Registry::standard();
    let provider = registry.find(&swarm_inference::Hardware::probe(), &model.manifest)?;
    Ok(Some(provider.start(&swarm_inference::EngineConfig { model, max_memory_bytes: None })?))
}

#[cfg(not(debug_assertions))]
fn other_weights() -> Result<Option<Box<dyn Engine>>> {
    Ok(None)
}
