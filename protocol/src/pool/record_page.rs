use super::record::{Entry, Record, chain_hash};
use crate::codec::{self, CodecError, JobId, Link};
use crate::statement::Signed;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use swarm_crypto::digest::Digest;

/// Bytes of rows in one page.
pub const MAX_PAGE_BYTES: usize = 512 << 10;
/// The longest row that is read from pages, in bytes.
pub const MAX_ROW_BYTES: usize = 16 << 20;

/// A DAG-CBOR block with some records of an epoch, in order. All pages of an epoch together are a pure function of its
/// range in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordPage {
    /// Sequence number of the first record of `records`.
    pub first_seq: u64,
    /// Chain hash of the record before that.
    pub previous: Digest,
    /// What the page before had no room for of its last row.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub carried: ByteBuf,
    /// The rows, as the ledger has them.
    pub records: Vec<ByteBuf>,
}

impl RecordPage {
    fn starting(first_seq: u64, previous: Digest) -> Self {
        Self { first_seq, previous, carried: ByteBuf::new(), records: Vec::new() }
    }

    /// The lease and the proof by which a job was accepted, if that is among the rows of this page; a page is good by
    /// itself where its link comes from a header that is.
    pub fn acceptance(&self, wanted: &JobId) -> Option<(Digest, Signed)> {
        // A row that goes on in the next page is too long for an acceptance.
        let rows = self.records.iter().filter_map(|row| Entry::decode(row).ok());
        rows.into_iter().find_map(|row| match row.record {
            Record::Accepted { job, lease, proof, .. } if job == *wanted => Some((lease, proof)),
            _ => None,
        })
    }
}

/// In which order to look through `pages` pages of an epoch for the acceptance `index` of `accepted`: from where it is if all
/// pages have equally many, to both sides.
pub fn pages_around(index: u64, accepted: u64, pages: usize) -> impl Iterator<Item = usize> {
    let share = u128::from(index) * pages as u128 / u128::from(accepted.max(1));
    let from = usize::try_from(share).unwrap_or(usize::MAX).min(pages.saturating_sub(1));
    let beside = (1..pages).flat_map(move |far| [from.checked_sub(far), from.checked_add(far)]);
    std::iter::once(Some(from)).chain(beside).flatten().filter(move |page| *page < pages)
}

/// The pages of the open epoch, filled as its records come, so that sealing it costs no more than the last page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPages {
    full: Vec<Link>,
    open: RecordPage,
    /// Bytes of rows in the open page.
    bytes: u64,
}

impl RecordPages {
    /// No pages yet; the epoch begins with this record, after one with the chain hash `previous`.
    pub fn new(first_seq: u64, previous: Digest) -> Self {
        Self { full: Vec::new(), open: RecordPage::starting(first_seq, previous), bytes: 0 }
    }

    /// Takes the row `seq`, with the chain hashes `before` and `after` it; gives the blocks of pages that are full now.
    pub fn push(&mut self, row: &[u8], seq: u64, (before, after): (Digest, Digest)) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        if self.bytes > 0 && self.bytes + row.len() as u64 > MAX_PAGE_BYTES as u64 {
            blocks.push(self.turn(seq, before));
        }
        let mut parts = row.chunks(MAX_PAGE_BYTES);
        let first = parts.next().unwrap_or_default();
        self.open.records.push(ByteBuf::from(first));
        self.bytes += first.len() as u64;
        for part in parts {
            blocks.push(self.turn(seq + 1, after));
            self.open.carried = ByteBuf::from(part);
            self.bytes = part.len() as u64;
        }
        blocks
    }

    /// Ends the last page and gives its block.
    pub fn finish(&mut self) -> Vec<u8> {
        self.turn(self.open.first_seq, self.open.previous)
    }

    /// The pages that are full.
    pub fn links(&self) -> &[Link] {
        &self.full
    }

    fn turn(&mut self, first_seq: u64, previous: Digest) -> Vec<u8> {
        let page = std::mem::replace(&mut self.open, RecordPage::starting(first_seq, previous));
        self.bytes = 0;
        let block = codec::encode(&page);
        self.full.push(Link::of(&block));
        block
    }
}

/// Why pages are not the records of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not a page.
    #[error("record page {0} is unreadable: {1}")]
    Unreadable(u64, CodecError),
    /// A page that does not continue the ones before.
    #[error("record page {0} does not follow the one before")]
    Gap(u64),
    /// A row over [`MAX_ROW_BYTES`].
    #[error("record {0} is too long")]
    TooLong(u64),
    /// A row that is no record.
    #[error("record {0} is unreadable: {1}")]
    NoRecord(u64, CodecError),
}

/// A row of the ledger, read, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it says.
    pub entry: Entry,
    /// As the ledger has it.
    pub bytes: Vec<u8>,
}

/// Reads the pages of an epoch, block after block, and chains their records by hash.
#[derive(Debug)]
pub struct RecordReader {
    page: u64,
    next_seq: u64,
    head: Digest,
    /// The last row, which may go on in the next page.
    last: Option<ByteBuf>,
}

impl RecordReader {
    /// A reader of an epoch that begins with this record, after one with the chain hash `previous`.
    pub fn new(first_seq: u64, previous: Digest) -> Self {
        Self { page: 0, next_seq: first_seq, head: previous, last: None }
    }

    /// Takes the next page; gives the records that are complete.
    pub fn supply(&mut self, block: &[u8]) -> Result<Vec<Row>, PageError> {
        let number = self.page;
        let page: RecordPage = codec::decode(block).map_err(|e| PageError::Unreadable(number, e))?;
        self.page += 1;
        if !page.carried.is_empty() {
            let last = self.last.as_mut().ok_or(PageError::Gap(number))?;
            if last.len() + page.carried.len() > MAX_ROW_BYTES {
                return Err(PageError::TooLong(self.next_seq));
            }
            last.extend_from_slice(&page.carried);
        }
        let mut complete = Vec::new();
        for (nth, row) in page.records.into_iter().enumerate() {
            complete.extend(self.settle()?);
            if nth == 0 && (page.first_seq, page.previous) != (self.next_seq, self.head) {
                return Err(PageError::Gap(number));
            }
            self.last = Some(row);
        }
        Ok(complete)
    }

    /// The last record, and where the ledger goes on: the number of the next record and the chain hash before it.
    pub fn finish(mut self) -> Result<(Option<Row>, u64, Digest), PageError> {
        let last = self.settle()?;
        Ok((last, self.next_seq, self.head))
    }

    fn settle(&mut self) -> Result<Option<Row>, PageError> {
        let Some(row) = self.last.take() else { return Ok(None) };
        let entry = Entry::decode(&row).map_err(|e| PageError::NoRecord(self.next_seq, e))?;
        self.head = chain_hash(&self.head, &row);
        self.next_seq += 1;
        Ok(Some(Row { entry, bytes: row.into_vec() }))
    }
}

fn is_empty(bytes: &ByteBuf) -> bool {
    bytes.is_empty()
}
