//! Decoders of `swarm-protocol`: statements, frames, rows, blocks.

use crate::target::{Decoder, Outcome, Target, name};
use serde::{Serialize, de::DeserializeOwned};

use std::fmt::Debug;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{self, CodecError, JobId};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{Entry, EpochHeader, Leaf, RecordPage, State};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::race::Roster;
use swarm_protocol::statement::{Carrier, Intake, Signed, Statement, Topic};
use swarm_protocol::transcript::Transcript;
use swarm_protocol::workload::{bench, embed, image, png};
use swarm_protocol::{Rejection, Timestamp};

pub const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// What the decoder's values take beyond the bytes that they are read from: lists and maps within one another take room at
/// every level; fifty million inputs found up to 300 bytes of it for a byte.
const MEMORY: (usize, usize) = (512, 64 * 1024);
/// Plain CBOR's lists are given up to a mebibyte for what they say that they hold.
const PLAIN_MEMORY: (usize, usize) = (64, 4 * 1024 * 1024);

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).expect("a small number is a key")
}

pub fn pool() -> PoolId {
    PoolId::derive("swarmpool.eth", key(1).address(), 0, Address::ZERO)
}

pub fn targets() -> Vec<Target> {
    let target = |name, share, max_bytes, must: &[&'static str], run| Target {
        name,
        share,
        max_bytes,
        memory: if ["query", "answer", "entry", "checkpoint"].contains(&name) {
            PLAIN_MEMORY
        } else {
            MEMORY
        },
        must: must.to_vec(),
        run,
    };
    vec![
        target("payload", 260, 9000, &PAYLOAD, Box::new(payload)),
        target("snapshot", 110, 9000, &SNAPSHOT, Box::new(snapshot)),
        target("intake", 4, 9000, &INTAKE, intake()),
        target("query", 80, 12_000, &FRAME, Box::new(query)),
        target("answer", 80, 12_000, &FRAME[1..], Box::new(answer)),
        target("entry", 70, 12_000, &PLAIN, Box::new(entry)),
        target("checkpoint", 30, 20_000, &PLAIN, Box::new(checkpoint)),
        target("roster", 40, 12_000, &STRICT, Box::new(strict::<Roster>)),
        target("header", 40, 4_000, &STRICT, Box::new(strict::<EpochHeader>)),
        target("record-page", 20, 20_000, &STRICT, Box::new(strict::<RecordPage>)),
        target("leaf", 20, 1_000, &STRICT, Box::new(strict::<Leaf>)),
        target("transcript", 50, 20_000, &TRANSCRIPT, Box::new(transcript)),
        target("embedding", 20, 4_000, &EMBEDDING, Box::new(embedding)),
        target("benchmark", 20, 2_000, &BENCHMARK, Box::new(benchmark)),
        target("picture", 20, 20_000, &PICTURE, Box::new(picture)),
        target("png", 30, 4_000, &PNG, Box::new(picture_file)),
        target("figures", 10, 1_000, &STRICT, Box::new(strict::<bench::Figures>)),
        target("texts", 60, 200, &TEXTS, Box::new(texts)),
    ]
}

const PAYLOAD: [&str; 38] = [
    "Malformed.Malformed",
    "Malformed.NotCanonical",
    "Unbuilt",
    "UnknownKind",
    "UnknownVersion",
    "model is out of bounds",
    "max_tokens is out of bounds",
    "temperature is out of bounds",
    "top_p is out of bounds",
    "stop is out of bounds",
    "max_runtime_s is out of bounds",
    "input is out of bounds",
    "input bytes is out of bounds",
    "detail is out of bounds",
    "entries is out of bounds",
    "claims is out of bounds",
    "transcript_bytes is out of bounds",
    "output_bytes is out of bounds",
    "name is out of bounds",
    "models is out of bounds",
    "slots is out of bounds",
    "ens is out of bounds",
    "device is out of bounds",
    "a job",
    "a cancel",
    "an admitted",
    "a refusal",
    "a listing",
    "a claim",
    "a release",
    "a lease",
    "a lease_ended",
    "a proof",
    "a receipt",
    "a heartbeat",
    "a beacon",
    "an epoch_opened",
    "a progress",
];

/// What decodes must be what it was decoded from.
fn payload(bytes: &[u8]) -> Outcome {
    match Statement::decode(bytes) {
        Ok(statement) => {
            assert_eq!(statement.encode(), bytes, "not the bytes that it was");
            let kind = statement.kind();
            let article = if kind.as_str().starts_with(['a', 'e']) { "an" } else { "a" };
            format!("{article} {kind}").into()
        }
        Err(Rejection::OutOfBounds(field)) => format!("{field} is out of bounds").into(),
        Err(rejection) => name(&rejection),
    }
}

/// What is not canonical the decoder itself calls malformed, but for unknown fields, which these do not have.
const SNAPSHOT: [&str; 3] = ["a snapshot", "TooLong", "Malformed.Malformed"];

