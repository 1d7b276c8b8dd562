//! The workload `sd_infer`: one picture from a prompt by latent diffusion (Stable Diffusion,
//! <https://arxiv.org/abs/2112.10752>), as a PNG.
//!
//! A run leaves the mean of each part of its latents after every step, in whole numbers: whoever repeats it can say
//! where it went another way. What the picture shows is not checked here, only that it is one.

use super::png::{self, PngFault};
use super::read_transcript;
use crate::acceptance::{AcceptanceFault, WorkUnits, check_named, check_named_output, check_prefixes};
use crate::codec::{self, CodecError, Link, hash};
use crate::sampler::sampling_seed;
use crate::statement::{Input, Job, JobType, MAX_NAME_BYTES, Proof};
use serde::{Deserialize, Serialize};
use std::fmt;
use swarm_crypto::digest::{Context, Digest};

/// What the sides of a picture are multiples of, in pixels.
pub const SIDE_STEP: u32 = 64;
/// The longest side, in pixels.
pub const MAX_SIDE: u32 = 1024;
/// Most pixels of a picture: whatever it shows, its PNG is not longer than an output may be.
pub const MAX_PIXELS: u32 = 640 * 512;
/// Most steps.
pub const MAX_STEPS: u32 = 100;
/// Guidance that is none: the prompt's own prediction, in thousandths.
pub const NO_GUIDANCE: u32 = 1_000;
/// The strongest guidance, in thousandths.
pub const MAX_GUIDANCE: u32 = 30_000;
/// The longest prompt, in bytes.
pub const MAX_PROMPT_BYTES: usize = 2_048;
/// Most tokens of a prompt.
pub const MAX_PROMPT_TOKENS: usize = 512;
/// Numbers that are left of each step: four channels, four by four parts of each.
pub const SUMMARY_NUMBERS: usize = 4 * 4 * 4;
/// The largest of these numbers, in 1/4096.
pub const MAX_MEAN: i32 = 1 << 20;
/// The longest transcript of a picture, in bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// Pixels in each direction that one latent stands for.
const PIXELS_PER_LATENT: u64 = 8;

/// What picture is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Steps of denoising.
    pub steps: u32,
    /// How much further than the prompt alone leads, in thousandths.
    pub guidance: u32,
}

/// Why a text asks for no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecFault {
    /// Its first line is not written as it has to be.
    #[error(
        "a picture is written '512 512 30 7500': width, height, steps and guidance in thousandths, then the prompt from the next line on"
    )]
    Form,
    /// A side is out of its range.
    #[error("a side of a picture is a multiple of {SIDE_STEP} up to {MAX_SIDE}")]
    Side,
    /// There are too many pixels.
    #[error("a picture has at most {MAX_PIXELS} pixels, such as 512 by 640")]
    TooLarge,
    /// The steps are out of their range.
    #[error("a picture takes 1 to {MAX_STEPS} steps")]
    Steps,
    /// The guidance is out of its range.
    #[error("guidance is {NO_GUIDANCE} to {MAX_GUIDANCE} thousandths")]
    Guidance,
    /// The prompt is too long.
    #[error("the prompt of a picture has at most {MAX_PROMPT_BYTES} bytes")]
    Prompt,
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, height, steps, guidance } = self;
        write!(f, "{width} {height} {steps} {guidance}")
    }
}

impl Spec {
    /// Reads the one way to write it: what [`fmt::Display`] writes.
    pub fn parse(line: &str) -> Result<Self, SpecFault> {
        let numbers: Result<Vec<u32>, _> = line.split(' ').map(str::parse).collect();
        let Ok([width, height, steps, guidance]) = numbers.as_deref() else { return Err(SpecFault::Form) };
        let spec = Self { width: *width, height: *height, steps: *steps, guidance: *guidance };
        spec.check()?;
        if spec.to_string() == line { Ok(spec) } else { Err(SpecFault::Form) }
    }

    /// Reads a job's input: a first line for [`Spec::parse`], and the prompt after its line feed.
    pub fn of_input(text: &str) -> Result<(Self, &str), SpecFault> {
        let (line, prompt) = text.split_once('\n').ok_or(SpecFault::Form)?;
        let spec = Self::parse(line)?;
        if prompt.len() > MAX_PROMPT_BYTES { Err(SpecFault::Prompt) } else { Ok((spec, prompt)) }
    }

    /// Refuses what is out of range.
    pub fn check(&self) -> Result<(), SpecFault> {
        let is_side = |side: u32| (SIDE_STEP..=MAX_SIDE).contains(&side) && side.is_multiple_of(SIDE_STEP);
        if !is_side(self.width) || !is_side(self.height) {
            return Err(SpecFault::Side);
        }
        if self.width * self.height > MAX_PIXELS {
            return Err(SpecFault::TooLarge);
        }
        if !(1..=MAX_STEPS).contains(&self.steps) {
            return Err(SpecFault::Steps);
        }
        if !(NO_GUIDANCE..=MAX_GUIDANCE).contains(&self.guidance) { Err(SpecFault::Guidance) } else { Ok(()) }
    }

