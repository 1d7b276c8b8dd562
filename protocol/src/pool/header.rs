use crate::codec::{self, Link};
use crate::money::{Account, Accounts, MicroUsdc};
use crate::statement::Asset;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::standard_tree::StandardTree;

/// Version of the settlement rules that this crate follows.
pub const SETTLEMENT_VERSION: u32 = 4;

/// The same with audits of text alone.
pub const SETTLEMENT_OF_TEXT: u32 = 3;

/// The same without audits.
pub const SETTLEMENT_BEFORE: u32 = 2;

/// Leaf hashes of one page block.
pub const MAX_PAGE_LEAVES: usize = 16_384;

/// The page blocks of an epoch's leaf hashes, in order.
pub fn leaf_pages(leaves: &[Digest]) -> Vec<Vec<u8>> {
    leaves.chunks(MAX_PAGE_LEAVES).map(codec::encode).collect()
}

/// How many jobs met which fate in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Admitted.
    pub admitted: u64,
    /// Leases granted.
    pub leased: u64,
    /// Answered.
    pub accepted: u64,
    /// Expired and refunded.
    pub expired: u64,
    /// Cancelled and refunded.
    pub cancelled: u64,
    /// Unrunnable and refunded.
    pub unrunnable: u64,
}

/// Totals of every account class at the end of an epoch, in micro-USDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// What came in from outside, less what left.
    pub outside: u64,
    /// What operator accounts lacked.
    pub shortfall: u64,
    /// Free money of clients.
    pub client_free: u64,
    /// Money of clients bound to open jobs.
    pub client_reserved: u64,
    /// Miners' held earnings.
    pub miner_held: u64,
    /// Miners' earnings for good.
    pub miner_payable: u64,
    /// The operator's held earnings.
    pub operator_held: u64,
    /// The operator's earnings for good.
    pub operator_payable: u64,
    /// The PPS reserve.
    pub reserve: u64,
}

impl Totals {
    /// The totals of these accounts.
    pub fn of(accounts: &Accounts) -> Self {
        let mut totals = Self::default();
        for (account, balance) in accounts.iter() {
            let (field, amount) = match account {
                Account::Outside => (&mut totals.outside, -balance),
                Account::Shortfall => (&mut totals.shortfall, -balance),
                Account::ClientFree(_) => (&mut totals.client_free, balance),
                Account::ClientReserved(_) => (&mut totals.client_reserved, balance),
                Account::MinerHeld(_) => (&mut totals.miner_held, balance),
                Account::MinerPayable(_) => (&mut totals.miner_payable, balance),
                Account::OperatorHeld(_) => (&mut totals.operator_held, balance),
                Account::OperatorPayable(_) => (&mut totals.operator_payable, balance),
                Account::Reserve => (&mut totals.reserve, balance),
            };
            *field += u64::try_from(amount).expect("no class holds more than came in, and that fits 64 bits");
        }
        totals
    }
}

/// A sealed epoch: signed, immutable, chained to the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochHeader {
    /// The pool.
    pub pool: PoolId,
    /// Its asset.
    pub asset: Asset,
    /// N.
    pub epoch: u64,
    /// The header of N−1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Link>,
    /// First record of the range.
    pub first_seq: u64,
    /// Last record of the range: the boundary.
    pub end_seq: u64,
    /// Hash of the last record, which chains all before it.
    pub range_hash: Digest,
    /// What became of jobs.
    pub counts: Counts,
    /// Σ prices of accepted jobs.
    pub volume: MicroUsdc,
    /// Root over the acceptance leaves.
    pub proofs_root: Digest,
    /// Blocks that hold the leaf hashes under that root, in order, at most [`MAX_PAGE_LEAVES`] each.
    pub leaf_pages: Vec<Link>,
    /// Blocks that hold the records of the range, in order: [`super::RecordPage`].
    pub record_pages: Vec<Link>,
    /// Root over lifetime inflows to payable.
    pub payouts_root: Digest,
    /// Root over lifetime debits of clients.
    pub debits_root: Digest,
    /// Root over the audit records of the range.
    pub audits_root: Digest,
    /// Every account class.
    pub totals: Totals,
    /// `s_N`, revealed.
    pub secret: Digest,
    /// Version of the settlement rules.
    pub settlement: u32,
    /// Whether PPS credits were scaled down.
    pub pps_scaled: bool,
    /// Audits that nobody could serve.
    pub audits_unserved: u64,
}

impl EpochHeader {
    /// The header's block.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The link to the header's block.
    pub fn link(&self) -> Link {
        Link::of(&self.encode())
    }
}

/// OpenZeppelin's standard root over `[address, uint256]`; 32 zero bytes when empty.
pub fn standard_root(amounts: &BTreeMap<Address, u128>) -> Digest {
    let entries: Vec<(Address, u128)> = amounts.iter().map(|(address, amount)| (*address, *amount)).collect();
    StandardTree::new(&entries).root()
}
