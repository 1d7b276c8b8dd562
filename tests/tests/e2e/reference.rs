//! A second reading of an operator's ledger: its own sums and its own map of jobs, next to what the pool makes of it.

mod audits;

use crate::harness::Site;
use crate::peer::POOL;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Context, Digest, derive};
use swarm_crypto::merkle;
use swarm_node::operator::replay_all;
use swarm_node::storage::blocks::{BlockStore, DEFAULT_QUOTA_BYTES};
use swarm_node::storage::high_water::HighWater;
use swarm_node::storage::ledger::{Ledger, RedbLedger, chain_hash};
use swarm_protocol::codec::{self, JobId, Link};
use swarm_protocol::money::Account;
use swarm_protocol::pool::{Close, Entry, EpochHeader, Leaf, Record, RecordPage, Replay, Stage, State};
use swarm_protocol::statement::{Body, PayoutMode, Signed, Statement};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pending,
    Leased,
    Accepted,
    Refunded,
}

#[derive(Debug)]
pub struct Job {
    pub fate: Fate,
    client: Address,
    price: u64,
    pub terms: u32,
    holder: Option<Address>,
}

/// An epoch as its records make it.
#[derive(Debug, Default)]
struct Epoch {
    first_seq: u64,
    end: Option<(u64, Digest)>,
    header: Option<Link>,
    leaves: Vec<Digest>,
    accepted: Vec<Accepted>,
    /// What auditors were paid in it.
    audit_pay: BTreeMap<Address, u64>,
    /// Hashes of its rows of audits.
    audits: Vec<Digest>,
    unserved: u64,
    rows: Vec<Vec<u8>>,
    volume: u64,
    /// Every balance at its end.
    balances: BTreeMap<Account, i128>,
}

/// A proof that was accepted, and what has come of it.
#[derive(Debug)]
struct Accepted {
    job: JobId,
    wallet: Address,
    price: u64,
    stands: bool,
    released: bool,
    /// Whether its money waits for an audit.
    waits: bool,
    /// Who was asked, how often each has spoken, and whose money that is, if it is not the operator's and not paid yet.
    asked: BTreeMap<Address, (u32, Option<Address>)>,
}

impl Accepted {
    fn miner_part(&self) -> u64 {
        self.price * 3 / 4
    }

    fn look(&self) -> u64 {
        (self.price / 4).max(1)
    }
}

/// All that the records say.
#[derive(Debug, Default)]
pub struct Reading {
    pub jobs: BTreeMap<JobId, Job>,
    pub receipts: BTreeMap<JobId, (u64, u64)>,
    accounts: BTreeMap<Account, i128>,
    operator: Option<Address>,
    epochs: Vec<Epoch>,
    /// What challengers have paid to auditors, less what they have back.
    challenged: BTreeMap<Address, i128>,
    /// What the operator has paid to auditors, and back to challengers.
    looks: i128,
    credited: BTreeSet<Address>,
    rows: u64,
    head: Digest,
    /// The row in hand is of an audit.
    audited: bool,
}

fn statement(signed: &Signed) -> Statement {
    Statement::decode(&signed.payload).unwrap()
}

impl Reading {
    fn row(&mut self, seq: u64, row: &[u8]) {
        assert_eq!(seq, self.rows, "a row is missing");
        self.rows += 1;
        self.head = chain_hash(&self.head, row);
        let entry = Entry::decode(row).unwrap();
        let mut moved = BTreeMap::<Account, i128>::new();
        for transfer in &entry.transfers {
            *moved.entry(transfer.from).or_default() -= i128::from(transfer.amount.0);
            *moved.entry(transfer.to).or_default() += i128::from(transfer.amount.0);
        }
        for (account, amount) in moved {
            let balance = self.accounts.entry(account).or_default();
            *balance += amount;
            let may_owe = matches!(account, Account::Outside | Account::Shortfall);
            assert!(*balance >= 0 || may_owe, "{account:?} is overdrawn at {seq}");
        }
        let before = self.epochs.len();
        self.record(seq, &entry.record);
        let epoch = &mut self.epochs[before.max(1) - 1];
        if self.audited {
            epoch.audits.push(derive(Context::Leaf, row));
        }
        self.audited = false;
        epoch.rows.push(row.to_vec());
    }

