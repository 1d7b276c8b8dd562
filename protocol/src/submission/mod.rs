//! The client's wait for one job: it announces the job until the operator has taken it, follows it, checks the receipt
//! and gets the output.
//!
//! It trusts signatures and digests, not words: what the operator merely says moves the progress line and nothing else.
//! The job's bytes are signed once and repeated as they are, so whatever is lost, doubled or interrupted, they are one
//! job.

mod stage;
#[cfg(test)]
mod tests;

pub use stage::Stage;

use crate::clock::Clock;
use crate::codec::{self, JobId};
use crate::money::{FeeSplit, MicroUsdc};
use crate::query::{Fate, Query};
use crate::statement::{
    Beacon, Body, Job, Lease, MAX_JOB_LIFE, MAX_MODELS, MAX_OUTPUT_BYTES, Proof, Reason, Receipt, Refusal,
    Signed, Topic, Verified,
};
use crate::{Machine, Millis, Timestamp};
use cid::Cid;
use std::collections::VecDeque;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// How long after `not_after` a verdict may still come: the last proof's fetch, and clocks that differ.
pub const VERDICT_MARGIN: Millis = Millis::from_secs(120);
/// How long the output of a receipted job is tried for, at least.
pub const OUTPUT_PATIENCE: Millis = Millis::from_secs(120);

/// How long one try to fetch the output may take.
const FETCH_TIMEOUT: Millis = Millis::from_secs(30);
/// First pause before the job is announced again, or its output fetched again; doubles up to the longest.
const FIRST_REPEAT: Millis = Millis(500);
const MAX_REPEAT: Millis = Millis(8000);
/// First pause between two questions; doubles while nothing changes, up to one of the longest.
const FIRST_ASK: Millis = Millis(1000);
const MAX_ASK_LEASED: Millis = Millis(2000);
const MAX_ASK_PENDING: Millis = Millis(8000);

/// What can happen to a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A statement came, by gossip or inside an answer to [`Query::Beacon`] or [`Query::Job`].
    Heard(Box<Verified>),
    /// The answer to [`Query::Job`]; what it holds signed was [`Event::Heard`] just before.
    Fate(Fate),
    /// What [`Effect::Fetch`] led to.
    OutputFetched {
        /// The output's raw block.
        cid: Cid,
        /// Its bytes, or why there are none.
        bytes: Result<Vec<u8>, String>,
    },
    /// The operator can be asked.
    Connected,
    /// The operator cannot be asked any more.
    Disconnected,
}

/// What a submission asks of the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Gossip the signed job.
    Publish(Topic, Signed),
    /// Hand the signed job to the operator; the answer does not matter.
    Hand(Signed),
    /// Ask the operator; a lost answer is asked for again.
    Ask(Query),
    /// Fetch the output, from the operator first: it pins what it accepted. Answer with [`Event::OutputFetched`].
    Fetch {
        /// The raw block.
        cid: Cid,
        /// Its length.
        bytes: u64,
    },
    /// The job got on.
    Stage(Stage),
    /// No live miner serves the job's model; said at once, and the wait goes on.
    NoMiner {
        /// The model.
        model: String,
    },
    /// The wait is over; nothing follows.
    Done(Box<Outcome>),
}

/// How a wait ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The answer, and the receipt for it.
    Answer {
        /// The operator's `Receipt`, which says what the job says.
        receipt: Signed,
        /// The output, whose CID and length are the receipt's.
        output: Vec<u8>,
    },
    /// The operator refused the job, or ended it and gave the money back.
    Refused {
        /// The operator's `Refusal`.
        refusal: Signed,
        /// Why, for programs.
        reason: Reason,
        /// Why, for people.
        detail: String,
    },
    /// The operator signed a receipt that contradicts the job: keep it, it is evidence.
    Disputed {
        /// The operator's `Receipt`.
        receipt: Signed,
        /// What is wrong with it.
        fault: ReceiptFault,
    },
    /// The job is done and paid, but its output could not be got.
    NoOutput {
        /// The operator's `Receipt`.
        receipt: Signed,
        /// Why the last try failed.
        why: String,
    },
    /// The operator knows no such job, and there is nothing to announce.
    Unknown,
    /// No verdict came in time.
    GaveUp {
        /// How far the job was seen to get.
        stage: Option<Stage>,
    },
}

/// How a receipt contradicts its job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ReceiptFault {
    #[error("it charges {charged} USDC for a job of {price} USDC")]
    Price { price: MicroUsdc, charged: MicroUsdc },
    #[error("its parts of {miner} and {operator} USDC are not the split of {price} USDC")]
    Split { price: MicroUsdc, miner: MicroUsdc, operator: MicroUsdc },
    #[error("it names {0} as the client")]
    Client(Address),
    #[error("its output of {0} bytes is longer than an output may be")]
    OutputLength(u64),
}

