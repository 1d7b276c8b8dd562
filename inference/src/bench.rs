//! The benchmark `matmul`: matrices of −1, 0 and 1 from a seed, and checksums of their products.
//!
//! So small are the numbers that every product is exact in every format, on every device. `docs/protocol.md` says what
//! is drawn and summed up; the pool checks it in its own way.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Manifest, Model, Weights};

/// The longest side of a matrix.
pub const MAX_BENCH_SIDE: u32 = 4096;
/// The modulus of checksums, a Mersenne prime.
const MODULUS: i64 = (1 << 31) - 1;

/// The number formats that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

/// What to multiply, and within which bounds: an m×k matrix by a k×n matrix.
#[derive(Debug, Clone)]
pub struct BenchRequest {
    /// The format of all matrices.
    pub dtype: DType,
    /// Rows of the first matrix, 1 to [`MAX_BENCH_SIDE`].
    pub m: u32,
    /// Columns of the second matrix, 1 to [`MAX_BENCH_SIDE`].
    pub n: u32,
    /// Columns of the first and rows of the second matrix, 1 to [`MAX_BENCH_SIDE`].
    pub k: u32,
    /// How often.
    pub repeats: u32,
    /// What matrices and factors of checksums are drawn from.
    pub seed: [u8; 32],
    /// When to give up.
    pub deadline: Option<Instant>,
    /// The most memory that the matrices may take together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// One product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lap {
    /// From the call until the device had the product, at least 1 ns.
    pub time: Duration,
    /// `x · (A · B) · y` modulo 2^31 − 1, with x and y of this lap.
    pub checksum: u32,
}

/// The benchmark as a model, which every node has.
pub fn matmul() -> Model {
    let manifest = include_str!("../../models/matmul/manifest.json");
    Model {
        manifest: Manifest::from_json(manifest).expect("a test reads the compiled-in manifest"),
        weights: Weights::Embedded(include_bytes!("../../models/matmul/rule.txt")),
    }
}

/// The cells of a matrix, row by row: of each number 32, from its lowest two bits on, the first bit less the second.
pub(crate) fn cells(seed: &[u8; 32], stream: usize, count: usize) -> Vec<f32> {
    let mut numbers = Numbers::new(seed, stream);
    let mut cells = Vec::with_capacity(count.next_multiple_of(32));
    while cells.len() < count {
        let mut number = numbers.next();
        for _ in 0..32 {
            cells.push([0.0, 1.0, -1.0, 0.0][number as usize % 4]);
            number >>= 2;
        }
    }
    cells.truncate(count);
    cells
}

/// The factors of checksums, which each lap takes the next of.
pub(crate) struct Factors(Numbers);

impl Factors {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self(Numbers::new(seed, 2))
    }

    fn take(&mut self, count: usize) -> Vec<i64> {
        (0..count).map(|_| (self.0.next() >> 33) as i64).collect()
    }

    /// The checksum of the next lap; `product` has `m` rows.
    pub(crate) fn checksum(&mut self, product: &[f32], m: usize) -> u32 {
        let n = product.len() / m.max(1);
        let (x, y) = (self.take(m), self.take(n));
        let row = |row: &[f32]| row.iter().zip(&y).map(|(cell, y)| *cell as i64 * y).sum::<i64>();
        let term = |(cells, x): (&[f32], i64)| x * row(cells).rem_euclid(MODULUS) % MODULUS;
        let sum: i64 = product.chunks_exact(n.max(1)).zip(x).map(term).sum();
        (sum % MODULUS) as u32
    }
}

/// SplitMix64, <https://doi.org/10.1145/2714064.2660195>.
struct Numbers(u64);

impl Numbers {
    /// The stream whose state begins as the `stream`-th eight bytes of the seed, big-endian.
    fn new(seed: &[u8; 32], stream: usize) -> Self {
        let state = seed[8 * stream..8 * stream + 8].iter();
        Self(state.fold(0, |state, byte| state << 8 | u64::from(*byte)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
