//! The acceptance rule of `llm_gen`: what a delivered transcript and output must satisfy before anybody is paid.
//!
//! The rule needs no model. Its caller brings what only a tokenizer knows ([`ModelFacts`]): [`open`] the transcript,
//! look up the bytes of its tokens, then [`check`].

use crate::codec::{CodecError, Link, names};
use crate::sampler::{Candidate, MAX_COST, ONE, draw, sample, sampling_seed, weight};
use crate::statement::{Assurance, Job, JobType, MAX_PROMPT_BYTES, Proof};
use crate::transcript::{PrefixDigest, Step, StopReason, Transcript};
use crate::workload::WorkloadFault;
use crate::workload::png::PngFault;
use std::collections::BTreeSet;
use swarm_crypto::digest::Digest;

/// The most that candidates' probabilities may sum to, in units of 2^−32: one, and what rounding costs can add.
pub const MAX_MASS: u64 = ONE + (ONE >> 13);

/// The verified size of a job; never self-reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WorkUnits(pub u64);

/// What the model's manifest and tokenizer say of a job and of the transcript delivered for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// The model's name.
    pub name: String,
    /// blake3 of its weights.
    pub digest: Digest,
    /// K: candidates per position.
    pub top_k: u32,
    /// How many token ids there are.
    pub vocab_size: u32,
    /// Most tokens of prompt and output together.
    pub context_length: u32,
    /// The token that ends a text, if the model has one.
    pub eos: Option<u32>,
    /// Work units per prompt token.
    pub weight_in: u32,
    /// Work units per output token.
    pub weight_out: u32,
    /// Token ids of the job's input.
    pub prompt: Vec<u32>,
    /// The bytes of each output token of the transcript, in order; empty for control tokens.
    pub pieces: Vec<Vec<u8>>,
}

