use super::audit::Paying;
use super::header::{
    Counts, EpochHeader, MAX_PAGE_LEAVES, SETTLEMENT_OF_TEXT, Totals, leaf_pages, standard_root,
};
use super::held::{HELD_EPOCHS, Held, HeldLeaf, Settlement};
use super::record::{Boundary, Close, Entry, Genesis, Leaf, Record, chain_hash};
use super::record_page::RecordPages;
use super::wallet::Standing;
use crate::codec::{JobId, Link};
use crate::money::{Account, Accounts, FeeSplit, MicroUsdc};
use crate::planted::{self, Bug};
use crate::pps;
use crate::race::Roster;
use crate::statement::{
    Body, EndCause, Header, Job, JobType, Nonce, PayoutMode, PpsTerms, Proof, SKEW, Signed, Statement,
    lease_id,
};
use crate::{Posted, Timestamp, codec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::merkle::{self, Tree};

/// Finished jobs that one record forgets at most: more than it can finish, so that none pile up, and few enough that no
/// record takes long.
pub(super) const FORGOTTEN_AT_ONCE: usize = 16;

/// Everything durable about a pool: the fold of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub(super) pool: PoolId,
    pub(super) genesis: Genesis,
    /// Sequence number of the next record.
    pub(super) seq: u64,
    /// Hash of the last record.
    pub(super) head: Digest,
    pub(super) posted: Posted,
    pub(super) accounts: Accounts,
    pub(super) debits: BTreeMap<Address, u128>,
    pub(super) clients: BTreeMap<Address, Client>,
    /// Boxed, because the nodes of a large map are a third empty.
    pub(super) jobs: BTreeMap<JobId, Box<JobEntry>>,
    pub(super) nonces: BTreeSet<(Address, Nonce)>,
    pub(super) forget: BTreeSet<(Timestamp, JobId)>,
    pub(super) models: Vec<String>,
    pub(super) standings: BTreeMap<Address, Standing>,
    pub(super) names: BTreeMap<String, (Address, bool)>,
    pub(super) epoch: OpenEpoch,
    pub(super) rosters: BTreeMap<u64, (Roster, u64)>,
    pub(super) held: BTreeMap<u64, Held>,
    /// What audits ask for: no other record comes before these.
    pub(super) due: VecDeque<Record>,
    pub(super) pps: Pps,
    /// Deposits that can still be undone, by reference: in which epoch, whose, how much.
    pub(super) deposits: BTreeMap<Digest, (u64, Address, MicroUsdc)>,
    pub(super) sealing: Option<Sealing>,
    /// The epoch of the last fixed header: its blocks may not have been stored yet.
    pub(super) sealed: Option<Sealing>,
    pub(super) last_header: Option<(u64, Link)>,
}

/// The epoch that is accumulating.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenEpoch {
    /// Its number.
    pub number: u64,
    /// First record of its range.
    pub first_seq: u64,
    /// When it opened.
    pub opened_at: Timestamp,
    /// `H(s_N)`.
    pub secret_hash: Digest,
    /// The tree of its acceptances.
    pub tree: Tree,
    /// The leaf hashes of that tree.
    pub leaves: Vec<Digest>,
    /// The links of the pages of them that are full.
    pub leaf_pages: Vec<Link>,
    /// The tree of its audit records.
    pub audits: Tree,
    /// Audits that nobody served.
    pub unserved: u64,
    /// What became of jobs.
    pub counts: Counts,
    /// Σ prices of accepted jobs.
    pub volume: MicroUsdc,
    /// Its records, to be published.
    pub pages: RecordPages,
}

/// An epoch that has ended and whose header is not fixed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealing {
    /// The header to be.
    pub header: EpochHeader,
    /// The leaf hashes under its `proofs_root`.
    pub leaves: Vec<Digest>,
}

/// What pay per share rests on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pps {
    /// By index into the pool's models.
    pub models: BTreeMap<u32, pps::History>,
    /// What the operator has put into the reserve.
    pub funded: MicroUsdc,
}

/// What the ledger knows of a client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Client {
    /// Jobs open.
    pub open: u32,
}

