//! What the pool says when asked: always from the durable record.

use super::{Pool, PoolEffect, Stage};
use crate::Timestamp;
use crate::codec::JobId;
use crate::money::{Account, MicroUsdc};
use crate::query::Balances;
use crate::statement::{Admitted, Body, EpochSealed, Reason, Refusal, Signed, Statement, Topic};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobFate {
    /// Not a job of this pool.
    Unknown,
    /// Waiting for a miner.
    Pending {
        /// Which attempt.
        attempt: u32,
        /// Pending jobs of its model before it.
        ahead: u64,
    },
    /// A miner runs it.
    Leased {
        /// The lease.
        lease: Digest,
        /// Its holder.
        wallet: Address,
        /// The holder's name.
        name: Option<String>,
        /// Which attempt.
        term: u32,
        /// Progress so far.
        units: u64,
        /// Whether a proof is being checked.
        proven: bool,
    },
    /// Answered: the receipt, and the earner's name.
    Accepted(Box<Statement>, Option<String>),
    /// Refunded: the refusal that says why.
    Ended(Box<Statement>),
}

impl Pool {
    /// What became of a job.
    pub fn fate(&self, id: &JobId) -> JobFate {
        let Some(entry) = self.state.jobs.get(id) else { return JobFate::Unknown };
        let proven = self.live.is_examined(id);
        match &entry.stage {
            Stage::Pending => JobFate::Pending { attempt: entry.attempt, ahead: self.live.ahead(entry) },
            Stage::Leased(granted) => {
                let wallet = granted.wallet;
                let run = self.live.runs.get(id);
                let units = run.and_then(|run| run.progress.last()).map_or(0, |(units, _)| *units);
                let name = self.state.name_of(&wallet).map(str::to_owned);
                JobFate::Leased { lease: granted.lease, wallet, name, term: entry.attempt, units, proven }
            }
            Stage::Accepted(accepted) => {
                let receipt = self.state.receipt(id).expect("accepted jobs have receipts");
                let name = self.state.name_of(&accepted.wallet).map(str::to_owned);
                JobFate::Accepted(Box::new(self.statement(accepted.at, receipt)), name)
            }
            Stage::Expired => {
                self.ended(id, Reason::JobExpired, "no miner finished it in time; the price is refunded")
            }
            Stage::Cancelled => {
                self.ended(id, Reason::JobCancelled, "cancelled by its client; the price is refunded")
            }
            Stage::Unrunnable => {
                self.ended(id, Reason::JobUnrunnable, "no miner could run it; the price is refunded")
            }
        }
    }

    /// The client's statement of an open job.
    pub fn snapshot(&self, id: &JobId) -> Option<Signed> {
        self.state.jobs.get(id)?.signed.clone()
    }

    /// What the newest `EpochSealed` says, if an epoch is sealed.
    pub fn epoch_sealed(&self, now: Timestamp) -> Option<Statement> {
        let (epoch, header) = self.state.last_header?;
        Some(self.statement(now, EpochSealed { epoch, header }))
    }

    /// A wallet's balances; one that was never seen has its test credit to come.
    pub fn balances(&self, wallet: &Address) -> Balances {
        let amount = |account| self.state.accounts.amount(&account);
        let known = self.state.clients.contains_key(wallet);
        let free = if known { amount(Account::ClientFree(*wallet)) } else { self.state.posted.test_credit };
        let sum = |a: MicroUsdc, b: MicroUsdc| MicroUsdc(a.0.saturating_add(b.0));
        Balances {
            free,
            reserved: amount(Account::ClientReserved(*wallet)),
            held: sum(amount(Account::MinerHeld(*wallet)), amount(Account::OperatorHeld(*wallet))),
            payable: sum(amount(Account::MinerPayable(*wallet)), amount(Account::OperatorPayable(*wallet))),
        }
    }

    fn ended(&self, id: &JobId, reason: Reason, detail: &str) -> JobFate {
        let at = self.state.jobs[id].listed_at;
        let refusal = Refusal { subject: *id, job: *id, reason, detail: detail.to_owned() };
        JobFate::Ended(Box::new(self.statement(at, refusal)))
    }

    /// Says again what a job's sender should know.
    pub(super) fn repeat_fate(&mut self, id: &JobId, now: Timestamp) {
        let (topic, statement) = match self.fate(id) {
            JobFate::Unknown => return,
            JobFate::Pending { .. } | JobFate::Leased { .. } => {
                let entry = &self.state.jobs[id];
                let admitted = Admitted { job: *id, epoch: entry.epoch };
                (Topic::Jobs, self.statement(now, Body::from(admitted)))
            }
            JobFate::Accepted(receipt, _) => (Topic::Proofs, *receipt),
            JobFate::Ended(refusal) => (Topic::Jobs, *refusal),
        };
        self.effects.push_back(PoolEffect::Publish(topic, statement));
    }
}
