//! The records of sealed epochs as they are published: once they stand there, the ledger needs them no more.

use crate::storage::blocks::BlockStore;
use crate::storage::crash::crash_point;
use crate::storage::ledger::{Ledger, LedgerError, NO_RECORD, Visit};
use crate::storage::sequencer::LedgerWriter;
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use swarm_crypto::digest::Digest;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::{Entry, EpochHeader, Record, RecordReader};
use tokio::sync::Semaphore;

/// Epochs that are looked back over: a hundred years of hours.
const MAX_EPOCHS: usize = 1_000_000;

/// Drops records that are published, each time an epoch is sealed.
#[derive(Debug, Clone)]
pub(super) struct Compaction {
    blocks: Arc<BlockStore>,
    writer: LedgerWriter,
    /// Sealed epochs whose records stay.
    keep: usize,
    first_seq: Arc<AtomicU64>,
    /// One at a time.
    turn: Arc<Semaphore>,
}

impl Compaction {
    pub fn new(blocks: Arc<BlockStore>, writer: LedgerWriter, keep: u64, first_seq: u64) -> Self {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let (first_seq, turn) = (Arc::new(AtomicU64::new(first_seq)), Arc::new(Semaphore::new(1)));
        Self { blocks, writer, keep, first_seq, turn }
    }

    /// Begins to drop what is old now; what is not done this time is the next.
    pub fn begin(&self, newest: Link) {
        let (this, turn) = (self.clone(), self.turn.clone().try_acquire_owned());
        let Ok(turn) = turn else { return };
        tokio::spawn(async move {
            if let Err(error) = this.run(newest).await {
                tracing::warn!("the ledger keeps records that are old: {error:#}");
            }
            drop(turn);
        });
    }

    async fn run(&self, newest: Link) -> Result<()> {
        let (blocks, keep, first_seq) =
            (self.blocks.clone(), self.keep, self.first_seq.load(Ordering::Relaxed));
        let look = move || -> Result<Vec<EpochHeader>> {
            let mut headers = headers(&blocks, newest, first_seq)?;
            headers.truncate(headers.len().saturating_sub(keep));
            Ok(headers)
        };
        for header in tokio::task::spawn_blocking(look).await?? {
            let (blocks, old) = (self.blocks.clone(), header.clone());
            tokio::task::spawn_blocking(move || read(&blocks, &old, &mut |_, _| Ok(()))).await??;
            crash_point("before-compaction");
            if !self.drop_before(header.end_seq + 1, header.range_hash).await? {
                break;
            }
            tracing::info!("the records of epoch {} are in its published pages only now", header.epoch);
        }
        Ok(())
    }

    /// Whether all of them could go.
    async fn drop_before(&self, seq: u64, last: Digest) -> Result<bool> {
        loop {
            let before = self.first_seq.load(Ordering::Relaxed);
            let first = self.writer.compact(seq, last).await?;
            self.first_seq.store(first, Ordering::Relaxed);
            if first >= seq || first == before {
                return Ok(first >= seq);
            }
        }
    }
}

/// The headers from the newest one back to the one whose epoch has the record `first_seq`, the oldest first.
fn headers(blocks: &BlockStore, newest: Link, first_seq: u64) -> Result<Vec<EpochHeader>> {
    let (mut headers, mut next) = (Vec::new(), Some(newest));
    while let Some(link) = next {
        ensure!(headers.len() < MAX_EPOCHS, "more than {MAX_EPOCHS} epochs are not looked through");
        let header: EpochHeader = codec::decode(&block(blocks, &link)?)
            .with_context(|| format!("{link} is not the header of an epoch"))?;
        if header.end_seq < first_seq {
            break;
        }
        // Who began with a checkpoint may have nothing of what was before.
        next = header.previous.filter(|_| header.first_seq > first_seq);
        headers.push(header);
    }
    headers.reverse();
    Ok(headers)
}

fn block(blocks: &BlockStore, link: &Link) -> Result<Vec<u8>> {
    blocks.get(&link.cid())?.with_context(|| format!("{link} is not in the store"))
}

/// Calls `f` with each record of an epoch, from its pages; refuses pages that do not hold what its header says.
fn read(blocks: &BlockStore, header: &EpochHeader, f: &mut Visit<'_>) -> Result<()> {
    let before = match &header.previous {
        Some(link) => codec::decode::<EpochHeader>(&block(blocks, link)?)?.range_hash,
        None => NO_RECORD,
    };
    let (mut reader, mut seq) = (RecordReader::new(header.first_seq, before), header.first_seq);
    let mut visit = |bytes: &[u8]| {
        f(seq, bytes)?;
        seq += 1;
        anyhow::Ok(())
    };
    for page in &header.record_pages {
        for row in reader.supply(&block(blocks, page)?)? {
            visit(&row.bytes)?;
        }
    }
    let (last, next_seq, head) = reader.finish()?;
    last.map_or(Ok(()), |row| visit(&row.bytes))?;
    let is_whole = (next_seq, head) == (header.end_seq + 1, header.range_hash);
    ensure!(is_whole, "the pages of epoch {} do not hold its records", header.epoch);
    Ok(())
}

/// Calls `f` with each record from the first of all on, also with those that a ledger has dropped.
pub fn replay_all(ledger: &dyn Ledger, blocks: &BlockStore, f: &mut Visit<'_>) -> Result<()> {
    let first_seq = ledger.first_seq();
    if first_seq > 0 {
        let newest = sealed_header(ledger)?.context("the ledger names no sealed epoch")?;
        for header in headers(blocks, newest, 0)?.into_iter().filter(|header| header.first_seq < first_seq) {
            read(blocks, &header, &mut |seq, row| if seq < first_seq { f(seq, row) } else { Ok(()) })?;
        }
    }
    Ok(ledger.replay(first_seq, f)?)
}

/// The newest header that a ledger's own records name.
fn sealed_header(ledger: &dyn Ledger) -> Result<Option<Link>> {
    let mut newest = None;
    ledger.replay(ledger.first_seq(), &mut |seq, row| {
        let entry = Entry::decode(row).map_err(|e| LedgerError::Unusable { seq, reason: e.to_string() })?;
        if let Record::HeaderFixed { header, .. } = entry.record {
            newest = Some(header);
        }
        Ok(())
    })?;
    Ok(newest)
}
