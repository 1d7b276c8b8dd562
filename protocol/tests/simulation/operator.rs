//! The operator's shell: takes what waits, appends what is to be recorded, then does the rest; and it crashes.

use crate::checker::Law;
use crate::content::Quality;
use crate::mint::{Bytes, OPERATOR, wallet};
use crate::network::{Asker, Packet};
use crate::plan::Plan;
use crate::world::{Due, MODEL, POOL_NAME, World};
use std::collections::{HashMap, VecDeque};
use swarm_crypto::address::PoolId;
use swarm_protocol::codec::Link;
use swarm_protocol::planted::{self, Bug};
use swarm_protocol::pool::{
    Entry, ExamineFault, JobFate, Pool, PoolConfig, PoolEffect, PoolEvent, PoolStory, Record, Replay, State,
};
use swarm_protocol::query::{Answer, Fate, MAX_OPEN_JOBS, Query};
use swarm_protocol::statement::{Body, Identified, Intake, JobType, Listing, Signed, Statement, Topic};
use swarm_protocol::{Machine, Timestamp};

/// Inputs of one batch.
const MAX_BATCH: usize = 24;
/// Inputs that wait.
const MAX_INBOX: usize = 4096;

#[derive(Debug)]
enum Input {
    Bytes(Option<Topic>, Bytes),
    Ask(Asker, Query),
    Event(Box<PoolEvent>),
}

#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) config: PoolConfig,
    pub(crate) pool: Option<Pool>,
    intake: Intake,
    inbox: VecDeque<Input>,
    batch_due: bool,
    pub(crate) life: u32,
    pub(crate) ledger: Vec<Vec<u8>>,
    checkpoint: Option<(usize, Vec<u8>)>,
    replica: Option<State>,
    pub(crate) blocks: HashMap<Link, Vec<u8>>,
    effects: u64,
}

