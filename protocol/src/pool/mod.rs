//! The operator: admits jobs, arbitrates the race, checks proofs, seals epochs, pays.

mod acceptance;
mod admission;
mod arbitration;
mod audit;
mod chain;
mod epoch;
mod fate;
mod header;
mod held;
mod live;
mod page;
mod postings;
mod record;
mod record_page;
mod state;
#[cfg(test)]
mod tests;
mod tree;
pub mod verify;
mod wallet;

pub use arbitration::expected_lease;
pub use audit::{AUDIT_EPOCHS, Audit, Paying, Said, Seat, Subject};
pub use chain::ChainEvent;
pub use fate::JobFate;
pub use header::{
    Counts, EpochHeader, MAX_PAGE_LEAVES, SETTLEMENT_BEFORE, SETTLEMENT_OF_TEXT, SETTLEMENT_VERSION, Totals,
    leaf_pages, standard_root,
};
pub use held::{HELD_EPOCHS, Held, HeldLeaf, Shared};
pub use live::{Holdings, LiveMiner};
pub use page::ViewPage;
pub use record::{Boundary, Close, Entry, Genesis, Leaf, LeafAt, Record, chain_hash};
pub use record_page::{
    MAX_PAGE_BYTES, MAX_ROW_BYTES, PageError, RecordPage, RecordPages, RecordReader, Row, pages_around,
};
pub use state::{Acceptance, Granted, JobEntry, OpenEpoch, Pps, Sealing, Stage, State};
pub use wallet::{LOSS_EPOCHS, REPUTATION_EPOCHS, Standing};

use crate::codec::{CodecError, JobId, Link};
use crate::money::MicroUsdc;
use crate::race;
use crate::statement::{
    Asset, Body, Identified, Job, JobType, ListingEntry, MAX_DETAIL_BYTES, MAX_LISTING_ENTRIES, Proof,
    Reason, Refusal, Statement, Topic,
};
use crate::{Machine, Posted, Timestamp};
use held::Settlement;
use live::Live;
use std::collections::{BTreeMap, VecDeque};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use tree::Touched;

/// Timers handled in one turn; the rest follow in the next, so that no turn's records outgrow one append.
const MAX_TIMERS_PER_TURN: usize = 4096;

/// Most jobs, open or remembered, of one pool.
pub const MAX_JOBS: usize = 4_000_000;

/// What an operator is told when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// The libp2p peer id of the operator's node, if it has one.
    pub node: Option<String>,
    /// The pool's name.
    pub name: String,
    /// The operator's wallet.
    pub operator: Address,
    /// Models whose proofs it can check, and the workload that each serves.
    pub models: BTreeMap<String, JobType>,
    /// Numbers to post from the next boundary on.
    pub posted: Posted,
    /// 32 bytes made at genesis and never told.
    pub secret: [u8; 32],
    /// How much of its own money the operator wants to have put into the PPS reserve.
    pub reserve: MicroUsdc,
}

/// What can happen to a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "each is moved once; a box would be one more allocation for every message"
)]
pub enum PoolEvent {
    /// A statement came in.
    Statement(Identified),
    /// A linked input was fetched and is stored, or could not be.
    InputFetched {
        /// Whose.
        job: JobId,
        /// Why not.
        outcome: Result<(), String>,
    },
    /// A proof's content was fetched, stored and checked.
    Examined {
        /// Which job.
        job: JobId,
        /// Which proof.
        proof: Link,
        /// Work units, or why not.
        outcome: Result<u64, ExamineFault>,
    },
    /// Money came in, or turned out not to have.
    Chain(ChainEvent),
    /// A tree of the pool is published: its blocks are durable.
    TreePublished {
        /// Its root; none if there will be no tree any more.
        root: Option<cid::Cid>,
    },
}

/// Why a proof was not found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExamineFault {
    /// Its content could not be had; it may come again.
    Unavailable(String),
    /// Its content breaks the acceptance rule.
    Unacceptable(String),
}

/// What a pool asks of its shell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "each is moved once; a box would be one more allocation for every message"
)]
pub enum PoolEffect {
    /// Append this row to the ledger; it must be durable before any later effect is performed.
    Record(Vec<u8>),
    /// Sign and gossip.
    Publish(Topic, Statement),
    /// Store and pin a DAG-CBOR block; it must be durable before any record of the same turn is.
    Store(Vec<u8>),
    /// Fetch, store and pin a job's linked input; answered by [`PoolEvent::InputFetched`].
    FetchInput {
        /// Whose.
        job: JobId,
        /// Who has it.
        client: Address,
        /// A raw block, or the root of a UnixFS file.
        cid: cid::Cid,
        /// The text's declared length.
        bytes: u64,
    },
    /// Fetch, store, pin and check a proof's content; answered by [`PoolEvent::Examined`].
    Examine(Box<Examination>),
    /// The pool's tree has changed: by what the records of this turn did, once they are durable.
    Tree(Box<crate::tree::Changes>),
    /// For the log.
    Story(PoolStory),
}

