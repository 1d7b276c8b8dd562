//! A server as a process of this one: started with its own process group, heard out, stopped with all it started, and ended
//! by a guard if this process is killed.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::ServerError;
use super::http::plain;

/// How much of a process's last words is kept, in bytes.
const MAX_TAIL_BYTES: usize = 2 * 1024;
const SHELL: &str = "/bin/sh";
const POLL: Duration = Duration::from_millis(20);
/// How long what a process wrote at its end may take to get here.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Ends a process group once its own input ends, which nobody writes to and this process alone holds open.
const GUARD: &str = r#"read -r _; kill -s KILL -- "-$1""#;

/// A running server; dropping it stops it at once.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    guard: Option<Child>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    listeners: Vec<JoinHandle<()>>,
    ended: bool,
}

impl Process {
    /// Starts `command`, a program and its arguments, without a shell.
    pub(super) fn start(command: &[String]) -> Result<Self, ServerError> {
        let [program, arguments @ ..] = command else {
            return Err(ServerError::NoCommand);
        };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|source| ServerError::Spawn { program: program.clone(), source })?;
        let tail = Arc::default();
        let pipes = [child.stdout.take().map(boxed), child.stderr.take().map(boxed)];
        let listeners = pipes.into_iter().flatten().filter_map(|pipe| listen(pipe, &tail)).collect();
        let mut process = Self { child, guard: None, tail, listeners, ended: false };
        let guard = guard(process.pid());
        process.guard = Some(guard.map_err(|source| ServerError::Spawn { program: SHELL.into(), source })?);
        Ok(process)
    }

    /// Whether it has ended; it stays a zombie until [`Process::stop`], so that its id stays its own.
    pub(super) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.ended || !matches!(waitid(WaitId::Pid(self.pid()), options), Ok(None))
    }

    /// What a process that has ended wrote last, on one line; ends what else there is of it.
    pub(super) fn last_words(&mut self) -> String {
        self.stop(Duration::ZERO);
        // Whoever left the group may keep the pipes open.
        let until = Instant::now() + LAST_WORDS;
        while !self.listeners.iter().all(JoinHandle::is_finished) && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        self.tail()
    }

    /// What it wrote last so far, on one line.
    pub(super) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let from = text.char_indices().rev().nth(299).map_or(0, |(at, _)| at);
        plain(&text[from..])
    }

    /// Asks all of it to end, ends by force within `patience` what does not, and reaps it.
    pub(super) fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        if self.ended {
            return None;
        }
        // Whoever is gone already needs no signal.
        let _ = kill_process_group(self.pid(), Signal::TERM);
        let until = Instant::now() + patience;
        while !self.has_ended() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        let _ = kill_process_group(self.pid(), Signal::KILL);
        // First, as the id is not the server's any more once that has been waited for.
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill();
            let _ = guard.wait();
        }
        self.ended = true;
        self.child.wait().ok()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// A process that outlives this one and ends the group then; what ends this one by force leaves no time to do so itself.
fn guard(group: Pid) -> std::io::Result<Child> {
    Command::new(SHELL)
        .args(["-c", GUARD, "guard"])
        .arg(group.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn boxed(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

/// Keeps the end of what comes out of a pipe, until all who could write have gone.
fn listen(mut pipe: Box<dyn Read + Send>, tail: &Arc<Mutex<VecDeque<u8>>>) -> Option<JoinHandle<()>> {
    let tail = tail.clone();
    let hear = move || {
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = pipe.read(&mut bytes) {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(&bytes[..read]);
            let over = tail.len().saturating_sub(MAX_TAIL_BYTES);
            tail.drain(..over);
        }
    };
    // Without a thread the pipe is closed, and the server has nobody to tell.
    std::thread::Builder::new().name("server-output".into()).spawn(hear).ok()
}
