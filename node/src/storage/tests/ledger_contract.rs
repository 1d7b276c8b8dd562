//! What every ledger keeps to, run against each of them.

use super::redis_server::RedisServer;
use super::sim_disk::SimDisk;
use super::{Dice, POOL, records};
use crate::storage::ledger::{
    Ledger, LedgerError, MAX_BATCH_RECORDS, MAX_RECORD_BYTES, MemoryLedger, NO_RECORD, RedbLedger,
    RedisLedger, batches, chain_hash, check_batch,
};

trait Bench {
    fn ledger(&mut self) -> &mut dyn Ledger;
    fn reopen(&mut self);
}

struct InMemory(MemoryLedger);

impl Bench for InMemory {
    fn ledger(&mut self) -> &mut dyn Ledger {
        &mut self.0
    }
    fn reopen(&mut self) {}
}

struct InFile {
    directory: tempfile::TempDir,
    ledger: Option<RedbLedger>,
}

impl InFile {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut bench = Self { directory, ledger: None };
        bench.reopen();
        bench
    }
}

impl Bench for InFile {
    fn ledger(&mut self) -> &mut dyn Ledger {
        self.ledger.as_mut().unwrap()
    }
    fn reopen(&mut self) {
        self.ledger = None;
        let path = self.directory.path().join("ledger.redb");
        self.ledger = Some(RedbLedger::open(&path, &POOL).unwrap());
    }
}

/// Every reopening is a power cut that loses whatever was not synced.
struct OnSimDisk {
    disk: SimDisk,
    dice: Dice,
    ledger: Option<RedbLedger>,
}

impl OnSimDisk {
    fn new() -> Self {
        let disk = SimDisk::new();
        let ledger = RedbLedger::with_backend(disk.clone(), &POOL).unwrap();
        Self { disk, dice: Dice(1), ledger: Some(ledger) }
    }
}

impl Bench for OnSimDisk {
    fn ledger(&mut self) -> &mut dyn Ledger {
        self.ledger.as_mut().unwrap()
    }
    fn reopen(&mut self) {
        self.disk.cut_power();
        self.ledger = None;
        self.disk = self.disk.after_crash(&mut self.dice);
        self.ledger = Some(RedbLedger::with_backend(self.disk.clone(), &POOL).unwrap());
    }
}

/// Every reopening kills the server, which starts again with what it has on its disk.
struct OnRedis {
    server: RedisServer,
    copy: tempfile::TempDir,
    ledger: Option<RedisLedger>,
}

impl OnRedis {
    fn new() -> Option<Self> {
        let (server, copy) = (RedisServer::start()?, tempfile::tempdir().unwrap());
        let mut bench = Self { server, copy, ledger: None };
        bench.open();
        Some(bench)
    }

    fn open(&mut self) {
        let copy = self.copy.path().join("ledger.redb");
        let mut ledger = RedisLedger::open(self.server.config("one"), &copy, &POOL).unwrap();
        ledger.follow(&mut |_, _| Ok(())).unwrap();
        self.ledger = Some(ledger);
    }
}

impl Bench for OnRedis {
    fn ledger(&mut self) -> &mut dyn Ledger {
        self.ledger.as_mut().unwrap()
    }
    fn reopen(&mut self) {
        self.ledger = None;
        self.server.kill_and_restart();
        self.open();
    }
}

fn each(rule: impl Fn(&mut dyn Bench)) {
    rule(&mut InMemory(MemoryLedger::new()));
    rule(&mut InFile::new());
    rule(&mut OnSimDisk::new());
    OnRedis::new().iter_mut().for_each(|bench| rule(bench));
}

