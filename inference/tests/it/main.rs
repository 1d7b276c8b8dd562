//! The crate's behaviour from outside, on generated models.

#![allow(clippy::unwrap_used)]

mod batch;
mod batched;
mod decoders;
mod described;
mod device;
mod fixture;
mod forward;
mod generation;
mod gguf;
mod manifest;
mod openai;
mod output;
mod pictures;
mod processes;
mod provider;
mod queenbee;
mod real_tokenizers;
mod rescore;
mod shards;
mod sick;
mod tokenizer;
mod validate;
mod workloads;