/// The wait for one job.
#[derive(Debug)]
pub struct Submission {
    id: JobId,
    clock: Clock,
    job: Option<Announcement>,
    connected: bool,
    started: bool,
    taken: bool,
    stage: Option<Stage>,
    lease: Option<(Digest, Address)>,
    warned: bool,
    /// The latest answer was that there is no such job.
    missed: bool,
    receipt: Option<(Signed, Receipt)>,
    why_no_output: String,
    announce: Repeat,
    ask: Repeat,
    fetch: Repeat,
    give_up_at: Timestamp,
    done: bool,
    effects: VecDeque<Effect>,
}

/// The job as it was signed.
#[derive(Debug)]
struct Announcement {
    signed: Signed,
    client: Address,
    job: Job,
}

/// When to do something again.
#[derive(Debug, Clone, Copy, Default)]
struct Repeat {
    at: Option<Timestamp>,
    pause: Millis,
}

impl Repeat {
    /// At once, and then after pauses from `first` on.
    fn now(now: Timestamp, first: Millis) -> Self {
        Self { at: Some(now), pause: first }
    }

    fn never() -> Self {
        Self::default()
    }

    /// If it is due: true, and later again.
    fn take(&mut self, now: Timestamp, longest: Millis) -> bool {
        if self.at.is_none_or(|at| at > now) {
            return false;
        }
        self.later(now, longest);
        true
    }

    fn later(&mut self, now: Timestamp, longest: Millis) {
        let pause = self.pause.min(longest);
        *self = Self { at: Some(now + pause), pause: pause.times(2) };
    }
}

impl Submission {
    /// The wait for a signed job; `None` if the statement is not a job.
    pub fn new(job: &Verified) -> Option<Self> {
        let statement = job.statement();
        let Body::Job(body) = &statement.body else { return None };
        let give_up_at = body.last_valid_at(statement.header.at) + VERDICT_MARGIN;
        let client = statement.header.by;
        let announcement = Announcement { signed: job.signed().clone(), client, job: body.clone() };
        Some(Self { job: Some(announcement), ..Self::of(job.id(), give_up_at) })
    }

    /// The wait for a job of which only the id is at hand: it cannot be announced, and a receipt is checked in itself.
    pub fn resume(id: JobId, now: Timestamp) -> Self {
        Self::of(id, now + MAX_JOB_LIFE + VERDICT_MARGIN)
    }

    fn of(id: JobId, give_up_at: Timestamp) -> Self {
        Self {
            id,
            clock: Clock::default(),
            job: None,
            connected: false,
            started: false,
            taken: false,
            stage: None,
            lease: None,
            warned: false,
            missed: false,
            receipt: None,
            why_no_output: "it was not fetched yet".into(),
            announce: Repeat::never(),
            ask: Repeat::never(),
            fetch: Repeat::never(),
            give_up_at,
            done: false,
            effects: VecDeque::new(),
        }
    }

    /// The job's id.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// How far the job was seen to get.
    pub fn stage(&self) -> Option<&Stage> {
        self.stage.as_ref()
    }

    fn connect(&mut self, now: Timestamp) {
        self.connected = true;
        self.effects.push_back(Effect::Ask(Query::Beacon));
        if self.receipt.is_some() {
            self.fetch = Repeat::now(now, FIRST_REPEAT);
            return;
        }
        if self.job.is_some() && !self.taken {
            self.announce = Repeat::now(now, FIRST_REPEAT);
        }
        let first = if self.started || self.job.is_none() { now } else { now + FIRST_ASK };
        self.ask = Repeat::now(first, FIRST_ASK);
        self.started = true;
    }

