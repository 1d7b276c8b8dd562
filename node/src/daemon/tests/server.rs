//! A server whose every byte the test chooses.

use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request: its first line and its body.
pub struct Asked {
    pub line: String,
    pub body: Vec<u8>,
}

/// How a connection goes on once the request was read.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes, then it is closed.
    Bytes(Vec<u8>),
    /// These bytes once, and others for ever.
    Endless(Vec<u8>, Vec<u8>),
    /// These bytes, and then nothing.
    Silence(Vec<u8>),
}

/// Listens until it is dropped.
pub struct Server {
    pub url: String,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer with this status and body.
pub fn answer(status: &str, body: &str) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    Reply::Bytes([head.as_bytes(), body.as_bytes()].concat())
}

pub async fn serve(reply: impl Fn(Asked) -> Reply + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let reply = Arc::new(reply);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let reply = reply.clone();
            tokio::spawn(async move { talk(stream, reply.as_ref()).await });
        }
    });
    Server { url, task }
}

/// Whoever asked may leave at any time.
async fn talk(mut stream: TcpStream, reply: &(impl Fn(Asked) -> Reply + ?Sized)) -> Option<()> {
    let asked = read(&mut stream).await?;
    match reply(asked) {
        Reply::Bytes(bytes) => stream.write_all(&bytes).await.ok()?,
        Reply::Endless(head, more) => {
            stream.write_all(&head).await.ok()?;
            loop {
                stream.write_all(&more).await.ok()?;
            }
        }
        Reply::Silence(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            std::future::pending().await
        }
    }
    stream.shutdown().await.ok()
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let (mut all, mut piece) = (Vec::new(), [0; 65_536]);
    let is_whole = |all: &[u8]| {
        let head = all.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&all[..head]).to_lowercase();
        let is_chunked = text.contains("transfer-encoding: chunked");
        (!is_chunked || all.ends_with(b"\r\n0\r\n\r\n")).then_some(head)
    };
    let head = loop {
        if let Some(head) = is_whole(&all) {
            break head;
        }
        match stream.read(&mut piece).await.ok()? {
            0 => return None,
            length => all.extend_from_slice(&piece[..length]),
        }
    };
    let line = String::from_utf8_lossy(&all).lines().next()?.to_owned();
    Some(Asked { line, body: all.split_off(head) })
}
