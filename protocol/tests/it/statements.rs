//! One signed statement of every built kind, from keys that everybody knows.

use serde::{Deserialize, Serialize};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{JobId, Link, dag_pb_cid, raw_cid};
use swarm_protocol::finding::Finding;
use swarm_protocol::money::{FeeSplit, MicroUsdc};
use swarm_protocol::race::draw_seed;
use swarm_protocol::statement::*;
use swarm_protocol::{Millis, Posted, Timestamp};

const FILE: &str = "statements.json";
const AT: Timestamp = Timestamp(1_800_000_000_000);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Vectors {
    pool: PoolId,
    statements: Vec<Vector>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Vector {
    kind: String,
    secret_key: String,
    by: Address,
    nonce: String,
    payload: String,
    id: Link,
    signature: String,
    snapshot: String,
}

/// The operator, the client, the miner and an auditor: the keys 1, 2, 3 and 4 in every byte.
fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn pool() -> PoolId {
    PoolId::derive("swarmpool.eth", key(1).address(), 0, Address::ZERO)
}

fn jobs() -> [Job; 3] {
    let linked = Job {
        job_type: JobType::LlmGen,
        model: "queenbee-nano".into(),
        input: Input::Linked { cid: raw_cid(b"Once upon a time"), bytes: 16 },
        params: Params {
            max_tokens: 64,
            temperature: 8_000,
            top_p: 9_500,
            seed: Some(7),
            stop: vec!["\n\n".into()],
        },
        price: MicroUsdc(100_000),
        not_after: AT + Millis::from_secs(600),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    };
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let chat = Job {
        input: Input::Chat(vec![message("system", "Be brief."), message("user", "Why is the sky blue? ☀")]),
        params: Params { max_tokens: 1, temperature: 0, top_p: 10_000, seed: None, stop: Vec::new() },
        assurance: Assurance::Distance,
        ..linked.clone()
    };
    let text = Job { input: Input::Text("Once upon a time".into()), ..linked.clone() };
    [text, chat, linked]
}

/// Who says what, in the order of a job's life.
fn bodies() -> Vec<(u8, Body)> {
    let [text, chat, linked] = jobs();
    let said: Vec<(u8, Body)> = vec![(2, text.clone().into()), (2, chat.into()), (2, linked.into())];
    let job: JobId = Link::of(&Statement::derived(pool(), key(2).address(), AT, text.into()).encode());
    let miner = key(3).address();
    let seed = draw_seed(&[4; 32], &job, 1);
    let lease = lease_id(&pool(), &job, 1, &miner, &seed);
    let claim = Body::from(Claim { job, attempt: 1 });
    let claim_id = Link::of(&Statement::derived(pool(), miner, AT, claim.clone()).encode());
    let proof = Proof {
        job,
        lease,
        transcript: Link::of(b"a transcript"),
        transcript_bytes: 6_500,
        output: raw_cid(b"there was a bee."),
        output_bytes: 16,
    };
    let proof_id = Link::of(&Statement::derived(pool(), miner, AT, proof.clone().into()).encode());
    let entry = ListingEntry {
        job,
        attempt: 1,
        seed,
        epoch: 3,
        model: "queenbee-nano".into(),
        price: MicroUsdc(100_000),
        assurance: Assurance::Seeded,
        vram_mb: 0,
        listed_at: AT,
        free: (3, 24),
    };
    let refusal = Refusal { subject: job, job, reason: Reason::JobExpired, detail: "nobody took it".into() };
    let granted = Lease {
        lease,
        job,
        term: 1,
        wallet: miner,
        seed,
        window: 2,
        claims: vec![claim_id],
        until: AT + Millis::from_secs(60),
    };
    let offer = ModelOffer {
        model: "queenbee-nano".into(),
        assurances: vec![Assurance::Seeded, Assurance::Distance],
    };
    let beat = Heartbeat {
        boot_at: AT,
        counter: 0,
        models: vec![offer],
        slots: 2,
        mode: PayoutMode::Solo,
        ens: Some("alice.eth".into()),
        device: "cpu".into(),
        vram_mb: 0,
        draining: false,
    };
    let challenge = Link::of(b"a challenge");
    let (found, salt, auditor) = (Finding::Differs(7_000), Digest([10; 32]), key(4).address());
    said.into_iter()
        .chain([
            (2, Cancel { job }.into()),
            (1, Admitted { job, epoch: 3 }.into()),
            (1, refusal.into()),
            (1, Listing { entries: vec![entry] }.into()),
            (3, claim),
            (3, Release { job, lease, cause: ReleaseCause::EngineFailure }.into()),
            (1, granted.into()),
            (1, LeaseEnded { job, lease, cause: EndCause::NoProgress }.into()),
            (3, Progress { job, lease, units: 12, prefix: Digest([5; 32]) }.into()),
            (3, proof.clone().into()),
            (1, receipt(job, proof_id, &proof).into()),
            (1, picked(proof_id, &proof).into()),
            (1, AuditPicked { challenge: Some(challenge), ..picked(proof_id, &proof) }.into()),
            (4, attestation(lease, Word::Sealed(found.seal(&pool(), &lease, &auditor, &salt))).into()),
            (4, attestation(lease, Word::Opened { finding: found, salt }).into()),
            (2, Challenge { epoch: 3, index: 0, job }.into()),
            (3, beat.clone().into()),
            (3, Heartbeat { counter: 1, ens: None, draining: true, ..beat }.into()),
            (1, beacon().into()),
            (1, opened().into()),
            (1, EpochSealed { epoch: 2, header: Link::of(b"a header") }.into()),
        ])
        .collect()
}

fn receipt(job: JobId, proof_id: Link, proof: &Proof) -> Receipt {
    let price = MicroUsdc(100_000);
    let split = FeeSplit::of(price);
    Receipt {
        pps: Some(PpsTerms { rate: Some(1_234), at_most: MicroUsdc(93_750) }),
        job,
        proof: proof_id,
        client: key(2).address(),
        wallet: key(3).address(),
        epoch: 3,
        index: 0,
        leaf: Digest([6; 32]),
        price,
        miner_part: split.miner,
        operator_part: split.operator,
        units: 640,
        mode: PayoutMode::Pps,
        asset: Asset::Test,
        output: proof.output,
        output_bytes: proof.output_bytes,
        held_until: 5,
    }
}

fn picked(proof_id: Link, proof: &Proof) -> AuditPicked {
    AuditPicked {
        epoch: 3,
        index: 0,
        auditor: key(4).address(),
        job: proof.job,
        asked: Link::of(b"a client's snapshot"),
        proof: proof_id,
        wallet: key(3).address(),
        lease: proof.lease,
        transcript: proof.transcript,
        transcript_bytes: proof.transcript_bytes,
        output: proof.output,
        output_bytes: proof.output_bytes,
        open: false,
        until: 5,
        challenge: None,
    }
}

fn attestation(lease: Digest, word: Word) -> Attestation {
    Attestation { epoch: 3, index: 0, lease, word }
}

fn beacon() -> Beacon {
    Beacon {
        node: Some("12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN".into()),
        name: "swarmpool.eth".into(),
        asset: Asset::Usdc { chain: 8453, contract: Address([7; 20]) },
        chain: 8453,
        contract: Address([7; 20]),
        epoch: 3,
        pending: 1,
        leased: 0,
        models: vec![ModelSupply { rate: Some(1_234), model: "queenbee-nano".into(), miners: 2 }],
        posted: Posted::default(),
        tree: Some(dag_pb_cid(b"a tree")),
    }
}

fn opened() -> EpochOpened {
    EpochOpened {
        epoch: 3,
        secret_hash: Digest([8; 32]),
        roster: Link::of(b"a roster"),
        posted: Posted::default(),
    }
}

fn made() -> Vectors {
    let vector = |(by, body): (u8, Body)| {
        let statement = Statement::derived(pool(), key(by).address(), AT, body);
        let signed = statement.sign(&key(by));
        Vector {
            kind: statement.kind().as_str().to_owned(),
            secret_key: crate::hex(&[by; 32]),
            by: statement.header.by,
            nonce: crate::hex(&statement.header.nonce.0),
            payload: crate::hex(&signed.payload),
            id: signed.id(),
            signature: crate::hex(&signed.signature.0),
            snapshot: crate::hex(&signed.encode()),
        }
    };
    Vectors { pool: pool(), statements: bodies().into_iter().map(vector).collect() }
}

/// Payloads of the committed statements of a kind.
pub(crate) fn payloads(kind: Kind) -> Vec<Vec<u8>> {
    let committed: Vectors = crate::vectors(FILE);
    let of_kind = committed.statements.iter().filter(|vector| vector.kind == kind.as_str());
    of_kind.map(|vector| unhex(&vector.payload)).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn statements_of_every_built_kind_are_made_as_committed() {
    let committed: Vectors = crate::vectors(FILE);
    for (made, committed) in made().statements.iter().zip(&committed.statements) {
        assert_eq!(made, committed);
    }
    assert_eq!(made(), committed);
    let kinds: std::collections::BTreeSet<_> = committed.statements.iter().map(|v| v.kind.as_str()).collect();
    for kind in Kind::ALL.iter().filter(|kind| kind.is_built()) {
        assert!(kinds.contains(kind.as_str()), "{kind} has no vector");
    }
}

#[test]
fn committed_statements_are_taken_in_and_one_changed_bit_is_not() {
    let committed: Vectors = crate::vectors(FILE);
    for vector in &committed.statements {
        let kind = Kind::parse(&vector.kind).unwrap();
        let topic = kind.topics().first().copied();
        let accept = |bytes: &[u8]| Intake::new(committed.pool, key(1).address()).accept(topic, bytes, AT);
        let mut bytes = unhex(&vector.snapshot);
        let verified = accept(&bytes).unwrap();
        assert_eq!(verified.id(), vector.id);
        assert_eq!(verified.statement().header.by, vector.by);
        assert_eq!(verified.statement().kind(), kind);
        let last = bytes.len() - 1;
        for at in [0, 20, last / 2, last - 1] {
            bytes[at] ^= 1;
            assert!(accept(&bytes).is_err(), "{} at {at}", vector.kind);
            bytes[at] ^= 1;
        }
    }
}

#[test]
#[ignore = "writes the committed file: for changes of the protocol only"]
fn write_the_committed_statements() {
    let text = serde_json::to_string_pretty(&made()).unwrap();
    std::fs::write(crate::path(FILE), text + "\n").unwrap();
}
