//! The answer to `GET /metrics`, over plain HTTP.

use super::Exporter;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// Connections at once; others wait to be taken.
pub const MAX_CONNECTIONS: usize = 8;
/// How long a connection may last, from the first byte of its question to the last of its answer.
pub const MAX_CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a question.
pub const MAX_QUESTION_BYTES: usize = 8192;
/// How long a connection may take to say what it wants.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two tries to take connections when there are no handles left.
const PAUSE: Duration = Duration::from_millis(200);

/// Why metrics cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be shown on {address}: {cause}; name another address with --metrics")]
pub struct ServeError {
    address: SocketAddr,
    cause: std::io::Error,
}

/// A listener that answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Server {
    /// Listens, and answers from now on.
    pub async fn start(address: SocketAddr, exporter: Exporter) -> Result<Self, ServeError> {
        let failed = |cause| ServeError { address, cause };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!("metrics can be read by everybody who reaches {address}");
        }
        tracing::info!("metrics on http://{address}/metrics");
        let task = tokio::spawn(answer_all(listener, Arc::new(exporter))).abort_handle();
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer_all(listener: TcpListener, exporter: Arc<Exporter>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let exporter = exporter.clone();
                connections.spawn(async move {
                    // Whoever asked may be gone or too slow: its loss.
                    let _ = timeout(MAX_CONNECTION_TIME, answer(stream, exporter)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!("a connection for metrics was not taken: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, exporter: Arc<Exporter>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let exporter = exporter.clone();
        async move { Ok::<_, Infallible>(respond(&request, &exporter).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(QUESTION_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_QUESTION_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn respond(request: &Request<Incoming>, exporter: &Exporter) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics can only be read\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match exporter.text().await {
        Ok(text) => plain(StatusCode::OK, text),
        Err(error) => {
            tracing::error!("metrics cannot be written: {error}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n")
        }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
