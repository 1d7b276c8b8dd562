use super::Miner;
use super::interface::{Effect, ModelTerms, Pause, Story};
use crate::codec::Link;
use crate::query::Query;
use crate::race::Roster;
use crate::statement::{Beacon, EpochOpened, Heartbeat, ModelOffer, Topic};
use crate::{Millis, Posted, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rosters kept: the open epoch's and those before it, for attempts listed then.
pub const MAX_ROSTERS: usize = 3;

/// Pause after the first question for open jobs that brought nothing; doubles.
const FIRST_ASK: Millis = Millis(250);
/// The longest such pause while the operator says that jobs are pending.
const MAX_ASK_PENDING: Millis = Millis(2000);
/// The longest such pause at other times.
const MAX_ASK: Millis = Millis(4000);
/// The roster, and what the pool is, are asked for again after this.
const REFETCH: Millis = Millis(5000);
/// The shortest time after a heartbeat in which engines that came or went have the next one: many may at once, again and again.
const MIN_BEAT: Millis = Millis(1000);
/// How long after the grace period the releases may take.
const LAST_WORDS: Millis = Millis(2000);

/// What a miner does whether or not there is a job: signs of life, rosters, questions.
#[derive(Debug, Default)]
pub(super) struct Duty {
    pub(super) connected: bool,
    pub(super) posted: Posted,
    /// When the first heartbeat went out, as the listings date it.
    pub(super) registered_at: Option<Timestamp>,
    epoch: Option<u64>,
    rosters: BTreeMap<u64, Arc<Roster>>,
    wanted: Option<Wanted>,
    pool_asked_at: Option<Timestamp>,
    heartbeat_at: Option<Timestamp>,
    last_beat_at: Timestamp,
    beats: u64,
    pending: u64,
    ask_at: Timestamp,
    ask_pause: Millis,
    /// Why no jobs are taken for now.
    pauses: BTreeSet<Pause>,
    /// Slots of the models that have less than all for now; at most those that are served.
    lessened: BTreeMap<String, u32>,
    drain: Option<Drain>,
}

/// A roster that has been asked for.
#[derive(Debug)]
struct Wanted {
    epoch: u64,
    roster: Link,
    again_at: Timestamp,
}

#[derive(Debug)]
struct Drain {
    grace_until: Timestamp,
    released: bool,
    finished: bool,
}

impl Duty {
    /// Whether no jobs are taken.
    pub(super) fn is_resting(&self) -> bool {
        !self.pauses.is_empty() || self.drain.is_some()
    }

    /// The open epoch; 0 before the pool has said it.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.unwrap_or(0)
    }

    /// How long a wallet cools down at first, as posted; nothing before the pool has said it.
    pub(super) fn cooldown(&self) -> Millis {
        if self.epoch.is_some() { self.posted.cooldown } else { Millis(0) }
    }

    pub(super) fn roster(&self, epoch: u64) -> Option<&Roster> {
        self.rosters.get(&epoch).map(Arc::as_ref)
    }
}

impl Miner {
    /// A sign of life at once, everything unanswered again, and the questions that a newcomer has.
    pub(super) fn connect(&mut self, now: Timestamp) {
        self.duty.connected = true;
        self.ask_pool(now);
        self.beat(now);
        self.repeat_claims();
        self.repeat_all(now);
        self.ask_now(now);
    }

    fn ask_pool(&mut self, now: Timestamp) {
        self.duty.pool_asked_at = Some(now);
        self.ask(Query::Beacon);
    }

    pub(super) fn hear_beacon(&mut self, beacon: &Beacon, now: Timestamp) {
        if self.duty.epoch.is_some_and(|epoch| epoch > beacon.epoch) {
            return;
        }
        self.duty.pending = beacon.pending;
        self.take_posted(&beacon.posted, now);
        let behind = self.duty.epoch != Some(beacon.epoch);
        if behind && self.duty.pool_asked_at.is_none_or(|at| now.since(at) >= REFETCH) {
            self.ask_pool(now);
        }
    }

