//! One running `swarm-engine`, as its node sees it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::frame::{self, Described, Order, PIPE_VERSION, Report, Task};
use super::program::Program;
use crate::lock::lock;
use crate::{Candidate, Lap, MAX_BATCH_SEQUENCES, Rescored};

/// Between two signs of life that are asked for.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How long a step of a picture, or its decoding, may take on a slow processor.
const STEP_PATIENCE: Duration = Duration::from_secs(600);
/// Orders that may wait to be written; a process that reads none for so long is stuck.
const MAX_ORDERS: usize = 4 * MAX_BATCH_SEQUENCES;
/// How long a process may take to be gone once its output has ended.
const MAX_LEAVE: Duration = Duration::from_secs(1);
/// Between two looks at whether it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A process whose output has ended says by its exit code why.
const ENDED: &str = "it ended";
/// What is kept of the last lines that a process wrote for people.
const MAX_LAST_WORDS: usize = 400;
/// The longest line that is read of them.
const MAX_LINE_BYTES: u64 = 8_192;

/// What an engine says of one task.
#[derive(Debug)]
pub(super) enum Reply {
    Offer(Vec<Candidate>),
    Scored(Rescored),
    Vector(Vec<f32>),
    Lap(Lap),
    Summary(Vec<i32>),
    Picture(Vec<u8>),
    Ended {
        /// Empty where the task was done.
        why: String,
        /// Whether the process goes on and did not do what it should have done.
        at_fault: bool,
    },
}

/// A process, and the tasks that it works on.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    orders: SyncSender<Order>,
    state: Mutex<State>,
    patience: Duration,
}

#[derive(Debug)]
struct State {
    heard_at: Instant,
    next: u64,
    tasks: BTreeMap<u64, (SyncSender<Reply>, Duration)>,
    /// Those that were told to end, and until when they have to.
    ending: BTreeMap<u64, Instant>,
    ended: u64,
    /// Why it is of no use any more.
    over: Option<String>,
}

/// A process that has just been started, with what only its supervisor needs.
pub(super) struct Started {
    pub(super) process: Arc<Process>,
    child: Child,
    reports: BufReader<ChildStdout>,
    writer: JoinHandle<()>,
    last_words: JoinHandle<String>,
}

impl Started {
    /// Starts the program and has it load a model; answers once it has, or with why not.
    pub(super) fn start(program: &Program, model: Described) -> Result<(Self, u64), String> {
        let mut started = Self::spawn(program)?;
        let loaded = started.load(program, model);
        match loaded {
            Ok(weight_bytes) => Ok((started, weight_bytes)),
            Err(why) => Err(started.end(why)),
        }
    }

    fn spawn(program: &Program) -> Result<Self, String> {
        let path = program.path.display();
        let mut child = program
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C on the node's terminal is for the node, which lets jobs end.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{path} cannot be started: {error}"))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else { return Err("no pipes".to_owned()) };
        let (orders, waiting) = sync_channel(MAX_ORDERS);
        let state = State {
            heard_at: Instant::now(),
            next: 0,
            tasks: BTreeMap::new(),
            ending: BTreeMap::new(),
            ended: 0,
            over: None,
        };
        let process = Arc::new(Process { pid, orders, state: Mutex::new(state), patience: program.patience });
        let (writes, watches) = (process.clone(), process.clone());
        let writer = std::thread::spawn(move || writes.write(stdin, &waiting));
        std::thread::spawn(move || watches.watch());
        let last_words = std::thread::spawn(move || listen(stderr));
        let started = Self { process, child, reports: BufReader::new(stdout), writer, last_words };
        match program.max_memory_bytes.map(|bytes| limit_memory(pid, bytes)) {
            Some(Err(error)) => Err(started.end(format!("its memory cannot be limited: {error}"))),
            Some(Ok(())) | None => Ok(started),
        }
    }

