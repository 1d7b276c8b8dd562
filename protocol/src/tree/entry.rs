//! What the tree says of each thing.

use crate::codec::{self, Link};
use crate::money::MicroUsdc;
use crate::pool::{Acceptance, Counts, Granted};
use crate::race::RosterEntry;
use crate::statement::{Asset, Signed};
use crate::{Posted, Timestamp};
use cid::Cid;
use serde::{Deserialize, Serialize};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;

/// What a name in the tree stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A job's snapshot.
    Job(Signed),
    /// A live lease, and the snapshot of its job.
    Lease(Signed, Granted),
    /// An accepted proof.
    Proof(Box<AcceptedProof>),
    /// A sealed epoch's header, whose block others keep, with its length in bytes.
    Header(Link, u64),
    /// A miner.
    Miner(Box<MinerAccount>),
}

/// `jobs/claimed/<job>`: who has a job, under which lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimedJob {
    /// The job's snapshot.
    pub job: Link,
    /// The lease's id.
    pub lease: Digest,
    /// Its holder.
    pub wallet: Address,
    /// When it was granted.
    pub leased_at: Timestamp,
    /// When it ends at the latest.
    pub until: Timestamp,
}

/// `proofs/<proof>`: what was accepted. Ids whose blocks nobody stores are text, so that every link leads to a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedProof {
    /// The job's id.
    pub job: String,
    /// Who earned.
    pub wallet: Address,
    /// The job's price.
    pub price: MicroUsdc,
    /// Verified work units.
    pub units: u64,
    /// When it was accepted.
    pub at: Timestamp,
    /// The epoch that holds it.
    pub epoch: u64,
    /// The leaf's index there.
    pub index: u64,
    /// The leaf's hash.
    pub leaf: Digest,
    /// The transcript's block.
    pub transcript: Link,
    /// The output's raw block.
    pub output: Cid,
}

/// `miners/<address>`: what the ledger knows of a miner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinerAccount {
    /// Its wallet.
    pub wallet: Address,
    /// Its entry in the open epoch's roster, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roster: Option<RosterEntry>,
    /// Operator fees of its upheld proofs in the last 168 epochs.
    pub fee168: MicroUsdc,
    /// Its losses in the last 24 epochs, in halves.
    pub loss24: u32,
    /// Until when it may not claim.
    pub cooled_until: Timestamp,
    /// Earnings still held.
    pub held: MicroUsdc,
    /// Earnings for good.
    pub payable: MicroUsdc,
}

/// `state.json`: the pool in figures, after the record before `records`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The pool's name.
    pub name: String,
    /// Its id.
    pub pool: PoolId,
    /// Its operator.
    pub operator: Address,
    /// Its asset.
    pub asset: Asset,
    /// Records of the ledger so far.
    pub records: u64,
    /// Hash of the last of them, which chains all before it.
    pub head: Digest,
    /// The open epoch.
    pub epoch: u64,
    /// When it opened.
    pub opened_at: Timestamp,
    /// What became of jobs in it.
    pub counts: Counts,
    /// Σ prices of jobs accepted in it, in micro-USDC.
    pub volume: MicroUsdc,
    /// Jobs pending.
    pub pending: u64,
    /// Jobs leased.
    pub leased: u64,
    /// The header of the last sealed epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Link>,
    /// Numbers in force.
    pub posted: Posted,
}

impl AcceptedProof {
    /// Of a job of this price.
    pub fn of(job: &Link, price: MicroUsdc, accepted: &Acceptance) -> Self {
        Self {
            job: job.to_string(),
            wallet: accepted.wallet,
            price,
            units: accepted.units,
            at: accepted.at,
            epoch: accepted.epoch,
            index: accepted.index,
            leaf: accepted.leaf,
            transcript: accepted.body.transcript,
            output: accepted.body.output,
        }
    }
}

impl Summary {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("its maps have text keys");
        bytes.push(b'\n');
        bytes
    }
}

impl Entry {
    /// What the name links to, the bytes from there down, and the blocks that the tree holds for it.
    pub(super) fn encode(&self) -> (Cid, u64, Vec<(Cid, Vec<u8>)>) {
        let one = |block: Vec<u8>| {
            let cid = Link::of(&block).cid();
            (cid, block.len() as u64, vec![(cid, block)])
        };
        match self {
            Entry::Job(job) => one(job.encode()),
            Entry::Lease(job, granted) => {
                let (_, below, mut blocks) = one(job.encode());
                let claimed = ClaimedJob {
                    job: Link::of(&blocks[0].1),
                    lease: granted.lease,
                    wallet: granted.wallet,
                    leased_at: granted.leased_at,
                    until: granted.until,
                };
                let (cid, size, own) = one(codec::encode(&claimed));
                blocks.extend(own);
                (cid, size + below, blocks)
            }
            Entry::Proof(proof) => one(codec::encode(proof)),
            Entry::Header(header, bytes) => (header.cid(), *bytes, Vec::new()),
            Entry::Miner(miner) => one(codec::encode(miner)),
        }
    }
}
