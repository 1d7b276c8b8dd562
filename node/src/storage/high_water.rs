//! How far this process has relied on the ledger and what it has signed: kept beside the ledger, never in it.
//!
//! A ledger that lacks or contradicts this mark (a restored backup, a promoted replica that lost its tail) is
//! refused, because what was said on its strength cannot be taken back.

use super::disk::{DiskError, write_atomic};
use super::ledger::{Ledger, LedgerError};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use swarm_crypto::digest::Digest;

/// The last record relied on and the last header signed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub record: Option<RecordMark>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub header: Option<HeaderMark>,
}

/// A record's sequence number and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordMark {
    pub seq: u64,
    pub hash: Digest,
}

/// An epoch header's number and CID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderMark {
    pub number: u64,
    pub cid: String,
}

/// Why the pool must not go on with this ledger.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HaltReason {
    #[error(
        "the pool halts: this ledger ends before record {next_seq}, but records up to {relied_on} were relied on; records {next_seq} to {relied_on} are missing and must be copied back from the ledger that has them (a backup, the former primary) before the pool goes on"
    )]
    RecordsMissing { next_seq: u64, relied_on: u64 },
    #[error(
        "the pool halts: record {seq} of this ledger has hash {found}, but {expected} was relied on; this is another history: copy the ledger with record {expected} back, with everything after it"
    )]
    OtherHistory { seq: u64, expected: String, found: String },
    #[error(
        "the pool halts: header {signed} was signed as {cid}, but this ledger's last header is {last}; the records that are missing must be copied back from the ledger that has them"
    )]
    HeaderMissing { signed: u64, cid: String, last: String },
    #[error(
        "the pool halts: header {number} was signed as {signed}, but this ledger has {found} there; copy back the ledger that has the signed one"
    )]
    OtherHeader { number: u64, signed: String, found: String },
    #[error("the pool halts: the ledger cannot be checked: {0}")]
    Ledger(#[from] LedgerError),
}

