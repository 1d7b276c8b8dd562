use super::interface::{Decline, Effect, Story};
use super::{Miner, Past};
use crate::codec::{JobId, Link};
use crate::query::{Fate, Query};
use crate::race::{self, Rank, RosterEntry};
use crate::statement::{
    Body, Claim, Lease, Listing, ListingEntry, Reason, Refusal, Topic, Verified, lease_id,
};
use crate::{Millis, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;

/// Most listings followed at once; what is past it comes back as an open job.
pub const MAX_TRACKED_LISTINGS: usize = 4096;

/// A claim is answered within so many windows and this margin, or it is forgotten.
const CLAIM_WINDOWS: u64 = 4;
const CLAIM_MARGIN: Millis = Millis(2000);
/// How often it is asked meanwhile what became of the job.
const CLAIM_QUESTIONS: u64 = 3;
/// How long a lease may come after its claim was forgotten.
const LAPSED: Millis = Millis::from_secs(60);
/// The least time for which a job is left alone after a claim on it was refused; else the first cooldown posted.
const REFUSED_PAUSE: Millis = Millis(500);
/// How long a job that does not suit is not looked at again.
const DECLINED_PAUSE: Millis = Millis::from_secs(300);

/// One attempt at a job, as this miner sees the race for it.
#[derive(Debug, Clone)]
pub(super) struct Contest {
    pub(super) entry: ListingEntry,
    rank: Rank,
    heard_at: Timestamp,
    stage: Stage,
    due: Timestamp,
}

#[derive(Debug, Clone)]
enum Stage {
    /// Claims when it is due.
    Waiting,
    /// Dated `at`. Takes a slot; when it is due, asks what became of the job, and after a few times gives up.
    Claimed { at: Timestamp, asked: u64 },
    /// A better claim was heard.
    Silent,
    /// The claim was not answered in time, but may still be.
    Lapsed,
}

/// The attempts that are followed, by job and by when something is due.
#[derive(Debug, Default)]
pub(super) struct Contests {
    by_job: BTreeMap<JobId, Contest>,
    due: BTreeSet<(Timestamp, JobId)>,
    claimed: usize,
}

/// How a miner came to hear of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Announced,
    OpenJobs,
}

impl Contests {
    pub(super) fn len(&self) -> usize {
        self.by_job.len()
    }

