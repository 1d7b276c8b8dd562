//! The workloads without token steps: what an honest miner delivers, and what no mutation of it may pass as.

use serde::Deserialize;
use swarm_crypto::digest::Digest;
use swarm_protocol::acceptance::{AcceptanceFault as Fault, WorkUnits};
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::sampler::sampling_seed;
use swarm_protocol::statement::{Input, Job, JobType, Proof};
use swarm_protocol::workload::bench::{self, Spec, SpecFault};
use swarm_protocol::workload::{WorkloadFault, check_input, embed, image};

pub(super) const LEASE: Digest = Digest([1; 32]);
pub(super) const MODEL: Digest = Digest([2; 32]);

pub(super) fn job(job_type: JobType, model: &str, text: &str) -> Job {
    let input = Input::Text(text.to_owned());
    Job { job_type, model: model.to_owned(), input, ..crate::toy::job(1, 0, &[]) }
}

/// What an attacker would sign over exactly this.
pub(super) fn proof(lease: Digest, transcript: &[u8], output: &[u8]) -> Proof {
    Proof {
        job: JobId::of(b"job"),
        lease,
        transcript: Link::of(transcript),
        transcript_bytes: transcript.len() as u64,
        output: raw_cid(output),
        output_bytes: output.len() as u64,
    }
}

#[derive(Debug, Clone)]
struct Embedded {
    job: Job,
    lease: Digest,
    transcript: embed::Transcript,
    output: Vec<u8>,
    progress: Vec<(u64, Digest)>,
    facts: embed::Facts,
}

impl Embedded {
    fn honest() -> Self {
        let job = job(JobType::Embed, "tiny", "one\ntwo words\nthree");
        let texts = vec![vec![101, 7, 102], vec![101, 8, 9, 102], vec![101, 70_000, 102]];
        let vectors = [[0.6f32, -0.8, 0.0, 0.0], [0.5, 0.5, 0.5, -0.5], [0.0, 1e-20, 0.0, -1.0]];
        let facts = embed::Facts {
            name: "tiny".into(),
            digest: MODEL,
            dimensions: 4,
            weight_in: 3,
            weight_out: 10,
            texts: texts.clone(),
        };
        let output: Vec<u8> = vectors.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        let mut prefix = embed::PrefixDigest::new(&LEASE, &MODEL);
        let mut progress = vec![(0, prefix.digest())];
        for (ids, vector) in texts.iter().zip(output.chunks_exact(16)) {
            prefix.push(ids, vector);
            progress.push((prefix.texts(), prefix.digest()));
        }
        let transcript = embed::Transcript { model: "tiny".into(), model_digest: MODEL, texts };
        Self { job, lease: LEASE, transcript, output, progress, facts }
    }

    fn judge(&self) -> Result<WorkUnits, Fault> {
        let transcript = self.transcript.encode();
        let proof = proof(self.lease, &transcript, &self.output);
        embed::check(&self.job, &self.progress, (&proof, &transcript, &self.output), &self.facts)
    }

    fn with(change: impl Fn(&mut Self)) -> Fault {
        let mut changed = Self::honest();
        change(&mut changed);
        changed.judge().unwrap_err()
    }
}

#[derive(Debug, Clone)]
struct Measured {
    job: Job,
    lease: Digest,
    transcript: bench::Transcript,
    output: Vec<u8>,
    progress: Vec<(u64, Digest)>,
    facts: bench::Facts,
}

impl Measured {
    fn honest() -> Self {
        let spec = Spec::parse("f16 30 50 70 4").unwrap();
        let job = job(JobType::TorchBench, "matmul", &spec.to_string());
        let due = bench::checksums(&spec, &sampling_seed(&LEASE, job.params.seed));
        let laps: Vec<_> = [900_000, 400_000, 500_000, 400_001].into_iter().zip(due).collect();
        let output = bench::Figures::of(&spec, &laps).unwrap().encode();
        let spec = spec.to_string();
        let mut prefix = bench::PrefixDigest::new(&LEASE, &MODEL, &spec);
        let mut progress = vec![(0, prefix.digest())];
        for lap in &laps {
            prefix.push(*lap);
            progress.push((prefix.laps(), prefix.digest()));
        }
        let transcript = bench::Transcript { model: "matmul".into(), model_digest: MODEL, spec, laps };
        let facts = bench::Facts { name: "matmul".into(), digest: MODEL, weight_out: 7 };
        Self { job, lease: LEASE, transcript, output, progress, facts }
    }