/// Everything needed to check one proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// The job's id.
    pub id: JobId,
    /// The job.
    pub job: Job,
    /// The proof's id.
    pub proof_id: Link,
    /// The proof.
    pub proof: Proof,
    /// Who made it.
    pub wallet: Address,
    /// Every progress reported under the lease: units and prefix digest.
    pub progress: Vec<(u64, Digest)>,
}

/// What an operator's log tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "variants and fields are the sentences of the log")]
pub enum PoolStory {
    NewJob {
        job: JobId,
        client: Address,
        model: String,
        price: crate::money::MicroUsdc,
    },
    Refused {
        job: JobId,
        reason: Reason,
        detail: String,
    },
    Leased {
        job: JobId,
        wallet: Address,
        name: Option<String>,
        claims: u64,
    },
    LeaseEnded {
        job: JobId,
        wallet: Address,
        cause: crate::statement::EndCause,
    },
    Accepted {
        job: JobId,
        wallet: Address,
        price: crate::money::MicroUsdc,
        units: u64,
    },
    Closed {
        job: JobId,
        end: &'static str,
    },
    MinerJoined {
        wallet: Address,
        name: Option<String>,
        models: Vec<String>,
    },
    MinerOffline {
        wallet: Address,
        name: Option<String>,
    },
    EpochOpened {
        epoch: u64,
        miners: u64,
    },
    EpochSealed {
        epoch: u64,
        header: Link,
        accepted: u64,
        volume: crate::money::MicroUsdc,
    },
    Settled {
        epoch: u64,
        miners: u64,
        miner_total: crate::money::MicroUsdc,
        operator: crate::money::MicroUsdc,
    },
}

/// The operator's machine: the durable fold, and what a restart may forget.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    state: State,
    live: Live,
    touched: Touched,
    effects: VecDeque<PoolEffect>,
}

impl Pool {
    /// A new pool; its first effect is the genesis record.
    pub fn create(config: PoolConfig, now: Timestamp) -> Self {
        let pool = PoolId::derive(&config.name, config.operator, 0, Address::ZERO);
        let genesis = Genesis {
            name: config.name.clone(),
            operator: config.operator,
            asset: Asset::Test,
            pool_secret_hash: blake3(&config.secret),
            secret_hash: race::secret_commitment(&race::epoch_secret(&config.secret, &pool, 0)),
            posted: config.posted.clone(),
        };
        let entry = Entry { at: now, record: Record::Genesis(Box::new(genesis)), transfers: Vec::new() };
        let row = entry.encode();
        let mut created = Self::with_state(config, State::genesis(&entry, &row));
        created.effects.push_back(PoolEffect::Record(row));
        created.start(now);
        created
    }

    /// The pool of a ledger: a checkpoint, if there is one, and the rows after it.
    pub fn restore(config: PoolConfig, state: State, now: Timestamp) -> Result<Self, RestoreError> {
        if state.genesis.operator != config.operator || state.genesis.name != config.name {
            return Err(RestoreError::OtherPool(state.genesis.name.clone(), state.genesis.operator));
        }
        if state.genesis.pool_secret_hash != blake3(&config.secret) {
            return Err(RestoreError::OtherSecret);
        }
        let mut restored = Self::with_state(config, state);
        restored.start(now);
        Ok(restored)
    }

    fn with_state(config: PoolConfig, state: State) -> Self {
        let live = Live::of(&state);
        Self { config, state, live, touched: Touched::default(), effects: VecDeque::new() }
    }

    /// The pool's id.
    pub fn id(&self) -> PoolId {
        self.state.pool
    }

    /// What is in hand and not durable.
    pub fn holdings(&self) -> Holdings {
        self.live.holdings()
    }

