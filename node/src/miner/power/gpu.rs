//! GPUs of NVIDIA's, by its own program: what they take, and what they may take.

use crate::cli::UserError;
use crate::nvidia::{PLAIN, PROGRAM, ask};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::runtime::{Handle, RuntimeFlavor};

/// How often the program tells, in milliseconds.
const TELL_MS: &str = "500";
/// The longest line that it is believed to print.
const MAX_LINE_BYTES: u64 = 4096;

/// Watts of each GPU that is listened to, as they were told last.
type Watts = Arc<Mutex<BTreeMap<u32, f64>>>;

/// Watts of GPUs, told by a process that runs as long as this.
#[derive(Debug)]
pub(super) struct Gpus {
    teller: Child,
    watts: Watts,
    read_at: Instant,
}

impl Gpus {
    /// Those with these indices; nothing if there are none.
    pub(super) fn probe(indices: &[u32]) -> Option<Self> {
        if indices.is_empty() { None } else { Self::told_by(PROGRAM.as_ref(), indices) }
    }

    fn told_by(program: &OsStr, indices: &[u32]) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(["--query-gpu=index,power.draw", PLAIN, "-lms", TELL_MS]);
        // Ctrl-C is for the miner, which goes on measuring until its jobs are done.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut teller = command.spawn().ok()?;
        let lines = teller.stdout.take()?;
        let watts: Watts = Arc::new(Mutex::new(indices.iter().map(|index| (*index, 0.0)).collect()));
        let told = watts.clone();
        std::thread::Builder::new().name("power".to_owned()).spawn(move || listen(lines, &told)).ok()?;
        Some(Self { teller, watts, read_at: Instant::now() })
    }

    /// Joules since they were asked the last time, if they took all the time what they were last seen to take.
    pub(super) fn used(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = now.duration_since(std::mem::replace(&mut self.read_at, now)).as_secs_f64();
        self.watts() * seconds
    }

    fn watts(&self) -> f64 {
        self.watts.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

impl Drop for Gpus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.teller.kill();
        let _ = self.teller.wait();
    }
}

fn listen(lines: impl Read, told: &Mutex<BTreeMap<u32, f64>>) {
    let mut lines = BufReader::new(lines);
    loop {
        let mut line = String::new();
        let read = lines.by_ref().take(MAX_LINE_BYTES).read_line(&mut line);
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, watts) = line.split_once(',').unwrap_or_default();
        match (read, index.trim().parse::<u32>()) {
            (Ok(1..), Ok(index)) => {
                let watts = watts.trim().parse::<f64>().ok().filter(|watts| (0.0..1e5).contains(watts));
                if let Some(known) = told.get_mut(&index) {
                    *known = watts.unwrap_or(0.0);
                }
            }
            (Ok(1..), Err(_)) => {}
            // Nothing is known any more.
            (Ok(0) | Err(_), _) => return told.values_mut().for_each(|watts| *watts = 0.0),
        }
    }
}

/// A limit of GPUs' power that lasts as long as this; then their boards' own are in force.
#[derive(Debug, Default)]
pub struct Limit(Vec<(u32, String)>);

impl Limit {
    /// Sets it, in watts, for each of the GPUs with these indices. The driver lets root only.
    pub fn set(watts: u32, indices: &[u32]) -> Result<Self, UserError> {
        let mut limit = Self::default();
        let failed = |why: String| {
            UserError::misuse(format!("the GPU's power was not limited to {watts} W: {}", why.trim())).hint(
                "run the miner as root, or leave --power-limit out and run nvidia-smi -pl as root yourself",
            )
        };
        if indices.is_empty() {
            return Err(failed(format!("{PROGRAM} tells of no GPU that engines compute on")));
        }
        for index in indices {
            let own = ask_of(*index, &["--query-gpu=power.default_limit", PLAIN]).map_err(failed)?;
            ask_of(*index, &["-pl", &watts.to_string()]).map_err(failed)?;
            tracing::info!("GPU {index} may take {watts} W until this ends, then {} W", own.trim());
            limit.0.push((*index, own.trim().to_owned()));
        }
        Ok(limit)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let lift = || {
            for (index, own) in &self.0 {
                if let Err(why) = ask_of(*index, &["-pl", own]) {
                    tracing::warn!("the power limit of GPU {index} is still lowered: {}", why.trim());
                }
            }
        };
        // It may take as long as the patience lasts, in which the runtime's other tasks are to go on.
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(lift),
            _ => lift(),
        }
    }
}

fn ask_of(index: u32, args: &[&str]) -> Result<String, String> {
    ask(PROGRAM.as_ref(), &[&["-i", &index.to_string()], args].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvidia::tests::script;
    use std::time::Duration;

    #[test]
    fn what_it_tells_counts_for_the_time_that_passes_and_no_longer_than_it_tells() {
        let folder = tempfile::tempdir().unwrap();
        let tells = "printf '0, 100.0\\n1, 77\\ngarbage\\n2, 50\\n2, 150.50\\n'\nread -r line <\"$(dirname \"$0\")/end\"";
        let program = script(folder.path(), "teller", tells);
        let made = Command::new("mkfifo").arg(folder.path().join("end")).status().unwrap();
        assert!(made.success());
        let mut gpus = Gpus::told_by(program.as_os_str(), &[0, 2]).unwrap();
        let until = |wanted: f64, gpus: &Gpus| {
            let end = Instant::now() + Duration::from_secs(10);
            while gpus.watts() != wanted {
                assert!(Instant::now() < end, "they never told {wanted} W");
                std::thread::yield_now();
            }
        };
        until(250.5, &gpus);
        gpus.read_at = Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
        let used = gpus.used();
        assert!((1002.0..1300.0).contains(&used), "{used}");
        std::fs::write(folder.path().join("end"), "\n").unwrap();
        until(0.0, &gpus);
        gpus.read_at = Instant::now().checked_sub(Duration::from_secs(4)).unwrap();
        assert_eq!(gpus.used(), 0.0);
    }
}