/// A job from admission until it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEntry {
    /// The client.
    pub client: Address,
    /// The nonce of its statement, used up until it is forgotten.
    pub nonce: Nonce,
    /// The price.
    pub price: MicroUsdc,
    /// When it expires unless leased.
    pub not_after: Timestamp,
    /// Index into the pool's models.
    pub model: u32,
    /// What is to be done.
    pub job_type: JobType,
    /// The longest run, in seconds.
    pub max_runtime_s: u32,
    /// The attempt that is listed or leased.
    pub attempt: u32,
    /// Its draw seed.
    pub seed: Digest,
    /// The epoch open when it was listed.
    pub epoch: u64,
    /// When it was listed.
    pub listed_at: Timestamp,
    /// Sequence number of the record that listed it: its place in the queue.
    pub listed_seq: u64,
    /// Where it stands.
    pub stage: Stage,
    /// Wallets that may not have it again, and why.
    pub barred: Vec<(Address, EndCause)>,
    /// The lease before this attempt, if a late proof under it could still count.
    pub late: Option<Box<(Digest, Address)>>,
    /// The client's statement; dropped once the job is done.
    pub signed: Option<Signed>,
}

/// Where a job stands; it is in exactly one of these, always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Open to claims.
    Pending,
    /// One miner's.
    Leased(Box<Granted>),
    /// Answered.
    Accepted(Box<Acceptance>),
    /// Not leased in time; refunded.
    Expired,
    /// Taken back; refunded.
    Cancelled,
    /// Nobody could run it; refunded.
    Unrunnable,
}

/// A live lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Its id.
    pub lease: Digest,
    /// Its holder.
    pub wallet: Address,
    /// When it was granted.
    pub leased_at: Timestamp,
    /// The window that decided it.
    pub window: u32,
    /// When it ends at the latest.
    pub until: Timestamp,
}

/// An accepted proof's place in the ledger, all that its receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// When.
    pub at: Timestamp,
    /// In which epoch.
    pub epoch: u64,
    /// At which index.
    pub index: u64,
    /// The leaf's hash.
    pub leaf: Digest,
    /// The block of the client's snapshot of the job.
    pub asked: Link,
    /// The proof's id.
    pub proof: Link,
    /// What it says.
    pub body: Proof,
    /// Who earned.
    pub wallet: Address,
    /// Verified work units.
    pub units: u64,
    /// How the miner is paid for them.
    pub mode: PayoutMode,
    /// At which rate, in mode PPS.
    pub pps: Option<PpsTerms>,
}

impl OpenEpoch {
    /// Gives the page that this fills: so sealing costs no more than the last one.
    fn push_leaf(&mut self, leaf: Digest) -> Vec<Vec<u8>> {
        self.leaves.push(leaf);
        if !self.leaves.len().is_multiple_of(MAX_PAGE_LEAVES) {
            return Vec::new();
        }
        let full = leaf_pages(&self.leaves[self.leaves.len() - MAX_PAGE_LEAVES..]);
        self.leaf_pages.extend(full.iter().map(|page| Link::of(page)));
        full
    }

    fn leaf_links(&self) -> Vec<Link> {
        let rest = &self.leaves[self.leaf_pages.len() * MAX_PAGE_LEAVES..];
        let last = leaf_pages(rest);
        self.leaf_pages.iter().copied().chain(last.iter().map(|page| Link::of(page))).collect()
    }
}

impl Stage {
    /// True once nothing can change it any more.
    pub fn is_terminal(&self) -> bool {
        match self {
            Stage::Pending | Stage::Leased(_) => false,
            Stage::Accepted(_) | Stage::Expired | Stage::Cancelled | Stage::Unrunnable => true,
        }
    }
}

