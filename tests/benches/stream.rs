//! How much later than the engine a client has the words that it reads along: a real client, a process of its own, which
//! is this program started again. The engine makes a word every 20 ms and says when.

#[path = "support/rig.rs"]
#[allow(dead_code, reason = "the jobs here are the client's own")]
mod rig;
mod support;

use anyhow::{Context, Result, bail, ensure};
use rig::Rig;
use std::ffi::OsString;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::{Target, figure, median, quantile, ratio};
use swarm_inference::testing::Scripted;
use swarm_inference::{
    CancelToken, Candidate, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Generation, Hardware,
    Manifest, Provider, Registry, Stats, Step, Support, TokenSampler, Tokenizer, queenbee,
};

/// The model of the manifest has room for 256 with the prompt.
const TOKENS: u32 = 240;
const STEP: Duration = Duration::from_millis(20);
const JOBS: usize = 12;

/// When each token was made, and how long the text was with it.
type Made = Arc<Mutex<Vec<(Instant, usize)>>>;

/// An engine that takes its time and notes it.
#[derive(Clone)]
struct Noting {
    engine: Scripted,
    made: Made,
}

impl Engine for Noting {
    fn manifest(&self) -> &Manifest {
        self.engine.manifest()
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.engine.tokenizer()
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let made = self.made.clone();
        let mut length = 0;
        self.engine.generate(request, sampler, cancel, &mut |step| {
            length += step.text.len();
            made.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), length));
            sink(step)
        })
    }
}

struct Patient(Noting);

impl Provider for Patient {
    fn name(&self) -> &'static str {
        "patient"
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

fn noting() -> Result<Noting> {
    let model = queenbee();
    let tokenizer = Tokenizer::from_gguf(&mut model.open()?)?;
    let manifest = model.manifest.clone();
    let is_word = |piece: &[u8]| !piece.is_empty() && piece.iter().all(u8::is_ascii_lowercase);
    let words = (0..tokenizer.vocab_size()).filter(|token| is_word(tokenizer.piece(*token)));
    let cost = 4096 * manifest.top_k.ilog2();
    let candidates = words.take(manifest.top_k as usize).map(|token| Candidate { token, cost }).collect();
    let engine = Scripted::new(manifest, tokenizer, candidates).with_step_time(STEP);
    Ok(Noting { engine, made: Made::default() })
}

fn main() -> Result<()> {
    let mut args = std::env::args_os();
    if args.nth(1).is_some_and(|arg| arg == "client") {
        let code = swarm_node::cli::client_main(std::iter::once(OsString::from("swarm-client")).chain(args));
        std::process::exit(i32::from(code != std::process::ExitCode::SUCCESS));
    }
    support::machine();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

/// One job: milliseconds by which each token came later than it was made, and the share of the job's whole time after
/// which the first was there.
fn read_along(address: &str, home: &Path, made: &Made) -> Result<(Vec<f64>, f64)> {
    made.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let job = home.join("job.json");
    let text = r#"{"job_type": "llm_gen", "model": "queenbee-nano", "input": {"text": "Once"},
        "params": {"max_tokens": 240, "temperature": 1.0}, "payment": {"amount": "0.01", "currency": "USDC"}}"#;
    std::fs::write(&job, text)?;
    let start = Instant::now();
    let mut client = Command::new(std::env::current_exe()?)
        .args(["client", "submit", "--stream", "--pool", "bench.eth", "--no-mdns", "--bootstrap", address])
        .arg("--home")
        .arg(home)
        .arg(&job)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut output = client.stdout.take().context("a pipe")?;
    let (mut arrived, mut length, mut buffer) = (Vec::new(), 0, [0; 4096]);
    loop {
        let count = output.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        length += count;
        arrived.push((Instant::now(), length));
    }
    let whole = start.elapsed();
    let done = client.wait_with_output()?;
    ensure!(done.status.success(), "the client failed: {}", String::from_utf8_lossy(&done.stderr));
    let made = made.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(made.len() == TOKENS as usize, "{} tokens were made", made.len());
    let late = made.iter().map(|(at, length)| {
        let there = arrived.iter().find(|(_, there)| there >= length).context("a token that never came")?;
        Ok(there.0.saturating_duration_since(*at).as_secs_f64() * 1e3)
    });
    let Some((first, _)) = arrived.first() else { bail!("nothing came") };
    let share = first.duration_since(start).as_secs_f64() / whole.as_secs_f64();
    Ok((late.collect::<Result<_>>()?, share))
}

async fn run() -> Result<()> {
    let noting = noting()?;
    let made = noting.made.clone();
    let mut providers = Registry::empty();
    providers.register(Arc::new(Patient(noting)));
    let rig = Rig::start(&[], providers, "queenbee-nano").await?;
    let home = tempfile::tempdir()?;
    let (mut first, mut late, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for job in 0..=JOBS {
        let (address, home, made) = (rig.address().to_owned(), home.path().to_owned(), made.clone());
        let read = tokio::task::spawn_blocking(move || read_along(&address, &home, &made)).await??;
        // The first warms all up.
        if job > 0 {
            first.push(read.0[0]);
            late.extend_from_slice(&read.0[1..]);
            shares.push(read.1);
        }
    }
    rig.stop().await?;
    let at = |times: &[f64], share| quantile(times.iter().copied(), share);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        figure(&format!("stream/first-token-late-{name}-ms"), at(&first, share));
        figure(&format!("stream/token-late-{name}-ms"), at(&late, share));
    }
    ratio("stream/first-token-over-whole", median(shares), Target::AtMost(0.3));
    Ok(())
}
