//! How records lie on the disk: in runs, so that a batch is a few large rows and not many small ones.
//!
//! A row is the hash of its last record, the hash of the record before its first, its number among the rows, and its
//! records, each behind its length; numbers are big-endian.

use super::chain_hash;
use swarm_crypto::digest::Digest;

/// Records of one run together, with their lengths; a larger record has a run of its own. With its head, such a row
/// fills the 64 KiB that a page of the database has for it.
const MAX_RUN_BYTES: usize = 60 << 10;
const LENGTH_BYTES: usize = size_of::<u32>();

/// Records that follow one another, as one row holds them.
#[derive(Debug)]
pub struct Run<'a> {
    /// How many rows are before it.
    pub number: u64,
    /// The hash of the record before.
    pub anchor: Digest,
    /// The hash of its last record.
    pub end: Digest,
    pub records: Vec<&'a [u8]>,
}

impl<'a> Run<'a> {
    /// Reads a row; says nothing yet about its hashes.
    pub fn decode(row: &'a [u8]) -> Option<Self> {
        let (end, row) = row.split_first_chunk()?;
        let (anchor, row) = row.split_first_chunk()?;
        let (number, mut rest) = row.split_first_chunk()?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<LENGTH_BYTES>()?;
            let (record, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            records.push(record);
            rest = after;
        }
        let number = u64::from_be_bytes(*number);
        (!records.is_empty()).then_some(Self { number, anchor: Digest(*anchor), end: Digest(*end), records })
    }

    /// Whether its records are the ones that were hashed.
    pub fn is_whole(&self) -> bool {
        self.fold(self.records.len()) == self.end
    }

    /// The hash of the record before the one at `place`.
    pub fn hash_before(&self, place: usize) -> Option<Digest> {
        (place <= self.records.len()).then(|| self.fold(place))
    }

    /// The hash of its record at `place`, by what the row says of its ends.
    pub fn hash_at(&self, place: usize) -> Option<Digest> {
        match self.records.len().checked_sub(place)? {
            0 => None,
            1 => Some(self.end),
            _ => Some(self.fold(place + 1)),
        }
    }

    fn fold(&self, count: usize) -> Digest {
        self.records[..count].iter().fold(self.anchor, |hash, record| chain_hash(&hash, record))
    }
}

/// The row of these records, and the hash of the last of them.
pub fn encode(number: u64, anchor: &Digest, records: &[Vec<u8>]) -> (Vec<u8>, Digest) {
    let end = records.iter().fold(*anchor, |hash, record| chain_hash(&hash, record));
    let mut row = [end.as_bytes().as_slice(), anchor.as_bytes(), &number.to_be_bytes()].concat();
    row.reserve_exact(records.iter().map(|record| LENGTH_BYTES + record.len()).sum());
    for record in records {
        let length = u32::try_from(record.len()).expect("records are bounded");
        row.extend_from_slice(&length.to_be_bytes());
        row.extend_from_slice(record);
    }
    (row, end)
}

/// Cuts a batch where its runs end.
pub fn runs(mut batch: &[Vec<u8>]) -> impl Iterator<Item = &[Vec<u8>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |record: &&Vec<u8>| {
            bytes += LENGTH_BYTES + record.len();
            bytes <= MAX_RUN_BYTES
        };
        let count = batch.iter().take_while(fits).count().max(1);
        let (run, rest) = batch.split_at_checked(count)?;
        batch = rest;
        Some(run)
    })
}
