//! How a client comes to know the pool: it listens, and goes on asking the operator for what gossip does not say.

use super::Session;
use super::saved::Saved;
use super::survey::{self, Sources, Survey};
use crate::link::{Heard, Link};
use crate::network::{NetworkEvent, Until};
use crate::tables::PeerRow;
use crate::view::{EVIDENCE_FOLDER, LiveView};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_crypto::address::Address;
use swarm_protocol::codec::{self, JobId, Link as Cid};
use swarm_protocol::pool::EpochHeader;
use swarm_protocol::query::{Answer, Balances, Query};
use swarm_protocol::statement::{Body, Statement, Verified};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pages of the operator read in one go: 4,096 pending jobs.
const MAX_PAGES: usize = 256;
/// Of the client's kept jobs, those followed.
const MAX_OWN_JOBS: usize = 64;
/// Questions under way at once.
const MAX_QUESTIONS: usize = 8;
/// Sealed epochs whose headers are fetched.
const MAX_HEADERS: usize = 24;
const MAX_HEADER_BYTES: usize = 1024 * 1024;
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to look for a header that nobody has: it is looked for again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two readings of all pages.
const READ_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks at what costs little: the beacon, the balances, the client's own jobs, new headers.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What gossip does not say.
#[derive(Debug, Default)]
struct Asked {
    answers: bool,
    balances: Option<Balances>,
    mine: BTreeSet<JobId>,
    /// Those of them whose fate the operator was asked for and told.
    told: BTreeSet<JobId>,
    headers: BTreeMap<u64, (Cid, EpochHeader)>,
}

/// A client's eyes and ears.
#[derive(Clone)]
pub(crate) struct Lookout {
    link: Link,
    view: LiveView,
    pool: String,
    wallet: Address,
    saved: Saved,
    asked: Arc<Mutex<Asked>>,
}

impl Lookout {
    /// Begins with what the operator's introduction said.
    pub fn new(session: &Session, link: Link, introduction: &[&Verified]) -> Self {
        let view = LiveView::keeping(session.saved.folder().join(EVIDENCE_FOLDER));
        let asked = Arc::new(Mutex::new(Asked { answers: true, ..Asked::default() }));
        introduction.iter().for_each(|statement| view.hear_answer(&link, statement));
        let (pool, wallet) = (session.args.pool.pool.clone(), session.key.address());
        Self { link, view, pool, wallet, saved: session.saved.clone(), asked }
    }

    /// Takes in what the network says, until it ends.
    pub async fn listen(self, mut events: mpsc::Receiver<NetworkEvent>) {
        while let Some(event) = events.recv().await {
            match self.link.hear(event).await {
                Heard::Statement(verified) | Heard::Moved(verified) => self.view.hear(&self.link, &verified),
                Heard::MaybeOperator(peer) => {
                    let lookout = self.clone();
                    tokio::spawn(async move {
                        if lookout.link.recognise(peer).await {
                            lookout.gather().await;
                        }
                    });
                }
                Heard::Disconnected => self.asked().answers = false,
                Heard::Nothing => {}
            }
        }
    }

    /// Goes on asking until `stop`.
    pub async fn keep_asking(self, stop: CancellationToken) {
        let reading = self.view.clone().keep(self.link.clone(), MAX_PAGES, READ_INTERVAL, stop.clone());
        let looking = async {
            while !stop.is_cancelled() {
                self.look().await;
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            () = reading => {}
            () = looking => {}
        }
    }

    /// Asks for everything once.
    pub async fn gather(&self) {
        self.look().await;
        self.view.read(&self.link, MAX_PAGES).await;
    }

    /// What is known now.
    pub async fn survey(&self) -> Survey {
        let peers = self.link.network().peers().await.unwrap_or_default();
        let asked = self.asked();
        let sources = Sources {
            wallet: self.wallet,
            now: self.link.now(),
            mine: &asked.mine,
            balances: asked.balances,
            headers: &asked.headers,
        };
        let survey = survey::of(&self.view.heard(), &sources);
        Survey {
            pool: self.pool.clone(),
            operator: self.link.operator().to_string(),
            operator_in_reach: asked.answers && self.link.peer().is_some(),
            peers: peers.iter().map(PeerRow::of).collect(),
            ..survey
        }
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) {
        let beacon = self.view.ask(&self.link, Query::Beacon).await;
        self.asked().answers = beacon.is_some();
        if beacon.is_none() {
            return;
        }
        if let Some(Answer::Account(balances)) = self.link.ask(Query::Account { wallet: self.wallet }).await {
            self.asked().balances = Some(balances);
        }
        self.view.ask(&self.link, Query::Sealed).await;
        self.look_for_own_jobs().await;
        self.fetch_headers().await;
    }

    /// A client that was not listening when its jobs ended asks for each by name.
    async fn look_for_own_jobs(&self) {
        let saved = self.saved.clone();
        let kept = tokio::task::spawn_blocking(move || saved.newest_jobs(MAX_OWN_JOBS));
        let mut mine = BTreeSet::new();
        for signed in kept.await.unwrap_or_default() {
            let Ok(Statement { header, body: Body::Job(job) }) = Statement::decode(&signed.payload) else {
                continue;
            };
            if header.pool == self.link.pool() && header.by == self.wallet {
                self.view.heard().learn(signed.id(), &job.model, job.price, Some(header.by), header.at);
                mine.insert(signed.id());
            }
        }
        let unseen: Vec<JobId> = {
            let mut asked = self.asked();
            let heard = self.view.heard();
            asked.told.retain(|job| mine.contains(job));
            let unseen = mine.iter().filter(|job| !asked.told.contains(job) && heard.view.job(job).is_none());
            let unseen = unseen.copied().collect();
            asked.mine = mine;
            unseen
        };
        let ask = async |job| {
            if self.view.ask(&self.link, Query::Job { job }).await.is_some() {
                self.asked().told.insert(job);
            }
        };
        futures::stream::iter(unseen).map(ask).buffer_unordered(MAX_QUESTIONS).for_each(async |()| {}).await;
    }

    /// Walks back from the newest sealed epoch: each header names the one before it.
    async fn fetch_headers(&self) {
        let Some((mut epoch, mut link)) = self.view.heard().view.sealed().next_back() else { return };
        for _ in 0..MAX_HEADERS {
            let known = self.asked().headers.get(&epoch).cloned().filter(|(known, _)| *known == link);
            let header = match known {
                Some((_, header)) => header,
                None => match self.header(epoch, &link).await {
                    Some(header) => header,
                    None => return,
                },
            };
            let previous = header.previous;
            let mut asked = self.asked();
            asked.headers.insert(epoch, (link, header));
            while asked.headers.len() > MAX_HEADERS {
                asked.headers.pop_first();
            }
            drop(asked);
            let (Some(before), Some(number)) = (previous, epoch.checked_sub(1)) else { return };
            (epoch, link) = (number, before);
        }
    }

    async fn header(&self, epoch: u64, link: &Cid) -> Option<EpochHeader> {
        let from: Vec<_> = self.link.peer().into_iter().collect();
        let now = Instant::now();
        let until = Until { found: now + PATIENCE, fetched: now + FETCH_TIMEOUT };
        let block = self.link.network().fetch(&link.cid(), &from, MAX_HEADER_BYTES, until).await.ok()?;
        let header: EpochHeader = codec::decode(&block).ok()?;
        (header.epoch == epoch && header.pool == self.link.pool()).then_some(header)
    }
}
