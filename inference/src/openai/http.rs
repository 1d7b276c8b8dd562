//! One request to a server and its answer as it comes, within limits on time and bytes.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::ServerError;
use crate::{EngineError, Interrupt};

/// The longest event of a stream, and the longest answer that is no stream, in bytes.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How much of a refusal is read.
const MAX_REFUSAL_BYTES: u64 = 4 * 1024;
/// How much of what a server says goes into an error, in characters.
const MAX_SAID: usize = 300;
/// Events that wait for the engine.
const MAX_WAITING_EVENTS: usize = 16;
/// Between two looks at whether to go on.
const SLICE: Duration = Duration::from_millis(20);
const EVENTS: &str = "text/event-stream";

/// A server's address, and what opens it.
#[derive(Clone)]
pub(super) struct Endpoint {
    base: String,
    key: Option<String>,
    connect: Duration,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the key.
        f.debug_tuple("Endpoint").field(&self.base).finish()
    }
}

impl Endpoint {
    /// `url` is what `/v1` follows, as in `http://127.0.0.1:8000`; `key` goes out as a bearer token.
    pub(super) fn new(url: &str, key: Option<&str>, connect: Duration) -> Result<Self, ServerError> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let address = || ServerError::Address(url.chars().take(MAX_SAID).collect());
        let uri: ureq::http::Uri = base.parse().map_err(|_| address())?;
        if uri.scheme_str() != Some("http")
            || uri.host().is_none_or(str::is_empty)
            || base.contains(['?', '@'])
        {
            return Err(address());
        }
        Ok(Self { base, key: key.map(str::to_owned), connect })
    }

    pub(super) fn url(&self) -> &str {
        &self.base
    }

    /// Asks for something small that is no stream.
    pub(super) fn get(&self, path: &str) -> Exchange {
        self.exchange(path, None)
    }

    /// Sends JSON and reads the stream of events that answers it.
    pub(super) fn post(&self, path: &str, json: String) -> Exchange {
        self.exchange(path, Some(json))
    }

    fn exchange(&self, path: &str, body: Option<String>) -> Exchange {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent("swarmpool")
            .max_response_header_size(MAX_HEADER_BYTES)
            .timeout_resolve(Some(self.connect))
            .timeout_connect(Some(self.connect))
            .build()
            .into();
        let (sender, events) = sync_channel(MAX_WAITING_EVENTS);
        let call = Call {
            agent: agent.clone(),
            url: format!("{}{path}", self.base),
            key: self.key.clone(),
            body,
            events: sender,
        };
        let spawned = std::thread::Builder::new().name("server".into()).spawn(move || call.run());
        // Without a thread nobody holds the sender, and the exchange has ended before it begins.
        drop(spawned);
        Exchange { agent, events }
    }
}

/// A request under way; dropping it closes the connection.
pub(super) struct Exchange {
    agent: Agent,
    events: Receiver<Result<String, ServerError>>,
}

