//! The operator's books, read from its files after it stopped and added up anew: no total that the node computed is
//! believed.

use crate::harness::Site;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_crypto::merkle;
use swarm_node::storage::blocks::{BlockStore, DEFAULT_QUOTA_BYTES};
use swarm_node::storage::home::read_secret;
use swarm_node::storage::ledger::{Ledger, RedbLedger};
use swarm_protocol::codec::{self, JobId, Link};
use swarm_protocol::money::{Account, MicroUsdc, Transfer};
use swarm_protocol::pool::{Entry, EpochHeader, Leaf, Record, Replay};
use swarm_protocol::statement::{Body, PayoutMode, Signed, Statement};

/// What became of an admitted job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Open,
    /// Answered in an epoch, at an index.
    Accepted(u64, u64),
    Refunded,
}

/// One admitted job.
#[derive(Debug, Clone)]
pub struct JobBook {
    pub client: Address,
    pub price: u64,
    pub end: End,
    /// Leases granted.
    pub leases: u32,
}

/// Everything that the ledger says, added up by other code than the node's.
pub struct Books {
    pub jobs: BTreeMap<JobId, JobBook>,
    pub balances: BTreeMap<Account, i128>,
    /// Leaf hashes of each ended epoch.
    pub epochs: Vec<Vec<Digest>>,
    /// Headers that were fixed, by number.
    pub headers: Vec<EpochHeader>,
    pub records: u64,
    operator: Address,
    leaves: Vec<Digest>,
    first_seq: u64,
    ended: Vec<Ended>,
}

/// What a header has to say about an epoch.
struct Ended {
    first_seq: u64,
    end_seq: u64,
    balances: BTreeMap<Account, i128>,
}

impl Books {
    /// Reads the operator's ledger, checking every record, every epoch, and that the node's own fold agrees.
    pub fn read(site: &Site) -> Self {
        let folder = site.data("operator");
        let secret = read_secret(&folder.join("key")).unwrap().expect("the operator has a key");
        let operator = SecretKey::from_bytes(secret.expose()).unwrap().address();
        let pool = PoolId::derive("swarmpool.eth", operator, 0, Address::ZERO);
        let ledger = RedbLedger::open(&folder.join("ledger.redb"), &pool.0).unwrap();
        let mut books = Self::new(operator);
        let (mut fold, mut links) = (Replay::new(None), Vec::new());
        ledger
            .replay(0, &mut |seq, row| {
                fold.row(seq, row).unwrap();
                let entry = Entry::decode(row).unwrap();
                if let Record::HeaderFixed { epoch, header } = &entry.record {
                    assert_eq!(*epoch, links.len() as u64, "headers are fixed in order, once");
                    links.push(*header);
                }
                books.enter(seq, &entry);
                Ok(())
            })
            .unwrap();
        let state = fold.finish().expect("a ledger with a genesis");
        for (account, balance) in state.accounts().iter() {
            let ours = books.balances.get(account).copied().unwrap_or(0);
            assert_eq!(ours, balance, "{account:?} in the node's own fold");
        }
        books.read_headers(&folder, &links);
        books
    }

    fn new(operator: Address) -> Self {
        Self {
            jobs: BTreeMap::new(),
            balances: BTreeMap::new(),
            epochs: Vec::new(),
            headers: Vec::new(),
            records: 0,
            operator,
            leaves: Vec::new(),
            first_seq: 0,
            ended: Vec::new(),
        }
    }

