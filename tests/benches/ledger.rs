//! Durable records per second: the ledger's two-phase commits against a bare write-ahead file.

mod support;

use anyhow::Result;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use support::{Pairs, Target, timed};
use swarm_crypto::digest::blake3;
use swarm_node::storage::ledger::{Ledger, RedbLedger};

const BATCHES: [usize; 4] = [1, 8, 64, 512];
/// About what an admitted job's record takes.
const RECORD_BYTES: usize = 512;
/// Commits of each, by turns: what the disk does for others falls on both.
const ROUNDS: usize = 200;

fn record(n: u64) -> Vec<u8> {
    let seed = blake3(&n.to_be_bytes());
    seed.0.iter().copied().cycle().take(RECORD_BYTES).collect()
}

/// Each record behind its length, one write and one fdatasync for a batch.
struct WriteAhead(File);

impl WriteAhead {
    fn append(&mut self, batch: &[Vec<u8>]) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(batch.len() * (RECORD_BYTES + 4));
        for record in batch {
            bytes.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(record);
        }
        self.0.write_all(&bytes)?;
        self.0.sync_data()
    }
}

/// Median durable records per second of ledger and file, and the share of the file's.
fn curve(dir: &Path, size: usize) -> Result<(f64, f64, f64)> {
    let mut ledger = RedbLedger::open(&dir.join(format!("ledger-{size}.redb")), &[7; 32])?;
    let mut file = WriteAhead(File::create(dir.join(format!("wal-{size}")))?);
    let batch: Vec<Vec<u8>> = (0..size as u64).map(record).collect();
    let to_ledger = || {
        let next = ledger.next_seq();
        timed(|| ledger.append(next, &batch).expect("the disk has room")).1
    };
    let to_file = || timed(|| file.append(&batch).expect("the disk has room")).1;
    let pairs = Pairs::of(ROUNDS, to_ledger, to_file);
    let records = size as f64;
    Ok((records / pairs.first(), records / pairs.second(), pairs.second() / pairs.first()))
}

fn main() -> Result<()> {
    support::machine();
    let dir = tempfile::tempdir()?;
    println!("records of {RECORD_BYTES} bytes in {}", dir.path().display());
    let mut shares = Vec::new();
    for size in BATCHES {
        let (ledger, file, share) = curve(dir.path(), size)?;
        println!("batch {size}: ledger {ledger:.0}/s, write-ahead file {file:.0}/s, share {share:.3}");
        shares.push((size, share));
    }
    for (size, share) in shares {
        support::ratio(&format!("ledger/{size}"), share, Target::AtLeast(0.25));
    }
    Ok(())
}
