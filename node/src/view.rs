//! Everyone's view of the pool as this node keeps it: from gossip, and page by page from the operator.

use crate::evidence::Witness;
use crate::link::Link;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_crypto::address::Address;
use swarm_protocol::codec::JobId;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::query::{Answer, Query, ViewPlace};
use swarm_protocol::statement::{Beacon, Body, EpochOpened, Signed, Verified};
use swarm_protocol::view::View;
use swarm_protocol::{Millis, Posted, Timestamp};
use tokio_util::sync::CancellationToken;

/// In a node's folder: what contradicts itself of what the operator signed.
pub const EVIDENCE_FOLDER: &str = "evidence";
/// Jobs whose terms are remembered; the first one learnt is forgotten first.
pub const MAX_TERMS: usize = 50_000;
/// Jobs that a complete reading did not name and that are asked for by name after it.
pub const MAX_ASKED_BY_NAME: usize = 64;
/// What was stated longer ago is forgotten.
const KEEP: Millis = Millis::from_secs(24 * 3600);
/// A reading that was interrupted for longer begins anew.
const MAX_INTERRUPTION: Millis = Millis::from_secs(900);
/// Heartbeats missed until a miner counts as gone.
const MISSED_HEARTBEATS: u64 = 3;
/// Before an operator that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(5);

/// What a job is, beyond where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The model.
    pub model: String,
    /// The price.
    pub price: MicroUsdc,
    /// Who pays, once the job itself or its receipt was seen.
    pub client: Option<Address>,
    /// When it was listed or signed.
    pub since: Timestamp,
    /// Who was paid, once a receipt was seen.
    pub earner: Option<Address>,
}

/// What was heard of a pool, all of it verified.
#[derive(Debug, Default)]
pub struct Heard {
    /// Jobs, miners and epochs.
    pub view: View,
    /// The operator's last beacon, and when it was made.
    pub beacon: Option<(Beacon, Timestamp)>,
    /// What opened the open epoch, and when, if that was heard as it happened.
    pub opened: Option<(EpochOpened, Option<Timestamp>)>,
    /// When the operator made the newest of the statements seen, by its own clock.
    pub operator_at: Timestamp,
    /// When that was heard, by ours.
    pub heard_at: Timestamp,
    terms: BTreeMap<JobId, Terms>,
    order: VecDeque<JobId>,
    reading: Option<Reading>,
    witness: Witness,
}

/// How far the pages of the operator have been read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    begun: Timestamp,
    place: ViewPlace,
    at: Timestamp,
}

impl Heard {
    /// What a job is.
    pub fn terms(&self, job: &JobId) -> Option<&Terms> {
        self.terms.get(job)
    }

    /// The numbers in force.
    pub fn posted(&self) -> Posted {
        self.beacon.as_ref().map(|(beacon, _)| beacon.posted.clone()).unwrap_or_default()
    }

    /// A miner is alive for so long after its last heartbeat.
    pub fn patience(&self) -> Millis {
        self.posted().heartbeat.times(MISSED_HEARTBEATS).max(Millis::from_secs(1))
    }

    /// How many miners are alive.
    pub fn live_miners(&self, now: Timestamp) -> usize {
        self.view.live_miners(now, self.patience())
    }

    /// Takes a statement in; the operator also says again, when asked, what it said long ago.
    pub fn hear(&mut self, verified: &Verified, operator: Address, asked: bool, now: Timestamp) {
        let statement = verified.statement();
        let (by, at) = (statement.header.by, statement.header.at);
        // What is repeated says nothing of now.
        if by == operator && at > self.operator_at {
            (self.operator_at, self.heard_at) = (at, now);
        }
        match &statement.body {
            Body::Job(job) => self.learn(verified.id(), &job.model, job.price, Some(by), at),
            Body::Listing(listing) => {
                for entry in &listing.entries {
                    self.learn(entry.job, &entry.model, entry.price, None, entry.listed_at);
                }
            }
            Body::Receipt(receipt) => {
                self.learn(receipt.job, "", receipt.price, Some(receipt.client), at);
                if let Some(terms) = self.terms.get_mut(&receipt.job) {
                    terms.earner = Some(receipt.wallet);
                }
            }
            Body::Beacon(beacon) if self.beacon.as_ref().is_none_or(|(_, before)| *before < at) => {
                self.beacon = Some((beacon.clone(), at));
            }
            Body::EpochOpened(opened) => self.open(opened, (!asked).then_some(at)),
            _ => {}
        }
        if by == operator
            && let Some(path) = self.witness.hear(verified)
        {
            tell_evidence(&path);
        }
        self.view.apply(verified);
    }