    /// The durable state.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn record(&mut self, at: Timestamp, record: Record) {
        let settlement = self.state.settlement_by(&record);
        self.record_with(at, record, settlement);
    }

    /// Audits come first: what a record makes due follows it at once.
    fn record_with(&mut self, at: Timestamp, record: Record, settlement: Option<Settlement>) {
        self.write(at, record, settlement);
        self.settle_audits(at);
    }

    fn write(&mut self, at: Timestamp, record: Record, settlement: Option<Settlement>) {
        let transfers = self.state.transfers_with(&record, settlement.as_ref());
        let entry = Entry { at, record, transfers };
        let row = entry.encode();
        self.touched.note(&self.state, at, &entry.record);
        let pages = self.state.apply_with(&entry, &row, settlement);
        self.effects.extend(pages.into_iter().map(PoolEffect::Store));
        self.effects.push_back(PoolEffect::Record(row));
    }

    fn say(&mut self, topic: Topic, at: Timestamp, body: impl Into<Body>) {
        let statement = self.statement(at, body);
        self.effects.push_back(PoolEffect::Publish(topic, statement));
    }

    fn statement(&self, at: Timestamp, body: impl Into<Body>) -> Statement {
        Statement::derived(self.state.pool, self.config.operator, at, body.into())
    }

    fn tell(&mut self, story: PoolStory) {
        self.effects.push_back(PoolEffect::Story(story));
    }

    fn refuse(
        &mut self,
        topic: Topic,
        now: Timestamp,
        subject: Link,
        job: JobId,
        reason: Reason,
        mut detail: String,
    ) {
        let fits = (0..=MAX_DETAIL_BYTES).rev().find(|at| detail.is_char_boundary(*at)).unwrap_or(0);
        detail.truncate(fits);
        self.tell(PoolStory::Refused { job, reason, detail: detail.clone() });
        self.say(topic, now, Refusal { subject, job, reason, detail });
    }

    fn draw_seed(&self, job: &JobId, attempt: u32) -> Digest {
        let secret = race::epoch_secret(&self.config.secret, &self.state.pool, self.state.epoch.number);
        race::draw_seed(&secret.0, job, attempt)
    }

    /// The client's statement of an open job.
    fn job(&self, id: &JobId) -> Option<Job> {
        let payload = &self.state.jobs.get(id)?.signed.as_ref()?.payload;
        match Statement::reread(payload).expect("admitted statements were decoded before").body {
            Body::Job(job) => Some(job),
            _ => None,
        }
    }

    fn flush_listings(&mut self) {
        let now = self.live.now;
        let ids: Vec<JobId> = std::mem::take(&mut self.live.to_list).into_iter().collect();
        for chunk in ids.chunks(MAX_LISTING_ENTRIES) {
            let entries: Vec<ListingEntry> = chunk.iter().filter_map(|id| self.listing_entry(id)).collect();
            for entry in &entries {
                self.live.free.insert(self.state.jobs[&entry.job].model, entry.free);
            }
            if !entries.is_empty() {
                self.say(Topic::Jobs, now, crate::statement::Listing { entries });
            }
        }
    }
}

/// Why a ledger cannot be this operator's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Another pool's or operator's ledger.
    #[error(
        "this ledger is of pool '{0}' under operator {1}; start with that name and key, or with another data directory"
    )]
    OtherPool(String, Address),
    /// Another pool secret.
    #[error("the pool secret is not the one that this ledger began with; put the original secret file back")]
    OtherSecret,
    /// A row that cannot be read.
    #[error("ledger row {0} is unreadable: {1}")]
    Unreadable(u64, CodecError),
    /// A ledger that does not begin with a genesis.
    #[error("the ledger does not begin with a genesis record")]
    NoGenesis,
}

/// Folds rows onto a state, one at a time.
#[derive(Debug, Default)]
pub struct Replay {
    state: Option<State>,
}

impl Replay {
    /// A replay that continues a checkpoint, or begins at the genesis row.
    pub fn new(checkpoint: Option<State>) -> Self {
        Self { state: checkpoint }
    }

    /// Folds the next row. Its blocks were stored before it was appended.
    pub fn row(&mut self, seq: u64, row: &[u8]) -> Result<(), RestoreError> {
        self.row_with_blocks(seq, row).map(|_| ())
    }

    /// The same for whoever does not have the blocks: gives what the row says, and those that its pool stored with it.
    pub fn row_with_blocks(&mut self, seq: u64, row: &[u8]) -> Result<(Entry, Vec<Vec<u8>>), RestoreError> {
        let entry = Entry::decode(row).map_err(|e| RestoreError::Unreadable(seq, e))?;
        let mut blocks = Vec::new();
        match &mut self.state {
            Some(state) => {
                blocks = state.apply(&entry, row);
                blocks.extend(state.blocks_of(&entry.record));
            }
            None if matches!(entry.record, Record::Genesis(_)) => {
                self.state = Some(State::genesis(&entry, row))
            }
            None => return Err(RestoreError::NoGenesis),
        }
        Ok((entry, blocks))
    }

    /// The state after the rows so far; none if there were none.
    pub fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// The state after all rows; none if there were none.
    pub fn finish(self) -> Option<State> {
        self.state
    }
}

