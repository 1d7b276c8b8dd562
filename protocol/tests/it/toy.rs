//! A language model of 40 tokens that costs nothing to run, and an honest miner with it.

use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::Timestamp;
use swarm_protocol::acceptance::ModelFacts;
use swarm_protocol::codec::{JobId, Link, encode, raw_cid};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::sampler::{Candidate, draw, sample, sampling_seed};
use swarm_protocol::statement::{Assurance, Input, Job, JobType, Params, Proof, lease_id};
use swarm_protocol::transcript::{Step, StopReason, Transcript};

pub(crate) const VOCABULARY: u32 = 40;
pub(crate) const EOS: u32 = 0;
pub(crate) const TOP_K: usize = 8;

/// Everything that an acceptance looks at.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) job: Job,
    pub(crate) lease: Digest,
    pub(crate) transcript: Transcript,
    pub(crate) output: Vec<u8>,
    pub(crate) progress: Vec<(u64, Digest)>,
    pub(crate) facts: ModelFacts,
}

pub(crate) fn job(max_tokens: u32, temperature: u32, stop: &[&str]) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: "toy".into(),
        input: Input::Text("a question".into()),
        params: Params {
            max_tokens,
            temperature,
            top_p: 9_500,
            seed: Some(11),
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
        },
        price: MicroUsdc(100_000),
        not_after: Timestamp(1_800_000_060_000),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

/// The bytes of a token: `eos` has none, token 39 is a line feed, the others are two letters.
pub(crate) fn piece(token: u32) -> Vec<u8> {
    match token {
        EOS => Vec::new(),
        39 => vec![b'\n'],
        _ => vec![b'a' + (token % 26) as u8, b'a' + (token / 2 % 26) as u8],
    }
}

/// What the toy predicts after `tokens`: a distribution of known shape over tokens picked by a hash.
fn predict(tokens: &[u32]) -> Vec<Candidate> {
    let hash = blake3(&encode(&tokens)).0;
    let mut found: Vec<Candidate> = Vec::new();
    for i in 0u32.. {
        let token = (u32::from(hash[i as usize % 32]) + i / 32) % VOCABULARY;
        if found.iter().all(|c| c.token != token) {
            let rank = found.len() as u32;
            found.push(Candidate { token, cost: 9_000 + 1_500 * rank + u32::from(hash[31]) });
        }
        if found.len() == TOP_K {
            break;
        }
    }
    found
}

/// An honest run of `job` in a context of `context` tokens, with progress reported after every token.
pub(crate) fn deliver(job: Job, context: u32) -> Delivery {
    let prompt = vec![5, 6, 7, 8];
    let pool = PoolId([1; 32]);
    let lease = lease_id(&pool, &JobId::of(b"job"), 1, &Address([2; 20]), &Digest([3; 32]));
    let seed = sampling_seed(&lease, job.params.seed);
    let (mut steps, mut text) = (Vec::<Step>::new(), String::new());
    let stop = loop {
        let so_far: Vec<u32> = prompt.iter().copied().chain(steps.iter().map(|s| s.token)).collect();
        let candidates = predict(&so_far);
        let draw = draw(&seed, steps.len() as u64);
        let token = sample(job.params.temperature, job.params.top_p, draw, &candidates).unwrap();
        steps.push(Step { token, candidates });
        text += std::str::from_utf8(&piece(token)).unwrap();
        if token == EOS {
            break StopReason::Eos;
        } else if let Some(at) = job.params.stop.iter().filter_map(|s| text.find(s)).min() {
            text.truncate(at);
            break StopReason::StopSequence;
        } else if steps.len() == job.params.max_tokens as usize {
            break StopReason::MaxTokens;
        } else if prompt.len() + steps.len() == context as usize {
            break StopReason::Context;
        }
    };
    let transcript = Transcript {
        model: "toy".into(),
        model_digest: Digest([9; 32]),
        prompt: prompt.clone(),
        steps,
        stop,
    };
    let facts = ModelFacts {
        name: "toy".into(),
        digest: Digest([9; 32]),
        top_k: TOP_K as u32,
        vocab_size: VOCABULARY,
        context_length: context,
        eos: Some(EOS),
        weight_in: 3,
        weight_out: 10,
        prompt,
        pieces: Vec::new(),
    };
    let progress = (0..=transcript.steps.len()).map(|n| (n as u64, transcript.prefix(&lease, n))).collect();
    Delivery { job, lease, transcript, output: text.into_bytes(), progress, facts }
}

impl Delivery {
    /// The proof that whoever delivers this would sign.
    pub(crate) fn proof(&self) -> Proof {
        let transcript = self.transcript.encode();
        Proof {
            job: JobId::of(b"job"),
            lease: self.lease,
            transcript: Link::of(&transcript),
            transcript_bytes: transcript.len() as u64,
            output: raw_cid(&self.output),
            output_bytes: self.output.len() as u64,
        }
    }
}
