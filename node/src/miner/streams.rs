//! Reading along: whoever asks this miner gets what it has made of a job so far. Engines never wait for readers.

use crate::network::ReplyHandle;
use libp2p::PeerId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_crypto::digest::Digest;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::streamed::{MAX_PIECE_BYTES, Piece};
use tokio::sync::watch;
use tokio::time::timeout;

/// Jobs that can be read, those that ended last among them.
const MAX_STREAMS: usize = 64;
/// Readers that may wait at once, and those of one peer.
const MAX_READERS: usize = 64;
const MAX_PEER_READERS: usize = 8;
/// How long a reader waits for more, before it is told that there is none yet.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What this miner is making.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    all: Arc<Mutex<VecDeque<Stream>>>,
    readers: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

/// A reader that waits; it is none any more once this is dropped.
struct Reading {
    peer: PeerId,
    readers: Arc<Mutex<BTreeMap<PeerId, usize>>>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = lock(&self.readers);
        if let Some(count) = readers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.peer);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Stream {
    job: JobId,
    made: watch::Receiver<Made>,
}

/// What was made under one lease.
#[derive(Debug, Clone, Default)]
struct Made {
    lease: Digest,
    text: Vec<u8>,
    units: u64,
    prefix: Digest,
}

/// The engine's side of one job; dropped when it is over.
#[derive(Debug)]
pub struct Writer(watch::Sender<Made>);

impl Writer {
    /// One more token.
    pub fn push(&self, text: &[u8], units: u64, prefix: Digest) {
        self.0.send_modify(|made| {
            made.text.extend_from_slice(text);
            (made.units, made.prefix) = (units, prefix);
        });
    }
}

impl Streams {
    /// A job begins.
    pub fn begin(&self, job: JobId, lease: Digest) -> Writer {
        let (writer, made) = watch::channel(Made { lease, ..Made::default() });
        let mut all = lock(&self.all);
        all.retain(|stream| stream.job != job);
        if all.len() == MAX_STREAMS {
            all.pop_front();
        }
        all.push_back(Stream { job, made });
        Writer(writer)
    }

    /// Answers a peer that asks; nothing but [`Query::Stream`] is for a miner.
    pub fn answer(&self, peer: PeerId, data: &[u8], reply: ReplyHandle) {
        let Ok(Query::Stream { job, from }) = Query::decode(data) else { return };
        let stream = lock(&self.all).iter().find(|stream| stream.job == job).cloned();
        let reading = self.admit(peer);
        tokio::spawn(async move {
            let answer = match (stream, reading) {
                (None, _) => Answer::Stream(None),
                (_, None) => Answer::Error("many read along here; ask again in a second".to_owned()),
                (Some(stream), Some(_reading)) => Answer::Stream(Some(stream.piece(from).await)),
            };
            // Who asked may have gone.
            let _ = reply.send(answer.encode()).await;
        });
    }

    /// Makes this peer a reader, unless it is too many already or all are.
    fn admit(&self, peer: PeerId) -> Option<Reading> {
        let mut readers = lock(&self.readers);
        let (all, own) = (readers.values().sum::<usize>(), readers.get(&peer).copied().unwrap_or(0));
        if all >= MAX_READERS || own >= MAX_PEER_READERS {
            return None;
        }
        *readers.entry(peer).or_default() += 1;
        Some(Reading { peer, readers: self.readers.clone() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// What there is from byte `from` on, once there is more or for certain nothing more.
    async fn piece(mut self, from: u64) -> Piece {
        let at = usize::try_from(from).unwrap_or(usize::MAX);
        // That there is no more in time, or ever, is an answer too.
        let more = timeout(MAX_WAIT, self.made.wait_for(|made| made.text.len() > at)).await;
        let has_ended = matches!(more, Ok(Err(_)));
        drop(more);
        let made = self.made.borrow();
        let rest = made.text.get(at..).unwrap_or_default();
        Piece {
            lease: made.lease,
            from,
            text: rest[..rest.len().min(MAX_PIECE_BYTES)].to_vec(),
            units: made.units,
            prefix: made.prefix,
            ended: has_ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_protocol::codec::Link;

    const JOB: JobId = Link([1; 32]);
    const LEASE: Digest = Digest([2; 32]);

    async fn read(streams: &Streams, from: u64) -> Piece {
        let stream = lock(&streams.all).iter().find(|stream| stream.job == JOB).cloned().unwrap();
        stream.piece(from).await
    }

    #[tokio::test]
    async fn a_reader_gets_all_of_it_in_order_and_is_told_of_the_end() {
        let streams = Streams::default();
        let writer = streams.begin(JOB, LEASE);
        let reading = tokio::spawn({
            let streams = streams.clone();
            async move {
                let mut text = Vec::new();
                loop {
                    let piece = read(&streams, text.len() as u64).await;
                    assert_eq!((piece.lease, piece.from), (LEASE, text.len() as u64));
                    text.extend(piece.text);
                    if piece.ended {
                        return (text, piece.units);
                    }
                }
            }
        });
        for units in 1..=500 {
            writer.push(b"word ", units, Digest([3; 32]));
            tokio::task::yield_now().await;
        }
        drop(writer);
        assert_eq!(reading.await.unwrap(), (b"word ".repeat(500), 500));
    }

    #[tokio::test]
    async fn what_is_long_comes_in_pieces_and_another_lease_begins_anew() {
        let streams = Streams::default();
        let writer = streams.begin(JOB, LEASE);
        writer.push(&vec![7; MAX_PIECE_BYTES + 1], 1, LEASE);
        let (first, second) = (read(&streams, 0).await, read(&streams, MAX_PIECE_BYTES as u64).await);
        assert_eq!((first.text.len(), second.text.len()), (MAX_PIECE_BYTES, 1));
        let _again = streams.begin(JOB, Digest([9; 32]));
        writer.push(b"late", 2, LEASE);
        let piece = read(&streams, 0).await;
        assert_eq!((piece.lease, piece.text.len(), piece.ended), (Digest([9; 32]), 0, false));
        for n in 0..200 {
            streams.begin(Link([n; 32]), LEASE);
        }
        assert_eq!(lock(&streams.all).len(), MAX_STREAMS);
    }

    #[test]
    fn no_peer_takes_the_place_of_all_readers() {
        let streams = Streams::default();
        let greedy = PeerId::random();
        let mut reading: Vec<_> = (0..MAX_PEER_READERS).map(|_| streams.admit(greedy).unwrap()).collect();
        assert!(streams.admit(greedy).is_none());
        let others = (MAX_PEER_READERS..MAX_READERS).map(|_| streams.admit(PeerId::random()).unwrap());
        reading.extend(others);
        assert!(streams.admit(PeerId::random()).is_none(), "there are {MAX_READERS}");
        reading.truncate(1);
        assert!(streams.admit(greedy).is_some());
        drop(reading);
        assert!(lock(&streams.readers).is_empty());
    }
}