    /// Outstanding claims.
    pub(super) fn claimed(&self) -> usize {
        self.claimed
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    fn get(&self, job: &JobId) -> Option<&Contest> {
        self.by_job.get(job)
    }

    fn put(&mut self, contest: Contest) {
        let job = contest.entry.job;
        self.remove(&job);
        self.due.insert((contest.due, job));
        self.claimed += usize::from(contest.is_claimed());
        self.by_job.insert(job, contest);
    }

    pub(super) fn remove(&mut self, job: &JobId) -> Option<Contest> {
        let contest = self.by_job.remove(job)?;
        self.due.remove(&(contest.due, *job));
        self.claimed -= usize::from(contest.is_claimed());
        Some(contest)
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<Contest> {
        let (at, job) = *self.due.first()?;
        if at > now { None } else { self.remove(&job) }
    }

    /// Forgets all for one model.
    pub(super) fn drop_model(&mut self, model: &str) {
        let of_it = |contest: &&Contest| contest.entry.model == model;
        let jobs: Vec<JobId> = self.by_job.values().filter(of_it).map(|contest| contest.entry.job).collect();
        for job in jobs {
            self.remove(&job);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Claims that still wait for the operator's word.
    fn claims(&self) -> impl Iterator<Item = (Claim, Timestamp)> {
        self.by_job.values().filter_map(Contest::claim)
    }
}

impl Contest {
    /// The outstanding claim, and when it was made.
    fn claim(&self) -> Option<(Claim, Timestamp)> {
        let ListingEntry { job, attempt, .. } = self.entry;
        match self.stage {
            Stage::Claimed { at, .. } => Some((Claim { job, attempt }, at)),
            Stage::Waiting | Stage::Silent | Stage::Lapsed => None,
        }
    }

    fn is_claimed(&self) -> bool {
        matches!(self.stage, Stage::Claimed { .. })
    }

    /// Whether a lease on it would be the answer to a claim of ours.
    fn was_claimed(&self) -> bool {
        matches!(self.stage, Stage::Claimed { .. } | Stage::Lapsed)
    }
}

impl Miner {
    pub(super) fn hear_listing(&mut self, listing: &Listing, now: Timestamp) {
        for entry in &listing.entries {
            self.consider(entry, Source::Announced, now);
        }
    }

    /// Entries past their windows: claimed at once, as far as slots go.
    pub(super) fn take_open_jobs(&mut self, listings: &[Verified], now: Timestamp) {
        let before = self.contests.claimed();
        for listing in listings {
            let Body::Listing(listing) = &listing.statement().body else { continue };
            for entry in &listing.entries {
                self.consider(entry, Source::OpenJobs, now);
            }
        }
        self.run_due_contests(now);
        if self.contests.claimed() > before {
            self.ask_again(now);
        }
    }

    fn consider(&mut self, entry: &ListingEntry, source: Source, now: Timestamp) {
        self.end_earlier_task(entry.job, entry.attempt, now);
        if self.duty.is_resting() || self.tasks.values().any(|task| task.entry.job == entry.job) {
            return;
        }
        if let Some(Past { term, .. }) = self.past(&entry.job, now) {
            if source == Source::Announced && term > 0 {
                self.tell(Story::Declined { job: entry.job, reason: Decline::HeldBefore });
            }
            return;
        }
        let known = self.contests.get(&entry.job);
        let newer = known.is_none_or(|contest| contest.entry.attempt < entry.attempt);
        let sooner = source == Source::OpenJobs
            && known.is_some_and(|c| c.entry.attempt == entry.attempt && !c.is_claimed());
        if !newer && !sooner {
            return;
        }
        if self.slots_of(&entry.model) == 0 {
            let reason = Decline::Engine(entry.model.clone());
            self.tell(Story::Declined { job: entry.job, reason });
        } else if let Some(reason) = self.objection(entry) {
            self.shun_for(entry.job, 0, DECLINED_PAUSE, now);
            self.tell(Story::Declined { job: entry.job, reason });
        } else if known.is_some() || self.contests.len() < MAX_TRACKED_LISTINGS {
            self.enter(entry, source, newer, now);
        }
    }

    fn objection(&self, entry: &ListingEntry) -> Option<Decline> {
        let Some(terms) = self.config.models.iter().find(|terms| terms.model == entry.model) else {
            return Some(Decline::Model(entry.model.clone()));
        };
        if !terms.assurances.contains(&entry.assurance) {
            return Some(Decline::Assurance(entry.assurance));
        }
        if entry.price < terms.min_price {
            return Some(Decline::Price { price: entry.price, least: terms.min_price });
        }
        let (allowed, here, needed) = (entry.vram_mb, self.config.vram_mb, terms.vram_mb);
        let fits = allowed == 0 || (needed <= allowed && allowed <= here);
        (!fits).then_some(Decline::Memory { allowed, here, needed })
    }

    /// A wallet that is not established holds one lease at a time, however many slots it has.
    fn has_room(&self, entry: &ListingEntry) -> bool {
        if self.own(entry).is_some_and(|own| own.established) {
            self.has_slot(&entry.model)
        } else {
            self.taken_slots() == 0
        }
    }

    /// This miner's place in the roster that holds for the entry.
    fn own(&self, entry: &ListingEntry) -> Option<&RosterEntry> {
        self.duty.roster(entry.epoch).and_then(|roster| roster.get(&self.config.wallet))
    }

    fn enter(&mut self, entry: &ListingEntry, source: Source, news: bool, now: Timestamp) {
        let rank = self.rank(entry, self.config.wallet);
        let delay = match source {
            Source::Announced => self.claim_delay(entry, &rank),
            Source::OpenJobs => Millis(0),
        };
        if source == Source::OpenJobs && !self.has_room(entry) {
            return;
        }
        if news {
            let (model, price) = (entry.model.clone(), entry.price);
            self.tell(Story::NewJob { job: entry.job, attempt: entry.attempt, model, price });
        }
        let (entry, stage, due) = (entry.clone(), Stage::Waiting, now + delay);
        self.contests.put(Contest { entry, rank, heard_at: now, stage, due });
    }

    /// How long after hearing of a listing a wallet of this rank claims. Where class 1 is open to all, both weights
    /// are its weight.
    fn claim_delay(&self, entry: &ListingEntry, rank: &Rank) -> Millis {
        let (first, second) = entry.free;
        let free = if all_class_1(entry) { (first.saturating_add(second), second) } else { entry.free };
        let later =
            self.own(entry).is_none() && self.duty.registered_at.is_none_or(|at| at > entry.listed_at);
        race::claim_delay(rank, free, later, self.duty.posted.window)
    }

    fn rank(&self, entry: &ListingEntry, wallet: Address) -> Rank {
        let known = self.duty.roster(entry.epoch).and_then(|roster| roster.get(&wallet));
        Rank::of(&entry.seed, &entry.job, wallet, known, all_class_1(entry))
    }

    /// A better claim makes this miner silent; without the epoch's roster nobody can tell which is better.
    pub(super) fn hear_claim(&mut self, claim: &Claim, by: Address, now: Timestamp) {
        let Some(contest) = self.contests.get(&claim.job) else { return };
        let waiting = matches!(contest.stage, Stage::Waiting) && contest.entry.attempt == claim.attempt;
        if !waiting || by == self.config.wallet || self.duty.roster(contest.entry.epoch).is_none() {
            return;
        }
        if self.rank(&contest.entry, by) < contest.rank {
            let silent = Contest { stage: Stage::Silent, due: now + self.claim_timeout(), ..contest.clone() };
            self.contests.put(silent);
        }
    }

    fn claim_timeout(&self) -> Millis {
        Millis(self.duty.posted.window.times(CLAIM_WINDOWS).0.saturating_add(CLAIM_MARGIN.0))
    }

    fn question_interval(&self) -> Millis {
        Millis(self.claim_timeout().0 / (CLAIM_QUESTIONS + 1))
    }

    pub(super) fn run_due_contests(&mut self, now: Timestamp) {
        while let Some(contest) = self.contests.pop_due(now) {
            let job = contest.entry.job;
            match contest.stage {
                Stage::Waiting if self.has_room(&contest.entry) => self.claim(contest, now),
                Stage::Waiting => self.tell(Story::Declined { job, reason: Decline::Busy }),
                Stage::Claimed { at, asked } if asked < CLAIM_QUESTIONS => {
                    let stage = Stage::Claimed { at, asked: asked + 1 };
                    self.ask(Query::Job { job });
                    let due = now + self.question_interval();
                    self.contests.put(Contest { stage, due, ..contest });
                }
                Stage::Claimed { .. } => {
                    self.contests.put(Contest { stage: Stage::Lapsed, due: now + LAPSED, ..contest });
                }
                Stage::Silent | Stage::Lapsed => {}
            }
        }
    }

    fn claim(&mut self, contest: Contest, now: Timestamp) {
        let (job, attempt) = (contest.entry.job, contest.entry.attempt);
        let claim = self.state(Claim { job, attempt }, now);
        let waited = now.since(contest.heard_at);
        self.tell(Story::Claiming { job, class: contest.rank.class, waited });
        self.say(Topic::Claims, claim);
        let due = now + self.question_interval();
        self.contests.put(Contest {
            stage: Stage::Claimed { at: self.clock.show(now), asked: 0 },
            due,
            ..contest
        });
    }

    pub(super) fn hear_lease(&mut self, lease: &Lease, at: Timestamp, now: Timestamp) {
        if lease.wallet != self.config.wallet {
            self.lose_to(lease.job, lease.term, lease.wallet, now);
            return;
        }
        let past = self.past(&lease.job, now).is_some_and(|past| past.term >= lease.term);
        if past || self.tasks.contains_key(&lease.lease) || self.givebacks.contains_key(&lease.lease) {
            return;
        }
        let Lease { job, term, wallet, seed, .. } = lease;
        if lease_id(&self.config.pool, job, *term, wallet, seed) != lease.lease {
            self.tell(Story::Declined { job: *job, reason: Decline::FalseLease });
            return;
        }
        let span = lease.until.since(at);
        match self.contests.remove(job) {
            Some(contest)
                if contest.was_claimed()
                    && (contest.entry.attempt, contest.entry.seed) == (*term, *seed)
                    && self.can_run(&contest.entry.model) =>
            {
                self.win(contest.entry, now + span, now);
            }
            _ => self.give_back_unwanted(lease, now + span, now),
        }
    }

    /// The operator's unsigned word that a job is leased is enough to start work on it, should the lease be lost.
    pub(super) fn take_fate(&mut self, job: JobId, fate: &Fate, now: Timestamp) {
        match fate {
            Fate::Leased { lease, wallet, term, .. } if *wallet == self.config.wallet => {
                let Some(contest) = self.contests.get(&job).filter(|c| c.was_claimed()) else { return };
                let entry = contest.entry.clone();
                let id = lease_id(&self.config.pool, &job, *term, wallet, &entry.seed);
                if entry.attempt == *term && id == *lease && self.can_run(&entry.model) {
                    self.contests.remove(&job);
                    self.win(entry, now + self.duty.posted.lease, now);
                }
            }
            Fate::Leased { wallet, term, .. } => self.lose_to(job, *term, *wallet, now),
            Fate::Pending { attempt, .. } => {
                self.drop_earlier(job, *attempt);
                self.end_earlier_task(job, *attempt, now);
            }
            Fate::Unknown => {
                self.contests.remove(&job);
                self.give_up_proof(job, now);
            }
            Fate::Accepted { .. } | Fate::Ended { .. } => {}
        }
    }

    fn lose_to(&mut self, job: JobId, term: u32, to: Address, now: Timestamp) {
        self.drop_earlier(job, term);
        self.lose_earlier_task(job, term, now);
        let over = self.contests.get(&job).is_some_and(|contest| contest.entry.attempt <= term);
        if let Some(contest) = over.then(|| self.contests.remove(&job)).flatten() {
            self.tell(Story::Lost { job, to });
            // All others had a free slot before and have asked: a whole pool must not ask after each lease.
            if contest.is_claimed() {
                self.ask_now(now);
            }
        }
    }

    /// The job is at `attempt`: earlier races for it are over.
    fn drop_earlier(&mut self, job: JobId, attempt: u32) {
        if self.contests.get(&job).is_some_and(|contest| contest.entry.attempt < attempt) {
            self.contests.remove(&job);
        }
    }

    /// A refused claim; true if it was one.
    pub(super) fn refuse_claim(&mut self, refusal: &Refusal, now: Timestamp) -> bool {
        let Some((claim, at)) = self.contests.get(&refusal.job).and_then(Contest::claim) else {
            return false;
        };
        if Link::of(&self.state_at(claim, at).encode()) != refusal.subject {
            return false;
        }
        self.contests.remove(&refusal.job);
        if refusal.reason == Reason::NotEligible {
            self.shun_for(refusal.job, 0, self.duty.cooldown().max(REFUSED_PAUSE), now);
        }
        true
    }

    /// Hands every outstanding claim over again.
    pub(super) fn repeat_claims(&mut self) {
        for (claim, at) in self.contests.claims().collect::<Vec<_>>() {
            let claim = self.state_at(claim, at);
            self.hand(claim);
        }
    }

    pub(super) fn ask(&mut self, query: Query) {
        if self.duty.connected {
            self.effects.push_back(Effect::Ask(query));
        }
    }
}

/// Class 1 is open to all by the seed, or because one of the classes has nobody free: then all the weight is one's.
fn all_class_1(entry: &ListingEntry) -> bool {
    let (first, second) = entry.free;
    race::opens_class_1(&entry.seed) || first == 0 || second == 0
}
