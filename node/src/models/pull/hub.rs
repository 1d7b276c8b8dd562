//! Repositories of Hugging Face's hub, by the API that it documents: a list of files with their digests at one commit, and
//! each file at that commit, from wherever the hub sends us on to.

use super::choice::{Chosen, MAX_SHARD_INDEX_BYTES, choose, cut};
use super::part::PIECE_BYTES;
use super::source::Repository;
use super::{Check, Origin, Pace, Part, Plan, Wanted};
use crate::cli::UserError;
use crate::words::clean;
use anyhow::{Result, anyhow};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::time::{Duration, Instant};
use swarm_inference::{SHARD_INDEX, spdx};
use tokio_util::sync::CancellationToken;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

/// Where the hub is, unless this variable says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
const ENDPOINT_VARIABLE: &str = "HF_ENDPOINT";
/// A token for what is not open to all.
const TOKEN_VARIABLE: &str = "HF_TOKEN";
/// The longest list of a repository's files, and the longest file that is looked into.
const MAX_LIST_BYTES: u64 = 8 << 20;
const MAX_TEXT_BYTES: u64 = 64 << 10;
const MAX_HEADER_BYTES: usize = 64 << 10;
const MAX_REDIRECTS: u32 = 5;
/// Attempts in a row that bring less than this.
const MAX_TRIES: u32 = 5;
const MIN_PROGRESS: u64 = 64 << 10;
/// What has to come on average while the patience lasts.
const MIN_BYTES_PER_SECOND: u64 = 1024;
/// Of the patience: before the first attempt that follows one in vain.
const FIRST_PAUSE: u32 = 60;
/// How sentence-transformers makes one vector of many.
const POOLING: &str = "1_Pooling/config.json";

/// A repository, once its list of files is known at one commit.
#[derive(Debug)]
pub struct Hub {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    repository: Repository,
    patience: Duration,
    commit: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(rename = "cardData")]
    card: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// How an attempt ended early.
enum Broken {
    /// Another may do better.
    Again(String),
    Final(anyhow::Error),
}