    fn record(&mut self, seq: u64, record: &Record) {
        match record {
            Record::Genesis(genesis) => {
                assert_eq!(seq, 0);
                self.operator = Some(genesis.operator);
                self.epochs.push(Epoch::default());
            }
            Record::Credited { client } => assert!(self.credited.insert(*client), "credited twice: {client}"),
            Record::Bound { .. } => {}
            Record::ReserveFunded { .. } | Record::Deposited { .. } | Record::DepositUndone { .. } => {
                panic!("nobody asked for record {seq}: {record:?}")
            }
            Record::AuditPicked { .. }
            | Record::Attested { .. }
            | Record::AuditClosed { .. }
            | Record::AuditPaid { .. }
            | Record::Challenged { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. } => {
                self.audited = true;
                self.audit(seq, record);
            }
            Record::Admitted { job, .. } => {
                let statement = statement(job);
                let Body::Job(body) = statement.body else { panic!("{seq} admits no job") };
                let (client, price) = (statement.header.by, body.price.0);
                let admitted = Job { fate: Fate::Pending, client, price, terms: 0, holder: None };
                assert!(self.jobs.insert(job.id(), admitted).is_none(), "admitted twice: {}", job.id());
            }
            Record::Leased { job, term, wallet, .. } => {
                let job = self.jobs.get_mut(job).unwrap();
                assert_eq!((job.fate, *term), (Fate::Pending, job.terms + 1), "record {seq}");
                (job.fate, job.terms, job.holder) = (Fate::Leased, *term, Some(*wallet));
            }
            Record::LeaseEnded { job, .. } => {
                let job = self.jobs.get_mut(job).unwrap();
                assert_eq!(job.fate, Fate::Leased, "record {seq}");
                job.fate = Fate::Pending;
            }
            Record::Accepted { job, proof, units, .. } => self.accepted(seq, *job, proof, *units),
            Record::Closed { job, end } => {
                let job = self.jobs.get_mut(job).unwrap();
                assert_eq!(job.fate, Fate::Pending, "record {seq}");
                assert!(matches!(end, Close::Expired | Close::Cancelled(_) | Close::Unrunnable));
                job.fate = Fate::Refunded;
            }
            Record::Boundary(boundary) => {
                let open = self.epochs.len() as u64 - 1;
                assert_eq!((boundary.epoch, boundary.end_seq), (open, seq), "epochs have a gap");
                let ended = self.epochs.last_mut().unwrap();
                (ended.end, ended.balances) = (Some((seq, self.head)), self.accounts.clone());
                let due = usize::try_from(open).unwrap().saturating_sub(1);
                for accepted in self.epochs[..due].iter_mut().flat_map(|epoch| &mut epoch.accepted) {
                    accepted.released |= accepted.stands && !accepted.waits;
                }
                self.epochs.push(Epoch { first_seq: seq + 1, ..Epoch::default() });
            }
            Record::HeaderFixed { epoch, header } => {
                let epoch = &mut self.epochs[*epoch as usize];
                assert!(epoch.end.is_some() && epoch.header.is_none(), "record {seq}");
                epoch.header = Some(*header);
            }
        }
    }

    fn accepted(&mut self, seq: u64, id: JobId, proof: &Signed, units: u64) {
        let wallet = statement(proof).header.by;
        let job = self.jobs.get_mut(&id).unwrap();
        assert!(matches!(job.fate, Fate::Leased | Fate::Pending), "record {seq}: {job:?}");
        assert_eq!(job.holder, Some(wallet), "record {seq} pays somebody else");
        job.fate = Fate::Accepted;
        let price = swarm_protocol::money::MicroUsdc(job.price);
        let leaf = Leaf { job: id, proof: proof.id(), wallet, price, units, mode: PayoutMode::Solo };
        let (asked, stands) = (BTreeMap::new(), true);
        let accepted =
            Accepted { job: id, wallet, price: job.price, stands, released: false, waits: false, asked };
        let number = self.epochs.len() as u64 - 1;
        let epoch = self.epochs.last_mut().unwrap();
        self.receipts.insert(id, (number, epoch.leaves.len() as u64));
        epoch.leaves.push(leaf.hash());
        epoch.accepted.push(accepted);
        epoch.volume += price.0;
    }

