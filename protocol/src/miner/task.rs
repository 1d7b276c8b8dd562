use super::Miner;
use super::interface::{Content, Delivered, Effect, Run, Story};
use crate::codec::{self, JobId, Link};
use crate::money::FeeSplit;
use crate::query::Query;
use crate::sampler::sampling_seed;
use crate::statement::{
    Body, EndCause, Input, Job, Lease, LeaseEnded, ListingEntry, Progress, Proof, Reason, Receipt, Refusal,
    Release, ReleaseCause, SKEW, Statement, Topic,
};
use crate::{Millis, Timestamp};
use swarm_crypto::digest::Digest;

/// Most leases being given back at once.
pub const MAX_RELEASES: usize = 256;

/// Most proofs that are repeated after their leases ended.
const MAX_LATE_PROOFS: usize = 64;
/// Progress goes out at most this often.
const PROGRESS_INTERVAL: Millis = Millis(1000);
/// First pause before something unanswered is said again; doubles up to the longest.
const FIRST_RESEND: Millis = Millis(500);
const MAX_RESEND: Millis = Millis(8000);
/// How long a release is repeated.
const RELEASE_PATIENCE: Millis = Millis(6000);

/// A lease in hand.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) entry: ListingEntry,
    lease: Digest,
    until: Timestamp,
    /// True once the operator ended the lease; a proof that is out may still be accepted.
    ended: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Preparing { give_up_at: Timestamp },
    Running { job_ends_at: Timestamp, report: Report },
    Proving { proof: Box<Statement>, id: Link, give_up_at: Timestamp, resend: Resend },
}

/// What the engine has reported, and what of it has been passed on.
#[derive(Debug, Default)]
struct Report {
    said_at: Option<Timestamp>,
    latest: Option<(u64, Digest)>,
    unsaid: bool,
}

/// When to say something again.
#[derive(Debug, Clone, Copy)]
struct Resend {
    at: Timestamp,
    pause: Millis,
}

/// A lease that is being given back, until the operator says that it is over.
#[derive(Debug)]
pub(super) struct Giveback {
    release: Statement,
    give_up_at: Timestamp,
    resend: Resend,
}

impl Task {
    pub(super) fn takes_slot(&self) -> bool {
        !self.ended
    }

    pub(super) fn due(&self, connected: bool) -> Option<Timestamp> {
        match &self.stage {
            Stage::Preparing { give_up_at } => Some((*give_up_at).min(self.until)),
            Stage::Running { report, .. } => {
                report.due().filter(|_| connected).into_iter().chain([self.until]).min()
            }
            Stage::Proving { give_up_at, resend, .. } => Some((*give_up_at).min(resend.at)),
        }
    }

    fn proof_id(&self) -> Option<Link> {
        match &self.stage {
            Stage::Proving { id, .. } => Some(*id),
            Stage::Preparing { .. } | Stage::Running { .. } => None,
        }
    }
}

impl Giveback {
    pub(super) fn due(&self) -> Timestamp {
        self.give_up_at.min(self.resend.at)
    }
}

impl Report {
    fn due(&self) -> Option<Timestamp> {
        self.unsaid.then(|| self.said_at.map_or(Timestamp(0), |at| at + PROGRESS_INTERVAL))
    }
}

impl Resend {
    fn first(now: Timestamp) -> Self {
        Self { at: now + FIRST_RESEND, pause: FIRST_RESEND }
    }

    fn next(self, now: Timestamp) -> Self {
        let pause = Millis(self.pause.times(2).0.min(MAX_RESEND.0));
        Self { at: now + pause, pause }
    }
}

impl Miner {
    /// The lease for `entry` is ours until `until`.
    pub(super) fn win(&mut self, entry: ListingEntry, until: Timestamp, now: Timestamp) {
        let ListingEntry { job, attempt: term, seed, .. } = entry;
        let lease = crate::statement::lease_id(&self.config.pool, &job, term, &self.config.wallet, &seed);
        self.tell(Story::Won { job, lease, term });
        self.effects.push_back(Effect::Prepare { lease, job });
        let give_up_at = now + Millis(self.duty.posted.first_progress.0 / 2);
        let stage = Stage::Preparing { give_up_at };
        self.tasks.insert(lease, Task { entry, lease, until, ended: false, stage });
    }