impl From<anyhow::Error> for Broken {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

impl Hub {
    /// The hub that the environment names.
    pub fn new(repository: Repository, patience: Duration) -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = variable(ENDPOINT_VARIABLE).unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(UserError::misuse(format!(
                "{ENDPOINT_VARIABLE} is no URL of a hub: {}",
                clean(&endpoint)
            ))
            .hint(format!("write it like {ENDPOINT}, or leave it out"))
            .into());
        }
        let token = variable(TOKEN_VARIABLE);
        if token.as_ref().is_some_and(|token| !token.chars().all(|c| c.is_ascii_graphic())) {
            return Err(UserError::misuse(format!("{TOKEN_VARIABLE} holds no token"))
                .hint("set it again")
                .into());
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(endpoint.starts_with("https://"))
            .max_redirects(MAX_REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("swarm-node/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(MAX_HEADER_BYTES)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .build()
            .into();
        Ok(Self { agent, endpoint, token, repository, patience, commit: String::new() })
    }

    /// What ends a request that is under way.
    pub fn agent(&self) -> Agent {
        self.agent.clone()
    }

    fn place(&self) -> String {
        format!("{}/{}", self.repository.owner, self.repository.name)
    }

    fn get(&self, path: &str, from: u64) -> Result<Response<Body>, ureq::Error> {
        let mut request = self.agent.get(format!("{}/{path}", self.endpoint));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request.call()
    }

    /// A short answer, whole.
    fn text(&self, path: &str, max: u64) -> Result<Vec<u8>, Broken> {
        let mut answer = self.get(path, 0).map_err(|error| Broken::Again(error.to_string()))?;
        self.accepted(answer.status())?;
        let mut bytes = Vec::new();
        let read = answer.body_mut().as_reader().take(max + 1).read_to_end(&mut bytes);
        read.map_err(|error| Broken::Again(error.to_string()))?;
        match bytes.len() as u64 > max {
            true => Err(Broken::Final(self.odd(&format!("{path} is longer than {max} bytes")))),
            false => Ok(bytes),
        }
    }

    fn text_again(&self, path: &str, max: u64, stop: &CancellationToken) -> Result<Vec<u8>> {
        let mut tries = 0;
        loop {
            match self.text(path, max) {
                Ok(bytes) => return Ok(bytes),
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Again(_)) if stop.is_cancelled() => return Err(super::pace::interrupted().into()),
                Err(Broken::Again(why)) => {
                    tries += 1;
                    if tries == MAX_TRIES {
                        return Err(self.unreachable(&why));
                    }
                    std::thread::sleep(self.patience / FIRST_PAUSE);
                }
            }
        }
    }

    /// Whether the hub gives what was asked for; if not, whether asking again may help.
    fn accepted(&self, status: StatusCode) -> Result<(), Broken> {
        match status.as_u16() {
            200 | 206 => Ok(()),
            401 | 403 | 404 => Err(Broken::Final(
                UserError::input(format!(
                    "{} has no {} at {}, or it is not open to you ({})",
                    self.endpoint,
                    self.place(),
                    self.repository.revision,
                    status.as_u16()
                ))
                .hint(format!("correct the name; for a gated or private one set {TOKEN_VARIABLE} to a token that may read it"))
                .into(),
            )),
            408 | 429 | 500..=599 => Err(Broken::Again(format!("it answers {}", status.as_u16()))),
            other => Err(Broken::Final(self.odd(&format!("it answers {other}")))),
        }
    }

    fn odd(&self, what: &str) -> anyhow::Error {
        UserError::input(format!("{} does not answer as a hub: {what}", self.endpoint))
            .hint(format!("pull it again, or correct {ENDPOINT_VARIABLE}"))
            .into()
    }

    fn unreachable(&self, why: &str) -> anyhow::Error {
        UserError::input(format!("{} does not give {}: {}", self.endpoint, self.place(), clean(why)))
            .hint("run it again to go on; what has come stays on the disk")
            .into()
    }

    fn wanted(&self, listed: &Listed, name: &str) -> Result<Wanted> {
        let sibling = listed.siblings.iter().find(|sibling| sibling.rfilename == name);
        let sibling = sibling.ok_or_else(|| anyhow!("{name} was listed"))?;
        let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|c| c.is_ascii_hexdigit());
        let stated = match (&sibling.lfs, &sibling.blob_id, sibling.size) {
            (Some(lfs), _, _) if is_hex(&lfs.sha256, 64) => {
                Some((lfs.size, Check::Sha256(lfs.sha256.to_ascii_lowercase())))
            }
            (None, Some(id), Some(size)) if is_hex(id, 40) => {
                Some((size, Check::Git(id.to_ascii_lowercase())))
            }
            _ => None,
        };
        let (size, check) =
            stated.ok_or_else(|| self.odd(&format!("it states no size and digest of {name}")))?;
        Ok(Wanted { name: name.to_owned(), size, check, by_blocks: false })
    }

    /// Vectors that are not the mean over all tokens would be others than the model's own.
    fn check_pooling(&self, stop: &CancellationToken) -> Result<()> {
        let json = self.text_again(&self.path_of(POOLING), MAX_TEXT_BYTES, stop)?;
        let pooling: Value = serde_json::from_slice(&json).map_err(|_| self.odd("its pooling is no JSON"))?;
        match pooling["pooling_mode_mean_tokens"].as_bool() {
            Some(false) => Err(UserError::input(format!(
                "{} does not take the mean over all tokens, as engines here do",
                self.place()
            ))
            .hint("choose a model whose 1_Pooling/config.json has pooling_mode_mean_tokens true")
            .into()),
            Some(true) | None => Ok(()),
        }
    }

    fn path_of(&self, file: &str) -> String {
        format!("{}/resolve/{}/{file}", self.place(), self.commit)
    }

