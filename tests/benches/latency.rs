//! What the pool adds between a job and its answer: the engine here answers at once.

#[path = "support/rig.rs"]
mod rig;
mod support;

use anyhow::{Result, ensure};
use rig::Rig;
use std::sync::Arc;
use std::time::Instant;
use swarm_inference::testing::Scripted;
use swarm_inference::{
    Candidate, Engine, EngineConfig, EngineError, Hardware, Manifest, Model, Provider, Registry, Stats,
    Support, Tokenizer, queenbee,
};

const TOKENS: u32 = 16;
const WARM_UP: usize = 20;
const JOBS: usize = 300;

/// Starts engines that offer the same words at every position, at once.
struct AtOnce(Scripted);

impl AtOnce {
    fn of(model: &Model) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(&mut model.open()?)?;
        let manifest = model.manifest.clone();
        let is_word = |piece: &[u8]| !piece.is_empty() && piece.iter().all(u8::is_ascii_lowercase);
        let words = (0..tokenizer.vocab_size()).filter(|token| is_word(tokenizer.piece(*token)));
        // All alike, and their probabilities sum to one.
        let cost = 4096 * manifest.top_k.ilog2();
        let candidates = words.take(manifest.top_k as usize).map(|token| Candidate { token, cost }).collect();
        Ok(Self(Scripted::new(manifest, tokenizer, candidates)))
    }
}

impl Provider for AtOnce {
    fn name(&self) -> &'static str {
        "at-once"
    }

    fn detect(&self, _: &Hardware, _: &Manifest) -> Support {
        Support::Supported
    }

    fn start(&self, _: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(self.0.clone()))
    }

    fn stop(&self) {}

    fn is_running(&self) -> bool {
        true
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}

fn main() -> Result<()> {
    support::machine();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let built_in = queenbee();
    let mut providers = Registry::empty();
    providers.register(Arc::new(AtOnce::of(&built_in)?));
    let model = built_in.manifest.name;
    let mut rig = Rig::start(&[], providers, &model).await?;
    let mut times = Vec::new();
    for n in 0..WARM_UP + JOBS {
        let job = rig.job(&model, "Once upon a time", TOKENS, 10_000);
        let start = Instant::now();
        let answer = rig.submit(job).await?;
        let time = start.elapsed().as_secs_f64() * 1e3;
        ensure!(!answer.is_empty(), "an empty answer");
        if n >= WARM_UP {
            times.push(time);
        }
    }
    rig.stop().await?;
    let at = |share| support::quantile(times.iter().copied(), share);
    println!(
        "{JOBS} jobs one after another: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms",
        at(0.5),
        at(0.9),
        at(0.99)
    );
    support::figure("latency/p50-ms", at(0.5));
    support::figure("latency/p99-ms", at(0.99));
    Ok(())
}
