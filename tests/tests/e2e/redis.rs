//! A Redis server for tests: on a free port of the loopback, durable, in a folder that goes with it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A Redis of the test's own.
pub struct Redis {
    folder: tempfile::TempDir,
    pub port: u16,
    process: Option<Child>,
}

impl Redis {
    pub fn start() -> Option<Self> {
        if program().is_none() {
            println!("NOT TESTED: there is no redis-server here; scripts/setup.sh tests brings one");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), port, process: None };
        redis.run();
        Some(redis)
    }

    pub fn run(&mut self) {
        let mut command = Command::new(program().unwrap());
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.folder.path());
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        crate::harness::eventually("Redis answers", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            (self.say("PING") == "+PONG").then_some(())
        });
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Tells it a command, and gives the first line of its answer.
    pub fn say(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Is a copy of another from now on; returns once it has all that the other has.
    pub fn follow(&self, master: &Redis) {
        assert_eq!(self.say(&format!("REPLICAOF 127.0.0.1 {}", master.port)), "+OK");
        crate::harness::eventually("the replica has all", || {
            (master.say("WAIT 1 500") == ":1").then_some(())
        });
    }

    /// Is a master of its own from now on, with what it has.
    pub fn lead(&self) {
        assert_eq!(self.say("REPLICAOF NO ONE"), "+OK");
    }

    /// Its files, kept for later.
    pub fn backup(&self) -> tempfile::TempDir {
        let backup = tempfile::tempdir().unwrap();
        copy_files(&self.files(), backup.path());
        backup
    }

    /// An older state is put in the place of the newest one.
    pub fn roll_back(&mut self, backup: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.files()).unwrap();
        std::fs::create_dir(self.files()).unwrap();
        copy_files(backup, &self.files());
        self.run();
    }

    fn files(&self) -> PathBuf {
        self.folder.path().join("appendonlydir")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn program() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/redis-server");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let systems = std::env::split_paths(&paths).map(|folder| folder.join("redis-server"));
    std::iter::once(own).chain(systems).find(|path| path.exists())
}
