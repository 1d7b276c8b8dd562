use super::*;
use crate::allowance::{HANDED, ORDERS, STRANGERS};
use crate::codec::{self, Link};
use crate::money::MicroUsdc;
use crate::{Millis, Rejection, Timestamp, Verdict};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::blake3;
use swarm_crypto::key::SecretKey;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn pool() -> PoolId {
    PoolId::derive("swarmpool.eth", key(1).address(), 0, Address::ZERO)
}

fn job() -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: "queenbee-nano".into(),
        input: Input::Linked { cid: codec::raw_cid(b"hello"), bytes: 5 },
        params: Params {
            max_tokens: 16,
            temperature: 10_000,
            top_p: 9_000,
            seed: Some(7),
            stop: vec!["\n".into()],
        },
        price: MicroUsdc(100_000),
        not_after: NOW + Millis::from_secs(60),
        max_runtime_s: 30,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

fn signed(by: u8, at: Timestamp, body: impl Into<Body>) -> Signed {
    Statement::derived(pool(), key(by).address(), at, body.into()).sign(&key(by))
}

fn intake() -> Intake {
    Intake::new(pool(), key(1).address())
}

#[test]
fn a_statement_comes_back_as_it_went() {
    let sent = signed(2, NOW, job());
    let got = intake().accept(Some(Topic::Jobs), &sent.encode(), NOW).unwrap();
    assert_eq!(got.statement().body, job().into());
    assert_eq!(got.id(), Link::of(&sent.payload));
    assert_eq!(codec::from_row::<Signed>(&codec::to_row(&sent)).unwrap(), sent);
}

#[test]
fn the_same_bytes_pass_once_and_another_payload_under_the_nonce_never() {
    let mut intake = intake();
    let first = signed(2, NOW, job());
    intake.accept(Some(Topic::Jobs), &first.encode(), NOW).unwrap();
    assert_eq!(intake.accept(Some(Topic::Jobs), &first.encode(), NOW), Err(Rejection::Duplicate));
    let mut other =
        Statement::derived(pool(), key(2).address(), NOW, Job { price: MicroUsdc(5), ..job() }.into());
    other.header.nonce = Statement::decode(&first.payload).unwrap().header.nonce;
    let refused = intake.accept(Some(Topic::Jobs), &other.sign(&key(2)).encode(), NOW);
    assert!(matches!(refused, Err(Rejection::NonceReused(..))));
}

#[test]
fn every_fault_has_its_name_and_only_faults_of_the_bytes_cost_score() {
    let good = signed(2, NOW, job());
    let mut forged = good.clone();
    forged.signature.0[5] ^= 1;
    let mut elsewhere = Statement::derived(pool(), key(2).address(), NOW, job().into());
    elsewhere.header.pool = PoolId([9; 32]);
    let receipt_by_a_stranger = signed(2, NOW, EpochSealed { epoch: 0, header: Link([0; 32]) });
    let too_hot = Job { params: Params { temperature: 1_000_000, ..job().params }, ..job() };
    let late = NOW + Millis::from_secs(91);
    let cases: [(&[u8], Topic, Timestamp, &str, Verdict); 8] = [
        (&[0; 9000], Topic::Jobs, NOW, "message of 9000 bytes", Verdict::Reject),
        (&good.encode(), Topic::Claims, NOW, "kind 'job' is not allowed here", Verdict::Reject),
        (&forged.encode(), Topic::Jobs, NOW, "signature does not verify", Verdict::Reject),
        (&elsewhere.sign(&key(2)).encode(), Topic::Jobs, NOW, "statement of another pool", Verdict::Ignore),
        (
            &receipt_by_a_stranger.encode(),
            Topic::Epochs,
            NOW,
            "kind 'epoch_sealed' is the operator's",
            Verdict::Reject,
        ),
        (
            &signed(2, NOW, too_hot).encode(),
            Topic::Jobs,
            NOW,
            "temperature is out of bounds",
            Verdict::Reject,
        ),
        (&good.encode(), Topic::Jobs, late, "signed at", Verdict::Ignore),
        (
            &good.encode(),
            Topic::Jobs,
            NOW - Millis::from_secs(31),
            "signed 31.000 s in the future",
            Verdict::Ignore,
        ),
    ];
    for (bytes, topic, now, message, verdict) in cases {
        let rejection = intake().accept(Some(topic), bytes, now).unwrap_err();
        assert!(rejection.to_string().starts_with(message), "{rejection}");
        assert_eq!(rejection.verdict(), verdict, "{rejection}");
    }
}

