//! A Redis server for tests: on a free port of the loopback, durable, in a folder that goes with it.

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
        crate::harness::eventually("Redis listens", || TcpStream::connect(("127.0.0.1", self.port)).ok());
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