    /// Latents of one channel.
    fn latents(&self) -> u64 {
        u64::from(self.width) / PIXELS_PER_LATENT * (u64::from(self.height) / PIXELS_PER_LATENT)
    }
}

/// What the noise that a picture begins as is drawn from: `H(sampling; seed)` of a seed that the job names, so that the
/// same seed gives the same picture; the lease's own sampling seed where it names none.
pub fn noise_seed(lease: &Digest, seed: Option<u64>) -> Digest {
    seed.map_or_else(|| sampling_seed(lease, None), |seed| hash(Context::Sampling, &(seed,)))
}

/// What is left of a step: the mean of each part of each channel of the latents after it, in 1/4096.
pub type Summary = Vec<i32>;

/// A run of a diffusion model, as a canonical DAG-CBOR block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// Name of the model.
    pub model: String,
    /// Digest of the model.
    pub model_digest: Digest,
    /// What picture was asked for: the first line of the job's input.
    pub spec: String,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// What the noise was drawn from.
    pub seed: Digest,
    /// One for each step.
    pub steps: Vec<Summary>,
}

impl Transcript {
    /// The canonical block.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a block, refusing non-canonical bytes and whatever passes the limits of size, name, tokens or steps.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        read_transcript(bytes, MAX_BYTES, |run: &Self| {
            [
                (run.model.len(), MAX_NAME_BYTES, "bytes in the model's name"),
                (run.prompt.len(), MAX_PROMPT_TOKENS, "tokens"),
                (run.steps.len(), MAX_STEPS as usize, "steps"),
            ]
        })
    }

    /// The link to the block.
    pub fn link(&self) -> Link {
        Link::of(&self.encode())
    }
}

/// The digest of a run while it grows: `p₀ = H(lease, model digest, spec, prompt, seed)`, `pₙ₊₁ = H(pₙ, summary)` in the
/// context *prefix*.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixDigest {
    digest: Digest,
    steps: u64,
}

impl PrefixDigest {
    /// The digest before the first step.
    pub fn new(lease: &Digest, model_digest: &Digest, spec: &str, prompt: &[u32], seed: &Digest) -> Self {
        Self { digest: hash(Context::Prefix, &(lease, model_digest, spec, prompt, seed)), steps: 0 }
    }

    /// Takes what is left of the next step.
    pub fn push(&mut self, summary: &[i32]) {
        self.digest = hash(Context::Prefix, &(self.digest, summary));
        self.steps += 1;
    }

    /// The digest of all steps so far.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many steps it covers: the units of a `Progress`.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

/// What the model's manifest and tokenizer say of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The model's name.
    pub name: String,
    /// The model's digest.
    pub digest: Digest,
    /// Work units per token of the prompt.
    pub weight_in: u32,
    /// Work units per step and latent of one channel.
    pub weight_out: u32,
    /// Token ids of the job's prompt.
    pub prompt: Vec<u32>,
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
    let spec = check_asked(job, &transcript, model)?;
    if transcript.seed != noise_seed(&proof.lease, job.params.seed) {
        return Err(AcceptanceFault::Seed);
    }
    check_steps(&spec, &transcript.steps)?;
    check_named_output(proof, output)?;
    png::check(output, spec.width, spec.height)?;
    let Transcript { model_digest, spec: line, prompt, seed, steps, .. } = &transcript;
    let mut prefix = PrefixDigest::new(&proof.lease, model_digest, line, prompt, seed);
    let mut summaries = steps.iter();
    check_prefixes(progress, prefix.digest(), || {
        prefix.push(summaries.next()?);
        Some(prefix.digest())
    })?;
    let input = prompt.len() as u64 * u64::from(model.weight_in);
    Ok(WorkUnits(input + u64::from(spec.steps) * spec.latents() * u64::from(model.weight_out)))
}

/// Refuses a run of something else than the job asks for.
fn check_asked(job: &Job, transcript: &Transcript, model: &Facts) -> Result<Spec, AcceptanceFault> {
    if job.job_type != JobType::SdInfer {
        return Err(AcceptanceFault::Workload(job.job_type));
    }
    super::check_input(job)?;
    if transcript.model != job.model || transcript.model != model.name {
        return Err(AcceptanceFault::Model);
    }
    if transcript.model_digest != model.digest {
        return Err(AcceptanceFault::ModelDigest);
    }
    let Input::Text(text) = &job.input else { return Err(AcceptanceFault::Prompt) };
    let (spec, _) = Spec::of_input(text).map_err(super::WorkloadFault::from)?;
    if transcript.spec != spec.to_string() || transcript.prompt != model.prompt {
        return Err(AcceptanceFault::Prompt);
    }
    Ok(spec)
}