/// Why what was delivered is not accepted; the prover is at fault. Steps count from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptanceFault {
    /// The input is longer than any prompt.
    #[error("a prompt has at most {MAX_PROMPT_BYTES} bytes, this one has {0}")]
    PromptBytes(u64),
    /// No acceptance rule is built for the workload.
    #[error("workload {0:?} cannot be accepted by this version")]
    Workload(JobType),
    /// The job's input is not one of its workload.
    #[error(transparent)]
    Input(#[from] WorkloadFault),
    /// The transcript is longer or shorter than the proof declares.
    #[error("the transcript has {found} bytes, the proof declares {declared}")]
    TranscriptLength {
        /// Bytes delivered.
        found: u64,
        /// Bytes declared.
        declared: u64,
    },
    /// The transcript is not the block that the proof names.
    #[error("the transcript is not the block that the proof names")]
    TranscriptLink,
    /// The transcript is not canonical or passes a limit.
    #[error("the transcript is not one: {0}")]
    Transcript(#[from] CodecError),
    /// The transcript is of another model than the job.
    #[error("the transcript is of another model")]
    Model,
    /// The model of that name has other weights.
    #[error("the transcript is of other weights")]
    ModelDigest,
    /// The prompt is not what the job's input tokenises to.
    #[error("the prompt is not the job's input")]
    Prompt,
    /// The prompt leaves no room in the model's context.
    #[error("the prompt fills the context")]
    PromptTooLong,
    /// A step has none, too many, or, where check A holds, too few candidates.
    #[error("step {step} has {found} candidates")]
    CandidateCount {
        /// Which step.
        step: usize,
        /// How many it has.
        found: usize,
    },
    /// Candidates do not ascend by (cost, token).
    #[error("the candidates of step {0} are not in order")]
    CandidateOrder(usize),
    /// A token is a candidate twice.
    #[error("a candidate of step {0} occurs twice")]
    CandidateRepeated(usize),
    /// A candidate is no token of the model.
    #[error("step {step} has the candidate {token}, which the model does not have")]
    UnknownToken {
        /// Which step.
        step: usize,
        /// Which token.
        token: u32,
    },
    /// A cost is beyond the highest.
    #[error("a candidate of step {0} costs more than {MAX_COST}")]
    CostTooHigh(usize),
    /// The candidates' probabilities sum to more than one.
    #[error("the probabilities of step {0} sum to more than one")]
    Mass(usize),
    /// The token is not what the sampler picks.
    #[error("the token of step {0} is not what the sampler picks")]
    NotSampled(usize),
    /// The token is not among the candidates.
    #[error("the token of step {0} is not among its candidates")]
    NotOffered(usize),
    /// The run went on after something had ended it.
    #[error("the run went on after step {0}, which ended it")]
    WentOn(usize),
    /// Nothing ends the run where the transcript stops.
    #[error("nothing ends the run where the transcript stops")]
    Unfinished,
    /// The run ended for another reason than the transcript says.
    #[error("the run ended by {found:?}, the transcript says {said:?}")]
    StopReason {
        /// What ended it.
        found: StopReason,
        /// What the transcript says.
        said: StopReason,
    },
    /// The output is longer or shorter than the proof declares.
    #[error("the output has {found} bytes, the proof declares {declared}")]
    OutputLength {
        /// Bytes delivered.
        found: u64,
        /// Bytes declared.
        declared: u64,
    },
    /// The output is not the block that the proof names.
    #[error("the output is not the block that the proof names")]
    OutputLink,
    /// The output is not what the transcript's tokens spell.
    #[error("the output is not what the transcript spells")]
    Output,
    /// The output does not hold one vector for each text.
    #[error("the output has {found} bytes, its vectors take {due}")]
    OutputShape {
        /// Bytes delivered.
        found: u64,
        /// Bytes that one vector for each text takes.
        due: u64,
    },
    /// A vector holds an infinity, or what is no number.
    #[error("vector {0} holds what is not a finite number")]
    NotFinite(usize),
    /// A vector's length is not one.
    #[error("vector {0} is not of unit length")]
    VectorLength(usize),
    /// The benchmark was repeated more or less often than asked.
    #[error("the transcript has {found} laps, {due} were asked for")]
    Laps {
        /// How many it has.
        found: usize,
        /// How many were asked for.
        due: u32,
    },
    /// A lap took no time, or all of them took longer than the job may run.
    #[error("the times of the laps cannot be")]
    Time,
    /// A checksum is not that of the product.
    #[error("the checksum of lap {0} is not that of the product")]
    Checksum(usize),
    /// The noise of a picture was drawn from something else than the job and the lease name.
    #[error("the noise was not drawn from the seed")]
    Seed,
    /// The picture took more or fewer steps than asked.
    #[error("the transcript has {found} steps, {due} were asked for")]
    Steps {
        /// How many it has.
        found: usize,
        /// How many were asked for.
        due: u32,
    },
    /// What is left of a step is not as many numbers as it should be, or one of them is beyond the largest.
    #[error("what is left of step {0} is not the means of its parts")]
    Summary(usize),
    /// The output is not the picture that was asked for.
    #[error("the output is no picture: {0}")]
    Picture(PngFault),
    /// The transcript does not extend a prefix that was reported as progress.
    #[error("the transcript does not extend the progress reported at {0} units")]
    Progress(u64),
}

/// A proof and the transcript that it names, read. [`open`] is its one constructor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    proof: Proof,
    transcript: Transcript,
}

impl Opened {
    /// The proof.
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// The transcript.
    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    /// Token ids of the output, with the one that ended it: what [`ModelFacts::pieces`] spells.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        self.transcript.steps.iter().map(|step| step.token)
    }
}

/// Refuses an input that no model could be given, before anybody fetches it for one.
pub fn check_prompt(job: &Job) -> Result<(), AcceptanceFault> {
    match job.input_bytes() {
        bytes if bytes > MAX_PROMPT_BYTES => Err(AcceptanceFault::PromptBytes(bytes)),
        _ => Ok(()),
    }
}

/// Reads the transcript delivered for `proof`.
pub fn open(proof: &Proof, transcript: &[u8]) -> Result<Opened, AcceptanceFault> {
    check_named(proof, transcript)?;
    Ok(Opened { proof: proof.clone(), transcript: Transcript::decode(transcript)? })
}

/// Refuses bytes that are not the transcript which the proof names.
pub(crate) fn check_named(proof: &Proof, transcript: &[u8]) -> Result<(), AcceptanceFault> {
    let found = transcript.len() as u64;
    if found != proof.transcript_bytes {
        return Err(AcceptanceFault::TranscriptLength { found, declared: proof.transcript_bytes });
    }
    if Link::of(transcript) != proof.transcript { Err(AcceptanceFault::TranscriptLink) } else { Ok(()) }
}

