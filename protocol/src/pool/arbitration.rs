use super::live::{MAX_CLAIMS_PER_JOB, MAX_PROGRESS, Timer};
use super::{Close, JobEntry, Pool, PoolStory, Record, Stage, State};
use crate::codec::JobId;
use crate::planted::{self, Bug};
use crate::race::{self, Rank, Roster};
use crate::statement::{
    Assurance, Claim, EndCause, Input, Job, Lease, LeaseEnded, ListingEntry, MAX_NAMED_CLAIMS, Progress,
    Reason, Release, ReleaseCause, Signed, Topic, Verified, lease_id,
};
use crate::{Millis, Posted, Timestamp};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// A lease given back within this time costs nothing.
pub(super) const FREE_RELEASE: Millis = Millis::from_secs(2);
/// With more live miners than this that serve a model and could beat a claim, its race is not closed early.
const MAX_EARLY_CLOSE: usize = 16;
/// How long a miner that asks reads the queue from one place; a miner that declines what it finds comes to the rest.
const QUEUE_TURN: Millis = Millis::from_secs(2);
/// How many wallets' failures make a job unrunnable.
const UNRUNNABLE_WALLETS: usize = 3;

impl Pool {
    pub(super) fn list(&mut self, id: JobId) {
        let entry = &self.state.jobs[&id];
        self.live.enqueue(id, entry);
        self.live.to_list.insert(id);
    }

    pub(super) fn unlist(&mut self, id: &JobId) {
        let entry = &self.state.jobs[id];
        self.live.dequeue(id, entry);
    }

    /// What the listing of a pending job says.
    pub(super) fn listing_entry(&self, id: &JobId) -> Option<ListingEntry> {
        let entry = self.state.jobs.get(id).filter(|entry| entry.stage == Stage::Pending)?;
        let job = self.job(id)?;
        Some(ListingEntry {
            job: *id,
            attempt: entry.attempt,
            seed: entry.seed,
            epoch: entry.epoch,
            free: self.free_weights(entry, &job),
            model: job.model,
            price: entry.price,
            assurance: job.assurance,
            vram_mb: job.vram_mb,
            listed_at: entry.listed_at,
        })
    }

    fn roster(&self, entry: &JobEntry) -> &Roster {
        &self.state.rosters[&entry.epoch].0
    }

    /// Estimated live free weight by class: R₁ and R₂.
    fn free_weights(&self, entry: &JobEntry, job: &Job) -> (u64, u64) {
        let roster = self.roster(entry);
        let mut free = (0, 0);
        for (wallet, miner) in &self.live.miners {
            let slots = self.free_slots(wallet);
            if slots == 0 || !miner.serves(&job.model) {
                continue;
            }
            let known = roster.get(wallet);
            let weight = u64::from(known.map_or(1, |e| e.w));
            if known.is_some_and(|e| e.established) { free.0 += weight } else { free.1 += weight }
        }
        if free.0 == 0 || race::opens_class_1(&entry.seed) { (free.0 + free.1, 0) } else { free }
    }

    fn free_slots(&self, wallet: &Address) -> u32 {
        let slots = self.live.miners.get(wallet).map_or(0, |miner| miner.heartbeat.slots);
        slots.saturating_sub(self.live.leases.get(wallet).copied().unwrap_or(0))
    }

    /// Whether class 1 is open to everybody in this job's race.
    fn all_class_1(&self, entry: &JobEntry, model: &str) -> bool {
        let roster = self.roster(entry);
        race::opens_class_1(&entry.seed)
            || !self.live.miners.iter().any(|(wallet, miner)| {
                roster.get(wallet).is_some_and(|e| e.established)
                    && miner.serves(model)
                    && self.free_slots(wallet) > 0
            })
    }

    fn is_eligible(&self, wallet: &Address, entry: &JobEntry, job: &Job, now: Timestamp) -> bool {
        let Some(miner) = self.live.miners.get(wallet) else { return false };
        let established = self.roster(entry).get(wallet).is_some_and(|e| e.established);
        let leases = self.live.leases.get(wallet).copied().unwrap_or(0);
        miner.serves(&job.model)
            && offers(miner, &job.model, job.assurance)
            && self.free_slots(wallet) > 0
            && (established || leases == 0)
            && self.shut_out(wallet, entry, now).is_none()
    }