    /// Money by what became of the jobs and the audits, not by the postings.
    fn check_money(&self) {
        assert_eq!(self.accounts.values().sum::<i128>(), 0);
        let balance = |account| self.accounts.get(&account).copied().unwrap_or(0);
        let accepted = || self.epochs.iter().flat_map(|epoch| &epoch.accepted);
        let overturned: BTreeSet<JobId> = accepted().filter(|one| !one.stands).map(|one| one.job).collect();
        for client in self.jobs.values().map(|job| job.client).chain(self.challenged.keys().copied()) {
            let of = |fates: &[Fate]| -> i128 {
                let jobs = self.jobs.iter().filter(|(id, job)| {
                    job.client == client && fates.contains(&job.fate) && !overturned.contains(id)
                });
                jobs.map(|(_, job)| i128::from(job.price)).sum()
            };
            let waiting = |one: &Accepted| {
                let paid_by =
                    one.asked.values().filter(|(_, challenger)| *challenger == Some(client)).count();
                i128::from(one.look()) * paid_by as i128
            };
            let open = of(&[Fate::Pending, Fate::Leased]) + accepted().map(waiting).sum::<i128>();
            assert_eq!(balance(Account::ClientReserved(client)), open);
            let (credit, looks) = (100_000_000, self.challenged.get(&client).copied().unwrap_or(0));
            assert_eq!(balance(Account::ClientFree(client)), credit - open - looks - of(&[Fate::Accepted]));
        }
        self.check_earnings();
        let kept: u64 = accepted().filter(|one| one.stands).map(|one| one.price - one.miner_part()).sum();
        let operator = self.operator.unwrap();
        let own = balance(Account::OperatorHeld(operator)) + balance(Account::OperatorPayable(operator));
        assert_eq!(own + balance(Account::Shortfall), i128::from(kept) - self.looks);
    }

    /// What each wallet holds and may take is what its jobs and its looks brought, each once.
    fn check_earnings(&self) {
        let (mut held, mut payable) = (BTreeMap::<Address, i128>::new(), BTreeMap::<Address, i128>::new());
        let ended = self.epochs.len() - 1;
        for (number, epoch) in self.epochs.iter().enumerate() {
            for one in epoch.accepted.iter().filter(|one| one.stands) {
                let into = if one.released { &mut payable } else { &mut held };
                *into.entry(one.wallet).or_default() += i128::from(one.miner_part());
            }
            for (auditor, amount) in &epoch.audit_pay {
                let into = if number + 2 < ended { &mut payable } else { &mut held };
                *into.entry(*auditor).or_default() += i128::from(*amount);
            }
        }
        let own = |of: fn(&Account) -> Option<Address>| -> BTreeMap<Address, i128> {
            let own = self.accounts.iter().filter(|(_, balance)| **balance != 0);
            own.filter_map(|(account, balance)| Some((of(account)?, *balance))).collect()
        };
        let miner_held = own(|account| match account {
            Account::MinerHeld(wallet) => Some(*wallet),
            _ => None,
        });
        let miner_payable = own(|account| match account {
            Account::MinerPayable(wallet) => Some(*wallet),
            _ => None,
        });
        assert_eq!((miner_held, miner_payable), (held, payable), "somebody was not paid for each thing once");
    }

    /// Each epoch that ended has one header, which is there, says what the records say, and follows the one before.
    fn check_headers(&self, blocks: &BlockStore) {
        let mut previous = None;
        let ended = self.epochs.iter().enumerate().filter(|(_, epoch)| epoch.end.is_some());
        for (number, epoch) in ended {
            let last = number + 2 == self.epochs.len();
            let Some(link) = epoch.header else {
                assert!(last, "epoch {number} has no header");
                continue;
            };
            let block = |link: &Link| {
                blocks.block(&link.cid()).unwrap_or_else(|| panic!("epoch {number} lacks a block"))
            };
            let header: EpochHeader = codec::decode(&block(&link)).unwrap();
            let (end_seq, end_hash) = epoch.end.unwrap();
            assert_eq!((header.epoch, header.previous), (number as u64, previous));
            assert_eq!(
                (header.first_seq, header.end_seq, header.range_hash),
                (epoch.first_seq, end_seq, end_hash)
            );
            assert_eq!((header.counts.accepted, header.volume.0), (epoch.leaves.len() as u64, epoch.volume));
            assert_eq!(header.proofs_root, merkle::root(&epoch.leaves));
            assert_eq!(header.audits_root, merkle::root(&epoch.audits));
            assert_eq!(header.audits_unserved, epoch.unserved);
            let pages =
                header.leaf_pages.iter().flat_map(|page| codec::decode::<Vec<Digest>>(&block(page)).unwrap());
            assert_eq!(pages.collect::<Vec<_>>(), epoch.leaves);
            let pages = header.record_pages.iter().map(block);
            let records = pages.flat_map(|page| codec::decode::<RecordPage>(&page).unwrap().records);
            assert_eq!(records.map(|row| row.into_vec()).collect::<Vec<_>>(), epoch.rows);
            check_totals(&header, &epoch.balances);
            previous = Some(link);
        }
    }

