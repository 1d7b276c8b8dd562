use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use swarm_crypto::{
    Address, Context, Digest, ParseError, PoolId, Signature,
    digest::{blake3, derive, keccak256, keyed, sha2_256},
};

const CONTEXTS: [Context; 15] = [
    Context::Draw,
    Context::Lease,
    Context::Sampling,
    Context::Leaf,
    Context::Node,
    Context::Prefix,
    Context::Ledger,
    Context::Checkpoint,
    Context::Listing,
    Context::Queue,
    Context::Manifest,
    Context::Input,
    Context::Output,
    Context::EpochSecret,
    Context::Range,
];

#[derive(Deserialize)]
struct Vector {
    input: String,
    derived: BTreeMap<String, Digest>,
    key: String,
    keyed: Digest,
    blake3: Digest,
    sha2_256: Digest,
    keccak256: Digest,
}

#[test]
fn digests_equal_those_of_noble_hashes() {
    let vectors: Vec<Vector> = crate::vectors("digests.json");
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let input = hex::decode(&vector.input).unwrap();
        let derived: BTreeMap<_, _> =
            CONTEXTS.iter().map(|context| (context.as_str().to_owned(), derive(*context, &input))).collect();
        assert_eq!(derived, vector.derived);
        assert_eq!(keyed(&crate::bytes(&vector.key), &input), vector.keyed);
        assert_eq!(blake3(&input), vector.blake3);
        assert_eq!(Digest(sha2_256(&input)), vector.sha2_256);
        assert_eq!(Digest(keccak256(&input)), vector.keccak256);
    }
}

#[test]
fn order_and_first_word_are_big_endian() {
    let mut low = Digest::ZERO;
    low.0[31] = 0xff;
    let mut high = Digest::ZERO;
    high.0[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(low < high);
    assert_eq!(high.first_u64_be(), 0x0102_0304_0506_0708);
    assert_eq!(low.first_u64_be(), 0);
}

#[test]
fn text_is_exactly_64_hexadecimal_digits() {
    let digest = blake3(b"text");
    assert_eq!(digest.to_string().parse(), Ok(digest));
    assert_eq!(format!("{digest:?}"), digest.to_string());
    assert_eq!("00".parse::<Digest>(), Err(ParseError::Length { expected: 64, found: 2 }));
    assert_eq!("zz".repeat(32).parse::<Digest>(), Err(ParseError::NotHex));
    assert_eq!("é".repeat(32).parse::<Digest>(), Err(ParseError::NotHex));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Everything {
    digest: Digest,
    address: Address,
    pool: PoolId,
    signature: Signature,
}

fn everything() -> Everything {
    Everything {
        digest: blake3(b"digest"),
        address: Address([7; 20]),
        pool: PoolId::derive("swarmpool.eth", Address([7; 20]), 1, Address::ZERO),
        signature: Signature([9; 65]),
    }
}

#[test]
fn travels_as_byte_strings_in_cbor_and_as_text_in_json() {
    let value = everything();
    let dag = serde_ipld_dagcbor::to_vec(&value).unwrap();
    assert_eq!(serde_ipld_dagcbor::from_slice::<Everything>(&dag).unwrap(), value);
    let cbor = serde_cbor::to_vec(&value).unwrap();
    assert_eq!(serde_cbor::from_slice::<Everything>(&cbor).unwrap(), value);
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<Everything>(&json).unwrap(), value);
    assert!(json.contains(&format!("\"digest\":\"{}\"", value.digest)));

    let head = |length: u8, bytes: &[u8]| [&[0x58, length][..], bytes].concat();
    assert_eq!(serde_ipld_dagcbor::to_vec(&value.digest).unwrap(), head(32, &value.digest.0));
    assert_eq!(serde_ipld_dagcbor::to_vec(&value.address).unwrap(), [&[0x54][..], &value.address.0].concat());
    assert_eq!(serde_ipld_dagcbor::to_vec(&value.pool).unwrap(), head(32, &value.pool.0));
    assert_eq!(serde_ipld_dagcbor::to_vec(&value.signature).unwrap(), head(65, &value.signature.0));
}

#[test]
fn other_lengths_and_types_are_refused() {
    let short = serde_ipld_dagcbor::to_vec(&serde_cbor::Value::Bytes(vec![0; 31])).unwrap();
    assert!(serde_ipld_dagcbor::from_slice::<Digest>(&short).is_err());
    let text = serde_cbor::to_vec(&"00".repeat(32)).unwrap();
    assert!(serde_ipld_dagcbor::from_slice::<Digest>(&text).is_err());
    assert!(serde_cbor::from_slice::<Digest>(&text).is_err());
    let list = serde_cbor::to_vec(&[0_u8; 32]).unwrap();
    assert!(serde_ipld_dagcbor::from_slice::<Digest>(&list).is_err());
    assert!(serde_cbor::from_slice::<Digest>(&list).is_err());
    assert!(serde_json::from_str::<Digest>("\"00\"").is_err());
    assert!(serde_json::from_str::<Digest>("[0]").is_err());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Tagged {
    Some(Everything),
}

#[test]
fn survives_the_buffering_of_tagged_enums() {
    let value = Tagged::Some(everything());
    let dag = serde_ipld_dagcbor::to_vec(&value).unwrap();
    assert_eq!(serde_ipld_dagcbor::from_slice::<Tagged>(&dag).unwrap(), value);
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<Tagged>(&json).unwrap(), value);
}
