use super::{Stage, State};
use crate::codec::JobId;
use crate::finding::{CARELESS_ERRORS, Score};
use crate::money::MicroUsdc;
use crate::race::{cooldown, weight};
use crate::{Posted, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use swarm_crypto::address::Address;

/// Epochs whose fees make a reputation.
pub const REPUTATION_EPOCHS: u64 = 168;
/// Epochs whose losses lower a weight.
pub const LOSS_EPOCHS: u64 = 24;

impl State {
    /// The wallets that are no strangers: with money in the pool, on the open epoch's roster, or with a lease. Some come
    /// more than once.
    pub fn known_wallets(&self) -> impl Iterator<Item = Address> {
        let funded = self.accounts.iter().filter_map(|(account, _)| account.owner());
        let roster = self.rosters.get(&self.epoch.number).into_iter().flat_map(|(roster, _)| &roster.0);
        let holders = self.jobs.values().filter_map(|job| match &job.stage {
            Stage::Leased(granted) => Some(granted.wallet),
            Stage::Pending | Stage::Accepted(_) | Stage::Expired | Stage::Cancelled | Stage::Unrunnable => {
                None
            }
        });
        funded.chain(roster.map(|entry| entry.wallet)).chain(holders)
    }
}

/// What the ledger knows of a miner's wallet.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    fees: BTreeMap<u64, MicroUsdc>,
    losses: BTreeMap<(u64, JobId), u32>,
    consecutive: u32,
    cooled_until: Timestamp,
    score: Score,
    /// The epoch of the newest audit in its score.
    scored: u64,
    /// What it said as an auditor and cannot have seen.
    errors: u32,
    /// The epoch of the newest error.
    erred: u64,
}

impl Standing {
    /// Operator fees of its upheld proofs in the epochs that count.
    pub fn fee(&self) -> MicroUsdc {
        MicroUsdc(self.fees.values().fold(0, |sum, fee| sum.saturating_add(fee.0)))
    }

    /// Its losses in the epochs that count, in halves.
    pub fn loss_halves(&self) -> u32 {
        self.losses.values().fold(0, |sum, halves| sum.saturating_add(*halves))
    }

    /// Its weight in the next roster: the least once its score condemns it.
    pub fn weight(&self, posted: &Posted) -> u32 {
        if self.is_condemned() {
            return 1;
        }
        weight(self.fee(), posted.fee_unit, self.loss_halves())
    }

    /// Whether it is established.
    pub fn is_established(&self, posted: &Posted) -> bool {
        self.fee() >= posted.established && !self.is_condemned() && !self.is_careless()
    }

    /// Until when it may not claim.
    pub fn cooled_until(&self) -> Timestamp {
        self.cooled_until
    }

    /// Whether too many of its audited proofs differed.
    pub fn is_condemned(&self) -> bool {
        self.score.is_condemned()
    }

    /// Whether it made too many errors as an auditor.
    pub fn is_careless(&self) -> bool {
        self.errors >= CARELESS_ERRORS
    }

    /// An audit shows that it has erred, or that it had not.
    pub(super) fn judge_auditor(&mut self, epoch: u64, erred: bool) {
        if erred {
            (self.errors, self.erred) = (self.errors.saturating_add(1), epoch);
        } else {
            self.errors = self.errors.saturating_sub(1);
        }
    }

    pub(super) fn audited(&mut self, epoch: u64, differs: bool) {
        self.score.note(differs);
        self.scored = epoch;
    }

    pub(super) fn earn(&mut self, epoch: u64, fee: MicroUsdc) {
        let sum = self.fees.entry(epoch).or_default();
        *sum = MicroUsdc(sum.0.saturating_add(fee.0));
        self.consecutive = 0;
    }

    /// A proof of that epoch was overturned: its fee counts no more.
    pub(super) fn unearn(&mut self, epoch: u64, fee: MicroUsdc) {
        if let Some(sum) = self.fees.get_mut(&epoch) {
            *sum = sum.saturating_sub(fee);
        }
    }

    pub(super) fn lose(&mut self, epoch: u64, job: JobId, halves: u32, at: Timestamp, posted: &Posted) {
        if halves == 0 {
            return;
        }
        *self.losses.entry((epoch, job)).or_default() += halves;
        if halves >= 2 {
            self.consecutive = self.consecutive.saturating_add(1);
            self.cooled_until = self.cooled_until.max(at + cooldown(posted, self.consecutive));
        }
    }

    pub(super) fn forgive(&mut self, job: &JobId) {
        self.losses.retain(|(_, lost), _| lost != job);
    }

    /// Forgets what no longer counts once `epoch` is over; false if nothing is left.
    pub(super) fn age(&mut self, epoch: u64, now: Timestamp) -> bool {
        self.fees.retain(|e, _| e + REPUTATION_EPOCHS > epoch);
        self.losses.retain(|(e, _), _| e + LOSS_EPOCHS > epoch);
        if self.scored + REPUTATION_EPOCHS <= epoch {
            self.score = Score::default();
        }
        if self.erred + REPUTATION_EPOCHS <= epoch {
            self.errors = 0;
        }
        let judged = self.score.has_missed() || self.errors > 0;
        let counts = !self.fees.is_empty() || !self.losses.is_empty() || judged;
        counts || self.cooled_until > now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_errors_make_careless_until_they_are_as_old_as_a_reputation() {
        let posted = Posted { established: MicroUsdc(0), ..Posted::default() };
        let mut standing = Standing::default();
        let mut judge = |epoch, erred| {
            standing.judge_auditor(epoch, erred);
            (standing.is_careless(), standing.is_established(&posted))
        };
        let (fine, careless) = ((false, true), (true, false));
        let table = [(3, true, fine), (4, true, careless), (5, false, fine), (6, true, careless)];
        for (epoch, erred, due) in table {
            assert_eq!(judge(epoch, erred), due, "{epoch}");
        }
        assert_eq!(standing.weight(&posted), 1);
        assert!(standing.age(6 + REPUTATION_EPOCHS - 1, Timestamp(0)) && standing.is_careless());
        assert!(!standing.age(6 + REPUTATION_EPOCHS, Timestamp(0)) && standing.is_established(&posted));
    }
}