    /// What the pool makes of its ledger is what the records say.
    fn check_state(&self, state: &State) {
        assert_eq!((state.next_seq(), state.head()), (self.rows, self.head));
        let accounts: BTreeMap<Account, i128> =
            state.accounts().iter().map(|(account, balance)| (*account, balance)).collect();
        let own = self.accounts.iter().filter(|(_, balance)| **balance != 0);
        assert_eq!(accounts, own.map(|(account, balance)| (*account, *balance)).collect());
        let stage = |stage: &Stage| match stage {
            Stage::Pending => Fate::Pending,
            Stage::Leased(_) => Fate::Leased,
            Stage::Accepted(_) => Fate::Accepted,
            Stage::Expired | Stage::Cancelled | Stage::Unrunnable => Fate::Refunded,
        };
        let jobs: BTreeMap<JobId, Fate> = state.jobs().map(|(id, job)| (*id, stage(&job.stage))).collect();
        for (id, job) in &self.jobs {
            // A job that is over is forgotten some time after its end.
            let over = matches!(job.fate, Fate::Accepted | Fate::Refunded);
            assert!(
                jobs.get(id).map_or(over, |fate| *fate == job.fate),
                "{id}: {:?} is {:?}",
                jobs.get(id),
                job
            );
        }
        assert!(jobs.keys().all(|id| self.jobs.contains_key(id)));
        let mut fixed = self.epochs.iter().enumerate();
        let fixed = fixed.rfind(|(_, epoch)| epoch.header.is_some());
        let last = fixed.and_then(|(number, epoch)| epoch.header.map(|link| (number as u64, link)));
        assert_eq!(state.last_header(), last);
        assert_eq!(state.epoch().number, self.epochs.len() as u64 - 1);
    }

    /// Asserts that these answers, as the client prints them, are of one job each, and that the leaf of each receipt is
    /// where its sealed epoch has it.
    pub fn hold(&self, answers: &[Value]) {
        let mut places = BTreeSet::new();
        for answer in answers {
            let receipt = &answer["receipt"];
            let job: JobId = receipt["job"].as_str().unwrap().parse().unwrap();
            let signed = Signed::decode(&hex::decode(receipt["signed"].as_str().unwrap()).unwrap()).unwrap();
            let Body::Receipt(body) = statement(&signed).body else { panic!("no receipt: {receipt}") };
            assert_eq!((body.job, self.receipts.get(&job)), (job, Some(&(body.epoch, body.index))));
            let epoch = &self.epochs[body.epoch as usize];
            assert!(epoch.header.is_some(), "epoch {} is not sealed", body.epoch);
            assert_eq!(epoch.leaves[body.index as usize], body.leaf);
            assert!(places.insert((body.epoch, body.index)), "two answers with one leaf: {receipt}");
        }
    }

    /// Jobs neither answered nor refunded.
    pub fn open_jobs(&self) -> usize {
        self.jobs.values().filter(|job| matches!(job.fate, Fate::Pending | Fate::Leased)).count()
    }

