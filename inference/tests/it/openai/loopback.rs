//! HTTP on loopback, as little of it as a server of completions needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// What answers a request for a completion.
pub type Answer = dyn Fn(&Value, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

/// A server that lists one model and answers completions as it is told, until it is dropped.
pub struct Loopback {
    address: SocketAddr,
    answer: Arc<Mutex<Arc<Answer>>>,
    asked: Arc<Mutex<Vec<Value>>>,
    over: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Loopback {
    pub fn start(answer: Arc<Answer>) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    pub fn listen(listener: TcpListener, answer: Arc<Answer>) -> Self {
        let address = listener.local_addr().unwrap();
        let (answer, over) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicBool::new(false)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, questions, ended) = (answer.clone(), asked.clone(), over.clone());
        let accept = move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (answers, questions) = (answers.clone(), questions.clone());
                // A client that goes away is no failure of the server.
                std::thread::spawn(move || drop(serve(stream.unwrap(), &answers, &questions)));
            }
        };
        Self { address, answer, asked, over, listener: Some(std::thread::spawn(accept)) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answer: Arc<Answer>) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The bodies of the completions asked for.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.listener.take().unwrap().join().unwrap();
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &Mutex<Arc<Answer>>,
    asked: &Mutex<Vec<Value>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    if first.starts_with("GET /v1/models ") {
        let body = json!({ "data": [{ "id": super::MODEL }] }).to_string();
        return whole(&mut stream, "200 OK", "application/json", &body);
    }
    assert!(first.starts_with("POST /v1/completions "), "{first}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body)?;
    asked.lock().unwrap().push(body.clone());
    let answer = answer.lock().unwrap().clone();
    answer(&body, &mut stream)
}

/// An answer of known length.
pub fn whole(stream: &mut TcpStream, status: &str, kind: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n");
    stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes())
}

/// The head of a stream of events that comes in chunks.
pub fn chunked(stream: &mut TcpStream) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())
}

/// A chunk of a stream.
pub fn chunk(stream: &mut TcpStream, bytes: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{bytes}\r\n", bytes.len()).as_bytes())
}

/// An event with this data.
pub fn event(stream: &mut TcpStream, data: &str) -> std::io::Result<()> {
    chunk(stream, &format!("data: {data}\n\n"))
}

/// The end of a stream.
pub fn end(stream: &mut TcpStream) -> std::io::Result<()> {
    event(stream, "[DONE]")?;
    stream.write_all(b"0\r\n\r\n")
}