    /// Asks for what is missing of a file, and reads as long as it comes.
    fn attempt(&self, wanted: &Wanted, part: &mut Part, pace: &mut Pace) -> Result<(), Broken> {
        let from = part.length();
        let mut answer =
            self.get(&self.path_of(&wanted.name), from).map_err(|error| Broken::Again(error.to_string()))?;
        let status = answer.status().as_u16();
        if status == 416 || (status == 200 && from > 0) || (status == 206 && begins_at(&answer) != Some(from))
        {
            pace.lost(from);
            part.restart()?;
        }
        if status == 416 || (status == 206 && begins_at(&answer) != Some(from)) {
            return Err(Broken::Again("it gives another part than was asked for".to_owned()));
        }
        self.accepted(answer.status())?;
        let left = wanted.size - part.length();
        if let Some(coming) = answer.body().content_length().filter(|coming| *coming != left) {
            let what = format!("{} has {coming} bytes to come, its list of files says {left}", wanted.name);
            return Err(Broken::Final(self.odd(&what)));
        }
        self.read(answer.body_mut().as_reader(), part, pace)
    }

    fn read(&self, mut body: impl Read, part: &mut Part, pace: &mut Pace) -> Result<(), Broken> {
        let mut piece = vec![0; PIECE_BYTES];
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            let read = body.read(&mut piece).map_err(|error| Broken::Again(error.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            part.append(&piece[..read])?;
            pace.took(read as u64)?;
            came += read as u64;
            if since.elapsed() >= self.patience {
                if came < MIN_BYTES_PER_SECOND * self.patience.as_secs().max(1) {
                    return Err(Broken::Again(format!(
                        "{came} bytes in {} s are too slow",
                        self.patience.as_secs()
                    )));
                }
                (since, came) = (Instant::now(), 0);
            }
        }
    }
}

impl Origin for Hub {
    fn plan(&mut self, stop: &CancellationToken) -> Result<Plan> {
        let Repository { revision, file, .. } = self.repository.clone();
        let path =
            format!("api/models/{}/revision/{}?blobs=true", self.place(), revision.replace('/', "%2F"));
        let list = self.text_again(&path, MAX_LIST_BYTES, stop)?;
        let listed: Listed = serde_json::from_slice(&list)
            .map_err(|error| self.odd(&format!("its list of files: {error}")))?;
        if listed.sha.is_empty() || !listed.sha.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(self.odd("its list names no commit"));
        }
        self.commit = listed.sha.clone();
        let names: Vec<&str> = listed.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        let choice = match choose(&self.place(), &names, file.as_deref())? {
            Chosen::Whole(choice) => choice,
            Chosen::Cut(beside) => {
                let index = self.text_again(&self.path_of(SHARD_INDEX), MAX_SHARD_INDEX_BYTES, stop)?;
                cut(&self.place(), &names, beside, &index)?
            }
        };
        if !choice.beside.is_empty() && names.contains(&POOLING) {
            self.check_pooling(stop)?;
        }
        let weights = choice.weights.len();
        let files: Vec<Wanted> = choice
            .weights
            .iter()
            .chain(&choice.beside)
            .map(|name| self.wanted(&listed, name))
            .collect::<Result<_>>()?;
        let licence = listed.card.as_ref().and_then(|card| card["license"].as_str()).map(spdx);
        Ok(Plan { manifest: None, files, weights, licence, called: Some(self.repository.name.clone()) })
    }

    fn fetch(&mut self, wanted: &Wanted, part: &mut Part, pace: &mut Pace) -> Result<()> {
        let mut tries = 0;
        while !part.is_full() {
            let from = part.length();
            let ended = self.attempt(wanted, part, pace);
            pace.go_on()?;
            let why = match ended {
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Again(why)) => why,
                Ok(()) => "it ends too early".to_owned(),
            };
            if part.is_full() {
                break;
            }
            let enough = part.length().saturating_sub(from) >= MIN_PROGRESS;
            tries = if enough { 0 } else { tries + 1 };
            if tries == MAX_TRIES {
                return Err(self.unreachable(&why));
            }
            pace.note(&format!(
                "the hub breaks off at {} of {} bytes of {}: {}; asking for the rest",
                part.length(),
                wanted.size,
                wanted.name,
                clean(&why)
            ));
            pace.pause(self.patience / FIRST_PAUSE * (1 << tries))?;
        }
        Ok(())
    }
}

/// From which byte of the file on a partial answer goes.
fn begins_at(answer: &Response<Body>) -> Option<u64> {
    let range = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
