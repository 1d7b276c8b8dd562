use super::diary::Diary;
use super::engines::Engines;
use super::look::look;
use super::story;
use super::streams::Streams;
use super::work::Made;
use crate::clock::Clock;
use crate::content::{Reader, read_ahead};
use crate::daemon::{self, Daemon};
use crate::driver::{Flow, Input, Shell};
use crate::link::Link;
use crate::network::{MAX_BLOCK, Until};
use crate::storage::blocks::{BlockError, BlockStore};
use crate::storage::disk::DiskError;
use crate::view::LiveView;
use crate::wire;
use crate::workload::Models;
use anyhow::{Context, Result, anyhow};
use cid::Cid;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_inference::CancelToken;
use swarm_protocol::Timestamp;
use swarm_protocol::acceptance;
use swarm_protocol::codec::{self, JobId};
use swarm_protocol::miner::{Content, Delivered, Effect, Event, Miner, Run};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::race::Roster;
use swarm_protocol::statement::{AuditPicked, Body, Input as JobInput, Signed, Statement};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Questions and fetches under way at once.
const MAX_TASKS: usize = 64;
/// How long content is fetched for.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Before an operator that did not answer is asked again.
const ASK_PAUSE: Duration = Duration::from_millis(250);
/// How often an engine's progress is passed on, at most.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);
/// The largest roster block.
const MAX_ROSTER_BYTES: usize = 1024 * 1024;

/// What stops the fetch and the engine of each lease.
type Running = Arc<Mutex<BTreeMap<Digest, (CancelToken, CancellationToken)>>>;
type Inbox = mpsc::Sender<Input<Event, ()>>;

pub struct MinerShell {
    key: SecretKey,
    link: Link,
    blocks: Arc<BlockStore>,
    daemon: Option<Daemon>,
    models: Arc<Models>,
    engines: Engines,
    inbox: Inbox,
    clock: Clock,
    diary: Diary,
    streams: Streams,
    view: LiveView,
    tasks: Arc<Semaphore>,
    running: Running,
    /// Set once the disk has failed: no job could be delivered any more.
    broken: Arc<OnceLock<DiskError>>,
}

impl MinerShell {
    #[expect(clippy::too_many_arguments, reason = "they are what it is made of")]
    pub fn new(
        key: SecretKey,
        link: Link,
        blocks: Arc<BlockStore>,
        daemon: Option<Daemon>,
        models: Arc<Models>,
        engines: Engines,
        inbox: Inbox,
        clock: Clock,
        diary: Diary,
        streams: Streams,
        view: LiveView,
    ) -> Self {
        let tasks = Arc::new(Semaphore::new(MAX_TASKS));
        let (running, broken) = (Running::default(), Arc::default());
        Self {
            key,
            link,
            blocks,
            daemon,
            models,
            engines,
            inbox,
            clock,
            diary,
            streams,
            view,
            tasks,
            running,
            broken,
        }
    }

    fn hand(&self, statement: &Statement) {
        let query = Query::Hand(statement.sign(&self.key));
        let link = self.link.clone();
        self.spawn(async move {
            link.ask(query).await;
        });
    }

    fn ask(&self, query: Query) {
        let (link, inbox) = (self.link.clone(), self.inbox.clone());
        self.spawn(async move {
            let job = if let Query::Job { job } = &query { Some(*job) } else { None };
            let Some(answer) = link.ask(query).await else { return };
            for event in events_of(&link, answer, job) {
                // The inbox is gone only when the process is.
                let _ = inbox.send(Input::Event(event)).await;
            }
        });
    }

