//! The first GPU of NVIDIA's, by its own program: what it takes, and what it may take.

use crate::cli::UserError;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};

const PROGRAM: &str = "nvidia-smi";
const PLAIN: &str = "--format=csv,noheader,nounits";
/// How often the program tells, in milliseconds.
const TELL_MS: &str = "500";
/// How long a question to it may take, and how often the end is looked for.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The longest line that it is believed to print.
const MAX_LINE_BYTES: u64 = 4096;

/// `-i` of the GPU that the engine takes: the first that the driver is told to show.
fn index() -> String {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    visible.split(',').next().filter(|first| !first.is_empty()).unwrap_or("0").to_owned()
}

/// Watts of a GPU, told by a process that runs as long as this.
#[derive(Debug)]
pub(super) struct Gpu {
    teller: Child,
    milliwatts: Arc<AtomicU64>,
    read_at: Instant,
}

impl Gpu {
    pub(super) fn probe() -> Option<Self> {
        Self::told_by(PROGRAM.as_ref())
    }

    fn told_by(program: &OsStr) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(["-i", &index(), "--query-gpu=power.draw", PLAIN, "-lms", TELL_MS]);
        // Ctrl-C is for the miner, which goes on measuring until its jobs are done.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut teller = command.spawn().ok()?;
        let lines = teller.stdout.take()?;
        let milliwatts = Arc::new(AtomicU64::new(0));
        let told = milliwatts.clone();
        std::thread::Builder::new().name("power".to_owned()).spawn(move || listen(lines, &told)).ok()?;
        Some(Self { teller, milliwatts, read_at: Instant::now() })
    }

    /// Joules since it was asked the last time, if it took all the time what it was last seen to take.
    pub(super) fn used(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = now.duration_since(std::mem::replace(&mut self.read_at, now)).as_secs_f64();
        self.milliwatts.load(Ordering::Relaxed) as f64 / 1e3 * seconds
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.teller.kill();
        let _ = self.teller.wait();
    }
}

fn listen(lines: impl Read, milliwatts: &AtomicU64) {
    let mut lines = BufReader::new(lines);
    loop {
        let mut line = String::new();
        match lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut line) {
            Ok(1..) => {
                let watts = line.trim().parse::<f64>().ok().filter(|watts| (0.0..1e5).contains(watts));
                milliwatts.store((watts.unwrap_or(0.0) * 1e3) as u64, Ordering::Relaxed);
            }
            // Nothing is known any more.
            Ok(0) | Err(_) => return milliwatts.store(0, Ordering::Relaxed),
        }
    }
}

/// A limit of a GPU's power that lasts as long as this; then the board's own is in force.
#[derive(Debug)]
pub struct Limit {
    default: String,
}

impl Limit {
    /// Sets it, in watts. The driver lets root only.
    pub fn set(watts: u32) -> Result<Self, UserError> {
        let failed = |why: String| {
            UserError::misuse(format!("the GPU's power was not limited to {watts} W: {}", why.trim())).hint(
                "run the miner as root, or leave --power-limit out and run nvidia-smi -pl as root yourself",
            )
        };
        let default = ask(&["--query-gpu=power.default_limit", PLAIN]).map_err(failed)?;
        ask(&["-pl", &watts.to_string()]).map_err(failed)?;
        tracing::info!("the GPU may take {watts} W until this ends, then {} W", default.trim());
        Ok(Self { default: default.trim().to_owned() })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let lift = || {
            if let Err(why) = ask(&["-pl", &self.default]) {
                tracing::warn!("the GPU's power limit is still lowered: {}", why.trim());
            }
        };
        // It may take as long as the patience lasts, in which the runtime's other tasks are to go on.
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(lift),
            _ => lift(),
        }
    }
}

/// What the program answers, or why it does not.
fn ask(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    command.args(["-i", &index()]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut asked = command.spawn().map_err(|error| format!("{PROGRAM} is not here: {error}"))?;
    let until = Instant::now() + PATIENCE;
    while matches!(asked.try_wait(), Ok(None)) {
        if Instant::now() >= until {
            // It may end just now.
            let _ = asked.kill();
            return Err(format!("{PROGRAM} does not answer"));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let output = asked.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(said + &String::from_utf8_lossy(&output.stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_it_tells_counts_for_the_time_that_passes_and_no_longer_than_it_tells() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("teller");
        let script = "#!/bin/sh\necho 250.50\nread -r line <\"$(dirname \"$0\")/end\"\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let made = Command::new("mkfifo").arg(folder.path().join("end")).status().unwrap();
        assert!(made.success());
        let mut gpu = Gpu::told_by(program.as_os_str()).unwrap();
        let until = |wanted: u64, gpu: &Gpu| {
            let end = Instant::now() + Duration::from_secs(10);
            while gpu.milliwatts.load(Ordering::Relaxed) != wanted {
                assert!(Instant::now() < end, "it never told {wanted} mW");
                std::thread::yield_now();
            }
        };
        until(250_500, &gpu);
        gpu.read_at = Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
        let used = gpu.used();
        assert!((1002.0..1300.0).contains(&used), "{used}");
        std::fs::write(folder.path().join("end"), "\n").unwrap();
        until(0, &gpu);
        gpu.read_at = Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
        assert_eq!(gpu.used(), 0.0);
    }
}
