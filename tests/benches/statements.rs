//! What a node pays for a statement beyond its signature: decode, strict check, digests, memory of what was seen; and
//! what checking a transcript costs, token by token.

mod support;

use criterion::{BatchSize, Criterion, Throughput};
use std::hint::black_box;
use std::time::Duration;
use support::{Pairs, Target, timed};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use swarm_crypto::eip712::statement_hash;
use swarm_crypto::key::{PublicKey, SecretKey, Signature, verify};
use swarm_protocol::acceptance::{self, ModelFacts, Opened};
use swarm_protocol::codec::{Link, raw_cid};
use swarm_protocol::distance::{Draws, Recomputed, measure};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::sampler::{self, Candidate};
use swarm_protocol::statement::*;
use swarm_protocol::transcript::{Step, StopReason, Transcript};
use swarm_protocol::{Millis, Timestamp};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const PER_KIND: u64 = 300;
const ROUNDS: usize = 15;
const TOKENS: u32 = 4000;

/// Signed statements as they travel, and what is left of them for a bare verification.
struct Corpus {
    pool: PoolId,
    operator: Address,
    wires: Vec<Vec<u8>>,
    raw: Vec<(PublicKey, [u8; 32], Signature)>,
}

impl Corpus {
    fn of(bodies: impl Iterator<Item = Body>) -> Self {
        let (key, operator) = (secret(2), secret(1).address());
        let pool = PoolId::derive("swarmpool.eth", operator, 0, Address::ZERO);
        let mut corpus = Self { pool, operator, wires: Vec::new(), raw: Vec::new() };
        for body in bodies {
            let statement = Statement::derived(pool, key.address(), NOW, body);
            let signed = statement.sign(&key);
            let hash = statement_hash(&pool, statement.kind().as_str(), &blake3(&signed.payload));
            corpus.wires.push(signed.encode());
            corpus.raw.push((key.public_key(), hash, signed.signature));
        }
        corpus
    }

    /// An intake that knows the signer's key and has seen none of these statements.
    fn intake(&self) -> Intake {
        let mut intake = Intake::new(self.pool, self.operator);
        intake.verify(None, &self.wires[0], NOW).expect("the corpus is valid");
        intake
    }

    fn accept_all(&self, intake: &mut Intake) {
        for wire in &self.wires {
            black_box(intake.accept(None, black_box(wire), NOW).expect("the corpus is valid"));
        }
    }

    fn verify_all(&self) {
        for (key, hash, signature) in &self.raw {
            verify(black_box(key), black_box(hash), black_box(signature)).expect("the corpus is valid");
        }
    }

    fn time_accept(&self) -> Duration {
        let mut intake = self.intake();
        timed(|| self.accept_all(&mut intake)).1
    }

    fn time_verify(&self) -> Duration {
        timed(|| self.verify_all()).1
    }
}

fn secret(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).expect("a small scalar is a key")
}

fn link(n: u64) -> Link {
    Link::of(&n.to_be_bytes())
}

fn digest(n: u64) -> Digest {
    blake3(&n.to_be_bytes())
}

