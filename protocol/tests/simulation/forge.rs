//! Statements that must have no effect, made from real ones.

use crate::mint::{Bytes, Node, OPERATOR, key, wallet};
use crate::world::World;
use ipld_core::ipld::Ipld;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::blake3;
use swarm_crypto::eip712::statement_hash;
use swarm_crypto::key::Signature;
use swarm_protocol::Millis;
use swarm_protocol::codec::{decode, encode};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::{Body, MAX_STATEMENT_BYTES, Nonce, Signed, Statement};

/// The order of secp256k1's group (SEC 2), big-endian.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba,
    0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// Something false that looks like `bytes`.
pub(crate) fn forge(world: &mut World, node: Node, bytes: &Bytes) -> Option<Bytes> {
    let signed = Signed::decode(bytes).ok()?;
    let mut statement = Statement::decode(&signed.payload).ok()?;
    let forged: Bytes = match world.rng.below(11) {
        0 => Signed { signature: malleated(&signed.signature), ..signed }.encode().into(),
        1 => long_header(bytes)?,
        2 => odd_payload(world.mint.pool, node, statement)?,
        3 => {
            statement.header.pool = PoolId::derive("elsewhere.eth", wallet(OPERATOR), 0, Address::ZERO);
            statement.header.by = wallet(node);
            world.sign(node, &statement)
        }
        4 => {
            twist(&mut statement);
            statement.header.nonce = Nonce(world.rng.bytes());
            world.sign(node, &statement)
        }
        5 => {
            let far = Millis::from_secs(world.rng.range(31, 90_000 * 4));
            let at = statement.header.at;
            statement.header.at = if world.rng.chance(500) { at + far } else { at - far };
            statement.header.by = wallet(node);
            world.sign(node, &statement)
        }
        6 => {
            out_of_bounds(&mut statement);
            statement.header.by = wallet(node);
            world.sign(node, &statement)
        }
        7 => [&bytes[..], &vec![0; MAX_STATEMENT_BYTES]].concat().into(),
        8 => renamed(&signed, &["claim", "jobby", "revocation", "challenge"], world)?,
        9 => {
            let mut signature = signed.signature;
            signature.0[usize::try_from(world.rng.below(64)).ok()?] ^= 1;
            Signed { signature, ..signed }.encode().into()
        }
        _ => {
            let payload = [&signed.payload[..], &[0]].concat();
            Signed { payload, ..signed }.encode().into()
        }
    };
    Some(forged)
}

/// The other signature that fits: (r, n − s, v flipped).
fn malleated(signature: &Signature) -> Signature {
    let mut twin = *signature;
    let mut borrow = 0;
    for at in (0..32).rev() {
        let digit = i32::from(ORDER[at]) - i32::from(signature.0[32 + at]) - borrow;
        borrow = i32::from(digit < 0);
        twin.0[32 + at] = u8::try_from(digit.rem_euclid(256)).expect("a digit");
    }
    twin.0[64] = 27 + 28 - signature.0[64];
    twin
}

/// The same map with its length in two bytes where one is enough.
fn long_header(bytes: &[u8]) -> Option<Bytes> {
    let (first, rest) = bytes.split_first()?;
    let count = first.checked_sub(0xa0).filter(|count| *count < 24)?;
    Some([&[0xb8, count], rest].concat().into())
}

/// A payload that is not canonical, with a signature of its own that fits it.
fn odd_payload(pool: PoolId, node: Node, mut statement: Statement) -> Option<Bytes> {
    let (key, by) = key(node);
    statement.header.by = by;
    let payload = long_header(&statement.encode())?.to_vec();
    let hash = statement_hash(&pool, statement.kind().as_str(), &blake3(&payload));
    Some(encode(&Signed { signature: key.sign_prehash(&hash), payload }).into())
}

/// A payload whose kind is another; the signature fits no more.
fn renamed(signed: &Signed, kinds: &[&str], world: &mut World) -> Option<Bytes> {
    let Ok(Ipld::Map(mut map)) = decode::<Ipld>(&signed.payload) else { return None };
    map.insert("kind".into(), Ipld::String((*world.rng.pick(kinds)).to_owned()));
    let payload = encode(&Ipld::Map(map));
    Some(Signed { payload, signature: signed.signature }.encode().into())
}

/// Steps over a fixed bound.
fn out_of_bounds(statement: &mut Statement) {
    match &mut statement.body {
        Body::Job(job) => job.params.top_p = 10_001,
        Body::Heartbeat(heartbeat) => heartbeat.slots = 0,
        Body::Proof(proof) => proof.output_bytes = u64::MAX,
        Body::Refusal(refusal) => refusal.detail = "no".repeat(200),
        Body::Listing(listing) => listing.entries.clear(),
        _ => {}
    }
}

/// Says something else in the same person's name.
fn twist(statement: &mut Statement) {
    match &mut statement.body {
        Body::Receipt(receipt) => receipt.miner_part = MicroUsdc(receipt.miner_part.0 + 1),
        Body::Lease(lease) => lease.term += 1,
        Body::Listing(listing) => listing.entries[0].attempt += 1,
        Body::EpochSealed(sealed) => sealed.epoch += 1,
        Body::EpochOpened(opened) => opened.epoch += 1,
        Body::Claim(claim) => claim.attempt += 1,
        Body::Job(job) => job.price = MicroUsdc(job.price.0.saturating_sub(1)),
        Body::Proof(proof) => proof.output_bytes += 1,
        _ => {}
    }
}