fn batch(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn a_new_ledger_is_empty() {
    each(|bench| {
        for _ in 0..2 {
            let ledger = bench.ledger();
            assert_eq!(ledger.next_seq(), 0);
            assert_eq!(ledger.head(), NO_RECORD);
            assert_eq!(ledger.hash_at(0).unwrap(), None);
            assert_eq!(ledger.load_checkpoint().unwrap(), None);
            assert!(records(ledger, 0).is_empty());
            bench.reopen();
        }
    });
}

#[test]
fn what_was_appended_is_replayed_in_order_also_after_reopening() {
    each(|bench| {
        bench.ledger().append(0, &batch(&["a", "", "c"])).unwrap();
        bench.ledger().append(3, &batch(&["d"])).unwrap();
        for _ in 0..2 {
            let ledger = bench.ledger();
            assert_eq!(ledger.next_seq(), 4);
            let all = records(ledger, 0);
            assert_eq!(all, (0..).zip(batch(&["a", "", "c", "d"])).collect::<Vec<_>>());
            assert_eq!(records(ledger, 2), all[2..]);
            assert!(records(ledger, 4).is_empty());
            assert!(records(ledger, 99).is_empty());
            bench.reopen();
        }
    });
}

#[test]
fn each_record_carries_the_hash_of_the_one_before() {
    each(|bench| {
        bench.ledger().append(0, &batch(&["a", "b"])).unwrap();
        bench.ledger().append(2, &batch(&["c"])).unwrap();
        for _ in 0..2 {
            let ledger = bench.ledger();
            let mut hash = NO_RECORD;
            for (seq, record) in records(ledger, 0) {
                hash = chain_hash(&hash, &record);
                assert_eq!(ledger.hash_at(seq).unwrap(), Some(hash));
            }
            assert_eq!(ledger.head(), hash);
            assert_eq!(ledger.hash_at(3).unwrap(), None);
            bench.reopen();
        }
    });
}

#[test]
fn the_hash_depends_on_the_record_and_on_its_place() {
    let (a, b) = (chain_hash(&NO_RECORD, b"a"), chain_hash(&NO_RECORD, b"b"));
    assert_ne!(a, b);
    assert_ne!(chain_hash(&a, b"c"), chain_hash(&b, b"c"));
}

#[test]
fn an_append_at_another_place_is_a_conflict_and_changes_nothing() {
    each(|bench| {
        let ledger = bench.ledger();
        ledger.append(0, &batch(&["a", "b"])).unwrap();
        let head = ledger.head();
        for expected in [0, 1, 3] {
            let refused = ledger.append(expected, &batch(&["x"]));
            assert!(
                matches!(refused, Err(LedgerError::Conflict { expected: e, found: 2 }) if e == expected),
                "{refused:?}"
            );
        }
        assert!(matches!(ledger.append(1, &[]), Err(LedgerError::Conflict { .. })));
        ledger.append(2, &[]).unwrap();
        assert_eq!((ledger.next_seq(), ledger.head()), (2, head));
        assert_eq!(records(ledger, 0).len(), 2);
    });
}

#[test]
fn what_is_over_a_limit_is_refused_whole() {
    each(|bench| {
        let ledger = bench.ledger();
        let too_large = vec![b"ok".to_vec(), vec![0; MAX_RECORD_BYTES + 1]];
        let too_many = vec![Vec::new(); MAX_BATCH_RECORDS + 1];
        let too_much = vec![vec![0; MAX_RECORD_BYTES]; 5];
        for batch in [too_large, too_many, too_much] {
            assert!(matches!(ledger.append(0, &batch), Err(LedgerError::TooLarge { .. })));
        }
        assert_eq!(ledger.next_seq(), 0);
        ledger.append(0, &[vec![1; 1 << 20]]).unwrap();
        assert_eq!(records(ledger, 0), [(0, vec![1; 1 << 20])]);
    });
}

#[test]
fn the_newest_checkpoint_is_kept_beside_all_records() {
    each(|bench| {
        bench.ledger().append(0, &batch(&["a", "b", "c"])).unwrap();
        for (seq, state) in [(0, "nothing yet"), (1, "a"), (2, "a and b"), (2, "again"), (1, "older")] {
            bench.ledger().save_checkpoint(seq, state.as_bytes()).unwrap();
        }
        bench.ledger().append(3, &batch(&["d"])).unwrap();
        for _ in 0..2 {
            let ledger = bench.ledger();
            assert_eq!(ledger.load_checkpoint().unwrap(), Some((2, b"a and b".to_vec())));
            assert_eq!(records(ledger, 2), [(2, b"c".to_vec()), (3, b"d".to_vec())]);
            assert_eq!(records(ledger, 0).len(), 4);
            bench.reopen();
        }
    });
}

#[test]
fn a_checkpoint_past_the_end_is_refused() {
    each(|bench| {
        let ledger = bench.ledger();
        ledger.append(0, &batch(&["a"])).unwrap();
        ledger.save_checkpoint(1, b"all of it").unwrap();
        let refused = ledger.save_checkpoint(2, b"the future");
        assert!(
            matches!(refused, Err(LedgerError::CheckpointPastEnd { seq: 2, next_seq: 1 })),
            "{refused:?}"
        );
        assert_eq!(ledger.load_checkpoint().unwrap(), Some((1, b"all of it".to_vec())));
    });
}

/// One record a batch, so that each can be dropped by itself.
fn letters(ledger: &mut dyn Ledger) {
    for (seq, word) in (0..).zip(["a", "b", "c", "d", "e"]) {
        ledger.append(seq, &batch(&[word])).unwrap();
    }
}

#[test]
fn what_both_checkpoints_are_after_can_be_dropped() {
    each(|bench| {
        let ledger = bench.ledger();
        letters(ledger);
        let hashes: Vec<_> = (0..5).map(|seq| ledger.hash_at(seq).unwrap().unwrap()).collect();
        assert_eq!(ledger.compact(3, hashes[2]).unwrap(), 0, "there is no checkpoint");
        ledger.save_checkpoint(2, b"a b").unwrap();
        assert_eq!(ledger.compact(3, hashes[2]).unwrap(), 0, "there is one");
        ledger.save_checkpoint(4, b"a b c d").unwrap();
        assert_eq!(ledger.compact(3, hashes[2]).unwrap(), 2, "the older one is after two");
        assert_eq!(ledger.compact(1, hashes[0]).unwrap(), 2, "they are gone already");
        for _ in 0..2 {
            let ledger = bench.ledger();
            assert_eq!((ledger.first_seq(), ledger.next_seq(), ledger.head()), (2, 5, hashes[4]));
            let left: Vec<_> = (2..).zip(batch(&["c", "d", "e"])).collect();
            assert_eq!(records(ledger, 2), left);
            for from in [0, 1] {
                let refused = ledger.replay(from, &mut |_, _| Ok(()));
                assert!(
                    matches!(refused, Err(LedgerError::Dropped { seq, first_seq: 2 }) if seq == from),
                    "{refused:?}"
                );
            }
            let known: Vec<_> = (0..6).map(|seq| ledger.hash_at(seq).unwrap()).collect();
            assert_eq!(known[0], None);
            assert_eq!(known[1..5], hashes[1..].iter().map(|hash| Some(*hash)).collect::<Vec<_>>());
            assert_eq!(known[5], None);
            assert_eq!(ledger.load_checkpoint().unwrap(), Some((4, b"a b c d".to_vec())));
            bench.reopen();
        }
        let ledger = bench.ledger();
        ledger.append(5, &batch(&["f"])).unwrap();
        ledger.save_checkpoint(6, b"all").unwrap();
        ledger.save_checkpoint(6, b"all").unwrap();
        assert_eq!(ledger.compact(6, ledger.head()).unwrap(), 4);
    });
}

#[test]
fn all_records_can_be_dropped_and_the_chain_goes_on() {
    each(|bench| {
        let ledger = bench.ledger();
        letters(ledger);
        ledger.save_checkpoint(4, b"four").unwrap();
        ledger.append(5, &batch(&["f"])).unwrap();
        ledger.save_checkpoint(6, b"six").unwrap();
        let ledger = bench.ledger();
        let (head, fourth) = (ledger.head(), ledger.hash_at(3).unwrap().unwrap());
        assert_eq!(ledger.compact(6, head).unwrap(), 4);
        ledger.append(6, &batch(&["g"])).unwrap();
        ledger.save_checkpoint(7, b"seven").unwrap();
        assert_eq!(ledger.compact(6, head).unwrap(), 6);
        bench.reopen();
        let ledger = bench.ledger();
        assert_eq!(ledger.hash_at(3).unwrap(), None);
        assert_ne!(head, fourth);
        assert_eq!(records(ledger, 6), [(6, b"g".to_vec())]);
        assert_eq!(ledger.head(), chain_hash(&head, b"g"));
    });
}

#[test]
fn records_that_are_not_the_published_ones_are_not_dropped() {
    each(|bench| {
        let ledger = bench.ledger();
        letters(ledger);
        ledger.save_checkpoint(4, b"four").unwrap();
        ledger.save_checkpoint(5, b"five").unwrap();
        let other = ledger.hash_at(1).unwrap().unwrap();
        for seq in [3, 99] {
            let refused = ledger.compact(seq, other);
            assert!(matches!(refused, Err(LedgerError::Unusable { .. })), "{refused:?}");
        }
        assert_eq!(records(ledger, 0).len(), 5);
    });
}

#[test]
fn a_visitor_can_stop_the_replay() {
    each(|bench| {
        let ledger = bench.ledger();
        ledger.append(0, &batch(&["a", "b", "c"])).unwrap();
        let mut seen = 0;
        let stopped = ledger.replay(0, &mut |seq, _| {
            seen += 1;
            match seq {
                1 => Err(LedgerError::Unusable { seq, reason: "not a record".into() }),
                _ => Ok(()),
            }
        });
        assert!(matches!(stopped, Err(LedgerError::Unusable { seq: 1, .. })));
        assert_eq!(seen, 2);
    });
}

#[test]
fn all_ledgers_agree_on_random_histories() {
    let mut dropped = 0;
    for seed in 0..5 {
        let mut dice = Dice(seed);
        let mut benches: Vec<Box<dyn Bench>> = vec![
            Box::new(InMemory(MemoryLedger::new())),
            Box::new(InFile::new()),
            Box::new(OnSimDisk::new()),
        ];
        benches.extend(OnRedis::new().map(|bench| Box::new(bench) as Box<dyn Bench>));
        for _ in 0..15 {
            let size = dice.below(5);
            let batch: Vec<_> = (0..size).map(|_| dice.bytes(300)).collect();
            let checkpoint = dice.bytes(2_000);
            let (choice, place) = (dice.below(5), dice.roll());
            for bench in &mut benches {
                let next = bench.ledger().next_seq();
                match choice {
                    0 => bench.reopen(),
                    1 => bench.ledger().save_checkpoint(place % (next + 1), &checkpoint).unwrap(),
                    2 => {
                        let last = bench.ledger().head();
                        bench.ledger().compact(next, last).unwrap();
                    }
                    _ => bench.ledger().append(next, &batch).unwrap(),
                }
            }
        }
        // Where records are in one row they go together, so that one ledger may have more left than another.
        let first = benches.iter_mut().map(|bench| bench.ledger().first_seq()).max().unwrap();
        dropped += first;
        let seen = benches.iter_mut().map(|bench| {
            let ledger = bench.ledger();
            (ledger.head(), records(ledger, first), ledger.load_checkpoint().unwrap())
        });
        let seen: Vec<_> = seen.collect();
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}");
    }
    assert!(dropped > 0, "nothing was ever dropped");
}

#[test]
fn rows_for_more_than_one_batch_become_batches_in_their_order() {
    assert_eq!(batches(Vec::new()), [Vec::<Vec<u8>>::new()]);
    let many = MAX_BATCH_RECORDS * 2 + 1;
    let rows: Vec<Vec<u8>> = (0..many).map(|n| n.to_be_bytes().to_vec()).collect();
    let made = batches(rows.clone());
    assert_eq!(made.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_BATCH_RECORDS, MAX_BATCH_RECORDS, 1]);
    assert_eq!(made.concat(), rows);
    let large = batches(vec![vec![0; MAX_RECORD_BYTES]; 9]);
    assert!(large.len() > 1 && large.iter().all(|batch| check_batch(batch).is_ok()));
    assert_eq!(large.concat().len(), 9);
}
