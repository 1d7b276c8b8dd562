//! Other bytes out of bytes: bits, numbers, lengths and pieces are changed, some of them with an eye on CBOR heads,
//! varints and JSON.

/// SplitMix64: everything random about a run follows from its seed.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).expect("below a usize")
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    3,
    4,
    23,
    24,
    127,
    128,
    255,
    256,
    4096,
    65_535,
    65_536,
    1 << 20,
    u32::MAX as u64,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];
/// CBOR: arguments of every width, indefinite lengths, null, undefined, floats, tags, a link's tag, the break.
const HEADS: [u8; 28] = [
    0x18, 0x19, 0x1a, 0x1b, 0x3b, 0x40, 0x58, 0x5a, 0x5b, 0x5f, 0x60, 0x78, 0x7b, 0x7f, 0x80, 0x98, 0x9b,
    0x9f, 0xa0, 0xbb, 0xbf, 0xd8, 0xdb, 0xf6, 0xf7, 0xf9, 0xfb, 0xff,
];
/// What begins a level of CBOR, protobuf or JSON.
const LEVELS: [&[u8]; 7] = [b"\x81", b"\xa1\x61a", b"\x9f", b"\xd8\x2a", b"\x0a\x7f", b"[", b"{\"a\":"];
const WORDS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e999",
    b"0.1",
    b"18446744073709551616",
    b"\"\"",
    b"\"\\u0000\"",
    b"{}",
    b"[]",
    b",",
    b":",
    b"\"text\"",
    b"\"cid\"",
    b"\xd8\x2a\x58\x25\x00\x01\x71\x12\x20",
    b"\x01\x55\x12\x20",
    b"\x01\x70\x12\x20",
    b"\x12\x20",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"GGUF",
    b"\x80\x80",
    b"\\",
    b"..",
];

/// Changes `of` in one place or some; `other` lends pieces. At most `max` bytes long.
pub fn mutate(rng: &mut Rng, of: &[u8], other: &[u8], max: usize) -> Vec<u8> {
    let mut bytes = of.to_vec();
    let times = if rng.below(8) == 0 { 1 + rng.below(16) } else { 1 + rng.below(3) };
    for _ in 0..times {
        change(rng, &mut bytes, other);
    }
    bytes.truncate(max);
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(bytes.len());
    if bytes.is_empty() {
        return bytes.extend_from_slice(other);
    }
    match rng.below(14) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = rng.next().to_le_bytes()[0],
        3 => bytes[at] = bytes[at].wrapping_add(1),
        4 => bytes[at] = bytes[at].wrapping_sub(1),
        5 => number(rng, bytes, at),
        6 => {
            bytes[at] = *rng.pick(&HEADS);
            number(rng, bytes, at + 1);
        }
        7 => {
            let length = 1 + rng.below(16);
            bytes.drain(at..(at + length).min(bytes.len()));
        }
        8 => insert(bytes, at, rng.pick::<&[u8]>(&WORDS)),
        9 => {
            let piece = piece(rng, bytes).to_vec();
            insert(bytes, at, &piece);
        }
        10 => {
            let piece = piece(rng, other);
            insert(bytes, at, piece);
        }
        11 => {
            let end = rng.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[end..]);
        }
        12 => bytes.truncate(at),
        _ => repeat(rng, bytes, at),
    }
}

/// Writes a number that is special, in some width and order.
fn number(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    let number = rng.pick(&NUMBERS).wrapping_add(rng.below(3) as u64).wrapping_sub(1);
    let width = [1, 2, 4, 8][rng.below(4)];
    let little = number.to_le_bytes();
    let big = number.to_be_bytes();
    let written = if rng.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
    let room = bytes.len().saturating_sub(at).min(width);
    if room > 0 {
        bytes[at..at + room].copy_from_slice(&written[..room]);
    }
}

fn piece<'a>(rng: &mut Rng, of: &'a [u8]) -> &'a [u8] {
    let from = rng.below(of.len());
    let length = rng.below(64.min(of.len() - from + 1));
    &of[from..from + length]
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let rest = bytes.split_off(at);
    bytes.extend_from_slice(piece);
    bytes.extend(rest);
}

/// Levels upon levels, or the same piece many times.
fn repeat(rng: &mut Rng, bytes: &mut Vec<u8>, at: usize) {
    let many = 1 << rng.below(12);
    let level = if rng.below(2) == 0 { rng.pick(&LEVELS).to_vec() } else { piece(rng, bytes).to_vec() };
    insert(bytes, at, &level.repeat(many.min(1 + 4096 / level.len().max(1))));
}
