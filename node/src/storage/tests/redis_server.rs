//! A Redis of the test's own: on a free port of the loopback, durable, in a folder that goes with it.

use crate::storage::ledger::RedisConfig;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that can be killed and started again with what it has on its disk.
pub struct RedisServer {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one; none if this machine has no Redis, which is said.
    pub fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!(
                "NOT TESTED on Redis: there is no redis-server here; scripts/setup.sh tests brings one"
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { folder, port, process: None };
        server.run(&program);
        Some(server)
    }

    /// As after a power cut that loses nothing synced.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.run(&program().unwrap());
    }

    /// What it has on its disk is that of an earlier moment.
    pub fn roll_back(&mut self, backup: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("appendonlydir")).unwrap();
        let files = backup.join("appendonlydir");
        std::fs::create_dir(self.folder.path().join("appendonlydir")).unwrap();
        for file in std::fs::read_dir(files).unwrap().flatten() {
            let target = self.folder.path().join("appendonlydir").join(file.file_name());
            std::fs::copy(file.path(), target).unwrap();
        }
        self.run(&program().unwrap());
    }

    pub fn config(&self, token: &str) -> RedisConfig {
        RedisConfig { urls: vec![self.url()], lossy: false, token: token.to_owned() }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn run(&mut self, program: &Path) {
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        command.arg("--port").arg(self.port.to_string()).arg("--dir").arg(self.folder.path());
        self.process = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server that scripts/setup.sh has brought, or the system's.
fn program() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/redis-server");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let systems = std::env::split_paths(&paths).map(|folder| folder.join("redis-server"));
    std::iter::once(own).chain(systems).find(|path| path.exists())
}
