//! The postings of every record: section 9 of the specification, row by row.

use super::audit::Paying;
use super::held::{HELD_EPOCHS, HeldLeaf, Settlement};
use super::record::{Close, LeafAt, Record};
use super::state::{State, job_of};
use crate::money::{Account, FeeSplit, MicroUsdc, Transfer};
use crate::planted::{self, Bug};
use crate::statement::{Header, PayoutMode};
use std::collections::BTreeMap;

/// Transfers in the making: each sees the balances that those before it leave.
struct Postings<'a> {
    state: &'a State,
    made: Vec<Transfer>,
    /// What the transfers made so far change of the accounts that are asked about.
    moved: BTreeMap<Account, i128>,
}

impl<'a> Postings<'a> {
    fn new(state: &'a State) -> Self {
        Self { state, made: Vec::new(), moved: BTreeMap::new() }
    }

    fn pay(&mut self, from: Account, to: Account, amount: MicroUsdc) {
        if amount.0 > 0 {
            *self.moved.entry(from).or_default() -= i128::from(amount.0);
            *self.moved.entry(to).or_default() += i128::from(amount.0);
            self.made.push(Transfer { from, to, amount });
        }
    }

    fn left(&self, account: &Account) -> MicroUsdc {
        let moved = self.moved.get(account).copied().unwrap_or(0);
        MicroUsdc(u64::try_from(self.state.accounts.balance(account) + moved).unwrap_or(0))
    }

    /// Pays from an account as far as it reaches; gives what is missing.
    fn pay_up_to(&mut self, from: Account, to: Account, amount: MicroUsdc) -> MicroUsdc {
        let paid = amount.min(self.left(&from));
        self.pay(from, to, paid);
        amount.saturating_sub(paid)
    }

    /// Pays from the operator's held money or the reserve; what it lacks comes from the shortfall.
    fn vouch(&mut self, from: Account, to: Account, amount: MicroUsdc) {
        let missing = self.pay_up_to(from, to, amount);
        self.pay(Account::Shortfall, to, missing);
    }
}

impl State {
    /// The transfers that `record` makes in this state.
    pub fn transfers(&self, record: &Record) -> Vec<Transfer> {
        self.transfers_with(record, self.settlement_by(record).as_ref())
    }

    /// The same for whoever knows what a boundary settles.
    pub(super) fn transfers_with(&self, record: &Record, settlement: Option<&Settlement>) -> Vec<Transfer> {
        let mut postings = Postings::new(self);
        let operator = self.genesis.operator;
        match record {
            Record::Credited { client } => {
                postings.pay(Account::Outside, Account::ClientFree(*client), self.posted.test_credit);
            }
            Record::Deposited { client, amount, .. } => {
                postings.pay(Account::Outside, Account::ClientFree(*client), *amount);
            }
            Record::DepositUndone { reference } => {
                let (_, client, amount) = self.deposits[reference];
                let spent = postings.pay_up_to(Account::ClientFree(client), Account::Outside, amount);
                postings.vouch(Account::OperatorHeld(operator), Account::Outside, spent);
            }
            Record::ReserveFunded { amount } => {
                postings.pay(Account::ClientFree(operator), Account::Reserve, *amount);
            }
            Record::Admitted { job, .. } => {
                let (Header { by, .. }, job) = job_of(job);
                postings.pay(Account::ClientFree(by), Account::ClientReserved(by), job.price);
            }
            Record::Accepted { job, lease, .. } => {
                let entry = &self.jobs[job];
                let wallet = entry.holder(lease).expect("only a lease's proof is accepted");
                let (from, split) = (Account::ClientReserved(entry.client), FeeSplit::of(entry.price));
                let to = match self.mode(&wallet) {
                    PayoutMode::Solo => Account::MinerHeld(wallet),
                    PayoutMode::Pps => Account::Reserve,
                };
                postings.pay(from, to, split.miner);
                postings.pay(from, Account::OperatorHeld(operator), split.operator);
            }
            Record::Closed { end: Close::Expired, .. } if planted::is(Bug::LostRefund) => {}
            Record::Closed { job, .. } => {
                let (client, price) = (self.jobs[job].client, self.jobs[job].price);
                postings.pay(Account::ClientReserved(client), Account::ClientFree(client), price);
            }
            Record::AuditPaid { leaf, auditor, amount } => {
                let seat = self.audit(*leaf).and_then(|audit| audit.seat(auditor));
                let auditor = Account::MinerHeld(*auditor);
                match seat.and_then(|seat| seat.challenge) {
                    Some(Paying { challenger, .. }) => {
                        postings.pay(Account::ClientReserved(challenger), auditor, *amount);
                    }
                    None => postings.vouch(Account::OperatorHeld(operator), auditor, *amount),
                }
            }
            Record::Challenged { challenger, amount, .. } => {
                let (free, reserved) =
                    (Account::ClientFree(*challenger), Account::ClientReserved(*challenger));
                postings.pay(free, reserved, *amount);
            }
            Record::ChallengeReturned { leaf, challenger, amount } => {
                let paid = self.unreturned(*leaf, challenger).is_some_and(|paying| paying.paid.is_some());
                let (reserved, free) =
                    (Account::ClientReserved(*challenger), Account::ClientFree(*challenger));
                if paid {
                    postings.vouch(Account::OperatorHeld(operator), free, *amount);
                } else {
                    postings.pay(reserved, free, *amount);
                }
            }
            Record::Overturned { leaf } => postings.overturn(self.leaf(*leaf), self.earned(*leaf)),
            Record::Boundary(boundary) => {
                postings.credit(settlement.expect("a boundary settles"));
                postings.release(boundary.epoch);
            }
            Record::Genesis(_)
            | Record::Bound { .. }
            | Record::Leased { .. }
            | Record::LeaseEnded { .. }
            | Record::AuditPicked { .. }
            | Record::Attested { .. }
            | Record::AuditClosed { .. }
            | Record::HeaderFixed { .. } => {}
        }
        postings.made
    }

