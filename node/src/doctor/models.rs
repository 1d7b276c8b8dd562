//! Providers, and each model: whether it is whole, who can run it, and how fast it answers.

use super::{Check, fail, failed, ok};
use crate::workload::{KnownModel, Models};
use anyhow::Result;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use swarm_inference::{CancelToken, Flow, GenerateRequest, Greedy, Hardware, Provider, Registry, Support};

/// What each model is asked to continue, and how far.
const PROMPT: &str = "Once upon a time";
const TOKENS: u32 = 16;
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
    match answer(registry, model) {
        Ok((tokens, time)) => {
            let rate = f64::from(tokens) / time.as_secs_f64().max(1e-9);
            ok(check, format!("answers, {rate:.0} tokens a second"))
        }
        Err(error) => failed(check, &error),
    }
}

fn answer(registry: &Registry, model: &KnownModel) -> Result<(u32, Duration)> {
    let mut engine = model.start(registry)?;
    let request = GenerateRequest {
        prompt_ids: engine.tokenizer().encode_prompt(PROMPT)?,
        max_tokens: TOKENS,
        deadline: Some(Instant::now() + PATIENCE),
        ..GenerateRequest::default()
    };
    let made = engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue)?;
    Ok((u32::try_from(made.ids.len())?, made.prompt_time + made.decode_time))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_built_in_model_answers_and_one_that_is_not_there_fails() {
        let checks = checks(&Registry::standard(), &[PathBuf::from("/nowhere/manifest.json")]);
        let states: Vec<_> = checks.iter().map(|check| (check.check.as_str(), check.state)).collect();
        let expected =
            [("provider candle", State::Ok), ("model queenbee-nano", State::Ok), ("model", State::Fail)];
        assert_eq!(states, expected, "{checks:?}");
    }
}
