//! Money: integer micro-USDC, accounts, and transfers between them. Nothing is ever created or lost.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use swarm_crypto::address::Address;

/// The least price of a job, so that both parts of the split are positive.
pub const MIN_PRICE: MicroUsdc = MicroUsdc(4);

const DECIMALS: usize = 6;

/// An amount in millionths of a USDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicroUsdc(pub u64);

/// Why a written amount is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not digits with at most one point.
    #[error("'{0}' is not an amount; write it like \"0.10\"")]
    Malformed(String),
    /// More decimals than a micro-USDC has.
    #[error("'{0}' has more than six decimals; the smallest amount is 0.000001 USDC")]
    TooFine(String),
    /// Does not fit into 64 bits of micro-USDC.
    #[error("'{0}' is too large")]
    TooLarge(String),
}

impl MicroUsdc {
    /// The sum, or `None` past the 64-bit limit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, never below zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl FromStr for MicroUsdc {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(AmountError::Malformed(text.to_owned()));
        }
        if fraction.len() > DECIMALS {
            return Err(AmountError::TooFine(text.to_owned()));
        }
        let too_large = |_| AmountError::TooLarge(text.to_owned());
        let whole: u64 = whole.parse().map_err(too_large)?;
        let fraction: u64 = format!("{fraction:0<DECIMALS$}").parse().map_err(too_large)?;
        let micro = whole.checked_mul(1_000_000).and_then(|w| w.checked_add(fraction));
        micro.map(Self).ok_or_else(|| AmountError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for MicroUsdc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let trimmed = text.trim_end_matches('0');
        let decimals = trimmed.len() - trimmed.find('.').expect("the point was just written") - 1;
        f.write_str(&text[..trimmed.len() + 2usize.saturating_sub(decimals)])
    }
}

/// How a price is divided: the miner's part is `⌊price × 7500 / 10000⌋`, the operator's is the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeSplit {
    /// What the miner gets.
    pub miner: MicroUsdc,
    /// What the operator gets.
    pub operator: MicroUsdc,
}

impl FeeSplit {
    /// Divides `price`.
    pub fn of(price: MicroUsdc) -> Self {
        let exact = u128::from(price.0) * 7500;
        let rounded = if crate::planted::is(crate::planted::Bug::RoundToMiner) {
            exact.div_ceil(10_000)
        } else {
            exact / 10_000
        };
        let miner = u64::try_from(rounded).expect("three quarters of a u64 fit into a u64");
        Self { miner: MicroUsdc(miner), operator: MicroUsdc(price.0 - miner) }
    }
}

/// Whose money, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// The world; negative by what it put in.
    Outside,
    /// What an operator account or the reserve lacked; stops admission while it is not zero.
    Shortfall,
    /// A client's money, free to spend.
    ClientFree(Address),
    /// A client's money, bound to open jobs.
    ClientReserved(Address),
    /// A miner's earnings that an audit can still overturn.
    MinerHeld(Address),
    /// A miner's earnings for good.
    MinerPayable(Address),
    /// The operator's earnings that an audit can still overturn.
    OperatorHeld(Address),
    /// The operator's earnings for good.
    OperatorPayable(Address),
    /// The reserve that pays PPS credits.
    Reserve,
}

impl Account {
    /// Only the world and the shortfall may be overdrawn.
    pub fn may_be_overdrawn(&self) -> bool {
        matches!(self, Account::Outside | Account::Shortfall)
    }

    /// Whose account this is.
    pub fn owner(&self) -> Option<Address> {
        match self {
            Account::ClientFree(a)
            | Account::ClientReserved(a)
            | Account::MinerHeld(a)
            | Account::MinerPayable(a)
            | Account::OperatorHeld(a)
            | Account::OperatorPayable(a) => Some(*a),
            Account::Outside | Account::Shortfall | Account::Reserve => None,
        }
    }

    /// Whose payable account this is.
    pub fn payee(&self) -> Option<Address> {
        match self {
            Account::MinerPayable(a) | Account::OperatorPayable(a) => Some(*a),
            _ => None,
        }
    }
}

/// One posting: `amount` leaves `from` and arrives in `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Source account.
    pub from: Account,
    /// Destination account.
    pub to: Account,
    /// How much.
    pub amount: MicroUsdc,
}

