use super::audits::{self, Audit, Audits};
use super::jobs::{Attempt, JobFacts, Stage};
use super::pps::Pps;
use super::{Facts, Law, Truth, must};
use crate::mint::Mint;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Context, Digest, derive, keyed};
use swarm_protocol::codec::{JobId, Link, encode};
use swarm_protocol::money::{Account, MicroUsdc, Transfer};
use swarm_protocol::pool::{Close, Counts, Entry, EpochHeader, Record};
use swarm_protocol::race::Roster;
use swarm_protocol::statement::{Body, MAX_JOB_LIFE, Nonce, Signed, Statement};
use swarm_protocol::{Posted, Timestamp};

/// The ledger, read row by row with rules of its own.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) truth: Truth,
    pub(crate) seq: u64,
    pub(crate) head: Digest,
    pub(crate) posted: Posted,
    pub(crate) balances: BTreeMap<Account, i128>,
    pub(crate) jobs: BTreeMap<JobId, JobFacts>,
    nonces: BTreeMap<(Address, Nonce), (JobId, Timestamp)>,
    credited: BTreeSet<Address>,
    pub(crate) epoch: Epoch,
    /// By epoch.
    pub(crate) rosters: Vec<Roster>,
    pub(crate) wallets: BTreeMap<Address, Wallet>,
    pub(crate) held: BTreeMap<u64, Held>,
    pub(crate) audits: Audits,
    pub(crate) pps: Pps,
    pub(crate) payouts: BTreeMap<Address, u128>,
    pub(crate) debits: BTreeMap<Address, u128>,
    pub(crate) sealing: Option<EpochHeader>,
    pub(crate) headers: BTreeMap<u64, (EpochHeader, Link, u64)>,
    names: BTreeMap<String, (Address, bool)>,
}

#[derive(Debug, Default)]
pub(crate) struct Epoch {
    pub(crate) number: u64,
    /// The row that opened it.
    pub(crate) opened: u64,
    pub(crate) first_seq: u64,
    pub(crate) opened_at: Timestamp,
    pub(crate) counts: Counts,
    pub(crate) volume: u64,
    pub(crate) leaves: Vec<Digest>,
    /// Each row with the chain hash before it.
    pub(crate) rows: Vec<(Digest, Vec<u8>)>,
    /// Hashes of the rows of audits.
    pub(crate) audits: Vec<Digest>,
    pub(crate) unserved: u64,
}

/// What an epoch accepted, and what was paid to auditors in it.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) accepted: Vec<Acceptance>,
    pub(crate) audit_pay: BTreeMap<Address, u64>,
    pub(crate) challenge_debits: BTreeMap<Address, u64>,
    pub(crate) scaled: bool,
    /// Once it is revealed, where audits are posted.
    pub(crate) secret: Option<Digest>,
    pub(crate) rate: u32,
}

#[derive(Debug)]
pub(crate) struct Acceptance {
    pub(crate) job: JobId,
    pub(crate) client: Address,
    pub(crate) wallet: Address,
    pub(crate) model: String,
    pub(crate) lease: Digest,
    pub(crate) price: u64,
    pub(crate) miner: u64,
    pub(crate) operator: u64,
    pub(crate) units: u64,
    pub(crate) by_share: bool,
    pub(crate) credited: u64,
    pub(crate) stands: bool,
    pub(crate) released: bool,
    pub(crate) audit: Option<Audit>,
}

impl Acceptance {
    /// Its money waits for an audit.
    pub(crate) fn waits(&self) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.open)
    }
}

/// From, to, how much.
pub(crate) type Posting = (Account, Account, u64);

#[derive(Debug, Default)]
pub(crate) struct Wallet {
    pub(crate) fees: BTreeMap<u64, u64>,
    pub(crate) losses: Vec<(u64, JobId, u32)>,
    pub(crate) last_loss_at: Option<Timestamp>,
}

