use proptest::prelude::*;
use swarm_crypto::{
    PublicKey, SecretKey, Signature, SignatureError,
    digest::sha2_256,
    key::{KeyError, recover, verify},
};

/// The order of the group, and half of it rounded down (SEC 2).
const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
const HALF: &str = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";

pub(crate) fn secret_keys() -> impl Strategy<Value = SecretKey> {
    any::<[u8; 32]>().prop_filter_map("no scalar", |bytes| SecretKey::from_bytes(&bytes).ok())
}

/// `ORDER − scalar`, big-endian.
pub(crate) fn negate(scalar: &[u8]) -> [u8; 32] {
    let order: [u8; 32] = crate::bytes(ORDER);
    let mut difference = [0; 32];
    let mut borrow = 0;
    for index in (0..32).rev() {
        let digit = i16::from(order[index]) - i16::from(scalar[index]) - borrow;
        borrow = i16::from(digit < 0);
        difference[index] = digit.rem_euclid(256) as u8;
    }
    difference
}

/// The other signature that plain ECDSA accepts: s negated and the recovery byte flipped.
pub(crate) fn malleate(signature: &Signature) -> Signature {
    let mut other = *signature;
    other.0[32..64].copy_from_slice(&negate(&signature.0[32..64]));
    other.0[64] = 55 - signature.0[64];
    other
}

pub(crate) fn with_other_v(signature: &Signature) -> Signature {
    let mut other = *signature;
    other.0[64] = 55 - signature.0[64];
    other
}

/// Nonces as RFC 6979 prescribes, for the secp256k1 vectors that Bitcoin libraries share.
#[test]
fn signatures_are_those_of_rfc_6979() {
    let cases = [
        (
            "Satoshi Nakamoto",
            "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8\
             2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
        ),
        (
            "All those moments will be lost in time, like tears in rain. Time to die...",
            "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b\
             547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21",
        ),
    ];
    let mut one = [0; 32];
    one[31] = 1;
    let key = SecretKey::from_bytes(&one).unwrap();
    for (message, expected) in cases {
        let signature = key.sign_prehash(&sha2_256(message.as_bytes()));
        assert_eq!(hex::encode(&signature.0[..64]), expected);
        assert_eq!(key.sign_prehash(&sha2_256(message.as_bytes())), signature);
    }
}

#[test]
fn scalars_out_of_range_are_no_keys() {
    let order: [u8; 32] = crate::bytes(ORDER);
    for bytes in [[0; 32], order, [0xff; 32]] {
        assert_eq!(SecretKey::from_bytes(&bytes).err(), Some(KeyError));
    }
    let mut largest = order;
    largest[31] -= 1;
    assert_eq!(*SecretKey::from_bytes(&largest).unwrap().to_bytes(), largest);
}

#[test]
fn points_off_the_curve_are_no_keys() {
    let mut bytes = [0; 33];
    bytes[0] = 2;
    bytes[32] = 5;
    assert_eq!(PublicKey::from_bytes(&bytes), Err(KeyError), "5 is the x of no point");
    assert_eq!(PublicKey::from_bytes(&[0; 33]), Err(KeyError));
    bytes[32] = 1;
    assert_eq!(PublicKey::from_bytes(&bytes).unwrap().to_bytes(), bytes);
}

#[test]
fn a_secret_key_never_shows_itself() {
    let key = SecretKey::from_bytes(&[0x5a; 32]).unwrap();
    let shown = format!("{key:?} {key:#?}");
    assert!(!shown.contains("5a5a") && !shown.contains("90, 90"), "{shown}");
    assert!(shown.contains(&key.address().to_string()));
}

fn refused(key: &PublicKey, prehash: &[u8; 32], signature: &Signature, why: SignatureError) {
    assert_eq!(verify(key, prehash, signature), Err(why), "{signature}");
    match recover(prehash, signature) {
        Ok(other) => assert!(why == SignatureError::Mismatch && other != *key),
        Err(error) => assert_eq!(error, why),
    }
}

