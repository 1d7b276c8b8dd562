//! What a language model's run left behind: its prompt, and per position the token and what it was chosen from.
//!
//! With 16 candidates a step takes 100 to 121 bytes, at most 173, so that the longest job always fits; with 32 it takes
//! about 195 to 235 and fits as well.

use crate::codec::{self, CodecError, Link, hash};
use crate::sampler::{Candidate, MAX_TOP_K};
use crate::statement::{MAX_NAME_BYTES, MAX_TOKENS, MAX_TRANSCRIPT_BYTES};
use crate::workload::read_transcript;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use swarm_crypto::digest::{Context, Digest};

/// Most token ids of a prompt.
pub const MAX_PROMPT_TOKENS: usize = 1 << 17;

/// A run of a language model, as a canonical DAG-CBOR block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// Name of the model.
    pub model: String,
    /// blake3 of the model's weights.
    pub model_digest: Digest,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// One entry per output token, with the one that ended the output.
    pub steps: Vec<Step>,
    /// Why it ended.
    pub stop: StopReason,
}

/// One output token: the array `[token, [t₁, c₁, t₂, c₂ − c₁, …]]`, candidates' costs as differences modulo 2^32.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The token chosen.
    pub token: u32,
    /// What it was chosen from, by (cost, token) ascending.
    pub candidates: Vec<Candidate>,
}

/// Why a generation ended; where several hold for one token, the first of this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended the text.
    Eos,
    /// The output came to contain a stop text.
    StopSequence,
    /// As many tokens as were asked for.
    MaxTokens,
    /// Prompt and output together fill the context.
    Context,
}

impl Transcript {
    /// The canonical block.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads a block, refusing non-canonical bytes and whatever passes the limits of size, prompt, steps or candidates.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let widest = |run: &Self| run.steps.iter().map(|step| step.candidates.len()).max().unwrap_or(0);
        read_transcript(bytes, MAX_TRANSCRIPT_BYTES, |run: &Self| {
            [
                (run.model.len(), MAX_NAME_BYTES, "bytes in the model's name"),
                (run.prompt.len(), MAX_PROMPT_TOKENS, "prompt tokens"),
                (run.steps.len(), MAX_TOKENS as usize, "steps"),
                (widest(run), MAX_TOP_K, "candidates"),
            ]
        })
    }

    /// The link to the block.
    pub fn link(&self) -> Link {
        Link::of(&self.encode())
    }

    /// The digest of the first `n` steps under `lease`; all of them where there are fewer.
    pub fn prefix(&self, lease: &Digest, n: usize) -> Digest {
        let mut prefix = PrefixDigest::new(lease, &self.model_digest, &self.prompt);
        self.steps.iter().take(n).for_each(|step| prefix.push(step));
        prefix.digest()
    }
}

/// The digest of a transcript while it grows: `p₀ = H(lease, model digest, prompt)`, `pₙ₊₁ = H(pₙ, token, candidates)`
/// in the context *prefix*, candidates in the form that they have in the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixDigest {
    digest: Digest,
    steps: u64,
}

impl PrefixDigest {
    /// The digest before the first step.
    pub fn new(lease: &Digest, model_digest: &Digest, prompt: &[u32]) -> Self {
        Self { digest: hash(Context::Prefix, &(lease, model_digest, prompt)), steps: 0 }
    }

