//! An async front for a ledger on a thread of its own, with group commit.

use super::ledger::{Ledger, LedgerError, MAX_BATCH_BYTES, MAX_BATCH_RECORDS, check_batch};
use super::snapshot::Snapshot;
use swarm_crypto::digest::Digest;
use tokio::sync::{mpsc, oneshot};

/// The most requests that wait for the ledger; further callers wait for a place.
pub const MAX_WAITING_REQUESTS: usize = 256;

/// Where a durable batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The sequence number of the batch's first record.
    pub first_seq: u64,
    /// The ledger's last record when the batch became durable, and its hash.
    pub last_seq: u64,
    pub head: Digest,
}

/// A handle to the thread that owns the ledger; the thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct LedgerWriter {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    Append(Vec<Vec<u8>>, oneshot::Sender<Result<Appended, LedgerError>>),
    Checkpoint(u64, Vec<u8>, oneshot::Sender<Result<(), LedgerError>>),
    Compact(u64, Digest, oneshot::Sender<Result<u64, LedgerError>>),
    Snapshot(oneshot::Sender<Result<Option<Moment>, LedgerError>>),
}

/// A ledger's snapshot, the number of the record after it, and the hash of its last.
pub type Moment = (Snapshot, u64, Digest);

impl LedgerWriter {
    /// Moves the ledger to its thread; joining that thread gives the ledger back.
    pub fn spawn(
        mut ledger: Box<dyn Ledger>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<Box<dyn Ledger>>)> {
        let (requests, mut waiting) = mpsc::channel(MAX_WAITING_REQUESTS);
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            serve(ledger.as_mut(), &mut waiting);
            ledger
        })?;
        Ok((Self { requests }, thread))
    }

    /// Appends a batch that is not empty and waits until it is durable; batches that wait share one commit.
    ///
    /// The first failure is final: every later call gets it too. A dropped call may still be carried out.
    pub async fn append(&self, batch: Vec<Vec<u8>>) -> Result<Appended, LedgerError> {
        check_batch(&batch)?;
        let (answer, answered) = oneshot::channel();
        self.send(Request::Append(batch, answer)).await?;
        answered.await.map_err(|_| LedgerError::Stopped)?
    }

    /// Keeps a checkpoint of the state after all records before `seq`.
    pub async fn save_checkpoint(&self, seq: u64, bytes: Vec<u8>) -> Result<(), LedgerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Checkpoint(seq, bytes, answer)).await?;
        answered.await.map_err(|_| LedgerError::Stopped)?
    }

    /// Drops some of the records before `seq`, the last of which has the hash `last`; says which is the first now.
    pub async fn compact(&self, seq: u64, last: Digest) -> Result<u64, LedgerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Compact(seq, last, answer)).await?;
        answered.await.map_err(|_| LedgerError::Stopped)?
    }

    /// The ledger as it is now, to be copied while it goes on; none if it is in no file.
    pub async fn snapshot(&self) -> Result<Option<Moment>, LedgerError> {
        let (answer, answered) = oneshot::channel();
        self.send(Request::Snapshot(answer)).await?;
        answered.await.map_err(|_| LedgerError::Stopped)?
    }

    async fn send(&self, request: Request) -> Result<(), LedgerError> {
        self.requests.send(request).await.map_err(|_| LedgerError::Stopped)
    }
}

/// Batches that become durable together.
#[derive(Default)]
struct Group {
    records: Vec<Vec<u8>>,
    bytes: usize,
    callers: Vec<(usize, oneshot::Sender<Result<Appended, LedgerError>>)>,
}

impl Group {
    fn has_room_for(&self, batch: &[Vec<u8>]) -> bool {
        let bytes: usize = batch.iter().map(Vec::len).sum();
        self.records.len() + batch.len() <= MAX_BATCH_RECORDS && self.bytes + bytes <= MAX_BATCH_BYTES
    }

    fn add(&mut self, batch: Vec<Vec<u8>>, caller: oneshot::Sender<Result<Appended, LedgerError>>) {
        self.callers.push((self.records.len(), caller));
        self.bytes += batch.iter().map(Vec::len).sum::<usize>();
        self.records.extend(batch);
    }

    fn commit(self, ledger: &mut dyn Ledger) -> Result<(), LedgerError> {
        let first = ledger.next_seq();
        let done = ledger.append(first, &self.records);
        for (offset, caller) in self.callers {
            let appended = done.clone().map(|()| Appended {
                first_seq: first + offset as u64,
                last_seq: ledger.next_seq().saturating_sub(1),
                head: ledger.head(),
            });
            caller.send(appended).ok();
        }
        done
    }
}

