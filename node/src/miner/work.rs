//! One job on one engine: from what a client signed to the transcript and the output that a proof names.

use crate::workload::{KnownModel, NormativeSampler, step, stop_reason};
use anyhow::Result;
use std::time::{Duration, Instant};
use swarm_inference::{CancelToken, Engine, Flow, GenerateRequest};
use swarm_protocol::miner::Run;
use swarm_protocol::transcript::{PrefixDigest, Transcript};

/// What a run left behind.
#[derive(Debug)]
pub struct Made {
    /// The transcript's block.
    pub transcript: Vec<u8>,
    /// The output.
    pub output: Vec<u8>,
}

/// Continues a job's prompt; `progress` hears of every token.
pub fn generate(
    engine: &mut dyn Engine,
    run: &Run,
    model: &KnownModel,
    within: Duration,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(u64, swarm_crypto::digest::Digest),
) -> Result<Made> {
    let prompt = model.prompt_ids(&run.job, run.linked.as_deref())?;
    let request = GenerateRequest {
        prompt_ids: prompt.clone(),
        max_tokens: run.job.params.max_tokens,
        stop: run.job.params.stop.clone(),
        deadline: Some(Instant::now() + within),
        max_memory_bytes: None,
    };
    let mut prefix = PrefixDigest::new(&run.lease, &model.digest(), &prompt);
    let mut steps = Vec::new();
    let mut sampler = NormativeSampler::new(&run.job, run.seed);
    let mut sink = |made: &swarm_inference::Step| {
        let made = step(made);
        prefix.push(&made);
        steps.push(made);
        progress(prefix.steps(), prefix.digest());
        std::thread::sleep(token_pause());
        Flow::Continue
    };
    let mut other = other_weights()?;
    let engine = other.as_deref_mut().unwrap_or(engine);
    let generation = engine.generate(&request, &mut sampler, cancel, &mut sink)?;
    let transcript = Transcript {
        model: run.job.model.clone(),
        model_digest: model.digest(),
        prompt,
        steps,
        stop: stop_reason(generation.stop_reason),
    };
    Ok(Made { transcript: transcript.encode(), output: generation.output })
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
