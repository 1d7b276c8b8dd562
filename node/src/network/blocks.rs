//! `/swarmpool/block/1`: one CID asked for, one block or its absence answered.

use std::fmt;

use cid::Cid;
use libp2p::PeerId;
use sha2::{Digest, Sha256};
use tokio::time::{Duration, Instant, timeout_at};

use super::handle::Network;
use super::{Error, MAX_BLOCK, MAX_FETCH_PEERS};

const SHA2_256: u64 = 0x12;
const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
/// One peer's share of a fetch, so that a silent one does not use up the deadline.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) const MAX_CID: usize = 64;

/// Where the node's own blocks are looked up for peers; called from a blocking thread.
pub trait BlockSource: Send + Sync {
    /// The bytes of the block, if this node has it.
    fn block(&self, cid: &Cid) -> Option<Vec<u8>>;
}

/// Why a block could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0} is not a CID with a sha2-256 digest")]
    UnsupportedCid(Cid),
    #[error("no peer to ask for {0}")]
    NoPeers(Cid),
    #[error("none of the {asked} peers asked has {cid}")]
    Missing { cid: Cid, asked: usize },
    #[error("{peer} sent bytes that are not {cid}")]
    WrongBlock { cid: Cid, peer: PeerId },
    #[error("{cid} at {peer} has {length} bytes, over the limit of {max}")]
    TooLarge { cid: Cid, peer: PeerId, length: usize, max: usize },
    #[error("{0} did not arrive before the deadline")]
    Deadline(Cid),
    #[error("the network is shut down")]
    Closed,
}

pub(super) fn answer(source: &dyn BlockSource, request: &[u8]) -> Vec<u8> {
    let block = Cid::try_from(request).ok().and_then(|cid| source.block(&cid));
    match block.filter(|b| b.len() <= MAX_BLOCK) {
        Some(mut block) => {
            block.insert(0, PRESENT);
            block
        }
        None => vec![ABSENT],
    }
}

impl Network {
    /// Fetches one block of at most `max_bytes` from the peers given, in turn, or from connected ones if
    /// none are given. What is returned has the digest in `cid`; a peer that sends something else is
    /// named in the log and, if no other peer has the block, in the error.
    pub async fn fetch(
        &self,
        cid: &Cid,
        from: &[PeerId],
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, FetchError> {
        if cid.hash().code() != SHA2_256 || cid.hash().size() != 32 {
            return Err(FetchError::UnsupportedCid(*cid));
        }
        let peers = timeout_at(deadline, self.peers_to_ask(from)).await;
        let peers = peers.map_err(|_| FetchError::Deadline(*cid))?.map_err(|_| FetchError::Closed)?;
        let mut failure = FetchError::NoPeers(*cid);
        for (asked, peer) in (1..).zip(peers) {
            if Instant::now() >= deadline {
                failure = graver(failure, FetchError::Deadline(*cid));
                break;
            }
            match self.fetch_from(cid, peer, asked, max_bytes, deadline).await {
                Ok(block) => return Ok(block),
                Err(FetchError::Closed) => return Err(FetchError::Closed),
                Err(error) => {
                    tracing::debug!(%error, "fetch");
                    failure = graver(failure, error);
                }
            }
        }
        Err(failure)
    }

    async fn peers_to_ask(&self, from: &[PeerId]) -> Result<Vec<PeerId>, Error> {
        let mut peers = from.to_vec();
        if peers.is_empty() {
            peers.extend(self.peers().await?.into_iter().map(|p| p.peer));
        }
        peers.truncate(MAX_FETCH_PEERS);
        Ok(peers)
    }

    async fn fetch_from(
        &self,
        cid: &Cid,
        peer: PeerId,
        asked: usize,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, FetchError> {
        let until = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
        let response = match timeout_at(until, self.request_block(peer, cid.to_bytes())).await {
            Ok(Ok(response)) => response,
            Ok(Err(Error::Closed)) => return Err(FetchError::Closed),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "no answer about a block");
                return Err(FetchError::Missing { cid: *cid, asked });
            }
            Err(_) if until == deadline => return Err(FetchError::Deadline(*cid)),
            Err(_) => return Err(FetchError::Missing { cid: *cid, asked }),
        };
        let block = match response.split_first() {
            Some((&PRESENT, block)) => block,
            Some((&ABSENT, [])) => return Err(FetchError::Missing { cid: *cid, asked }),
            Some(_) | None => return Err(FetchError::WrongBlock { cid: *cid, peer }),
        };
        if block.len() > max_bytes {
            return Err(FetchError::TooLarge { cid: *cid, peer, length: block.len(), max: max_bytes });
        }
        if Sha256::digest(block).as_slice() != cid.hash().digest() {
            tracing::warn!(%peer, %cid, "the peer sent a wrong block");
            return Err(FetchError::WrongBlock { cid: *cid, peer });
        }
        Ok(block.to_vec())
    }
}

/// Of two failures the one that says more about what went wrong.
fn graver(one: FetchError, other: FetchError) -> FetchError {
    let weight = |failure: &FetchError| match failure {
        FetchError::NoPeers(_) => 0,
        FetchError::Missing { asked, .. } => *asked,
        FetchError::Deadline(_) => MAX_FETCH_PEERS + 1,
        FetchError::TooLarge { .. } => MAX_FETCH_PEERS + 2,
        FetchError::WrongBlock { .. } => MAX_FETCH_PEERS + 3,
        FetchError::UnsupportedCid(_) | FetchError::Closed => MAX_FETCH_PEERS + 4,
    };
    if weight(&other) > weight(&one) { other } else { one }
}

impl fmt::Debug for dyn BlockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockSource")
    }
}
