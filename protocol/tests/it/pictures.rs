//! Pictures: what an honest miner delivers, and what no mutation of it may pass as.

use crate::workloads::{LEASE, MODEL, job, proof};
use serde::Deserialize;
use swarm_crypto::digest::Digest;
use swarm_protocol::acceptance::{AcceptanceFault as Fault, WorkUnits};
use swarm_protocol::codec::Link;
use swarm_protocol::statement::{Input, Job, JobType};
use swarm_protocol::workload::image::{self, MAX_MEAN, SUMMARY_NUMBERS};
use swarm_protocol::workload::png::PngFault;

const SPEC: &str = "128 64 3 7500";

#[derive(Debug, Clone)]
struct Drawn {
    job: Job,
    lease: Digest,
    transcript: image::Transcript,
    output: Vec<u8>,
    progress: Vec<(u64, Digest)>,
    facts: image::Facts,
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let summed = [&kind[..], content].concat();
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[..], &summed, &crc32fast::hash(&summed).to_be_bytes()].concat()
}

/// A picture of one colour a row, of a size.
fn picture(width: u32, height: u32) -> Vec<u8> {
    let row = |y: u32| std::iter::once(0).chain((0..3 * width).map(move |_| y as u8));
    png(width, height, &(0..height).flat_map(row).collect::<Vec<u8>>())
}

/// A picture of these rows, each with its filter before it.
pub(super) fn png(width: u32, height: u32, rows: &[u8]) -> Vec<u8> {
    let data = miniz_oxide::deflate::compress_to_vec_zlib(rows, 6);
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let chunks = [chunk(b"IHDR", &header), chunk(b"IDAT", &data), chunk(b"IEND", &[])];
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
}

impl Drawn {
    fn honest() -> Self {
        let mut job = job(JobType::SdInfer, "tiny", &format!("{SPEC}\na bee"));
        job.params.seed = Some(7);
        let prompt = vec![49_406, 320, 5_004, 49_407];
        let mean = |step: i32, at: i32| 1000 * step - 40 * at;
        let summary = |step| (0..SUMMARY_NUMBERS as i32).map(|at| mean(step, at)).collect();
        let steps: Vec<image::Summary> = (0..3).map(summary).collect();
        let seed = image::noise_seed(&LEASE, Some(7));
        let mut prefix = image::PrefixDigest::new(&LEASE, &MODEL, SPEC, &prompt, &seed);
        let mut progress = vec![(0, prefix.digest())];
        for summary in &steps {
            prefix.push(summary);
            progress.push((prefix.steps(), prefix.digest()));
        }
        let name = "tiny".to_owned();
        let transcript = image::Transcript {
            model: name.clone(),
            model_digest: MODEL,
            spec: SPEC.into(),
            prompt: prompt.clone(),
            seed,
            steps,
        };
        let facts = image::Facts { name, digest: MODEL, weight_in: 3, weight_out: 10, prompt };
        Self { job, lease: LEASE, transcript, output: picture(128, 64), progress, facts }
    }

    fn judge(&self) -> Result<WorkUnits, Fault> {
        let transcript = self.transcript.encode();
        let proof = proof(self.lease, &transcript, &self.output);
        image::check(&self.job, &self.progress, (&proof, &transcript, &self.output), &self.facts)
    }

    fn with(change: impl Fn(&mut Self)) -> Fault {
        let mut changed = Self::honest();
        change(&mut changed);
        changed.judge().unwrap_err()
    }
}

#[test]
fn an_honest_picture_is_accepted_and_measured() {
    let drawn = Drawn::honest();
    assert_eq!(drawn.judge(), Ok(WorkUnits(4 * 3 + 3 * (16 * 8) * 10)));
    assert!(Drawn { progress: Vec::new(), ..drawn }.judge().is_ok(), "progress is not owed by this rule");
    let mut own = Drawn::honest();
    own.job.params.seed = None;
    own.transcript.seed = image::noise_seed(&LEASE, None);
    own.progress.clear();
    assert!(own.judge().is_ok(), "the lease's seed, where the job names none");
}