impl State {
    /// The pool after its genesis entry.
    pub fn genesis(entry: &Entry, row: &[u8]) -> Self {
        let Record::Genesis(genesis) = &entry.record else { panic!("a ledger begins with its genesis") };
        let head = chain_hash(&Digest::ZERO, row);
        let mut pages = RecordPages::new(0, Digest::ZERO);
        pages.push(row, 0, (Digest::ZERO, head));
        let epoch = OpenEpoch {
            number: 0,
            first_seq: 0,
            opened_at: entry.at,
            secret_hash: genesis.secret_hash,
            tree: Tree::new(),
            leaves: Vec::new(),
            leaf_pages: Vec::new(),
            audits: Tree::new(),
            unserved: 0,
            counts: Counts::default(),
            volume: MicroUsdc(0),
            pages,
        };
        Self {
            pool: PoolId::derive(&genesis.name, genesis.operator, 0, Address::ZERO),
            genesis: (**genesis).clone(),
            seq: 1,
            head,
            posted: genesis.posted.clone(),
            accounts: Accounts::default(),
            debits: BTreeMap::new(),
            clients: BTreeMap::new(),
            jobs: BTreeMap::new(),
            nonces: BTreeSet::new(),
            forget: BTreeSet::new(),
            models: Vec::new(),
            standings: BTreeMap::new(),
            names: BTreeMap::new(),
            epoch,
            rosters: BTreeMap::from([(0, (Roster::default(), 0))]),
            held: BTreeMap::new(),
            due: VecDeque::new(),
            pps: Pps::default(),
            deposits: BTreeMap::new(),
            sealing: None,
            sealed: None,
            last_header: None,
        }
    }

    /// Applies one entry; gives the pages of records and of leaves that it fills. Every entry was made by the rules, so a fault here is
    /// ours.
    pub fn apply(&mut self, entry: &Entry, row: &[u8]) -> Vec<Vec<u8>> {
        self.apply_with(entry, row, self.settlement_by(&entry.record))
    }

    /// The same for whoever knows what a boundary settles, which follows from the state before it.
    pub(super) fn apply_with(
        &mut self,
        entry: &Entry,
        row: &[u8],
        settlement: Option<Settlement>,
    ) -> Vec<Vec<u8>> {
        for transfer in &entry.transfers {
            self.accounts.transfer(transfer).expect("every posting is covered before it is recorded");
            if transfer.to == Account::Shortfall
                && transfer.from == Account::ClientFree(self.genesis.operator)
            {
                *self.debits.entry(self.genesis.operator).or_default() += u128::from(transfer.amount.0);
            }
        }
        let seq = self.seq;
        self.seq += 1;
        let before = self.head;
        self.head = chain_hash(&before, row);
        let mut pages = self.epoch.pages.push(row, seq, (before, self.head));
        if entry.record.is_audit() {
            self.epoch.audits.append(merkle::leaf(row));
        }
        if self.due.front() == Some(&entry.record) {
            self.due.pop_front();
        }
        match &entry.record {
            Record::Genesis(_) => panic!("a ledger has one genesis"),
            Record::Credited { client } => {
                self.clients.entry(*client).or_default();
            }
            Record::Deposited { client, amount, reference } => {
                self.clients.entry(*client).or_default();
                self.deposits.insert(*reference, (self.epoch.number, *client, *amount));
            }
            Record::DepositUndone { reference } => _ = self.deposits.remove(reference),
            Record::ReserveFunded { amount } => {
                add(&mut self.pps.funded, *amount);
                *self.debits.entry(self.genesis.operator).or_default() += u128::from(amount.0);
            }
            Record::Admitted { job, seed } => self.admit(job, *seed, seq, entry.at),
            Record::Bound { name, wallet, confirmed } => {
                self.names.insert(name.clone(), (*wallet, *confirmed));
            }
            Record::Leased { job, term, wallet, window, until, claims: _ } => {
                self.lease(job, *term, *wallet, *window, *until, entry.at);
            }
            Record::LeaseEnded { job, cause, seed } => self.end_lease(job, *cause, *seed, seq, entry.at),
            Record::Accepted { job, lease, proof, units } => {
                pages.extend(self.accept(job, lease, proof, *units, entry.at));
            }
            Record::Closed { job, end } => self.close(job, end, entry.at),
            Record::AuditPicked { leaf, auditor } => self.seat(*leaf, *auditor, None),
            Record::Attested { leaf, attestation } => self.attest(*leaf, attestation),
            Record::AuditClosed { leaf, end } => self.close_audit(*leaf, *end),
            Record::AuditPaid { leaf, auditor, amount } => self.paid_auditor(*leaf, *auditor, *amount),
            Record::Challenged { leaf, challenge, challenger, auditor, .. } => {
                self.seat(*leaf, *auditor, Some(Paying::of(*challenger, challenge.id())));
            }
            Record::ChallengeReturned { leaf, challenger, amount } => {
                self.return_challenge(*leaf, *challenger, *amount);
            }
            Record::Overturned { leaf } => self.overturn(*leaf),
            Record::Boundary(boundary) => {
                pages.push(self.epoch.pages.finish());
                self.cross(boundary, settlement.expect("a boundary settles"), seq, entry.at);
            }
            Record::HeaderFixed { epoch, header } => {
                self.sealed = self.sealing.take();
                self.last_header = Some((*epoch, *header));
                self.ask_auditors(*epoch);
            }
        }
        self.forget_finished();
        pages
    }

