//! The workload `torch_bench`: how fast a device multiplies matrices, with products that anybody can check.
//!
//! The matrices hold −1, 0 and 1, drawn from the lease's sampling seed, so that every product is exact in every number
//! format, and none can be prepared before the lease. Each repetition leaves `x · (A · B) · y` of numbers of its own:
//! with these, `(x · A) · (B · y)` is the same (Freivalds' check) and costs no product of matrices. It proves what was
//! multiplied, not how long that took: the times are the miner's word.

use super::read_transcript;
use crate::acceptance::{AcceptanceFault, WorkUnits, check_named, check_named_output, check_prefixes};
use crate::codec::{self, CodecError, Link, hash};
use crate::sampler::sampling_seed;
use crate::statement::{Input, Job, JobType, MAX_NAME_BYTES, Proof};
use serde::{Deserialize, Serialize};
use std::fmt;
use swarm_crypto::digest::{Context, Digest};

/// The largest side of a matrix; sums of so many products are exact in every format.
pub const MAX_SIDE: u32 = 4096;
/// Most repetitions.
pub const MAX_REPEATS: u32 = 32;
/// Most cells that a check goes through: `repeats · (m · k + k · n)`.
pub const MAX_CHECKED_CELLS: u64 = 1 << 28;
/// The modulus of checksums, a Mersenne prime.
const MODULUS: i64 = (1 << 31) - 1;
/// The longest transcript of a benchmark, in bytes.
const MAX_BYTES: u64 = 4096;
const NANOS_PER_S: u64 = 1_000_000_000;
/// Operations that are one work unit, before the model's weight.
const OPERATIONS_PER_UNIT: u64 = 1_000_000;

/// The number formats that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl DType {
    /// All of them, by their names on the wire.
    pub const ALL: [(&'static str, Self); 3] = [("f32", Self::F32), ("f16", Self::F16), ("bf16", Self::Bf16)];

    /// Bytes of one number.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// What is to be multiplied: an m×k matrix by a k×n matrix, so often, in one format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The format of all matrices.
    pub dtype: DType,
    /// Rows of the first matrix and of the product.
    pub m: u32,
    /// Columns of the second matrix and of the product.
    pub n: u32,
    /// Columns of the first matrix, rows of the second.
    pub k: u32,
    /// How often.
    pub repeats: u32,
}

/// Why a text is no benchmark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecFault {
    /// It is not written as one.
    #[error("a benchmark is written 'f32 512 512 512 8': f32, f16 or bf16, then m, n, k and repetitions")]
    Form,
    /// A side is out of its range.
    #[error("a side of a matrix is 1 to {MAX_SIDE}")]
    Side,
    /// The repetitions are out of their range.
    #[error("a benchmark is repeated 1 to {MAX_REPEATS} times")]
    Repeats,
    /// All repetitions together are too much to check.
    #[error("repetitions times cells of both matrices are at most {MAX_CHECKED_CELLS}")]
    TooLarge,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, m, n, k, repeats } = self;
        let name = match dtype {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        };
        write!(f, "{name} {m} {n} {k} {repeats}")
    }
}

impl Spec {
    /// Reads the one way to write a benchmark: what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<Self, SpecFault> {
        let words: Vec<_> = text.split(' ').collect();
        let [dtype, numbers @ ..] = words.as_slice() else { return Err(SpecFault::Form) };
        let (_, dtype) = DType::ALL.into_iter().find(|(name, _)| name == dtype).ok_or(SpecFault::Form)?;
        let numbers: Result<Vec<u32>, _> = numbers.iter().map(|number| number.parse()).collect();
        let Ok([m, n, k, repeats]) = numbers.as_deref() else { return Err(SpecFault::Form) };
        let spec = Self { dtype, m: *m, n: *n, k: *k, repeats: *repeats };
        spec.check()?;
        if spec.to_string() == text { Ok(spec) } else { Err(SpecFault::Form) }
    }

    /// Refuses what is out of range.
    pub fn check(&self) -> Result<(), SpecFault> {
        if [self.m, self.n, self.k].iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return Err(SpecFault::Side);
        }
        if !(1..=MAX_REPEATS).contains(&self.repeats) {
            return Err(SpecFault::Repeats);
        }
        let [m, n, k, repeats] = self.numbers();
        if repeats * (m * k + k * n) > MAX_CHECKED_CELLS { Err(SpecFault::TooLarge) } else { Ok(()) }
    }

    fn numbers(&self) -> [u64; 4] {
        [self.m, self.n, self.k, self.repeats].map(u64::from)
    }

    /// Multiplications and additions of all repetitions: `2 · m · n · k · repeats`.
    pub fn operations(&self) -> u64 {
        let [m, n, k, repeats] = self.numbers();
        2 * m * n * k * repeats
    }

    /// Bytes of all three matrices in all repetitions, each read or written once.
    pub fn traffic(&self) -> u64 {
        let [m, n, k, repeats] = self.numbers();
        (m * k + k * n + m * n) * self.dtype.bytes() * repeats
    }
}