/// Refuses bytes that are not the output which the proof names.
pub(crate) fn check_named_output(proof: &Proof, output: &[u8]) -> Result<(), AcceptanceFault> {
    let found = output.len() as u64;
    if found != proof.output_bytes {
        return Err(AcceptanceFault::OutputLength { found, declared: proof.output_bytes });
    }
    if !names(&proof.output, output) { Err(AcceptanceFault::OutputLink) } else { Ok(()) }
}

/// Refuses reported prefixes that are not those of the transcript: `first` before its first step, then what `next` says.
pub(crate) fn check_prefixes(
    progress: &[(u64, Digest)],
    first: Digest,
    mut next: impl FnMut() -> Option<Digest>,
) -> Result<(), AcceptanceFault> {
    let reported: BTreeSet<&(u64, Digest)> = progress.iter().collect();
    let (mut steps, mut digest) = (0, first);
    for (units, told) in reported {
        while steps < *units {
            digest = next().ok_or(AcceptanceFault::Progress(*units))?;
            steps += 1;
        }
        if digest != *told {
            return Err(AcceptanceFault::Progress(*units));
        }
    }
    Ok(())
}

/// The rule: the work units of `job` if `opened` and `output` are an acceptable answer to it under the proof's lease.
///
/// `progress` holds the (units, prefix digest) pairs that the holder reported. Panics if `model` does not spell every
/// token of the transcript: that is the caller's mistake.
pub fn check(
    job: &Job,
    progress: &[(u64, Digest)],
    opened: &Opened,
    output: &[u8],
    model: &ModelFacts,
) -> Result<WorkUnits, AcceptanceFault> {
    let Opened { proof, transcript } = opened;
    assert_eq!(model.pieces.len(), transcript.steps.len(), "the caller spells every token");
    check_model(job, transcript, model)?;
    let seed = sampling_seed(&proof.lease, job.params.seed);
    for (n, step) in transcript.steps.iter().enumerate() {
        check_candidates(job.assurance, n, &step.candidates, model)?;
        check_token(job, &seed, n, step)?;
    }
    let (found, spelt) = ending(job, transcript, model)?;
    if found != transcript.stop {
        return Err(AcceptanceFault::StopReason { found, said: transcript.stop });
    }
    check_output(proof, output, &spelt)?;
    check_progress(&proof.lease, transcript, progress)?;
    Ok(work_units(transcript, model))
}

fn check_model(job: &Job, transcript: &Transcript, model: &ModelFacts) -> Result<(), AcceptanceFault> {
    if job.job_type != JobType::LlmGen {
        return Err(AcceptanceFault::Workload(job.job_type));
    }
    check_prompt(job)?;
    if transcript.model != job.model || transcript.model != model.name {
        return Err(AcceptanceFault::Model);
    }
    if transcript.model_digest != model.digest {
        return Err(AcceptanceFault::ModelDigest);
    }
    if transcript.prompt != model.prompt {
        return Err(AcceptanceFault::Prompt);
    }
    if model.prompt.len() as u64 >= u64::from(model.context_length) {
        return Err(AcceptanceFault::PromptTooLong);
    }
    Ok(())
}

fn check_candidates(
    assurance: Assurance,
    step: usize,
    candidates: &[Candidate],
    model: &ModelFacts,
) -> Result<(), AcceptanceFault> {
    let top_k = model.top_k;
    let found = candidates.len();
    let least = match assurance {
        Assurance::Seeded => top_k as usize,
        Assurance::Distance => 1,
    };
    if found < least.max(1) || found > top_k as usize {
        return Err(AcceptanceFault::CandidateCount { step, found });
    }
    // No model could be asked what such a token costs.
    if let Some(unknown) = candidates.iter().find(|c| c.token >= model.vocab_size) {
        return Err(AcceptanceFault::UnknownToken { step, token: unknown.token });
    }
    if candidates.iter().any(|c| c.cost > MAX_COST) {
        return Err(AcceptanceFault::CostTooHigh(step));
    }
    let tokens: BTreeSet<u32> = candidates.iter().map(|c| c.token).collect();
    if tokens.len() != found {
        return Err(AcceptanceFault::CandidateRepeated(step));
    }
    if !candidates.is_sorted_by_key(|c| (c.cost, c.token)) {
        return Err(AcceptanceFault::CandidateOrder(step));
    }
    if candidates.iter().map(|c| weight(u64::from(c.cost))).sum::<u64>() > MAX_MASS {
        return Err(AcceptanceFault::Mass(step));
    }
    Ok(())
}

