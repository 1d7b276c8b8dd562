//! Models on devices: what a model is, how it is checked, loaded and run, and which engine runs it where.
//!
//! A [`Model`] is a [`Manifest`] and its weights. A [`Provider`] of the [`Registry`] turns it into an [`Engine`],
//! which generates token by token: it offers [`Candidate`]s with integer costs and lets a [`TokenSampler`] choose.
//! What ends a generation and what its output is are pure rules ([`stop_reason`], [`finish_output`]), so that
//! somebody who did not run the model can recompute them from the token ids. Models of other [`Workload`]s embed texts,
//! paint pictures or multiply matrices.

/// The guide to providers, whose examples the tests run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/providers.md")]
struct Guide;

mod batch;
mod bench;
mod cancel;
mod candidates;
mod candle;
mod chat;
mod decoder;
mod describe;
mod device;
mod engine;
mod format;
mod generate;
mod gguf;
mod lock;
mod manifest;
mod open;
mod openai;
mod output;
mod picture;
mod pipe;
mod provider;
mod queenbee;
mod rescore;
mod safetensors;
mod shards;
mod sidecar;
pub mod testing;
mod text_tokenizer;
mod tokenizer;
mod validate;

pub use batch::{Batch, BatchLimits, JoinError, MAX_BATCH_SEQUENCES, Offer, SequenceId};
pub use bench::{BenchRequest, DType, Lap, MAX_BENCH_SIDE, matmul};
pub use cancel::{CancelToken, Interrupt};
pub use candidates::{COST_SCALE, Candidate, MAX_COST, candidates};
pub use candle::Candle;
pub use chat::{Message, render_chat};
pub use decoder::{
    Architecture, BLOCK_POSITIONS, Compute, Decoder, DecoderConfig, Llama3Scaling, MAX_CONFIG_BYTES,
    MAX_ONE_CORE_PARAMETERS, RotaryPairs, Sequence, Show,
};
pub use describe::{Found, spdx};
pub use device::device_name;
pub use engine::{
    EmbedRequest, Engine, EngineError, Flow, GenerateRequest, Generation, Greedy, LoadError, MAX_STOP_BYTES,
    MAX_STOP_SEQUENCES, Sampling, Step, TokenSampler,
};
pub use format::slow_format;
pub use generate::PREFILL_CHUNK;
pub use gguf::{
    GgufError, MAX_ARRAY_LENGTH, MAX_HEADER_BYTES, MAX_METADATA, MAX_STRING_BYTES, MAX_TENSOR_ELEMENTS,
    MAX_TENSORS,
};
pub use manifest::{
    MAX_CONTEXT_LENGTH, MAX_DIMENSIONS, MAX_EMBED_TOKENS, MAX_MANIFEST_BYTES, MAX_MODEL_BYTES,
    MAX_MODEL_FILE_BYTES, MAX_MODEL_FILES, MAX_MODEL_SHARDS, MAX_TOP_K, MAX_VOCAB_SIZE, Manifest,
    ManifestError, Model, ModelFile, ModelReader, ReadSeek, SHARD_INDEX, Tolerance, Weights, Workload,
};
pub use openai::{MAX_EVENT_BYTES, OpenAi, ServerAt, ServerConfig, ServerError, ServerTimes};
pub use output::{StopReason, StopRule, finish_output, stop_reason};
pub use picture::{
    MAX_PICTURE_SIDE, MAX_PICTURE_STEPS, PICTURE_SIDE_STEP, PaintRequest, SUMMARY_NUMBERS, noise, summary,
};
pub use pipe::{DeviceChoice, Isolated, MAX_FRAME_BYTES, PIPE_VERSION, Program, ServeError, serve};
pub use provider::{DeviceStats, EngineConfig, Hardware, NoProvider, Provider, Registry, Stats, Support};
pub use queenbee::queenbee;
pub use rescore::{Asked, MAX_ASKED, RescoreRequest, Rescored};
pub use safetensors::{MAX_SAFETENSORS_FILES, MAX_SAFETENSORS_HEADER_BYTES, SafetensorsError};
pub use shards::ShardIndex;
pub use sidecar::{MAX_SIDECAR_BYTES, RunningProvider, SidecarError, read_sidecar, write_sidecar};
pub use text_tokenizer::TextTokenizer;
pub use tokenizer::{MAX_TEXT_BYTES, Tokenizer, TokenizerError};
pub use validate::{COST_TOLERANCE, Item, KERNEL_TOLERANCE, ValidateError, Validation, both_ways, validate};