#[test]
fn what_is_out_of_range_is_refused_by_name() {
    let key = SecretKey::from_bytes(&[1; 32]).unwrap();
    let prehash = [2; 32];
    let good = key.sign_prehash(&prehash);
    let with = |range: std::ops::Range<usize>, part: [u8; 32]| {
        let mut bad = good;
        bad.0[range].copy_from_slice(&part);
        bad
    };
    let order: [u8; 32] = crate::bytes(ORDER);
    let half: [u8; 32] = crate::bytes(HALF);
    let above_half = negate(&half);
    for part in [[0; 32], order, [0xff; 32]] {
        refused(&key.public_key(), &prehash, &with(0..32, part), SignatureError::OutOfRange);
        refused(&key.public_key(), &prehash, &with(32..64, part), SignatureError::OutOfRange);
    }
    refused(&key.public_key(), &prehash, &with(32..64, above_half), SignatureError::HighS);
    refused(&key.public_key(), &prehash, &with(32..64, half), SignatureError::Mismatch);
    for v in (0..=255).filter(|v| ![27, 28].contains(v)) {
        let mut bad = good;
        bad.0[64] = v;
        refused(&key.public_key(), &prehash, &bad, SignatureError::RecoveryByte(v));
    }
}

/// With u1·G = −u2·Q the verified point is the identity, which has no x to compare.
#[test]
fn the_point_at_infinity_is_no_match() {
    let mut one = [0; 32];
    one[31] = 1;
    let key = SecretKey::from_bytes(&one).unwrap().public_key();
    for r in [[0x11; 32], [0x7f; 32]] {
        let mut signature = Signature([27; 65]);
        signature.0[..32].copy_from_slice(&r);
        signature.0[32..64].copy_from_slice(&one);
        refused(&key, &negate(&r), &signature, SignatureError::Mismatch);
    }
}

proptest! {
    #[test]
    fn signed_is_verified_and_recovered(key in secret_keys(), prehash: [u8; 32]) {
        let signature = key.sign_prehash(&prehash);
        prop_assert_eq!(verify(&key.public_key(), &prehash, &signature), Ok(()));
        prop_assert_eq!(recover(&prehash, &signature), Ok(key.public_key()));
        prop_assert_eq!(PublicKey::from_bytes(&key.public_key().to_bytes()), Ok(key.public_key()));
    }

    #[test]
    fn a_malleated_signature_is_refused(key in secret_keys(), prehash: [u8; 32]) {
        let signature = key.sign_prehash(&prehash);
        refused(&key.public_key(), &prehash, &malleate(&signature), SignatureError::HighS);
        refused(&key.public_key(), &prehash, &with_other_v(&signature), SignatureError::Mismatch);
    }

    #[test]
    fn any_changed_bit_is_refused(key in secret_keys(), prehash: [u8; 32], bit in 0_usize..520 + 256) {
        let (mut signature, mut changed) = (key.sign_prehash(&prehash), prehash);
        match bit.checked_sub(520) {
            Some(bit) => changed[bit / 8] ^= 1 << (bit % 8),
            None => signature.0[bit / 8] ^= 1 << (bit % 8),
        }
        prop_assert!(verify(&key.public_key(), &changed, &signature).is_err());
        prop_assert_ne!(recover(&changed, &signature), Ok(key.public_key()));
    }

    #[test]
    fn another_key_is_refused(key in secret_keys(), other in secret_keys(), prehash: [u8; 32]) {
        prop_assume!(key.address() != other.address());
        refused(&other.public_key(), &prehash, &key.sign_prehash(&prehash), SignatureError::Mismatch);
    }

    /// For small r and s with any prehash, what recover answers is what verify accepts.
    #[test]
    fn verify_accepts_exactly_what_recover_answers(r: [u8; 16], s: [u8; 16], v in 27_u8..=28, prehash: [u8; 32]) {
        let mut signature = Signature([0; 65]);
        signature.0[16..32].copy_from_slice(&r);
        signature.0[48..64].copy_from_slice(&s);
        signature.0[64] = v;
        if let Ok(key) = recover(&prehash, &signature) {
            prop_assert_eq!(verify(&key, &prehash, &signature), Ok(()));
            let twin = recover(&prehash, &with_other_v(&signature)).unwrap();
            prop_assert_eq!(verify(&twin, &prehash, &signature), Err(SignatureError::Mismatch));
        }
    }
}
