//! Frames: a length of four bytes, big-endian, then that many bytes of CBOR (RFC 8949).

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{Candidate, DType, Manifest, Model, Weights, matmul, queenbee};

/// The version of what is said; both ends must have the same.
pub const PIPE_VERSION: u32 = 3;
/// The longest frame, in bytes: a text of 4,096 tokens with 256 candidates at each, of which the costs are asked for, or 256
/// texts of 8,192 tokens.
pub const MAX_FRAME_BYTES: u32 = 16 << 20;

/// What a node says to an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// Load this model; the first order, and only once.
    Load { model: Described, max_memory_bytes: Option<u64> },
    /// Begin a task.
    Begin { id: u64, task: Task, max_memory_bytes: Option<u64> },
    /// This was taken of what was offered.
    Take { id: u64, token: u32 },
    /// The task is over, whatever it does now.
    End { id: u64 },
    /// Say something.
    Ping,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Task {
    /// Offer what may follow the prompt, and after each token that is taken what may follow that.
    Generate { prompt: Vec<u32>, max_new: u32 },
    /// Score a finished text: of each of its tokens the costs of those that are named, and the likeliest.
    Rescore { prompt: Vec<u32>, output: Vec<(u32, Vec<u32>)>, top_k: u32 },
    /// Embed texts.
    Embed { texts: Vec<Vec<u32>> },
    /// Multiply matrices.
    Multiply { dtype: DType, m: u32, n: u32, k: u32, repeats: u32, seed: [u8; 32] },
    /// Paint a picture.
    Paint { prompt: Vec<u32>, width: u32, height: u32, steps: u32, guidance: u32, seed: [u8; 32] },
}

impl Task {
    /// Results that may come before anybody asks for the next.
    pub(super) fn results(&self) -> usize {
        match self {
            Self::Generate { .. } => 1,
            Self::Rescore { output, .. } => output.len(),
            Self::Embed { texts } => texts.len(),
            Self::Multiply { repeats, .. } => *repeats as usize,
            // And the picture.
            Self::Paint { steps, .. } => *steps as usize + 1,
        }
    }
}

/// What an engine says to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The first thing that is said.
    Hello { pipe: u32, program: String },
    /// The model is loaded.
    Loaded { weight_bytes: u64 },
    /// It is not, and never will be.
    NotLoaded { why: String },
    /// What may follow in a text: (token, cost) by cost and then by token.
    Offer { id: u64, candidates: Vec<(u32, u32)> },
    /// Of the next token the costs that were asked for, and the likeliest: (token, cost).
    Scored { id: u64, costs: Vec<u32>, top: Vec<(u32, u32)> },
    /// The vector of the next text: the bits of its 32-bit floats.
    Vector { id: u64, numbers: Vec<u32> },
    /// The next product, and how long it took.
    Lap { id: u64, nanoseconds: u64, checksum: u32 },
    /// What is left of the next step of a picture.
    Summary { id: u64, numbers: Vec<i32> },
    /// The picture as a PNG.
    Picture { id: u64, png: ByteBuf },
    /// The task is over and holds nothing any more; why before it was done, and whether by a fault here and not by what was
    /// asked for.
    Ended { id: u64, why: Option<String>, at_fault: bool },
    /// The process is alive.
    Pong,
}

/// A model as another process of this machine finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    manifest: Manifest,
    /// Where the weights are; absent for those that are compiled in.
    path: Option<PathBuf>,
}

impl Described {
    /// How to describe a model, unless its weights are nowhere but in this process.
    pub(super) fn of(model: &Model) -> Result<Self, &'static str> {
        let path = match &model.weights {
            Weights::File(path) => Some(std::path::absolute(path).map_err(|_| "the path has no folder")?),
            Weights::Embedded(_) => None,
            Weights::Memory(_) => return Err("its weights are in this process's memory only"),
        };
        Ok(Self { manifest: model.manifest.clone(), path })
    }

    /// The model, its weights not yet looked at.
    pub(super) fn model(self) -> Model {
        let weights = match self.path {
            Some(path) => Weights::File(path),
            None if self.manifest.name == matmul().manifest.name => matmul().weights,
            None => queenbee().weights,
        };
        Model { manifest: self.manifest, weights }
    }
}

