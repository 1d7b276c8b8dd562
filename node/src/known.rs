//! The wallets that a node knows, shared by those who learn of them and those who ask.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use swarm_crypto::address::Address;

/// Wallets known at once; the first one learnt is forgotten first, and is a stranger from then on.
pub const MAX_KNOWN_WALLETS: usize = 262_144;

/// Whoever is not in here is a stranger: see [`swarm_protocol::allowance`].
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<Wallets>>);

#[derive(Debug, Default)]
struct Wallets {
    members: BTreeSet<Address>,
    order: VecDeque<Address>,
}

impl Known {
    /// Whether a wallet is known.
    pub fn contains(&self, wallet: &Address) -> bool {
        self.lock().members.contains(wallet)
    }

    /// Learns of a wallet.
    pub fn note(&self, wallet: Address) {
        self.lock().note(wallet);
    }

    /// Forgets all others.
    pub fn replace(&self, wallets: impl IntoIterator<Item = Address>) {
        let mut fresh = Wallets::default();
        wallets.into_iter().for_each(|wallet| fresh.note(wallet));
        *self.lock() = fresh;
    }

    fn lock(&self) -> MutexGuard<'_, Wallets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wallets {
    fn note(&mut self, wallet: Address) {
        if !self.members.insert(wallet) {
            return;
        }
        self.order.push_back(wallet);
        if self.order.len() > MAX_KNOWN_WALLETS
            && let Some(first) = self.order.pop_front()
        {
            self.members.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wallet(n: usize) -> Address {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Address(bytes)
    }

    #[test]
    fn the_first_one_learnt_is_forgotten_first_and_a_new_set_replaces_the_old() {
        let known = Known::default();
        (0..=MAX_KNOWN_WALLETS).chain([5]).for_each(|n| known.note(wallet(n)));
        assert_eq!([0, 1, 5].map(|n| known.contains(&wallet(n))), [false, true, true]);
        known.replace([wallet(7)]);
        assert_eq!([5, 7].map(|n| known.contains(&wallet(n))), [false, true]);
    }
}