    fn hear(&mut self, verified: &Verified, now: Timestamp) {
        match &verified.statement().body {
            Body::Admitted(admitted) if admitted.job == self.id => self.advance(Stage::Admitted, now),
            Body::Listing(listing) => {
                if let Some(entry) = listing.entries.iter().find(|entry| entry.job == self.id) {
                    self.advance(Stage::Listed { attempt: entry.attempt, ahead: None }, now);
                }
            }
            Body::Lease(lease) if lease.job == self.id => self.hear_lease(lease, now),
            Body::Proof(proof) if proof.job == self.id => {
                self.hear_proof(proof, verified.statement().header.by, now);
            }
            Body::Receipt(receipt) if receipt.job == self.id => {
                self.hear_receipt(receipt, verified.signed(), now);
            }
            Body::Refusal(refusal) if refusal.subject == self.id => {
                self.hear_refusal(refusal, verified.signed());
            }
            Body::Beacon(beacon) => self.hear_beacon(beacon),
            Body::Admitted(_)
            | Body::Lease(_)
            | Body::Proof(_)
            | Body::AuditPicked(_)
            | Body::Attestation(_)
            | Body::Challenge(_)
            | Body::Receipt(_)
            | Body::Refusal(_)
            | Body::Job(_)
            | Body::Cancel(_)
            | Body::Claim(_)
            | Body::Release(_)
            | Body::LeaseEnded(_)
            | Body::Heartbeat(_)
            | Body::EpochOpened(_)
            | Body::EpochSealed(_)
            | Body::Progress(_) => {}
        }
    }

    fn hear_lease(&mut self, lease: &Lease, now: Timestamp) {
        self.hold(lease.lease, lease.wallet, lease.term);
        self.advance(Stage::Leased { attempt: lease.term, to: lease.wallet, name: None }, now);
    }

    /// Remembers the holder of the latest attempt.
    fn hold(&mut self, lease: Digest, wallet: Address, term: u32) {
        if self.stage.as_ref().and_then(Stage::attempt).is_none_or(|attempt| attempt <= term) {
            self.lease = Some((lease, wallet));
        }
    }

    fn hear_proof(&mut self, proof: &Proof, by: Address, now: Timestamp) {
        let leased = self.lease == Some((proof.lease, by));
        if let Some(attempt) = self.stage.as_ref().and_then(Stage::attempt).filter(|_| leased) {
            self.advance(Stage::Proven { attempt }, now);
        }
    }

    fn hear_beacon(&mut self, beacon: &Beacon) {
        let Some(Announcement { job, .. }) = &self.job else { return };
        let supply = beacon.models.iter().find(|supply| supply.model == job.model);
        let unsaid = supply.is_none() && beacon.models.len() >= MAX_MODELS;
        let alone = supply.is_none_or(|supply| supply.miners == 0) && !unsaid;
        let waiting = self.stage.as_ref().is_none_or(Stage::is_waiting);
        if alone && waiting && !self.warned {
            let model = job.model.clone();
            self.effects.push_back(Effect::NoMiner { model });
        }
        self.warned = alone;
    }

    fn hear_receipt(&mut self, receipt: &Receipt, signed: &Signed, now: Timestamp) {
        if self.receipt.is_some() {
            return;
        }
        if let Some(fault) = self.fault(receipt) {
            self.end(Outcome::Disputed { receipt: signed.clone(), fault });
            return;
        }
        self.advance(Stage::Receipted { by: receipt.wallet, epoch: receipt.epoch }, now);
        self.receipt = Some((signed.clone(), receipt.clone()));
        (self.announce, self.ask) = (Repeat::never(), Repeat::never());
        self.fetch = Repeat::now(now, FIRST_REPEAT);
        self.give_up_at = self.give_up_at.max(now + OUTPUT_PATIENCE);
    }

    fn fault(&self, receipt: &Receipt) -> Option<ReceiptFault> {
        let Receipt { price: charged, miner_part: miner, operator_part: operator, .. } = *receipt;
        if let Some(Announcement { client, job, .. }) = &self.job {
            if receipt.client != *client {
                return Some(ReceiptFault::Client(receipt.client));
            }
            if charged != job.price {
                return Some(ReceiptFault::Price { price: job.price, charged });
            }
        }
        if FeeSplit::of(charged) != (FeeSplit { miner, operator }) {
            return Some(ReceiptFault::Split { price: charged, miner, operator });
        }
        let length = receipt.output_bytes;
        (length > MAX_OUTPUT_BYTES).then_some(ReceiptFault::OutputLength(length))
    }

    fn hear_refusal(&mut self, refusal: &Refusal, signed: &Signed) {
        if self.receipt.is_none() {
            let Refusal { reason, detail, .. } = refusal.clone();
            self.end(Outcome::Refused { refusal: signed.clone(), reason, detail });
        }
    }