fn snapshot(bytes: &[u8]) -> Outcome {
    match Signed::decode(bytes) {
        Ok(signed) => {
            assert_eq!(signed.encode(), bytes, "not the bytes that it was");
            "a snapshot".into()
        }
        Err(rejection) => name(&rejection),
    }
}

const INTAKE: [&str; 14] = [
    "taken",
    "Malformed.Malformed",
    "BadSignature",
    "WrongTopic",
    "NotOperator",
    "OtherPool",
    "FromFuture",
    "TooOld",
    "Duplicate",
    "NonceReused",
    "RateLimited",
    "TooManyStrangers",
    "PeerRateLimited",
    "Unbuilt",
];

/// The whole way in. The first bytes say who signs, on which topic it comes, how late, and how often; the rest is a
/// payload.
fn intake() -> Decoder {
    Box::new(|bytes| {
        let Some(([who, topic, late, times], payload)) = bytes.split_first_chunk::<4>().map(|(a, b)| (*a, b))
        else {
            return "too short".into();
        };
        let mut intake = Intake::new(pool(), key(1).address());
        let known = key(3).address();
        let carrier = Carrier { peer: blake3(b"peer"), knows: &|by: &Address| *by == known };
        let topics = [Topic::Jobs, Topic::Claims, Topic::Proofs, Topic::Heartbeats, Topic::Epochs];
        let topic = topics.get(usize::from(topic % 6)).copied();
        let now = Timestamp(NOW.0.saturating_add_signed((i64::from(late) - 64) * 4_000));
        let signed = match Statement::decode(payload) {
            Ok(statement) => statement.sign(&key(1 + who % 4)),
            Err(_) => Signed { payload: payload.to_vec(), signature: swarm_crypto::key::Signature([27; 65]) },
        };
        let wire = signed.encode();
        let mut last = intake.accept_from(&carrier, topic, &wire, now);
        last = match times % 8 {
            4 => (0..5_000).find_map(|_| intake.question(carrier.peer, now).err()).map_or(last, Err),
            1 => intake.accept_from(&carrier, topic, &wire, now),
            2 => reused(&mut intake, &carrier, payload, now).unwrap_or(last),
            3 => flood(&mut intake, &carrier, payload, now).unwrap_or(last),
            _ => last,
        };
        last.map_or_else(|rejection| name(&rejection), |_| "taken".into())
    })
}

type Taken = Result<swarm_protocol::statement::Verified, Rejection>;

/// The same nonce for another payload.
fn reused(intake: &mut Intake, carrier: &Carrier<'_>, payload: &[u8], now: Timestamp) -> Option<Taken> {
    let mut other = Statement::decode(payload).ok()?;
    other.header.at = Timestamp(other.header.at.0 ^ 1);
    let signer = (1..5).find(|n| key(*n).address() == other.header.by)?;
    Some(intake.accept_from(carrier, None, &other.sign(&key(signer)).encode(), now))
}

/// So many statements by one signer that its allowance, or that of all strangers, is used up.
fn flood(intake: &mut Intake, carrier: &Carrier<'_>, payload: &[u8], now: Timestamp) -> Option<Taken> {
    let mut statement = Statement::decode(payload).ok()?;
    let signer = (1..5).find(|n| key(*n).address() == statement.header.by)?;
    let mut last = None;
    for n in 0..70 {
        statement.header.nonce.0[..2].copy_from_slice(&u16::to_be_bytes(n));
        last = Some(intake.accept_from(carrier, None, &statement.sign(&key(signer)).encode(), now));
    }
    last
}

const FRAME: [&str; 4] = ["too long", "a frame", "malformed", "too many or too long items"];

fn fault(error: &CodecError) -> Outcome {
    match error {
        CodecError::NotCanonical => "NotCanonical".into(),
        CodecError::Malformed(text) if text.starts_with("frame of") => "too long".into(),
        CodecError::Malformed(text) if text.starts_with("too many or") => "too many or too long items".into(),
        CodecError::Malformed(_) => "malformed".into(),
    }
}

/// Plain CBOR may be written in several ways, but what is read comes back.
fn again<T: PartialEq + Debug>(value: &T, encoded: Vec<u8>, decode: impl Fn(&[u8]) -> Result<T, CodecError>) {
    assert_eq!(decode(&encoded).as_ref(), Ok(value), "it does not come back");
}

fn query(bytes: &[u8]) -> Outcome {
    match Query::decode(bytes) {
        // What was written shorter than we write it may be longer than a frame then.
        Ok(query) if query.encode().len() > swarm_protocol::query::MAX_QUERY_BYTES => "a frame".into(),
        Ok(query) => {
            again(&query, query.encode(), Query::decode);
            "a frame".into()
        }
        Err(error) => fault(&error),
    }
}

fn answer(bytes: &[u8]) -> Outcome {
    match Answer::decode(bytes) {
        Ok(answer) => {
            again(&answer, answer.encode(), Answer::decode);
            "a frame".into()
        }
        Err(error) => fault(&error),
    }
}

const PLAIN: [&str; 2] = ["read", "malformed"];