#[test]
fn only_the_one_canonical_encoding_is_taken() {
    let payload = signed(2, NOW, job()).payload;
    assert_eq!(payload[0] & 0xe0, 0xa0, "a map");
    let mut with_unknown: std::collections::BTreeMap<String, ipld_core::ipld::Ipld> =
        codec::decode(&payload).unwrap();
    with_unknown.insert("zzz".into(), ipld_core::ipld::Ipld::Integer(1));
    assert!(Statement::decode(&codec::encode(&with_unknown)).is_err());
    let mut with_null: std::collections::BTreeMap<String, ipld_core::ipld::Ipld> =
        codec::decode(&payload).unwrap();
    let Some(ipld_core::ipld::Ipld::Map(params)) = with_null.get_mut("params") else {
        panic!("params is a map")
    };
    params.insert("seed".into(), ipld_core::ipld::Ipld::Null);
    assert_eq!(Statement::decode(&codec::encode(&with_null)), Err(codec::CodecError::NotCanonical.into()));
    let mut long_integer = payload.clone();
    let v = payload.windows(3).position(|w| w == [0x61, b'v', 0x01]).expect("v: 1");
    long_integer.splice(v + 2..v + 3, [0x18, 0x01]);
    assert!(Statement::decode(&long_integer).is_err());
}

#[test]
fn unbuilt_and_unknown_kinds_are_refused_by_name() {
    let payload = signed(2, NOW, Cancel { job: Link([1; 32]) }).payload;
    let renamed = |name: &str| {
        let mut map: std::collections::BTreeMap<String, ipld_core::ipld::Ipld> =
            codec::decode(&payload).unwrap();
        map.insert("kind".into(), ipld_core::ipld::Ipld::String(name.into()));
        codec::encode(&map)
    };
    let refused = |bytes: &[u8]| Statement::decode(bytes).unwrap_err();
    assert_eq!(refused(&renamed("revocation")), Rejection::Unbuilt(Kind::Revocation));
    assert_eq!(refused(&renamed("teapot")), Rejection::UnknownKind("teapot".into()));
    for name in ["revocation", "teapot"] {
        let mut long_integer = renamed(name);
        let v = long_integer.windows(3).position(|w| w == [0x61, b'v', 0x01]).unwrap();
        long_integer.splice(v + 2..v + 3, [0x18, 0x01]);
        assert_eq!(refused(&long_integer).verdict(), Verdict::Reject, "{name} in other bytes");
        let mut other_order = renamed(name);
        let at = other_order.windows(3).position(|w| w == [0x62, b'a', b't']).unwrap();
        let by = other_order.windows(3).position(|w| w == [0x62, b'b', b'y']).unwrap();
        let by_end = by + 3 + 21;
        other_order[at..by_end].rotate_left(by - at);
        assert_eq!(refused(&other_order).verdict(), Verdict::Reject, "{name} in another order");
    }
}

fn cancel(by: u8, n: u32) -> Signed {
    signed(by, NOW, Cancel { job: Link::of(&n.to_be_bytes()) })
}

/// A script of peers that bring statements; wallets 1 to 9 are known.
struct Door(Intake);

impl Door {
    fn bring(&mut self, peer: u8, topic: Option<Topic>, signed: &Signed) -> Result<(), Rejection> {
        let known: Vec<Address> = (1..10).map(|n| key(n).address()).collect();
        let carrier = Carrier { peer: blake3(&[peer]), knows: &|by| known.contains(by) };
        self.0.accept_from(&carrier, topic, &signed.encode(), NOW).map(|_| ())
    }