    fn judge(&self) -> Result<WorkUnits, Fault> {
        let transcript = self.transcript.encode();
        let proof = proof(self.lease, &transcript, &self.output);
        bench::check(&self.job, &self.progress, (&proof, &transcript, &self.output), &self.facts)
    }

    /// The verdict after a change, the output being made anew where the attacker can.
    fn with(change: impl Fn(&mut Self)) -> Fault {
        let mut changed = Self::honest();
        let before = changed.transcript.clone();
        change(&mut changed);
        if changed.transcript != before
            && let Ok(spec) = Spec::parse(&changed.transcript.spec)
            && let Some(figures) = bench::Figures::of(&spec, &changed.transcript.laps)
        {
            changed.output = figures.encode();
        }
        changed.judge().unwrap_err()
    }
}

#[test]
fn honest_deliveries_are_accepted_and_measured() {
    let embedded = Embedded::honest();
    assert_eq!(embedded.judge(), Ok(WorkUnits(10 * 3 + 3 * 10)));
    assert!(
        Embedded { progress: Vec::new(), ..embedded }.judge().is_ok(),
        "progress is not owed by this rule"
    );
    let measured = Measured::honest();
    assert_eq!(measured.judge(), Ok(WorkUnits(7)), "840,000 operations are one begun unit of a million");
    assert_eq!(
        bench::Figures::decode(&measured.output).unwrap(),
        bench::Figures {
            spec: "f16 30 50 70 4".into(),
            operations: 840_000,
            traffic: 2 * 4 * (30 * 70 + 70 * 50 + 30 * 50),
            total_ns: 2_200_001,
            best_ns: 400_000,
        }
    );
}

#[test]
fn every_fault_of_an_embedding_has_its_name() {
    type E = Embedded;
    assert_eq!(E::with(|e| e.job.job_type = JobType::LlmGen), Fault::Workload(JobType::LlmGen));
    assert_eq!(E::with(|e| e.job.model = "other".into()), Fault::Model);
    assert_eq!(E::with(|e| e.transcript.model = "other".into()), Fault::Model);
    assert_eq!(E::with(|e| e.transcript.model_digest.0[31] ^= 1), Fault::ModelDigest);
    assert_eq!(E::with(|e| e.transcript.texts[1][2] ^= 1), Fault::Prompt);
    assert_eq!(E::with(|e| e.transcript.texts.swap(0, 1)), Fault::Prompt);
    assert_eq!(E::with(|e| _ = e.transcript.texts.pop()), Fault::Prompt);
    assert_eq!(E::with(|e| e.output.truncate(32)), Fault::OutputShape { found: 32, due: 48 });
    assert_eq!(E::with(|e| e.output.push(0)), Fault::OutputShape { found: 49, due: 48 });
    assert_eq!(E::with(|e| e.facts.dimensions = 3), Fault::OutputShape { found: 48, due: 36 });
    assert_eq!(E::with(|e| e.output[16..20].copy_from_slice(&f32::NAN.to_le_bytes())), Fault::NotFinite(1));
    assert_eq!(E::with(|e| e.output[44..48].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes())), {
        Fault::NotFinite(2)
    });
    assert_eq!(E::with(|e| e.output[0..4].copy_from_slice(&0.61f32.to_le_bytes())), Fault::VectorLength(0));
    assert_eq!(E::with(|e| e.output[16..32].fill(0)), Fault::VectorLength(1));
    assert_eq!(E::with(|e| e.output[36..40].copy_from_slice(&1e-19f32.to_le_bytes())), Fault::Progress(3));
    assert_eq!(E::with(|e| e.lease.0[0] ^= 1), Fault::Progress(0));
    assert_eq!(E::with(|e| e.progress.push((4, Digest([5; 32])))), Fault::Progress(4));
    assert_eq!(E::with(|e| e.progress[2].1.0[7] ^= 1), Fault::Progress(2));
}