    /// Runs a short task, unless too many are under way: the machine repeats what is not answered.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Ok(permit) = self.tasks.clone().try_acquire_owned() else {
            tracing::warn!("too many questions are under way; one was dropped and will be asked again");
            return;
        };
        tokio::spawn(async move {
            task.await;
            drop(permit);
        });
    }

    fn fetch_roster(&self, epoch: u64, roster: codec::Link) {
        let (link, inbox) = (self.link.clone(), self.inbox.clone());
        self.spawn(async move {
            let from: Vec<_> = link.peer().into_iter().collect();
            let until = Until::within(FETCH_TIMEOUT);
            match link.network().fetch(&roster.cid(), &from, MAX_ROSTER_BYTES, until).await {
                Ok(bytes) => match codec::decode::<Roster>(&bytes) {
                    Ok(roster) => {
                        link.know(roster.0.iter().map(|entry| entry.wallet));
                        let roster = roster.into();
                        let _ = inbox.send(Input::Event(Event::RosterLearned { epoch, roster })).await;
                    }
                    Err(error) => tracing::warn!("the roster of epoch {epoch} is unreadable: {error}"),
                },
                Err(error) => tracing::debug!("the roster of epoch {epoch} was not fetched: {error}"),
            }
        });
    }

    fn prepare(&mut self, lease: Digest, job: JobId) {
        let (link, daemon, inbox) = (self.link.clone(), self.daemon.clone(), self.inbox.clone());
        let abort = self.begin(lease).1;
        tokio::spawn(async move {
            let content = tokio::select! {
                content = fetch_content(&link, daemon.as_ref(), job) => content.map(Box::new).map_err(|e| format!("{e:#}")),
                () = abort.cancelled() => return,
            };
            let _ = inbox.send(Input::Event(Event::JobReady { lease, content })).await;
        });
    }

    fn begin(&mut self, lease: Digest) -> (CancelToken, CancellationToken) {
        lock(&self.running)
            .entry(lease)
            .or_insert_with(|| (CancelToken::new(), CancellationToken::new()))
            .clone()
    }

    fn infer(&mut self, run: Run) {
        let lease = run.lease;
        let (cancel, _) = self.begin(lease);
        let (engines, models, blocks) = (self.engines.clone(), self.models.clone(), self.blocks.clone());
        let (inbox, broken, clock) = (self.inbox.clone(), self.broken.clone(), self.clock);
        let (streams, running, diary) = (self.streams.clone(), self.running.clone(), self.diary.clone());
        let within = Duration::from_millis(run.until.since(self.clock.now()).0);
        tokio::task::spawn_blocking(move || {
            let mut passed_on: Option<std::time::Instant> = None;
            let progress_inbox = inbox.clone();
            let stream = streams.begin(run.id, lease);
            let mut progress = |text: &[u8], units, prefix| {
                stream.push(text, units, prefix);
                if passed_on.is_none_or(|at| at.elapsed() >= PROGRESS_PAUSE) {
                    passed_on = Some(std::time::Instant::now());
                    // A full inbox loses one report; the next one carries more.
                    let _ =
                        progress_inbox.try_send(Input::Event(Event::EngineProgress { lease, units, prefix }));
                }
            };
            let outcome = models
                .get(&run.job.model)
                .ok_or_else(|| anyhow!("the model is not loaded"))
                .and_then(|model| engines.run(&run, model, within, &cancel, &mut progress))
                .and_then(|made| {
                    diary.measured(&run.id, made.pace);
                    keep(&blocks, &broken, made, clock.now())
                })
                .map_err(|e| format!("{e:#}"));
            lock(&running).remove(&lease);
            let _ = inbox.blocking_send(Input::Event(Event::EngineDone { lease, outcome }));
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // It holds a map, whole after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MinerShell {
    fn audit(&self, picked: AuditPicked) {
        let (epoch, index) = (picked.epoch, picked.index);
        let (link, daemon, inbox) = (self.link.clone(), self.daemon.clone(), self.inbox.clone());
        let (models, engines) = (self.models.clone(), self.engines.clone());
        tokio::spawn(async move {
            // One that panics has brought nothing.
            let looking = tokio::spawn(look(link, daemon, models, engines, picked));
            let outcome = looking.await.map_err(anyhow::Error::from).flatten().map_err(|e| format!("{e:#}"));
            // The inbox is gone only when the process is.
            let _ = inbox.send(Input::Event(Event::Audited { epoch, index, outcome })).await;
        });
    }
}

fn keep(blocks: &BlockStore, broken: &OnceLock<DiskError>, made: Made, now: Timestamp) -> Result<Delivered> {
    let transcript = codec::Link::of(&made.transcript);
    let output = codec::raw_cid(&made.output);
    let kept = blocks.put_content(&[(transcript.cid(), &made.transcript), (output, &made.output)], now);
    if let Err(BlockError::Disk(error)) = &kept {
        // The first failure is the one that is told.
        let _ = broken.set(error.clone());
    }
    kept?;
    Ok(Delivered {
        transcript,
        transcript_bytes: made.transcript.len() as u64,
        output,
        output_bytes: made.output.len() as u64,
        altered: made.altered,
    })
}

async fn fetch_content(link: &Link, daemon: Option<&Daemon>, job: JobId) -> Result<Content> {
    let signed = fetch_job(link, job).await?;
    let verified = link.check(&signed)?;
    let Body::Job(body) = &verified.statement().body else { return Err(anyhow!("the operator sent no job")) };
    if verified.id() != job {
        return Err(anyhow!("the operator sent another job"));
    }
    acceptance::check_prompt(body)?;
    let linked = match &body.input {
        JobInput::Linked { cid, bytes } => Some(fetch_text(link, daemon, cid, *bytes).await?),
        JobInput::Text(_) | JobInput::Chat(_) | JobInput::Sealed { .. } => None,
    };
    Ok(Content { job: verified, linked })
}

/// The job's statement. An operator that is away may be starting again, or another may be taking its place.
async fn fetch_job(link: &Link, job: JobId) -> Result<Signed> {
    let until = Instant::now() + FETCH_TIMEOUT;
    loop {
        match link.ask(Query::Snapshot { job }).await {
            Some(Answer::Snapshot(signed)) => return signed.context("the operator has no such open job"),
            Some(_) => return Err(anyhow!("the operator sent no job")),
            None if Instant::now() >= until => return Err(anyhow!("the operator does not answer")),
            None => tokio::time::sleep(ASK_PAUSE).await,
        }
    }
}

pub(super) async fn fetch_text(
    link: &Link,
    daemon: Option<&Daemon>,
    cid: &Cid,
    bytes: u64,
) -> Result<String> {
    let from: Vec<_> = link.peer().into_iter().collect();
    let until = Until::within(FETCH_TIMEOUT);
    let fetch = |cid| {
        let from = &from;
        async move { Ok(daemon::fetch(daemon, link.network(), &cid, from, MAX_BLOCK, until).await?) }
    };
    let mut text = Vec::new();
    let take = |_: &Cid, _: &[u8], content: &[u8]| {
        text.extend_from_slice(content);
        Ok(())
    };
    read_ahead(Reader::new(*cid, bytes)?, fetch, take).await?;
    String::from_utf8(text).context("the input is not UTF-8 text")
}

fn events_of(link: &Link, answer: Answer, job: Option<JobId>) -> Vec<Event> {
    let statements = link.statements_of(&answer);
    match answer {
        Answer::Jobs(_) => vec![Event::OpenJobs(statements)],
        Answer::Fate(fate) => {
            let heard = statements.into_iter().map(|s| Event::Heard(Box::new(s)));
            heard.chain(job.map(|job| Event::Fate { job, fate })).collect()
        }
        Answer::Pool { .. }
        | Answer::Snapshot(_)
        | Answer::Sealed(_)
        | Answer::Taken
        | Answer::Refused(_)
        | Answer::Roster(_)
        | Answer::Account(_)
        | Answer::View { .. }
        | Answer::Holder(_)
        | Answer::Stream(_)
        | Answer::Error(_) => statements.into_iter().map(|s| Event::Heard(Box::new(s))).collect(),
    }
}

impl Shell<Miner> for MinerShell {
    type Ask = ();

    async fn perform(&mut self, _: &Miner, effects: Vec<Effect>) -> Result<Flow> {
        for effect in effects {
            match effect {
                Effect::Publish(topic, statement) => {
                    let bytes = statement.sign(&self.key).encode();
                    if let Err(error) = self.link.network().publish(wire::topic(topic), bytes).await {
                        tracing::warn!("a {} was not gossiped: {error}", statement.kind());
                    }
                }
                Effect::Hand(statement) => self.hand(&statement),
                Effect::Ask(query) => self.ask(query),
                Effect::FetchRoster { epoch, roster } => self.fetch_roster(epoch, roster),
                Effect::Prepare { lease, job } => self.prepare(lease, job),
                Effect::Infer(run) => self.infer(*run),
                Effect::Audit(picked) => self.audit(*picked),
                Effect::Evidence(both) => self.view.keep_misled(&both),
                Effect::Abort { lease } => {
                    let stopped = lock(&self.running).remove(&lease);
                    if let Some((engine, fetch)) = stopped {
                        engine.cancel();
                        fetch.cancel();
                    }
                }
                Effect::Story(story) => {
                    self.engines.metrics().note(&story);
                    self.diary.note(&story, self.clock.now());
                    story::tell(&story);
                }
                Effect::Finished => return Ok(Flow::Stop),
            }
        }
        match self.broken.get() {
            Some(error) => Err(error.clone().into()),
            None => Ok(Flow::Continue),
        }
    }

    async fn answer(&mut self, _: &Miner, (): ()) {}
}
