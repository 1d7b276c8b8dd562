//! What the pool adds between a job and its answer: the engine here answers at once.

#[path = "support/at_once.rs"]
mod at_once;
#[path = "support/rig.rs"]
mod rig;
mod support;

use anyhow::{Result, ensure};
use at_once::AtOnce;
use rig::Rig;
use std::sync::Arc;
use std::time::Instant;
use swarm_inference::{Registry, queenbee};

const TOKENS: u32 = 16;
const WARM_UP: usize = 20;
const JOBS: usize = 300;

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
