//! Recomputing a pool from what it published, without trusting whoever published it.
//!
//! A [`Verifier`] reads the epochs from the genesis on: each header, then its record pages. Every row must follow from
//! the rows before by the rules ([`rules`](self), one check for each kind of record), move exactly the money that is
//! due, and all of them together must give the header to the byte. The state between rows is the operator's own fold;
//! what may be folded is decided here.

mod fault;
mod proven;
mod rules;

pub use fault::{Fault, Subject, Wrong};
pub use proven::Proven;

use super::record_page::{RecordReader, Row};
use super::{
    Entry, EpochHeader, HELD_EPOCHS, JobEntry, Record, SETTLEMENT_BEFORE, SETTLEMENT_VERSION, Stage, State,
};
use crate::Timestamp;
use crate::codec::{JobId, Link};
use crate::money::{Account, Accounts, Transfer};
use crate::race;
use crate::statement::{Body, Job, Proof, Receipt, Signed, Statement};
use fault::{row_fault, wrong_unless};
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_crypto::keyring::Keyring;

/// What was checked, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Epochs whose header follows from their records.
    pub epochs: u64,
    /// Records.
    pub records: u64,
    /// Signatures of clients and miners.
    pub signatures: u64,
    /// Draws of claims that leases name.
    pub draws: u64,
    /// Seeds of races, against the secrets revealed.
    pub seeds: u64,
    /// Leases.
    pub leases: u64,
    /// Acceptances.
    pub acceptances: u64,
    /// Movements of money.
    pub transfers: u64,
    /// Wallets in rosters.
    pub rostered: u64,
    /// Records of audits.
    pub audits: u64,
    /// Deposits, for which these files hold no evidence.
    pub unproven: u64,
}

/// An acceptance whose answer can be checked by whoever has its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The record.
    pub seq: u64,
    /// The job's id.
    pub id: JobId,
    /// The job.
    pub job: Job,
    /// The proof.
    pub proof: Proof,
    /// The work units recorded.
    pub units: u64,
}

/// Money of a watched wallet that a record moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// The record.
    pub seq: u64,
    /// When, by the operator's clock.
    pub at: Timestamp,
    /// In which epoch.
    pub epoch: u64,
    /// What kind of record.
    pub record: &'static str,
    /// The job that it is about, if it is about one.
    pub job: Option<JobId>,
    /// What moved.
    pub transfer: Transfer,
}

/// A pool that is being recomputed.
#[derive(Debug, Default)]
pub struct Verifier {
    state: Option<State>,
    keyring: Keyring,
    proven: Proven,
    tally: Tally,
    open: Option<Open>,
    /// The header before.
    previous: Option<(EpochHeader, Link)>,
    /// Seeds of the open epoch, whose secret is not known yet.
    seeds: Vec<(u64, JobId, u32, Digest)>,
    answers: bool,
    accepted: Vec<Accepted>,
    /// Live leases by wallet.
    holders: BTreeMap<Address, u32>,
    watched: Option<Address>,
    movements: Vec<Movement>,
}

/// The epoch in hand.
#[derive(Debug)]
struct Open {
    header: EpochHeader,
    link: Link,
    reader: RecordReader,
    pages: usize,
}

impl Verifier {
    /// A verifier that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A verifier that notes what moves a wallet's money.
    pub fn watching(wallet: Address) -> Self {
        Self { watched: Some(wallet), ..Self::default() }
    }

    /// It also keeps what is accepted, for [`Verifier::take_accepted`].
    pub fn with_answers(self) -> Self {
        Self { answers: true, ..self }
    }

    /// The next epoch's header; the epochs are read from the genesis on.
    pub fn begin(&mut self, block: &[u8]) -> Result<(), Fault> {
        let epoch = self.previous.as_ref().map_or(0, |(header, _)| header.epoch + 1);
        let fault = |wrong| Fault { epoch, subject: Subject::Header, wrong };
        let header: EpochHeader =
            crate::codec::decode(block).map_err(|e| fault(Wrong::Unreadable(e.to_string())))?;
        let before = self.previous.as_ref();
        let (seq, head) =
            before.map_or((0, Digest::ZERO), |(header, _)| (header.end_seq + 1, header.range_hash));
        let follows = header.epoch == epoch
            && header.previous == before.map(|(_, link)| *link)
            && header.first_seq == seq
            && self.open.is_none();
        wrong_unless(follows, || Wrong::Chain).map_err(fault)?;
        let least = before.map_or(SETTLEMENT_BEFORE, |(header, _)| header.settlement);
        let known = (least..=SETTLEMENT_VERSION).contains(&header.settlement);
        wrong_unless(known, || Wrong::Settlement(header.settlement)).map_err(fault)?;
        let reader = RecordReader::new(seq, head);
        self.open = Some(Open { header, link: Link::of(block), reader, pages: 0 });
        Ok(())
    }