fn entry(bytes: &[u8]) -> Outcome {
    match Entry::decode(bytes) {
        Ok(entry) => {
            again(&entry, entry.encode(), Entry::decode);
            "read".into()
        }
        Err(error) => fault(&error),
    }
}

fn checkpoint(bytes: &[u8]) -> Outcome {
    match State::from_checkpoint(bytes) {
        Ok(state) => {
            again(&state, state.checkpoint(), State::from_checkpoint);
            "read".into()
        }
        Err(error) => fault(&error),
    }
}

const STRICT: [&str; 2] = ["read", "malformed"];

fn strict<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Outcome {
    match codec::decode::<T>(bytes) {
        Ok(value) => {
            assert_eq!(codec::encode(&value), bytes, "not the bytes that it was");
            "read".into()
        }
        Err(error) => fault(&error),
    }
}

const TRANSCRIPT: [&str; 5] =
    ["read", "malformed", "too many bytes in the model's name", "too many steps", "too many candidates"];

fn transcript(bytes: &[u8]) -> Outcome {
    match Transcript::decode(bytes) {
        Ok(transcript) => {
            assert_eq!(transcript.encode(), bytes, "not the bytes that it was");
            let lease = Digest([1; 32]);
            assert_eq!(
                transcript.prefix(&lease, usize::MAX),
                transcript.prefix(&lease, transcript.steps.len())
            );
            "read".into()
        }
        Err(error) => no_transcript(error),
    }
}

fn no_transcript(error: CodecError) -> Outcome {
    match error {
        CodecError::Malformed(text) => match text.strip_prefix("transcript of ") {
            Some(what) => what.to_owned().into(),
            None => "malformed".into(),
        },
        CodecError::NotCanonical => "NotCanonical".into(),
    }
}

const EMBEDDING: [&str; 5] = [
    "read",
    "malformed",
    "too many bytes in the model's name",
    "too many texts",
    "too many tokens in a text",
];

fn embedding(bytes: &[u8]) -> Outcome {
    match embed::Transcript::decode(bytes) {
        Ok(transcript) => {
            assert_eq!(transcript.encode(), bytes, "not the bytes that it was");
            "read".into()
        }
        Err(error) => no_transcript(error),
    }
}

const BENCHMARK: [&str; 5] =
    ["a benchmark", "no benchmark", "malformed", "too many bytes in the model's name", "too many laps"];

fn benchmark(bytes: &[u8]) -> Outcome {
    match bench::Transcript::decode(bytes) {
        Ok(transcript) => {
            assert_eq!(transcript.encode(), bytes, "not the bytes that it was");
            let Ok(spec) = bench::Spec::parse(&transcript.spec) else { return "no benchmark".into() };
            assert_eq!(spec.to_string(), transcript.spec);
            bench::Figures::of(&spec, &transcript.laps);
            "a benchmark".into()
        }
        Err(error) => no_transcript(error),
    }
}

const PICTURE: [&str; 6] = [
    "a picture",
    "no picture",
    "malformed",
    "too many bytes in the model's name",
    "too many tokens",
    "too many steps",
];

fn picture(bytes: &[u8]) -> Outcome {
    match image::Transcript::decode(bytes) {
        Ok(transcript) => {
            assert_eq!(transcript.encode(), bytes, "not the bytes that it was");
            let Ok(spec) = image::Spec::parse(&transcript.spec) else { return "no picture".into() };
            assert_eq!(spec.to_string(), transcript.spec);
            "a picture".into()
        }
        Err(error) => no_transcript(error),
    }
}

const PNG: [&str; 6] = ["whole", "Signature", "Chunks", "Checksum", "Form", "Rows"];

fn picture_file(bytes: &[u8]) -> Outcome {
    match png::check(bytes, SIDE, SIDE) {
        Ok(()) => "whole".into(),
        Err(fault) => format!("{fault:?}").into(),
    }
}

/// The sides of the pictures that are looked at.
const SIDE: u32 = 8;

const TEXTS: [&str; 6] =
    ["a link", "an address", "an amount", "no link: malformed", "no address", "no amount"];

/// What people write: links, addresses, amounts. The first byte says which.
fn texts(bytes: &[u8]) -> Outcome {
    let Some((which, bytes)) = bytes.split_first() else { return "empty".into() };
    let Ok(text) = std::str::from_utf8(bytes) else { return "not UTF-8".into() };
    match which % 3 {
        0 => match text.parse::<JobId>() {
            Ok(link) => {
                assert_eq!(link.to_string().parse(), Ok(link));
                "a link".into()
            }
            Err(error) => format!("no link: {}", fault(&error)).into(),
        },
        1 => match text.parse::<Address>() {
            Ok(address) => {
                assert_eq!(address.to_string().parse(), Ok(address));
                "an address".into()
            }
            Err(_) => "no address".into(),
        },
        _ => match text.parse::<MicroUsdc>() {
            Ok(amount) => {
                assert_eq!(amount.to_string().parse(), Ok(amount));
                "an amount".into()
            }
            Err(_) => "no amount".into(),
        },
    }
}