/// Why the mark was not read or moved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HighWaterError {
    #[error("record {seq} is behind the mark at {mark}; nothing was written")]
    RecordBehind { seq: u64, mark: u64 },
    #[error("record {seq} was relied on as {expected}, not as {found}; nothing was written")]
    OtherRecord { seq: u64, expected: String, found: String },
    #[error("header {number} must not be signed as {cid}: header {last} was signed as {last_cid}")]
    HeaderConflict { number: u64, cid: String, last: u64, last_cid: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The mark and the file that holds it.
#[derive(Debug)]
pub struct HighWater {
    path: PathBuf,
    mark: Mark,
}

impl HighWater {
    /// Reads the mark; a file that does not exist is a process that has relied on nothing yet.
    pub fn open(path: &Path) -> Result<Self, HighWaterError> {
        let mark = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| DiskError::damaged(path, format!("it is no high-water mark ({error})")))?,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Mark::default(),
            Err(cause) => return Err(DiskError::io("read", path, cause).into()),
        };
        Ok(Self { path: path.to_owned(), mark })
    }

    /// The mark as it is on disk.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Moves the mark to a record that is about to be relied on; durable when it returns.
    pub fn rely_on(&mut self, seq: u64, hash: Digest) -> Result<(), HighWaterError> {
        if let Some(mark) = &self.mark.record {
            if seq < mark.seq {
                return Err(HighWaterError::RecordBehind { seq, mark: mark.seq });
            }
            if seq == mark.seq && hash != mark.hash {
                return Err(HighWaterError::OtherRecord {
                    seq,
                    expected: mark.hash.to_string(),
                    found: hash.to_string(),
                });
            }
        }
        let record = Some(RecordMark { seq, hash });
        self.store(Mark { record, ..self.mark.clone() })
    }

    /// Notes a header that is about to be signed; a second one for the same or an earlier number is refused.
    pub fn sign_header(&mut self, number: u64, cid: &str) -> Result<(), HighWaterError> {
        if let Some(last) = &self.mark.header {
            let again = number == last.number && cid == last.cid;
            if number <= last.number && !again {
                return Err(HighWaterError::HeaderConflict {
                    number,
                    cid: cid.to_owned(),
                    last: last.number,
                    last_cid: last.cid.clone(),
                });
            }
        }
        let header = Some(HeaderMark { number, cid: cid.to_owned() });
        self.store(Mark { header, ..self.mark.clone() })
    }

    /// Refuses a ledger that lacks the record relied on or holds another one in its place.
    pub fn check(&self, ledger: &dyn Ledger) -> Result<(), HaltReason> {
        let Some(mark) = &self.mark.record else {
            return Ok(());
        };
        match ledger.hash_at(mark.seq)? {
            None => Err(HaltReason::RecordsMissing { next_seq: ledger.next_seq(), relied_on: mark.seq }),
            Some(found) if found != mark.hash => Err(HaltReason::OtherHistory {
                seq: mark.seq,
                expected: mark.hash.to_string(),
                found: found.to_string(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// Refuses a ledger whose last fixed header is before, or another than, the last one signed.
    pub fn check_header(&self, last: Option<(u64, &str)>) -> Result<(), HaltReason> {
        let Some(signed) = &self.mark.header else {
            return Ok(());
        };
        match last {
            Some((number, _)) if number > signed.number => Ok(()),
            Some((number, cid)) if number == signed.number && cid == signed.cid => Ok(()),
            Some((number, cid)) if number == signed.number => {
                Err(HaltReason::OtherHeader { number, signed: signed.cid.clone(), found: cid.to_owned() })
            }
            earlier => Err(HaltReason::HeaderMissing {
                signed: signed.number,
                cid: signed.cid.clone(),
                last: earlier.map_or_else(|| "none".to_owned(), |(number, _)| number.to_string()),
            }),
        }
    }

    fn store(&mut self, mark: Mark) -> Result<(), HighWaterError> {
        if mark != self.mark {
            let text = serde_json::to_vec_pretty(&mark).expect("a mark has only string keys");
            write_atomic(&self.path, &text)?;
            self.mark = mark;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::ledger::MemoryLedger;

    fn ledger(words: &[&str]) -> MemoryLedger {
        let mut ledger = MemoryLedger::new();
        let batch: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        ledger.append(0, &batch).unwrap();
        ledger
    }

    fn opened(directory: &tempfile::TempDir) -> HighWater {
        HighWater::open(&directory.path().join("high-water.json")).unwrap()
    }

    #[test]
    fn a_first_start_accepts_any_ledger() {
        let directory = tempfile::tempdir().unwrap();
        let mark = opened(&directory);
        mark.check(&ledger(&[])).unwrap();
        mark.check(&ledger(&["a"])).unwrap();
        mark.check_header(None).unwrap();
    }

    #[test]
    fn the_mark_is_on_disk_when_a_move_returns() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&["a", "b"]);
        let mut mark = opened(&directory);
        mark.rely_on(1, ledger.head()).unwrap();
        assert_eq!(opened(&directory).mark(), mark.mark());
        mark.sign_header(0, "bafyheader").unwrap();
        assert_eq!(opened(&directory).mark(), mark.mark());
        assert_eq!(mark.mark().record.as_ref().unwrap().seq, 1);
    }

    #[test]
    fn a_ledger_that_goes_on_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = opened(&directory);
        mark.rely_on(1, ledger(&["a", "b"]).head()).unwrap();
        mark.check(&ledger(&["a", "b"])).unwrap();
        mark.check(&ledger(&["a", "b", "c"])).unwrap();
    }

    #[test]
    fn a_lost_tail_halts_and_names_what_to_copy_back() {
        let directory = tempfile::tempdir().unwrap();
        opened(&directory).rely_on(2, ledger(&["a", "b", "c"]).head()).unwrap();
        let halt = opened(&directory).check(&ledger(&["a"])).unwrap_err();
        assert!(matches!(halt, HaltReason::RecordsMissing { next_seq: 1, relied_on: 2 }));
        let message = halt.to_string();
        assert!(message.contains("records 1 to 2 are missing and must be copied back"), "{message}");
    }

    #[test]
    fn another_history_halts_also_when_it_is_longer() {
        let directory = tempfile::tempdir().unwrap();
        opened(&directory).rely_on(1, ledger(&["a", "b"]).head()).unwrap();
        for other in [&["x", "b"][..], &["a", "x", "c", "d"]] {
            let halt = opened(&directory).check(&ledger(other)).unwrap_err();
            assert!(matches!(halt, HaltReason::OtherHistory { seq: 1, .. }), "{halt}");
        }
    }

    #[test]
    fn the_mark_never_moves_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = opened(&directory);
        mark.rely_on(5, Digest([5; 32])).unwrap();
        mark.rely_on(5, Digest([5; 32])).unwrap();
        assert!(matches!(mark.rely_on(4, Digest([4; 32])), Err(HighWaterError::RecordBehind { .. })));
        assert!(matches!(mark.rely_on(5, Digest([6; 32])), Err(HighWaterError::OtherRecord { .. })));
        assert_eq!(opened(&directory).mark(), mark.mark());
        mark.rely_on(9, Digest([9; 32])).unwrap();
    }

    #[test]
    fn two_headers_are_never_signed_for_one_number() {
        let directory = tempfile::tempdir().unwrap();
        opened(&directory).sign_header(3, "bafyone").unwrap();
        let mut mark = opened(&directory);
        mark.sign_header(3, "bafyone").unwrap();
        for (number, cid) in [(3, "bafytwo"), (2, "bafyone")] {
            let refused = mark.sign_header(number, cid).unwrap_err();
            assert!(matches!(refused, HighWaterError::HeaderConflict { .. }));
        }
        mark.sign_header(4, "bafytwo").unwrap();
    }

    #[test]
    fn a_ledger_without_the_signed_header_halts() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = opened(&directory);
        mark.sign_header(3, "bafyone").unwrap();
        mark.check_header(Some((3, "bafyone"))).unwrap();
        mark.check_header(Some((4, "bafytwo"))).unwrap();
        for last in [None, Some((2, "bafyzero"))] {
            let halt = mark.check_header(last).unwrap_err();
            assert!(matches!(halt, HaltReason::HeaderMissing { signed: 3, .. }), "{halt}");
        }
        let halt = mark.check_header(Some((3, "bafytwo"))).unwrap_err();
        assert!(matches!(halt, HaltReason::OtherHeader { .. }), "{halt}");
    }

    #[test]
    fn a_damaged_mark_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("high-water.json");
        for text in ["", "{", "{\"record\":{\"seq\":1,\"hash\":\"00\"}}", "{\"recrod\":null}"] {
            std::fs::write(&path, text).unwrap();
            let refused = HighWater::open(&path).unwrap_err();
            assert!(refused.to_string().contains("damaged"), "{refused}");
        }
    }
}
