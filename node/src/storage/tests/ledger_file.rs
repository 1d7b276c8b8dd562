//! Files that are not this pool's whole ledger are refused in plain words.

use super::sim_disk::SimDisk;
use super::{Dice, POOL, records};
use crate::storage::disk::{DiskError, survive_damage};
use crate::storage::ledger::{Ledger, LedgerError, NO_RECORD, RedbLedger, run};
use redb::{Database, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("ledger-records");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-meta");
const CHECKPOINT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-checkpoint");

fn refusal(path: &Path) -> LedgerError {
    RedbLedger::open(path, &POOL).expect_err("it must be refused")
}

fn is_damaged(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Disk(DiskError::Damaged { .. }))
        && error.to_string().contains("move it away")
}

fn three_records(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("ledger.redb");
    let mut ledger = RedbLedger::open(&path, &POOL).unwrap();
    for (seq, word) in (0..).zip(["a", "b", "c"]) {
        ledger.append(seq, &[word.as_bytes().to_vec()]).unwrap();
    }
    ledger.save_checkpoint(1, b"after a").unwrap();
    path
}

fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn another_pools_ledger_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    let refused = RedbLedger::open(&path, &[8; 32]).unwrap_err();
    assert!(matches!(refused, LedgerError::OtherPool { .. }));
    assert!(refused.to_string().contains("another pool"), "{refused}");
    RedbLedger::open(&path, &POOL).unwrap();
}

#[test]
fn another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    tamper(&path, |transaction| {
        let newer = 9u32.to_be_bytes();
        transaction.open_table(META).unwrap().insert("format", newer.as_slice()).unwrap();
    });
    assert!(matches!(refusal(&path), LedgerError::OtherFormat { known: 5, found: 9, .. }));
}

#[test]
fn the_format_before_is_read_and_is_this_one_then() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    tamper(&path, |transaction| {
        let before = 4u32.to_be_bytes();
        transaction.open_table(META).unwrap().insert("format", before.as_slice()).unwrap();
    });
    let ledger = RedbLedger::open(&path, &POOL).unwrap();
    assert_eq!(records(&ledger, 0).len(), 3);
    assert_eq!(ledger.load_checkpoint().unwrap(), Some((1, b"after a".to_vec())));
    drop(ledger);
    tamper(&path, |transaction| {
        let meta = transaction.open_table(META).unwrap();
        assert_eq!(meta.get("format").unwrap().unwrap().value(), 5u32.to_be_bytes());
    });
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "notes of mine\n".repeat(1_000)).unwrap();
    assert!(is_damaged(&refusal(&text)), "{}", refusal(&text));
    assert_eq!(std::fs::read_to_string(&text).unwrap().len(), 14_000);

    let short = directory.path().join("short");
    std::fs::write(&short, "hello").unwrap();
    assert!(is_damaged(&refusal(&short)), "{}", refusal(&short));

    let other = directory.path().join("other.redb");
    let table: TableDefinition<'_, &str, u64> = TableDefinition::new("recipes");
    let database = Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert("soup", 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(is_damaged(&refusal(&other)), "{}", refusal(&other));
}

#[test]
fn a_ledger_that_is_open_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    let _open = RedbLedger::open(&path, &POOL).unwrap();
    assert!(matches!(refusal(&path), LedgerError::Disk(DiskError::InUse { .. })));
}

#[test]
fn a_changed_record_breaks_the_chain() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    tamper(&path, |transaction| {
        let mut table = transaction.open_table(RECORDS).unwrap();
        let mut row = table.get(1).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        table.insert(1, row.as_slice()).unwrap();
    });
    assert!(is_damaged(&refusal(&path)));
    assert!(refusal(&path).to_string().contains("record 1"), "{}", refusal(&path));
}

#[test]
fn a_change_before_the_checkpoint_is_found_by_a_full_replay() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    tamper(&path, |transaction| {
        let mut table = transaction.open_table(RECORDS).unwrap();
        let mut row = table.get(0).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        table.insert(0, row.as_slice()).unwrap();
    });
    let ledger = RedbLedger::open(&path, &POOL).unwrap();
    let replayed = ledger.replay(0, &mut |_, _| Ok(()));
    assert!(replayed.is_err_and(|error| error.to_string().contains("record 0")));
}

#[test]
fn a_missing_record_is_found() {
    for (missing, checkpoint) in [(0, true), (1, true), (2, true), (0, false), (1, false)] {
        let directory = tempfile::tempdir().unwrap();
        let path = three_records(&directory);
        tamper(&path, |transaction| {
            transaction.open_table(RECORDS).unwrap().remove(missing).unwrap();
            if !checkpoint {
                transaction.open_table(CHECKPOINT).unwrap().remove("latest").unwrap();
            }
        });
        if missing == 2 {
            // Only the high-water mark knows of a tail that was cut off cleanly.
            assert_eq!(RedbLedger::open(&path, &POOL).unwrap().next_seq(), 2);
        } else {
            assert!(is_damaged(&refusal(&path)), "record {missing}");
        }
    }
}

