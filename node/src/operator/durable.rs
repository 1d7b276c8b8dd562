//! What survives the operator's process: its ledger with checkpoints, and the mark of what it relied on.

use super::published::Compaction;
use crate::storage::crash::crash_point;
use crate::storage::high_water::HighWater;
use crate::storage::ledger::{LedgerError, batches};
use crate::storage::sequencer::LedgerWriter;
use anyhow::Result;
use swarm_protocol::codec::Link;
use swarm_protocol::pool::State;

/// Records between two checkpoints; more in a large pool, whose checkpoint costs more.
const CHECKPOINT_RECORDS: u64 = 4096;

pub(super) struct Durable {
    writer: LedgerWriter,
    high_water: HighWater,
    compaction: Compaction,
    since_checkpoint: u64,
}

impl Durable {
    pub fn new(writer: LedgerWriter, high_water: HighWater, compaction: Compaction) -> Self {
        Self { writer, high_water, compaction, since_checkpoint: 0 }
    }

    /// Appends rows, and relies on them once they are there to stay. One turn may have more of them than a ledger takes at
    /// once: whatever of them is there after a crash is the beginning of what the pool then goes on with.
    pub async fn append(&mut self, rows: Vec<Vec<u8>>) -> Result<()> {
        for batch in batches(rows) {
            self.since_checkpoint += batch.len() as u64;
            crash_point("before-append");
            let appended = self.writer.append(batch).await?;
            crash_point("after-append");
            self.high_water.rely_on(appended.last_seq, appended.head)?;
        }
        Ok(())
    }

    /// Notes that this header is the one of its epoch, before it is signed.
    pub fn sign_header(&mut self, epoch: u64, header: &Link) -> Result<()> {
        crash_point("before-header-signed");
        Ok(self.high_water.sign_header(epoch, &header.to_string())?)
    }

    /// Lets go of records that are old now that this header is published.
    pub fn sealed(&self, header: Link) {
        self.compaction.begin(header);
    }

    /// Whether so many records came since the last checkpoint that another is due.
    pub fn is_checkpoint_due(&self, state: &State) -> bool {
        self.since_checkpoint >= CHECKPOINT_RECORDS.max(state.jobs().len() as u64)
    }

    /// Keeps the state as a checkpoint.
    pub async fn checkpoint(&mut self, state: &State) -> Result<()> {
        self.since_checkpoint = 0;
        match self.writer.save_checkpoint(state.next_seq(), state.checkpoint()).await {
            Err(error @ LedgerError::TooLarge { .. }) => {
                tracing::error!("no checkpoint, the next start replays more records: {error}");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}
