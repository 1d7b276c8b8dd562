//! Reading along: what a miner tells of an answer before it is proven, and how that is held against what is proven.
//!
//! Nothing of it is signed, so nothing of it counts: who reads along compares what came with the output that the proof
//! delivered, byte by byte.

use crate::statement::MAX_OUTPUT_BYTES;
use serde::{Deserialize, Serialize};
use swarm_crypto::digest::Digest;

/// The most text of one piece, in bytes.
pub const MAX_PIECE_BYTES: usize = 64 * 1024;

/// A part of an output that is still being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Under which lease.
    pub lease: Digest,
    /// Bytes of the output before it.
    pub from: u64,
    /// The bytes; none if there is nothing new.
    #[serde(with = "serde_bytes")]
    pub text: Vec<u8>,
    /// Tokens (or the workload's own steps) made so far.
    pub units: u64,
    /// Digest of the transcript so far, as in `Progress`.
    pub prefix: Digest,
    /// Whether nothing comes after it.
    pub ended: bool,
}

/// Why a miner is not read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// It works under another lease.
    #[error("the miner tells of another lease")]
    Lease,
    /// It does not go on where it was.
    #[error("the miner does not go on where it was")]
    Gap,
    /// It goes back in its own transcript.
    #[error("the miner takes back what it made")]
    Back,
    /// It is longer than any output.
    #[error("the miner tells more than an output can hold")]
    TooLong,
}

/// What has been read of one lease's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streamed {
    lease: Digest,
    text: Vec<u8>,
    units: u64,
}

impl Streamed {
    /// Nothing of the output that is made under `lease`.
    pub fn of(lease: Digest) -> Self {
        Self { lease, text: Vec::new(), units: 0 }
    }

    /// The lease.
    pub fn lease(&self) -> Digest {
        self.lease
    }

    /// Bytes read.
    pub fn len(&self) -> u64 {
        self.text.len() as u64
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Takes the next piece.
    pub fn take(&mut self, piece: &Piece) -> Result<(), StreamFault> {
        if piece.lease != self.lease {
            return Err(StreamFault::Lease);
        }
        if piece.from != self.len() {
            return Err(StreamFault::Gap);
        }
        if piece.units < self.units {
            return Err(StreamFault::Back);
        }
        if self.len() + piece.text.len() as u64 > MAX_OUTPUT_BYTES {
            return Err(StreamFault::TooLong);
        }
        self.units = piece.units;
        self.text.extend_from_slice(&piece.text);
        Ok(())
    }

    /// What of a proven output was not read yet; nothing if what was read is not how it begins.
    pub fn rest<'a>(&self, output: &'a [u8]) -> Option<&'a [u8]> {
        output.strip_prefix(self.text.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Digest = Digest([1; 32]);

    fn piece(from: u64, text: &str, units: u64) -> Piece {
        Piece { lease: LEASE, from, text: text.into(), units, prefix: Digest([2; 32]), ended: false }
    }

    #[test]
    fn pieces_follow_each_other_and_are_held_against_the_output() {
        let mut streamed = Streamed::of(LEASE);
        assert!(streamed.is_empty());
        for next in [piece(0, "It is ", 2), piece(6, "", 2), piece(6, "a truth", 4)] {
            assert_eq!(streamed.take(&next), Ok(()));
        }
        assert_eq!(streamed.rest(b"It is a truth universally"), Some(&b" universally"[..]));
        assert_eq!(streamed.rest(b"It is a truth"), Some(&b""[..]));
        assert_eq!(streamed.rest(b"It is"), None, "the miner said more than it proved");
        assert_eq!(streamed.rest(b"It was a truth universally"), None);
    }

    #[test]
    fn what_does_not_follow_is_refused_and_changes_nothing() {
        let mut streamed = Streamed::of(LEASE);
        streamed.take(&piece(0, "It", 3)).unwrap();
        let before = streamed.clone();
        let other = Piece { lease: Digest([9; 32]), ..piece(2, " is", 4) };
        let long = Piece { text: vec![0; MAX_OUTPUT_BYTES as usize], ..piece(2, "", 4) };
        for (next, fault) in [
            (other, StreamFault::Lease),
            (piece(0, "It", 4), StreamFault::Gap),
            (piece(3, "is", 4), StreamFault::Gap),
            (piece(2, " is", 2), StreamFault::Back),
            (long, StreamFault::TooLong),
        ] {
            assert_eq!(streamed.take(&next), Err(fault));
            assert_eq!(streamed, before);
        }
    }
}
