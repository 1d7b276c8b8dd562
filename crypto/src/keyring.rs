//! Checks signatures against remembered keys, which costs less than recovering them.

use std::collections::BTreeMap;

use crate::{
    address::Address,
    key::{PublicKey, Signature, SignatureError, recover, verify},
};

/// How many public keys a keyring remembers unless told otherwise (about 12 MB).
pub const MAX_KEYRING_KEYS: usize = 65_536;

/// A bounded memory of public keys by address; the least recently used key is forgotten first.
///
/// What it remembers changes the cost of a check and never its result.
#[derive(Debug, Clone)]
pub struct Keyring {
    max_keys: usize,
    keys: BTreeMap<Address, Entry>,
    by_use: BTreeMap<u64, Address>,
    uses: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    key: PublicKey,
    used: u64,
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new(MAX_KEYRING_KEYS)
    }
}

impl Keyring {
    /// A keyring of at most `max_keys` keys; with 0 it remembers nothing.
    pub fn new(max_keys: usize) -> Self {
        Self { max_keys, keys: BTreeMap::new(), by_use: BTreeMap::new(), uses: 0 }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether the key of this address is remembered.
    pub fn knows(&self, address: &Address) -> bool {
        self.keys.contains_key(address)
    }

    /// Accepts a signature over `prehash` by the key of the address `claimed`, and remembers that key.
    pub fn check(
        &mut self,
        claimed: Address,
        prehash: &[u8; 32],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        let key = match self.keys.get(&claimed) {
            Some(entry) => {
                let key = entry.key;
                verify(&key, prehash, signature)?;
                key
            }
            None => {
                let key = recover(prehash, signature)?;
                if key.address() != claimed {
                    return Err(SignatureError::Mismatch);
                }
                key
            }
        };
        self.remember(claimed, key);
        Ok(())
    }

    fn remember(&mut self, address: Address, key: PublicKey) {
        if self.max_keys == 0 {
            return;
        }
        self.uses += 1;
        if let Some(before) = self.keys.insert(address, Entry { key, used: self.uses }) {
            self.by_use.remove(&before.used);
        }
        self.by_use.insert(self.uses, address);
        if self.keys.len() > self.max_keys
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.keys.remove(&oldest);
        }
    }
}