    fn load(&mut self, program: &Program, model: Described) -> Result<u64, String> {
        match self.report()? {
            Report::Hello { pipe: PIPE_VERSION, .. } => {}
            Report::Hello { pipe, program: name } => {
                return Err(format!(
                    "{} is {name}, which speaks version {pipe} of the pipe where this node speaks {PIPE_VERSION}; \
                     install programs of one release",
                    program.path.display()
                ));
            }
            other => return Err(unexpected(&other)),
        }
        let order = Order::Load { model, max_memory_bytes: program.max_memory_bytes };
        self.process.order(order)?;
        loop {
            match self.report()? {
                Report::Loaded { weight_bytes } => return Ok(weight_bytes),
                Report::NotLoaded { why } => return Err(why),
                Report::Pong => {}
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn report(&mut self) -> Result<Report, String> {
        match frame::read(&mut self.reports) {
            Ok(Some(report)) => {
                lock(&self.process.state).heard_at = Instant::now();
                Ok(report)
            }
            Ok(None) => Err(ENDED.to_owned()),
            Err(error) => Err(format!("it said what nobody understands: {error}")),
        }
    }

    /// Passes on what it says until it ends or has to be ended; answers why.
    pub(super) fn serve(mut self) -> String {
        let why = loop {
            match self.report().and_then(|report| self.process.hear(report)) {
                Ok(()) => {}
                Err(why) => break why,
            }
        };
        self.end(why)
    }

    /// Ends it, whatever it does, and says what became of it in one line.
    fn end(mut self, why: String) -> String {
        // From here on nobody else ends it by its number, which may soon be another's.
        let why = lock(&self.process.state).over.get_or_insert(why).clone();
        if why == ENDED {
            rest(self.process.pid);
        }
        // It may be gone already; what it has started goes with it.
        let _ = kill_process_group(self.process.pid, Signal::KILL);
        let status = self.child.wait();
        let mut line = match status {
            _ if why != ENDED => why,
            Ok(status) => fate(status),
            Err(error) => error.to_string(),
        };
        let words = self.last_words.join().unwrap_or_default();
        if !words.is_empty() {
            line.push_str(", saying: ");
            line.push_str(&words);
        }
        lock(&self.process.state).over = Some(line.clone());
        self.process.orphan(&line);
        // The pipe is closed, so it ends.
        let _ = self.writer.join();
        line
    }
}

/// Waits a little for a process whose output has ended.
fn rest(pid: Pid) {
    // It stays a zombie, so that its number stays its own.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let until = Instant::now() + MAX_LEAVE;
    while matches!(waitid(WaitId::Pid(pid), options), Ok(None)) && Instant::now() < until {
        std::thread::sleep(LOOK_INTERVAL);
    }
}

fn unexpected(report: &Report) -> String {
    let mut said = format!("{report:?}");
    said.truncate(said.floor_char_boundary(80));
    format!("it said {said} out of turn")
}

fn fate(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

#[cfg(target_os = "linux")]
fn limit_memory(pid: Pid, bytes: u64) -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, prlimit};
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    prlimit(Some(pid), Resource::Data, limit).map(|_| ())
}

/// Other systems let nobody limit another process.
#[cfg(not(target_os = "linux"))]
fn limit_memory(_: Pid, _: u64) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::NOTSUP)
}

/// Reads what a process writes for people to its end, and keeps the last of it as one line.
fn listen(stderr: ChildStderr) -> String {
    let mut lines = BufReader::new(stderr);
    let mut kept = String::new();
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return kept,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        let line: String = line.trim().chars().filter(|c| !c.is_control()).collect();
        if line.is_empty() {
            continue;
        }
        tracing::debug!("swarm-engine: {line}");
        if !kept.is_empty() {
            kept.push_str(" / ");
        }
        kept.push_str(&line);
        if kept.len() > MAX_LAST_WORDS {
            kept = kept.split_off(kept.ceil_char_boundary(kept.len() - MAX_LAST_WORDS));
        }
    }
}