    fn open(&mut self, opened: &EpochOpened, at: Option<Timestamp>) {
        match &mut self.opened {
            // An operator that starts again says it again: the first time was at the opening.
            Some((known, since)) if known.epoch == opened.epoch => {
                *since = since.iter().copied().chain(at).min();
            }
            Some((known, _)) if known.epoch > opened.epoch => {}
            _ => self.opened = Some((opened.clone(), at)),
        }
    }

    /// Learns what a job is.
    pub fn learn(
        &mut self,
        job: JobId,
        model: &str,
        price: MicroUsdc,
        client: Option<Address>,
        since: Timestamp,
    ) {
        if let Some(known) = self.terms.get_mut(&job) {
            known.client = known.client.or(client);
            if known.model.is_empty() {
                known.model = model.to_owned();
            }
            return;
        }
        let model = model.to_owned();
        self.terms.insert(job, Terms { model, price, client, since, earner: None });
        self.order.push_back(job);
        if self.order.len() > MAX_TERMS
            && let Some(first) = self.order.pop_front()
        {
            self.terms.remove(&first);
        }
    }
}

fn tell_evidence(path: &Path) {
    tracing::warn!(
        "the operator has contradicted itself; anybody can check it: swarm-client verify {}",
        path.display()
    );
}

/// The view of one node, shared by those who listen and those who look.
#[derive(Debug, Clone, Default)]
pub struct LiveView(Arc<Mutex<Heard>>);

