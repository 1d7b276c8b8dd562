//! Scripts: what happens to a miner, and what it does then.

mod altered;
mod audits;
mod duty;
mod lease;
mod race;

use super::*;
use crate::Posted;
use crate::codec::Link;
use crate::money::MicroUsdc;
use crate::query::Query;
use crate::race::{Roster, RosterEntry};
use crate::statement::{
    Asset, Assurance, Beacon, EpochOpened, Input, Intake, Job, JobType, Lease, Listing, ListingEntry, Params,
    PayoutMode, Signed, lease_id,
};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::key::SecretKey;

pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);
const OPERATOR: u8 = 1;
const MINER: u8 = 2;
const CLIENT: u8 = 9;

pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

pub(super) fn wallet(n: u8) -> Address {
    key(n).address()
}

pub(super) fn pool() -> PoolId {
    PoolId::derive("swarmpool.eth", wallet(OPERATOR), 0, Address::ZERO)
}

pub(super) fn config(slots: u32) -> Config {
    Config {
        pool: pool(),
        wallet: wallet(MINER),
        slots,
        models: vec![ModelTerms {
            model: "queenbee-nano".into(),
            assurances: vec![Assurance::Seeded],
            min_price: MicroUsdc(1000),
            vram_mb: 100,
        }],
        mode: PayoutMode::Solo,
        ens: Some("alice.eth".into()),
        device: "cpu".into(),
        vram_mb: 500,
        boot_at: START,
        audit_secret: AuditSecret::of(&[MINER; 32]),
        altering: None,
    }
}

/// Job number `n` of the client.
pub(super) fn job(n: u64) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: "queenbee-nano".into(),
        input: Input::Text("Once".into()),
        params: Params { max_tokens: 16, temperature: 0, top_p: 10_000, seed: Some(n), stop: vec![] },
        price: MicroUsdc(100_000),
        not_after: START + Millis::from_secs(120),
        max_runtime_s: 30,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

pub(super) fn signed_job(n: u64) -> Signed {
    Statement::derived(pool(), wallet(CLIENT), START, job(n).into()).sign(&key(CLIENT))
}

/// First attempt at job `n`, with a seed that opens class 1 to nobody and weights that let all claim in step 0.
pub(super) fn entry(n: u64) -> ListingEntry {
    let mut seed = Digest([u8::try_from(n % 200).unwrap(); 32]);
    while crate::race::opens_class_1(&seed) {
        seed.0[31] ^= 1;
    }
    ListingEntry {
        job: signed_job(n).id(),
        attempt: 1,
        seed,
        epoch: 3,
        model: "queenbee-nano".into(),
        price: MicroUsdc(100_000),
        assurance: Assurance::Seeded,
        vram_mb: 0,
        listed_at: START + Millis(1),
        free: (4, 4),
    }
}

pub(super) fn listing(entry: ListingEntry) -> Listing {
    Listing { entries: vec![entry] }
}

pub(super) fn lease(entry: &ListingEntry, to: u8, until: Timestamp) -> Lease {
    let ListingEntry { job, attempt: term, seed, .. } = *entry;
    let wallet = wallet(to);
    let lease = lease_id(&pool(), &job, term, &wallet, &seed);
    Lease { lease, job, term, wallet, seed, window: 0, claims: vec![], until }
}

pub(super) fn in_roster(n: u8, established: bool) -> RosterEntry {
    RosterEntry {
        mode: crate::statement::PayoutMode::Solo,
        wallet: wallet(n),
        w: 1,
        fee168: MicroUsdc(0),
        loss24: 0,
        established,
        models: vec!["queenbee-nano".into()],
        slots: 1,
    }
}

pub(super) fn roster(mut entries: Vec<RosterEntry>) -> Roster {
    entries.sort_by_key(|entry| entry.wallet);
    Roster(entries)
}

/// A miner with its clock, and what it did.
pub(super) struct Script {
    pub(super) miner: Miner,
    pub(super) now: Timestamp,
    intake: Intake,
    pub(super) done: Vec<Effect>,
}

