//! A ledger that is gone with the process: for tests and simulations.

use super::{
    Ledger, LedgerError, NO_RECORD, Visit, chain_hash, check_append, check_checkpoint, check_dropped,
    check_from,
};
use std::collections::VecDeque;
use swarm_crypto::digest::Digest;

/// Keeps records in memory; durable means no more than "still in this value".
#[derive(Debug, Clone, Default)]
pub struct MemoryLedger {
    first_seq: u64,
    /// The hash of the record before the first.
    anchor: Digest,
    records: VecDeque<(Digest, Vec<u8>)>,
    /// The newest last.
    checkpoints: Vec<(u64, Vec<u8>)>,
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self { anchor: NO_RECORD, ..Self::default() }
    }
}

impl Ledger for MemoryLedger {
    fn append(&mut self, expected_seq: u64, batch: &[Vec<u8>]) -> Result<(), LedgerError> {
        check_append(expected_seq, self.next_seq(), batch)?;
        for record in batch {
            let hash = chain_hash(&self.head(), record);
            self.records.push_back((hash, record.clone()));
        }
        Ok(())
    }

    fn next_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64
    }

    fn head(&self) -> Digest {
        self.records.back().map_or(self.anchor, |(hash, _)| *hash)
    }

    fn first_seq(&self) -> u64 {
        self.first_seq
    }

    fn replay(&self, from: u64, f: &mut Visit<'_>) -> Result<(), LedgerError> {
        check_from(from, self.first_seq)?;
        for (seq, (_, record)) in (self.first_seq..).zip(&self.records).skip_while(|(seq, _)| *seq < from) {
            f(seq, record)?;
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, seq: u64, bytes: &[u8]) -> Result<(), LedgerError> {
        check_checkpoint(seq, self.next_seq(), bytes)?;
        if self.checkpoints.last().is_none_or(|(newest, _)| *newest < seq) {
            self.checkpoints.push((seq, bytes.to_vec()));
            self.checkpoints.drain(..self.checkpoints.len().saturating_sub(2));
        }
        Ok(())
    }

    fn load_checkpoint(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        Ok(self.checkpoints.last().cloned())
    }

    fn compact(&mut self, seq: u64, last: Digest) -> Result<u64, LedgerError> {
        let [(older, _), _] = self.checkpoints.as_slice() else { return Ok(self.first_seq) };
        if seq > self.first_seq {
            check_dropped(seq, self.hash_at(seq - 1)?, last)?;
        }
        while self.first_seq < seq.min(*older)
            && let Some((hash, _)) = self.records.pop_front()
        {
            (self.first_seq, self.anchor) = (self.first_seq + 1, hash);
        }
        Ok(self.first_seq)
    }

    fn hash_at(&self, seq: u64) -> Result<Option<Digest>, LedgerError> {
        if seq.checked_add(1) == Some(self.first_seq) {
            return Ok(Some(self.anchor));
        }
        let place = seq.checked_sub(self.first_seq).and_then(|place| usize::try_from(place).ok());
        Ok(place.and_then(|place| self.records.get(place)).map(|(hash, _)| *hash))
    }
}