impl Book {
    pub(crate) fn new(truth: Truth) -> Self {
        Self {
            seq: 0,
            head: Digest::ZERO,
            posted: truth.posted.clone(),
            balances: BTreeMap::new(),
            jobs: BTreeMap::new(),
            nonces: BTreeMap::new(),
            credited: BTreeSet::new(),
            epoch: Epoch::default(),
            rosters: vec![Roster::default()],
            wallets: BTreeMap::new(),
            held: BTreeMap::new(),
            audits: Audits::default(),
            pps: Pps::default(),
            payouts: BTreeMap::new(),
            debits: BTreeMap::new(),
            sealing: None,
            headers: BTreeMap::new(),
            names: BTreeMap::new(),
            truth,
        }
    }

    /// The next row; `facts` are what this life of the operator knows, none when old rows are read again.
    pub(crate) fn apply(&mut self, row: &[u8], mint: &Mint, facts: Option<&Facts>) -> Law {
        let entry = Entry::decode(row).map_err(|e| format!("row {} is unreadable: {e}", self.seq))?;
        self.epoch.rows.push((self.head, row.to_vec()));
        self.head = derive(Context::Ledger, &[self.head.as_bytes(), row].concat());
        let Entry { at, record, transfers } = &entry;
        let first = matches!(record, Record::Genesis(_));
        must!(first == (self.seq == 0), "row {} is {record:?}", self.seq);
        self.must_be_due(record)?;
        match record {
            Record::Genesis(genesis) => {
                must!(genesis.operator == self.truth.operator, "a genesis of {}", genesis.operator);
                self.epoch.opened_at = *at;
                self.pays(transfers, &[])?;
            }
            Record::Credited { client } => {
                must!(self.credited.insert(*client), "{client} is credited twice");
                let credit = self.posted.test_credit.0;
                self.pays(transfers, &[(Account::Outside, Account::ClientFree(*client), credit)])?;
            }
            Record::ReserveFunded { amount } => {
                let operator = self.truth.operator;
                self.pps.funded += amount.0;
                must!(
                    self.pps.funded <= self.truth.reserve,
                    "the reserve is funded with {}",
                    self.pps.funded
                );
                *self.debits.entry(operator).or_default() += u128::from(amount.0);
                self.pays(transfers, &[(Account::ClientFree(operator), Account::Reserve, amount.0)])?;
            }
            Record::Deposited { .. } | Record::DepositUndone { .. } => {
                return Err(format!("nobody asked for {record:?}"));
            }
            Record::AuditPicked { .. }
            | Record::Attested { .. }
            | Record::AuditClosed { .. }
            | Record::AuditPaid { .. }
            | Record::Challenged { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. } => {
                self.epoch.audits.push(derive(Context::Leaf, row));
                let due = self.audit(record, mint)?;
                self.pays(transfers, &due)?;
            }
            Record::Admitted { job, seed } => self.admitted(job, *seed, *at, transfers, mint)?,
            Record::Bound { name, wallet, confirmed } => {
                self.pays(transfers, &[])?;
                if let Some((bound, sure)) = self.names.insert(name.clone(), (*wallet, *confirmed)) {
                    let may = bound == *wallet || (*confirmed && !sure);
                    must!(may, "name {name} moves from {bound} to {wallet}");
                }
            }
            Record::Leased { job, term, wallet, window, claims, until } => {
                self.pays(transfers, &[])?;
                self.leased(*job, (*term, *wallet), *window, *until, claims, *at, mint, facts)?;
            }
            Record::LeaseEnded { job, cause, seed } => {
                self.pays(transfers, &[])?;
                self.lease_ended(job, *cause, *seed, *at, facts)?;
            }
            Record::Accepted { job, lease, proof, units } => {
                let paid = self.accepted(job, lease, proof, *units, mint, facts)?;
                self.pays(transfers, &paid)?;
            }
            Record::Closed { job, end } => {
                let refund = self.closed(job, end, *at, mint)?;
                self.pays(transfers, &[refund])?;
            }
            Record::Boundary(boundary) => self.boundary(boundary, *at, transfers)?,
            Record::HeaderFixed { epoch, header } => {
                self.pays(transfers, &[])?;
                self.header_fixed(*epoch, *header)?;
            }
        }
        self.seq += 1;
        self.reservations()
    }