/// One product: how long it took in nanoseconds, and its checksum.
pub type Lap = (u64, u32);

/// A run of the benchmark, as a canonical DAG-CBOR block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// Name of the model.
    pub model: String,
    /// Digest of the model.
    pub model_digest: Digest,
    /// What was multiplied.
    pub spec: String,
    /// One for each repetition.
    pub laps: Vec<Lap>,
}

impl Transcript {
    /// The canonical block.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a block, refusing non-canonical bytes and whatever passes the limits of size, name or repetitions.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        read_transcript(bytes, MAX_BYTES, |run: &Self| {
            [
                (run.model.len(), MAX_NAME_BYTES, "bytes in the model's name"),
                (run.laps.len(), MAX_REPEATS as usize, "laps"),
            ]
        })
    }

    /// The link to the block.
    pub fn link(&self) -> Link {
        Link::of(&self.encode())
    }
}

/// What a benchmark found, as the canonical DAG-CBOR that is its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// What was multiplied.
    pub spec: String,
    /// Multiplications and additions of all repetitions.
    pub operations: u64,
    /// Bytes of all matrices of all repetitions.
    pub traffic: u64,
    /// The time of all repetitions, in nanoseconds.
    pub total_ns: u64,
    /// The time of the fastest, in nanoseconds.
    pub best_ns: u64,
}

impl Figures {
    /// The figures of a run; nothing if a lap took no time or all took more than 2^64 ns.
    pub fn of(spec: &Spec, laps: &[Lap]) -> Option<Self> {
        let best_ns = laps.iter().map(|(ns, _)| *ns).min().filter(|best| *best > 0)?;
        let total_ns = laps.iter().try_fold(0u64, |sum, (ns, _)| sum.checked_add(*ns))?;
        let (operations, traffic) = (spec.operations(), spec.traffic());
        Some(Self { spec: spec.to_string(), operations, traffic, total_ns, best_ns })
    }

    /// The canonical block.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads an output.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes).map_err(CodecError::shortened)
    }
}

/// The digest of a run while it grows: `p₀ = H(lease, model digest, spec)`, `pₙ₊₁ = H(pₙ, nanoseconds, checksum)` in the
/// context *prefix*.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixDigest {
    digest: Digest,
    laps: u64,
}

impl PrefixDigest {
    /// The digest before the first lap.
    pub fn new(lease: &Digest, model_digest: &Digest, spec: &str) -> Self {
        Self { digest: hash(Context::Prefix, &(lease, model_digest, spec)), laps: 0 }
    }

    /// Takes the next lap.
    pub fn push(&mut self, (ns, checksum): Lap) {
        self.digest = hash(Context::Prefix, &(self.digest, ns, checksum));
        self.laps += 1;
    }

    /// The digest of all laps so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many laps it covers: the units of a `Progress`.
    pub fn laps(&self) -> u64 {
        self.laps
    }
}

