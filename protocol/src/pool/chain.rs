use super::{Pool, Record, State};
use crate::Timestamp;
use crate::money::{Account, MicroUsdc};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// What is seen where the pool's money comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEvent {
    /// A client put money in.
    Deposited {
        /// Who.
        client: Address,
        /// How much.
        amount: MicroUsdc,
        /// A name that no other deposit has.
        reference: Digest,
    },
    /// A deposit is gone: the blocks that held it were replaced.
    Undone {
        /// Which.
        reference: Digest,
    },
}

impl State {
    /// All money of a pool, what it lacks included, fits 64 bits, so that no sum of it overflows.
    pub(super) fn may_come_in(&self, amount: MicroUsdc) -> bool {
        let owed = self.accounts.balance(&Account::Outside) + self.accounts.balance(&Account::Shortfall);
        i128::from(amount.0) - owed <= i128::from(u64::MAX)
    }
}

impl Pool {
    /// Every deposit counts once, and is undone once.
    pub(super) fn handle_chain(&mut self, event: ChainEvent, now: Timestamp) {
        match event {
            ChainEvent::Deposited { client, amount, reference } => {
                let known = self.state.deposits.contains_key(&reference);
                if !known && amount.0 > 0 && self.state.may_come_in(amount) {
                    self.record(now, Record::Deposited { client, amount, reference });
                }
            }
            ChainEvent::Undone { reference } if self.state.deposits.contains_key(&reference) => {
                self.record(now, Record::DepositUndone { reference });
            }
            ChainEvent::Undone { .. } => {}
        }
    }
}
