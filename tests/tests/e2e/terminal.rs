//! A terminal, as a person has it before them: tmux runs a shell in it, types, and reads the screen.

use crate::harness::{PATIENCE, Site, binary};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// A shell in a terminal of this size, with the programs in its path.
    pub fn open(site: &Site, width: u16, height: u16) -> Self {
        let terminal = Self { socket: site.home().join("tmux.sock") };
        let program = site.command("swarm-client");
        let mut tmux = terminal.tmux();
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => tmux.env(name, value),
                None => tmux.env_remove(name),
            };
        }
        let programs = binary("swarm-client").parent().unwrap().to_owned();
        let path = std::env::join_paths(
            std::iter::once(programs).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        tmux.env("PATH", path.unwrap()).env("LC_ALL", "C.UTF-8").env("RUST_BACKTRACE", "0").env_remove("ENV");
        tmux.args(["new-session", "-d", "-x", &width.to_string(), "-y", &height.to_string(), "sh"]);
        let started = tmux.status().expect("tmux runs; scripts/setup.sh installs it");
        assert!(started.success());
        terminal.expect_that("a prompt", |screen| screen.contains(['$', '#']));
        terminal
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.socket).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.tmux().args(args).output().unwrap();
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Presses keys, named as tmux does: `q`, `C-c`, `Tab`.
    pub fn press(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    /// Types a line.
    pub fn type_line(&self, line: &str) {
        self.run(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    /// Waits until the screen holds this text; gives the screen.
    pub fn expect(&self, wanted: &str) -> String {
        self.expect_that(wanted, |screen| screen.contains(wanted))
    }

    /// Waits until the screen is as wanted; gives the screen.
    pub fn expect_that(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "the screen never showed {what}:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Makes it another size.
    pub fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// What the terminal is set to beside its lines' discipline: `alternate_on`, `cursor_flag`, `mouse_any_flag`.
    pub fn flag(&self, name: &str) -> bool {
        self.run(&["display-message", "-p", &format!("#{{{name}}}")]).trim() == "1"
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the terminal\n{}", self.screen());
        }
        // It may be gone with its shell.
        let _ = self.tmux().arg("kill-server").status();
    }
}