    pub(super) fn take_content(
        &mut self,
        lease: Digest,
        content: Result<Box<Content>, String>,
        now: Timestamp,
    ) {
        let Some(task) = self.tasks.get_mut(&lease) else { return };
        let Stage::Preparing { .. } = task.stage else { return };
        match content.and_then(|content| runnable(&task.entry, *content)) {
            Ok((job, linked)) => {
                let (id, until) = (task.entry.job, self.clock.show(task.until));
                task.stage = Stage::Running {
                    job_ends_at: self.clock.count(job.not_after) + SKEW,
                    report: Report::default(),
                };
                let seed = sampling_seed(&lease, job.params.seed);
                self.tell(Story::Executing { job: id, lease });
                let altered = self.alters(&lease, &job);
                let run = Run { lease, id, job, linked, seed, until, altered };
                self.effects.push_back(Effect::Infer(Box::new(run)));
            }
            Err(why) => self.give_back(lease, ReleaseCause::ContentUnavailable, why, now),
        }
    }

    pub(super) fn take_progress(&mut self, lease: Digest, units: u64, prefix: Digest, now: Timestamp) {
        let Some(Stage::Running { report, .. }) = self.tasks.get_mut(&lease).map(|task| &mut task.stage)
        else {
            return;
        };
        report.latest = Some((units, prefix));
        report.unsaid = true;
        self.say_due_progress(lease, now);
    }

    fn say_due_progress(&mut self, lease: Digest, now: Timestamp) {
        let Some(task) = self.tasks.get_mut(&lease) else { return };
        let Stage::Running { report, .. } = &mut task.stage else { return };
        let (Some(due), Some((units, prefix))) = (report.due(), report.latest) else { return };
        if !self.duty.connected || due > now {
            return;
        }
        (report.said_at, report.unsaid) = (Some(now), false);
        let job = task.entry.job;
        let progress = self.state(Progress { job, lease, units, prefix }, now);
        self.hand(progress);
    }

    pub(super) fn take_outcome(&mut self, lease: Digest, outcome: Result<Delivered, String>, now: Timestamp) {
        let Some(task) = self.tasks.get(&lease) else { return };
        let Stage::Running { job_ends_at, .. } = task.stage else { return };
        match outcome {
            Ok(delivered) => self.prove(lease, delivered, job_ends_at, now),
            Err(why) => self.give_back(lease, ReleaseCause::EngineFailure, why, now),
        }
    }

    fn prove(&mut self, lease: Digest, delivered: Delivered, job_ends_at: Timestamp, now: Timestamp) {
        let Some(job) = self.tasks.get(&lease).map(|task| task.entry.job) else { return };
        let Delivered { transcript, transcript_bytes, output, output_bytes, altered } = delivered;
        let body = Proof { job, lease, transcript, transcript_bytes, output, output_bytes };
        let proof = self.state(body, now);
        let id = Link::of(&proof.encode());
        if let Some(mean) = altered {
            self.tell(Story::Altered { job, mean });
        }
        self.tell(Story::ProofSubmitted { job, proof: id });
        self.say(Topic::Proofs, proof.clone());
        if let Some(task) = self.tasks.get_mut(&lease) {
            let give_up_at = job_ends_at.max(task.until) + SKEW;
            let (proof, resend) = (Box::new(proof), Resend::first(now));
            task.stage = Stage::Proving { proof, id, give_up_at, resend };
        }
    }

    pub(super) fn hear_lease_ended(&mut self, ended: &LeaseEnded, now: Timestamp) {
        if self.givebacks.remove(&ended.lease).is_some() {
            self.ask_now(now);
        }
        self.end(ended.lease, ended.cause, now);
    }

    /// The lease is over. A proof that is out may still be accepted if it only came late, until somebody else holds
    /// the job.
    fn end(&mut self, lease: Digest, cause: EndCause, now: Timestamp) {
        let room = self.tasks.values().filter(|task| task.ended).count() < MAX_LATE_PROOFS;
        let Some(task) = self.tasks.get_mut(&lease).filter(|task| !task.ended) else { return };
        let late = matches!(cause, EndCause::NoProgress | EndCause::TimedOut);
        if late && room && task.proof_id().is_some() {
            task.ended = true;
            let job = task.entry.job;
            self.tell(Story::LeaseLost { job, cause });
            self.ask_now(now);
        } else {
            self.lose(lease, cause, now);
        }
    }

    /// The job is listed at `attempt`: an earlier lease of ours is over.
    pub(super) fn end_earlier_task(&mut self, job: JobId, attempt: u32, now: Timestamp) {
        if let Some(lease) = self.earlier_lease(job, attempt) {
            self.end(lease, EndCause::TimedOut, now);
        }
    }

    /// The job is leased at `term`: an earlier lease of ours is over, and so is the hope for its proof.
    pub(super) fn lose_earlier_task(&mut self, job: JobId, term: u32, now: Timestamp) {
        if let Some(lease) = self.earlier_lease(job, term) {
            self.lose(lease, EndCause::TimedOut, now);
        }
    }

