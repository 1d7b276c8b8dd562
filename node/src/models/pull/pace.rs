//! How far a pull is: on a terminal a bar that moves, elsewhere a line now and then.

use crate::cli::UserError;
use anyhow::Result;
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const TEMPLATE: &str =
    "{wide_bar} {percent:>3} % {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// How far a pull is, and whether it is to go on.
#[derive(Debug)]
pub struct Pace {
    stop: CancellationToken,
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    /// Of `done`, what was there before, which says nothing of the rate.
    before: u64,
    begun: Instant,
    said: Instant,
}

impl Pace {
    /// Of so many bytes.
    pub fn new(total: u64, stop: CancellationToken) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(TEMPLATE);
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let now = Instant::now();
        Self { stop, bar, total, done: 0, before: 0, begun: now, said: now }
    }

    /// So many bytes came; an error if nobody wants more.
    pub fn took(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        match &self.bar {
            Some(bar) => bar.set_position(self.done),
            None if self.said.elapsed() >= LINE_INTERVAL => {
                self.said = Instant::now();
                eprintln!("{}", self.line());
            }
            None => {}
        }
        self.go_on()
    }

    /// So many bytes were there already.
    pub fn found(&mut self, bytes: u64) -> Result<()> {
        self.before += bytes;
        if let Some(bar) = &self.bar {
            // Else the bar would take them for speed.
            bar.set_position(self.done + bytes);
            bar.reset_eta();
        }
        self.took(bytes)
    }

    /// So many bytes have to come again.
    pub fn lost(&mut self, bytes: u64) {
        self.done = self.done.saturating_sub(bytes);
        self.before = self.before.min(self.done);
    }

    /// An error once the user has said stop.
    pub fn go_on(&self) -> Result<()> {
        match self.stop.is_cancelled() {
            true => Err(interrupted().into()),
            false => Ok(()),
        }
    }

    /// Cancelled when the user says stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Something a person should know.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Waits, unless the user says stop.
    pub fn pause(&self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.go_on()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        self.go_on()
    }

    fn line(&self) -> String {
        let (came, seconds) = (self.done - self.before, self.begun.elapsed().as_secs_f64().max(0.001));
        let rate = came as f64 / seconds;
        let percent = self.done * 100 / self.total.max(1);
        let (done, total) = (BinaryBytes(self.done), BinaryBytes(self.total));
        let left = match rate > 0.0 {
            true => {
                HumanDuration(Duration::from_secs_f64((self.total.saturating_sub(self.done)) as f64 / rate))
                    .to_string()
            }
            false => "unknown time".to_owned(),
        };
        format!("{percent} % {done} of {total}, {}/s, {left} left", BinaryBytes(rate as u64))
    }

    /// Ends the bar, or says how it went.
    pub fn finish(&self) {
        let came = self.done - self.before;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let rate = BinaryBytes((came as f64 / self.begun.elapsed().as_secs_f64().max(0.001)) as u64);
        let before = if self.before > 0 {
            format!(", {} were there", BinaryBytes(self.before))
        } else {
            String::new()
        };
        eprintln!("{} came at {rate}/s{before}", BinaryBytes(came));
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The user has said stop.
pub fn interrupted() -> UserError {
    UserError::input("interrupted; what has come stays on the disk").hint("run it again to go on from there")
}