impl State {
    /// Sequence number of the next record.
    pub fn next_seq(&self) -> u64 {
        self.seq
    }

    /// Hash of the last record.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The pool's id.
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// Numbers in force.
    pub fn posted(&self) -> &Posted {
        &self.posted
    }

    /// Every account.
    pub fn accounts(&self) -> &crate::money::Accounts {
        &self.accounts
    }

    /// Lifetime debits of clients: the leaves of the debits root.
    pub fn lifetime_debits(&self) -> &BTreeMap<Address, u128> {
        &self.debits
    }

    /// Money that can still be overturned, by epoch.
    pub fn held(&self) -> &BTreeMap<u64, Held> {
        &self.held
    }

    /// The open epoch.
    pub fn epoch(&self) -> &OpenEpoch {
        &self.epoch
    }

    /// The epoch that has ended and whose header is not fixed yet.
    pub fn sealing(&self) -> Option<&Sealing> {
        self.sealing.as_ref()
    }

    /// Number and link of the last fixed header.
    pub fn last_header(&self) -> Option<(u64, Link)> {
        self.last_header
    }

    /// Pages of the open epoch that are published already.
    pub fn open_pages(&self) -> Vec<Link> {
        self.epoch.pages.links().iter().chain(&self.epoch.leaf_pages).copied().collect()
    }

    /// A job, open or remembered.
    pub fn job(&self, id: &JobId) -> Option<&JobEntry> {
        self.jobs.get(id).map(Box::as_ref)
    }

    /// All jobs, open or remembered.
    pub fn jobs(&self) -> impl ExactSizeIterator<Item = (&JobId, &JobEntry)> {
        self.jobs.iter().map(|(id, entry)| (id, entry.as_ref()))
    }

    /// The name bound to a wallet.
    pub fn name_of(&self, wallet: &Address) -> Option<&str> {
        self.names.iter().find(|(_, (bound, _))| bound == wallet).map(|(name, _)| name.as_str())
    }
}

impl Machine for Pool {
    type Event = PoolEvent;
    type Effect = PoolEffect;

    fn handle(&mut self, event: PoolEvent, now: Timestamp) {
        self.live.now = self.live.now.max(now);
        let now = self.live.now;
        match event {
            PoolEvent::Statement(identified) => self.handle_statement(&identified, now),
            PoolEvent::InputFetched { job, outcome } => self.handle_input(job, outcome, now),
            PoolEvent::Examined { job, proof, outcome } => self.handle_examined(job, proof, outcome, now),
            PoolEvent::Chain(event) => self.handle_chain(event, now),
            PoolEvent::TreePublished { root } => self.live.tree = root,
        }
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        self.live.now = self.live.now.max(now);
        let now = self.live.now;
        for _ in 0..MAX_TIMERS_PER_TURN {
            let Some(timer) = self.live.pop_due(now) else { break };
            self.handle_timer(timer, now);
        }
        self.fix_header(now);
        if now >= self.epoch_due() {
            self.cross_boundary(now);
        }
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let epoch = if self.state.sealing.is_some() { self.live.now } else { self.epoch_due() };
        Some(self.live.next_timer().map_or(epoch, |timer| timer.min(epoch)))
    }

    fn poll_effect(&mut self) -> Option<PoolEffect> {
        if self.effects.is_empty() && !self.live.to_list.is_empty() {
            self.flush_listings();
        }
        self.effects.pop_front().or_else(|| self.tree_effect())
    }
}

impl Pool {
    fn handle_statement(&mut self, identified: &Identified, now: Timestamp) {
        let verified = identified.verified();
        match &verified.statement().body {
            Body::Job(job) => self.handle_job(verified, job, now),
            Body::Cancel(cancel) => self.handle_cancel(verified, cancel, now),
            Body::Claim(claim) => self.handle_claim(verified, claim, now),
            Body::Release(release) => self.handle_release(verified, release, now),
            Body::Proof(proof) => self.handle_proof(verified, proof, now),
            Body::Progress(progress) => self.handle_progress(verified, progress, now),
            Body::Attestation(attestation) => self.handle_attestation(verified, attestation, now),
            Body::Challenge(challenge) => self.handle_challenge(verified, challenge, now),
            Body::Heartbeat(heartbeat) => self.handle_heartbeat(identified, heartbeat, now),
            Body::Admitted(_)
            | Body::Refusal(_)
            | Body::Listing(_)
            | Body::Lease(_)
            | Body::LeaseEnded(_)
            | Body::Receipt(_)
            | Body::AuditPicked(_)
            | Body::Beacon(_)
            | Body::EpochOpened(_)
            | Body::EpochSealed(_) => {}
        }
    }
}
