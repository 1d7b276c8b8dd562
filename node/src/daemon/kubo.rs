//! A Kubo daemon, or another that speaks its RPC, as a store of content.

mod calls;
mod http;

use crate::network::MAX_BLOCK;
use crate::storage::blocks;
use crate::storage::content_store::{ContentStore, Reach, StoreError};
use async_trait::async_trait;
use calls::{BlockGet, BlockPut, Parameters, PinAdd, PinLs, PinRm};
use cid::Cid;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::{CallError, Line, MAX_ANSWER_BYTES};
use ipfs_api_backend_hyper::response::{
    BlockPutResponse, FilesStatResponse, PinAddResponse, VersionResponse,
};
use ipfs_api_backend_hyper::{Form, request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the daemon's files show the pool's tree, and where the next one is while it is put there.
pub const TREE: &str = "/swarmpool";
const NEXT_TREE: &str = "/swarmpool.next";

const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A folder of many nodes may take the daemon a while, and so may a long list.
const LONG_TIMEOUT: Duration = Duration::from_secs(120);
/// Blocks on their way to the daemon at once.
const MAX_PUTS: usize = 4;
/// CIDs in one call.
const MAX_NAMED: usize = 32;
/// Pins of a list, and the bytes of one.
const MAX_LISTED: usize = 1 << 22;
const MAX_LINE_BYTES: usize = 4 << 10;

const RAW: u64 = 0x55;
const DAG_PB: u64 = 0x70;
const DAG_CBOR: u64 = 0x71;

/// A daemon.
#[derive(Debug)]
pub struct Kubo {
    line: Line,
    /// It takes the name of a codec as `format`, as daemons did before `cid-codec`.
    says_format: AtomicBool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PinLine {
    cid: String,
}

impl Kubo {
    /// A daemon at `http://host:port` that has answered, and what it calls its version.
    pub async fn open(url: &str) -> Result<(Self, String), StoreError> {
        let line = Line::new(url).map_err(StoreError::Refused)?;
        let kubo = Self { line, says_format: AtomicBool::new(false) };
        let answer = kubo.line.call(request::Version, None, ASK_TIMEOUT, MAX_ANSWER_BYTES).await?;
        let version: VersionResponse = parsed(&answer)?;
        Ok((kubo, http::clean(&version.version)))
    }

    async fn ask(&self, request: impl request::ApiRequest, within: Duration) -> Result<Vec<u8>, CallError> {
        self.line.call(request, None, within, MAX_ANSWER_BYTES).await
    }

    async fn put(&self, cid: &Cid, bytes: &[u8]) -> Result<(), StoreError> {
        blocks::check(cid, bytes)?;
        let (ours, codec) = on_the_wire(cid);
        let says_format = self.says_format.load(Ordering::Relaxed);
        for by_format in [says_format, !says_format] {
            let mut form = Form::default();
            form.add_reader("data", Cursor::new(bytes.to_vec()));
            let named = if by_format {
                vec![("format", codec), ("version", "1")]
            } else {
                vec![("cid-codec", codec)]
            };
            let fixed = [("mhtype", "sha2-256"), ("mhlen", "32")];
            let query =
                named.into_iter().chain(fixed).map(|(name, value)| (name, value.to_owned())).collect();
            let answer = self.line.call(BlockPut(query), Some(form), WRITE_TIMEOUT, MAX_ANSWER_BYTES).await?;
            let put: BlockPutResponse = parsed(&answer)?;
            if Cid::try_from(put.key.as_str()).is_ok_and(|theirs| on_the_wire(&theirs).0 == ours) {
                self.says_format.store(by_format, Ordering::Relaxed);
                return Ok(());
            }
        }
        Err(StoreError::Refused(format!("the IPFS daemon gave another CID to the block {ours}")))
    }

    /// Pins each for itself, so that what one names need not be there.
    async fn pin(&self, cids: &[Cid]) -> Result<(), StoreError> {
        match self.ask(PinAdd(each_alone(cids)), WRITE_TIMEOUT).await {
            Ok(answer) => {
                let pinned = parsed::<PinAddResponse>(&answer)?.pins;
                let pinned: Vec<Cid> =
                    pinned.iter().filter_map(|cid| Cid::try_from(cid.as_str()).ok()).collect();
                match cids.iter().find(|cid| !pinned.contains(&on_the_wire(cid).0)) {
                    Some(cid) => Err(StoreError::Refused(format!("the IPFS daemon did not pin {cid}"))),
                    None => Ok(()),
                }
            }
            // Somebody has pinned it with all below it.
            Err(CallError::Said(why)) if cids.len() == 1 && why.contains("already pinned recursively") => {
                Ok(())
            }
            Err(CallError::Said(_)) if cids.len() > 1 => {
                for cid in cids {
                    Box::pin(self.pin(std::slice::from_ref(cid))).await?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn let_go(&self, cids: &[Cid]) -> Result<(), StoreError> {
        match self.ask(PinRm(each_alone(cids)), WRITE_TIMEOUT).await {
            Ok(_) => Ok(()),
            // What somebody has pinned with all below it is not ours to let go.
            Err(CallError::Said(why))
                if cids.len() == 1 && (why.contains("not pinned") || why.contains("pinned recursively")) =>
            {
                Ok(())
            }
            Err(CallError::Said(_)) if cids.len() > 1 => {
                for cid in cids {
                    Box::pin(self.let_go(std::slice::from_ref(cid))).await?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the daemon's files show at a path.
    async fn shown(&self, path: &str) -> Result<Option<Cid>, StoreError> {
        let stat = request::FilesStat { path, with_local: None };
        match self.ask(stat, ASK_TIMEOUT).await {
            Ok(answer) => Ok(Cid::try_from(parsed::<FilesStatResponse>(&answer)?.hash.as_str()).ok()),
            Err(CallError::Said(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove(&self, path: &str) -> Result<(), StoreError> {
        let remove = request::FilesRm { path, recursive: Some(true), flush: None };
        match self.ask(remove, LONG_TIMEOUT).await {
            // It was not there; if it was, the next step says so.
            Ok(_) | Err(CallError::Said(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl ContentStore for Kubo {
    async fn put_pinned(&self, blocks: &[(Cid, Vec<u8>)]) -> Result<(), StoreError> {
        let mut puts = Vec::new();
        for (cid, bytes) in blocks {
            puts.push(self.put(cid, bytes));
        }
        stream::iter(puts).buffer_unordered(MAX_PUTS).try_collect::<()>().await?;
        let cids: Vec<Cid> = blocks.iter().map(|(cid, _)| *cid).collect();
        for cids in cids.chunks(MAX_NAMED) {
            self.pin(cids).await?;
        }
        Ok(())
    }

    async fn get(&self, cid: &Cid, reach: Reach, within: Duration) -> Result<Option<Vec<u8>>, StoreError> {
        let (ours, _) = on_the_wire(cid);
        let is_local = (reach == Reach::Local).to_string();
        // So that the daemon says itself that it has not found it.
        let time = format!("{}ms", (within * 3 / 4).as_millis());
        let query = vec![("arg", ours.to_string()), ("offline", is_local), ("timeout", time)];
        match self.line.call(BlockGet(query), None, within, MAX_BLOCK).await {
            Ok(bytes) => {
                blocks::check(cid, &bytes)?;
                Ok(Some(bytes))
            }
            Err(CallError::Said(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn unpin(&self, cids: &[Cid]) -> Result<(), StoreError> {
        for cids in cids.chunks(MAX_NAMED) {
            self.let_go(cids).await?;
        }
        Ok(())
    }

    async fn pinned(&self, each: &mut (dyn FnMut(Cid) + Send)) -> Result<(), StoreError> {
        let query = vec![("type", "direct".to_owned()), ("stream", "true".to_owned())];
        let mut lines = Lines::default();
        let take = |piece: &[u8]| lines.take(piece, each);
        self.line.stream(PinLs(query), None, LONG_TIMEOUT, take).await?;
        match lines.wrong {
            Some(why) => Err(StoreError::Refused(format!("the IPFS daemon's list of pins {why}"))),
            None => Ok(()),
        }
    }

    async fn show(&self, root: &Cid) -> Result<(), StoreError> {
        if self.shown(TREE).await? == Some(*root) {
            return Ok(());
        }
        self.remove(NEXT_TREE).await?;
        let (path, flush) = (format!("/ipfs/{root}"), Some(true));
        self.ask(request::FilesCp { path: &path, dest: NEXT_TREE, flush }, LONG_TIMEOUT).await?;
        // A folder cannot be put in another's place: for a moment there is none.
        self.remove(TREE).await?;
        self.ask(request::FilesMv { path: NEXT_TREE, dest: TREE, flush }, LONG_TIMEOUT).await?;
        self.ask(request::FilesFlush { path: Some("/") }, LONG_TIMEOUT).await?;
        match self.shown(TREE).await? {
            Some(shown) if shown == *root => Ok(()),
            _ => Err(StoreError::Refused(format!("the IPFS daemon does not show {root} at {TREE}"))),
        }
    }
}

/// A list that comes line by line.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
    listed: usize,
    wrong: Option<&'static str>,
}

impl Lines {
    fn take(&mut self, piece: &[u8], each: &mut (dyn FnMut(Cid) + Send)) -> ControlFlow<()> {
        let mut parts = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.begun.len() + part.len() > MAX_LINE_BYTES {
                self.wrong = Some("has a line that is too long");
                return ControlFlow::Break(());
            }
            self.begun.extend_from_slice(part);
            if parts.peek().is_none() {
                break;
            }
            let line = std::mem::take(&mut self.begun);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            self.listed += 1;
            let cid =
                serde_json::from_slice::<PinLine>(&line).ok().and_then(|line| Cid::try_from(line.cid).ok());
            match cid {
                _ if self.listed > MAX_LISTED => self.wrong = Some("is too long"),
                None => self.wrong = Some("cannot be read"),
                Some(cid) => {
                    each(cid);
                    continue;
                }
            }
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// How a block is named to the daemon: in today's form, and as plain bytes where it does not know the codec.
fn on_the_wire(cid: &Cid) -> (Cid, &'static str) {
    let (codec, name) = match cid.codec() {
        DAG_PB => (DAG_PB, "dag-pb"),
        DAG_CBOR => (DAG_CBOR, "dag-cbor"),
        _ => (RAW, "raw"),
    };
    (Cid::new_v1(codec, *cid.hash()), name)
}

fn each_alone(cids: &[Cid]) -> Parameters {
    let named = cids.iter().map(|cid| ("arg", on_the_wire(cid).0.to_string()));
    named.chain([("recursive", "false".to_owned())]).collect()
}

fn parsed<T: DeserializeOwned>(answer: &[u8]) -> Result<T, CallError> {
    serde_json::from_slice(answer)
        .map_err(|error| CallError::Garbled(format!("its answer is not that of an IPFS daemon: {error}")))
}
