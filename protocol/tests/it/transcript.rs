use serde::Deserialize;
use swarm_crypto::digest::Digest;
use swarm_protocol::sampler::Candidate;
use swarm_protocol::transcript::{Step, StopReason, Transcript};

#[derive(Deserialize)]
struct Vector {
    model: String,
    model_digest: Digest,
    lease: Digest,
    prompt: Vec<u32>,
    steps: Vec<(u32, Vec<(u32, u32)>)>,
    stop: StopReason,
    block: String,
    sha2_256: String,
    prefixes: Vec<Digest>,
}

#[test]
fn another_implementation_encodes_and_digests_the_same() {
    let vector: Vector = crate::vectors("transcript.json");
    let candidate = |(token, cost)| Candidate { token, cost };
    let step = |(token, candidates): (u32, Vec<_>)| Step {
        token,
        candidates: candidates.into_iter().map(candidate).collect(),
    };
    let transcript = Transcript {
        model: vector.model,
        model_digest: vector.model_digest,
        prompt: vector.prompt,
        steps: vector.steps.into_iter().map(step).collect(),
        stop: vector.stop,
    };
    assert_eq!(crate::hex(&transcript.encode()), vector.block);
    assert_eq!(crate::hex(&transcript.link().0), vector.sha2_256);
    let prefixes: Vec<_> =
        (0..=transcript.steps.len()).map(|n| transcript.prefix(&vector.lease, n)).collect();
    assert_eq!(prefixes, vector.prefixes);
}