#[test]
fn a_record_missing_before_the_checkpoint_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    RedbLedger::open(&path, &POOL).unwrap().save_checkpoint(3, b"after c").unwrap();
    tamper(&path, |transaction| {
        let mut table = transaction.open_table(RECORDS).unwrap();
        table.remove(1).unwrap();
    });
    assert!(is_damaged(&refusal(&path)));
}

/// Rows that form a chain of their own, under the checkpoint of the former ones.
#[test]
fn a_checkpoint_about_another_chain_is_refused() {
    for words in [&["x", "b", "c"][..], &[]] {
        let directory = tempfile::tempdir().unwrap();
        let path = three_records(&directory);
        tamper(&path, |transaction| {
            let mut table = transaction.open_table(RECORDS).unwrap();
            (0..3).for_each(|seq| drop(table.remove(seq).unwrap()));
            let mut hash = NO_RECORD;
            for (seq, word) in (0..).zip(words) {
                let (row, end) = run::encode(seq, &hash, &[word.as_bytes().to_vec()]);
                table.insert(seq, row.as_slice()).unwrap();
                hash = end;
            }
        });
        let refused = refusal(&path);
        assert!(is_damaged(&refused), "{refused}");
        assert!(refused.to_string().contains("checkpoint at 1"), "{refused}");
    }
}

#[test]
fn a_damaged_checkpoint_counts_as_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    tamper(&path, |transaction| {
        let mut table = transaction.open_table(CHECKPOINT).unwrap();
        let mut row = table.get("latest").unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        table.insert("latest", row.as_slice()).unwrap();
    });
    let ledger = RedbLedger::open(&path, &POOL).unwrap();
    assert_eq!(ledger.load_checkpoint().unwrap(), None);
    assert_eq!(records(&ledger, 0).len(), 3);
}

#[test]
fn when_the_newest_checkpoint_is_damaged_the_one_before_counts() {
    let directory = tempfile::tempdir().unwrap();
    let path = three_records(&directory);
    RedbLedger::open(&path, &POOL).unwrap().save_checkpoint(2, b"after b").unwrap();
    for (slot, left) in [("other", Some((1, b"after a".to_vec()))), ("latest", None)] {
        tamper(&path, |transaction| {
            let mut table = transaction.open_table(CHECKPOINT).unwrap();
            let mut row = table.get(slot).unwrap().unwrap().value().to_vec();
            *row.last_mut().unwrap() ^= 1;
            table.insert(slot, row.as_slice()).unwrap();
        });
        let mut ledger = RedbLedger::open(&path, &POOL).unwrap();
        assert_eq!(ledger.load_checkpoint().unwrap(), left);
        assert_eq!(ledger.compact(1, ledger.hash_at(0).unwrap().unwrap()).unwrap(), 0, "one is not enough");
    }
}

/// Records that are missing without having been dropped.
#[test]
fn a_beginning_that_nobody_dropped_is_missed() {
    for missing in [2, 3] {
        let directory = tempfile::tempdir().unwrap();
        let path = three_records(&directory);
        let mut ledger = RedbLedger::open(&path, &POOL).unwrap();
        ledger.save_checkpoint(2, b"after b").unwrap();
        ledger.append(3, &[b"d".to_vec()]).unwrap();
        ledger.save_checkpoint(4, b"after d").unwrap();
        assert_eq!(ledger.compact(2, ledger.hash_at(1).unwrap().unwrap()).unwrap(), 2);
        drop(ledger);
        tamper(&path, |transaction| {
            let mut table = transaction.open_table(RECORDS).unwrap();
            (2..=missing).for_each(|seq| drop(table.remove(seq).unwrap().unwrap()));
        });
        assert!(is_damaged(&refusal(&path)), "{missing}");
    }
}

/// A file that rots is refused or holds what it held, never other records.
#[test]
fn flipped_bytes_never_pass_for_records() {
    let disk = SimDisk::new();
    let mut ledger = RedbLedger::with_backend(disk.clone(), &POOL).unwrap();
    let mut dice = Dice(42);
    for _ in 0..4 {
        let next = ledger.next_seq();
        let batch: Vec<_> = (0..8).map(|_| dice.bytes(700)).collect();
        ledger.append(next, &batch).unwrap();
    }
    let written = records(&ledger, 0);
    drop(ledger);
    let image = disk.image();
    let used: Vec<usize> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let mut refused = 0;
    for _ in 0..150 {
        let mut rotten = image.clone();
        for _ in 0..=dice.below(3) {
            rotten[used[dice.below(used.len() as u64) as usize]] ^= 1 << dice.below(8);
        }
        let mut found = Vec::new();
        let read = survive_damage(Path::new("rotten"), || {
            let ledger = RedbLedger::with_backend(SimDisk::from_image(rotten), &POOL)?;
            ledger.replay(0, &mut |seq, record| {
                found.push((seq, record.to_vec()));
                Ok(())
            })
        });
        match read {
            Ok(()) => assert!(written.starts_with(&found), "other records"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 30, "only {refused} of 150 damaged files were refused");
}
