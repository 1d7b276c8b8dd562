//! What an operator with one miner costs while nothing happens, against an idle Helia node.

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "nobody submits anything here")]
mod rig;
mod support;

use anyhow::{Context, Result};
use rig::Rig;
use std::process::Stdio;
use std::time::Duration;
use support::figure;
use swarm_inference::{Registry, queenbee};
use tokio::runtime::Runtime;
use tokio::time::sleep;

const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(60);

/// Processor time so far, in seconds, and resident memory, in MiB.
fn usage(process: &str) -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().context("a stat line")?.split(' ').collect();
    // The 14th and 15th fields of the line, in hundredths of a second on Linux.
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("resident memory")?;
    let kib: f64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok((ticks / 100.0, kib / 1024.0))
}

/// Milliseconds of processor time a second, and MiB.
async fn watch(process: &str) -> Result<(f64, f64)> {
    sleep(SETTLE).await;
    let before = usage(process)?;
    sleep(WATCHED).await;
    let after = usage(process)?;
    Ok(((after.0 - before.0) * 1000.0 / WATCHED.as_secs_f64(), after.1))
}

async fn ours() -> Result<(f64, f64)> {
    let model = queenbee().manifest.name;
    let rig = Rig::start(&[], Registry::standard(), &model).await?;
    let used = watch("self").await?;
    rig.stop().await?;
    Ok(used)
}

async fn helia() -> Result<Option<(f64, f64)>> {
    let Some(mut command) = support::helia(&["-", "serve", "x", "1"]) else { return Ok(None) };
    let mut child = command.stderr(Stdio::null()).spawn()?;
    let used = watch(&child.id().to_string()).await;
    child.kill()?;
    child.wait()?;
    used.map(Some)
}

fn main() -> Result<()> {
    support::machine();
    Runtime::new()?.block_on(async {
        let (cpu, memory) = ours().await?;
        println!("operator, miner and client together: {cpu:.1} ms of processor a second, {memory:.0} MiB");
        if let Some((foreign_cpu, foreign_memory)) = helia().await? {
            println!("one Helia node: {foreign_cpu:.1} ms of processor a second, {foreign_memory:.0} MiB");
            figure("idle/memory-over-helia", memory / foreign_memory);
            figure("idle/processor-over-helia", cpu / foreign_cpu.max(0.1));
        }
        Ok(())
    })
}
