//! What the pool's tree says of the pool: always from the durable record.

use super::state::FORGOTTEN_AT_ONCE;
use super::{Close, EpochHeader, JobEntry, Pool, PoolEffect, Record, Stage, State};
use crate::Timestamp;
use crate::codec::{JobId, Link};
use crate::money::Account;
use crate::tree::{AcceptedProof, Change, Changes, Entry, MinerAccount, Place, Summary};
use std::collections::BTreeSet;
use swarm_crypto::address::Address;

/// What records have changed since the last changes were taken.
#[derive(Debug, Default)]
pub(super) struct Touched {
    any: bool,
    jobs: BTreeSet<JobId>,
    miners: BTreeSet<Address>,
    forgotten: Vec<Link>,
    headers: Vec<Change>,
}

impl Touched {
    /// Notes what a record is about to change.
    pub fn note(&mut self, state: &State, at: Timestamp, record: &Record) {
        self.any = true;
        let opened_at = if matches!(record, Record::Boundary(_)) { at } else { state.epoch.opened_at };
        self.forgotten.extend(state.forgotten_next(opened_at));
        match record {
            Record::Genesis(_)
            | Record::Credited { .. }
            | Record::Deposited { .. }
            | Record::DepositUndone { .. }
            | Record::ReserveFunded { .. }
            | Record::ChallengeReturned { .. }
            | Record::Challenged { .. }
            | Record::AuditPicked { .. }
            | Record::Attested { .. }
            | Record::Bound { .. } => {}
            Record::AuditPaid { auditor, .. } => _ = self.miners.insert(*auditor),
            Record::AuditClosed { leaf, .. } | Record::Overturned { leaf } => {
                self.miners.insert(state.leaf(*leaf).wallet);
                let seats = state.audit(*leaf).into_iter().flat_map(|audit| &audit.seats);
                self.miners.extend(seats.map(|seat| seat.auditor));
            }
            Record::Admitted { job, .. } => _ = self.jobs.insert(job.id()),
            Record::Leased { job, .. } => _ = self.jobs.insert(*job),
            Record::LeaseEnded { job, .. } => {
                self.jobs.insert(*job);
                if let Stage::Leased(granted) = &state.jobs[job].stage {
                    self.miners.insert(granted.wallet);
                }
            }
            Record::Accepted { job, lease, .. } => {
                self.jobs.insert(*job);
                self.miners.extend(state.jobs[job].holder(lease));
            }
            Record::Closed { job, end } => {
                self.jobs.insert(*job);
                if *end == Close::Unrunnable {
                    self.miners.extend(state.jobs[job].barred.iter().map(|(wallet, _)| *wallet));
                }
            }
            Record::Boundary(boundary) => {
                self.miners.extend(state.miners());
                self.miners.extend(boundary.roster.0.iter().map(|entry| entry.wallet));
            }
            Record::HeaderFixed { .. } => {
                self.headers.extend(state.sealing.iter().map(|sealing| header_change(&sealing.header)));
            }
        }
    }
}

impl Pool {
    /// What the tree of this pool holds, but for the headers of epochs before the last sealed one.
    pub fn tree(&self) -> impl Iterator<Item = Change> {
        let jobs = self.state.jobs().flat_map(|(id, entry)| job_changes(id, Some(entry)));
        let miners = self.state.miners().map(|wallet| self.state.miner_change(wallet));
        jobs.chain(miners)
            .chain(self.state.sealed.iter().map(|sealed| header_change(&sealed.header)))
            .filter(|change| change.entry.is_some())
    }

    /// The pool in figures.
    pub fn summary(&self) -> Summary {
        let (state, epoch) = (&self.state, &self.state.epoch);
        Summary {
            name: state.genesis.name.clone(),
            pool: state.pool,
            operator: state.genesis.operator,
            asset: state.genesis.asset.clone(),
            records: state.seq,
            head: state.head,
            epoch: epoch.number,
            opened_at: epoch.opened_at,
            counts: epoch.counts,
            volume: epoch.volume,
            pending: self.live.pending,
            leased: self.live.leased,
            header: state.last_header.map(|(_, header)| header),
            posted: state.posted.clone(),
        }
    }