    /// What a row of an audit moves.
    fn audit(&mut self, record: &Record, mint: &Mint) -> Result<Vec<Posting>, String> {
        match record {
            Record::AuditPicked { leaf, auditor } => self.picked(*leaf, *auditor).map(|()| Vec::new()),
            Record::Attested { leaf, attestation } => {
                self.attested(*leaf, attestation, mint).map(|()| Vec::new())
            }
            Record::AuditClosed { leaf, end } => self.audit_closed(*leaf, *end).map(|()| Vec::new()),
            Record::AuditPaid { leaf, auditor, amount } => self.audit_paid(*leaf, *auditor, amount.0),
            Record::Challenged { leaf, challenge, challenger, auditor, amount } => {
                self.challenged(*leaf, challenge, (*challenger, *auditor, amount.0), mint)
            }
            Record::ChallengeReturned { leaf, challenger, amount } => {
                self.challenge_returned(*leaf, *challenger, amount.0)
            }
            Record::Overturned { leaf } => self.overturned(*leaf),
            other => Err(format!("{other:?} is no row of an audit")),
        }
    }

    /// Moves the money, which must be exactly what is due.
    pub(crate) fn pays(&mut self, transfers: &[Transfer], due: &[(Account, Account, u64)]) -> Law {
        let sorted = |mut list: Vec<(Account, Account, u64)>| {
            list.retain(|(_, _, amount)| *amount > 0);
            list.sort();
            list
        };
        let paid = sorted(transfers.iter().map(|t| (t.from, t.to, t.amount.0)).collect());
        must!(paid == sorted(due.to_vec()), "row {} moves {paid:?} where {due:?} is due", self.seq);
        for (from, to, amount) in paid {
            *self.balances.entry(from).or_default() -= i128::from(amount);
            *self.balances.entry(to).or_default() += i128::from(amount);
            let left = self.balances[&from];
            let may_owe = matches!(from, Account::Outside | Account::Shortfall);
            must!(left >= 0 || may_owe, "{from:?} is overdrawn by {left}");
            if let Account::MinerPayable(to) | Account::OperatorPayable(to) = to {
                *self.payouts.entry(to).or_default() += u128::from(amount);
            }
        }
        self.balances.retain(|_, balance| *balance != 0);
        let total: i128 = self.balances.values().sum();
        must!(total == 0, "money is made or lost: {total}");
        Ok(())
    }

    /// What is reserved is what open jobs cost, and challenges whose auditors have not opened.
    fn reservations(&self) -> Law {
        let mut open: BTreeMap<Account, i128> = BTreeMap::new();
        for job in self.jobs.values().filter(|job| !job.stage.is_terminal()) {
            *open.entry(Account::ClientReserved(job.client)).or_default() += i128::from(job.body.price.0);
        }
        for accepted in self.held.values().flat_map(|held| &held.accepted) {
            for challenger in accepted.audit.iter().flat_map(Audit::reserved) {
                let price = i128::from(audits::price(accepted.price));
                *open.entry(Account::ClientReserved(challenger)).or_default() += price;
            }
        }
        let reserved = self.balances.iter().filter(|(a, _)| matches!(a, Account::ClientReserved(_)));
        let reserved: BTreeMap<Account, i128> = reserved.map(|(a, b)| (*a, *b)).collect();
        must!(open == reserved, "reserved is {reserved:?}, open jobs cost {open:?}");
        Ok(())
    }

