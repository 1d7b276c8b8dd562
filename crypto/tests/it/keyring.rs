use proptest::prelude::*;
use swarm_crypto::{Address, Keyring, SecretKey, Signature, SignatureError, key::recover};

use crate::key::{malleate, with_other_v};

fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number + 1; 32]).unwrap()
}

/// What a keyring must answer, remembering nothing.
fn by_recovery(claimed: Address, prehash: &[u8; 32], signature: &Signature) -> Result<(), SignatureError> {
    let key = recover(prehash, signature)?;
    if key.address() == claimed { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// A signature by one key, perhaps damaged, presented as another's.
fn presented() -> impl Strategy<Value = (Address, [u8; 32], Signature)> {
    (0_u8..6, 0_u8..6, any::<[u8; 32]>(), 0_u8..8, any::<bool>()).prop_map(
        |(by, other, prehash, damage, honest)| {
            let mut signature = key(by).sign_prehash(&prehash);
            match damage {
                0 => signature = malleate(&signature),
                1 => signature = with_other_v(&signature),
                2 => signature.0[64] = 0,
                3 => signature.0[..32].fill(0),
                4 => signature.0[..32].fill(5),
                _ => {}
            }
            (key(if honest { by } else { other }).address(), prehash, signature)
        },
    )
}

proptest! {
    #[test]
    fn what_is_remembered_never_changes_a_result(
        checks in prop::collection::vec(presented(), 0..24),
        max_keys in 0_usize..5,
    ) {
        let mut keyring = Keyring::new(max_keys);
        for (claimed, prehash, signature) in checks {
            let expected = by_recovery(claimed, &prehash, &signature);
            prop_assert_eq!(keyring.check(claimed, &prehash, &signature), expected);
            prop_assert!(keyring.len() <= max_keys);
        }
    }
}

#[test]
fn the_least_recently_used_key_is_forgotten() {
    let mut keyring = Keyring::new(2);
    let prehash = [3; 32];
    let mut check = |number: u8| {
        let key = key(number);
        keyring.check(key.address(), &prehash, &key.sign_prehash(&prehash)).unwrap();
        let known: Vec<bool> = (0..3).map(|number| keyring.knows(&self::key(number).address())).collect();
        known
    };
    assert_eq!(check(0), [true, false, false]);
    assert_eq!(check(1), [true, true, false]);
    assert_eq!(check(0), [true, true, false]);
    assert_eq!(check(2), [true, false, true]);
}

#[test]
fn a_refused_signature_leaves_nothing_behind() {
    let mut keyring = Keyring::new(2);
    let (alice, bob, prehash) = (key(0), key(1), [3; 32]);
    let refused = keyring.check(bob.address(), &prehash, &alice.sign_prehash(&prehash));
    assert_eq!(refused, Err(SignatureError::Mismatch));
    assert!(keyring.is_empty());
}
