//! Tokens per second through the whole pool against the bare engine, on a generated model of over 100 M parameters.

#[path = "support/rig.rs"]
mod rig;
mod support;

use anyhow::{Context, Result, ensure};
use rig::Rig;
use std::path::Path;
use std::time::Instant;
use support::{Target, median, ratio};
use swarm_inference::testing::{Shape, Storage, model};
use swarm_inference::{
    CancelToken, Candidate, Engine, EngineConfig, Flow, GenerateRequest, Hardware, Model, Registry,
    TokenSampler, Weights,
};

const NAME: &str = "big";
const PROMPT: &str = "Once upon a time there was a hive on a hill, and in the hive";
const TOKENS: u32 = 400;
/// Where an engine's weights lie in memory is worth several percent: each sitting loads both sides' anew.
const SITTINGS: usize = 6;
const ROUNDS: usize = 4;
const SHAPE: Shape = Shape {
    layers: 15,
    width: 768,
    hidden: 2048,
    heads: 12,
    kv_heads: 12,
    context_length: 512,
    storage: Storage::Q8_0,
    seed: 1,
};

fn parameters() -> usize {
    SHAPE.layers * (4 * SHAPE.width * SHAPE.width + 3 * SHAPE.width * SHAPE.hidden)
}

/// Writes the generated model with its manifest, as a miner takes it.
fn write_model(directory: &Path) -> Result<Model> {
    let generated = model(NAME, SHAPE)?;
    let Weights::Memory(bytes) = &generated.weights else { anyhow::bail!("generated models are in memory") };
    std::fs::write(directory.join(&generated.manifest.file), bytes)?;
    let manifest = serde_json::to_vec_pretty(&generated.manifest)?;
    std::fs::write(directory.join("manifest.json"), manifest)?;
    Ok(Model::from_manifest_file(&directory.join("manifest.json"))?)
}

fn rate(start: Instant) -> f64 {
    f64::from(TOKENS) / start.elapsed().as_secs_f64()
}

/// Tokens per second of the same request to an engine without a pool around it.
fn bare(engine: &mut dyn Engine) -> Result<f64> {
    let start = Instant::now();
    let request = GenerateRequest {
        prompt_ids: engine.tokenizer().context("a language model has one")?.encode_prompt(PROMPT)?,
        max_tokens: TOKENS,
        stop: Vec::new(),
        ..GenerateRequest::default()
    };
    let mut tokens = 0;
    let mut sink = |_: &swarm_inference::Step| {
        tokens += 1;
        Flow::Continue
    };
    tokio::task::block_in_place(|| engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut sink))?;
    ensure!(tokens == TOKENS, "the engine stopped after {tokens} tokens");
    Ok(rate(start))
}

/// What the rules make of temperature 0.
struct Greedy;

impl TokenSampler for Greedy {
    fn sample(&mut self, _: u32, candidates: &[Candidate]) -> u32 {
        candidates.first().map_or(u32::MAX, |best| best.token)
    }
}

fn main() -> Result<()> {
    support::machine();
    if std::env::var("RAYON_NUM_THREADS").as_deref() != Ok("1") {
        println!(
            "note: RAYON_NUM_THREADS is not 1, so the engines use all cores and the pool has none to itself"
        );
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let model = write_model(directory.path())?;
    println!("a generated model of {} M parameters, Q8_0, {TOKENS} tokens", parameters() / 1_000_000);
    let manifest = directory.path().join("manifest.json");
    let mut rates = Vec::new();
    for _ in 0..SITTINGS {
        let sitting = sit(&model, &manifest).await?;
        println!("ratio of one sitting: {:.3}", median(sitting.iter().map(|(pooled, alone)| pooled / alone)));
        rates.extend(sitting);
    }
    let (pooled, alone) = (median(rates.iter().map(|r| r.0)), median(rates.iter().map(|r| r.1)));
    println!("through the pool {pooled:.2} tokens/s from job to answer, bare engine {alone:.2} tokens/s");
    ratio("decode", median(rates.iter().map(|(pooled, alone)| pooled / alone)), Target::AtLeast(0.97));
    Ok(())
}

/// Both sides by turns, each with weights of its own.
async fn sit(model: &Model, manifest: &Path) -> Result<Vec<(f64, f64)>> {
    let provider = Registry::standard().find(&Hardware::probe(), &model.manifest)?;
    let mut engine = provider.start(&EngineConfig { model: model.clone(), max_memory_bytes: None })?;
    let mut rig = Rig::start(&[manifest.to_owned()], Registry::standard(), NAME).await?;
    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let bare_first = round % 2 == 0;
        let early = if bare_first { Some(bare(engine.as_mut())?) } else { None };
        let job = rig.job(NAME, PROMPT, TOKENS, 0);
        let start = Instant::now();
        rig.submit(job).await.context("the job")?;
        let pooled = rate(start);
        let alone = early.map_or_else(|| bare(engine.as_mut()), Ok)?;
        // The first round warms both up.
        if round > 0 {
            rates.push((pooled, alone));
        }
    }
    rig.stop().await?;
    Ok(rates)
}
