//! The workload `embed`: one vector of unit length for each text.

use super::read_transcript;
use crate::acceptance::{AcceptanceFault, WorkUnits, check_named, check_named_output, check_prefixes};
use crate::codec::{self, CodecError, Link, hash};
use crate::statement::{Job, JobType, MAX_NAME_BYTES, MAX_TRANSCRIPT_BYTES, Proof};
use serde::{Deserialize, Serialize};
use serde_bytes::Bytes;
use swarm_crypto::digest::{Context, Digest};

/// Most texts of one job.
pub const MAX_TEXTS: usize = 256;
/// Most tokens of one text.
pub const MAX_TEXT_TOKENS: usize = 512;
/// Most numbers of one vector; [`MAX_TEXTS`] vectors of them fill the longest output.
pub const MAX_DIMENSIONS: u32 = 1024;
/// Bytes of one number.
pub(crate) const NUMBER_BYTES: usize = 4;
/// One, in the fixed point of [`magnitude`], squared.
const ONE_SQUARED: u128 = 1 << 60;
/// How far a vector's squared length may be from one: 2^−10.
const SLACK: u128 = 1 << 50;

/// The texts of an input: the pieces between line feeds that hold more than spaces, tabs and carriage returns, at most
/// the first [`MAX_TEXTS`]. An input without any is one empty text.
pub fn texts(input: &str) -> Vec<&str> {
    let texts: Vec<_> = pieces(input).take(MAX_TEXTS).collect();
    if texts.is_empty() { vec![""] } else { texts }
}

/// How many texts somebody wrote, those beyond [`MAX_TEXTS`] counted.
pub fn count(input: &str) -> usize {
    pieces(input).count()
}

fn pieces(input: &str) -> impl Iterator<Item = &str> {
    input.split('\n').filter(|piece| !piece.trim_matches([' ', '\t', '\r']).is_empty())
}

/// A run of an embedding model, as a canonical DAG-CBOR block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// Name of the model.
    pub model: String,
    /// Digest of the model.
    pub model_digest: Digest,
    /// Token ids of each text, in the order of the texts.
    pub texts: Vec<Vec<u32>>,
}

impl Transcript {
    /// The canonical block.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a block, refusing non-canonical bytes and whatever passes the limits of size, texts or tokens.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let longest = |run: &Self| run.texts.iter().map(Vec::len).max().unwrap_or(0);
        read_transcript(bytes, MAX_TRANSCRIPT_BYTES, |run: &Self| {
            [
                (run.model.len(), MAX_NAME_BYTES, "bytes in the model's name"),
                (run.texts.len(), MAX_TEXTS, "texts"),
                (longest(run), MAX_TEXT_TOKENS, "tokens in a text"),
            ]
        })
    }

    /// The link to the block.
    pub fn link(&self) -> Link {
        Link::of(&self.encode())
    }
}

/// The digest of a run while it grows: `p₀ = H(lease, model digest)`, `pₙ₊₁ = H(pₙ, token ids, vector)` in the context
/// *prefix*, vectors as byte strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixDigest {
    digest: Digest,
    texts: u64,
}

impl PrefixDigest {
    /// The digest before the first text.
    pub fn new(lease: &Digest, model_digest: &Digest) -> Self {
        Self { digest: hash(Context::Prefix, &(lease, model_digest)), texts: 0 }
    }

    /// Takes the next text's token ids and the bytes of its vector.
    pub fn push(&mut self, ids: &[u32], vector: &[u8]) {
        self.digest = hash(Context::Prefix, &(self.digest, ids, Bytes::new(vector)));
        self.texts += 1;
    }

    /// The digest of all texts so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many texts it covers: the units of a `Progress`.
    pub fn texts(&self) -> u64 {
        self.texts
    }
}

/// What the model's manifest and tokenizer say of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The model's name.
    pub name: String,
    /// The model's digest.
    pub digest: Digest,
    /// Numbers of a vector, 1 to [`MAX_DIMENSIONS`].
    pub dimensions: u32,
    /// Work units per token.
    pub weight_in: u32,
    /// Work units per text.
    pub weight_out: u32,
    /// Token ids of each of the job's [`texts`].
    pub texts: Vec<Vec<u32>>,
}

/// The rule: the work units of `job` if what was delivered under `proof` is an acceptable answer to it.
///
/// `progress` holds the (units, prefix digest) pairs that the holder reported.
pub fn check(
    job: &Job,
    progress: &[(u64, Digest)],
    (proof, transcript, output): (&Proof, &[u8], &[u8]),
    model: &Facts,
) -> Result<WorkUnits, AcceptanceFault> {
    check_named(proof, transcript)?;
    let transcript = Transcript::decode(transcript)?;
    if job.job_type != JobType::Embed {
        return Err(AcceptanceFault::Workload(job.job_type));
    }
    super::check_input(job)?;
    crate::acceptance::check_prompt(job)?;
    if transcript.model != job.model || transcript.model != model.name {
        return Err(AcceptanceFault::Model);
    }
    if transcript.model_digest != model.digest {
        return Err(AcceptanceFault::ModelDigest);
    }
    if transcript.texts != model.texts {
        return Err(AcceptanceFault::Prompt);
    }
    check_named_output(proof, output)?;
    let bytes = NUMBER_BYTES * model.dimensions as usize;
    let due = (transcript.texts.len() * bytes) as u64;
    if output.len() as u64 != due {
        return Err(AcceptanceFault::OutputShape { found: output.len() as u64, due });
    }
    output.chunks_exact(bytes).enumerate().try_for_each(|(n, vector)| check_vector(n, vector))?;
    let mut prefix = PrefixDigest::new(&proof.lease, &transcript.model_digest);
    let mut answered = transcript.texts.iter().zip(output.chunks_exact(bytes));
    check_prefixes(progress, prefix.digest(), || {
        let (ids, vector) = answered.next()?;
        prefix.push(ids, vector);
        Some(prefix.digest())
    })?;
    let tokens: u64 = transcript.texts.iter().map(|ids| ids.len() as u64).sum();
    let texts = transcript.texts.len() as u64;
    Ok(WorkUnits(tokens * u64::from(model.weight_in) + texts * u64::from(model.weight_out)))
}

