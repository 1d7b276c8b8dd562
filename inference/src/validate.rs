//! Whether a model may be offered: what has to hold before a pool takes its proofs, measured on this machine.

use std::time::Instant;

use serde::Serialize;
use thiserror::Error;

use crate::{
    COST_SCALE, CancelToken, Candidate, Compute, Decoder, Engine, EngineConfig, EngineError, Flow,
    GenerateRequest, Greedy, Hardware, Interrupt, LoadError, Manifest, Model, NoProvider, Registry, Step,
    Tokenizer, TokenizerError, Workload,
};

/// Output tokens of each run.
const RUN_TOKENS: u32 = 32;
/// Prompts that are run alone and at once.
const RUNS: usize = 8;
/// Most tokens of the text that are scored.
const MAX_SCORED: usize = 2048;
/// How far a candidate's cost may be from what one pass over the finished text gives, and how near two tokens have to be
/// for batches to choose differently: a sixty-fourth of a bit.
pub const COST_TOLERANCE: u32 = COST_SCALE / 64;

/// The same where other kernels compute, which round otherwise: half a bit.
pub const KERNEL_TOLERANCE: u32 = COST_SCALE / 2;

/// A model's checklist.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Validation {
    /// The model.
    pub model: String,
    /// blake3 of its weights, in hex; of several files the model's.
    pub blake3: String,
    /// Who ran it.
    pub provider: String,
    /// Whether all of the checklist holds.
    pub passed: bool,
    /// The checklist, in order.
    pub checks: Vec<Item>,
    /// Perplexity of the text, over its tokens but the first.
    pub perplexity: f64,
    /// Output tokens a second of one run alone.
    pub tokens_per_s: f64,
}

/// One line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What was looked at.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub passed: bool,
    /// What was measured.
    pub found: String,
}

/// Why there is no checklist: the model cannot be run at all.
#[derive(Debug, Error)]
pub enum ValidateError {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nobody can run it here.
    #[error(transparent)]
    Provider(#[from] NoProvider),
    /// It fails while it runs.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The text cannot be told in its tokens.
    #[error(transparent)]
    Text(#[from] TokenizerError),
    /// It does not generate text.
    #[error("the checklist is for models that generate text, this one is for {}", .0.as_str())]
    Workload(Workload),
    /// The text is too short to say anything.
    #[error("the text has {0} tokens, at least {least} are needed", least = 2 * RUNS)]
    Short(usize),
}

/// One finished run.
struct Run {
    prompt: Vec<u32>,
    steps: Vec<Step>,
    seconds: f64,
}

impl Run {
    fn ids(&self) -> Vec<u32> {
        self.steps.iter().map(|step| step.token).collect()
    }
}

/// Takes a model through the checklist with a text of its own kind, which it is asked to continue and to score.
pub fn validate(registry: &Registry, model: &Model, text: &str) -> Result<Validation, ValidateError> {
    let manifest = &model.manifest;
    if manifest.workload != Workload::LlmGen {
        return Err(ValidateError::Workload(manifest.workload));
    }
    let provider = registry.find(&Hardware::probe(), manifest)?;
    let [decoder, other] = both_ways(model)?;
    let tokenizer = model.tokenizer()?;
    let tokens = tokenizer.encode(text)?;
    if tokens.len() < 2 * RUNS {
        return Err(ValidateError::Short(tokens.len()));
    }
    let start = || provider.start(&EngineConfig { model: model.clone(), max_memory_bytes: None });
    let prompts = prompts(&tokens, manifest);
    let alone = prompts.iter().map(|prompt| run(start()?, prompt)).collect::<Result<Vec<_>, _>>()?;
    let again = run(start()?, &prompts[0])?;
    let engines = prompts.iter().map(|_| start()).collect::<Result<Vec<_>, _>>()?;
    let together = run_together(engines, &prompts)?;
    let perplexity = perplexity(&decoder, &tokens, manifest)?;
    let checks = vec![
        round_trip(&tokenizer, text, &tokens),
        memory(&decoder, manifest),
        better_than_chance(perplexity, manifest),
        repeats(&alone[0], &again),
        as_scored("one pass", COST_TOLERANCE, &decoder, &alone, manifest)?,
        as_scored("kernels", KERNEL_TOLERANCE, &other, &alone, manifest)?,
        as_alone(&alone, &together),
    ];
    let (count, seconds) =
        alone.iter().fold((0, 0.0), |sum, run| (sum.0 + run.steps.len(), sum.1 + run.seconds));
    Ok(Validation {
        model: manifest.name.clone(),
        blake3: manifest.weights_digest(),
        provider: provider.name().to_owned(),
        passed: checks.iter().all(|check| check.passed),
        checks,
        perplexity,
        tokens_per_s: count as f64 / seconds.max(1e-9),
    })
}

/// A model's weights twice, for what engines do not show: computed as engines do here, and another way on the processor.
pub fn both_ways(model: &Model) -> Result<[Decoder; 2], LoadError> {
    let own = model.decoder(None, None)?;
    let other = match own.compute() {
        Compute::OneCore | Compute::Device => Compute::AllCores,
        Compute::AllCores => Compute::OneCore,
    };
    let other = model.decoder(Some(other), None)?;
    Ok([own, other])
}

/// Pieces of the text, which leave room to go on.
fn prompts(tokens: &[u32], manifest: &Manifest) -> Vec<Vec<u32>> {
    let room = (manifest.context_length as usize).saturating_sub(RUN_TOKENS as usize).max(1);
    let length = (tokens.len() / RUNS).min(room);
    tokens.chunks(tokens.len() / RUNS).take(RUNS).map(|piece| piece[..length].to_vec()).collect()
}

fn run(mut engine: Box<dyn Engine>, prompt: &[u32]) -> Result<Run, EngineError> {
    let request =
        GenerateRequest { prompt_ids: prompt.to_vec(), max_tokens: RUN_TOKENS, ..GenerateRequest::default() };
    let (mut steps, begun) = (Vec::new(), Instant::now());
    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |step| {
        steps.push(step.clone());
        Flow::Continue
    })?;
    Ok(Run { prompt: prompt.to_vec(), steps, seconds: begun.elapsed().as_secs_f64() })
}

fn run_together(engines: Vec<Box<dyn Engine>>, prompts: &[Vec<u32>]) -> Result<Vec<Run>, EngineError> {
    std::thread::scope(|scope| {
        let pairs = engines.into_iter().zip(prompts);
        let runs: Vec<_> = pairs.map(|(engine, prompt)| scope.spawn(move || run(engine, prompt))).collect();
        let panicked = |_| EngineError::Compute("the engine panicked".to_owned());
        runs.into_iter().map(|run| run.join().map_err(panicked)?).collect()
    })
}

fn perplexity(decoder: &Decoder, tokens: &[u32], manifest: &Manifest) -> Result<f64, EngineError> {
    let window = (manifest.context_length as usize).min(MAX_SCORED);
    let (mut sum, mut count) = (0.0, 0);
    for piece in tokens[..tokens.len().min(MAX_SCORED)].chunks(window).filter(|piece| piece.len() > 1) {
        let scored = decoder.log_probabilities(piece, never())?;
        sum -= scored.iter().sum::<f64>();
        count += scored.len();
    }
    Ok((sum / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX))).exp())
}

