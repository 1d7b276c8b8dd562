mod blocks_crash;
mod ledger_contract;
mod ledger_crash;
mod ledger_file;
mod redis;
mod redis_server;
mod sim_disk;

use super::ledger::{Ledger, LedgerError};

const POOL: [u8; 32] = [7; 32];

/// A seeded generator (splitmix64), so that a failure names the run that repeats it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn bytes(&mut self, max_len: u64) -> Vec<u8> {
        (0..self.below(max_len + 1)).map(|_| self.roll() as u8).collect()
    }
}

fn records(ledger: &dyn Ledger, from: u64) -> Vec<(u64, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut collect = |seq: u64, record: &[u8]| -> Result<(), LedgerError> {
        rows.push((seq, record.to_vec()));
        Ok(())
    };
    ledger.replay(from, &mut collect).unwrap();
    rows
}