fn job(n: u64) -> Body {
    let text =
        format!("Tell the story of the {n}th bee of the hive, who looked for clover on the hill. ").repeat(3);
    Job {
        job_type: JobType::LlmGen,
        model: "queenbee-nano".into(),
        input: Input::Text(text),
        params: Params { max_tokens: 64, temperature: 7_000, top_p: 9_500, seed: Some(n), stop: vec![] },
        price: MicroUsdc(100_000),
        not_after: NOW + Millis::from_secs(600),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
    .into()
}

fn claim(n: u64) -> Body {
    Claim { job: link(n), attempt: 1 }.into()
}

fn progress(n: u64) -> Body {
    Progress { job: link(n), lease: digest(n), units: n, prefix: digest(n + 1) }.into()
}

fn proof(n: u64) -> Body {
    let output = raw_cid(&n.to_be_bytes());
    let (job, transcript) = (link(n), link(n + 1));
    Proof { job, lease: digest(n), transcript, transcript_bytes: 4_000, output, output_bytes: 400 }.into()
}

fn heartbeat(n: u64) -> Body {
    let offer = |model: &str| ModelOffer { model: model.into(), assurances: vec![Assurance::Seeded] };
    Heartbeat {
        boot_at: NOW,
        counter: n,
        models: vec![offer("queenbee-nano"), offer("drone-small")],
        slots: 2,
        mode: PayoutMode::Solo,
        ens: Some("alice.eth".into()),
        device: "cpu".into(),
        vram_mb: 0,
        draining: false,
    }
    .into()
}

/// Makes the n-th body of a kind.
type Make = fn(u64) -> Body;

const KINDS: [(&str, Make); 5] =
    [("job", job), ("claim", claim), ("progress", progress), ("proof", proof), ("heartbeat", heartbeat)];

fn share(name: &str, corpus: &Corpus) -> f64 {
    let pairs = Pairs::of(ROUNDS, || corpus.time_accept(), || corpus.time_verify());
    let each = |seconds: f64| seconds * 1e6 / corpus.wires.len() as f64;
    let (accept, verify) = (each(pairs.first()), each(pairs.second()));
    let share = pairs.second_over_first();
    println!(
        "{name}: accept {accept:.1} us, verify {verify:.1} us, {:.0} accepted/s, share {share:.3}",
        1e6 / accept
    );
    share
}

/// A run of [`TOKENS`] tokens with 16 candidates each, and all that its acceptance looks at.
struct Run {
    job: Job,
    proof: Proof,
    transcript: Vec<u8>,
    output: Vec<u8>,
    facts: ModelFacts,
}

impl Run {
    fn new() -> Self {
        let Body::Job(job) = job(1) else { unreachable!("a job was made") };
        let job = Job { params: Params { max_tokens: TOKENS, temperature: 9_000, ..job.params }, ..job };
        let (lease, prompt) = (digest(7), (0..256).collect::<Vec<u32>>());
        let draws = Draws::of(&lease, &job.params);
        let step = |n: u32| {
            let token = |i: u32| (n * 7919 + i * 104_729) % 151_936;
            let candidates: Vec<_> =
                (0..16).map(|i| Candidate { token: token(i), cost: 12_000 + 900 * i }).collect();
            let draw = sampler::draw(&draws.seed, n.into());
            let token = sampler::sample(draws.temperature, draws.top_p, draw, &candidates);
            Step { token: token.expect("there are candidates"), candidates }
        };
        let transcript = Transcript {
            model: job.model.clone(),
            model_digest: digest(3),
            prompt: prompt.clone(),
            steps: (0..TOKENS).map(step).collect(),
            stop: StopReason::MaxTokens,
        };
        let pieces = vec![b"word ".to_vec(); TOKENS as usize];
        let (output, transcript) = (pieces.concat(), transcript.encode());
        let proof = Proof {
            job: link(1),
            lease,
            transcript: Link::of(&transcript),
            transcript_bytes: transcript.len() as u64,
            output: raw_cid(&output),
            output_bytes: output.len() as u64,
        };
        let facts = ModelFacts {
            name: job.model.clone(),
            digest: digest(3),
            top_k: 16,
            vocab_size: u32::MAX,
            context_length: 8192,
            eos: None,
            weight_in: 1,
            weight_out: 4,
            prompt,
            pieces,
        };
        Self { job, proof, transcript, output, facts }
    }

    /// As an operator does before it pays.
    fn accept(&self) -> Opened {
        let opened = acceptance::open(black_box(&self.proof), &self.transcript).expect("it is one");
        acceptance::check(&self.job, &[], &opened, &self.output, &self.facts).expect("it is acceptable");
        opened
    }
}

/// Prints what the acceptance rule with check A, and the arithmetic of check B, cost for each token.
fn checks() {
    let run = Run::new();
    let opened = run.accept();
    let steps = &opened.transcript().steps;
    let recomputed = |step: &Step| Recomputed {
        costs: step.candidates.iter().map(|c| c.cost + 40).collect(),
        top: [&step.candidates[..], &step.candidates[..]].concat(),
    };
    let (own, draws) =
        (steps.iter().map(recomputed).collect::<Vec<_>>(), Draws::of(&run.proof.lease, &run.job.params));
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let (_, a) = timed(|| black_box(run.accept()));
        let (_, b) = timed(|| black_box(measure(steps, &own, Some(&draws))));
        costs.push([a, b].map(|time| time.as_secs_f64() * 1e6 / f64::from(TOKENS)));
    }
    for (which, name) in ["check-a/us-per-token", "check-b/us-per-token-without-the-model"].iter().enumerate()
    {
        let mut each: Vec<f64> = costs.iter().map(|cost| cost[which]).collect();
        each.sort_unstable_by(f64::total_cmp);
        support::figure(name, each[each.len() / 2]);
    }
}

fn main() {
    support::machine();
    checks();
    let mixed = Corpus::of(KINDS.iter().flat_map(|(_, make)| (0..PER_KIND).map(make)));
    let mut criterion =
        Criterion::default().sample_size(10).measurement_time(Duration::from_secs(3)).configure_from_args();
    let mut group = criterion.benchmark_group("statements");
    group.throughput(Throughput::Elements(mixed.wires.len() as u64));
    group.bench_function("accept", |b| {
        b.iter_batched_ref(|| mixed.intake(), |intake| mixed.accept_all(intake), BatchSize::PerIteration);
    });
    group.bench_function("verify", |b| b.iter(|| mixed.verify_all()));
    group.finish();
    for (name, make) in KINDS {
        share(name, &Corpus::of((0..PER_KIND).map(make)));
    }
    support::ratio("statements", share("all kinds alike", &mixed), Target::AtLeast(0.8));
}
