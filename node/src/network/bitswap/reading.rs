//! One stream that a peer has opened: messages come out of it, and memory is taken for them piece by piece.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt};
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::message::Message;
use super::shell::Report;
use super::{Event, MAX_MESSAGE_BYTES};
use crate::protobuf::varint;

/// Largest message of a peer that has not been asked for a block.
pub const MAX_UNASKED_BYTES: usize = 256 << 10;
/// Bytes of messages that are being read from all peers: of those up to [`MAX_UNASKED_BYTES`], and again of longer ones.
pub const MAX_READ_BYTES: usize = 64 << 20;
/// Bytes of messages that are being read from one peer, likewise: four short ones, and again one of full length.
pub const MAX_READ_BYTES_PER_PEER: usize = MAX_MESSAGE_BYTES;
const MAX_PIECE: usize = 16 << 10;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The right to take memory for messages, short and long ones apart: what is long crowds out nothing that is short.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// Memory taken for one message, from its peer's share and from the whole.
pub(super) type Taken = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Memory {
    /// For all peers.
    pub(super) fn whole() -> Self {
        Self::of(MAX_READ_BYTES, MAX_READ_BYTES)
    }

    /// For one peer.
    pub(super) fn share() -> Self {
        Self::of(4 * MAX_UNASKED_BYTES, MAX_READ_BYTES_PER_PEER)
    }

    fn of(short: usize, long: usize) -> Self {
        Self { short: Arc::new(Semaphore::new(short)), long: Arc::new(Semaphore::new(long)) }
    }

    pub(super) async fn take(&self, length: usize) -> Result<OwnedSemaphorePermit, End> {
        let pool = if length <= MAX_UNASKED_BYTES { &self.short } else { &self.long };
        let permits = u32::try_from(length).map_err(|_| End::Malformed)?;
        pool.clone().acquire_many_owned(permits).await.map_err(|_| End::Over)
    }
}

/// How long what may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// The pause between messages.
    pub(super) idle: Duration,
    /// A piece of a message.
    pub(super) piece: Duration,
    /// A message as a whole, and the wait for memory.
    pub(super) message: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { idle: seconds(60), piece: seconds(10), message: seconds(60) }
    }
}

/// A reader's place in the node.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) peer: PeerId,
    /// What this peer may take, and what all may.
    pub(super) share: Memory,
    pub(super) whole: Memory,
    pub(super) started: Instant,
    /// Until when blocks are expected from this peer, in milliseconds since `started`.
    pub(super) expected_until: Arc<AtomicU64>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) patience: Patience,
}

/// Why no more is read.
#[derive(Debug)]
pub(super) enum End {
    /// The stream ended, broke, or was too slow.
    Over,
    /// What came is no message, or one that is too long.
    Malformed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        End::Over
    }
}

impl From<tokio::time::error::Elapsed> for End {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        End::Over
    }
}

impl Reader {
    /// Reads until the stream ends.
    pub(super) async fn run(self, mut stream: impl AsyncRead + Unpin) {
        loop {
            match self.next(&mut stream).await {
                Ok(report) => {
                    if self.reports.send(report).await.is_err() {
                        return;
                    }
                }
                Err(End::Over) => return,
                Err(End::Malformed) => {
                    // The receiver is gone only at the end.
                    let _ = self.reports.send(Report::Event(Event::Malformed(self.peer))).await;
                    return;
                }
            }
        }
    }

    async fn next(&self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Report, End> {
        let length = timeout(self.patience.idle, read_length(stream)).await??;
        let is_expected =
            self.started.elapsed().as_millis() < u128::from(self.expected_until.load(Ordering::Relaxed));
        let length =
            usize::try_from(length).ok().filter(|l| *l <= MAX_MESSAGE_BYTES).ok_or(End::Malformed)?;
        if length > MAX_UNASKED_BYTES && !is_expected {
            tracing::debug!(peer = %self.peer, length, "a long message that nobody asked for is not read");
            return Err(End::Over);
        }
        timeout(self.patience.message, async {
            let taken = (self.share.take(length).await?, self.whole.take(length).await?);
            let body = self.read_body(stream, length).await?;
            decode(self.peer, body, taken).await
        })
        .await?
    }

    async fn read_body(&self, stream: &mut (impl AsyncRead + Unpin), length: usize) -> Result<Vec<u8>, End> {
        let mut body = Vec::new();
        let mut reported = Instant::now();
        while body.len() < length {
            let start = body.len();
            body.resize(length.min(start + MAX_PIECE), 0);
            timeout(self.patience.piece, stream.read_exact(&mut body[start..])).await??;
            if reported.elapsed() >= PROGRESS_INTERVAL {
                reported = Instant::now();
                // The next one comes soon.
                let _ = self.reports.try_send(Report::Event(Event::Progress(self.peer)));
            }
        }
        Ok(body)
    }
}

/// Hashing the blocks takes too long for a thread that drives others. The memory is given back by whoever has it last.
async fn decode(peer: PeerId, body: Vec<u8>, memory: Taken) -> Result<Report, End> {
    let decoding = spawn_blocking(move || (Message::decode(&body), memory));
    let (decoded, memory) = decoding.await.map_err(|_| End::Over)?;
    let message = decoded.map_err(|error| {
        tracing::debug!(%peer, %error, "no Bitswap message");
        End::Malformed
    })?;
    Ok(Report::Received { peer, message, memory })
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin)) -> Result<u64, End> {
    let mut bytes = [0; 10];
    for end in 1..=bytes.len() {
        stream.read_exact(&mut bytes[end - 1..end]).await?;
        if bytes[end - 1] & 0x80 == 0 {
            return varint(&bytes[..end]).map(|(length, _)| length).map_err(|_| End::Malformed);
        }
    }
    Err(End::Malformed)
}