/// Refuses numbers that are not finite, and vectors whose length is not one.
fn check_vector(n: usize, vector: &[u8]) -> Result<(), AcceptanceFault> {
    let (numbers, []) = vector.as_chunks::<NUMBER_BYTES>() else {
        return Err(AcceptanceFault::VectorLength(n));
    };
    let mut squares = 0u128;
    for number in numbers {
        let bits = u32::from_le_bytes(*number);
        if bits >> 23 & 0xff == 0xff {
            return Err(AcceptanceFault::NotFinite(n));
        }
        let size = magnitude(bits).ok_or(AcceptanceFault::VectorLength(n))?;
        squares += u128::from(size * size);
    }
    if squares.abs_diff(ONE_SQUARED) > SLACK { Err(AcceptanceFault::VectorLength(n)) } else { Ok(()) }
}

/// `⌊|x| · 2^30⌋` of the finite binary32 number with these bits; nothing for 2 and more.
pub(crate) fn magnitude(bits: u32) -> Option<u64> {
    let exponent = bits >> 23 & 0xff;
    let mantissa = u64::from(bits & 0x7f_ffff | 0x80_0000);
    match exponent {
        0 => Some(0),
        1..=119 => Some(mantissa.checked_shr(120 - exponent).unwrap_or(0)),
        120..=127 => Some(mantissa << (exponent - 120)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_lines_that_hold_something() {
        assert_eq!(texts("one\ntwo \r\n\n \t\r\nthree"), ["one", "two \r", "three"]);
        assert_eq!(texts("\n \n"), [""]);
        let many = "x\n".repeat(MAX_TEXTS + 5);
        assert_eq!((texts(&many).len(), count(&many)), (MAX_TEXTS, MAX_TEXTS + 5));
        assert_eq!(
            texts("a\u{2028}b\u{b}\n\u{3000}"),
            ["a\u{2028}b\u{b}", "\u{3000}"],
            "only line feeds part"
        );
    }

    #[test]
    fn magnitudes_are_those_of_floats() {
        let mut bits = 0u32;
        for _ in 0..100_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = f64::from(f32::from_bits(bits).abs());
            let due = (number < 2.0).then(|| (number * f64::from(1 << 30)) as u64);
            assert_eq!(magnitude(bits), due.filter(|_| number.is_finite()), "{bits:08x} {number}");
        }
        assert_eq!(magnitude(1.0f32.to_bits()), Some(1 << 30));
    }

    #[test]
    fn a_vector_is_finite_and_of_unit_length() {
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        let refused = |numbers: &[f32]| check_vector(3, &bytes(numbers)).err();
        for good in [&[1.0, 0.0][..], &[-0.6, 0.8], &[0.0, -1.000_4, f32::MIN_POSITIVE / 2.0], &[0.999_6]] {
            assert_eq!(refused(good), None, "{good:?}");
        }
        for long in [&[1.001, 0.0][..], &[0.999], &[0.6, 0.81], &[0.0, -0.0], &[2.0], &[f32::MAX]] {
            assert_eq!(refused(long), Some(AcceptanceFault::VectorLength(3)), "{long:?}");
        }
        for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)] {
            assert_eq!(refused(&[1.0, odd]), Some(AcceptanceFault::NotFinite(3)), "{odd}");
        }
    }

    #[test]
    fn the_longest_job_fits() {
        let texts = vec![vec![u32::from(u16::MAX) + 1; MAX_TEXT_TOKENS]; MAX_TEXTS];
        let longest = Transcript { model: "m".repeat(MAX_NAME_BYTES), model_digest: Digest([3; 32]), texts };
        let block = longest.encode();
        assert!(block.len() as u64 <= MAX_TRANSCRIPT_BYTES, "{}", block.len());
        assert_eq!(Transcript::decode(&block), Ok(longest.clone()));
        let numbers = MAX_TEXTS as u64 * u64::from(MAX_DIMENSIONS);
        assert_eq!(numbers * NUMBER_BYTES as u64, crate::statement::MAX_OUTPUT_BYTES);
        let more = |texts: Vec<Vec<u32>>| Transcript { texts, ..longest.clone() }.encode();
        assert!(Transcript::decode(&more(vec![vec![1]; MAX_TEXTS + 1])).is_err());
        assert!(Transcript::decode(&more(vec![vec![1; MAX_TEXT_TOKENS + 1]])).is_err());
        let named = Transcript { model: "m".repeat(MAX_NAME_BYTES + 1), texts: vec![], ..longest.clone() };
        assert!(Transcript::decode(&named.encode()).is_err());
    }
}
