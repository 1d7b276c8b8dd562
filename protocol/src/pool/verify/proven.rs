//! What of a record page can be checked before its turn: signatures depend on no state.

use super::super::{Entry, RecordPage};
use crate::codec;
use crate::statement::{Signed, Statement};
use std::collections::BTreeMap;
use swarm_crypto::digest::{Digest, blake3};
use swarm_crypto::key::Signature;
use swarm_crypto::keyring::Keyring;

/// Statements that whom they name has signed, by the digest of their payload. [`Proven::of`] is the one constructor of
/// what is in it, and it is the check.
#[derive(Debug, Default)]
pub struct Proven(BTreeMap<(Digest, Signature), Statement>);

impl Proven {
    /// Checks the statements of a record page, as far as their rows lie in it. Whatever cannot be read or is not signed is
    /// left out, for [`Verifier::page`](super::Verifier::page) to find.
    pub fn of(block: &[u8], keyring: &mut Keyring) -> Self {
        let Ok(page) = codec::read::<RecordPage>(block) else { return Self::default() };
        let mut proven = BTreeMap::new();
        for entry in page.records.iter().filter_map(|row| Entry::decode(row).ok()) {
            for signed in entry.record.snapshots() {
                let Ok(statement) = Statement::decode(&signed.payload) else { continue };
                if signed.check_signature(keyring, &statement).is_ok() {
                    proven.insert((blake3(&signed.payload), signed.signature), statement);
                }
            }
        }
        Self(proven)
    }

    /// What a snapshot says, if it was checked.
    pub(super) fn take(&mut self, signed: &Signed) -> Option<Statement> {
        if self.0.is_empty() {
            return None;
        }
        self.0.remove(&(blake3(&signed.payload), signed.signature))
    }
}