    /// The next record page of the epoch in hand.
    pub fn page(&mut self, block: &[u8]) -> Result<(), Fault> {
        let open = self.open.as_mut().expect("an epoch was begun");
        let (epoch, number) = (open.header.epoch, open.pages);
        open.pages += 1;
        let fault = |wrong| Fault { epoch, subject: Subject::Page(number as u64), wrong };
        let named = open.header.record_pages.get(number) == Some(&Link::of(block));
        wrong_unless(named, || Wrong::OtherPage).map_err(fault)?;
        let rows = open.reader.supply(block).map_err(|e| fault(Wrong::Unreadable(e.to_string())))?;
        rows.iter().try_for_each(|row| self.row(epoch, row))
    }

    /// The same, with statements of that page that were checked ahead of it, on another thread perhaps.
    pub fn page_with(&mut self, block: &[u8], proven: Proven) -> Result<(), Fault> {
        self.proven = proven;
        let read = self.page(block);
        self.proven = Proven::default();
        read
    }

    /// All pages of the epoch in hand were read: it must end there, as its header says.
    pub fn finish(&mut self) -> Result<(), Fault> {
        let Open { header, link, reader, pages } = self.open.take().expect("an epoch was begun");
        let epoch = header.epoch;
        let fault = |wrong| Fault { epoch, subject: Subject::Header, wrong };
        wrong_unless(pages == header.record_pages.len(), || Wrong::OtherPage).map_err(fault)?;
        let (last, ..) = reader.finish().map_err(|e| fault(Wrong::Unreadable(e.to_string())))?;
        let boundary = matches!(last.as_ref().map(|row| &row.entry.record), Some(Record::Boundary(_)));
        wrong_unless(boundary, || Wrong::NoBoundary).map_err(fault)?;
        last.iter().try_for_each(|row| self.row(epoch, row))?;
        let state = self.state.as_ref().expect("a boundary follows a genesis");
        wrong_unless(state.accounts().total() == 0, || Wrong::Transfers).map_err(fault)?;
        let sealing = state.sealing.as_ref().expect("a boundary was just applied");
        match fault::difference(&sealing.header, &header) {
            None => {}
            Some(field) => return Err(fault(Wrong::Header(field))),
        }
        self.tally.epochs += 1;
        self.previous = Some((header, link));
        Ok(())
    }

    /// What was checked so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The pool as of the last epoch read; none before the first.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The last epoch read, and its header's link.
    pub fn header(&self) -> Option<(&EpochHeader, Link)> {
        self.previous.as_ref().map(|(header, link)| (header, *link))
    }

    /// The acceptances read since they were last taken, for whoever checks their answers and said so.
    pub fn take_accepted(&mut self) -> Vec<Accepted> {
        std::mem::take(&mut self.accepted)
    }

    /// What moved the watched wallet's money since this was last asked.
    pub fn take_movements(&mut self) -> Vec<Movement> {
        std::mem::take(&mut self.movements)
    }

    /// Whether a receipt says what the pool's records say; it can be asked once its epoch was read, until
    /// [`HELD_EPOCHS`] later.
    pub fn receipt(&self, receipt: &Receipt) -> Result<(), Fault> {
        let fault = |wrong| Err(Fault { epoch: receipt.epoch, subject: Subject::Receipt, wrong });
        let read = self.previous.as_ref().is_some_and(|(header, _)| {
            (header.epoch.saturating_sub(HELD_EPOCHS)..=header.epoch).contains(&receipt.epoch)
        });
        let Some(state) = self.state.as_ref().filter(|_| read) else { return fault(Wrong::OtherEpoch) };
        match state.receipt(&receipt.job) {
            None => fault(Wrong::NotAccepted),
            Some(due) => match fault::receipt_difference(&due, receipt) {
                None => Ok(()),
                Some(field) => fault(Wrong::Receipt(field)),
            },
        }
    }

