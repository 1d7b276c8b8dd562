//! Power cuts at random places: what was acknowledged is there, what was not is there whole or not at all.

use super::sim_disk::SimDisk;
use super::{Dice, POOL, records};
use crate::storage::ledger::{Ledger, LedgerError, RedbLedger};
use std::io::ErrorKind;

/// `LEDGER_SEEDS=3334` is for the night: ten thousand images.
const SEEDS: u64 = 60;
const IMAGES_PER_CUT: u64 = 3;
const STEPS: usize = 14;

type Rows = Vec<Vec<u8>>;

/// What the writer knows: what it was told is stored, and what it was waiting for when the power went.
#[derive(Default)]
struct Promise {
    acknowledged: Rows,
    in_flight: Rows,
    checkpoint: Option<(u64, Vec<u8>)>,
    checkpoint_in_flight: Option<(u64, Vec<u8>)>,
    /// Records that are known to be dropped, and that may be.
    dropped: u64,
    drop_in_flight: u64,
}

/// Writes until done or until the power goes.
fn write(disk: &SimDisk, script: &mut Dice) -> Promise {
    let mut promise = Promise::default();
    let Ok(mut ledger) = RedbLedger::with_backend(disk.clone(), &POOL) else {
        return promise;
    };
    for _ in 0..STEPS {
        let next = ledger.next_seq();
        let done = match script.below(6) {
            0 => {
                let least = promise.checkpoint.as_ref().map_or(0, |(seq, _)| seq + 1);
                let checkpoint =
                    (least + script.below((next + 1).saturating_sub(least).max(1)), script.bytes(6_000));
                if checkpoint.0 > next {
                    continue;
                }
                let done = ledger.save_checkpoint(checkpoint.0, &checkpoint.1);
                promise.checkpoint_in_flight = Some(checkpoint);
                if done.is_ok() {
                    promise.checkpoint = promise.checkpoint_in_flight.take();
                }
                done
            }
            1 => {
                let done = ledger.compact(next, ledger.head());
                match done {
                    Ok(first) => promise.dropped = first,
                    Err(_) => promise.drop_in_flight = next,
                }
                done.map(|_| ())
            }
            _ => {
                let batch: Rows = (0..=script.below(6)).map(|_| script.bytes(900)).collect();
                let done = ledger.append(next, &batch);
                match done.is_ok() {
                    true => promise.acknowledged.extend(batch),
                    false => promise.in_flight = batch,
                }
                done
            }
        };
        if done.is_err() {
            break;
        }
    }
    promise
}

fn holds(promise: &Promise, ledger: &RedbLedger, run: &str) {
    let first = ledger.first_seq();
    let more = first > promise.dropped && first <= promise.drop_in_flight;
    assert!(first == promise.dropped || more, "{run}: {first} records dropped, {} known", promise.dropped);
    let found: Rows = records(ledger, first).into_iter().map(|(_, record)| record).collect();
    let all = [promise.acknowledged.clone(), promise.in_flight.clone()].concat();
    let first = first as usize;
    let promised = &promise.acknowledged[first..];
    assert!(found == promised || found == all[first..], "{run}: {} records found", found.len());
    let checkpoint = ledger.load_checkpoint().unwrap();
    let promised = checkpoint == promise.checkpoint;
    let newer = promise.checkpoint_in_flight.is_some() && checkpoint == promise.checkpoint_in_flight;
    assert!(promised || newer, "{run}: another checkpoint");
}