fn never() -> Interrupt<'static> {
    Interrupt::new(&[], None)
}

fn item(check: &'static str, passed: bool, found: String) -> Item {
    Item { check, passed, found }
}

/// What is not told in tokens and back cannot be checked against an output.
fn round_trip(tokenizer: &Tokenizer, text: &str, tokens: &[u32]) -> Item {
    let same = tokenizer.decode(tokens) == text.as_bytes();
    let found = if same {
        format!("{} tokens spell the text", tokens.len())
    } else {
        "the text comes back changed".to_owned()
    };
    item("tokenizer", same, found)
}

/// A whole context beside the weights.
fn memory(decoder: &Decoder, manifest: &Manifest) -> Item {
    let needed = decoder.weight_bytes() + decoder.sequence_bytes(manifest.context_length as usize);
    let free = Hardware::probe().memory_bytes;
    item(
        "memory",
        needed <= free,
        format!("{} MiB with a full context, {} MiB free", needed >> 20, free >> 20),
    )
}

/// Weights that are noise, or another model's tokenizer, do no better than guessing.
fn better_than_chance(perplexity: f64, manifest: &Manifest) -> Item {
    let chance = f64::from(manifest.vocab_size);
    item("perplexity", perplexity < chance / 2.0, format!("{perplexity:.2}, by chance {chance}"))
}

/// The same job, run again, is the same answer: what a seed promises.
fn repeats(first: &Run, again: &Run) -> Item {
    let same = first.steps == again.steps;
    item(
        "repeat",
        same,
        format!(
            "{} tokens and their candidates, {}",
            first.steps.len(),
            if same { "twice the same" } else { "not twice the same" }
        ),
    )
}

/// What was offered token by token is what one pass over the finished text offers, as an audit will compare it.
fn as_scored(
    check: &'static str,
    allowed: u32,
    decoder: &Decoder,
    runs: &[Run],
    manifest: &Manifest,
) -> Result<Item, EngineError> {
    let mut worst = 0;
    for run in runs {
        let (from, ids) = (run.prompt.len() - 1, [run.prompt.clone(), run.ids()].concat());
        let top_k = manifest.top_k as usize;
        let scored = decoder.candidates_from(&ids[..ids.len() - 1], from, top_k, never())?;
        let pairs = run.steps.iter().zip(&scored);
        worst = pairs.map(|(step, scored)| distance(&step.candidates, scored)).fold(worst, u32::max);
    }
    Ok(item(check, worst <= allowed, format!("costs differ by {worst} at most, {allowed} allowed")))
}

/// The largest difference in cost of tokens that both offer.
fn distance(offered: &[Candidate], scored: &[Candidate]) -> u32 {
    let other = |token: u32| scored.iter().find(|candidate| candidate.token == token);
    let pairs = offered.iter().filter_map(|one| Some(one.cost.abs_diff(other(one.token)?.cost)));
    pairs.max().unwrap_or(u32::MAX)
}

/// Jobs that share passes get the answers that they get alone, up to the first near tie.
fn as_alone(alone: &[Run], together: &[Run]) -> Item {
    let parted = alone.iter().zip(together).filter_map(|(one, other)| parting(one, other));
    let worst = parted.max();
    let found = match worst {
        None => format!("{} at once answer as alone", alone.len()),
        Some(margin) => format!("they part where two tokens are {margin} apart, {COST_TOLERANCE} allowed"),
    };
    item("batch", worst.is_none_or(|margin| margin <= COST_TOLERANCE), found)
}

/// Where two runs first choose differently, how far apart the two tokens were.
fn parting(one: &Run, other: &Run) -> Option<u32> {
    let (a, b) = one.steps.iter().zip(&other.steps).find(|(a, b)| a.token != b.token)?;
    let cost = |token: u32| a.candidates.iter().find(|candidate| candidate.token == token).map(|c| c.cost);
    Some(cost(a.token).zip(cost(b.token)).map_or(u32::MAX, |(a, b)| a.abs_diff(b)))
}