    fn earlier_lease(&self, job: JobId, term: u32) -> Option<Digest> {
        let earlier = |task: &&Task| task.entry.job == job && task.entry.attempt < term;
        self.tasks.values().find(earlier).map(|task| task.lease)
    }

    fn lose(&mut self, lease: Digest, cause: EndCause, now: Timestamp) {
        let Some(task) = self.close(lease, now) else { return };
        if !task.ended {
            self.tell(Story::LeaseLost { job: task.entry.job, cause });
        }
    }

    pub(super) fn hear_receipt(&mut self, receipt: &Receipt, now: Timestamp) {
        let job = receipt.job;
        self.contests.remove(&job);
        let lease = self.lease_on(&job);
        if receipt.wallet != self.config.wallet {
            if let Some(lease) = lease {
                self.lose(lease, EndCause::TimedOut, now);
            }
            return;
        }
        if lease.is_none() && self.past(&job, now).is_some_and(|past| past.earned) {
            return;
        }
        let price = lease.and_then(|lease| self.close(lease, now)).map_or(receipt.price, |t| t.entry.price);
        self.shun(job, 0, now);
        self.past.entry(job).and_modify(|past| past.earned = true);
        let Receipt { miner_part: amount, epoch, held_until, .. } = *receipt;
        match receipt.pps {
            None => self.tell(Story::Earned { job, amount, epoch, held_until }),
            Some(terms) => {
                self.tell(Story::Shared { job, units: receipt.units, terms, epoch, held_until });
            }
        }
        let due = FeeSplit::of(price).miner;
        if amount < due {
            self.tell(Story::Underpaid { job, due, paid: amount });
        }
    }

    /// A refused proof is the end of its lease, unless only its content could not be fetched: then it is said again.
    pub(super) fn hear_refusal(&mut self, refusal: &Refusal, now: Timestamp) {
        let Refusal { subject, job, reason, detail } = refusal;
        if self.refuse_challenge(refusal) || self.refuse_claim(refusal, now) {
            return;
        }
        if subject == job {
            self.contests.remove(job);
            if let Some(lease) = self.lease_on(job) {
                self.lose(lease, EndCause::TimedOut, now);
            }
        }
        let proven =
            self.tasks.values().find(|task| task.proof_id() == Some(*subject)).map(|task| task.lease);
        if let Some(lease) = proven {
            if *reason != Reason::ContentUnavailable {
                self.close(lease, now);
            }
            self.tell(Story::Refused { job: *job, reason: *reason, detail: detail.clone() });
        }
    }

    /// The operator does not know the job any more: a proof that waits will not be heard.
    pub(super) fn give_up_proof(&mut self, job: JobId, now: Timestamp) {
        if let Some(lease) = self.lease_on(&job).filter(|lease| self.tasks[lease].proof_id().is_some()) {
            self.close(lease, now);
            let detail = "the operator does not know the job".to_owned();
            self.tell(Story::Refused { job, reason: Reason::UnknownJob, detail });
        }
    }

    fn lease_on(&self, job: &JobId) -> Option<Digest> {
        self.tasks.values().find(|task| task.entry.job == *job).map(|task| task.lease)
    }

    /// Lets go of a lease: stops its engine, never claims its job again, and looks for another.
    fn close(&mut self, lease: Digest, now: Timestamp) -> Option<Task> {
        let task = self.tasks.remove(&lease)?;
        if task.proof_id().is_none() {
            self.effects.push_back(Effect::Abort { lease });
        }
        self.shun(task.entry.job, task.entry.attempt, now);
        self.ask_now(now);
        Some(task)
    }

    /// A lease that was not asked for, or is not wanted any more.
    pub(super) fn give_back_unwanted(&mut self, lease: &Lease, until: Timestamp, now: Timestamp) {
        self.shun(lease.job, lease.term, now);
        let why = "not asked for, or no slot is free".to_owned();
        self.release(lease.job, lease.lease, (ReleaseCause::Withdrawn, why), until, now);
    }

    pub(super) fn give_back(&mut self, lease: Digest, cause: ReleaseCause, why: String, now: Timestamp) {
        let Some(task) = self.close(lease, now) else { return };
        self.release(task.entry.job, lease, (cause, why), task.until, now);
    }