impl Script {
    pub(super) fn new(config: Config) -> Self {
        let intake = Intake::new(pool(), wallet(OPERATOR));
        Self { miner: Miner::new(config), now: START, intake, done: vec![] }
    }

    /// Connected, in epoch 3, knowing `roster`.
    pub(super) fn started(slots: u32, roster: Roster) -> Self {
        Self::started_as(config(slots), roster)
    }

    fn started_as(config: Config, roster: Roster) -> Self {
        let mut script = Self::new(config);
        script.does(Event::Connected);
        script.hears(OPERATOR, opened(3, &roster));
        script.does(Event::RosterLearned { epoch: 3, roster: roster.into() });
        script.wait(1);
        script
    }

    /// An established miner with so many slots.
    pub(super) fn established(slots: u32) -> Self {
        Self::started(slots, roster(vec![in_roster(MINER, true)]))
    }

    pub(super) fn verified(&mut self, by: u8, body: impl Into<Body>) -> Verified {
        let signed = Statement::derived(pool(), wallet(by), self.now, body.into()).sign(&key(by));
        self.intake.verify(None, &signed.encode(), self.now).unwrap()
    }

    /// The miner handles the event; what it does then, in short.
    pub(super) fn does(&mut self, event: Event) -> Vec<String> {
        self.miner.handle(event, self.now);
        self.drain_effects()
    }

    pub(super) fn hears(&mut self, by: u8, body: impl Into<Body>) -> Vec<String> {
        let verified = self.verified(by, body);
        self.does(Event::Heard(Box::new(verified)))
    }

    pub(super) fn is_offered(&mut self, entry: ListingEntry) -> Vec<String> {
        let verified = self.verified(OPERATOR, listing(entry));
        self.does(Event::OpenJobs(vec![verified]))
    }

    /// Lets time pass, waking the miner whenever it wants; what it does meanwhile, with heartbeats and questions for
    /// open jobs left out.
    pub(super) fn wait(&mut self, ms: u64) -> Vec<String> {
        self.wait_all(ms).into_iter().filter(|line| !is_routine(line)).collect()
    }

    pub(super) fn wait_all(&mut self, ms: u64) -> Vec<String> {
        let end = self.now + Millis(ms);
        self.miner.handle_timeout(self.now);
        let mut lines = self.drain_effects();
        while let Some(due) = self.miner.poll_timeout().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.miner.handle_timeout(self.now);
            lines.extend(self.drain_effects());
        }
        self.now = end;
        lines
    }

    fn drain_effects(&mut self) -> Vec<String> {
        self.done.clear();
        self.done.extend(std::iter::from_fn(|| self.miner.poll_effect()));
        let due = self.miner.poll_timeout();
        assert!(due.is_none_or(|due| due > self.now), "what is due is done: {due:?} at {:?}", self.now);
        self.done.iter().map(short).collect()
    }

    /// The one effect of the last event that `pick` picks.
    pub(super) fn last<T>(&self, pick: impl Fn(&Effect) -> Option<T>) -> T {
        self.done.iter().find_map(pick).expect("the effect is there")
    }

    /// Wins job `n`.
    pub(super) fn wins(&mut self, n: u64) -> Lease {
        self.hears(OPERATOR, listing(entry(n)));
        let lease = lease(&entry(n), MINER, self.now + Millis::from_secs(60));
        let lines = self.hears(OPERATOR, lease.clone());
        assert_eq!(lines[..2], ["won", "prepare"]);
        lease
    }

    /// Wins job `n` and has its engine run.
    pub(super) fn runs(&mut self, n: u64) -> Lease {
        let lease = self.wins(n);
        let content = self.content(n);
        assert_eq!(self.does(Event::JobReady { lease: lease.lease, content }), ["executing", "infer"]);
        lease
    }

    pub(super) fn content(&mut self, n: u64) -> Result<Box<Content>, String> {
        let job = self.intake.verify(None, &signed_job(n).encode(), START).unwrap();
        Ok(Box::new(Content { job, linked: None }))
    }
}

pub(super) fn opened(epoch: u64, roster: &Roster) -> EpochOpened {
    EpochOpened { epoch, secret_hash: Digest::ZERO, roster: roster.link(), posted: Posted::default() }
}