impl LiveView {
    /// A view that keeps evidence against the operator in this folder.
    pub fn keeping(folder: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Heard { witness: Witness::keeping(folder), ..Heard::default() })))
    }

    /// What was heard so far; hold it only for as long as it takes to look.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the operator told an auditor, and the proof that says otherwise.
    pub fn keep_misled(&self, [told, proof]: &[Signed; 2]) {
        if let Some(path) = self.heard().witness.keep_misled(told, proof) {
            tell_evidence(&path);
        }
    }

    /// Takes a gossiped statement in.
    pub fn hear(&self, link: &Link, verified: &Verified) {
        self.heard().hear(verified, link.operator(), false, link.now());
    }

    /// Takes in a statement that somebody sent when asked.
    pub fn hear_answer(&self, link: &Link, verified: &Verified) {
        self.heard().hear(verified, link.operator(), true, link.now());
    }

    /// Reads on in the operator's pages, at most `pages` of them; false if the operator does not answer. The next
    /// reading goes on where this one ends.
    pub async fn read(&self, link: &Link, pages: usize) -> bool {
        let Some(mut reading) = self.take_up(link).await else { return false };
        for _ in 0..pages {
            let Some(Answer::View { next, .. }) = self.ask(link, Query::View { from: reading.place }).await
            else {
                return false;
            };
            let Some(place) = next else {
                self.heard().reading = None;
                self.settle(link, reading.begun).await;
                return true;
            };
            reading = Reading { place, at: link.now(), ..reading };
            self.heard().reading = Some(reading);
        }
        true
    }

    /// Reads on every `interval` until `stop`.
    pub async fn keep(self, link: Link, pages: usize, interval: Duration, stop: CancellationToken) {
        loop {
            let work = async {
                let pause = if self.read(&link, pages).await { interval } else { interval.min(PAUSE) };
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Where the last reading stopped, or the beginning: then the operator's beacon says what time it is.
    async fn take_up(&self, link: &Link) -> Option<Reading> {
        let now = link.now();
        let kept = self.heard().reading.filter(|kept| now.since(kept.at) <= MAX_INTERRUPTION);
        if kept.is_some() {
            return kept;
        }
        self.ask(link, Query::Beacon).await?;
        let mut heard = self.heard();
        let begun = heard.beacon.as_ref().map(|(_, at)| *at)?;
        heard.view.raise_floor(begun - KEEP);
        Some(Reading { begun, place: ViewPlace::START, at: now })
    }

    /// Asks what became of open jobs that no page named.
    async fn settle(&self, link: &Link, begun: Timestamp) {
        let unstated: Vec<JobId> = self.heard().view.unstated(begun).take(MAX_ASKED_BY_NAME).collect();
        for job in unstated {
            if self.ask(link, Query::Job { job }).await.is_none() {
                return;
            }
        }
    }

    /// Asks the operator, and takes in what is signed of its answer.
    pub async fn ask(&self, link: &Link, query: Query) -> Option<Answer> {
        let answer = link.ask(query).await?;
        for verified in link.statements_of(&answer) {
            self.hear_answer(link, &verified);
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_crypto::address::PoolId;
    use swarm_crypto::key::SecretKey;
    use swarm_protocol::codec::Link as Cid;
    use swarm_protocol::statement::{Asset, EpochSealed, Intake, Listing, ListingEntry, Statement};
    use swarm_protocol::statement::{Assurance, PayoutMode, Receipt};
    use swarm_protocol::view::JobState;

    const START: Timestamp = Timestamp(1_800_000_000_000);
    const JOB: Cid = Cid([1; 32]);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32]).unwrap()
    }

    fn said(at: u64, body: impl Into<Body>) -> Verified {
        let (operator, at) = (key(1).address(), START + Millis(at));
        let pool = PoolId::derive("swarmpool.eth", operator, 0, Address::ZERO);
        let signed = Statement::derived(pool, operator, at, body.into()).sign(&key(1));
        Intake::new(pool, operator).verify(None, &signed.encode(), at).unwrap()
    }

    fn hear(heard: &mut Heard, statement: &Verified, asked: bool, now: u64) {
        heard.hear(statement, key(1).address(), asked, START + Millis(now));
    }

    fn sealed(at: u64) -> Verified {
        said(at, EpochSealed { epoch: 0, header: JOB })
    }

    fn opened(at: u64, epoch: u64) -> Verified {
        said(
            at,
            EpochOpened {
                epoch,
                secret_hash: swarm_crypto::digest::Digest::ZERO,
                roster: JOB,
                posted: Posted::default(),
            },
        )
    }

    #[test]
    fn what_is_repeated_does_not_make_the_view_younger() {
        let mut heard = Heard::default();
        hear(&mut heard, &sealed(5), false, 7);
        hear(&mut heard, &sealed(5), false, 60);
        hear(&mut heard, &sealed(4), true, 61);
        assert_eq!((heard.operator_at, heard.heard_at), (START + Millis(5), START + Millis(7)));
        hear(&mut heard, &sealed(6), false, 90);
        assert_eq!((heard.operator_at, heard.heard_at), (START + Millis(6), START + Millis(90)));
    }

    #[test]
    fn an_epoch_is_known_since_it_opened_if_that_was_heard() {
        let mut heard = Heard::default();
        let since = |heard: &Heard| heard.opened.as_ref().map(|(known, since)| (known.epoch, *since));
        hear(&mut heard, &opened(10, 3), true, 10);
        assert_eq!(since(&heard), Some((3, None)));
        hear(&mut heard, &opened(20, 4), false, 20);
        hear(&mut heard, &opened(30, 4), true, 30);
        hear(&mut heard, &opened(40, 4), false, 40);
        hear(&mut heard, &opened(50, 3), false, 50);
        assert_eq!(since(&heard), Some((4, Some(START + Millis(20)))));
    }

    #[test]
    fn what_a_job_is_comes_together_from_what_is_said_of_it() {
        let entry = ListingEntry {
            job: JOB,
            attempt: 1,
            seed: swarm_crypto::digest::Digest::ZERO,
            epoch: 0,
            model: "m".into(),
            price: MicroUsdc(100),
            assurance: Assurance::Seeded,
            vram_mb: 0,
            listed_at: START,
            free: (1, 1),
        };
        let (client, wallet) = (key(3).address(), key(4).address());
        let receipt = Receipt {
            pps: None,
            job: JOB,
            proof: JOB,
            client,
            wallet,
            epoch: 0,
            index: 0,
            leaf: swarm_crypto::digest::Digest::ZERO,
            price: MicroUsdc(100),
            miner_part: MicroUsdc(75),
            operator_part: MicroUsdc(25),
            units: 1,
            mode: PayoutMode::Solo,
            asset: Asset::Test,
            output: swarm_protocol::codec::raw_cid(b"x"),
            output_bytes: 1,
            held_until: 2,
        };
        let mut heard = Heard::default();
        hear(&mut heard, &said(0, Listing { entries: vec![entry] }), false, 0);
        hear(&mut heard, &said(2, receipt), false, 2);
        let whole = Terms {
            model: "m".into(),
            price: MicroUsdc(100),
            client: Some(client),
            since: START,
            earner: Some(wallet),
        };
        assert_eq!(heard.terms(&JOB), Some(&whole));
        assert!(matches!(heard.view.job(&JOB), Some(JobState::Accepted { .. })));
    }

    #[test]
    fn the_terms_of_no_more_jobs_are_kept_than_is_allowed() {
        let mut heard = Heard::default();
        for n in 0..=MAX_TERMS as u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            heard.learn(Cid(id), "m", MicroUsdc(4), None, START);
        }
        assert_eq!((heard.terms.len(), heard.order.len()), (MAX_TERMS, MAX_TERMS));
        assert!(heard.terms(&Cid([0; 32])).is_none());
    }
}