    fn row(&mut self, epoch: u64, row: &Row) -> Result<(), Fault> {
        let seq = self.state.as_ref().map_or(0, State::next_seq);
        let fault = |wrong| row_fault(epoch, seq, wrong);
        let Row { entry, bytes } = row;
        match &mut self.state {
            None => {
                rules::genesis(entry).map_err(fault)?;
                self.state = Some(State::genesis(entry, bytes));
            }
            Some(state) => {
                let (keyring, proven, tally) = (&mut self.keyring, &mut self.proven, &mut self.tally);
                let mut read = rules::Reading { state, keyring, proven, tally, holders: &self.holders };
                read.check(entry).map_err(fault)?;
                let due = state.transfers(&entry.record);
                wrong_unless(entry.transfers == due, || Wrong::Transfers).map_err(fault)?;
                self.note(seq, entry).map_err(|(seq, wrong)| row_fault(epoch, seq, wrong))?;
                let state = self.state.as_mut().expect("it was there above");
                let before = sum_of_touched(state.accounts(), &entry.transfers);
                state.apply(entry, bytes);
                let after = sum_of_touched(state.accounts(), &entry.transfers);
                wrong_unless(before == after, || Wrong::Transfers).map_err(fault)?;
            }
        }
        self.watch(epoch, seq, entry);
        self.tally.records += 1;
        self.tally.audits += u64::from(entry.record.is_audit());
        self.tally.transfers += entry.transfers.len() as u64;
        Ok(())
    }

    fn watch(&mut self, epoch: u64, seq: u64, entry: &Entry) {
        let Some(wallet) = self.watched else { return };
        let is_its = |transfer: &&Transfer| {
            [transfer.from, transfer.to].iter().any(|account| account.owner() == Some(wallet))
        };
        let (at, record, job) = (entry.at, entry.record.name(), entry.record.job());
        let moved = entry.transfers.iter().filter(is_its);
        self.movements.extend(moved.map(|transfer| Movement {
            seq,
            at,
            epoch,
            record,
            job,
            transfer: *transfer,
        }));
    }

    /// Keeps what later rows, or others, are to check.
    fn note(&mut self, seq: u64, entry: &Entry) -> Result<(), (u64, Wrong)> {
        let state = self.state.as_ref().expect("only the genesis comes before");
        match &entry.record {
            Record::Admitted { job, seed } => self.seeds.push((seq, job.id(), 1, *seed)),
            Record::Leased { wallet, .. } => *self.holders.entry(*wallet).or_default() += 1,
            Record::LeaseEnded { job, seed, .. } => {
                self.seeds.push((seq, *job, state.jobs[job].attempt + 1, *seed));
                give_up(&mut self.holders, &state.jobs[job]);
            }
            Record::Accepted { job, proof, units, .. } => {
                give_up(&mut self.holders, &state.jobs[job]);
                if !self.answers {
                    return Ok(());
                }
                let signed = state.jobs[job].signed.as_ref();
                if let (Some(Body::Job(body)), Body::Proof(proof)) = (signed.map(body), body(proof)) {
                    let (id, units) = (*job, *units);
                    self.accepted.push(Accepted { seq, id, job: body, proof, units });
                }
            }
            Record::Boundary(boundary) => {
                for (seq, job, attempt, seed) in self.seeds.drain(..) {
                    let due = race::draw_seed(&boundary.secret.0, &job, attempt);
                    wrong_unless(seed == due, || Wrong::Seed).map_err(|wrong| (seq, wrong))?;
                    self.tally.seeds += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the accounts of these transfers hold together, which moving money among them does not change.
fn sum_of_touched(accounts: &Accounts, transfers: &[Transfer]) -> i128 {
    let touched: BTreeSet<Account> = transfers.iter().flat_map(|moved| [moved.from, moved.to]).collect();
    touched.iter().map(|account| accounts.balance(account)).sum()
}

/// The live lease of a job, if there is one, is about to end.
fn give_up(holders: &mut BTreeMap<Address, u32>, job: &JobEntry) {
    if let Stage::Leased(granted) = &job.stage
        && let Some(count) = holders.get_mut(&granted.wallet)
    {
        *count -= 1;
        if *count == 0 {
            holders.remove(&granted.wallet);
        }
    }
}

/// What a statement says that was decoded before.
fn body(signed: &Signed) -> Body {
    Statement::reread(&signed.payload).expect("it was decoded when its signature was checked").body
}
