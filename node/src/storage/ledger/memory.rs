//! A ledger that is gone with the process: for tests and simulations.

use super::{Ledger, LedgerError, NO_RECORD, Visit, chain_hash, check_append, check_checkpoint};
use swarm_crypto::digest::Digest;

/// Keeps records in memory; durable means no more than "still in this value".
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    records: Vec<(Digest, Vec<u8>)>,
    checkpoint: Option<(u64, Vec<u8>)>,
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Ledger for MemoryLedger {
    fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
        check_append(expected_seq, self.next_seq(), batch)?;
        for record in batch {
            let hash = chain_hash(&self.head(), record);
            self.records.push((hash, record.clone()));
        }
        Ok(())
    }

    fn next_seq(&self) -> u64 {
        self.records.len() as u64
    }

    fn head(&self) -> Digest {
        self.records.last().map_or(NO_RECORD, |(hash, _)| *hash)
    }

    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        for (seq, (_, record)) in (0..).zip(&self.records).skip_while(|(seq, _)| *seq < from) {
            f(seq, record)?;
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        check_checkpoint(seq, self.next_seq(), bytes)?;
        self.checkpoint = Some((seq, bytes.to_vec()));
        Ok(())
    }

    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        Ok(self.checkpoint.clone())
    }

    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
        let index = usize::try_from(seq).unwrap_or(usize::MAX);
        Ok(self.records.get(index).map(|(hash, _)| *hash))
    }
}