    pub(super) fn tree_effect(&mut self) -> Option<PoolEffect> {
        let touched = std::mem::take(&mut self.touched);
        if !touched.any {
            return None;
        }
        let gone = touched.forgotten.iter().map(|proof| change(Place::Proofs, proof, None));
        let jobs = touched.jobs.iter().flat_map(|id| job_changes(id, self.state.job(id)));
        let miners = touched.miners.iter().map(|wallet| self.state.miner_change(*wallet));
        // A job that was accepted and forgotten in one turn is gone: what is forgotten comes last.
        let changes = jobs.chain(gone).chain(miners).chain(touched.headers).collect();
        Some(PoolEffect::Tree(Box::new(Changes { changes, summary: self.summary() })))
    }
}

fn change(place: Place, name: impl ToString, entry: Option<Entry>) -> Change {
    Change { place, name: name.to_string(), entry }
}

/// A job is in one folder at most, and its proof in another.
fn job_changes(id: &JobId, entry: Option<&JobEntry>) -> impl Iterator<Item = Change> + use<> {
    let signed = entry.and_then(|entry| entry.signed.clone());
    let (mut pending, mut claimed, mut proof) = (None, None, None);
    if let Some(entry) = entry {
        match &entry.stage {
            Stage::Pending => pending = signed.map(Entry::Job),
            Stage::Leased(granted) => claimed = signed.map(|job| Entry::Lease(job, (**granted).clone())),
            Stage::Accepted(accepted) => {
                let about = AcceptedProof::of(id, entry.price, accepted);
                proof = Some(change(Place::Proofs, accepted.proof, Some(Entry::Proof(Box::new(about)))));
            }
            Stage::Expired | Stage::Cancelled | Stage::Unrunnable => {}
        }
    }
    [change(Place::Pending, id, pending), change(Place::Claimed, id, claimed)].into_iter().chain(proof)
}

fn header_change(header: &EpochHeader) -> Change {
    let block = header.encode();
    let entry = Entry::Header(Link::of(&block), block.len() as u64);
    change(Place::Epochs, header.epoch, Some(entry))
}

impl State {
    /// Wallets on the open epoch's roster, and those with a standing.
    fn miners(&self) -> impl Iterator<Item = Address> {
        let roster = self.rosters[&self.epoch.number].0.0.iter().map(|entry| entry.wallet);
        let standing = |wallet: &&Address| self.rosters[&self.epoch.number].0.get(wallet).is_none();
        roster.chain(self.standings.keys().filter(standing).copied())
    }

    fn miner_change(&self, wallet: Address) -> Change {
        let roster = self.rosters[&self.epoch.number].0.get(&wallet).cloned();
        let standing = self.standings.get(&wallet);
        let known = roster.is_some() || standing.is_some();
        let account = || MinerAccount {
            wallet,
            roster,
            fee168: standing.map(|s| s.fee()).unwrap_or_default(),
            loss24: standing.map_or(0, |s| s.loss_halves()),
            cooled_until: standing.map(|s| s.cooled_until()).unwrap_or_default(),
            held: self.accounts.amount(&Account::MinerHeld(wallet)),
            payable: self.accounts.amount(&Account::MinerPayable(wallet)),
        };
        change(Place::Miners, wallet, known.then(|| Entry::Miner(Box::new(account()))))
    }

    /// The accepted proofs of the jobs that the next record forgets, where that epoch will be open.
    fn forgotten_next(&self, opened_at: Timestamp) -> impl Iterator<Item = Link> {
        let due = self.forget.iter().take_while(move |(forget_at, _)| *forget_at < opened_at);
        due.take(FORGOTTEN_AT_ONCE).filter_map(|(_, id)| match &self.jobs[id].stage {
            Stage::Accepted(accepted) => Some(accepted.proof),
            Stage::Pending | Stage::Leased(_) | Stage::Expired | Stage::Cancelled | Stage::Unrunnable => None,
        })
    }
}