#[test]
fn nothing_acknowledged_is_lost_and_no_batch_is_torn() {
    let seeds = std::env::var("LEDGER_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let mut dropped = 0;
    for seed in 0..seeds {
        let whole = SimDisk::created();
        write(&whole, &mut Dice(seed));
        let mut dice = Dice(seed ^ 0x5eed);
        let cut = dice.below(whole.changes());
        let disk = SimDisk::created();
        disk.cut_power_after(cut);
        let promise = write(&disk, &mut Dice(seed));
        for image in 0..IMAGES_PER_CUT {
            let run = format!("seed {seed}, cut after {cut}, image {image}");
            let mut found = disk.after_crash(&mut dice);
            if image > 0 {
                found = cut_the_recovery(&found, &mut dice);
            }
            let mut ledger = match RedbLedger::with_backend(found.clone(), &POOL) {
                Ok(ledger) => ledger,
                Err(error) => panic!("{run}: {error}"),
            };
            holds(&promise, &ledger, &run);
            dropped += ledger.first_seq();
            let next = ledger.next_seq();
            ledger.append(next, &[b"life goes on".to_vec()]).unwrap();
            drop(ledger);
            let ledger = RedbLedger::with_backend(found, &POOL).unwrap();
            assert_eq!(records(&ledger, next), [(next, b"life goes on".to_vec())], "{run}");
        }
    }
    assert!(dropped > 0, "no image was of a ledger that had dropped records");
}

/// The power goes again while the ledger is opened.
fn cut_the_recovery(disk: &SimDisk, dice: &mut Dice) -> SimDisk {
    disk.cut_power_after(dice.below(12));
    drop(RedbLedger::with_backend(disk.clone(), &POOL));
    disk.after_crash(dice)
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_acknowledged() {
    let disk = SimDisk::new();
    let mut ledger = RedbLedger::with_backend(disk.clone(), &POOL).unwrap();
    ledger.append(0, &[b"kept".to_vec()]).unwrap();
    disk.fail_with(ErrorKind::StorageFull);
    let refused = ledger.append(1, &[b"lost".to_vec()]).unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    assert!(refused.to_string().starts_with("disk full: "), "{refused}");
    assert_eq!(ledger.next_seq(), 1);
    let closed = ledger.append(1, &[b"lost".to_vec()]).unwrap_err();
    assert!(matches!(closed, LedgerError::Disk(_)), "{closed}");
    drop(ledger);
    let ledger = RedbLedger::with_backend(disk.after_crash(&mut Dice(3)), &POOL).unwrap();
    assert_eq!(records(&ledger, 0), [(0, b"kept".to_vec())]);
}

const WRITER: &str = "storage::tests::ledger_crash::a_writer_to_be_killed";
const WRITER_PATH: &str = "SWARMPOOL_TEST_LEDGER";

/// Does nothing unless the test below starts it in a process of its own.
#[test]
fn a_writer_to_be_killed() {
    let Some(path) = std::env::var_os(WRITER_PATH) else {
        return;
    };
    let mut ledger = RedbLedger::open(path.as_ref(), &POOL).unwrap();
    for seq in 0..4 {
        ledger.append(seq, &[vec![seq as u8]]).unwrap();
        ledger.save_checkpoint(seq + 1, &[seq as u8]).unwrap();
        ledger.compact(seq + 1, ledger.head()).unwrap();
    }
}

#[cfg(debug_assertions)]
#[test]
fn a_killed_process_leaves_what_it_had_reached() {
    use std::os::unix::process::ExitStatusExt;
    let cases = [
        ("before-commit:3", 2, 2, 1),
        ("after-commit:3", 3, 2, 1),
        ("mid-checkpoint:3", 3, 2, 1),
        ("mid-compaction:2", 3, 3, 1),
        ("after-compaction:2", 3, 3, 2),
    ];
    for (crash_at, records_left, checkpoint, first) in cases {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.redb");
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([WRITER, "--exact"])
            .env(WRITER_PATH, &path)
            .env(crate::storage::crash::CRASH_VARIABLE, crash_at)
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(9), "{crash_at}");
        let mut ledger = RedbLedger::open(&path, &POOL).unwrap();
        assert_eq!((ledger.first_seq(), ledger.next_seq()), (first, records_left), "{crash_at}");
        let kept = ledger.load_checkpoint().unwrap().map(|(seq, _)| seq);
        assert_eq!(kept, Some(checkpoint), "{crash_at}");
        ledger.append(records_left, &[b"on".to_vec()]).unwrap();
    }
}