    /// Why a wallet cannot have a job for some time, whatever its slots.
    fn shut_out(&self, wallet: &Address, entry: &JobEntry, now: Timestamp) -> Option<String> {
        if entry.barred.iter().any(|(barred, _)| barred == wallet) {
            return Some("this wallet lost or released the job before".to_owned());
        }
        let until = self.state.standings.get(wallet)?.cooled_until();
        (until > now)
            .then(|| format!("this wallet cools down for another {} after a lost lease", until.since(now)))
    }

    pub(super) fn handle_claim(&mut self, verified: &Verified, claim: &Claim, now: Timestamp) {
        let wallet = verified.statement().header.by;
        let Some(entry) = self.state.jobs.get(&claim.job) else { return };
        let open = entry.stage == Stage::Pending && entry.attempt == claim.attempt && now < entry.not_after;
        if !open {
            return;
        }
        let Some(job) = self.job(&claim.job) else { return };
        if let Some(why) =
            self.shut_out(&wallet, entry, now).filter(|_| self.live.miners.contains_key(&wallet))
        {
            return self.refuse(Topic::Jobs, now, verified.id(), claim.job, Reason::NotEligible, why);
        }
        if !self.is_eligible(&wallet, entry, &job, now) {
            return;
        }
        let (listed_at, window) = (entry.listed_at, self.state.posted.window);
        let all = self.all_class_1(entry, &job.model);
        let better_left = self.better_left(&claim.job, entry, &job, wallet, all, now);
        let rostered = self.rank(&claim.job, entry, wallet, false);
        let elapsed = now.since(listed_at);
        if elapsed <= race::MAX_WINDOW && self.was_due_at_once(&claim.job, entry, wallet, all) {
            self.live.note_claim_time(elapsed);
        }
        let claims = self.live.claims.entry(claim.job).or_default();
        claims.insert(rostered, verified.signed().clone());
        if claims.len() > MAX_CLAIMS_PER_JOB {
            claims.pop_last();
        }
        if window.0 == 0 || !better_left || planted::is(Bug::DrawIgnored) {
            return self.decide(claim.job, now);
        }
        let close = race::window_close(listed_at, race::window_index(listed_at, now, window), window);
        self.live.set(close, Timer::Window(claim.job, claim.attempt));
    }

    fn rank(&self, id: &JobId, entry: &JobEntry, wallet: Address, all_class_1: bool) -> Rank {
        Rank::of(&entry.seed, id, wallet, self.roster(entry).get(&wallet), all_class_1)
    }

    /// Whether a claim came in the race's first window because it was due then, so that its delay is the network's.
    /// In a pool with established miners only theirs count.
    fn was_due_at_once(&self, id: &JobId, entry: &JobEntry, wallet: Address, all: bool) -> bool {
        let established = self.roster(entry).get(&wallet).is_some_and(|e| e.established);
        if race::opens_class_1(&entry.seed) || !(established || all) {
            return false;
        }
        let free = self.live.free.get(&entry.model).map_or(1, |free| free.0);
        race::step(&self.rank(id, entry, wallet, all).draw, free) == 0
    }

    /// Whether somebody eligible could still beat `claimant`; assumed so if there are many who might.
    fn better_left(
        &self,
        id: &JobId,
        entry: &JobEntry,
        job: &Job,
        claimant: Address,
        all: bool,
        now: Timestamp,
    ) -> bool {
        let rank = self.rank(id, entry, claimant, all);
        let established = || self.roster(entry).0.iter().filter(|e| e.established).map(|e| e.wallet);
        let rivals: &mut dyn Iterator<Item = Address> =
            if rank.class == 1 && !all { &mut established() } else { &mut self.live.miners.keys().copied() };
        let mut serving = 0;
        for wallet in rivals {
            let serves = self.live.miners.get(&wallet).is_some_and(|miner| miner.serves(&job.model));
            if wallet == claimant || !serves {
                continue;
            }
            serving += 1;
            if serving > MAX_EARLY_CLOSE {
                return true;
            }
            if self.is_eligible(&wallet, entry, job, now) && self.rank(id, entry, wallet, all) < rank {
                return true;
            }
        }
        false
    }

