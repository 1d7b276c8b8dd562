use super::content::Content;
use super::durable::Durable;
use super::standby::Office;
use super::story;
use super::tree::Feed;
use crate::clock::Clock;
use crate::driver::{Flow, Input, Shell};
use crate::known::Known;
use crate::metrics::{Figures, PoolMetrics};
use crate::network::ReplyHandle;
use crate::storage::blocks::{BlockError, MAX_BLOCK_BYTES};
use crate::storage::crash::crash_point;
use crate::storage::ledger::LedgerError;
use crate::wire;
use anyhow::Result;
use libp2p::PeerId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_crypto::address::Address;
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::Link;
use swarm_protocol::pool::{
    Examination, ExamineFault, JobFate, Pool, PoolEffect, PoolEvent, PoolStory, State,
};
use swarm_protocol::query::{Answer, Fate, Holder, MAX_HOLDER_NODES, MAX_OPEN_JOBS, Query, ViewPlace};
use swarm_protocol::statement::{Body, Listing, Signed, Statement, Topic};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// Proofs fetched and checked at once, and inputs fetched at once.
const MAX_FETCHES: usize = 32;
/// Inputs of several blocks fetched at once; they take longer, and must not keep the others waiting.
const MAX_LARGE_FETCHES: usize = 4;
/// What an input of several blocks must come at, at least: this many bytes a second.
const MIN_INPUT_RATE: u64 = 64 << 10;
/// Pages of the view signed at once.
const MAX_VIEW_PAGES: usize = 4;
/// Nodes remembered of one wallet, the latest first: a stranger who repeats its statements must not be the only one.
const MAX_PEERS_PER_WALLET: usize = 4;
/// Wallets whose nodes are remembered.
const MAX_PEERS: usize = 65_536;

pub type OperatorInput = Input<PoolEvent, OperatorAsk>;

/// A question.
#[derive(Debug)]
pub enum OperatorAsk {
    /// Of a peer.
    Peer { query: Query, reply: ReplyHandle },
    /// Of whoever reads the metrics.
    Figures(oneshot::Sender<Figures>),
}

/// Which nodes a wallet was last heard from, directly.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<Mutex<BTreeMap<Address, Vec<PeerId>>>>);

impl Peers {
    pub fn note(&self, wallet: Address, peer: PeerId) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() < MAX_PEERS || peers.contains_key(&wallet) {
            let nodes = peers.entry(wallet).or_default();
            nodes.retain(|known| *known != peer);
            nodes.insert(0, peer);
            nodes.truncate(MAX_PEERS_PER_WALLET);
        }
    }

    pub fn forget(&self, peer: &PeerId) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, nodes| {
            nodes.retain(|known| known != peer);
            !nodes.is_empty()
        });
    }

    fn of(&self, wallet: &Address) -> Vec<PeerId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(wallet).cloned().unwrap_or_default()
    }
}

pub struct OperatorShell {
    key: SecretKey,
    content: Content,
    durable: Durable,
    clock: Clock,
    inbox: mpsc::Sender<OperatorInput>,
    peers: Peers,
    known: Known,
    inputs: Arc<Semaphore>,
    large_inputs: Arc<Semaphore>,
    proofs: Arc<Semaphore>,
    tree: Feed,
    pages: Arc<Semaphore>,
    metrics: PoolMetrics,
    office: Option<Arc<Office>>,
}

impl OperatorShell {
    pub fn new(
        key: SecretKey,
        content: Content,
        durable: Durable,
        clock: Clock,
        inbox: mpsc::Sender<OperatorInput>,
        metrics: PoolMetrics,
        office: Option<Arc<Office>>,
    ) -> Self {
        let tree = Feed::new(content.broken.clone());
        let fetches = || Arc::new(Semaphore::new(MAX_FETCHES));
        let (peers, known, inputs, proofs) = (Peers::default(), Known::default(), fetches(), fetches());
        let large_inputs = Arc::new(Semaphore::new(MAX_LARGE_FETCHES));
        let pages = Arc::new(Semaphore::new(MAX_VIEW_PAGES));
        Self {
            key,
            content,
            durable,
            clock,
            inbox,
            peers,
            known,
            inputs,
            large_inputs,
            proofs,
            tree,
            pages,
            metrics,
            office,
        }
    }

    pub fn operator(&self) -> Address {
        self.key.address()
    }

    pub fn peers(&self) -> Peers {
        self.peers.clone()
    }

    /// Where the changes of the tree are noted.
    pub fn feed(&self) -> Feed {
        self.tree.clone()
    }

    pub fn known(&self) -> Known {
        self.known.clone()
    }

    /// Keeps the state for the next start.
    pub async fn close(&mut self, state: &State) -> Result<()> {
        self.durable.checkpoint(state).await
    }