/// Check A, or what is left of it where the sampler is not ours.
fn check_token(job: &Job, seed: &Digest, n: usize, step: &Step) -> Result<(), AcceptanceFault> {
    match job.assurance {
        Assurance::Seeded => {
            let params = &job.params;
            let draw = draw(seed, n as u64);
            let picked = sample(params.temperature, params.top_p, draw, &step.candidates);
            if picked == Some(step.token) { Ok(()) } else { Err(AcceptanceFault::NotSampled(n)) }
        }
        Assurance::Distance => {
            let offered = step.candidates.iter().any(|c| c.token == step.token);
            if offered { Ok(()) } else { Err(AcceptanceFault::NotOffered(n)) }
        }
    }
}

/// Why the run ends with its last step, and what its tokens spell, cut at the first stop text.
fn ending(
    job: &Job,
    transcript: &Transcript,
    model: &ModelFacts,
) -> Result<(StopReason, Vec<u8>), AcceptanceFault> {
    let longest = job.params.stop.iter().map(String::len).max().unwrap_or(0);
    let mut text = Vec::new();
    for (n, (step, piece)) in transcript.steps.iter().zip(&model.pieces).enumerate() {
        let tokens = n as u64 + 1;
        let reason = if Some(step.token) == model.eos {
            Some(StopReason::Eos)
        } else if append(&mut text, piece, &job.params.stop, longest) {
            Some(StopReason::StopSequence)
        } else if tokens >= u64::from(job.params.max_tokens) {
            Some(StopReason::MaxTokens)
        } else if tokens + transcript.prompt.len() as u64 >= u64::from(model.context_length) {
            Some(StopReason::Context)
        } else {
            None
        };
        match reason {
            Some(reason) if n + 1 == transcript.steps.len() => return Ok((reason, text)),
            Some(_) => return Err(AcceptanceFault::WentOn(n)),
            None => {}
        }
    }
    Err(AcceptanceFault::Unfinished)
}

/// Appends `piece` and says whether the text came to contain a stop text; then it is cut at the one that begins first.
fn append(text: &mut Vec<u8>, piece: &[u8], stop: &[String], longest: usize) -> bool {
    let from = (text.len() + 1).saturating_sub(longest).min(text.len());
    text.extend_from_slice(piece);
    let begins = |stop: &String| text[from..].windows(stop.len().max(1)).position(|w| w == stop.as_bytes());
    let first = stop.iter().filter_map(begins).min();
    if let Some(at) = first {
        text.truncate(from + at);
    }
    first.is_some()
}

fn check_output(proof: &Proof, output: &[u8], spelt: &[u8]) -> Result<(), AcceptanceFault> {
    check_named_output(proof, output)?;
    if output != spelt { Err(AcceptanceFault::Output) } else { Ok(()) }
}

fn check_progress(
    lease: &Digest,
    transcript: &Transcript,
    progress: &[(u64, Digest)],
) -> Result<(), AcceptanceFault> {
    let mut prefix = PrefixDigest::new(lease, &transcript.model_digest, &transcript.prompt);
    let mut steps = transcript.steps.iter();
    check_prefixes(progress, prefix.digest(), || {
        prefix.push(steps.next()?);
        Some(prefix.digest())
    })
}

/// `prompt ids × weight_in + output ids × weight_out`; 64 bits hold it, weights and counts having 32 at most.
fn work_units(transcript: &Transcript, model: &ModelFacts) -> WorkUnits {
    let input = transcript.prompt.len() as u64 * u64::from(model.weight_in);
    let output = transcript.steps.len() as u64 * u64::from(model.weight_out);
    WorkUnits(input + output)
}