    fn admit(&mut self, signed: &Signed, seed: Digest, seq: u64, at: Timestamp) {
        let (header, job) = job_of(signed);
        let client = header.by;
        self.clients.entry(client).or_default().open += 1;
        self.nonces.insert((client, header.nonce));
        self.epoch.counts.admitted += 1;
        self.rosters.get_mut(&self.epoch.number).expect("the open epoch has a roster").1 += 1;
        let entry = JobEntry {
            client,
            nonce: header.nonce,
            price: job.price,
            not_after: job.last_valid_at(header.at),
            model: self.intern(&job.model),
            job_type: job.job_type,
            max_runtime_s: job.max_runtime_s,
            attempt: 1,
            seed,
            epoch: self.epoch.number,
            listed_at: at,
            listed_seq: seq,
            stage: Stage::Pending,
            barred: Vec::new(),
            late: None,
            signed: Some(signed.clone()),
        };
        self.jobs.insert(signed.id(), Box::new(entry));
    }

    fn intern(&mut self, model: &str) -> u32 {
        let index = self.models.iter().position(|known| known == model).unwrap_or_else(|| {
            self.models.push(model.to_owned());
            self.models.len() - 1
        });
        u32::try_from(index).expect("a pool knows few models")
    }

    fn lease(
        &mut self,
        id: &JobId,
        term: u32,
        wallet: Address,
        window: u32,
        until: Timestamp,
        at: Timestamp,
    ) {
        let entry = self.jobs.get_mut(id).expect("leased jobs are known");
        assert!(entry.stage == Stage::Pending && entry.attempt == term, "only a pending job is leased");
        let lease = lease_id(&self.pool, id, term, &wallet, &entry.seed);
        entry.stage = Stage::Leased(Box::new(Granted { lease, wallet, leased_at: at, window, until }));
        self.epoch.counts.leased += 1;
        if planted::is(Bug::VolumeCountsLeased) {
            self.epoch.volume = MicroUsdc(self.epoch.volume.0 + entry.price.0);
        }
    }

    fn end_lease(&mut self, id: &JobId, cause: EndCause, seed: Digest, seq: u64, at: Timestamp) {
        let epoch = self.epoch.number;
        let entry = self.jobs.get_mut(id).expect("leased jobs are known");
        let Stage::Leased(granted) = std::mem::replace(&mut entry.stage, Stage::Pending) else {
            panic!("only a lease ends")
        };
        let Granted { lease, wallet, .. } = *granted;
        entry.barred.push((wallet, cause));
        entry.late = cause.by_timeout().then(|| Box::new((lease, wallet)));
        entry.attempt += 1;
        entry.seed = seed;
        entry.listed_at = at;
        entry.listed_seq = seq;
        let old = std::mem::replace(&mut entry.epoch, epoch);
        self.standings.entry(wallet).or_default().lose(epoch, *id, cause.loss_halves(), at, &self.posted);
        self.rosters.get_mut(&epoch).expect("the open epoch has a roster").1 += 1;
        self.unlist(old);
    }

    fn unlist(&mut self, epoch: u64) {
        let roster = self.rosters.get_mut(&epoch).expect("a listing keeps its roster");
        roster.1 -= 1;
        if roster.1 == 0 && epoch != self.epoch.number && !self.held.contains_key(&epoch) {
            self.rosters.remove(&epoch);
        }
    }