    fn admitted(
        &mut self,
        signed: &Signed,
        seed: Digest,
        at: Timestamp,
        transfers: &[Transfer],
        mint: &Mint,
    ) -> Law {
        let (id, statement) = genuine(signed, mint)?;
        let Body::Job(body) = statement.body else { return Err(format!("{id} is no job")) };
        let header = statement.header;
        must!(!self.jobs.contains_key(&id), "job {id} is admitted twice");
        must!(body.not_after > at, "job {id} is admitted after its time");
        must!(body.not_after <= header.at + MAX_JOB_LIFE, "job {id} lives longer than a day");
        must!(body.price.0 >= 4, "job {id} costs {}", body.price);
        let open = self.jobs.values().filter(|j| j.client == header.by && !j.stage.is_terminal()).count();
        must!(open < self.posted.max_open_jobs as usize, "{} has {open} open jobs", header.by);
        let job = JobFacts {
            client: header.by,
            nonce: header.nonce,
            body,
            seq: self.seq,
            stage: Stage::Pending,
            attempts: Vec::new(),
        };
        let until = job.last_valid_at(header.at);
        if let Some((other, valid)) = self.nonces.insert((header.by, job.nonce), (id, until)) {
            must!(valid < at, "one nonce for {other}, valid until {valid:?}, and {id}");
        }
        let price = job.body.price.0;
        let (free, reserved) = (Account::ClientFree(header.by), Account::ClientReserved(header.by));
        self.pays(transfers, &[(free, reserved, price)])?;
        self.jobs.insert(id, job);
        self.epoch.counts.admitted += 1;
        self.listed(id, seed, at)
    }

    /// A new attempt at a job begins.
    pub(crate) fn listed(&mut self, id: JobId, seed: Digest, at: Timestamp) -> Law {
        let (epoch, secret) = (self.epoch.number, self.epoch_secret(self.epoch.number));
        let job = self.jobs.get_mut(&id).expect("a listed job is known");
        let attempt = u32::try_from(job.attempts.len() + 1).expect("few attempts");
        let due = keyed(secret.as_bytes(), &encode(&(id, attempt)));
        must!(seed == due, "attempt {attempt} at {id} has seed {seed}, {due} is due");
        job.attempts.push(Attempt { seed, epoch, listed_at: at, seq: self.seq, lease: None });
        Ok(())
    }

    pub(crate) fn epoch_secret(&self, epoch: u64) -> Digest {
        keyed(&self.truth.secret, &encode(&(self.truth.pool, epoch)))
    }

    fn closed(
        &mut self,
        id: &JobId,
        end: &Close,
        at: Timestamp,
        mint: &Mint,
    ) -> Result<(Account, Account, u64), String> {
        let unrunnable = self.is_unrunnable(id);
        let seq = self.seq;
        let job = self.jobs.get_mut(id).ok_or_else(|| format!("unknown job {id} is closed"))?;
        must!(matches!(job.stage, Stage::Pending), "job {id} is closed while {:?}", job.stage);
        let counts = &mut self.epoch.counts;
        let (stage, count) = match end {
            Close::Expired => {
                must!(job.body.not_after <= at, "job {id} expires before its time");
                (Stage::Expired(seq), &mut counts.expired)
            }
            Close::Cancelled(signed) => {
                let (_, statement) = genuine(signed, mint)?;
                let right = matches!(&statement.body, Body::Cancel(cancel) if cancel.job == *id);
                must!(right && statement.header.by == job.client, "job {id} is cancelled by {statement:?}");
                (Stage::Cancelled(seq), &mut counts.cancelled)
            }
            Close::Unrunnable => {
                must!(unrunnable, "job {id} is called unrunnable");
                (Stage::Unrunnable(seq), &mut counts.unrunnable)
            }
        };
        job.stage = stage;
        *count += 1;
        let (client, price) = (job.client, job.body.price.0);
        if *end == Close::Unrunnable {
            self.wallets.values_mut().for_each(|wallet| wallet.losses.retain(|(_, job, _)| job != id));
        }
        Ok((Account::ClientReserved(client), Account::ClientFree(client), price))
    }
}

/// A statement that was really signed by the wallet that it names, for this pool.
pub(crate) fn genuine(signed: &Signed, mint: &Mint) -> Result<(Link, Statement), String> {
    let statement = Statement::decode(&signed.payload).map_err(|e| format!("a row holds bad bytes: {e}"))?;
    must!(mint.is_genuine(&signed.encode()), "a row holds what nobody said to this pool: {statement:?}");
    Ok((signed.id(), statement))
}

/// ⌊3/4⌋ of a price, and the rest.
pub(crate) fn split(price: MicroUsdc) -> (u64, u64) {
    let miner = price.0 / 4 * 3 + price.0 % 4 * 3 / 4;
    (miner, price.0 - miner)
}
