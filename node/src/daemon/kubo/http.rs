//! Requests as the library writes them, sent with limits on time and bytes, which the library's own sending lacks.

use crate::storage::content_store::StoreError;
use hyper_0_14::body::HttpBody;
use hyper_0_14::client::HttpConnector;
use hyper_0_14::{Body, Client, Request, StatusCode};
use ipfs_api_backend_hyper::request::ApiRequest;
use ipfs_api_backend_hyper::{ApiError, Form, IpfsApi, IpfsClient, TryFromUri};
use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::time::timeout;

/// The longest answer that is no content.
pub const MAX_ANSWER_BYTES: usize = 64 << 10;
/// What is read of a refusal, and shown of it.
const MAX_REASON_BYTES: usize = 4 << 10;
const MAX_REASON_CHARS: usize = 200;
const MAX_HEAD_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a call came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// Nobody answers, or not to the end.
    Away(String),
    /// The daemon says why not.
    Said(String),
    /// What answers does not speak as a daemon does.
    Garbled(String),
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Away(why) => StoreError::Away(why),
            CallError::Said(why) => StoreError::Refused(format!("the IPFS daemon says: {why}")),
            CallError::Garbled(why) => StoreError::Refused(why),
        }
    }
}

/// A way to a daemon; a connection for each call, so that none is broken before it is used.
pub struct Line {
    api: IpfsClient,
    http: Client<HttpConnector>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    /// To `http://host:port`, as the command line has checked it.
    pub fn new(url: &str) -> Result<Self, String> {
        let api = IpfsClient::from_str(url).map_err(|error| error.to_string())?;
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder();
        let http = builder.pool_max_idle_per_host(0).http1_max_buf_size(MAX_HEAD_BYTES).build(connector);
        Ok(Self { api, http })
    }

    /// An answer of at most `max` bytes.
    pub async fn call<R: ApiRequest>(
        &self,
        request: R,
        form: Option<Form<'static>>,
        within: Duration,
        max: usize,
    ) -> Result<Vec<u8>, CallError> {
        let (mut answer, mut is_over) = (Vec::new(), false);
        let take = |piece: &[u8]| {
            is_over = piece.len() > max - answer.len();
            if is_over {
                return ControlFlow::Break(());
            }
            answer.extend_from_slice(piece);
            ControlFlow::Continue(())
        };
        self.stream(request, form, within, take).await?;
        if is_over {
            return Err(CallError::Garbled(format!("an answer to {} is over {max} bytes", R::PATH)));
        }
        Ok(answer)
    }

    /// An answer piece by piece, until `take` has enough of it.
    pub async fn stream<R: ApiRequest>(
        &self,
        request: R,
        form: Option<Form<'static>>,
        within: Duration,
        take: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), CallError> {
        let request = written(&self.api, request, form).map_err(CallError::Garbled)?;
        let late = || CallError::Away(format!("no answer to {} within {within:?}", R::PATH));
        timeout(within, self.send(request, R::PATH, take)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn send(
        &self,
        request: Request<Body>,
        path: &str,
        mut take: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), CallError> {
        let broken = |error: hyper_0_14::Error| CallError::Away(chain(&error));
        let mut answer = self.http.request(request).await.map_err(broken)?;
        if answer.status() != StatusCode::OK {
            let reason = reason(answer.body_mut()).await;
            return Err(refusal(answer.status(), path, &reason));
        }
        while let Some(piece) = answer.body_mut().data().await {
            if take(&piece.map_err(broken)?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The library writes the address and the form.
fn written<A: IpfsApi<HttpRequest = Request<Body>>>(
    api: &A,
    request: impl ApiRequest,
    form: Option<Form<'static>>,
) -> Result<Request<Body>, String> {
    api.build_base_request(request, form).map_err(|error| error.to_string())
}

/// What can be read of it; the rest is no matter.
async fn reason(body: &mut Body) -> Vec<u8> {
    let mut reason = Vec::new();
    while reason.len() < MAX_REASON_BYTES {
        let Some(Ok(piece)) = body.data().await else { break };
        reason.extend_from_slice(&piece[..piece.len().min(MAX_REASON_BYTES - reason.len())]);
    }
    reason
}

fn refusal(status: StatusCode, path: &str, reason: &[u8]) -> CallError {
    match serde_json::from_slice::<ApiError>(reason) {
        Ok(error) => CallError::Said(clean(&error.message)),
        Err(_) => {
            let text = clean(&String::from_utf8_lossy(reason));
            CallError::Garbled(format!("{path} is answered with {status} {text}").trim_end().to_owned())
        }
    }
}

/// As it may be shown on a terminal.
pub fn clean(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_REASON_CHARS).collect::<String>().trim().to_owned()
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