    fn accept(
        &mut self,
        id: &JobId,
        lease: &Digest,
        proof: &Signed,
        units: u64,
        at: Timestamp,
    ) -> Vec<Vec<u8>> {
        let statement = Statement::reread(&proof.payload).expect("accepted proofs were decoded before");
        let Body::Proof(body) = statement.body else { panic!("only proofs are accepted") };
        let epoch = self.epoch.number;
        let entry = &self.jobs[id];
        let wallet = entry.holder(lease).expect("only a lease's proof is accepted");
        let mode = self.mode(&wallet);
        let pps = self.pps.terms(mode, entry.model, entry.price);
        let leaf = Leaf { job: *id, proof: proof.id(), wallet, price: entry.price, units, mode }.hash();
        let index = self.epoch.tree.append(leaf);
        let full = self.epoch.push_leaf(leaf);
        let (client, price, model) = (entry.client, entry.price, entry.model);
        let asked = entry.signed.as_ref().expect("an open job is kept whole");
        let asked = Link::of(&asked.encode());
        let entry = self.jobs.get_mut(id).expect("leased jobs are known");
        entry.stage = Stage::Accepted(Box::new(Acceptance {
            at,
            epoch,
            index,
            leaf,
            asked,
            proof: proof.id(),
            body,
            wallet,
            units,
            mode,
            pps,
        }));
        let split = FeeSplit::of(price);
        let leaf = HeldLeaf {
            job: *id,
            client,
            wallet,
            lease: *lease,
            price,
            units,
            model,
            mode,
            overturned: false,
        };
        let miner = self.rosters[&epoch].0.place(&wallet).unwrap_or_default();
        self.held.entry(epoch).or_default().accept(leaf, miner);
        self.standings.entry(wallet).or_default().earn(epoch, split.operator);
        self.epoch.counts.accepted += 1;
        add(&mut self.epoch.volume, price);
        self.finish(id, at);
        full
    }

    fn close(&mut self, id: &JobId, end: &Close, at: Timestamp) {
        let entry = self.jobs.get_mut(id).expect("closed jobs are known");
        assert!(entry.stage == Stage::Pending, "only a pending job is closed");
        let (stage, count) = match end {
            Close::Expired => (Stage::Expired, &mut self.epoch.counts.expired),
            Close::Cancelled(_) => (Stage::Cancelled, &mut self.epoch.counts.cancelled),
            Close::Unrunnable => (Stage::Unrunnable, &mut self.epoch.counts.unrunnable),
        };
        entry.stage = stage;
        *count += 1;
        if *end == Close::Unrunnable {
            for (wallet, _) in entry.barred.clone() {
                if let Some(standing) = self.standings.get_mut(&wallet) {
                    standing.forgive(id);
                }
            }
        }
        self.finish(id, at);
    }

    /// The job is done: its statement goes, its fate is remembered as long as its bytes could come again.
    fn finish(&mut self, id: &JobId, at: Timestamp) {
        let keep = self.posted.epoch.times(HELD_EPOCHS);
        let entry = self.jobs.get_mut(id).expect("finished jobs are known");
        entry.barred = Vec::new();
        if !planted::is(Bug::DoubleAccept) && !planted::is(Bug::CancelledAccepted) {
            (entry.late, entry.signed) = (None, None);
        }
        let forget_at = (entry.not_after + SKEW.times(2)).max(at + keep);
        let forget_at = if planted::is(Bug::ShortDedup) { at } else { forget_at };
        let (client, listed) = (entry.client, entry.epoch);
        self.forget.insert((forget_at, *id));
        let open = &mut self.clients.get_mut(&client).expect("a job's client is known").open;
        *open = open.checked_sub(1).expect("open jobs are counted");
        self.unlist(listed);
    }

    fn cross(&mut self, boundary: &Boundary, settlement: Settlement, seq: u64, at: Timestamp) {
        assert!(boundary.epoch == self.epoch.number && boundary.end_seq == seq, "boundaries are contiguous");
        assert!(self.sealing.is_none(), "a header is fixed before the next boundary");
        assert!(self.accounts.total() == 0, "money is conserved");
        self.settle(boundary.epoch, settlement);
        if boundary.settlement >= SETTLEMENT_OF_TEXT {
            self.pick(boundary, self.posted.audit_rate);
        }
        let header = self.header(boundary);
        self.sealing = Some(Sealing { header, leaves: std::mem::take(&mut self.epoch.leaves) });
        let number = boundary.epoch + 1;
        self.epoch = OpenEpoch {
            number,
            first_seq: seq + 1,
            opened_at: at,
            secret_hash: boundary.next_secret_hash,
            tree: Tree::new(),
            leaves: Vec::new(),
            leaf_pages: Vec::new(),
            audits: Tree::new(),
            unserved: 0,
            counts: Counts::default(),
            volume: MicroUsdc(0),
            pages: RecordPages::new(seq + 1, self.head),
        };
        self.posted = boundary.posted.clone();
        self.rosters.retain(|epoch, (_, listed)| *listed > 0 || self.held.contains_key(epoch));
        self.rosters.insert(number, (boundary.roster.clone(), 0));
        self.standings.retain(|_, standing| standing.age(number, at));
    }