/// What the benchmark's manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The model's name.
    pub name: String,
    /// The model's digest.
    pub digest: Digest,
    /// Work units per million operations.
    pub weight_out: u32,
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
    if job.job_type != JobType::TorchBench {
        return Err(AcceptanceFault::Workload(job.job_type));
    }
    super::check_input(job)?;
    if transcript.model != job.model || transcript.model != model.name {
        return Err(AcceptanceFault::Model);
    }
    if transcript.model_digest != model.digest {
        return Err(AcceptanceFault::ModelDigest);
    }
    if !matches!(&job.input, Input::Text(text) if *text == transcript.spec) {
        return Err(AcceptanceFault::Prompt);
    }
    let spec = Spec::parse(&transcript.spec).map_err(super::WorkloadFault::from)?;
    let figures = check_laps(job, &spec, &transcript.laps)?;
    check_named_output(proof, output)?;
    if output != figures.encode() {
        return Err(AcceptanceFault::Output);
    }
    let mut prefix = PrefixDigest::new(&proof.lease, &transcript.model_digest, &transcript.spec);
    let mut laps = transcript.laps.iter();
    check_prefixes(progress, prefix.digest(), || {
        prefix.push(*laps.next()?);
        Some(prefix.digest())
    })?;
    // Last, because it is what costs.
    let seed = sampling_seed(&proof.lease, job.params.seed);
    let due = checksums(&spec, &seed);
    if let Some(n) = transcript.laps.iter().zip(due).position(|((_, found), due)| *found != due) {
        return Err(AcceptanceFault::Checksum(n));
    }
    Ok(WorkUnits(spec.operations().div_ceil(OPERATIONS_PER_UNIT) * u64::from(model.weight_out)))
}

fn check_laps(job: &Job, spec: &Spec, laps: &[Lap]) -> Result<Figures, AcceptanceFault> {
    if laps.len() != spec.repeats as usize {
        return Err(AcceptanceFault::Laps { found: laps.len(), due: spec.repeats });
    }
    let most = u64::from(job.max_runtime_s).saturating_mul(NANOS_PER_S);
    Figures::of(spec, laps).filter(|figures| figures.total_ns <= most).ok_or(AcceptanceFault::Time)
}

/// The checksum of each repetition, reckoned without a product of matrices.
pub fn checksums(spec: &Spec, seed: &Digest) -> Vec<u32> {
    let [m, n, k] = [spec.m, spec.n, spec.k].map(|side| side as usize);
    let (a, b) = (cells(seed, 0, m * k), cells(seed, 1, k * n));
    let mut numbers = Numbers::new(seed, 2);
    let lap = |_| {
        let x: Vec<i64> = (0..m).map(|_| numbers.next_factor()).collect();
        let y: Vec<i64> = (0..n).map(|_| numbers.next_factor()).collect();
        let mut left = vec![0i64; k];
        for (row, x) in a.chunks_exact(k).zip(x) {
            left.iter_mut().zip(row).for_each(|(sum, cell)| *sum += x * i64::from(*cell));
        }
        let right =
            b.chunks_exact(n).map(|row| row.iter().zip(&y).map(|(cell, y)| i64::from(*cell) * y).sum());
        let product =
            |(left, right): (i64, i64)| left.rem_euclid(MODULUS) * right.rem_euclid(MODULUS) % MODULUS;
        let sum: i64 = left.into_iter().zip(right).map(product).sum();
        (sum % MODULUS) as u32
    };
    (0..spec.repeats).map(lap).collect()
}

/// The cells of a matrix, row by row: of each number 32, from its lowest two bits on, the first bit less the second.
fn cells(seed: &Digest, stream: usize, count: usize) -> Vec<i8> {
    let mut numbers = Numbers::new(seed, stream);
    let mut cells = Vec::with_capacity(count.next_multiple_of(32));
    while cells.len() < count {
        let number = numbers.next_number();
        cells.extend(
            (0..32).map(|pair| (number >> (2 * pair) & 1) as i8 - (number >> (2 * pair + 1) & 1) as i8),
        );
    }
    cells.truncate(count);
    cells
}

/// SplitMix64, <https://doi.org/10.1145/2714064.2660195>.
struct Numbers(u64);

impl Numbers {
    /// The stream whose state begins as the `stream`-th eight bytes of the seed, big-endian.
    fn new(seed: &Digest, stream: usize) -> Self {
        Self(seed.0[8 * stream..8 * stream + 8].iter().fold(0, |state, byte| state << 8 | u64::from(*byte)))
    }

    fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// The upper 31 bits of the next number.
    fn next_factor(&mut self) -> i64 {
        (self.next_number() >> 33) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::parse(text).unwrap()
    }