/// Why a transfer cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The source holds less than the amount.
    #[error("{account:?} lacks {missing} USDC")]
    Missing {
        /// The account that would be overdrawn.
        account: Account,
        /// By how much.
        missing: MicroUsdc,
    },
    /// A balance would pass 64 bits.
    #[error("{0:?} would overflow")]
    Overflow(Account),
}

/// Balances of all accounts; their sum is zero, always.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounts {
    balances: BTreeMap<Account, i128>,
    lifetime_payable: BTreeMap<Address, u128>,
}

impl Accounts {
    /// Moves the money of one transfer, or changes nothing.
    pub fn transfer(&mut self, transfer: &Transfer) -> Result<(), MoneyError> {
        let amount = i128::from(transfer.amount.0);
        if amount == 0 || transfer.from == transfer.to {
            return Ok(());
        }
        let source = self.balance(&transfer.from) - amount;
        if source < 0 && !transfer.from.may_be_overdrawn() {
            let missing = MicroUsdc(u64::try_from(-source).unwrap_or(u64::MAX));
            return Err(MoneyError::Missing { account: transfer.from, missing });
        }
        let target = self.balance(&transfer.to) + amount;
        if target > i128::from(u64::MAX) {
            return Err(MoneyError::Overflow(transfer.to));
        }
        self.set(transfer.from, source);
        self.set(transfer.to, target);
        if let Some(payee) = transfer.to.payee() {
            *self.lifetime_payable.entry(payee).or_default() += u128::from(transfer.amount.0);
        }
        Ok(())
    }

    /// An account's balance in micro-USDC; negative only where [`Account::may_be_overdrawn`].
    pub fn balance(&self, account: &Account) -> i128 {
        self.balances.get(account).copied().unwrap_or(0)
    }

    /// An account's balance where it cannot be negative.
    pub fn amount(&self, account: &Account) -> MicroUsdc {
        MicroUsdc(u64::try_from(self.balance(account)).unwrap_or(0))
    }

    /// Sum over all accounts; zero by construction.
    pub fn total(&self) -> i128 {
        self.balances.values().sum()
    }

    /// Every account that is not empty.
    pub fn iter(&self) -> impl Iterator<Item = (&Account, i128)> {
        self.balances.iter().map(|(account, balance)| (account, *balance))
    }

    /// Lifetime inflow to payable, by wallet: the leaves of the payouts root.
    pub fn payouts(&self) -> &BTreeMap<Address, u128> {
        &self.lifetime_payable
    }

    fn set(&mut self, account: Account, balance: i128) {
        if balance == 0 {
            self.balances.remove(&account);
        } else {
            self.balances.insert(account, balance);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_exactly() {
        for (text, micro) in [("0.10", 100_000), ("1", 1_000_000), ("0.000004", 4), ("12.5", 12_500_000)] {
            assert_eq!(text.parse(), Ok(MicroUsdc(micro)));
        }
        for (micro, text) in
            [(100_000, "0.10"), (4, "0.000004"), (12_500_000, "12.50"), (0, "0.00"), (1, "0.000001")]
        {
            assert_eq!(MicroUsdc(micro).to_string(), text);
        }
        for bad in ["", ".", "-1", "1.", ".5", "NaN", "1e3", "1,0", "0.1234567", "18446744073709.551616"] {
            assert!(bad.parse::<MicroUsdc>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_split_is_exact_at_every_edge() {
        for price in [4, 5, 6, 7, 99, 100_000, u64::MAX] {
            let split = FeeSplit::of(MicroUsdc(price));
            assert_eq!(split.miner.0 + split.operator.0, price);
            assert_eq!(u128::from(split.miner.0), u128::from(price) * 3 / 4);
        }
    }

    #[test]
    fn a_transfer_conserves_and_never_overdraws() {
        let (client, other) =
            (Account::ClientFree(Address([1; 20])), Account::ClientReserved(Address([1; 20])));
        let mut accounts = Accounts::default();
        let pay = |from, to, amount| Transfer { from, to, amount: MicroUsdc(amount) };
        accounts.transfer(&pay(Account::Outside, client, 10)).unwrap();
        let refused = accounts.transfer(&pay(client, other, 11));
        assert_eq!(refused, Err(MoneyError::Missing { account: client, missing: MicroUsdc(1) }));
        accounts.transfer(&pay(client, other, 10)).unwrap();
        assert_eq!((accounts.balance(&client), accounts.balance(&other), accounts.total()), (0, 10, 0));
    }
}
