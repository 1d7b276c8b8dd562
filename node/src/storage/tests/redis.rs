//! What holds for a ledger on Redis alone: one writer, and no belief in a server that has lost something.

use super::redis_server::RedisServer;
use super::{POOL, records};
use crate::storage::ledger::{Ledger, LedgerError, RedisLedger};
use std::path::PathBuf;

/// A server, and the copies of the processes that use it.
struct Site {
    server: RedisServer,
    copies: tempfile::TempDir,
}

impl Site {
    fn new() -> Option<Self> {
        Some(Self { server: RedisServer::start()?, copies: tempfile::tempdir().unwrap() })
    }

    fn copy(&self, name: &str) -> PathBuf {
        self.copies.path().join(format!("{name}.redb"))
    }

    fn open(&self, name: &str) -> Result<RedisLedger, LedgerError> {
        let mut ledger = RedisLedger::open(self.server.config(name), &self.copy(name), &POOL)?;
        ledger.follow(&mut |_, _| Ok(()))?;
        Ok(ledger)
    }

    fn redis(&self, command: &[&str]) -> redis::Value {
        let mut connection = redis::Client::open(self.server.url()).unwrap().get_connection().unwrap();
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection).unwrap()
    }
}

fn batch(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn of_two_writers_one_is_refused_and_the_other_follows() {
    let Some(site) = Site::new() else { return };
    let (mut first, mut second) = (site.open("first").unwrap(), site.open("second").unwrap());
    first.append(0, &batch(&["a", "b"])).unwrap();
    let refused = second.append(0, &batch(&["x"]));
    assert!(matches!(&refused, Err(LedgerError::Deposed(by)) if by == "first"), "{refused:?}");
    let mut seen = Vec::new();
    second
        .follow(&mut |seq, record| {
            seen.push((seq, record.to_vec()));
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, records(&first, 0));
    assert_eq!((second.next_seq(), second.head()), (first.next_seq(), first.head()));

    // The first one goes; the second takes over, and the first finds that out.
    assert_eq!(second.take().unwrap(), Some("first".to_owned()));
    first.leave().unwrap();
    assert_eq!(second.take().unwrap(), None);
    second.append(2, &batch(&["c"])).unwrap();
    let refused = first.append(2, &batch(&["d"]));
    assert!(matches!(&refused, Err(LedgerError::Deposed(by)) if by == "second"), "{refused:?}");
    // Also once the second is gone: it knows another end.
    second.leave().unwrap();
    let refused = first.append(2, &batch(&["d"]));
    assert!(matches!(refused, Err(LedgerError::Conflict { expected: 2, found: 3 })), "{refused:?}");
}

#[test]
fn an_append_that_was_carried_out_can_be_repeated() {
    let Some(site) = Site::new() else { return };
    let mut ledger = site.open("one").unwrap();
    ledger.append(0, &batch(&["a"])).unwrap();
    // Its copy does not know of the second record, as after a crash between the two.
    let copy = std::fs::read(site.copy("one")).unwrap();
    ledger.append(1, &batch(&["b"])).unwrap();
    drop(ledger);
    std::fs::write(site.copy("one"), copy).unwrap();
    let mut again = RedisLedger::open(site.server.config("one"), &site.copy("one"), &POOL).unwrap();
    again.append(1, &batch(&["b"])).unwrap();
    assert_eq!(records(&again, 0), [(0, b"a".to_vec()), (1, b"b".to_vec())]);
    let mut other = site.open("other").unwrap();
    other.follow(&mut |_, _| Ok(())).unwrap();
    assert_eq!(other.next_seq(), 2);
}

#[test]
fn a_server_that_lost_records_is_not_believed_and_gets_them_back() {
    let Some(mut site) = Site::new() else { return };
    let mut ledger = site.open("one").unwrap();
    ledger.append(0, &batch(&["a", "b"])).unwrap();
    let backup = tempfile::tempdir().unwrap();
    copy_folder(site.server.folder(), backup.path());
    ledger.append(2, &batch(&["c"])).unwrap();
    ledger.append(3, &batch(&["d", "e"])).unwrap();
    let head = ledger.head();

    // An older dump is put back while the process runs.
    site.server.roll_back(backup.path());
    let refused = ledger.append(5, &batch(&["f"]));
    assert!(matches!(refused, Err(LedgerError::RecordsLost { next_seq: 2, relied_on: 4 })), "{refused:?}");
    drop(ledger);
    let refused = site.open("one");
    assert!(matches!(refused, Err(LedgerError::RecordsLost { next_seq: 2, relied_on: 4 })), "{refused:?}");

    let mut ledger = RedisLedger::open(site.server.config("one"), &site.copy("one"), &POOL).unwrap();
    assert_eq!(ledger.repair().unwrap(), 3);
    assert_eq!(ledger.repair().unwrap(), 0);
    drop(ledger);
    let ledger = site.open("fresh").unwrap();
    assert_eq!((ledger.next_seq(), ledger.head()), (5, head));
    // A server with another history is not repaired over.
    let other = Site::new().unwrap();
    other.open("x").unwrap().append(0, &batch(&["z"])).unwrap();
    let mut mixed = RedisLedger::open(other.server.config("x"), &site.copy("one"), &POOL).unwrap();
    assert!(matches!(mixed.repair(), Err(LedgerError::OtherHistory { seq: 0 })));
    assert!(matches!(mixed.follow(&mut |_, _| Ok(())), Err(LedgerError::RecordsLost { .. })));
}

#[test]
fn a_server_that_can_lose_what_it_acknowledged_is_refused_unless_told() {
    let Some(site) = Site::new() else { return };
    for (name, value) in
        [("appendfsync", "everysec"), ("appendonly", "no"), ("maxmemory-policy", "allkeys-lru")]
    {
        let before = site.redis(&["CONFIG", "GET", name]);
        site.redis(&["CONFIG", "SET", name, value]);
        let refused = site.open("one");
        assert!(matches!(&refused, Err(LedgerError::LossyRedis(why)) if why.contains(value)), "{refused:?}");
        let mut lossy = site.server.config("one");
        lossy.lossy = true;
        drop(RedisLedger::open(lossy, &site.copy("one"), &POOL).unwrap());
        let redis::Value::Array(pair) = before else { panic!("{before:?}") };
        let redis::Value::BulkString(old) = &pair[1] else { panic!("{pair:?}") };
        site.redis(&["CONFIG", "SET", name, std::str::from_utf8(old).unwrap()]);
    }
    site.open("one").unwrap();
}

#[test]
fn an_append_waits_for_a_server_that_starts_again() {
    let Some(mut site) = Site::new() else { return };
    let mut ledger = site.open("one").unwrap();
    ledger.append(0, &batch(&["a"])).unwrap();
    for n in 1..4 {
        site.server.kill_and_restart();
        ledger.append(n, &batch(&["b"])).unwrap();
    }
    assert_eq!(site.open("two").unwrap().next_seq(), 4);
}

#[test]
fn a_log_drops_what_is_old_and_who_comes_later_begins_with_its_checkpoint() {
    let Some(site) = Site::new() else { return };
    let mut ledger = site.open("one").unwrap();
    for (seq, word) in (0..).zip(["a", "b", "c", "d"]) {
        ledger.append(seq, &batch(&[word])).unwrap();
    }
    let late = site.open("late").unwrap();
    drop(late);
    for (seq, word) in (4..).zip(["e", "f"]) {
        ledger.append(seq, &batch(&[word])).unwrap();
    }
    let last = ledger.hash_at(4).unwrap().unwrap();
    ledger.save_checkpoint(5, b"a to e").unwrap();
    assert_eq!(ledger.compact(5, last).unwrap(), 0, "one checkpoint is not enough");
    ledger.save_checkpoint(6, b"a to f").unwrap();
    assert_eq!(ledger.compact(5, last).unwrap(), 5);
    let head = ledger.head();

    let fresh = site.open("fresh").unwrap();
    assert_eq!((fresh.first_seq(), fresh.next_seq(), fresh.head()), (6, 6, head));
    assert_eq!(fresh.load_checkpoint().unwrap(), Some((6, b"a to f".to_vec())));
    ledger.append(6, &batch(&["g"])).unwrap();
    drop(fresh);
    let fresh = site.open("fresh").unwrap();
    assert_eq!(records(&fresh, 6), [(6, b"g".to_vec())]);

    // One that was away meanwhile is not led to believe that it knows all.
    let refused = site.open("late");
    assert!(matches!(refused, Err(LedgerError::AwayForLong { first_seq: 5, next_seq: 4 })), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains("begins anew"));
}

#[test]
fn only_the_active_process_drops_records_or_keeps_a_checkpoint() {
    let Some(site) = Site::new() else { return };
    let (mut first, mut second) = (site.open("first").unwrap(), site.open("second").unwrap());
    first.append(0, &batch(&["a"])).unwrap();
    first.append(1, &batch(&["b"])).unwrap();
    second.follow(&mut |_, _| Ok(())).unwrap();
    let refused = second.save_checkpoint(1, b"a");
    assert!(matches!(&refused, Err(LedgerError::Deposed(by)) if by == "first"), "{refused:?}");
    first.save_checkpoint(1, b"a").unwrap();
    first.save_checkpoint(2, b"a b").unwrap();
    first.leave().unwrap();
    assert_eq!(second.take().unwrap(), None);
    let refused = first.compact(1, first.hash_at(0).unwrap().unwrap());
    assert!(matches!(&refused, Err(LedgerError::Deposed(by)) if by == "second"), "{refused:?}");
    let fresh = site.open("fresh").unwrap();
    assert_eq!(records(&fresh, 0).len(), 2, "nothing was dropped");
}

/// What is given back to a server is cut into other runs than before; what is dropped and read must fit all the same.
#[test]
fn runs_may_be_cut_otherwise_than_in_the_copy() {
    let Some(mut site) = Site::new() else { return };
    let backup = tempfile::tempdir().unwrap();
    let mut ledger = site.open("one").unwrap();
    ledger.append(0, &batch(&["a"])).unwrap();
    copy_folder(site.server.folder(), backup.path());
    for (seq, word) in (1..).zip(["b", "c", "d", "e"]) {
        ledger.append(seq, &batch(&[word])).unwrap();
    }
    drop(ledger);
    site.server.roll_back(backup.path());
    let mut ledger = RedisLedger::open(site.server.config("one"), &site.copy("one"), &POOL).unwrap();
    assert_eq!(ledger.repair().unwrap(), 4, "in one run");
    ledger.save_checkpoint(2, b"a b").unwrap();
    ledger.save_checkpoint(3, b"a b c").unwrap();
    assert_eq!(ledger.compact(2, ledger.hash_at(1).unwrap().unwrap()).unwrap(), 2);
    let head = ledger.head();
    let fresh = site.open("fresh").unwrap();
    assert_eq!((fresh.first_seq(), fresh.next_seq(), fresh.head()), (3, 5, head));
    assert_eq!(records(&fresh, 3), [(3, b"d".to_vec()), (4, b"e".to_vec())]);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