fn check_steps(spec: &Spec, steps: &[Summary]) -> Result<(), AcceptanceFault> {
    if steps.len() != spec.steps as usize {
        return Err(AcceptanceFault::Steps { found: steps.len(), due: spec.steps });
    }
    let is_good = |summary: &Summary| {
        summary.len() == SUMMARY_NUMBERS && summary.iter().all(|mean| (-MAX_MEAN..=MAX_MEAN).contains(mean))
    };
    steps.iter().position(|summary| !is_good(summary)).map_or(Ok(()), |n| Err(AcceptanceFault::Summary(n)))
}

impl From<PngFault> for AcceptanceFault {
    fn from(fault: PngFault) -> Self {
        Self::Picture(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::{MAX_OUTPUT_BYTES, MAX_TRANSCRIPT_BYTES};

    #[test]
    fn a_picture_has_one_way_to_be_asked_for() {
        let good = Spec { width: 512, height: 640, steps: 30, guidance: 7_500 };
        assert_eq!(Spec::of_input("512 640 30 7500\na bee,\nflying"), Ok((good, "a bee,\nflying")));
        assert_eq!(Spec::of_input("64 64 1 1000\n").unwrap().1, "");
        let long = format!("64 64 1 1000\n{}", "x".repeat(MAX_PROMPT_BYTES + 1));
        assert_eq!(Spec::of_input(&long), Err(SpecFault::Prompt));
        assert!(Spec::of_input(&long[..long.len() - 1]).is_ok());
        for (wrong, why) in [
            ("", SpecFault::Form),
            ("512 512 30 7500", SpecFault::Form),
            ("512 512 30\na bee", SpecFault::Form),
            ("512 512 30 7500 1\na bee", SpecFault::Form),
            ("512 512  30 7500\na bee", SpecFault::Form),
            ("512 512 30 7500\r\na bee", SpecFault::Form),
            ("512 512 30 7.5\na bee", SpecFault::Form),
            ("+512 512 30 7500\na bee", SpecFault::Form),
            ("0512 512 30 7500\na bee", SpecFault::Form),
            ("0 64 30 7500\na bee", SpecFault::Side),
            ("96 64 30 7500\na bee", SpecFault::Side),
            ("64 1088 30 7500\na bee", SpecFault::Side),
            ("576 576 30 7500\na bee", SpecFault::TooLarge),
            ("64 64 0 7500\na bee", SpecFault::Steps),
            ("64 64 101 7500\na bee", SpecFault::Steps),
            ("64 64 30 999\na bee", SpecFault::Guidance),
            ("64 64 30 30001\na bee", SpecFault::Guidance),
        ] {
            assert_eq!(Spec::of_input(wrong), Err(why), "{wrong:?}");
        }
    }

    #[test]
    fn a_named_seed_is_every_lease_s_and_none_is_each_lease_s_own() {
        let (one, other) = (Digest([1; 32]), Digest([2; 32]));
        assert_eq!(noise_seed(&one, Some(7)), noise_seed(&other, Some(7)));
        assert_ne!(noise_seed(&one, Some(7)), noise_seed(&one, Some(8)));
        assert_ne!(noise_seed(&one, None), noise_seed(&other, None));
    }

    #[test]
    fn the_longest_job_fits() {
        let longest = Transcript {
            model: "m".repeat(MAX_NAME_BYTES),
            model_digest: Digest([3; 32]),
            spec: "1024 320 100 30000".into(),
            prompt: vec![u32::MAX; MAX_PROMPT_TOKENS],
            seed: Digest([4; 32]),
            steps: vec![vec![-MAX_MEAN; SUMMARY_NUMBERS]; MAX_STEPS as usize],
        };
        let block = longest.encode();
        assert!(block.len() as u64 <= MAX_BYTES.min(MAX_TRANSCRIPT_BYTES), "{}", block.len());
        assert_eq!(Transcript::decode(&block), Ok(longest.clone()));
        let steps = vec![vec![0]; MAX_STEPS as usize + 1];
        assert!(Transcript::decode(&Transcript { steps, ..longest.clone() }.encode()).is_err());
        let prompt = vec![1; MAX_PROMPT_TOKENS + 1];
        assert!(Transcript::decode(&Transcript { prompt, ..longest.clone() }.encode()).is_err());
        let model = "m".repeat(MAX_NAME_BYTES + 1);
        assert!(Transcript::decode(&Transcript { model, ..longest }.encode()).is_err());
        let bytes = u64::from(MAX_PIXELS) * 3 + u64::from(MAX_SIDE);
        assert!(bytes + bytes / 16 <= MAX_OUTPUT_BYTES, "what does not compress fits too");
    }
}