    fn enter(&mut self, seq: u64, entry: &Entry) {
        assert_eq!(seq, self.records, "no gaps");
        self.records += 1;
        self.move_money(seq, &entry.transfers);
        let moved: Vec<(Account, Account, u64)> =
            entry.transfers.iter().map(|t| (t.from, t.to, t.amount.0)).collect();
        match &entry.record {
            Record::Admitted { job, .. } => self.admit(job, &moved),
            Record::Leased { job, .. } => self.jobs.get_mut(job).expect("an admitted job").leases += 1,
            Record::Accepted { job, proof, units, .. } => self.accept(*job, proof, *units, &moved),
            Record::Closed { job, .. } => {
                let book = self.jobs.get_mut(job).expect("an admitted job");
                assert_eq!(book.end, End::Open, "a job ends once");
                book.end = End::Refunded;
                let back =
                    (Account::ClientReserved(book.client), Account::ClientFree(book.client), book.price);
                assert_eq!(moved, [back]);
            }
            Record::Boundary(boundary) => {
                assert_eq!(boundary.epoch, self.epochs.len() as u64, "epochs are contiguous");
                assert_eq!(boundary.end_seq, seq);
                self.epochs.push(std::mem::take(&mut self.leaves));
                let balances = self.balances.clone();
                self.ended.push(Ended { first_seq: self.first_seq, end_seq: seq, balances });
                self.first_seq = seq + 1;
            }
            Record::Credited { client } => {
                assert!(
                    matches!(moved[..], [(Account::Outside, Account::ClientFree(to), _)] if to == *client)
                );
            }
            Record::Genesis(_)
            | Record::Bound { .. }
            | Record::LeaseEnded { .. }
            | Record::HeaderFixed { .. } => {
                assert_eq!(moved, [], "{:?} moves no money", entry.record);
            }
        }
    }

    fn move_money(&mut self, seq: u64, transfers: &[Transfer]) {
        for Transfer { from, to, amount: MicroUsdc(amount) } in transfers {
            *self.balances.entry(*from).or_default() -= i128::from(*amount);
            *self.balances.entry(*to).or_default() += i128::from(*amount);
        }
        for Transfer { from, .. } in transfers {
            let overdrawn = self.balances[from] < 0 && !matches!(from, Account::Outside);
            assert!(!overdrawn, "record {seq} overdraws {from:?}");
        }
        assert_eq!(self.balances.values().sum::<i128>(), 0, "record {seq} conserves money");
    }

    fn admit(&mut self, signed: &Signed, moved: &[(Account, Account, u64)]) {
        let statement = Statement::decode(&signed.payload).unwrap();
        let Body::Job(job) = &statement.body else { panic!("only a job is admitted") };
        let (client, price) = (statement.header.by, job.price.0);
        assert_eq!(moved, [(Account::ClientFree(client), Account::ClientReserved(client), price)]);
        let book = JobBook { client, price, end: End::Open, leases: 0 };
        assert!(self.jobs.insert(signed.id(), book).is_none(), "a job is admitted once");
    }

    fn accept(&mut self, job: JobId, proof: &Signed, units: u64, moved: &[(Account, Account, u64)]) {
        let wallet = Statement::decode(&proof.payload).unwrap().header.by;
        let book = self.jobs.get_mut(&job).expect("an admitted job");
        assert_eq!(book.end, End::Open, "a job ends once");
        book.end = End::Accepted(self.epochs.len() as u64, self.leaves.len() as u64);
        let from = Account::ClientReserved(book.client);
        let miner = book.price * 3 / 4;
        let operator = Account::OperatorHeld(self.operator);
        assert_eq!(moved, [(from, Account::MinerHeld(wallet), miner), (from, operator, book.price - miner)]);
        let price = MicroUsdc(book.price);
        let leaf = Leaf { job, proof: proof.id(), wallet, price, units, mode: PayoutMode::Solo };
        self.leaves.push(leaf.hash());
    }