    fn gossips(&mut self, peer: u8, signed: &Signed) -> Result<(), Rejection> {
        self.bring(peer, Some(Topic::Jobs), signed)
    }

    fn hands(&mut self, peer: u8, signed: &Signed) -> Result<(), Rejection> {
        self.bring(peer, None, signed)
    }
}

#[test]
fn a_known_signer_has_its_own_allowance_whoever_brings_it() {
    let mut door = Door(intake());
    for n in 0..ORDERS.burst {
        assert_eq!(door.gossips((n % 7) as u8, &cancel(2, n)), Ok(()));
    }
    let more = cancel(2, ORDERS.burst);
    assert_eq!(door.gossips(1, &more), Err(Rejection::RateLimited(key(2).address())));
    assert_eq!(door.hands(8, &more), Err(Rejection::RateLimited(key(2).address())));
    assert_eq!(Rejection::RateLimited(key(2).address()).verdict(), Verdict::Ignore);
    assert_eq!(door.gossips(1, &cancel(3, 0)), Ok(()), "another signer");
    let later = NOW + Millis::from_secs(1);
    let carrier = Carrier { peer: blake3(&[1]), knows: &|_| true };
    assert!(
        door.0.accept_from(&carrier, None, &more.encode(), later).is_ok(),
        "what was refused may come again"
    );
}

#[test]
fn nobody_empties_a_signers_allowance_by_forgeries_or_repetition() {
    let mut door = Door(intake());
    let genuine = cancel(2, 0);
    assert_eq!(door.gossips(1, &genuine), Ok(()));
    for n in 0..ORDERS.burst {
        let forged = Signed { payload: cancel(2, 1_000_000 + n).payload, signature: genuine.signature };
        assert!(matches!(door.gossips(9, &forged), Err(Rejection::BadSignature(_))));
        assert_eq!(door.hands(9, &genuine), Ok(()), "a repetition is taken, and costs the peer");
    }
    for n in 1..ORDERS.burst {
        assert_eq!(door.gossips(1, &cancel(2, n)), Ok(()));
    }
    for _ in ORDERS.burst..HANDED.burst {
        assert_eq!(door.hands(9, &genuine), Ok(()));
    }
    assert_eq!(door.hands(9, &genuine), Err(Rejection::PeerRateLimited));
    assert_eq!(door.hands(8, &genuine), Ok(()));
}

#[test]
fn strangers_share_what_the_peer_has_that_brings_them() {
    let mut door = Door(intake());
    let mut stranger = 9;
    let mut next = || {
        stranger += 1;
        cancel(stranger, 0)
    };
    for _ in 0..STRANGERS.burst {
        assert_eq!(door.gossips(1, &next()), Ok(()));
    }
    let forged = Signed { payload: next().payload, signature: next().signature };
    assert_eq!(
        door.gossips(1, &forged),
        Err(Rejection::TooManyStrangers),
        "before the signature is looked at"
    );
    let late = next();
    assert_eq!(door.gossips(1, &late), Err(Rejection::TooManyStrangers));
    assert_eq!(door.gossips(1, &cancel(2, 0)), Ok(()), "those who are known pass");
    assert_eq!(door.hands(1, &late), Ok(()), "what it says itself is counted apart from what it forwards");
    assert_eq!(door.gossips(2, &next()), Ok(()), "another peer");
    for _ in 1..STRANGERS.burst {
        assert_eq!(door.hands(1, &next()), Ok(()));
    }
    assert_eq!(door.hands(1, &next()), Err(Rejection::TooManyStrangers));
}

#[test]
fn the_operator_is_never_counted() {
    let mut door = Door(intake());
    let carrier = Carrier { peer: blake3(b"anybody"), knows: &|_| false };
    for n in 0..ORDERS.burst + 1 {
        let ended = LeaseEnded {
            job: Link::of(b"job"),
            lease: blake3(&n.to_be_bytes()),
            cause: EndCause::NoProgress,
        };
        let said = signed(1, NOW, ended).encode();
        assert!(door.0.accept_from(&carrier, Some(Topic::Claims), &said, NOW).is_ok());
    }
}