    /// Leases a pending job to the best claim in hand whose wallet is still eligible.
    pub(super) fn decide(&mut self, id: JobId, now: Timestamp) {
        let Some(claims) = self.live.claims.remove(&id) else { return };
        let Some(entry) = self.state.jobs.get(&id) else { return };
        if entry.stage != Stage::Pending || entry.not_after <= now {
            return;
        }
        let Some(job) = self.job(&id) else { return };
        let eligible = |rank: &Rank| self.is_eligible(&rank.wallet, entry, &job, now);
        let mut best: Vec<(Rank, Signed)> = claims.into_iter().filter(|(rank, _)| eligible(rank)).collect();
        if self.all_class_1(entry, &job.model) {
            best.sort_by_key(|(rank, _)| (rank.draw, rank.wallet));
        }
        best.truncate(MAX_NAMED_CLAIMS);
        let winner = if planted::is(Bug::DrawIgnored) { best.last() } else { best.first() };
        let Some(wallet) = winner.map(|(rank, _)| rank.wallet) else { return };
        let window = race::window_index(entry.listed_at, now, self.state.posted.window);
        let until = lease_end(entry, &self.state.posted, now);
        let term = entry.attempt;
        let claims: Vec<Signed> = best.into_iter().map(|(_, signed)| signed).collect();
        self.grant(id, term, wallet, window, claims, until, now);
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one record")]
    fn grant(
        &mut self,
        id: JobId,
        term: u32,
        wallet: Address,
        window: u32,
        claims: Vec<Signed>,
        until: Timestamp,
        now: Timestamp,
    ) {
        self.bind_name(&wallet, now);
        self.unlist(&id);
        self.drop_late_proof(&id, now);
        let named = claims.len() as u64;
        self.record(now, Record::Leased { job: id, term, wallet, window, claims: claims.clone(), until });
        self.live.leased_to(id, wallet);
        self.live.set_deadline(id, (now + self.state.posted.first_progress).min(until));
        let claims = claims.iter().map(Signed::id).collect();
        if let Some(lease) = self.lease_statement(&id, claims) {
            self.say(Topic::Claims, now, lease);
        }
        let name = self.state.name_of(&wallet).map(str::to_owned);
        self.tell(PoolStory::Leased { job: id, wallet, name, claims: named });
    }

    /// The job goes to somebody else: a late proof that is being checked counts no more.
    fn drop_late_proof(&mut self, id: &JobId, now: Timestamp) {
        if let Some(late) = self.live.end_examination(id) {
            let detail = "the job was leased again before the proof was checked".to_owned();
            self.refuse(Topic::Proofs, now, late.id, *id, Reason::StaleLease, detail);
        }
    }

    /// The lease of a leased job, as it is said.
    pub(super) fn lease_statement(&self, id: &JobId, claims: Vec<crate::codec::Link>) -> Option<Lease> {
        let entry = self.state.jobs.get(id)?;
        match &entry.stage {
            Stage::Leased(granted) => Some(Lease {
                lease: granted.lease,
                job: *id,
                term: entry.attempt,
                wallet: granted.wallet,
                seed: entry.seed,
                window: granted.window,
                claims,
                until: granted.until,
            }),
            _ => None,
        }
    }

    fn bind_name(&mut self, wallet: &Address, now: Timestamp) {
        let Some((name, confirmed)) = self.live.miners.get(wallet).and_then(|miner| miner.name.clone())
        else {
            return;
        };
        let bound = self.state.names.get(&name);
        if bound.is_none()
            || bound.is_some_and(|(other, was)| (confirmed && !was) || (other == wallet && confirmed != *was))
        {
            self.record(now, Record::Bound { name, wallet: *wallet, confirmed });
        }
    }

    pub(super) fn handle_progress(&mut self, verified: &Verified, progress: &Progress, now: Timestamp) {
        let Some(entry) = self.state.jobs.get(&progress.job) else { return };
        let Stage::Leased(granted) = &entry.stage else { return };
        if granted.lease != progress.lease || granted.wallet != verified.statement().header.by {
            return;
        }
        let until = granted.until;
        let next = self.state.posted.progress;
        let Some(run) = self.live.runs.get_mut(&progress.job) else { return };
        if run.progress.last().is_some_and(|(units, _)| *units >= progress.units) {
            return;
        }
        if run.progress.len() >= MAX_PROGRESS {
            run.progress.pop();
        }
        run.progress.push((progress.units, progress.prefix));
        if !self.live.is_suspended(&progress.job) {
            self.live.set_deadline(progress.job, (now + next).min(until));
        }
    }

    pub(super) fn handle_release(&mut self, verified: &Verified, release: &Release, now: Timestamp) {
        let Some(entry) = self.state.jobs.get(&release.job) else { return };
        let Stage::Leased(granted) = &entry.stage else { return };
        if granted.lease != release.lease || granted.wallet != verified.statement().header.by {
            return;
        }
        let progressed = self.live.runs.get(&release.job).is_some_and(|run| !run.progress.is_empty());
        let early = now.since(granted.leased_at) <= FREE_RELEASE;
        let cause = match release.cause {
            ReleaseCause::EngineFailure if progressed => EndCause::EngineFailure,
            ReleaseCause::EngineFailure | ReleaseCause::Withdrawn | ReleaseCause::ContentUnavailable
                if early =>
            {
                EndCause::Released
            }
            ReleaseCause::EngineFailure | ReleaseCause::Withdrawn | ReleaseCause::ContentUnavailable => {
                EndCause::ReleasedLate
            }
        };
        self.end_lease(release.job, cause, now);
    }

    /// Ends a live lease; the job is listed again, or closed if its time or its chances are over.
    pub(super) fn end_lease(&mut self, id: JobId, cause: EndCause, now: Timestamp) {
        let entry = &self.state.jobs[&id];
        let Stage::Leased(granted) = &entry.stage else { return };
        let (lease, wallet) = (granted.lease, granted.wallet);
        let seed = self.draw_seed(&id, entry.attempt + 1);
        if !cause.by_timeout() {
            self.live.end_examination(&id);
        }
        self.record(now, Record::LeaseEnded { job: id, cause, seed });
        self.live.lease_over(&id, &wallet);
        self.say(Topic::Claims, now, LeaseEnded { job: id, lease, cause });
        self.tell(PoolStory::LeaseEnded { job: id, wallet, cause });
        self.list(id);
        if self.state.is_unrunnable(&id) {
            self.close(id, Close::Unrunnable, now);
        } else if self.state.jobs[&id].not_after <= now {
            self.close(id, Close::Expired, now);
        }
    }

    /// Jobs that `wallet` could claim at once: past all windows of their race, or everybody who asks meanwhile would
    /// claim them; from its own place in the queue on.
    pub fn open_jobs(
        &self,
        wallet: &Address,
        models: &[String],
        most: usize,
        now: Timestamp,
    ) -> Vec<ListingEntry> {
        let mut found = Vec::new();
        for model in models {
            let Some(index) = self.state.models.iter().position(|known| known == model) else { continue };
            let model = u32::try_from(index).expect("a pool knows few models");
            self.open_jobs_of(model, wallet, most, now, &mut found);
        }
        found
    }

    fn open_jobs_of(
        &self,
        model: u32,
        wallet: &Address,
        most: usize,
        now: Timestamp,
        found: &mut Vec<ListingEntry>,
    ) {
        let queue = &self.live.queue;
        let all = (model, 0)..(model, u64::MAX);
        let (Some(first), Some(last)) =
            (queue.range(all.clone()).next(), queue.range(all.clone()).next_back())
        else {
            return;
        };
        let (first, last) = (first.0.1, last.0.1);
        let turn = self.state.epoch.number.wrapping_add(now.0 / QUEUE_TURN.0);
        let start = first + race::queue_start(wallet, turn, last - first + 1);
        let windows = self.live.free.get(&model).map_or(1, |free| race::windows(*free));
        let race = self.state.posted.window.times(u64::from(windows));
        let turn =
            queue.range((model, start)..(model, u64::MAX)).chain(queue.range((model, 0)..(model, start)));
        for (_, id) in turn.take(most * 16) {
            if found.len() >= most {
                return;
            }
            let entry = &self.state.jobs[id];
            let past = now.since(entry.listed_at) >= race;
            if past && !entry.barred.iter().any(|(barred, _)| barred == wallet) {
                found.extend(self.listing_entry(id));
            }
        }
    }

    pub(super) fn handle_timer(&mut self, timer: Timer, now: Timestamp) {
        match timer {
            Timer::Window(id, attempt) => {
                if self.state.jobs.get(&id).is_some_and(|entry| entry.attempt == attempt) {
                    self.decide(id, now);
                }
            }
            Timer::Deadline(id) => self.deadline(id, now),
            Timer::Examination(id) => self.examination_late(id, now),
            Timer::Expiry(id) => self.expire(id, now),
            Timer::Offline(wallet) => self.offline(wallet, now),
            Timer::Beacon => self.beacon_due(now),
        }
    }

    fn deadline(&mut self, id: JobId, now: Timestamp) {
        let Some(Stage::Leased(granted)) = self.state.jobs.get(&id).map(|entry| &entry.stage) else { return };
        let cause = if now >= granted.until { EndCause::TimedOut } else { EndCause::NoProgress };
        self.end_lease(id, cause, now);
    }

    fn expire(&mut self, id: JobId, now: Timestamp) {
        if planted::is(Bug::ClockExpiresLease)
            && matches!(self.state.jobs.get(&id).map(|entry| &entry.stage), Some(Stage::Leased(_)))
        {
            self.end_lease(id, EndCause::TimedOut, now);
        }
        let Some(entry) = self.state.jobs.get(&id) else { return };
        if entry.stage == Stage::Pending && entry.not_after <= now && !self.live.is_examined(&id) {
            self.close(id, Close::Expired, now);
        }
    }
}

impl State {
    /// Whether so many have failed at a job that nobody is to try again.
    pub(super) fn is_unrunnable(&self, id: &JobId) -> bool {
        let entry = &self.jobs[id];
        let roster = &self.rosters[&entry.epoch].0;
        let count = |counts: &dyn Fn(&(Address, EndCause)) -> bool| {
            let wallets: std::collections::BTreeSet<Address> =
                entry.barred.iter().filter(|bar| counts(bar)).map(|(wallet, _)| *wallet).collect();
            wallets.len() >= UNRUNNABLE_WALLETS
        };
        let established = |wallet: &Address| roster.get(wallet).is_some_and(|e| e.established);
        count(&|(_, cause)| *cause == EndCause::EngineFailure)
            || count(&|(wallet, cause)| cause.loss_halves() >= 2 && established(wallet))
    }
}

/// When a lease granted now ends at the latest.
pub(super) fn lease_end(entry: &JobEntry, posted: &Posted, now: Timestamp) -> Timestamp {
    let runtime = Millis::from_secs(u64::from(entry.max_runtime_s)).min(posted.lease);
    (now + runtime).min(entry.not_after.max(now + Millis(1)))
}

fn offers(miner: &super::LiveMiner, model: &str, assurance: Assurance) -> bool {
    miner.heartbeat.models.iter().any(|offer| offer.model == model && offer.assurances.contains(&assurance))
}

impl Job {
    /// The input's length in bytes, as declared or as it stands.
    pub fn input_bytes(&self) -> u64 {
        match &self.input {
            Input::Text(text) => text.len() as u64,
            Input::Chat(messages) => messages.iter().map(|m| (m.role.len() + m.content.len()) as u64).sum(),
            Input::Linked { bytes, .. } => *bytes,
            Input::Sealed { .. } => 0,
        }
    }
}

/// The lease that follows from its parts, for whoever checks one.
pub fn expected_lease(pool: &swarm_crypto::address::PoolId, lease: &Lease) -> Digest {
    lease_id(pool, &lease.job, lease.term, &lease.wallet, &lease.seed)
}
