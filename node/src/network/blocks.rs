//! Blocks by CID: where this node's own are found, and how it gets those of others.

use std::fmt;

use cid::Cid;
use libp2p::PeerId;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, timeout_at};

use super::bitswap::FetchError;
use super::handle::{Command, Network};
use super::{Error, MAX_BLOCK};
use crate::storage::blocks::BlockStore;

/// What an answer may take after the deadline, at which the reason for its absence is known.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a block is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Until {
    /// When to give up if nobody has it; until then whoever connects is asked too, and all are asked again.
    pub found: Instant,
    /// When to give up in any case.
    pub fetched: Instant,
}

impl Until {
    /// Gives up after so long and not before.
    pub fn within(time: Duration) -> Self {
        let end = Instant::now() + time;
        Self { found: end, fetched: end }
    }
}

/// Where the node's own blocks are looked up for peers; called from a blocking thread.
pub trait BlockSource: Send + Sync {
    /// The bytes of the block, if this node has it.
    fn block(&self, cid: &Cid) -> Option<Vec<u8>>;

    /// Whether this node has the block.
    fn has(&self, cid: &Cid) -> bool {
        self.block(cid).is_some()
    }
}

/// Peers get what is pinned; a copy in passing may be gone before they have read the rest.
impl BlockSource for BlockStore {
    fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        if !self.is_pinned(cid) {
            return None;
        }
        BlockStore::block(self, cid)
    }

    fn has(&self, cid: &Cid) -> bool {
        self.is_pinned(cid)
    }
}

impl Network {
    /// Fetches one block of at most `max_bytes`: from the peers that are likely to have it, in this order, and
    /// if they do not, from other connected ones. What is returned has the digest in `cid`; a peer that sends
    /// something else is named in the error if nobody else has the block.
    pub async fn fetch(
        &self,
        cid: &Cid,
        likely: &[PeerId],
        max_bytes: usize,
        until: Until,
    ) -> Result<Vec<u8>, FetchError> {
        let (answer, receiver) = oneshot::channel();
        let (cid, likely) = (*cid, likely.to_vec());
        let command = Command::Fetch { cid, likely, max_bytes: max_bytes.min(MAX_BLOCK), until, answer };
        match timeout_at(until.fetched, self.send(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(Error::Closed)) => return Err(FetchError::Closed),
            Ok(Err(_)) => return Err(FetchError::Busy),
            Err(_) => return Err(FetchError::Deadline(cid)),
        }
        match timeout_at(until.fetched + ANSWER_TIMEOUT, receiver).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(FetchError::Closed),
            Err(_) => Err(FetchError::Deadline(cid)),
        }
    }

    /// Tells peers that wait for these blocks that they are here now.
    pub async fn stored(&self, cids: Vec<Cid>) -> Result<(), Error> {
        self.send(Command::Stored(cids)).await
    }
}

impl fmt::Debug for dyn BlockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockSource")
    }
}