fn serve(ledger: &mut dyn Ledger, waiting: &mut mpsc::Receiver<Request>) {
    let mut next = waiting.blocking_recv();
    while let Some(request) = next.take() {
        let done = match request {
            Request::Append(batch, caller) => {
                let mut group = Group::default();
                group.add(batch, caller);
                next = fill(&mut group, waiting);
                group.commit(ledger)
            }
            Request::Snapshot(caller) => {
                let taken = ledger.snapshot();
                let moment = taken.map(|taken| taken.map(|taken| (taken, ledger.next_seq(), ledger.head())));
                caller.send(moment).ok();
                Ok(())
            }
            Request::Compact(seq, last, caller) => {
                let done = ledger.compact(seq, last);
                let harmless = matches!(done, Err(LedgerError::Unusable { .. }));
                caller.send(done.clone()).ok();
                if harmless { Ok(()) } else { done.map(|_| ()) }
            }
            Request::Checkpoint(seq, bytes, caller) => {
                let done = ledger.save_checkpoint(seq, &bytes);
                let harmless =
                    matches!(done, Err(LedgerError::TooLarge { .. } | LedgerError::CheckpointPastEnd { .. }));
                caller.send(done.clone()).ok();
                if harmless { Ok(()) } else { done }
            }
        };
        if let Err(error) = done {
            return refuse_the_rest(&error, next, waiting);
        }
        next = next.or_else(|| waiting.blocking_recv());
    }
}

/// Takes the batches that already wait; returns the request that does not fit.
fn fill(group: &mut Group, waiting: &mut mpsc::Receiver<Request>) -> Option<Request> {
    while let Ok(request) = waiting.try_recv() {
        match request {
            Request::Append(batch, caller) if group.has_room_for(&batch) => group.add(batch, caller),
            other => return Some(other),
        }
    }
    None
}

