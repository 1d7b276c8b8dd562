//! The operator's ledger.

use super::{Source, Subsystem, whole};
use crate::storage::ledger::{Ledger, LedgerError, Visit};
use crate::storage::snapshot::Snapshot;
use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::path::PathBuf;
use std::time::Instant;
use swarm_crypto::digest::Digest;

/// From a disk with a cache of its own to one that is about to fail.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What is appended, and how long the disk takes.
#[derive(Debug, Clone)]
pub struct LedgerMetrics {
    batches: Counter,
    records: Counter,
    bytes: Counter,
    append_seconds: Histogram,
    checkpoint_seconds: Histogram,
    file_bytes: Gauge,
}

impl Default for LedgerMetrics {
    fn default() -> Self {
        let [batches, records, bytes] = Default::default();
        let (append_seconds, checkpoint_seconds) = (Histogram::new(SECONDS), Histogram::new(SECONDS));
        Self { batches, records, bytes, append_seconds, checkpoint_seconds, file_bytes: Gauge::default() }
    }
}

impl Subsystem for LedgerMetrics {
    fn register(&self, registry: &mut Registry) {
        let ledger = registry.sub_registry_with_prefix("swarmpool_ledger");
        ledger.register("batches", "Batches appended, each durable at once", self.batches.clone());
        ledger.register("records", "Records appended", self.records.clone());
        ledger.register("appended_bytes", "Bytes of records appended", self.bytes.clone());
        let help = "Time until a batch was durable, synced to the disk";
        ledger.register("append_seconds", help, self.append_seconds.clone());
        let help = "Time until a checkpoint was durable";
        ledger.register("checkpoint_seconds", help, self.checkpoint_seconds.clone());
        ledger.register("file_bytes", "Size of the ledger's file", self.file_bytes.clone());
    }
}

/// The size of the ledger's file.
#[derive(Debug)]
pub struct LedgerSource {
    pub metrics: LedgerMetrics,
    pub file: PathBuf,
}

#[async_trait]
impl Source for LedgerSource {
    async fn sample(&self) {
        // A ledger in memory has none.
        let bytes = self.file.metadata().map_or(0, |file| file.len());
        self.metrics.file_bytes.set(whole(bytes));
    }
}

/// A ledger that counts what it does.
pub struct MeasuredLedger {
    pub ledger: Box<dyn Ledger>,
    pub metrics: LedgerMetrics,
}

impl std::fmt::Debug for MeasuredLedger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MeasuredLedger").finish_non_exhaustive()
    }
}

impl Ledger for MeasuredLedger {
    fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
        let begun = Instant::now();
        self.ledger.append(expected_seq, batch)?;
        self.metrics.append_seconds.observe(begun.elapsed().as_secs_f64());
        self.metrics.batches.inc();
        self.metrics.records.inc_by(batch.len() as u64);
        self.metrics.bytes.inc_by(batch.iter().map(|record| record.len() as u64).sum());
        Ok(())
    }

    fn next_seq(&self) -> u64 {
        self.ledger.next_seq()
    }

    fn head(&self) -> Digest {
        self.ledger.head()
    }

    fn first_seq(&self) -> u64 {
        self.ledger.first_seq()
    }

    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        self.ledger.replay(from, f)
    }

    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        let begun = Instant::now();
        self.ledger.save_checkpoint(seq, bytes)?;
        self.metrics.checkpoint_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        self.ledger.load_checkpoint()
    }

    fn compact(&mut self, seq: u64, last: Digest) -> Result<u64, LedgerError> {
        self.ledger.compact(seq, last)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, LedgerError> {
        self.ledger.snapshot()
    }

    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
        self.ledger.hash_at(seq)
    }
}