    /// A pool that wants signs of life more often has the next one sooner.
    fn take_posted(&mut self, posted: &Posted, now: Timestamp) {
        self.duty.posted = posted.clone();
        let soon = now + Millis(posted.heartbeat.0.max(1));
        self.duty.heartbeat_at = self.duty.heartbeat_at.map(|at| at.min(soon));
    }

    pub(super) fn hear_epoch_opened(&mut self, opened: &EpochOpened, now: Timestamp) {
        let EpochOpened { epoch, roster, ref posted, .. } = *opened;
        if self.duty.epoch.is_some_and(|known| known >= epoch) {
            return;
        }
        self.duty.epoch = Some(epoch);
        self.forget_audits(epoch);
        self.take_posted(posted, now);
        self.duty.wanted = Some(Wanted { epoch, roster, again_at: now });
        if roster == Roster::default().link() {
            self.learn_roster(epoch, Arc::default());
        }
    }

    pub(super) fn learn_roster(&mut self, epoch: u64, roster: Arc<Roster>) {
        let Some(wanted) = &self.duty.wanted else { return };
        if wanted.epoch != epoch || wanted.roster != roster.link() {
            return;
        }
        self.duty.wanted = None;
        self.duty.rosters.insert(epoch, roster);
        if self.duty.rosters.len() > MAX_ROSTERS {
            self.duty.rosters.pop_first();
        }
    }

    /// Asks for open jobs as soon as a slot is free.
    pub(super) fn ask_now(&mut self, now: Timestamp) {
        (self.duty.ask_at, self.duty.ask_pause) = (now, FIRST_ASK);
    }

    /// The last question was worth it: the next one comes after the shortest pause.
    pub(super) fn ask_again(&mut self, now: Timestamp) {
        self.ask_now(now + FIRST_ASK);
    }

    pub(super) fn drain(&mut self, grace: Millis, now: Timestamp) {
        if self.duty.drain.is_some() {
            return;
        }
        self.duty.drain = Some(Drain { grace_until: now + grace, released: false, finished: false });
        let running = self.rest(now);
        self.tell(Story::Draining { running });
    }

    pub(super) fn pause(&mut self, why: Pause, now: Timestamp) {
        let resting = self.duty.is_resting();
        if !self.duty.pauses.insert(why) || self.duty.drain.is_some() {
            return;
        }
        let running = if resting { self.in_hand() } else { self.rest(now) };
        self.tell(Story::Paused { why, running });
    }

    pub(super) fn resume(&mut self, why: Pause, now: Timestamp) {
        if !self.duty.pauses.remove(&why) || self.duty.drain.is_some() {
            return;
        }
        if let Some(&why) = self.duty.pauses.first() {
            let running = self.in_hand();
            return self.tell(Story::Paused { why, running });
        }
        self.duty.heartbeat_at = Some(now);
        self.ask_now(now);
        self.tell(Story::Resumed);
    }

    /// Others hear soon what can be run; claims of before on what cannot are taken back.
    pub(super) fn take_engines(&mut self, model: String, slots: u32, now: Timestamp) {
        let before = self.slots_of(&model);
        let slots = slots.min(self.config.slots);
        if slots == before || self.config.models.iter().all(|terms| terms.model != model) {
            return;
        }
        if slots == 0 {
            self.contests.drop_model(&model);
        }
        if slots > before {
            self.ask_now(now);
        }
        let soon = now.max(self.duty.last_beat_at + MIN_BEAT);
        self.duty.heartbeat_at = self.duty.heartbeat_at.map(|at| at.min(soon));
        if slots == self.config.slots {
            self.duty.lessened.remove(&model);
        } else {
            self.duty.lessened.insert(model, slots);
        }
    }

    /// Jobs of a model that can be run at once for now, if nothing else is.
    pub(super) fn slots_of(&self, model: &str) -> u32 {
        self.duty.lessened.get(model).copied().unwrap_or(self.config.slots)
    }

    /// What is served and can be run now.
    fn served(&self) -> impl Iterator<Item = &ModelTerms> {
        self.config.models.iter().filter(|terms| self.slots_of(&terms.model) > 0)
    }

    /// No race is run any more, and all are told so; gives how many jobs are still in hand.
    fn rest(&mut self, now: Timestamp) -> u32 {
        self.contests.clear();
        self.duty.heartbeat_at = Some(now);
        self.in_hand()
    }