    fn read_headers(&mut self, folder: &Path, links: &[Link]) {
        let unfixed = self.epochs.len() - links.len();
        assert!(unfixed <= 1, "at most the last ended epoch waits for its header, not {unfixed}");
        let blocks = BlockStore::open(&folder.join("blocks.redb"), DEFAULT_QUOTA_BYTES).unwrap();
        let block = |link: &Link| blocks.block(&link.cid()).expect("a block that a header names is kept");
        for (number, link) in links.iter().enumerate() {
            let header: EpochHeader = codec::decode(&block(link)).unwrap();
            let previous = number.checked_sub(1).map(|before| links[before]);
            assert_eq!((header.epoch, header.previous), (number as u64, previous), "headers chain");
            let pages =
                header.leaf_pages.iter().map(|page| codec::decode::<Vec<Digest>>(&block(page)).unwrap());
            assert_eq!(
                pages.flatten().collect::<Vec<_>>(),
                self.epochs[number],
                "leaf pages of epoch {number}"
            );
            self.check_header(&header, number);
            self.headers.push(header);
        }
    }

    fn check_header(&self, header: &EpochHeader, number: usize) {
        let (leaves, ended) = (&self.epochs[number], &self.ended[number]);
        assert_eq!(header.proofs_root, merkle::root(leaves), "proofs_root of epoch {number}");
        assert_eq!((header.first_seq, header.end_seq), (ended.first_seq, ended.end_seq));
        assert_eq!(header.counts.accepted, leaves.len() as u64);
        let accepted =
            self.jobs.values().filter(|job| matches!(job.end, End::Accepted(e, _) if e == header.epoch));
        assert_eq!(header.volume.0, accepted.map(|job| job.price).sum::<u64>(), "volume of epoch {number}");
        let total = |class: fn(&Account) -> bool| {
            let members = ended.balances.iter().filter(|(account, _)| class(account));
            u64::try_from(members.map(|(_, balance)| balance.abs()).sum::<i128>()).unwrap()
        };
        let totals = &header.totals;
        assert_eq!(totals.outside, total(|a| matches!(a, Account::Outside)));
        assert_eq!(totals.shortfall, 0);
        assert_eq!(totals.client_free, total(|a| matches!(a, Account::ClientFree(_))));
        assert_eq!(totals.client_reserved, total(|a| matches!(a, Account::ClientReserved(_))));
        assert_eq!(totals.miner_held, total(|a| matches!(a, Account::MinerHeld(_))));
        assert_eq!(totals.miner_payable, total(|a| matches!(a, Account::MinerPayable(_))));
        assert_eq!(totals.operator_held, total(|a| matches!(a, Account::OperatorHeld(_))));
        assert_eq!(totals.operator_payable, total(|a| matches!(a, Account::OperatorPayable(_))));
    }

    /// Jobs that have not ended.
    pub fn open_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.end == End::Open).count()
    }

    /// Asserts that exactly these jobs were admitted, and that every receipt is kept by its sealed epoch.
    pub fn hold(&self, answers: &[Value]) {
        let answered: BTreeSet<JobId> =
            answers.iter().map(|answer| answer["job"].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(answered.len(), answers.len(), "no two answers are of one job");
        for answer in answers {
            self.hold_receipt(&answer["receipt"]);
        }
    }

    fn hold_receipt(&self, receipt: &Value) {
        let job: JobId = receipt["job"].as_str().unwrap().parse().unwrap();
        let (epoch, index) = (receipt["epoch"].as_u64().unwrap(), receipt["index"].as_u64().unwrap());
        assert_eq!(self.jobs[&job].end, End::Accepted(epoch, index), "{job}");
        let (number, place) = (usize::try_from(epoch).unwrap(), usize::try_from(index).unwrap());
        let signed = Signed::decode(&hex::decode(receipt["signed"].as_str().unwrap()).unwrap()).unwrap();
        let Body::Receipt(body) = Statement::decode(&signed.payload).unwrap().body else {
            panic!("a receipt")
        };
        assert_eq!((body.job, body.epoch, body.index), (job, epoch, index));
        assert_eq!(self.epochs.get(number).expect("its epoch has ended")[place], body.leaf);
        assert!(number < self.headers.len(), "epoch {epoch} is sealed");
    }
}
