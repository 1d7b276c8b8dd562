//! Starts the programs, reads what they say, waits for what they should say, and leaves nothing running.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take that should happen at all; generous, as two slow cores may be shared.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The most lines kept of one process.
const MAX_LINES: usize = 500_000;
/// Lines shown of each process when a test fails.
const SHOWN_LINES: usize = 60;
const POOL: &str = "swarmpool.eth";

/// One machine's folders: everything that is started here finds each other and nobody else.
pub struct Site {
    folder: TempDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("swarm-e2e-").tempdir().unwrap();
        for part in ["home", "run", "jobs"] {
            std::fs::DirBuilder::new().mode(0o700).create(folder.path().join(part)).unwrap();
        }
        Self { folder }
    }

    /// `SWARMPOOL_HOME`.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// `SWARMPOOL_RUNTIME_DIR`.
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// The data folder of a node: `operator`, `miner-alice.eth`, `client`, `client-<name>`.
    pub fn data(&self, node: &str) -> PathBuf {
        self.home().join(POOL).join(node)
    }

    /// A command that runs here: no multicast, the loopback only, none of the caller's settings.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SWARMPOOL_"))
        {
            command.env_remove(name);
        }
        command
            .env_remove("RUST_LOG")
            .env("SWARMPOOL_HOME", self.home())
            .env("SWARMPOOL_RUNTIME_DIR", self.runtime())
            .env("SWARMPOOL_NO_MDNS", "true")
            .env("SWARMPOOL_LISTEN", "/ip4/127.0.0.1/tcp/0")
            .stdin(Stdio::null());
        command
    }

    /// Starts an operator and waits until it listens.
    pub fn operator(&self, args: &[&str]) -> Process {
        self.operator_with(args, &[])
    }

    /// The same with further variables; does not wait, as it may be meant to die.
    pub fn operator_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Process {
        let mut command = self.command("swarm-node");
        command.args(["--role", "operator"]).args(args).envs(variables.iter().copied());
        let operator = Process::start("operator", command);
        if variables.is_empty() {
            operator.expect("listening on");
        }
        operator
    }

    /// Starts a miner and waits until it has joined the pool.
    pub fn miner(&self, ens: &str, args: &[&str]) -> Process {
        let miner = self.miner_alone(ens, args);
        miner.expect("joined swarmpool.eth");
        miner
    }

    /// Starts a miner and waits for nothing.
    pub fn miner_alone(&self, ens: &str, args: &[&str]) -> Process {
        let mut command = self.command("swarm-node");
        command.args(["--role", "miner", "--ens", ens]).args(args);
        Process::start(ens, command)
    }

    /// The same for a miner that takes this long for each token.
    pub fn slow_miner(&self, ens: &str, token: Duration, args: &[&str]) -> Process {
        let mut command = self.command("swarm-node");
        command.env("SWARMPOOL_TOKEN_PAUSE_MS", token.as_millis().to_string());
        command.args(["--role", "miner", "--ens", ens]).args(args);
        let miner = Process::start(ens, command);
        miner.expect("joined swarmpool.eth");
        miner
    }

    /// Starts a client command.
    pub fn start_client(&self, args: &[&str]) -> Process {
        let mut command = self.command("swarm-client");
        command.args(args);
        Process::start("client", command)
    }

    /// Runs a client command to its end.
    pub fn client(&self, args: &[&str]) -> Finished {
        self.start_client(args).finish()
    }

    /// Submits a job file and waits for its answer.
    pub fn submit(&self, job: &Path) -> Finished {
        self.client(&["submit", "--json", &text(job)])
    }

    /// Announces a job, does not wait for it, and says its id.
    pub fn announce(&self, job: &Path) -> String {
        let done = self.client(&["submit", "--no-wait", "--json", &text(job)]).good();
        done.json()["job"].as_str().unwrap().to_owned()
    }

    /// Writes a job file.
    pub fn job(&self, name: &str, job: &Value) -> PathBuf {
        let path = self.folder.path().join("jobs").join(format!("{name}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(job).unwrap()).unwrap();
        path
    }

    /// The processes that run with this site's folders.
    pub fn running(&self) -> Vec<u32> {
        let home = format!("SWARMPOOL_HOME={}", self.home().display()).into_bytes();
        let processes = std::fs::read_dir("/proc").unwrap();
        let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let ours = |id: &u32| {
            std::fs::read(format!("/proc/{id}/environ"))
                .is_ok_and(|all| all.split(|byte| *byte == 0).any(|variable| variable == home))
        };
        ids.filter(ours).collect()
    }
}

/// A short job with this prompt.
pub fn short_job(prompt: &str) -> Value {
    json!({
        "job_type": "llm_gen",
        "model": "queenbee-nano",
        "input": { "text": prompt },
        "params": { "max_tokens": 4 },
        "payment": { "amount": "0.10", "currency": "USDC" },
    })
}

/// The same with other `max_tokens`.
pub fn job_of(prompt: &str, max_tokens: u32) -> Value {
    let mut job = short_job(prompt);
    job["params"]["max_tokens"] = max_tokens.into();
    job
}

/// How the programs write a job's id in their logs.
pub fn short_id(job: &str) -> String {
    format!("…{}", &job[job.len() - 8..])
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Beside the folder of the test's own executable, where cargo puts the programs of the workspace.
pub fn binary(program: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(program);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace --bins` first", path.display());
    path
}

/// Polls until `check` gives something; for what no process says.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[derive(Default)]
struct Log {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

/// A running program; killed when dropped.
pub struct Process {
    name: String,
    patience: Duration,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<Vec<u8>>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts a command; its stderr is read line by line, its stdout is kept.
    pub fn start(name: &str, mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Log::default());
        let (mut stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let lines = log.clone();
        let readers = vec![
            std::thread::spawn(move || {
                let mut all = Vec::new();
                stdout.read_to_end(&mut all).unwrap();
                all
            }),
            std::thread::spawn(move || {
                read_lines(BufReader::new(stderr), &lines);
                Vec::new()
            }),
        ];
        Self { name: name.to_owned(), patience: PATIENCE, child, log, readers }
    }

    /// Gives it more time for everything than [`PATIENCE`].
    pub fn patiently(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with this text, from the start of the log on; gives the line.
    pub fn expect(&self, wanted: &str) -> String {
        self.expect_after(0, wanted).1
    }

    /// Waits for a line with this text among those from number `from` on; gives its number and the line.
    pub fn expect_after(&self, from: usize, wanted: &str) -> (usize, String) {
        self.expect_any(from, &[wanted])
    }

    /// The same for a line with any of these texts.
    pub fn expect_any(&self, from: usize, wanted: &[&str]) -> (usize, String) {
        let deadline = Instant::now() + self.patience;
        let mut next = from;
        let mut said = self.log.said.lock().unwrap();
        loop {
            for (number, line) in said.lines.iter().enumerate().skip(next) {
                if wanted.iter().any(|wanted| line.contains(wanted)) {
                    return (number, line.clone());
                }
            }
            next = from.max(said.lines.len());
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = said.ended;
            if ended || left.is_zero() {
                drop(said);
                let how = if ended { "ended without" } else { "was too slow in" };
                panic!("{} {how} saying {wanted:?}", self.name);
            }
            said = self.log.more.wait_timeout(said, left).unwrap().0;
        }
    }

    /// How many lines there are: where to look from for what comes after now.
    pub fn mark(&self) -> usize {
        self.log.said.lock().unwrap().lines.len()
    }

    /// The lines so far that hold this text.
    pub fn lines_with(&self, wanted: &str) -> Vec<String> {
        let said = self.log.said.lock().unwrap();
        said.lines.iter().filter(|line| line.contains(wanted)).cloned().collect()
    }

    /// Writes a line to its standard input, which the command must have piped.
    pub fn write_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self) -> Finished {
        self.signal(rustix::process::Signal::TERM);
        self.finish()
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(self) -> Finished {
        self.signal(rustix::process::Signal::KILL);
        self.finish()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for the end.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + self.patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(10));
        };
        let stdout = self
            .readers
            .drain(..)
            .map(|reader| reader.join().unwrap())
            .fold(Vec::new(), |a, b| [a, b].concat());
        let said = std::mem::take(&mut self.log.said.lock().unwrap().lines);
        let finished =
            Finished { status, stdout: String::from_utf8(stdout).unwrap(), stderr: said.join("\n") };
        self.log.said.lock().unwrap().lines = said;
        finished
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.log.said.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let from = said.lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("--- {} (process {})\n{}", self.name, self.child.id(), said.lines[from..].join("\n"));
        }
    }
}

fn read_lines(mut from: impl BufRead, log: &Log) {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let mut said = log.said.lock().unwrap();
        assert!(said.lines.len() < MAX_LINES, "a process says too much");
        said.lines.push(text);
        drop(said);
        log.more.notify_all();
        line.clear();
    }
    log.said.lock().unwrap().ended = true;
    log.more.notify_all();
}

impl Finished {
    /// Asserts that it ended with exit code 0.
    pub fn good(self) -> Self {
        assert!(self.status.success(), "ended with {}:\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The one JSON object on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}