    /// As the definition has it: the product, then its checksums.
    fn multiplied(spec: &Spec, seed: &Digest) -> Vec<u32> {
        let [m, n, k] = [spec.m, spec.n, spec.k].map(|side| side as usize);
        let (a, b) = (cells(seed, 0, m * k), cells(seed, 1, k * n));
        let cell =
            |i: usize, j: usize| (0..k).map(|l| i64::from(a[i * k + l]) * i64::from(b[l * n + j])).sum();
        let product: Vec<Vec<i64>> = (0..m).map(|i| (0..n).map(|j| cell(i, j)).collect()).collect();
        let mut numbers = Numbers::new(seed, 2);
        let lap = |_| {
            let x: Vec<i64> = (0..m).map(|_| numbers.next_factor()).collect();
            let y: Vec<i64> = (0..n).map(|_| numbers.next_factor()).collect();
            let row = |row: &Vec<i64>| row.iter().zip(&y).map(|(c, y)| i128::from(c * y)).sum::<i128>();
            let sum: i128 = product.iter().zip(x).map(|(cells, x)| i128::from(x) * row(cells)).sum();
            sum.rem_euclid(MODULUS.into()) as u32
        };
        (0..spec.repeats).map(lap).collect()
    }

    #[test]
    fn the_short_way_gives_what_the_product_gives() {
        for text in ["f32 1 1 1 1", "f16 5 3 70 4", "bf16 1 33 64 2", "f32 40 50 60 3"] {
            let seed = swarm_crypto::digest::blake3(text.as_bytes());
            let (spec, other) = (spec(text), swarm_crypto::digest::blake3(b"other"));
            assert_eq!(checksums(&spec, &seed), multiplied(&spec, &seed), "{text}");
            // A single product is often 0.
            let differs = checksums(&spec, &seed) != checksums(&spec, &other);
            assert!(differs || spec.operations() == 2, "{text}");
        }
    }

    #[test]
    fn a_benchmark_has_one_way_to_be_written() {
        let whole = spec("bf16 4096 4096 4096 8");
        assert_eq!((whole.dtype, whole.operations(), whole.traffic()), (DType::Bf16, 1 << 40, 3 << 28));
        for (wrong, why) in [
            ("", SpecFault::Form),
            ("f32", SpecFault::Form),
            ("f64 8 8 8 1", SpecFault::Form),
            ("f32 8 8 8", SpecFault::Form),
            ("f32 8 8 8 1 1", SpecFault::Form),
            ("f32  8 8 8 1", SpecFault::Form),
            ("f32 8 8 8 1\n", SpecFault::Form),
            ("f32 08 8 8 1", SpecFault::Form),
            ("f32 +8 8 8 1", SpecFault::Form),
            ("f32 8 8 -8 1", SpecFault::Form),
            ("f32 8 8 4294967296 1", SpecFault::Form),
            ("f32 0 8 8 1", SpecFault::Side),
            ("f32 8 4097 8 1", SpecFault::Side),
            ("f32 8 8 8 0", SpecFault::Repeats),
            ("f32 8 8 8 33", SpecFault::Repeats),
            ("f32 4096 4096 4096 9", SpecFault::TooLarge),
        ] {
            assert_eq!(Spec::parse(wrong), Err(why), "{wrong:?}");
        }
    }

    #[test]
    fn the_longest_transcript_fits() {
        let longest = Transcript {
            model: "m".repeat(MAX_NAME_BYTES),
            model_digest: Digest([3; 32]),
            spec: "bf16 4096 4096 4096 32".into(),
            laps: vec![(u64::MAX, u32::MAX); MAX_REPEATS as usize],
        };
        assert_eq!(Transcript::decode(&longest.encode()), Ok(longest.clone()));
        let more = Transcript { laps: vec![(1, 1); MAX_REPEATS as usize + 1], ..longest.clone() };
        assert!(Transcript::decode(&more.encode()).is_err());
        let wordy = Transcript { spec: "f".repeat(5000), ..longest };
        assert!(Transcript::decode(&wordy.encode()).is_err());
    }

    #[test]
    fn cells_are_of_three_kinds_in_their_shares() {
        let cells = cells(&swarm_crypto::digest::blake3(b"cells"), 1, 100_001);
        let share = |cell| cells.iter().filter(|c| **c == cell).count();
        // A quarter, a half, a quarter: five hundred are more than three standard deviations.
        let near = |share: usize, due: usize| share.abs_diff(due) < 500;
        assert!(near(share(-1), 25_000) && near(share(0), 50_000) && near(share(1), 25_000));
    }
}