    /// Takes the next step.
    pub fn push(&mut self, step: &Step) {
        self.digest = hash(Context::Prefix, &(self.digest, step.token, flatten(&step.candidates)));
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

fn flatten(candidates: &[Candidate]) -> Vec<u32> {
    let mut before = 0;
    let mut flat = Vec::with_capacity(2 * candidates.len());
    for candidate in candidates {
        flat.extend([candidate.token, candidate.cost.wrapping_sub(before)]);
        before = candidate.cost;
    }
    flat
}

fn unflatten(flat: &[u32]) -> Option<Vec<Candidate>> {
    let (pairs, []) = flat.as_chunks::<2>() else { return None };
    let mut cost = 0u32;
    let candidate = |&[token, difference]: &[u32; 2]| {
        cost = cost.wrapping_add(difference);
        Candidate { token, cost }
    };
    Some(pairs.iter().map(candidate).collect())
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.token, flatten(&self.candidates)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (token, flat) = <(u32, Vec<u32>)>::deserialize(deserializer)?;
        let candidates = unflatten(&flat)
            .ok_or_else(|| serde::de::Error::custom("candidates are pairs of a token and a cost"))?;
        Ok(Self { token, candidates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// K candidates of a vocabulary of `vocabulary` tokens, about 600 cost units apart.
    fn step(k: u32, vocabulary: u32, n: u32) -> Step {
        let token = |i: u32| (n * 7919 + i * 104_729) % vocabulary;
        let candidates = (0..k).map(|i| Candidate { token: token(i), cost: 900 + 600 * i }).collect();
        Step { token: token(0), candidates }
    }

    fn transcript(k: u32, vocabulary: u32, steps: u32) -> Transcript {
        Transcript {
            model: "queenbee-nano".into(),
            model_digest: Digest([3; 32]),
            prompt: (0..256).collect(),
            steps: (0..steps).map(|n| step(k, vocabulary, n)).collect(),
            stop: StopReason::MaxTokens,
        }
    }

    #[test]
    fn a_transcript_comes_back_as_it_went_whatever_its_order() {
        let mut sent = transcript(16, 4096, 20);
        assert_eq!(Transcript::decode(&sent.encode()), Ok(sent.clone()));
        sent.steps[3].candidates.swap(0, 9);
        sent.steps[4].candidates.clear();
        sent.steps[5].candidates[1] = Candidate { token: u32::MAX, cost: u32::MAX };
        assert_eq!(Transcript::decode(&sent.encode()), Ok(sent));
    }

    #[test]
    fn the_longest_job_fits() {
        let per_step = |k, vocabulary| {
            let steps = 1000;
            (transcript(k, vocabulary, steps).encode().len() - transcript(k, vocabulary, 0).encode().len())
                / steps as usize
        };
        let sizes = [(16, 4096), (16, 151_936), (32, 4096), (32, 151_936)].map(|(k, v)| per_step(k, v));
        assert_eq!(sizes, [100, 121, 195, 235]);
        let longest = transcript(32, 151_936, MAX_TOKENS).encode();
        assert!(longest.len() as u64 <= MAX_TRANSCRIPT_BYTES, "{}", longest.len());
        assert!(Transcript::decode(&longest).is_ok());
    }

    #[test]
    fn what_passes_a_limit_or_is_not_canonical_is_refused() {
        let good = transcript(4, 100, 3);
        let too_long = Transcript { steps: vec![step(0, 9, 0); MAX_TOKENS as usize + 1], ..good.clone() };
        let too_wide = Transcript { steps: vec![step(MAX_TOP_K as u32 + 1, 9999, 0)], ..good.clone() };
        let prompted = Transcript { prompt: vec![1; MAX_PROMPT_TOKENS + 1], ..good.clone() };
        let named = Transcript { model: "m".repeat(MAX_NAME_BYTES + 1), ..good.clone() };
        for bad in [too_long, too_wide, prompted, named] {
            assert!(Transcript::decode(&bad.encode()).is_err());
        }
        assert!(Transcript::decode(&vec![0; MAX_TRANSCRIPT_BYTES as usize + 1]).is_err());
        let mut trailing = good.encode();
        trailing.push(0);
        assert!(Transcript::decode(&trailing).is_err());
        let odd = good.encode();
        let at = odd.windows(2).position(|w| w == [0x82, 0x00]).expect("step 0 chose token 0");
        let mut odd = odd;
        assert_eq!(odd[at + 2], 0x88, "four pairs");
        odd[at + 2] = 0x87;
        odd.remove(at + 3);
        assert!(Transcript::decode(&odd).is_err());
    }

    #[test]
    fn a_prefix_covers_lease_model_prompt_and_every_step_so_far() {
        let whole = transcript(8, 4096, 6);
        let lease = Digest([1; 32]);
        let mut growing = PrefixDigest::new(&lease, &whole.model_digest, &whole.prompt);
        let mut seen = std::collections::BTreeSet::from([growing.digest()]);
        for (n, step) in whole.steps.iter().enumerate() {
            growing.push(step);
            assert_eq!(growing.steps(), n as u64 + 1);
            assert_eq!(growing.digest(), whole.prefix(&lease, n + 1));
            assert!(seen.insert(growing.digest()));
        }
        let others = [
            (whole.clone(), Digest([2; 32])),
            (Transcript { model_digest: Digest([4; 32]), ..whole.clone() }, lease),
            (Transcript { prompt: vec![1], ..whole.clone() }, lease),
        ];
        assert!(others.iter().all(|(other, lease)| seen.insert(other.prefix(lease, 6))));
    }
}