fn refuse_the_rest(error: &LedgerError, mut next: Option<Request>, waiting: &mut mpsc::Receiver<Request>) {
    while let Some(request) = next.take().or_else(|| waiting.blocking_recv()) {
        match request {
            Request::Append(_, caller) => caller.send(Err(error.clone())).is_ok(),
            Request::Checkpoint(_, _, caller) => caller.send(Err(error.clone())).is_ok(),
            Request::Compact(_, _, caller) => caller.send(Err(error.clone())).is_ok(),
            Request::Snapshot(caller) => caller.send(Err(error.clone())).is_ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ledger::{MemoryLedger, Visit};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// A ledger whose commits wait to be let through.
    struct Gated {
        inner: MemoryLedger,
        commits: Arc<AtomicUsize>,
        started: SyncSender<()>,
        gate: Receiver<Result<(), LedgerError>>,
    }

    impl Ledger for Gated {
        fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
            self.started.send(()).ok();
            self.gate.recv().unwrap_or(Ok(()))?;
            self.commits.fetch_add(1, Ordering::SeqCst);
            self.inner.append(expected_seq, batch)
        }
        fn next_seq(&self) -> u64 {
            self.inner.next_seq()
        }
        fn head(&self) -> Digest {
            self.inner.head()
        }
        fn first_seq(&self) -> u64 {
            self.inner.first_seq()
        }
        fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
            self.inner.replay(from, f)
        }
        fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
            self.inner.save_checkpoint(seq, bytes)
        }
        fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
            self.inner.load_checkpoint()
        }
        fn compact(&mut self, seq: u64, last: Digest) -> Result<u64, LedgerError> {
            self.inner.compact(seq, last)
        }
        fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
            self.inner.hash_at(seq)
        }
    }

    struct Bench {
        writer: LedgerWriter,
        thread: std::thread::JoinHandle<Box<dyn Ledger>>,
        commits: Arc<AtomicUsize>,
        started: Receiver<()>,
        gate: SyncSender<Result<(), LedgerError>>,
    }

    fn bench() -> Bench {
        let (start, started) = sync_channel(100);
        let (gate, wait) = sync_channel(100);
        let commits = Arc::new(AtomicUsize::new(0));
        let ledger =
            Gated { inner: MemoryLedger::new(), commits: commits.clone(), started: start, gate: wait };
        let (writer, thread) = LedgerWriter::spawn(Box::new(ledger)).unwrap();
        Bench { writer, thread, commits, started, gate }
    }

    fn full() -> LedgerError {
        let path = std::path::Path::new("x");
        crate::storage::disk::DiskError::io("write", path, std::io::ErrorKind::StorageFull.into()).into()
    }

    /// Queues appends until all are polled once, so that they wait while the first commit is held.
    async fn queue(
        writer: &LedgerWriter,
        batches: Vec<Vec<Vec<u8>>>,
    ) -> Vec<oneshot::Receiver<Result<Appended, LedgerError>>> {
        let mut answers = Vec::new();
        for batch in batches {
            let (answer, answered) = oneshot::channel();
            writer.send(Request::Append(batch, answer)).await.unwrap();
            answers.push(answered);
        }
        answers
    }

    #[tokio::test]
    async fn an_append_is_answered_only_when_it_is_durable() {
        let bench = bench();
        let mut answers = queue(&bench.writer, vec![vec![b"a".to_vec()]]).await;
        bench.started.recv().unwrap();
        assert!(answers[0].try_recv().is_err(), "answered before the commit");
        bench.gate.send(Ok(())).unwrap();
        let appended = answers.remove(0).await.unwrap().unwrap();
        drop(bench.writer);
        let ledger = bench.thread.join().unwrap();
        assert_eq!(appended, Appended { first_seq: 0, last_seq: 0, head: ledger.head() });
    }

    #[tokio::test]
    async fn batches_that_wait_share_one_commit() {
        let bench = bench();
        let first = queue(&bench.writer, vec![vec![b"first".to_vec()]]).await;
        bench.started.recv().unwrap();
        let rest = (0..20u8).map(|n| vec![vec![n], vec![n, n]]).collect();
        let rest = queue(&bench.writer, rest).await;
        bench.gate.send(Ok(())).unwrap();
        bench.gate.send(Ok(())).unwrap();
        for answer in first {
            assert_eq!(answer.await.unwrap().unwrap().first_seq, 0);
        }
        for (n, answer) in (0..).zip(rest) {
            let appended = answer.await.unwrap().unwrap();
            assert_eq!((appended.first_seq, appended.last_seq), (1 + 2 * n, 40));
        }
        assert_eq!(bench.commits.load(Ordering::SeqCst), 2);
        drop(bench.writer);
        assert_eq!(bench.thread.join().unwrap().next_seq(), 41);
    }

    #[tokio::test]
    async fn a_commit_stays_within_the_limits_of_a_batch() {
        let bench = bench();
        drop(bench.gate);
        let half = vec![Vec::new(); MAX_BATCH_RECORDS / 2 + 1];
        let calls = [(); 3].map(|()| bench.writer.append(half.clone()));
        for appended in futures::future::join_all(calls).await {
            appended.unwrap();
        }
        assert_eq!(bench.commits.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_first_failure_is_final() {
        let bench = bench();
        bench.gate.send(Err(full())).unwrap();
        for _ in 0..3 {
            let refused = bench.writer.append(vec![b"a".to_vec()]).await.unwrap_err();
            assert!(refused.is_disk_full(), "{refused}");
            let refused = bench.writer.save_checkpoint(0, Vec::new()).await.unwrap_err();
            assert!(refused.is_disk_full(), "{refused}");
        }
        drop(bench.writer);
        assert_eq!(bench.thread.join().unwrap().next_seq(), 0);
    }

    #[tokio::test]
    async fn a_checkpoint_keeps_its_place_in_the_queue() {
        let bench = bench();
        drop(bench.gate);
        let early = bench.writer.save_checkpoint(1, b"early".to_vec()).await;
        assert!(matches!(early, Err(LedgerError::CheckpointPastEnd { .. })));
        bench.writer.append(vec![b"a".to_vec()]).await.unwrap();
        bench.writer.save_checkpoint(1, b"state".to_vec()).await.unwrap();
        drop(bench.writer);
        let ledger = bench.thread.join().unwrap();
        assert_eq!(ledger.load_checkpoint().unwrap(), Some((1, b"state".to_vec())));
    }

    #[tokio::test]
    async fn a_batch_over_a_limit_harms_no_other() {
        let bench = bench();
        drop(bench.gate);
        let refused = bench.writer.append(vec![Vec::new(); MAX_BATCH_RECORDS + 1]).await;
        assert!(matches!(refused, Err(LedgerError::TooLarge { .. })));
        bench.writer.append(vec![b"a".to_vec()]).await.unwrap();
    }
}