#[test]
fn every_fault_of_a_picture_has_its_name() {
    type D = Drawn;
    assert_eq!(D::with(|d| d.job.job_type = JobType::Embed), Fault::Workload(JobType::Embed));
    assert_eq!(D::with(|d| d.job.model = "other".into()), Fault::Model);
    assert_eq!(D::with(|d| d.transcript.model = "other".into()), Fault::Model);
    assert_eq!(D::with(|d| d.transcript.model_digest.0[31] ^= 1), Fault::ModelDigest);
    assert_eq!(D::with(|d| d.transcript.spec = "128 64 3 7501".into()), Fault::Prompt);
    assert_eq!(D::with(|d| d.job.input = Input::Text("128 64 4 7500\na bee".into())), Fault::Prompt);
    assert!(matches!(D::with(|d| d.job.input = Input::Text("128 64 4 7500".into())), Fault::Input(_)));
    assert_eq!(D::with(|d| d.transcript.prompt[1] ^= 1), Fault::Prompt);
    assert_eq!(D::with(|d| _ = d.transcript.prompt.pop()), Fault::Prompt);
    assert_eq!(D::with(|d| d.transcript.seed.0[0] ^= 1), Fault::Seed);
    assert_eq!(D::with(|d| d.job.params.seed = Some(8)), Fault::Seed);
    assert_eq!(D::with(|d| d.job.params.seed = None), Fault::Seed);
    let short = |d: &mut D| _ = d.transcript.steps.pop();
    assert_eq!(D::with(short), Fault::Steps { found: 2, due: 3 });
    let long = |d: &mut D| d.transcript.steps.push(vec![0; SUMMARY_NUMBERS]);
    assert_eq!(D::with(long), Fault::Steps { found: 4, due: 3 });
    assert_eq!(D::with(|d| d.transcript.steps[1].push(0)), Fault::Summary(1));
    assert_eq!(D::with(|d| _ = d.transcript.steps[2].pop()), Fault::Summary(2));
    assert_eq!(D::with(|d| d.transcript.steps[0][63] = MAX_MEAN + 1), Fault::Summary(0));
    assert_eq!(D::with(|d| d.transcript.steps[0][63] = i32::MIN), Fault::Summary(0));
    assert_eq!(D::with(|d| d.output = picture(64, 128)), Fault::Picture(PngFault::Form));
    assert_eq!(D::with(|d| d.output.clear()), Fault::Picture(PngFault::Signature));
    assert_eq!(D::with(|d| _ = d.output.pop()), Fault::Picture(PngFault::Chunks));
    assert_eq!(D::with(|d| d.output[40] ^= 1), Fault::Picture(PngFault::Checksum));
    assert_eq!(D::with(|d| d.transcript.steps[1][5] += 1), Fault::Progress(2));
    assert_eq!(D::with(|d| d.transcript.steps.swap(0, 2)), Fault::Progress(1));
    assert_eq!(D::with(|d| d.lease.0[0] ^= 1), Fault::Progress(0), "a named seed is any lease's");
    assert_eq!(D::with(|d| d.progress.push((4, Digest([5; 32])))), Fault::Progress(4));
    assert_eq!(D::with(|d| d.progress[3].1.0[7] ^= 1), Fault::Progress(3));
}

#[test]
fn content_that_the_proof_does_not_name_is_refused() {
    let good = Drawn::honest();
    let transcript = good.transcript.encode();
    let named = proof(LEASE, &transcript, &good.output);
    let judge = |proof: &_, transcript: &[u8], output: &[u8]| {
        image::check(&good.job, &[], (proof, transcript, output), &good.facts).unwrap_err()
    };
    let other = picture(64, 64);
    assert!(matches!(judge(&named, &transcript, &other), Fault::OutputLength { .. }));
    let mut output = good.output.clone();
    output[9] ^= 1;
    assert_eq!(judge(&named, &transcript, &output), Fault::OutputLink);
    for at in 0..transcript.len() {
        let mut changed = transcript.clone();
        changed[at] ^= 1;
        assert_eq!(judge(&named, &changed, &good.output), Fault::TranscriptLink, "byte {at}");
        // What an attacker would sign over exactly this, having told of its steps before.
        let signed = proof(LEASE, &changed, &good.output);
        let verdict = image::check(&good.job, &good.progress, (&signed, &changed, &good.output), &good.facts);
        assert!(verdict.is_err(), "byte {at}");
    }
    let longer = [&transcript[..], &[0]].concat();
    let signed = proof(LEASE, &longer, &good.output);
    assert!(matches!(judge(&signed, &longer, &good.output), Fault::Transcript(_)));
    assert_ne!(Link::of(&longer), good.transcript.link());
}

#[derive(Deserialize)]
struct Vectors {
    lease: Digest,
    model_digest: Digest,
    image: Vector,
}

#[derive(Deserialize)]
struct Vector {
    spec: String,
    prompt: Vec<u32>,
    steps: Vec<image::Summary>,
    block: String,
    prefixes: Vec<Digest>,
    noise: Vec<Noise>,
}

#[derive(Deserialize)]
struct Noise {
    seed: String,
    digest: Digest,
}

#[test]
fn another_implementation_seeds_encodes_and_digests_a_picture_the_same() {
    let Vectors { lease, model_digest, image: vector } = crate::vectors("workloads.json");
    for noise in &vector.noise {
        assert_eq!(
            image::noise_seed(&lease, Some(noise.seed.parse().unwrap())),
            noise.digest,
            "{}",
            noise.seed
        );
    }
    let seed = image::noise_seed(&lease, Some(7));
    let mut prefix = image::PrefixDigest::new(&lease, &model_digest, &vector.spec, &vector.prompt, &seed);
    let mut prefixes = vec![prefix.digest()];
    for summary in &vector.steps {
        prefix.push(summary);
        prefixes.push(prefix.digest());
    }
    assert_eq!(prefixes, vector.prefixes);
    let Vector { spec, prompt, steps, block, .. } = vector;
    let transcript =
        image::Transcript { model: "tiny-diffusion".into(), model_digest, spec, prompt, seed, steps };
    assert_eq!(crate::hex(&transcript.encode()), block);
    assert_eq!(image::Transcript::decode(&transcript.encode()), Ok(transcript));
}