    /// The headers fixed, by epoch.
    pub fn headers(&self) -> BTreeMap<u64, Link> {
        let fixed = |(number, epoch): (usize, &Epoch)| epoch.header.map(|link| (number as u64, link));
        self.epochs.iter().enumerate().filter_map(fixed).collect()
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// A header's totals are the sums of the balances at its boundary.
fn check_totals(header: &EpochHeader, balances: &BTreeMap<Account, i128>) {
    let total = |class: fn(&Account) -> bool| -> u64 {
        let members = balances.iter().filter(|(account, _)| class(account));
        members.map(|(_, balance)| balance.unsigned_abs() as u64).sum()
    };
    let totals = &header.totals;
    assert_eq!(totals.reserve, 0);
    assert_eq!(totals.shortfall, total(|a| matches!(a, Account::Shortfall)));
    assert_eq!(totals.outside, total(|a| matches!(a, Account::Outside)));
    assert_eq!(totals.client_free, total(|a| matches!(a, Account::ClientFree(_))));
    assert_eq!(totals.client_reserved, total(|a| matches!(a, Account::ClientReserved(_))));
    assert_eq!(totals.miner_held, total(|a| matches!(a, Account::MinerHeld(_))));
    assert_eq!(totals.miner_payable, total(|a| matches!(a, Account::MinerPayable(_))));
    assert_eq!(totals.operator_held, total(|a| matches!(a, Account::OperatorHeld(_))));
    assert_eq!(totals.operator_payable, total(|a| matches!(a, Account::OperatorPayable(_))));
}

/// What an operator's ledger says of the reserve, and of what a boundary moved out of it for good.
#[derive(Debug)]
pub struct Shared {
    pub reserve: i128,
    pub miner: i128,
}

/// Sums the transfers of a pool that has no miners but those paid by share.
pub fn shared(site: &Site) -> Shared {
    let mut balances = BTreeMap::<Account, i128>::new();
    replay_all(&open(site), &blocks(site), &mut |_, row| {
        for transfer in Entry::decode(row).unwrap().transfers {
            *balances.entry(transfer.from).or_default() -= i128::from(transfer.amount.0);
            *balances.entry(transfer.to).or_default() += i128::from(transfer.amount.0);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(balances.values().sum::<i128>(), 0);
    let sum = |of: fn(&Account) -> bool| balances.iter().filter(|(a, _)| of(a)).map(|(_, sum)| *sum).sum();
    assert_eq!(sum(|account| matches!(account, Account::MinerHeld(_))), 0, "nothing is held any more");
    Shared {
        reserve: sum(|account| matches!(account, Account::Reserve)),
        miner: sum(|account| matches!(account, Account::MinerPayable(_))),
    }
}

fn open(site: &Site) -> RedbLedger {
    let home = site.data("operator");
    let key = std::fs::read_to_string(home.join("key")).unwrap();
    let key = swarm_crypto::key::SecretKey::from_bytes(&hex::decode(key.trim()).unwrap().try_into().unwrap())
        .unwrap();
    let pool = PoolId::derive(POOL, key.address(), 0, Address::ZERO);
    RedbLedger::open(&home.join("ledger.redb"), &pool.0).unwrap()
}

fn blocks(site: &Site) -> BlockStore {
    BlockStore::open(&site.data("operator").join("blocks.redb"), DEFAULT_QUOTA_BYTES).unwrap()
}

/// How many records the ledger of an operator that does not run has dropped.
pub fn dropped(site: &Site) -> u64 {
    open(site).first_seq()
}

/// Reads the ledger of an operator that does not run, and what is published of it, and holds everything against
/// everything.
pub fn read(site: &Site) -> Reading {
    let (home, ledger) = (site.data("operator"), open(site));
    let restored = swarm_node::operator::restore(&ledger, &home.join("blocks.redb")).unwrap().unwrap();
    let (mut reading, mut replay, blocks) = (Reading::default(), Replay::new(None), blocks(site));
    replay_all(&ledger, &blocks, &mut |seq, row| {
        reading.row(seq, row);
        replay.row(seq, row).unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(Some(&restored), replay.finish().as_ref(), "checkpoint and tail are not all records");
    reading.check_state(&restored);
    reading.check_money();
    reading.check_headers(&blocks);
    let mark = HighWater::open(&home.join("high_water")).unwrap();
    mark.check(&ledger).unwrap();
    let last = restored.last_header().map(|(number, link)| (number, link.to_string()));
    mark.check_header(last.as_ref().map(|(number, link)| (*number, link.as_str()))).unwrap();
    reading
}
