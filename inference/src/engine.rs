//! The contract of everything that runs a model.

use std::time::{Duration, Instant};

use thiserror::Error;

use crate::{
    BenchRequest, CancelToken, Candidate, GgufError, Lap, Manifest, ManifestError, PaintRequest,
    RescoreRequest, Rescored, SafetensorsError, ServerError, StopReason, Tokenizer, TokenizerError, Workload,
};

/// The most stop sequences of a request.
pub const MAX_STOP_SEQUENCES: usize = 16;
/// The longest stop sequence, in bytes.
pub const MAX_STOP_BYTES: usize = 256;

/// A model on a device, running one request at a time.
///
/// An engine serves the [`Workload`] of its manifest and refuses requests of another one by name, which is what the
/// methods do here that an engine leaves out.
pub trait Engine: Send {
    /// The model that runs here.
    fn manifest(&self) -> &Manifest;

    /// The model's tokenizer, if it generates text.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        None
    }

    /// Whether tokens are chosen elsewhere, by [`GenerateRequest::sampling`], and the [`TokenSampler`] is never asked.
    ///
    /// What such an engine says can be compared with the model's distribution, and not be traced back to a draw; who
    /// promises answers that can be must not take them from it.
    fn samples_itself(&self) -> bool {
        false
    }

    /// Generates from a prompt until a [`StopReason`] holds, passing every token to `sink` as it is chosen.
    ///
    /// After an error the engine can take the next request; `cancel` and the deadline are obeyed within a token.
    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let _ = (request, sampler, cancel, sink);
        Err(EngineError::Unsupported(Workload::LlmGen))
    }

    /// What each token of a finished output was to be chosen from, computed again in one pass over prompt and output.
    ///
    /// `cancel` and the deadline are obeyed within a chunk. An engine that cannot do it says
    /// [`EngineError::CannotRescore`], as this does.
    fn rescore(
        &mut self,
        request: &RescoreRequest,
        cancel: &CancelToken,
    ) -> Result<Vec<Rescored>, EngineError> {
        let _ = (request, cancel);
        Err(EngineError::CannotRescore)
    }

    /// Embeds texts one after the other, passing the vector of each to `sink`: the manifest's `dimensions` of numbers, of
    /// unit length, which depend on no other text of the request.
    ///
    /// After an error the engine can take the next request; `cancel` and the deadline are obeyed within a text.
    fn embed(
        &mut self,
        request: &EmbedRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[f32]) -> Flow,
    ) -> Result<(), EngineError> {
        let _ = (request, cancel, sink);
        Err(EngineError::Unsupported(Workload::Embed))
    }

    /// Multiplies matrices, passing the time and the checksum of each product to `sink`.
    ///
    /// After an error the engine can take the next request; `cancel` and the deadline are obeyed within a product.
    fn benchmark(
        &mut self,
        request: &BenchRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(Lap) -> Flow,
    ) -> Result<(), EngineError> {
        let _ = (request, cancel, sink);
        Err(EngineError::Unsupported(Workload::TorchBench))
    }

    /// Paints a picture, passing to `sink` what is left of the latents after each step, [`crate::SUMMARY_NUMBERS`] of
    /// 1/4096, and giving the picture as a PNG in the end.
    ///
    /// After an error the engine can take the next request; `cancel` and the deadline are obeyed within a step.
    fn paint(
        &mut self,
        request: &PaintRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[i32]) -> Flow,
    ) -> Result<Vec<u8>, EngineError> {
        let _ = (request, cancel, sink);
        Err(EngineError::Unsupported(Workload::SdInfer))
    }
}

