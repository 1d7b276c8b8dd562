use serde::Deserialize;
use swarm_crypto::{
    Address, Digest, PoolId, SecretKey, Signature,
    digest::keccak256,
    eip712::{Value, signing_hash, statement_hash, struct_hash, type_hash},
    key::{recover, verify},
};

const DOMAIN: &str = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";
const PERSON: &str = "Person(string name,address wallet)";
const MAIL: &str = "Mail(Person from,Person to,string contents)Person(string name,address wallet)";

fn address(text: &str) -> Value<'static> {
    Value::Address(text.parse().unwrap())
}

fn person(name: &str, wallet: &str) -> Value<'static> {
    Value::Struct(struct_hash(&type_hash(PERSON), &[Value::String(name), address(wallet)]))
}

/// The example of EIP-712 itself.
#[test]
fn the_published_mail_hashes_and_verifies() {
    let contract = address("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC");
    let domain = struct_hash(
        &type_hash(DOMAIN),
        &[Value::String("Ether Mail"), Value::String("1"), Value::Uint(1), contract],
    );
    assert_eq!(hex::encode(domain), "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f");

    assert_eq!(
        hex::encode(type_hash(MAIL)),
        "a0cedeb2dc280ba39b857546d74f5549c3a1d7bdc2dd96bf881f76108e23dac2"
    );
    let mail = struct_hash(
        &type_hash(MAIL),
        &[
            person("Cow", "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"),
            person("Bob", "0xbBbBBBBbbBBBbbbBbbBbbbbBBbBbbbbBbBbbBBbB"),
            Value::String("Hello, Bob!"),
        ],
    );
    assert_eq!(hex::encode(mail), "c52c0ee5d84264471806290a3f2c4cecfc5490626bf912d01f240d7a274b371e");

    let hash = signing_hash(&domain, &mail);
    assert_eq!(hex::encode(hash), "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2");

    let cow = SecretKey::from_bytes(&keccak256(b"cow")).unwrap();
    let signature: Signature = concat!(
        "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d",
        "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562",
        "1c",
    )
    .parse()
    .unwrap();
    assert_eq!(cow.address().to_string(), "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826");
    assert_eq!(verify(&cow.public_key(), &hash, &signature), Ok(()));
    assert_eq!(cow.sign_prehash(&hash), signature);
}

#[test]
fn dynamic_members_are_hashed_and_static_ones_are_padded() {
    assert_eq!(Value::Bytes(b"cow").encode(), keccak256(b"cow"));
    assert_eq!(Value::String("cow").encode(), keccak256(b"cow"));
    assert_eq!(Value::Bytes32([3; 32]).encode(), [3; 32]);
    assert_eq!(hex::encode(Value::Uint(u128::MAX).encode()), "00".repeat(16) + &"ff".repeat(16));
    assert_eq!(hex::encode(Value::Address(Address([5; 20])).encode()), "00".repeat(12) + &"05".repeat(20));
}

#[derive(Deserialize)]
struct Signed {
    key: String,
    address: Address,
    public_key: String,
    pool: PoolId,
    kind: String,
    digest: Digest,
    signing_hash: Digest,
    signature: Signature,
}

#[test]
fn statements_signed_by_ethers_verify_and_are_signed_alike() {
    let statements: Vec<Signed> = crate::vectors("ethers-statements.json");
    assert_eq!(statements.len(), 99);
    for signed in statements {
        let hash = statement_hash(&signed.pool, &signed.kind, &signed.digest);
        assert_eq!(Digest(hash), signed.signing_hash);

        let key = recover(&hash, &signed.signature).unwrap();
        assert_eq!(key.address(), signed.address);
        assert_eq!(hex::encode(key.to_bytes()), signed.public_key);
        assert_eq!(verify(&key, &hash, &signed.signature), Ok(()));

        let secret = SecretKey::from_bytes(&crate::bytes(&signed.key)).unwrap();
        assert_eq!(secret.address(), signed.address);
        assert_eq!(secret.sign_prehash(&hash), signed.signature);
    }
}

#[test]
fn pool_kind_and_digest_are_all_signed() {
    let base = statement_hash(&PoolId([1; 32]), "job", &Digest([2; 32]));
    assert_ne!(base, statement_hash(&PoolId([3; 32]), "job", &Digest([2; 32])));
    assert_ne!(base, statement_hash(&PoolId([1; 32]), "cancel", &Digest([2; 32])));
    assert_ne!(base, statement_hash(&PoolId([1; 32]), "job", &Digest([3; 32])));
}
