//! Providers, and each model: whether it is whole, who can run it, and how fast it answers.

use super::{Check, fail, failed, ok};
use crate::words::rates;
use crate::workload::{KnownModel, Models, bench_request, paint_request};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use swarm_inference::{
    BenchRequest, CancelToken, EmbedRequest, Engine, Flow, GenerateRequest, Greedy, Hardware, PaintRequest,
    Provider, Registry, Support,
};
use swarm_protocol::statement::JobType;
use swarm_protocol::workload::bench::{DType, Figures, Spec};
use swarm_protocol::workload::image;

/// What each model is asked to continue, and how far.
const PROMPT: &str = "Once upon a time";
const TOKENS: u32 = 16;
/// What a benchmark multiplies.
const PRODUCT: Spec = Spec { dtype: DType::F32, m: 512, n: 512, k: 512, repeats: 4 };
/// The picture that is painted: the smallest, of a single step.
const PICTURE: image::Spec =
    image::Spec { width: image::SIDE_STEP, height: image::SIDE_STEP, steps: 1, guidance: image::NO_GUIDANCE };
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn checks(registry: &Registry, manifests: &[PathBuf]) -> Vec<Check> {
    // Each by itself: one that cannot be loaded does not hide the others.
    let named = manifests.iter().map(|path| Models::load(std::slice::from_ref(path)));
    let mut checks = Vec::new();
    let mut seen = Vec::new();
    for loaded in std::iter::once(Models::load(&[])).chain(named) {
        match loaded {
            Ok(models) => {
                for name in models.names().filter(|name| !seen.contains(*name)).cloned().collect::<Vec<_>>() {
                    let model = models.get(&name).expect("a model that was just named");
                    checks.extend(providers(registry, &name, model));
                    checks.push(run(registry, &name, model));
                    seen.push(name);
                }
            }
            Err(error) => checks.push(failed("model", &error)),
        }
    }
    checks
}

/// What each provider says of a model.
fn providers(registry: &Registry, name: &str, model: &KnownModel) -> Vec<Check> {
    let hardware = Hardware::probe();
    let judged = |provider: &std::sync::Arc<dyn Provider>| {
        let check = format!("provider {}", provider.name());
        match provider.detect(&hardware, model.manifest()) {
            Support::Supported => ok(check, format!("can run {name}")),
            Support::Unsupported(why) => fail(
                check,
                format!("cannot run {name}: {why}"),
                "leave that model out, or use another machine",
            ),
        }
    };
    registry.providers().map(judged).collect()
}

/// Runs it, as a job would.
fn run(registry: &Registry, name: &str, model: &KnownModel) -> Check {
    let check = format!("model {name}");
    let found = model.start(registry).and_then(|mut engine| match model.workload() {
        JobType::LlmGen => answer(engine.as_mut()),
        JobType::Embed => embed(engine.as_mut(), model),
        JobType::TorchBench => benchmark(engine.as_mut()),
        JobType::SdInfer => paint(engine.as_mut(), model),
    });
    found.map_or_else(|error| failed(check.clone(), &error), |found| ok(check.clone(), found))
}

fn answer(engine: &mut dyn Engine) -> Result<String> {
    let tokenizer = engine.tokenizer().context("the engine has no tokenizer")?;
    let request = GenerateRequest {
        prompt_ids: tokenizer.encode_prompt(PROMPT)?,
        max_tokens: TOKENS,
        deadline: Some(Instant::now() + PATIENCE),
        ..GenerateRequest::default()
    };
    let made = engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue)?;
    let rate = f64::from(u32::try_from(made.ids.len())?)
        / (made.prompt_time + made.decode_time).as_secs_f64().max(1e-9);
    Ok(format!("answers, {rate:.0} tokens a second"))
}

fn embed(engine: &mut dyn Engine, model: &KnownModel) -> Result<String> {
    let deadline = Some(Instant::now() + PATIENCE);
    let request = EmbedRequest { texts: vec![model.text_of(PROMPT)?], deadline, max_memory_bytes: None };
    let (begun, mut numbers) = (Instant::now(), 0);
    engine.embed(&request, &CancelToken::new(), &mut |vector| {
        numbers = vector.len();
        Flow::Continue
    })?;
    Ok(format!("embeds, {numbers} numbers in {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0))
}

fn paint(engine: &mut dyn Engine, model: &KnownModel) -> Result<String> {
    let (prompt, deadline) = (model.painted(PROMPT)?, Some(Instant::now() + PATIENCE));
    let asked = paint_request(&PICTURE, prompt, swarm_crypto::digest::Digest::ZERO);
    let begun = Instant::now();
    let request = PaintRequest { deadline, ..asked };
    engine.paint(&request, &CancelToken::new(), &mut |_| Flow::Continue)?;
    let image::Spec { width, height, .. } = PICTURE;
    let ms = begun.elapsed().as_secs_f64() * 1000.0;
    Ok(format!("paints, a step and a picture of {width} by {height} pixels in {ms:.0} ms"))
}

fn benchmark(engine: &mut dyn Engine) -> Result<String> {
    let deadline = Some(Instant::now() + PATIENCE);
    let request = BenchRequest { deadline, ..bench_request(&PRODUCT, swarm_crypto::digest::Digest::ZERO) };
    let mut laps = Vec::new();
    engine.benchmark(&request, &CancelToken::new(), &mut |lap| {
        laps.push((u64::try_from(lap.time.as_nanos()).unwrap_or(u64::MAX), lap.checksum));
        Flow::Continue
    })?;
    let figures = Figures::of(&PRODUCT, &laps).context("the laps took no time")?;
    Ok(format!("multiplies, {}", rates(&figures)))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_built_in_models_answer_and_one_that_is_not_there_fails() {
        let checks = checks(&Registry::standard(), &[PathBuf::from("/nowhere/manifest.json")]);
        let states: Vec<_> = checks.iter().map(|check| (check.check.as_str(), check.state)).collect();
        let expected = [
            ("provider candle", State::Ok),
            ("model matmul", State::Ok),
            ("provider candle", State::Ok),
            ("model queenbee-nano", State::Ok),
            ("model", State::Fail),
        ];
        assert_eq!(states, expected, "{checks:?}");
    }
}
