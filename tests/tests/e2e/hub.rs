//! A hub of models as Hugging Face documents its own: a list of files with digests at one commit, redirects of large files
//! to another server, parts of files, and faults on demand.

use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const REPOSITORY: &str = "bee/hive";
pub const TOKEN: &str = "hf_a-token-of-the-test";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Files that are larger lie on the other server.
const LARGE: usize = 10_000;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Nothing,
    /// The first large answers end after so many bytes each.
    Drops {
        after: usize,
        times: usize,
    },
    /// Large answers stop at this byte of the file and stay open.
    Stalls(usize),
    /// Stated digests are those of other bytes.
    Lies,
    /// Large answers have no stated length and no end.
    Endless,
    /// A byte at a time.
    Drips,
    /// States this size.
    States(u64),
    /// Answers a request for a part with the whole.
    NoParts,
    /// Answers only those who have the token.
    Gated,
    /// Answers 503.
    Down,
}

struct State {
    files: Vec<(String, Vec<u8>)>,
    fault: Fault,
    faulted: usize,
    requests: Vec<String>,
    large: String,
}

/// A running hub; its threads end with the test's process.
pub struct Hub {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start(files: &[(&str, Vec<u8>)], fault: Fault) -> Self {
        let listeners = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [endpoint, large] = [("127.0.0.1", 0), ("localhost", 1)].map(|(host, n): (&str, usize)| {
            format!("http://{host}:{}", listeners[n].local_addr().unwrap().port())
        });
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let state = State { files, fault, faulted: 0, requests: Vec::new(), large };
        let state = Arc::new(Mutex::new(state));
        for (listener, is_large) in listeners.into_iter().zip([false, true]) {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    // Whoever asked may go at any time.
                    std::thread::spawn(move || serve(stream, &state, is_large));
                }
            });
        }
        Self { endpoint, state }
    }

    /// The requests so far: path, range, and whether a token came, with `large` before those to the other server.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub fn mend(&self) {
        self.state.lock().unwrap().fault = Fault::Nothing;
    }
}

struct Request {
    path: String,
    from: Option<usize>,
    has_token: bool,
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut request = Request { path: first.split(' ').nth(1)?.to_owned(), from: None, has_token: false };
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            request.from = range.trim_end_matches('-').parse().ok();
        }
        request.has_token |= line == format!("authorization: bearer {TOKEN}").to_ascii_lowercase();
    }
    Some(request)
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, is_large: bool) -> Option<()> {
    let request = read(&stream)?;
    let mut held = state.lock().unwrap();
    let server = if is_large { "large " } else { "" };
    let token = if request.has_token { " with token" } else { "" };
    let from = request.from.map_or(String::new(), |from| format!(" from {from}"));
    held.requests.push(format!("{server}{}{from}{token}", request.path));
    let fault = held.fault;
    if fault == Fault::Down || (fault == Fault::Gated && !request.has_token && !is_large) {
        let status = if fault == Fault::Down { "503 Service Unavailable" } else { "401 Unauthorized" };
        return write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    }
    if request.path == format!("/api/models/{REPOSITORY}/revision/main?blobs=true") {
        let list = list(&held);
        return answer(&mut stream, list.as_bytes());
    }
    let name = request.path.rsplit('/').next()?.to_owned();
    let Some((_, bytes)) = held.files.iter().find(|(file, _)| *file == name).cloned() else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .ok();
    };
    if !is_large && bytes.len() > LARGE {
        let location = format!("{}/blobs/{name}", held.large);
        let etag = hex::encode(Sha256::digest(&bytes));
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: {location}\r\nx-repo-commit: {COMMIT}\r\nx-linked-size: {}\r\n\
             x-linked-etag: \"{etag}\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            bytes.len()
        )
        .ok();
    }
    // Small files are elsewhere on the same server, for those who may have them.
    if !is_large && !request.path.starts_with("/api/") {
        return write!(
            stream,
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: /api/resolve-cache/models/{REPOSITORY}/{COMMIT}/{name}\r\n\
             x-repo-commit: {COMMIT}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
        .ok();
    }
    held.faulted += usize::from(is_large);
    let times = held.faulted;
    drop(held);
    if !is_large { answer(&mut stream, &bytes) } else { send(stream, &bytes, request.from, fault, times) }
}

fn answer(stream: &mut TcpStream, bytes: &[u8]) -> Option<()> {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len()).ok()?;
    stream.write_all(bytes).ok()
}

fn send(mut stream: TcpStream, bytes: &[u8], from: Option<usize>, fault: Fault, times: usize) -> Option<()> {
    let from = from.filter(|_| fault != Fault::NoParts);
    let rest = &bytes[from.unwrap_or(0).min(bytes.len())..];
    match from {
        Some(from) => write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{}/{}\r\n",
            bytes.len() - 1,
            bytes.len()
        ),
        None => write!(stream, "HTTP/1.1 200 OK\r\n"),
    }
    .ok()?;
    if fault == Fault::Endless {
        write!(stream, "connection: close\r\n\r\n").ok()?;
        loop {
            stream.write_all(&[7; 65_536]).ok()?;
        }
    }
    write!(stream, "content-length: {}\r\nconnection: close\r\n\r\n", rest.len()).ok()?;
    match fault {
        Fault::Drops { after, times: most } if times <= most => {
            stream.write_all(&rest[..after.min(rest.len())]).ok()
        }
        Fault::NoParts if times == 1 => stream.write_all(&rest[..rest.len() / 2]).ok(),
        Fault::Stalls(after) => {
            let most = after.saturating_sub(from.unwrap_or(0));
            stream.write_all(&rest[..most.min(rest.len())]).ok()?;
            // Until whoever reads is gone; nothing else is ever written here.
            stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
            std::io::Read::read(&mut stream, &mut [0]).ok().map(drop)
        }
        Fault::Drips => rest.iter().try_for_each(|byte| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&[*byte]).ok()
        }),
        _ => stream.write_all(rest).ok(),
    }
}

fn list(state: &State) -> String {
    let sibling = |(name, bytes): &(String, Vec<u8>)| {
        let size = match state.fault {
            Fault::States(size) => size,
            _ => bytes.len() as u64,
        };
        let content = if state.fault == Fault::Lies { b"another".to_vec() } else { bytes.clone() };
        let blob = [format!("blob {}\0", bytes.len()).as_bytes(), &content].concat();
        let blob = sha1_smol::Sha1::from(blob).digest().to_string();
        let mut sibling = serde_json::json!({ "rfilename": name, "size": size, "blobId": blob });
        if bytes.len() > LARGE {
            let sha256 = hex::encode(Sha256::digest(&content));
            sibling["lfs"] = serde_json::json!({ "sha256": sha256, "size": size, "pointerSize": 134 });
        }
        sibling
    };
    let siblings: Vec<_> = state.files.iter().map(sibling).collect();
    serde_json::json!({
        "id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "cardData": { "license": "apache-2.0" },
    })
    .to_string()
}