pub(super) fn beacon(epoch: u64, pending: u64) -> Beacon {
    Beacon {
        node: None,
        name: "swarmpool.eth".into(),
        asset: Asset::Test,
        chain: 0,
        contract: Address::ZERO,
        epoch,
        pending,
        leased: 0,
        models: vec![],
        posted: Posted::default(),
        tree: None,
    }
}

fn is_routine(line: &str) -> bool {
    ["ask open jobs", "publish heartbeat", "hand heartbeat"].contains(&line)
}

fn short(effect: &Effect) -> String {
    match effect {
        Effect::Publish(topic, statement) => {
            assert!(statement.kind().topics().contains(topic), "{topic:?}");
            format!("publish {}", statement.kind())
        }
        Effect::Hand(statement) => format!("hand {}", statement.kind()),
        Effect::Ask(Query::OpenJobs { .. }) => "ask open jobs".into(),
        Effect::Ask(Query::Job { .. }) => "ask job".into(),
        Effect::Ask(Query::Beacon) => "ask beacon".into(),
        Effect::Ask(query) => format!("ask {query:?}"),
        Effect::FetchRoster { epoch, .. } => format!("fetch roster {epoch}"),
        Effect::Prepare { .. } => "prepare".into(),
        Effect::Infer(_) => "infer".into(),
        Effect::Audit(picked) => format!("look at {}", picked.index),
        Effect::Evidence(_) => "evidence".into(),
        Effect::Abort { .. } => "abort".into(),
        Effect::Finished => "finished".into(),
        Effect::Story(story) => tale(story),
    }
}

fn tale(story: &Story) -> String {
    match story {
        Story::NewJob { .. } => "new job".into(),
        Story::Declined { reason, .. } => format!("declined: {reason}"),
        Story::Claiming { class, waited, .. } => format!("claiming in class {class} after {waited}"),
        Story::Won { .. } => "won".into(),
        Story::Lost { to, .. } => format!("lost to {}", (3..9).find(|n| wallet(*n) == *to).unwrap()),
        Story::Executing { .. } => "executing".into(),
        Story::ProofSubmitted { .. } => "proof submitted".into(),
        Story::Earned { amount, .. } => format!("earned {amount}"),
        Story::Shared { units, .. } => format!("earned {units} units"),
        Story::Underpaid { due, paid, .. } => format!("underpaid: {paid} of {due}"),
        Story::Refused { reason, .. } => format!("refused: {reason:?}"),
        Story::LeaseLost { cause, .. } => format!("lease lost: {cause:?}"),
        Story::Released { cause, why, .. } => format!("released: {cause:?}, {why}"),
        Story::Draining { running } => format!("draining with {running}"),
        Story::Paused { why, running } => format!("paused with {running}: {why:?}"),
        Story::Resumed => "resumed".into(),
        Story::Audited { finding, .. } => format!("found that it {finding:?}"),
        Story::NotAudited { why, .. } => format!("not audited: {why}"),
        Story::Misled { how, .. } => format!("misled in its {}", how.what),
        Story::Altered { mean, .. } => format!("altered by {mean}"),
        Story::AlteredAudited { end, .. } => format!("the altered one {end:?}"),
        Story::Challenge { how, .. } => match how {
            Challenged::Not(why) => format!("no challenge: {why}"),
            Challenged::Asked => "challenging".into(),
            Challenged::Looks(_) => "another looks".into(),
            Challenged::Ended(end) => format!("after the challenge it {end:?}"),
        },
    }
}

/// Everything a wallet's claim that beats, or does not beat, the miner's own could come from.
pub(super) fn rival(better: bool, entry: &ListingEntry) -> u8 {
    let rank =
        |n: u8| crate::race::Rank::of(&entry.seed, &entry.job, wallet(n), Some(&in_roster(n, true)), false);
    (3..9).find(|n| (rank(*n) < rank(MINER)) == better).expect("one of six draws so")
}

pub(super) fn link(effect: &Effect) -> Option<Link> {
    match effect {
        Effect::Hand(statement) => Some(Link::of(&statement.encode())),
        _ => None,
    }
}
