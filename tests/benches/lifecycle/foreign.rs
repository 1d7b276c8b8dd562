//! The same jobs by what others do with a Redis: queues.py, in Python.

use crate::redis::Redis;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What queues.py measures of `jobs` jobs.
#[derive(Deserialize)]
struct Measured {
    seconds: f64,
    done: usize,
}

/// The project's own Python with what the script imports; none where it is not installed, which is said.
pub fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/.venv/bin/python");
    let has = |module: &str| {
        Command::new(&python)
            .args(["-c", &format!("import {module}")])
            .output()
            .is_ok_and(|out| out.status.success())
    };
    let installed = has("celery, redis");
    if !installed {
        println!("Celery is not installed (scripts/setup.sh queues installs it): not compared");
    }
    installed.then_some(python)
}

/// Jobs per second by one of the script's ways.
pub fn per_second(python: &Path, way: &str, redis: &Redis, jobs: usize) -> Result<f64> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/lifecycle");
    let mut command = Command::new(python);
    command.current_dir(folder).args(["queues.py", way, &redis.url(), &jobs.to_string()]);
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "{way}: {}", String::from_utf8_lossy(&output.stderr));
    let line = String::from_utf8(output.stdout)?;
    let measured: Measured = serde_json::from_str(line.lines().last().context("no figures")?)?;
    anyhow::ensure!(measured.done == jobs, "{way} did {} of {jobs} jobs", measured.done);
    Ok(jobs as f64 / measured.seconds)
}