    fn release(
        &mut self,
        job: JobId,
        lease: Digest,
        (cause, why): (ReleaseCause, String),
        until: Timestamp,
        now: Timestamp,
    ) {
        let release = self.state(Release { job, lease, cause }, now);
        self.tell(Story::Released { job, cause, why });
        self.say(Topic::Claims, release.clone());
        if self.givebacks.len() < MAX_RELEASES {
            let give_up_at = until.min(now + RELEASE_PATIENCE);
            self.givebacks.insert(lease, Giveback { release, give_up_at, resend: Resend::first(now) });
        }
    }

    /// Gives every lease back whose engine is not through.
    pub(super) fn give_back_unfinished(&mut self, why: &str, now: Timestamp) {
        let unfinished = self.tasks.values().filter(|task| task.proof_id().is_none());
        for lease in unfinished.map(|task| task.lease).collect::<Vec<_>>() {
            self.give_back(lease, ReleaseCause::Withdrawn, why.to_owned(), now);
        }
    }

    pub(super) fn run_due_tasks(&mut self, now: Timestamp) {
        let due =
            self.tasks.values().filter(|task| task.due(self.duty.connected).is_some_and(|at| at <= now));
        for lease in due.map(|task| task.lease).collect::<Vec<_>>() {
            let task = &self.tasks[&lease];
            match &task.stage {
                Stage::Preparing { .. } | Stage::Running { .. } if task.until <= now => {
                    self.lose(lease, EndCause::TimedOut, now);
                }
                Stage::Preparing { .. } => {
                    let why = "its content did not come in time".to_owned();
                    self.give_back(lease, ReleaseCause::ContentUnavailable, why, now);
                }
                Stage::Running { .. } => self.say_due_progress(lease, now),
                Stage::Proving { give_up_at, .. } if *give_up_at <= now => {
                    self.lose(lease, EndCause::TimedOut, now);
                }
                Stage::Proving { .. } => self.repeat_proof(lease, now),
            }
        }
    }

    /// Says the proof again and asks what became of the job, in case the answer was lost.
    fn repeat_proof(&mut self, lease: Digest, now: Timestamp) {
        let Some(task) = self.tasks.get_mut(&lease) else { return };
        let job = task.entry.job;
        let Stage::Proving { proof, resend, .. } = &mut task.stage else { return };
        let proof = Statement::clone(proof);
        *resend = resend.next(now);
        self.hand(proof);
        self.ask(Query::Job { job });
    }

    pub(super) fn run_due_givebacks(&mut self, now: Timestamp) {
        self.givebacks.retain(|_, giveback| giveback.give_up_at > now);
        let mut again = Vec::new();
        for giveback in self.givebacks.values_mut().filter(|giveback| giveback.resend.at <= now) {
            giveback.resend = giveback.resend.next(now);
            again.push(giveback.release.clone());
        }
        again.into_iter().for_each(|release| self.hand(release));
    }

    /// The operator is back: it hears of every lease at once, and gives each a fresh deadline.
    pub(super) fn repeat_all(&mut self, now: Timestamp) {
        for task in self.tasks.values_mut() {
            match &mut task.stage {
                Stage::Preparing { .. } => {}
                Stage::Running { report, .. } => report.unsaid = report.latest.is_some(),
                Stage::Proving { resend, .. } => *resend = Resend { at: now, pause: FIRST_RESEND },
            }
        }
        for giveback in self.givebacks.values_mut() {
            giveback.resend = Resend { at: now, pause: FIRST_RESEND };
        }
    }
}

/// The job and its linked text, if they are what the listing and the input's link say.
fn runnable(entry: &ListingEntry, content: Content) -> Result<(Job, Option<String>), String> {
    if content.job.id() != entry.job {
        return Err("the content is another job's".into());
    }
    let Body::Job(job) = &content.job.statement().body else {
        return Err("the content is not a job".into());
    };
    let listed = (&entry.model, entry.price, entry.assurance, entry.vram_mb);
    if listed != (&job.model, job.price, job.assurance, job.vram_mb) {
        return Err("the listing does not say what the job says".into());
    }
    match (&job.input, &content.linked) {
        (Input::Text(_) | Input::Chat(_), None) => {}
        (Input::Linked { cid, bytes }, Some(text)) => {
            // What lies below a root was checked block by block on the way here.
            let is_named = codec::is_dag_pb(cid) || codec::names(cid, text.as_bytes());
            if u64::try_from(text.len()) != Ok(*bytes) || !is_named {
                return Err("the input is not what its CID names".into());
            }
        }
        (Input::Sealed { .. }, _) => return Err("sealed inputs are not built".into()),
        (Input::Linked { .. }, None) => return Err("the input is missing".into()),
        (Input::Text(_) | Input::Chat(_), Some(_)) => return Err("an inline input has no linked text".into()),
    }
    Ok((job.clone(), content.linked))
}
