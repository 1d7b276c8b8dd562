//! One stream that this node has opened: messages go into it, one at a time.

use std::time::Duration;

use futures::{AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::NotSent;
use super::shell::Report;

/// js nodes cut streams off that lie idle for a few seconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_PIECE: usize = 64 << 10;
/// How long a message may take as a whole.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(120);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A writer's place in the node.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) peer: PeerId,
    /// Which of the peer's connections in time this belongs to.
    pub(super) generation: u64,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Writer {
    /// Writes the first message, and then others until none come for a while.
    pub(super) async fn run(
        self,
        mut stream: impl AsyncWrite + Unpin,
        first: Vec<u8>,
        mut others: mpsc::Receiver<Vec<u8>>,
    ) {
        let (peer, generation) = (self.peer, self.generation);
        let mut is_first = true;
        let mut next = Some(first);
        while let Some(message) = next {
            let report = match send(&mut stream, &message).await {
                Ok(()) => Report::Written { peer, generation },
                // What lay idle may have been closed by the other side: a new stream is worth a try.
                Err(NotSent::Broken) if !is_first => Report::StreamLost { peer, generation, message },
                Err(reason) => Report::NotWritten { peer, generation, reason },
            };
            let is_over = !matches!(report, Report::Written { .. });
            if self.reports.send(report).await.is_err() || is_over {
                return;
            }
            is_first = false;
            next = next_of(&mut others).await;
        }
        // Whoever does not answer in time has what was sent, or has gone.
        let _ = timeout(CLOSE_TIMEOUT, stream.close()).await;
    }
}

async fn next_of(messages: &mut mpsc::Receiver<Vec<u8>>) -> Option<Vec<u8>> {
    match timeout(IDLE_TIMEOUT, messages.recv()).await {
        Ok(message) => message,
        Err(_) => {
            messages.close();
            messages.try_recv().ok()
        }
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> Result<(), NotSent> {
    let pieces = async {
        for piece in message.chunks(MAX_PIECE) {
            let written = timeout(PIECE_TIMEOUT, stream.write_all(piece)).await;
            written.map_err(|_| NotSent::Stalled)?.map_err(|_| NotSent::Broken)?;
        }
        let flushed = timeout(PIECE_TIMEOUT, stream.flush()).await;
        flushed.map_err(|_| NotSent::Stalled)?.map_err(|_| NotSent::Broken)
    };
    timeout(MESSAGE_TIMEOUT, pieces).await.unwrap_or(Err(NotSent::Stalled))
}