    fn in_hand(&self) -> u32 {
        u32::try_from(self.tasks.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn run_due_duties(&mut self, now: Timestamp) {
        if self.duty.heartbeat_at.is_some_and(|at| at <= now) {
            self.beat(now);
        }
        if self.duty.connected && self.duty.wanted.as_ref().is_some_and(|wanted| wanted.again_at <= now) {
            self.fetch_roster(now);
        }
        if self.is_idle() && self.duty.ask_at <= now {
            self.ask_open_jobs(now);
        }
        self.run_drain(now);
    }

    fn beat(&mut self, now: Timestamp) {
        self.duty.last_beat_at = now;
        self.duty.heartbeat_at = Some(now + Millis(self.duty.posted.heartbeat.0.max(1)));
        self.duty.registered_at.get_or_insert(self.clock.show(now));
        let offer = |terms: &ModelTerms| ModelOffer {
            model: terms.model.clone(),
            assurances: terms.assurances.clone(),
        };
        let heartbeat = Heartbeat {
            boot_at: self.config.boot_at,
            counter: self.duty.beats,
            models: self.served().map(offer).collect(),
            // Whoever serves nothing for now says so by its models.
            slots: self.served().map(|terms| self.slots_of(&terms.model)).max().unwrap_or(self.config.slots),
            mode: self.config.mode,
            ens: self.config.ens.clone(),
            device: self.config.device.clone(),
            vram_mb: self.config.vram_mb,
            draining: self.duty.is_resting(),
        };
        self.duty.beats += 1;
        let heartbeat = self.state(heartbeat, now);
        self.say(Topic::Heartbeats, heartbeat);
    }

    fn fetch_roster(&mut self, now: Timestamp) {
        let Some(wanted) = &mut self.duty.wanted else { return };
        wanted.again_at = now + REFETCH;
        self.effects.push_back(Effect::FetchRoster { epoch: wanted.epoch, roster: wanted.roster });
    }

    fn is_idle(&self) -> bool {
        let works = !self.duty.is_resting() && self.served().any(|terms| self.has_slot(&terms.model));
        self.duty.connected && works
    }

    fn ask_open_jobs(&mut self, now: Timestamp) {
        let (longest, share) = if self.duty.pending > 0 { (MAX_ASK_PENDING, 16) } else { (MAX_ASK, 8) };
        // In large pools questions grow rarer together with heartbeats.
        let longest = longest.max(Millis(self.duty.posted.heartbeat.0 / share));
        let pause = self.duty.ask_pause.max(FIRST_ASK).min(longest);
        self.duty.ask_at = now + pause;
        self.duty.ask_pause = pause.times(2);
        let models = self.served().map(|terms| terms.model.clone()).collect();
        self.ask(Query::OpenJobs { wallet: self.config.wallet, models });
    }

    /// Releases what is unfinished when the grace period is over, and ends once nothing is in hand.
    fn run_drain(&mut self, now: Timestamp) {
        let Some(drain) = &mut self.duty.drain else { return };
        let over = drain.grace_until <= now;
        if over && !drain.released {
            drain.released = true;
            self.give_back_unfinished("the miner is shutting down", now);
        }
        let Some(drain) = &self.duty.drain else { return };
        let silent = self.tasks.is_empty() && self.givebacks.is_empty();
        let late = drain.grace_until + LAST_WORDS <= now;
        if !drain.finished && (silent || late) {
            self.duty.drain.as_mut().expect("read just above").finished = true;
            self.effects.push_back(Effect::Finished);
        }
    }

    pub(super) fn duty_due(&self) -> Option<Timestamp> {
        let wanted = self.duty.wanted.as_ref().filter(|_| self.duty.connected).map(|wanted| wanted.again_at);
        let ask = self.is_idle().then_some(self.duty.ask_at);
        let drain = self
            .duty
            .drain
            .as_ref()
            .filter(|drain| !drain.finished)
            .map(|drain| if drain.released { drain.grace_until + LAST_WORDS } else { drain.grace_until });
        [self.duty.heartbeat_at, wanted, ask, drain].into_iter().flatten().min()
    }
}