    fn header(&self, boundary: &Boundary) -> EpochHeader {
        EpochHeader {
            pool: self.pool,
            asset: self.genesis.asset.clone(),
            epoch: boundary.epoch,
            previous: self.last_header.map(|(_, link)| link),
            first_seq: self.epoch.first_seq,
            end_seq: boundary.end_seq,
            range_hash: self.head,
            counts: self.epoch.counts,
            volume: self.epoch.volume,
            proofs_root: self.epoch.tree.root(),
            leaf_pages: self.epoch.leaf_links(),
            record_pages: self.epoch.pages.links().to_vec(),
            payouts_root: standard_root(self.accounts.payouts()),
            debits_root: standard_root(&self.debits),
            audits_root: self.epoch.audits.root(),
            totals: Totals::of(&self.accounts),
            secret: boundary.secret,
            settlement: boundary.settlement,
            pps_scaled: self.held.get(&boundary.epoch).is_some_and(|held| held.scaled),
            audits_unserved: self.epoch.unserved,
        }
    }

    /// Forgets a few of the jobs whose time was over when the open epoch began.
    fn forget_finished(&mut self) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            if !self.has_to_forget() {
                break;
            }
            let (_, id) = self.forget.pop_first().expect("there is one to forget");
            let entry = self.jobs.remove(&id).expect("a finished job is remembered until then");
            self.nonces.remove(&(entry.client, entry.nonce));
        }
    }

    /// Whether the next record makes room.
    pub(super) fn has_to_forget(&self) -> bool {
        self.forget.first().is_some_and(|(at, _)| *at < self.epoch.opened_at)
    }

    /// The checkpoint of this state: plain CBOR.
    pub fn checkpoint(&self) -> Vec<u8> {
        codec::to_row(self)
    }

    /// Reads a checkpoint.
    pub fn from_checkpoint(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::from_row(bytes)
    }
}

impl JobEntry {
    /// Its key in the queue: model and the record that listed it.
    pub(super) fn place(&self) -> (u32, u64) {
        (self.model, self.listed_seq)
    }

    /// Who may still prove the job under `lease`: its live holder, or the last one if time ended that lease.
    pub fn holder(&self, lease: &Digest) -> Option<Address> {
        match &self.stage {
            Stage::Leased(granted) if granted.lease == *lease => return Some(granted.wallet),
            Stage::Pending => {}
            Stage::Accepted(_) if planted::is(Bug::DoubleAccept) => {}
            Stage::Cancelled if planted::is(Bug::CancelledAccepted) => {}
            Stage::Leased(_) if planted::is(Bug::StaleTerm) => {}
            Stage::Leased(_) | Stage::Accepted(_) | Stage::Expired | Stage::Cancelled | Stage::Unrunnable => {
                return None;
            }
        }
        self.late.as_deref().filter(|(late, _)| late == lease).map(|(_, wallet)| *wallet)
    }
}

impl EndCause {
    /// True if time ended the lease: a late proof may still count.
    pub fn by_timeout(self) -> bool {
        match self {
            EndCause::NoProgress | EndCause::TimedOut => true,
            EndCause::BadProof | EndCause::Released | EndCause::ReleasedLate | EndCause::EngineFailure => {
                false
            }
        }
    }

    /// What it costs the holder, in half losses.
    pub fn loss_halves(self) -> u32 {
        match self {
            EndCause::NoProgress | EndCause::TimedOut | EndCause::BadProof => 2,
            EndCause::ReleasedLate | EndCause::EngineFailure => 1,
            EndCause::Released => 0,
        }
    }
}

pub(super) fn job_of(signed: &Signed) -> (Header, Job) {
    let statement = Statement::reread(&signed.payload).expect("admitted statements were decoded before");
    match statement.body {
        Body::Job(job) => (statement.header, job),
        _ => panic!("only jobs are admitted"),
    }
}

pub(super) fn add(sum: &mut MicroUsdc, amount: MicroUsdc) {
    *sum = sum.checked_add(amount).expect("all money of a pool fits 64 bits");
}