/// What to embed, and within which bounds.
#[derive(Debug, Clone, Default)]
pub struct EmbedRequest {
    /// Token ids of each text, 1 to the manifest's `context_length`.
    pub texts: Vec<Vec<u32>>,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// The most memory that the weights and this request may take together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// Chooses tokens.
pub trait TokenSampler {
    /// The token of output position `position`, counted from 0, which must be one of `candidates`.
    ///
    /// There is at least one candidate, and they are ordered by cost and then by token id.
    fn sample(&mut self, position: u32, candidates: &[Candidate]) -> u32;
}

/// Always takes the likeliest token; of equals, the one with the lowest id.
#[derive(Debug, Clone, Copy, Default)]
pub struct Greedy;

impl TokenSampler for Greedy {
    fn sample(&mut self, _position: u32, candidates: &[Candidate]) -> u32 {
        candidates.first().map_or(0, |first| first.token)
    }
}

/// What to generate, and within which bounds.
#[derive(Debug, Clone, Default)]
pub struct GenerateRequest {
    /// Token ids of the prompt, at least one, fewer than the context holds.
    pub prompt_ids: Vec<u32>,
    /// The most tokens to generate, at least 1.
    pub max_tokens: u32,
    /// Texts that end the output, at most [`MAX_STOP_SEQUENCES`] of 1 to [`MAX_STOP_BYTES`] bytes.
    pub stop: Vec<String>,
    /// How to choose tokens; only engines that sample themselves look at it.
    pub sampling: Sampling,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// The most memory that the weights and this request may take together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// How an engine that samples itself is to choose tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    /// Temperature in 1/10000; 0 takes the likeliest token.
    pub temperature: u32,
    /// Share of the probability that may be chosen from, in 1/10000.
    pub top_p: u32,
    /// What chance is drawn from, where it is to repeat itself.
    pub seed: Option<u64>,
}

impl Default for Sampling {
    /// The likeliest token.
    fn default() -> Self {
        Self { temperature: 0, top_p: 10_000, seed: None }
    }
}

/// One generated token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Output position, counted from 0.
    pub position: u32,
    /// The chosen token.
    pub token: u32,
    /// What it was chosen from.
    pub candidates: Vec<Candidate>,
    /// Output bytes that became certain with this token; all steps' texts together are the output.
    pub text: Vec<u8>,
}

/// Whether to go on after a [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Generate the next token.
    Continue,
    /// End with [`EngineError::Cancelled`].
    Stop,
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// All chosen tokens, with the one that ended the output.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The output, equal to [`crate::finish_output`] of `ids`.
    pub output: Vec<u8>,
    /// Time until the first token's candidates were known.
    pub prompt_time: Duration,
    /// Time from then to the end.
    pub decode_time: Duration,
}

/// Why nothing was generated.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The model could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine's model is for another workload.
    #[error("the engine does not serve {}", .0.as_str())]
    Unsupported(Workload),
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room in the context.
    #[error(
        "the prompt has {tokens} tokens, the model's context holds {context} with at least one of output"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the context holds.
        context: u32,
    },
    /// A token id that the model does not have.
    #[error("token {0} is not in the model's vocabulary")]
    UnknownToken(u32),
    /// Another field of the request is out of its range.
    #[error("the request is not valid: {0}")]
    Request(&'static str),
    /// The request would take more memory than allowed.
    #[error("the request needs {needed} bytes of memory, {allowed} are allowed")]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The engine works on as much as it may already.
    #[error("the engine is full: {0}")]
    Full(String),
    /// Somebody cancelled, or the provider was stopped.
    #[error("cancelled")]
    Cancelled,
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// The engine computes no log-probabilities of finished texts.
    #[error("this engine cannot rescore")]
    CannotRescore,
    /// The sampler chose a token that was not offered.
    #[error("the sampler chose token {0}, which was not a candidate")]
    Sampler(u32),
    /// The model computed what is not a number.
    #[error("the model computed numbers that are not finite")]
    NotFinite,
    /// The server that runs the model did not do as asked.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The device failed.
    #[error("the computation failed: {0}")]
    Compute(String),
    /// The process that runs the model ended, misbehaved or refused, and why.
    #[error("the engine's process failed: {0}")]
    Process(String),
}

impl EngineError {
    /// Whether what runs the model failed, and not what was asked of it: another device may do it.
    pub(crate) fn is_fault(&self) -> bool {
        match self {
            Self::Load(_)
            | Self::Full(_)
            | Self::NotFinite
            | Self::Server(_)
            | Self::Compute(_)
            | Self::Process(_) => true,
            Self::Unsupported(_)
            | Self::EmptyPrompt
            | Self::PromptTooLong { .. }
            | Self::UnknownToken(_)
            | Self::Request(_)
            | Self::Memory { .. }
            | Self::Cancelled
            | Self::Deadline
            | Self::CannotRescore
            | Self::Sampler(_) => false,
        }
    }
}

impl From<candle_core::Error> for EngineError {
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(error.to_string())
    }
}

/// Why a model could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The weights are not what the manifest says.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The file is not usable GGUF.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is not usable safetensors.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// The tokenizer in the file is not usable.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The file describes a model that cannot be run here.
    #[error("the model cannot be run: {0}")]
    Unsupported(String),
    /// The manifest and the file state different numbers.
    #[error("the manifest says {what} {manifest}, the file says {file}")]
    Contradiction {
        /// Which number.
        what: &'static str,
        /// What the manifest says.
        manifest: String,
        /// What the file says.
        file: String,
    },
    /// The weights do not fit.
    #[error("the model needs {needed} bytes of memory, {allowed} are allowed")]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// The device failed while loading.
    #[error("the weights could not be prepared: {0}")]
    Prepare(String),
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Prepare(error.to_string())
    }
}
