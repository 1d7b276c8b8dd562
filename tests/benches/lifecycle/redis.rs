//! A Redis server of the benchmark's own: on a free port of the loopback, durable, in a folder that goes with it.

use anyhow::{Context, Result};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub struct Redis {
    _folder: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Redis {
    /// Starts one; none if this machine has no Redis, which is said.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = program() else {
            println!("there is no redis-server (scripts/setup.sh queues brings one): not measured on Redis");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        // A rewrite of the file would fall on whoever is measured just then.
        command.args(["--auto-aof-rewrite-percentage", "0"]);
        command.arg("--port").arg(port.to_string()).arg("--dir").arg(folder.path());
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let started = Self { _folder: folder, port, process };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            anyhow::ensure!(Instant::now() < until, "redis-server did not start");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(Some(started))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Nobody is to pay for what others have left.
    pub fn clear(&self) -> Result<redis::Connection> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        redis::cmd("FLUSHALL").exec(&mut connection).context("Redis forgets")?;
        Ok(connection)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It is this benchmark's own, and gone already if it cannot be ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server that scripts/setup.sh has brought, or the system's.
fn program() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/redis-server");
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let systems = std::env::split_paths(&paths).map(|folder| folder.join("redis-server"));
    std::iter::once(own).chain(systems).find(|path| path.exists())
}
