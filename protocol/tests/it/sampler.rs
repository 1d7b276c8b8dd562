use serde::Deserialize;
use swarm_crypto::digest::Digest;
use swarm_protocol::sampler::{Candidate, draw, sample, sampling_seed, weight};

#[derive(Deserialize)]
struct Vectors {
    weights: Vec<(u64, String)>,
    draws: Vec<Draws>,
    samples: Vec<Samples>,
}

#[derive(Deserialize)]
struct Draws {
    lease: Digest,
    seed: Option<String>,
    sampling_seed: Digest,
    draws: Vec<(u64, String)>,
}

#[derive(Deserialize)]
struct Samples {
    candidates: Vec<(u32, u32)>,
    tokens: Vec<Setting>,
}

#[derive(Deserialize)]
struct Setting {
    temperature: u32,
    top_p: u32,
    picks: Vec<(String, u32)>,
}

#[test]
fn another_implementation_draws_and_samples_the_same() {
    let vectors: Vectors = crate::vectors("sampler.json");
    assert_eq!((vectors.weights.len(), vectors.draws.len(), vectors.samples.len()), (12, 9, 6));
    for (distance, expected) in vectors.weights {
        assert_eq!(weight(distance).to_string(), expected, "distance {distance}");
    }
    for vector in vectors.draws {
        let seed = sampling_seed(&vector.lease, vector.seed.map(|seed| seed.parse().unwrap()));
        assert_eq!(seed, vector.sampling_seed);
        for (position, expected) in vector.draws {
            assert_eq!(draw(&seed, position).to_string(), expected, "position {position}");
        }
    }
    for vector in vectors.samples {
        let candidates: Vec<_> =
            vector.candidates.iter().map(|&(token, cost)| Candidate { token, cost }).collect();
        for Setting { temperature, top_p, picks } in vector.tokens {
            for (draw, expected) in picks {
                let token = sample(temperature, top_p, draw.parse().unwrap(), &candidates);
                assert_eq!(token, Some(expected), "{temperature} {top_p} {draw} {candidates:?}");
            }
        }
    }
}
