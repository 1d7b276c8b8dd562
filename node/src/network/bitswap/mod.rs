//! Bitswap 1.2.0: blocks by CID, from and to any IPFS node.
//!
//! [`Core`] decides and does no IO: events and the time go in, effects come out, the same ones each time. It
//! asks the peers that were named as likely first, one at a time, and then asks up to [`MAX_SURVEYED`] others
//! which of them has the block. It answers other nodes' wants from what this node keeps, within a budget for
//! each of them, and never holds more for anybody than the limits here allow.

use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;

mod bucket;
mod core;
mod fetching;
mod message;
mod pursuit;
mod reading;
mod serving;
mod shell;
mod streams;
#[cfg(test)]
mod tests;
mod writing;

pub use self::core::{Core, Effect, Event, NotSent};
pub use self::fetching::Fetch;
pub use self::message::{Block, Message, Presence, Want, WantKind, is_checkable};
pub use self::reading::{MAX_READ_BYTES, MAX_READ_BYTES_PER_PEER, MAX_UNASKED_BYTES};
pub use self::serving::{Found, Lookup};
pub(super) use self::shell::{FetchAnswer, Shell};
pub(super) use self::streams::Behaviour;
#[cfg(test)]
pub(super) use self::streams::StreamEvent;

/// Largest message, as the specification sets it.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Wants, and presences, that are read from one message; the rest of it is skipped.
pub const MAX_ENTRIES: usize = 2048;
/// Blocks that are read from one message; the rest of it is skipped.
pub const MAX_MESSAGE_BLOCKS: usize = 1024;
/// Blocks and presences put into one of our messages before it is closed; one block may lie across.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Fetches under way at once.
pub const MAX_FETCHES: usize = 1024;
/// Bytes that one peer is asked for at once, unless it is a single block: js nodes answer in one frame, and
/// ours take frames of 1 MiB.
pub const MAX_ASKED_BYTES: usize = (1 << 20) - (16 << 10);
/// Blocks that one peer is asked for at once.
pub const MAX_ASKED_BLOCKS: usize = 256;
/// Peers that are asked at once which of them has a block.
pub const MAX_SURVEYED: usize = 16;
/// Peers that are asked for one block before there is a rest.
pub const MAX_ASKED_PEERS: usize = 64;
/// How long one peer may deliver nothing before the next is asked.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one peer may take for one block, whatever it delivers. It has half of the time that is left before the
/// deadline if that is less, but never less than [`ATTEMPT_TIMEOUT`].
pub const MAX_ATTEMPT: Duration = Duration::from_secs(60);
/// When all have been asked, how long until they are asked again: at first, and at most, doubling in between.
pub const MIN_REST: Duration = Duration::from_secs(1);
pub const MAX_REST: Duration = Duration::from_secs(8);
/// Blocks remembered, for each peer, that it was asked for and may still send.
pub const MAX_LATE_BLOCKS: usize = 1024;
/// How long a block may come after it was no longer wanted.
pub const MAX_LATENESS: Duration = Duration::from_secs(60);

/// Wants held for one peer.
pub const MAX_WANTS_PER_PEER: usize = 1024;
/// Wants held for all peers.
pub const MAX_WANTS: usize = 64 * 1024;
/// Wants held for a peer although the others have used up [`MAX_WANTS`].
pub const MAX_WANTS_SPARED: usize = 16;
/// Answers to all peers that have not left yet, in bytes; what is being looked up may lie above it.
pub const MAX_HELD_BYTES: usize = 128 << 20;
/// Blocks looked up for one peer at once.
pub const MAX_LOOKUPS_PER_PEER: usize = 4;
/// Blocks looked up at once.
pub const MAX_LOOKUPS: usize = 32;
/// What a peer is served per second in the long run, in bytes.
pub const MAX_SERVED_PER_SECOND: u64 = 64 << 20;
/// What a peer is served at once after a pause, in bytes.
pub const MAX_SERVED_BURST: u64 = 256 << 20;
/// How long a peer that does not read what it asked for is not served: at first, and at most, doubling each time.
pub const MIN_STALL_PAUSE: Duration = Duration::from_secs(10);
pub const MAX_STALL_PAUSE: Duration = Duration::from_secs(600);
/// What a lookup that finds nothing takes from that budget, in bytes.
pub const LOOKUP_COST: u64 = 4 << 10;
/// Entries that are read from one peer per second in the long run.
pub const MAX_ENTRIES_PER_SECOND: u64 = 4 * 1024;
/// Entries that are read from one peer at once after a pause.
pub const MAX_ENTRIES_BURST: u64 = 16 * 1024;

/// Offences after which a peer is neither asked nor answered.
pub const MAX_OFFENCES: u32 = 16;
/// How long after the last offence all are forgiven.
pub const FORGIVEN_AFTER: Duration = Duration::from_secs(600);
/// Peers whose offences are remembered.
pub const MAX_OFFENDERS: usize = 4096;

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
    #[error("too many blocks are being fetched")]
    Busy,
    #[error("the network is shut down")]
    Closed,
}