#[test]
fn every_fault_of_a_benchmark_has_its_name() {
    type M = Measured;
    assert_eq!(M::with(|m| m.job.job_type = JobType::Embed), Fault::Workload(JobType::Embed));
    assert_eq!(M::with(|m| m.job.model = "other".into()), Fault::Model);
    assert_eq!(M::with(|m| m.transcript.model = "other".into()), Fault::Model);
    assert_eq!(M::with(|m| m.transcript.model_digest.0[31] ^= 1), Fault::ModelDigest);
    assert_eq!(M::with(|m| m.transcript.spec = "f16 30 50 70 3".into()), Fault::Prompt);
    assert_eq!(M::with(|m| m.job.input = Input::Text("f16 30 50 70 3".into())), Fault::Prompt);
    let short = |m: &mut M| _ = m.transcript.laps.pop();
    assert_eq!(M::with(short), Fault::Laps { found: 3, due: 4 });
    assert_eq!(M::with(|m| m.transcript.laps.push((1, 1))), Fault::Laps { found: 5, due: 4 });
    assert_eq!(M::with(|m| m.transcript.laps[2].0 = 0), Fault::Time);
    assert_eq!(M::with(|m| m.transcript.laps[2].0 = 60_000_000_001), Fault::Time);
    assert_eq!(M::with(|m| m.transcript.laps[2].0 = u64::MAX), Fault::Time);
    assert_eq!(M::with(|m| m.output[9] ^= 1), Fault::Output);
    assert_eq!(M::with(|m| m.transcript.laps[1].0 = 399_999), Fault::Progress(2));
    assert_eq!(M::with(|m| m.transcript.laps[3].1 ^= 1), Fault::Progress(4));
    let unheard = |m: &mut M| {
        m.progress.clear();
        m.transcript.laps[3].1 ^= 1;
    };
    assert_eq!(M::with(unheard), Fault::Checksum(3));
    let swapped = |m: &mut M| {
        m.progress.clear();
        m.transcript.laps.swap(0, 1);
    };
    assert_eq!(M::with(swapped), Fault::Checksum(0));
    let elsewhere = |m: &mut M| {
        m.progress.clear();
        m.lease.0[0] ^= 1;
    };
    assert_eq!(M::with(elsewhere), Fault::Checksum(0), "the matrices are those of the lease");
    let seeded = |m: &mut M| {
        m.progress.clear();
        m.job.params.seed = Some(12);
    };
    assert_eq!(M::with(seeded), Fault::Checksum(0));
}

#[test]
fn content_that_the_proof_does_not_name_is_refused() {
    let good = Embedded::honest();
    let transcript = good.transcript.encode();
    let named = proof(LEASE, &transcript, &good.output);
    let judge = |proof: &Proof, transcript: &[u8], output: &[u8]| {
        embed::check(&good.job, &[], (proof, transcript, output), &good.facts).unwrap_err()
    };
    let flipped = |bytes: &[u8]| [&[bytes[0] ^ 1], &bytes[1..]].concat();
    assert_eq!(judge(&named, &flipped(&transcript), &good.output), Fault::TranscriptLink);
    assert_eq!(judge(&named, &transcript, &flipped(&good.output)), Fault::OutputLink);
    let longer = [&transcript[..], &[0]].concat();
    assert!(matches!(judge(&named, &longer, &good.output), Fault::TranscriptLength { .. }));
    assert!(matches!(
        judge(&proof(LEASE, &longer, &good.output), &longer, &good.output),
        Fault::Transcript(_)
    ));
    let other = Measured::honest().transcript.encode();
    let foreign = proof(LEASE, &other, &good.output);
    assert!(matches!(judge(&foreign, &other, &good.output), Fault::Transcript(_)), "of another workload");
}