    /// A client with a job and a miner with a lease are known at once; everybody else when an epoch opens.
    fn learn(&self, pool: &Pool, story: &PoolStory) {
        match story {
            PoolStory::NewJob { client: wallet, .. } | PoolStory::Leased { wallet, .. } => {
                self.known.note(*wallet)
            }
            PoolStory::EpochOpened { .. } => self.known.replace(pool.state().known_wallets()),
            PoolStory::Refused { .. }
            | PoolStory::LeaseEnded { .. }
            | PoolStory::Accepted { .. }
            | PoolStory::Closed { .. }
            | PoolStory::MinerJoined { .. }
            | PoolStory::MinerOffline { .. }
            | PoolStory::EpochSealed { .. }
            | PoolStory::Settled { .. } => {}
        }
    }

    async fn store(&self, blocks: Vec<(cid::Cid, Vec<u8>)>) -> Result<()> {
        match self.content.store(blocks).await {
            Err(error @ BlockError::Disk(_)) => Err(error.into()),
            Err(error) => {
                tracing::error!("content was not stored, others cannot fetch it: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn publish(&mut self, topic: Topic, statement: &Statement) -> Result<()> {
        if let Body::EpochSealed(sealed) = &statement.body {
            self.durable.sign_header(sealed.epoch, &sealed.header)?;
        }
        let signed = statement.sign(&self.key);
        if let Err(error) = self.content.network.publish(wire::topic(topic), signed.encode()).await {
            tracing::warn!("a {} was not gossiped: {error}", statement.kind());
        }
        Ok(())
    }

    fn fetch_input(&self, job: Link, client: Address, cid: cid::Cid, bytes: u64, deadline: Instant) {
        let (content, inbox, peers) = (self.content.clone(), self.inbox.clone(), self.peers.clone());
        let is_large = bytes > MAX_BLOCK_BYTES as u64;
        let inputs = if is_large { self.large_inputs.clone() } else { self.inputs.clone() };
        let deadline = deadline + Duration::from_secs(bytes / MIN_INPUT_RATE);
        tokio::spawn(async move {
            let fetch = async {
                let _permit = inputs.acquire_owned().await.map_err(|e| e.to_string())?;
                content.input(cid, bytes, &peers.of(&client), deadline).await.map_err(|e| e.to_string())
            };
            let late = Err("it could not be fetched in time".to_owned());
            let outcome = timeout_at(deadline, fetch).await.unwrap_or(late);
            // The inbox is gone only when the process is.
            let _ = inbox.send(Input::Event(PoolEvent::InputFetched { job, outcome })).await;
        });
    }

    fn examine(&self, examination: Examination, deadline: Instant) {
        let (content, inbox, proofs) = (self.content.clone(), self.inbox.clone(), self.proofs.clone());
        let (peers, wallet) = (self.peers.clone(), examination.wallet);
        let (job, proof) = (examination.id, examination.proof_id);
        tokio::spawn(async move {
            let examine = async {
                let closed = |e: tokio::sync::AcquireError| ExamineFault::Unavailable(e.to_string());
                let _permit = proofs.acquire_owned().await.map_err(closed)?;
                content.examine(examination, &peers.of(&wallet), deadline).await
            };
            let late = Err(ExamineFault::Unavailable("its content could not be fetched in time".to_owned()));
            let outcome = timeout_at(deadline, examine).await.unwrap_or(late);
            let _ = inbox.send(Input::Event(PoolEvent::Examined { job, proof, outcome })).await;
        });
    }

    fn sign(&self, statement: &Statement) -> Signed {
        statement.sign(&self.key)
    }

    fn fate(&self, pool: &Pool, job: &Link) -> Fate {
        match pool.fate(job) {
            JobFate::Unknown => Fate::Unknown,
            JobFate::Pending { attempt, ahead } => Fate::Pending { attempt, ahead },
            JobFate::Leased { lease, wallet, name, term, units, proven } => {
                Fate::Leased { lease, wallet, name, term, units, proven }
            }
            JobFate::Accepted(receipt, name) => Fate::Accepted { receipt: self.sign(&receipt), name },
            JobFate::Ended(refusal) => Fate::Ended { refusal: self.sign(&refusal) },
        }
    }

    /// Who runs the job, and from which nodes it has spoken lately.
    fn holder(&self, pool: &Pool, job: &Link) -> Option<Holder> {
        let JobFate::Leased { lease, wallet, .. } = pool.fate(job) else { return None };
        let nodes = self.peers.of(&wallet).iter().map(PeerId::to_string).take(MAX_HOLDER_NODES).collect();
        Some(Holder { lease, wallet, nodes })
    }

    fn listings(&self, pool: &Pool, wallet: &Address, models: &[String]) -> Vec<Signed> {
        let now = self.clock.now();
        let entries = pool.open_jobs(wallet, models, MAX_OPEN_JOBS, now);
        if entries.is_empty() {
            return Vec::new();
        }
        let body = Body::Listing(Listing { entries });
        vec![self.sign(&Statement::derived(pool.id(), self.operator(), now, body))]
    }

    /// A page of the view has more signatures than the pool should wait for.
    fn answer_view(&self, pool: &Pool, from: &ViewPlace, reply: ReplyHandle) {
        let page = pool.view_page(from, self.clock.now());
        let (key, permit) = (self.key.clone(), self.pages.clone().try_acquire_owned());
        tokio::spawn(async move {
            let answer = match permit {
                Ok(_permit) => {
                    let ours = page.unsigned.iter().map(|statement| statement.sign(&key));
                    Answer::View {
                        statements: page.signed.into_iter().chain(ours).collect(),
                        next: page.next,
                    }
                }
                Err(_) => Answer::Error("many ask for the view; ask again in a second".to_owned()),
            };
            send(reply, &answer).await;
        });
    }

    fn reply(&self, pool: &Pool, query: Query) -> Answer {
        let now = self.clock.now();
        match query {
            Query::Hand(_) => Answer::Error("statements are taken before they get here".to_owned()),
            Query::OpenJobs { wallet, models } => Answer::Jobs(self.listings(pool, &wallet, &models)),
            Query::Job { job } => Answer::Fate(self.fate(pool, &job)),
            Query::Roster { wallet } => Answer::Roster(pool.roster_entry(&wallet).cloned()),
            Query::Beacon => Answer::Pool {
                beacon: self.sign(&pool.beacon_statement(now)),
                opened: self.sign(&pool.epoch_opened(now)),
            },
            Query::Snapshot { job } => Answer::Snapshot(pool.snapshot(&job)),
            Query::Sealed => Answer::Sealed(pool.epoch_sealed(now).map(|sealed| self.sign(&sealed))),
            Query::Account { wallet } => Answer::Account(pool.balances(&wallet)),
            Query::Holder { job } => Answer::Holder(self.holder(pool, &job)),
            Query::Stream { .. } => {
                Answer::Error("ask the miner that runs the job: holder says who".to_owned())
            }
            Query::View { .. } => Answer::Error("a page of the view is not a plain answer".to_owned()),
        }
    }
}

impl Shell<Pool> for OperatorShell {
    type Ask = OperatorAsk;

    async fn perform(&mut self, pool: &Pool, effects: Vec<PoolEffect>) -> Result<Flow> {
        if let Some(error) = self.content.broken.get() {
            return Err(error.clone().into());
        }
        // Another may be active by now: what this one would say is not true any more.
        if self.office.as_ref().is_some_and(|office| !office.is_sure()) {
            return Err(LedgerError::Deposed("unknown, as this one was held up".to_owned()).into());
        }
        let (mut rows, mut blocks, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                PoolEffect::Record(row) => rows.push(row),
                PoolEffect::Store(block) => blocks.push((Link::of(&block).cid(), block)),
                other => rest.push(other),
            }
        }
        let opens_epoch = rest.iter().any(|e| matches!(e, PoolEffect::Story(PoolStory::EpochOpened { .. })));
        // Content first: a record must not name a block that a crash could have kept from the disk.
        if !blocks.is_empty() {
            self.store(blocks).await?;
        }
        if !rows.is_empty() {
            self.durable.append(rows).await?;
        }
        if opens_epoch {
            crash_point("after-boundary");
        }
        let deadline = Instant::now() + Duration::from_millis(pool.state().posted().fetch.0);
        for effect in rest {
            crash_point("between-effects");
            match effect {
                PoolEffect::Publish(topic, statement) => self.publish(topic, &statement).await?,
                PoolEffect::FetchInput { job, client, cid, bytes } => {
                    self.fetch_input(job, client, cid, bytes, deadline);
                }
                PoolEffect::Examine(examination) => self.examine(*examination, deadline),
                PoolEffect::Story(story) => {
                    self.learn(pool, &story);
                    self.metrics.note(&story);
                    story::tell(&story);
                    if let PoolStory::EpochSealed { header, .. } = story {
                        self.durable.sealed(header);
                    }
                }
                PoolEffect::Tree(changes) => self.tree.note(*changes),
                PoolEffect::Record(_) | PoolEffect::Store(_) => {}
            }
        }
        if opens_epoch {
            story::tell_holdings(&pool.holdings());
        }
        if opens_epoch || self.durable.is_checkpoint_due(pool.state()) {
            self.durable.checkpoint(pool.state()).await?;
        }
        Ok(Flow::Continue)
    }

    async fn answer(&mut self, pool: &Pool, ask: OperatorAsk) {
        if self.office.as_ref().is_some_and(|office| !office.is_sure()) {
            return;
        }
        match ask {
            OperatorAsk::Peer { query: Query::View { from }, reply } => self.answer_view(pool, &from, reply),
            OperatorAsk::Peer { query, reply } => send(reply, &self.reply(pool, query)).await,
            // Whoever asked may have given up.
            OperatorAsk::Figures(answer) => _ = answer.send(Figures::of(pool, self.clock.now())),
        }
    }
}

async fn send(reply: ReplyHandle, answer: &Answer) {
    if let Err(error) = reply.send(answer.encode()).await {
        tracing::debug!("an answer did not arrive: {error}");
    }
}