impl Process {
    /// Gives an order without waiting.
    fn order(&self, order: Order) -> Result<(), String> {
        match self.orders.try_send(order) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.give_up("it took no orders");
                Err("it took no orders".to_owned())
            }
            Err(TrySendError::Disconnected(_)) => Err("its pipe is closed".to_owned()),
        }
    }

    fn write(&self, mut stdin: ChildStdin, waiting: &Receiver<Order>) {
        loop {
            let order = match waiting.recv_timeout(self.interval()) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => Order::Ping,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if lock(&self.state).over.is_some() || frame::write(&mut stdin, &order).is_err() {
                return;
            }
        }
    }

    fn hear(&self, report: Report) -> Result<(), String> {
        let (id, reply) = match report {
            Report::Pong => return Ok(()),
            Report::Offer { id, candidates } => (id, Reply::Offer(frame::candidates(candidates))),
            Report::Scored { id, costs, top } => {
                (id, Reply::Scored(Rescored { costs, top: frame::candidates(top) }))
            }
            Report::Vector { id, numbers } => {
                (id, Reply::Vector(numbers.into_iter().map(f32::from_bits).collect()))
            }
            Report::Lap { id, nanoseconds, checksum } => {
                (id, Reply::Lap(Lap { time: Duration::from_nanos(nanoseconds), checksum }))
            }
            Report::Summary { id, numbers } => (id, Reply::Summary(numbers)),
            Report::Picture { id, png } => (id, Reply::Picture(png.into_vec())),
            Report::Ended { id, why, at_fault } => {
                (id, Reply::Ended { why: why.unwrap_or_default(), at_fault })
            }
            Report::Hello { .. } | Report::Loaded { .. } | Report::NotLoaded { .. } => {
                return Err(unexpected(&report));
            }
        };
        let mut state = lock(&self.state);
        let over = matches!(reply, Reply::Ended { .. });
        match state.tasks.get(&id).map(|(task, _)| task.try_send(reply)) {
            Some(Err(TrySendError::Full(_))) => return Err("it told more than was asked for".to_owned()),
            Some(Ok(()) | Err(TrySendError::Disconnected(_))) => {}
            None if state.ending.contains_key(&id) => {}
            None => return Err("it spoke of a task that nobody began".to_owned()),
        }
        if over {
            state.ended += 1;
            state.tasks.remove(&id);
            state.ending.remove(&id);
        }
        Ok(())
    }

    /// Begins a task; what is said of it comes to the receiver.
    pub(super) fn begin(
        &self,
        task: Task,
        max_memory_bytes: Option<u64>,
    ) -> Result<(u64, Receiver<Reply>), String> {
        // Its results, and that it is over.
        let (replies, receiver) = sync_channel(task.results() + 1);
        let mut state = lock(&self.state);
        if let Some(why) = &state.over {
            return Err(why.clone());
        }
        let id = state.next;
        state.next += 1;
        // Nothing looks up within a step of a picture.
        let patience =
            if matches!(task, Task::Paint { .. }) { self.patience.max(STEP_PATIENCE) } else { self.patience };
        state.tasks.insert(id, (replies, patience));
        drop(state);
        self.order(Order::Begin { id, task, max_memory_bytes })?;
        Ok((id, receiver))
    }

    /// Says which of the offered tokens was taken.
    pub(super) fn take(&self, id: u64, token: u32) -> Result<(), String> {
        self.order(Order::Take { id, token })
    }

    /// Ends a task, unless it has ended; it has to obey within [`Program::patience`], a picture within [`STEP_PATIENCE`].
    pub(super) fn leave(&self, id: u64) {
        let mut state = lock(&self.state);
        if let Some((_, patience)) = state.tasks.remove(&id) {
            state.ending.insert(id, Instant::now() + patience);
            drop(state);
            // An order that cannot be given has ended the process.
            let _ = self.order(Order::End { id });
        }
    }

    /// Ends the process once it has said nothing for too long, or does not end what it was told to.
    fn watch(&self) {
        loop {
            std::thread::sleep(self.interval());
            let state = lock(&self.state);
            let silent = state.heard_at.elapsed() > self.patience;
            let stuck = state.ending.values().any(|until| *until < Instant::now());
            if state.over.is_some() {
                return;
            }
            drop(state);
            if silent {
                self.give_up(&format!("it has said nothing for {:?}", self.patience));
            } else if stuck {
                self.give_up("it did not end a job that it was told to end");
            }
        }
    }

    fn interval(&self) -> Duration {
        PING_INTERVAL.min(self.patience / 4)
    }

    /// Ends the process; its supervisor sees it go.
    pub(super) fn give_up(&self, why: &str) {
        let mut state = lock(&self.state);
        if state.over.is_none() {
            state.over = Some(why.to_owned());
            // Its supervisor has not waited for it yet, so the number is still its own.
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Tells everybody who waits that it is gone.
    fn orphan(&self, why: &str) {
        let mut state = lock(&self.state);
        state.ending.clear();
        for (task, _) in std::mem::take(&mut state.tasks).into_values() {
            // One that does not listen finds it closed.
            let _ = task.try_send(Reply::Ended { why: why.to_owned(), at_fault: false });
        }
    }

    /// Whether it is of no use any more.
    pub(super) fn is_over(&self) -> bool {
        lock(&self.state).over.is_some()
    }

    /// Whether it has ended a task as it should.
    pub(super) fn was_of_use(&self) -> bool {
        lock(&self.state).ended > 0
    }
}