    fn take_fate(&mut self, fate: Fate, now: Timestamp) {
        if self.receipt.is_some() {
            return;
        }
        // Answers can overtake one another: of a job that was heard of, one such answer says nothing yet.
        let missed = std::mem::replace(&mut self.missed, fate == Fate::Unknown);
        match fate {
            Fate::Unknown if self.job.is_none() => {
                if missed || self.stage.is_none() {
                    self.end(Outcome::Unknown);
                }
            }
            Fate::Unknown => {
                if self.taken {
                    self.taken = false;
                    self.announce = Repeat::now(now, FIRST_REPEAT);
                }
            }
            Fate::Pending { attempt, ahead } => {
                self.advance(Stage::Listed { attempt, ahead: Some(ahead) }, now);
            }
            Fate::Leased { lease, wallet: to, name, term: attempt, units, proven } => {
                self.hold(lease, to, attempt);
                let stage = match (proven, units) {
                    (true, _) => Stage::Proven { attempt },
                    (false, 0) => Stage::Leased { attempt, to, name },
                    (false, _) => Stage::Running { attempt, to, name, units },
                };
                self.advance(stage, now);
            }
            Fate::Accepted { .. } | Fate::Ended { .. } => {}
        }
    }

    /// Tells of a later stage; what comes late or twice is no news. Any word of the job means that it was taken.
    fn advance(&mut self, stage: Stage, now: Timestamp) {
        let taken = !matches!(stage, Stage::Announced);
        if taken {
            self.taken = true;
            self.announce = Repeat::never();
        }
        if self.stage.as_ref().is_some_and(|known| known.order() >= stage.order()) {
            return;
        }
        if taken && self.ask.at.is_some() {
            self.ask = Repeat::now(now + FIRST_ASK, FIRST_ASK);
        }
        self.effects.push_back(Effect::Stage(stage.clone()));
        self.stage = Some(stage);
    }

    fn take_output(&mut self, cid: Cid, bytes: Result<Vec<u8>, String>, now: Timestamp) {
        let Some((signed, receipt)) = &self.receipt else { return };
        if receipt.output != cid {
            return;
        }
        match bytes {
            Ok(output)
                if u64::try_from(output.len()) == Ok(receipt.output_bytes) && codec::names(&cid, &output) =>
            {
                let receipt = signed.clone();
                self.end(Outcome::Answer { receipt, output });
                return;
            }
            Ok(_) => self.why_no_output = "the bytes are not what the receipt names".into(),
            Err(why) => self.why_no_output = why,
        }
        self.fetch.later(now, MAX_REPEAT);
    }

    fn run_due(&mut self, now: Timestamp) {
        if self.done {
            return;
        }
        if self.give_up_at <= now {
            self.give_up();
            return;
        }
        if self.announce.take(now, MAX_REPEAT) {
            self.say(now);
        }
        let waiting = self.stage.as_ref().is_none_or(Stage::is_waiting);
        let longest = if waiting { MAX_ASK_PENDING } else { MAX_ASK_LEASED };
        if self.connected && self.ask.take(now, longest) {
            self.effects.push_back(Effect::Ask(Query::Job { job: self.id }));
        }
        if self.fetch.at.is_some_and(|at| at <= now)
            && let Some((_, Receipt { output: cid, output_bytes: bytes, .. })) = self.receipt
        {
            self.fetch.at = Some(now + FETCH_TIMEOUT);
            self.effects.push_back(Effect::Fetch { cid, bytes });
        }
    }

    fn say(&mut self, now: Timestamp) {
        let Some(Announcement { signed, .. }) = &self.job else { return };
        self.effects.push_back(Effect::Publish(Topic::Jobs, signed.clone()));
        if self.connected {
            self.effects.push_back(Effect::Hand(signed.clone()));
        }
        self.advance(Stage::Announced, now);
    }

    fn give_up(&mut self) {
        let outcome = match &self.receipt {
            Some((receipt, _)) => {
                Outcome::NoOutput { receipt: receipt.clone(), why: self.why_no_output.clone() }
            }
            None => Outcome::GaveUp { stage: self.stage.clone() },
        };
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        self.done = true;
        self.effects.push_back(Effect::Done(Box::new(outcome)));
    }
}

impl Machine for Submission {
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, event: Event, now: Timestamp) {
        if self.done {
            return;
        }
        let now = self.clock.read(now);
        match event {
            Event::Heard(verified) => self.hear(&verified, now),
            Event::Fate(fate) => self.take_fate(fate, now),
            Event::OutputFetched { cid, bytes } => self.take_output(cid, bytes, now),
            Event::Connected => self.connect(now),
            Event::Disconnected => self.connected = false,
        }
        self.run_due(now);
    }

    fn handle_timeout(&mut self, now: Timestamp) {
        let now = self.clock.read(now);
        self.run_due(now);
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        if self.done {
            return None;
        }
        let ask = self.ask.at.filter(|_| self.connected);
        let due = [Some(self.give_up_at), self.announce.at, ask, self.fetch.at].into_iter().flatten().min();
        due.map(|due| self.clock.show(due))
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }
}