#[test]
fn a_job_that_its_workload_cannot_be_given_is_named() {
    let check = |job: &Job| check_input(job).unwrap_err();
    let linked = Input::Linked { cid: raw_cid(b"x"), bytes: 1 };
    let embed = job(JobType::Embed, "m", "a text");
    assert_eq!(check_input(&embed), Ok(()));
    assert_eq!(check_input(&Job { input: linked.clone(), ..embed.clone() }), Ok(()));
    let chat = Input::Chat(Vec::new());
    assert_eq!(check(&Job { input: chat, ..embed.clone() }), WorkloadFault::Chat(JobType::Embed));
    let sealed = Input::Sealed { cid: raw_cid(b"x") };
    assert_eq!(check(&Job { input: sealed, ..embed }), WorkloadFault::Sealed);
    let picture = job(JobType::SdInfer, "m", "64 64 20 7500\na bee");
    assert_eq!(check_input(&picture), Ok(()));
    let narrow = Input::Text("65 64 20 7500\na bee".into());
    assert_eq!(
        check(&Job { input: narrow, ..picture.clone() }),
        WorkloadFault::Image(image::SpecFault::Side)
    );
    let chat = Input::Chat(Vec::new());
    assert_eq!(check(&Job { input: chat, ..picture.clone() }), WorkloadFault::Chat(JobType::SdInfer));
    assert_eq!(check(&Job { input: linked.clone(), ..picture }), WorkloadFault::Linked(JobType::SdInfer));
    let measure = job(JobType::TorchBench, "m", "f32 8 8 8 1");
    assert_eq!(check_input(&measure), Ok(()));
    assert_eq!(check(&Job { input: linked, ..measure.clone() }), WorkloadFault::Linked(JobType::TorchBench));
    let too_large = Input::Text("f32 4097 8 8 1".into());
    assert_eq!(check(&Job { input: too_large, ..measure }), WorkloadFault::Bench(SpecFault::Side));
}

#[derive(Deserialize)]
struct Vectors {
    lease: Digest,
    model_digest: Digest,
    embed: EmbedVector,
    bench: Vec<BenchVector>,
}

#[derive(Deserialize)]
struct EmbedVector {
    texts: Vec<Vec<u32>>,
    vectors: Vec<String>,
    block: String,
    prefixes: Vec<Digest>,
}

#[derive(Deserialize)]
struct BenchVector {
    spec: String,
    seed: Digest,
    checksums: Vec<u32>,
    laps: Vec<bench::Lap>,
    block: String,
    output: String,
    prefixes: Vec<Digest>,
}

#[test]
fn another_implementation_encodes_and_digests_an_embedding_the_same() {
    let Vectors { lease, model_digest, embed: vector, .. } = crate::vectors("workloads.json");
    let mut prefix = embed::PrefixDigest::new(&lease, &model_digest);
    let mut prefixes = vec![prefix.digest()];
    for (ids, bytes) in vector.texts.iter().zip(&vector.vectors) {
        prefix.push(ids, &unhex(bytes));
        prefixes.push(prefix.digest());
    }
    assert_eq!(prefixes, vector.prefixes);
    let transcript =
        embed::Transcript { model: "all-minilm-l6-v2".into(), model_digest, texts: vector.texts };
    assert_eq!(crate::hex(&transcript.encode()), vector.block);
}

#[test]
fn another_implementation_multiplies_encodes_and_digests_a_benchmark_the_same() {
    let Vectors { lease, model_digest, bench: vectors, .. } = crate::vectors("workloads.json");
    for vector in vectors {
        let spec = Spec::parse(&vector.spec).unwrap();
        assert_eq!(bench::checksums(&spec, &vector.seed), vector.checksums, "{spec}");
        let mut prefix = bench::PrefixDigest::new(&lease, &model_digest, &vector.spec);
        let mut prefixes = vec![prefix.digest()];
        for lap in &vector.laps {
            prefix.push(*lap);
            prefixes.push(prefix.digest());
        }
        assert_eq!(prefixes, vector.prefixes, "{spec}");
        let figures = bench::Figures::of(&spec, &vector.laps).unwrap();
        assert_eq!(crate::hex(&figures.encode()), vector.output, "{spec}");
        let transcript =
            bench::Transcript { model: "matmul".into(), model_digest, spec: vector.spec, laps: vector.laps };
        assert_eq!(crate::hex(&transcript.encode()), vector.block);
    }
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