impl Exchange {
    /// The data of the next event, or nothing once the answer is over.
    ///
    /// The server is called silent if that takes until `until`, `patience` having been the time for it.
    pub(super) fn next(
        &self,
        interrupt: Interrupt<'_>,
        until: Instant,
        patience: Duration,
    ) -> Result<Option<String>, EngineError> {
        loop {
            interrupt.check()?;
            match self.events.recv_timeout(SLICE) {
                Ok(event) => return Ok(Some(event?)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                    return Err(ServerError::Silent(patience).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // The thread may be reading: this ends it, and at the latest the time for connecting does.
        self.agent.clone().shutdown();
    }
}

/// What the thread of an exchange owns.
struct Call {
    agent: Agent,
    url: String,
    key: Option<String>,
    body: Option<String>,
    events: SyncSender<Result<String, ServerError>>,
}

impl Call {
    fn run(self) {
        if let Err(error) = self.read() {
            // Nobody listens any more: then nobody wants to know.
            let _ = self.events.send(Err(error));
        }
    }

    fn read(&self) -> Result<(), ServerError> {
        let response = self.send().map_err(unreachable)?;
        let status = response.status().as_u16();
        let found = content_type(response.headers());
        let mut body = BufReader::new(response.into_body().into_reader());
        let mut said = Vec::new();
        match &self.body {
            None if status == 200 => return self.read_whole(body),
            Some(_) if status == 200 && found.starts_with(EVENTS) => return self.read_events(&mut body),
            // What cannot be read of it is not said.
            _ => drop(body.take(MAX_REFUSAL_BYTES).read_to_end(&mut said)),
        }
        let message = message(&said);
        match status {
            // Anything but an error may be the output.
            200 => {
                Err(ServerError::NoStream { found: plain(&found), said: message.unwrap_or("none".into()) })
            }
            _ => {
                let said = message.unwrap_or_else(|| plain(&String::from_utf8_lossy(&said)));
                Err(ServerError::Refused { status, said })
            }
        }
    }

    fn send(&self) -> Result<Response<Body>, ureq::Error> {
        let key = self.key.as_ref().map(|key| format!("Bearer {key}"));
        match &self.body {
            None => {
                let request = self.agent.get(&self.url);
                key.iter().fold(request, |request, key| request.header("authorization", key)).call()
            }
            Some(body) => {
                let request = self.agent.post(&self.url);
                let request = request.header("content-type", "application/json").header("accept", EVENTS);
                key.iter().fold(request, |request, key| request.header("authorization", key)).send(body)
            }
        }
    }

    fn read_whole(&self, body: impl Read) -> Result<(), ServerError> {
        let mut whole = Vec::new();
        body.take(MAX_EVENT_BYTES as u64 + 1).read_to_end(&mut whole).map_err(broke_off)?;
        if whole.len() > MAX_EVENT_BYTES {
            return Err(ServerError::TooLong);
        }
        self.pass(whole);
        Ok(())
    }

    /// Server-sent events as the HTML standard defines them: the `data` of each, its lines joined.
    fn read_events(&self, body: &mut impl BufRead) -> Result<(), ServerError> {
        let (mut data, mut left) = (Vec::new(), MAX_EVENT_BYTES);
        while let Some(line) = read_line(body, &mut left)? {
            if let Some(value) = line.strip_prefix(b"data:") {
                data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
                data.push(b'\n');
            }
            if line.is_empty() && !data.is_empty() {
                data.pop();
                left = MAX_EVENT_BYTES;
                if !self.pass(std::mem::take(&mut data)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Hands on what came, and says whether anybody wants more.
    fn pass(&self, bytes: Vec<u8>) -> bool {
        let text = String::from_utf8(bytes).map_err(|_| ServerError::Malformed("it is not UTF-8".into()));
        self.events.send(text).is_ok()
    }
}

/// The next line without its end, within what is left of an event's bytes; nothing at the end.
fn read_line(body: &mut impl BufRead, left: &mut usize) -> Result<Option<Vec<u8>>, ServerError> {
    let mut line = Vec::new();
    let read = body.take(*left as u64 + 1).read_until(b'\n', &mut line).map_err(broke_off)?;
    *left = left.checked_sub(read).ok_or(ServerError::TooLong)?;
    if read == 0 {
        return Ok(None);
    }
    while line.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
    Ok(Some(line))
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get("content-type").and_then(|value| value.to_str().ok());
    value.unwrap_or("nothing that is named").to_owned()
}

fn unreachable(error: ureq::Error) -> ServerError {
    match error {
        ureq::Error::Timeout(_) => ServerError::Unreachable("it does not take connections".into()),
        ureq::Error::Protocol(error) => ServerError::BrokeOff(format!("that is no HTTP: {error}")),
        ureq::Error::Io(error) => match error.kind() {
            ErrorKind::ConnectionRefused => ServerError::Unreachable("nothing listens there".into()),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => broke_off(error),
            _ => ServerError::Unreachable(error.to_string()),
        },
        error => ServerError::Unreachable(error.to_string()),
    }
}

fn broke_off(error: std::io::Error) -> ServerError {
    ServerError::BrokeOff(error.to_string())
}

/// The message of an error, which most servers write as JSON in one of these ways.
fn message(body: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let places = ["/error/message", "/error", "/message", "/detail"];
    places.iter().find_map(|place| json.pointer(place)?.as_str()).map(plain)
}

/// The beginning of what a server says, on one line.
pub(super) fn plain(text: &str) -> String {
    let line: String =
        text.trim().chars().take(MAX_SAID).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.is_empty() { "nothing".into() } else { line }
}