pub(super) fn pairs(candidates: &[Candidate]) -> Vec<(u32, u32)> {
    candidates.iter().map(|candidate| (candidate.token, candidate.cost)).collect()
}

pub(super) fn candidates(pairs: Vec<(u32, u32)>) -> Vec<Candidate> {
    pairs.into_iter().map(|(token, cost)| Candidate { token, cost }).collect()
}

/// Writes one frame and flushes.
pub(super) fn write(output: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let body = serde_cbor::to_vec(frame).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| io::Error::other("the frame is too long"))?;
    let mut bytes = Vec::with_capacity(body.len() + 4);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&body);
    output.write_all(&bytes)?;
    output.flush()
}

/// Reads one frame; nothing at the end of the input. Memory is taken as bytes arrive.
pub(super) fn read<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(malformed(format!("a frame of {length} bytes")));
    }
    let mut body = Vec::new();
    input.take(u64::from(length)).read_to_end(&mut body)?;
    if body.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_cbor::from_slice(&body).map(Some).map_err(|error| malformed(error.to_string()))
}

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::MAX_PICTURE_BYTES;

    fn begin(task: Task) -> Order {
        Order::Begin { id: 1, task, max_memory_bytes: None }
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let orders = [
            Order::Load { model: Described::of(&queenbee()).unwrap(), max_memory_bytes: Some(7) },
            begin(Task::Generate { prompt: vec![1; 1 << 17], max_new: 9 }),
            begin(Task::Rescore {
                prompt: vec![1; 9],
                output: vec![(7, vec![u32::MAX; 256]); 4096],
                top_k: 512,
            }),
            begin(Task::Embed { texts: vec![vec![7; 512]; 256] }),
            begin(Task::Paint {
                prompt: vec![9; 512],
                width: 64,
                height: 128,
                steps: 5,
                guidance: 1000,
                seed: [255; 32],
            }),
            begin(Task::Multiply { dtype: DType::F16, m: 1, n: 2, k: 3, repeats: 4, seed: [5; 32] }),
            Order::Take { id: 1, token: u32::MAX },
            Order::End { id: u64::MAX },
            Order::Ping,
        ];
        let mut bytes = Vec::new();
        orders.iter().for_each(|order| write(&mut bytes, order).unwrap());
        let mut input = bytes.as_slice();
        for order in &orders {
            assert_eq!(read::<Order>(&mut input).unwrap().as_ref(), Some(order));
        }
        assert_eq!(read::<Order>(&mut input).unwrap(), None);
    }

    #[test]
    fn halves_and_garbage_are_errors_and_take_no_memory() {
        let mut whole = Vec::new();
        write(&mut whole, &Order::Take { id: 5, token: 6 }).unwrap();
        for length in 1..whole.len() {
            assert!(read::<Order>(&mut &whole[..length]).is_err(), "{length} bytes");
        }
        let picture = Report::Picture { id: u64::MAX, png: ByteBuf::from(vec![0xff; MAX_PICTURE_BYTES]) };
        let mut longest = Vec::new();
        write(&mut longest, &picture).unwrap();
        assert_eq!(read::<Report>(&mut longest.as_slice()).unwrap(), Some(picture));
        for garbage in [&[0xff; 64][..], &[0, 0, 0, 1, 0xff], &[0, 0, 0, 0], b"Segmentation fault\n"] {
            assert!(read::<Order>(&mut &*garbage).is_err());
        }
        let too_long = Report::NotLoaded { why: "x".repeat(MAX_FRAME_BYTES as usize) };
        assert!(write(&mut Vec::new(), &too_long).is_err());
    }
}