    pub(super) fn leaf(&self, at: LeafAt) -> &HeldLeaf {
        self.find_leaf(at).expect("only what is held is overturned")
    }

    fn earned(&self, at: LeafAt) -> MicroUsdc {
        self.held[&at.epoch].earned(usize::try_from(at.index).expect("an index in memory"))
    }
}

impl Postings<'_> {
    fn overturn(&mut self, leaf: &HeldLeaf, earned: MicroUsdc) {
        let (operator, client) = (self.state.genesis.operator, Account::ClientFree(leaf.client));
        let (miner, split) = (Account::MinerHeld(leaf.wallet), FeeSplit::of(leaf.price));
        match leaf.mode {
            PayoutMode::Solo => self.pay(miner, client, split.miner),
            PayoutMode::Pps => {
                self.pay(miner, Account::Reserve, earned);
                self.vouch(Account::Reserve, client, split.miner);
            }
        }
        self.vouch(Account::OperatorHeld(operator), client, split.operator);
    }

    /// PPS credits of the epoch that ends, a transfer for each wallet.
    fn credit(&mut self, settlement: &Settlement) {
        for (wallet, amount) in &settlement.earned {
            self.pay(Account::Reserve, Account::MinerHeld(*wallet), *amount);
        }
    }

    /// What was accepted two epochs ago becomes payable, and what waited longer for an audit that has ended. The operator's money makes good a shortfall first; and it waits
    /// where more would become payable than clients have been debited, which happens once PPS credits have drawn on a
    /// pot that was overturned after.
    fn release(&mut self, epoch: u64) {
        let state = self.state;
        let free = state.released(epoch);
        let mut payouts: u128 = state.accounts.payouts().values().sum();
        let mut debits: u128 = state.debits.values().sum();
        for (wallet, amount) in &free.miners {
            self.pay(Account::MinerHeld(*wallet), Account::MinerPayable(*wallet), *amount);
            payouts += u128::from(amount.0);
        }
        debits += free.debits.values().map(|amount| u128::from(amount.0)).sum::<u128>();

        let operator = Account::OperatorHeld(state.genesis.operator);
        let later = state.held.iter().map(|(held, money)| match held + HELD_EPOCHS <= epoch {
            true => money.waiting().operator.0,
            false => money.operator.0,
        });
        let later = MicroUsdc(later.sum());
        let lacking = |postings: &Self| {
            let moved = postings.moved.get(&Account::Shortfall).copied().unwrap_or(0);
            let balance = postings.state.accounts.balance(&Account::Shortfall) + moved;
            MicroUsdc(u64::try_from(-balance).unwrap_or(0))
        };
        // Auditors were paid out of fees that still wait themselves.
        let uncovered = MicroUsdc(u64::try_from(payouts.saturating_sub(debits)).unwrap_or(u64::MAX));
        self.pay(Account::Shortfall, operator, uncovered.saturating_sub(lacking(self)));
        let mut released = self.left(&operator).saturating_sub(later);
        // What nobody was debited for stays lacking.
        let good = released.min(lacking(self).saturating_sub(uncovered));
        self.pay(operator, Account::Shortfall, good);
        released = released.saturating_sub(good);
        let asked = lacking(self);
        let missing = self.pay_up_to(Account::ClientFree(state.genesis.operator), Account::Shortfall, asked);
        debits += u128::from(asked.saturating_sub(missing).0);
        let covered = u64::try_from(debits.saturating_sub(payouts)).unwrap_or(u64::MAX);
        self.pay(
            operator,
            Account::OperatorPayable(state.genesis.operator),
            released.min(MicroUsdc(covered)),
        );
    }
}