impl Operator {
    pub(crate) fn new(plan: &Plan, pool: PoolId) -> Self {
        let config = PoolConfig {
            node: None,
            reserve: plan.reserve,
            name: POOL_NAME.into(),
            operator: wallet(OPERATOR),
            models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
            posted: plan.posted.clone(),
            secret: [7; 32],
        };
        Self {
            config,
            pool: None,
            intake: Intake::new(pool, wallet(OPERATOR)),
            inbox: VecDeque::new(),
            batch_due: false,
            life: 0,
            ledger: Vec::new(),
            checkpoint: None,
            replica: None,
            blocks: HashMap::new(),
            effects: 0,
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.pool.as_ref()?.poll_timeout()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.pool.is_some()
    }

    pub(crate) fn block(&self, link: &Link) -> Option<&Vec<u8>> {
        self.blocks.get(link).filter(|_| self.is_up())
    }
}

/// Starts a life of the operator from what is durable.
pub(crate) fn start(world: &mut World) {
    let now = world.clock(OPERATOR);
    let operator = &mut world.operator;
    operator.life += 1;
    operator.intake = Intake::new(world.mint.pool, wallet(OPERATOR));
    let pool = match restored(operator) {
        Err(what) => return world.hold(Err(what)),
        Ok(None) => Pool::create(operator.config.clone(), now),
        Ok(Some(state)) => match Pool::restore(operator.config.clone(), state, now) {
            Ok(pool) => pool,
            Err(e) => return world.hold(Err(format!("the ledger does not start a pool: {e}"))),
        },
    };
    operator.pool = Some(pool);
    world.checker.facts.started(now, world.operator.ledger.len() as u64);
    world.note(|| format!("operator starts its life {}", world.operator.life));
    let effects = drain(world);
    commit(world, effects);
}

/// The state after all rows, and after a checkpoint and the rest: they must be the same.
fn restored(operator: &Operator) -> Result<Option<State>, String> {
    let whole = fold(None, &operator.ledger, 0)?;
    if let Some((seq, bytes)) = &operator.checkpoint {
        let state = State::from_checkpoint(bytes).map_err(|e| format!("a checkpoint is unreadable: {e}"))?;
        let rest = fold(Some(state), &operator.ledger[*seq..], *seq)?;
        if rest != whole {
            return Err("a checkpoint and its tail are not the whole ledger".into());
        }
        return Ok(if operator.life.is_multiple_of(2) { rest } else { whole });
    }
    Ok(whole)
}

fn fold(from: Option<State>, rows: &[Vec<u8>], first: usize) -> Result<Option<State>, String> {
    let mut replay = Replay::new(from);
    for (row, seq) in rows.iter().zip(first as u64..) {
        replay.row(seq, row).map_err(|e| e.to_string())?;
    }
    Ok(replay.finish())
}

pub(crate) fn crash(world: &mut World) {
    world.note(|| "operator crashes".into());
    world.tally.crashes += 1;
    let operator = &mut world.operator;
    (operator.pool, operator.batch_due) = (None, false);
    operator.inbox.clear();
    operator.replica = fold(None, &operator.ledger, 0).unwrap_or_default();
    let law = world.checker.crashed(&world.operator.ledger, &world.mint);
    world.hold(law);
    crate::faults::operator_gone(world);
}

pub(crate) fn receive(world: &mut World, packet: Packet) {
    let input = match packet {
        Packet::Gossip(topic, bytes) => Input::Bytes(Some(topic), bytes),
        Packet::Hand(bytes) => Input::Bytes(None, bytes),
        Packet::Ask(from, query) => Input::Ask(from, query),
        Packet::Answer(..) => return,
    };
    enqueue(world, input);
}

pub(crate) fn answered(world: &mut World, life: u32, event: Box<PoolEvent>) {
    if world.operator.life == life {
        enqueue(world, Input::Event(event));
    }
}

fn enqueue(world: &mut World, input: Input) {
    if !world.operator.is_up() || world.operator.inbox.len() >= MAX_INBOX {
        return;
    }
    world.operator.inbox.push_back(input);
    if !world.operator.batch_due {
        world.operator.batch_due = true;
        let delay = world.rng.below(6);
        world.after(delay, Due::Batch);
    }
}

/// One turn of the driver: persist before you speak.
pub(crate) fn batch(world: &mut World) {
    world.operator.batch_due = false;
    if !world.operator.is_up() {
        return;
    }
    let now = world.clock(OPERATOR);
    let (mut effects, mut asks) = (Vec::new(), Vec::new());
    for _ in 0..MAX_BATCH {
        match world.operator.inbox.pop_front() {
            None => break,
            Some(Input::Ask(from, query)) => asks.push((from, query)),
            Some(Input::Event(event)) => effects.extend(tell(world, *event, now)),
            Some(Input::Bytes(topic, bytes)) => {
                if let Some(event) = admit(world, topic, &bytes, now) {
                    effects.extend(tell(world, event, now));
                }
            }
        }
    }
    if let Some(pool) = &mut world.operator.pool
        && pool.poll_timeout().is_some_and(|at| at <= now)
    {
        world.checker.tick(now);
        pool.handle_timeout(now);
        effects.extend(drain(world));
    }
    if !world.operator.inbox.is_empty() && !world.operator.batch_due {
        world.operator.batch_due = true;
        world.after(1, Due::Batch);
    }
    commit(world, effects);
    let law = world.checker.lease_times();
    world.hold(law);
    for (from, query) in asks {
        answer(world, from, query, now);
    }
}

fn admit(world: &mut World, topic: Option<Topic>, bytes: &Bytes, now: Timestamp) -> Option<PoolEvent> {
    let verified = match world.operator.intake.accept(topic, bytes, now) {
        Ok(verified) => verified,
        Err(why) => {
            world.tally.refused += 1;
            world.tally.see(&why);
            world.note(|| format!("operator refuses {:?}: {why}", World::kind(bytes)));
            return None;
        }
    };
    if !world.mint.is_genuine(bytes) && world.plan.bug.is_none() {
        world.hold(Err(format!("the operator lets in {:?}", verified.statement())));
    }
    world.note(|| format!("operator hears {:?}", verified.statement().body));
    world.checker.facts.tick(now);
    world.checker.facts.heard(&verified, &world.checker.book);
    Some(PoolEvent::Statement(Identified::new(verified, false)))
}

/// Hands one event to the machine and takes what follows.
fn tell(world: &mut World, event: PoolEvent, now: Timestamp) -> Vec<PoolEffect> {
    world.checker.tick(now);
    let mut due = None;
    if let PoolEvent::Examined { job, proof, outcome } = &event {
        world.note(|| format!("operator finds {job}: {outcome:?}"));
        due = world.checker.verdict(job, *proof, outcome);
    }
    if let Some(pool) = &mut world.operator.pool {
        pool.handle(event, now);
    }
    let effects = drain(world);
    let law = due.map_or(Ok(()), |due| world.checker.is_done(&due));
    world.hold(law);
    effects
}

fn drain(world: &mut World) -> Vec<PoolEffect> {
    let mut effects = Vec::new();
    while let Some(effect) = world.operator.pool.as_mut().and_then(Machine::poll_effect) {
        match &effect {
            PoolEffect::Record(row) => {
                let entry = Entry::decode(row);
                world.note(|| format!("operator records {entry:?}"));
                match entry.map(|entry| entry.record) {
                    Ok(Record::LeaseEnded { cause, .. }) => world.tally.see(&cause),
                    Ok(Record::Closed { end, .. }) => world.tally.see(&end),
                    Ok(record) => world.tally.see(&record),
                    Err(_) => {}
                }
                let law = world.checker.produced(row, &world.mint);
                world.hold(law);
            }
            PoolEffect::Examine(asked) => world.checker.facts.examining(asked),
            PoolEffect::Publish(..)
            | PoolEffect::Store(_)
            | PoolEffect::FetchInput { .. }
            | PoolEffect::Tree(_)
            | PoolEffect::Story(_) => {}
        }
        effects.push(effect);
    }
    effects
}

/// Stores the content, appends the rows in one batch, then does everything else in order; a crash leaves any prefix of
/// that.
fn commit(world: &mut World, effects: Vec<PoolEffect>) {
    let first = world.operator.effects;
    world.operator.effects += effects.len() as u64;
    world.tally.effects = world.operator.effects;
    let here = |at: &u64| at.checked_sub(first).and_then(|at| usize::try_from(at).ok());
    let due = world.plan.crash_at_effects.iter().filter_map(here).find(|at| *at < effects.len());
    if planted::is(Bug::SpeakBeforePersist) {
        effects
            .iter()
            .filter(|effect| !matches!(effect, PoolEffect::Record(_)))
            .for_each(|e| perform(world, e));
    }
    let is_content = |at: usize| matches!(effects[at], PoolEffect::Store(_));
    let content = due.filter(|at| is_content(*at));
    store(world, &effects[..content.unwrap_or(effects.len())]);
    if content.is_some() {
        return crash(world);
    }
    if let Some(at) = due
        && matches!(effects[at], PoolEffect::Record(_))
    {
        let torn = if at % 2 == 0 { 0 } else { at };
        append(world, &effects[..torn], false);
        return crash(world);
    }
    append(world, &effects, true);
    for (n, effect) in effects.iter().enumerate() {
        if due == Some(n) {
            return crash(world);
        }
        if !planted::is(Bug::SpeakBeforePersist) && world.wrong.is_none() {
            perform(world, effect);
        }
    }
}

fn store(world: &mut World, effects: &[PoolEffect]) {
    for effect in effects {
        if let PoolEffect::Store(block) = effect {
            world.checker.stored(block);
            world.operator.blocks.insert(Link::of(block), block.clone());
        }
    }
}

fn append(world: &mut World, effects: &[PoolEffect], whole: bool) {
    let rows = effects.iter().filter_map(|effect| match effect {
        PoolEffect::Record(row) => Some(row.clone()),
        _ => None,
    });
    let first = world.operator.ledger.len();
    world.operator.ledger.extend(rows);
    let end = world.operator.ledger.len();
    if !whole || end == first {
        return;
    }
    let law = appended(&mut world.operator, &mut world.checker, first);
    world.hold(law);
    if world.rng.chance(60)
        && let Some(pool) = &world.operator.pool
    {
        world.operator.checkpoint = Some((end, pool.state().checkpoint()));
    }
}

/// The fold of the durable rows is the live state.
fn appended(operator: &mut Operator, checker: &mut crate::checker::Checker, first: usize) -> Law {
    let Some(pool) = &operator.pool else { return Ok(()) };
    checker.appended(operator.ledger.len() as u64, pool.state())?;
    operator.replica = fold(operator.replica.take(), &operator.ledger[first..], first)?;
    if operator.replica.as_ref() != Some(pool.state()) {
        return Err("the fold of the rows is not the live state".into());
    }
    Ok(())
}

fn perform(world: &mut World, effect: &PoolEffect) {
    match effect {
        PoolEffect::Record(_) | PoolEffect::Store(_) | PoolEffect::Tree(_) => {}
        PoolEffect::Publish(topic, statement) => {
            world.note(|| format!("operator says {:?}", statement.body));
            let bytes = say(world, statement);
            world.gossip(OPERATOR, *topic, &bytes);
        }
        PoolEffect::FetchInput { job, cid, .. } => {
            let fails = !world.calm && world.rng.chance(world.plan.mishaps);
            let found = world.content.get(cid).is_some() && !fails;
            let outcome = if found { Ok(()) } else { Err("nobody has it".to_owned()) };
            let delay = world.rng.range(5, 900);
            let event = Box::new(PoolEvent::InputFetched { job: *job, outcome });
            world.after(delay, Due::Pool { life: world.operator.life, event });
        }
        PoolEffect::Examine(asked) => examine(world, asked),
        PoolEffect::Story(story) => tally(world, story),
    }
}

fn examine(world: &mut World, asked: &swarm_protocol::pool::Examination) {
    let mishap = !world.calm && world.rng.chance(world.plan.mishaps);
    let fetch = world.plan.posted.fetch.0;
    let late = !world.calm && world.rng.chance(200);
    let delay = if late { world.rng.range(200, fetch + 2_000) } else { world.rng.range(2, 150) };
    let outcome = match world.content.quality(&asked.proof.transcript) {
        Quality::Good(_) if mishap => Err(ExamineFault::Unavailable("timed out".into())),
        Quality::Good(units) => Ok(units),
        Quality::Bad => Err(ExamineFault::Unacceptable("another token".into())),
        Quality::Missing => Err(ExamineFault::Unavailable("nobody has it".into())),
    };
    let event = Box::new(PoolEvent::Examined { job: asked.id, proof: asked.proof_id, outcome });
    world.after(delay, Due::Pool { life: world.operator.life, event });
}

fn tally(world: &mut World, story: &PoolStory) {
    match story {
        PoolStory::NewJob { .. } => world.tally.admitted += 1,
        PoolStory::Accepted { .. } => world.tally.accepted += 1,
        PoolStory::Closed { job, end } => {
            world.tally.refunded += 1;
            if *end == "expired" {
                let law = crate::faults::was_hopeless(world, job);
                world.hold(law);
            }
        }
        _ => {}
    }
}

/// Signs a statement of the operator, which the checker must find true.
fn say(world: &mut World, statement: &Statement) -> Bytes {
    if let Body::Refusal(refusal) = &statement.body {
        world.tally.see(&refusal.reason);
    }
    let law = world.checker.said(statement);
    world.hold(law);
    world.sign(OPERATOR, statement)
}

fn signed(bytes: &Bytes) -> Signed {
    Signed::decode(bytes).expect("it was just signed")
}

fn answer(world: &mut World, to: Asker, query: Query, now: Timestamp) {
    let Some(pool) = &world.operator.pool else { return };
    let answer = match &query {
        Query::OpenJobs { wallet, models } => {
            let entries = pool.open_jobs(wallet, models, MAX_OPEN_JOBS, now);
            let listing = (!entries.is_empty()).then(|| {
                Statement::derived(pool.id(), crate::mint::wallet(OPERATOR), now, Listing { entries }.into())
            });
            Answer::Jobs(listing.iter().map(|listing| signed(&say(world, listing))).collect())
        }
        Query::Job { job } => match pool.fate(job) {
            JobFate::Unknown => Answer::Fate(Fate::Unknown),
            JobFate::Pending { attempt, ahead } => Answer::Fate(Fate::Pending { attempt, ahead }),
            JobFate::Leased { lease, wallet, name, term, units, proven } => {
                Answer::Fate(Fate::Leased { lease, wallet, name, term, units, proven })
            }
            JobFate::Accepted(receipt, name) => {
                Answer::Fate(Fate::Accepted { receipt: signed(&say(world, &receipt)), name })
            }
            JobFate::Ended(refusal) => Answer::Fate(Fate::Ended { refusal: signed(&say(world, &refusal)) }),
        },
        Query::Beacon => {
            let (beacon, opened) = (pool.beacon_statement(now), pool.epoch_opened(now));
            Answer::Pool { beacon: signed(&say(world, &beacon)), opened: signed(&say(world, &opened)) }
        }
        Query::Snapshot { job } => Answer::Snapshot(pool.snapshot(job)),
        Query::Hand(_)
        | Query::Roster { .. }
        | Query::Sealed
        | Query::Account { .. }
        | Query::View { .. }
        | Query::Holder { .. }
        | Query::Stream { .. } => return,
    };
    world.send(OPERATOR, to.node, Packet::Answer(to, Box::new((query, answer))));
}
