//! Sending a job and waiting for it.

use super::along::Along;
use super::answer::{Rendered, steps};
use super::logprobs;
use super::output::{receipt_json, receipt_of, stage_text};
use super::written;
use super::{Connection, Session};
use crate::cli::{Exit, ReadingArgs, SubmitArgs, UserError};
use crate::content::import;
use crate::driver::{self, Flow, Input, MAX_INBOX, Shell};
use crate::job_file::JobFile;
use crate::link::{Heard, Link};
use crate::network::{NetworkEvent, Until};
use crate::wire;
use anyhow::{Context, Result};
use cid::Cid;
use std::path::Path;
use std::time::Duration;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::statement::{
    Body, Cancel, Header, Job, Nonce, Reason, Signed, Statement, Topic, Verified,
};
use swarm_protocol::streamed::Streamed;
use swarm_protocol::submission::{Effect, Event, Outcome, Stage, Submission};
use tokio::sync::mpsc;

const FETCH_TIMEOUT: Duration = Duration::from_secs(25);
const PUBLIC: &str = "note: your prompt and the answer will be public; do not send secrets";

const UNKNOWN: &str = "check the id, and that --pool is the pool it was sent to";

type Inbox = mpsc::Sender<Input<Event, ()>>;

pub(super) async fn submit(session: Session, args: &SubmitArgs) -> Result<Exit> {
    let reading = args.reading.clone();
    check_stream(&session, reading.stream)?;
    let file = JobFile::read(&args.file)?;
    let prepared = file.prepare()?;
    if args.no_wait && prepared.text.is_some() {
        return Err(UserError::input("--no-wait cannot be used with an input this large")
            .hint("the operator fetches the input from this program; leave --no-wait out")
            .into());
    }
    session.printer.note(PUBLIC);
    session.printer.stage(format!("looking for the operator of {}", session.args.pool.pool));
    let connection = session.connect().await?;
    let job = file.job(prepared.input, session.clock.now());
    let verified = sign(&session, &connection.link, job)?;
    let (signed, id) = (verified.signed().clone(), verified.id());
    session.saved.keep_job(&signed, prepared.text.as_deref())?;
    session.printer.note(&format!("job {id}"));
    if let Some(text) = &prepared.text {
        serve(&connection, text)?;
    }
    if args.no_wait {
        return announce_only(&session, &connection, signed).await;
    }
    let submission = Submission::new(&verified).context("the job was just signed")?;
    follow(session, connection, submission, id, reading).await
}

pub(super) async fn wait(session: Session, job: JobId, reading: ReadingArgs) -> Result<Exit> {
    check_stream(&session, reading.stream)?;
    let kept = session.saved.job(&job)?;
    let connection = session.connect().await?;
    let now = session.clock.now();
    let submission = match kept {
        Some((signed, input)) => {
            if let Some(input) = input {
                serve(&connection, &input)?;
            }
            let verified = connection.link.check(&signed);
            match verified {
                Ok(verified) => Submission::new(&verified).context("the kept job is not one")?,
                // Too old to be announced again; the operator may still know it.
                Err(_) => Submission::resume(job, now),
            }
        }
        None => Submission::resume(job, now),
    };
    follow(session, connection, submission, job, reading).await
}

fn check_stream(session: &Session, stream: bool) -> Result<(), UserError> {
    if stream && session.printer.is_json() {
        return Err(UserError::misuse(
            "--stream prints the answer as it comes, --json one object at the end",
        )
        .hint("leave out one of them"));
    }
    Ok(())
}

/// Keeps an input as the blocks that the operator will ask for.
fn serve(connection: &Connection, text: &[u8]) -> Result<()> {
    let (_, blocks) = import(text);
    let blocks: Vec<(Cid, &[u8])> = blocks.iter().map(|(cid, block)| (*cid, block.as_slice())).collect();
    Ok(connection.blocks.put_pinned(&blocks)?)
}

fn sign(session: &Session, link: &Link, job: Job) -> Result<Verified> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).context("the system gives no random bytes")?;
    let (by, at) = (session.key.address(), session.clock.now());
    let header = Header { pool: link.pool(), by, at, nonce: Nonce(nonce) };
    let statement = Statement { header, body: Body::Job(job) };
    let signed = statement.sign(&session.key);
    // What nobody else would take is not sent.
    Ok(link
        .check(&signed)
        .map_err(|e| UserError::input(format!("the job cannot be sent: {e}")).hint("correct the job file"))?)
}

async fn announce_only(session: &Session, connection: &Connection, signed: Signed) -> Result<Exit> {
    let id = signed.id();
    let taken = connection.link.ask(Query::Hand(signed)).await;
    session.printer.finish();
    match taken {
        Some(Answer::Taken) if session.printer.is_json() => {
            session.printer.object(&serde_json::json!({ "job": id.to_string(), "status": "announced" }));
        }
        Some(Answer::Taken) => session.printer.answer(id.to_string().as_bytes()),
        _ => return Err(super::no_answer()),
    }
    connection.link.network().shutdown().await;
    Ok(Exit::Done)
}

struct ClientShell {
    link: Link,
    inbox: Inbox,
    printer: super::output::Printer,
    along: Option<Along>,
    /// What the job's workload counts.
    steps: &'static str,
    outcome: Option<Outcome>,
}

impl ClientShell {
    fn ask(&self, query: Query) {
        let (link, inbox) = (self.link.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let Some(answer) = link.ask(query).await else { return };
            let statements = link.statements_of(&answer);
            for statement in statements {
                // The inbox is gone only when the wait is over.
                let _ = inbox.send(Input::Event(Event::Heard(Box::new(statement)))).await;
            }
            if let Answer::Fate(fate) = answer {
                let _ = inbox.send(Input::Event(Event::Fate(fate))).await;
            }
        });
    }

    fn fetch(&self, cid: Cid, bytes: u64) {
        let (link, inbox) = (self.link.clone(), self.inbox.clone());
        tokio::spawn(async move {
            let from: Vec<_> = link.peer().into_iter().collect();
            let max = usize::try_from(bytes).unwrap_or(usize::MAX);
            let fetched = link.network().fetch(&cid, &from, max, Until::within(FETCH_TIMEOUT)).await;
            let bytes = fetched.map_err(|e| e.to_string());
            let _ = inbox.send(Input::Event(Event::OutputFetched { cid, bytes })).await;
        });
    }
}

impl Shell<Submission> for ClientShell {
    type Ask = ();

    async fn perform(&mut self, _: &Submission, effects: Vec<Effect>) -> Result<Flow> {
        for effect in effects {
            match effect {
                Effect::Publish(topic, signed) => {
                    self.link.network().publish(wire::topic(topic), signed.encode()).await?;
                }
                Effect::Hand(signed) => self.ask(Query::Hand(signed)),
                Effect::Ask(query) => self.ask(query),
                Effect::Fetch { cid, bytes } => self.fetch(cid, bytes),
                Effect::Stage(stage) => {
                    if let (Stage::Leased { attempt, .. } | Stage::Running { attempt, .. }, Some(along)) =
                        (&stage, &mut self.along)
                    {
                        along.follow(*attempt);
                    }
                    self.printer.stage(stage_text(&stage, self.steps));
                }
                Effect::NoMiner { model } => self.printer.note(&format!(
                    "warning: no live miner serves {model}; waiting until the job expires (Ctrl-C to stop waiting)"
                )),
                Effect::Done(outcome) => {
                    self.outcome = Some(*outcome);
                    return Ok(Flow::Stop);
                }
            }
        }
        Ok(Flow::Continue)
    }

    async fn answer(&mut self, _: &Submission, (): ()) {}
}

async fn follow(
    session: Session,
    connection: Connection,
    mut submission: Submission,
    id: JobId,
    reading: ReadingArgs,
) -> Result<Exit> {
    let Connection { link, events, beacon, .. } = connection;
    let (inbox, mut inputs) = mpsc::channel(MAX_INBOX);
    inbox.send(Input::Event(Event::Connected)).await?;
    inbox.send(Input::Event(Event::Heard(Box::new(beacon)))).await?;
    let listener = tokio::spawn(listen(link.clone(), events, inbox.clone()));
    let steps = steps(session.saved.job(&id)?.as_ref());
    let printer = session.printer.clone();
    let along = reading.stream.then(|| Along::new(link.clone(), printer.clone(), id));
    let mut shell = ClientShell { link: link.clone(), inbox, printer, along, steps, outcome: None };
    let run = driver::run(&mut submission, &mut shell, &mut inputs, session.clock, &session.stop).await;
    listener.abort();
    session.printer.finish();
    let told = match run {
        Ok(()) => tell(&session, id, &link, shell, &reading).await,
        Err(error) => Err(error),
    };
    link.network().shutdown().await;
    told
}

/// Prints what came of the job, and keeps what is wanted beside it.
async fn tell(
    session: &Session,
    id: JobId,
    link: &Link,
    shell: ClientShell,
    reading: &ReadingArgs,
) -> Result<Exit> {
    let Some(outcome) = shell.outcome else {
        return Err(UserError::input("interrupted; the job goes on without you")
            .hint(format!("swarm-client wait {id}"))
            .into());
    };
    let receipt = match &outcome {
        Outcome::Answer { receipt, .. } => Some(receipt.clone()),
        _ => None,
    };
    let read = shell.along.and_then(Along::end);
    let exit = conclude(session, id, outcome, (read, reading.out.as_deref()))?;
    if let (Some(receipt), Some(path)) = (receipt, &reading.logprobs) {
        let transcript = tokio::select! {
            transcript = logprobs::fetch(link, &receipt) => transcript?,
            () = session.stop.cancelled() => {
                return Err(UserError::input("interrupted before the log-probabilities were there")
                    .hint(format!("swarm-client wait {id} --logprobs {}", path.display()))
                    .into());
            }
        };
        logprobs::write(session, path, &id, &transcript).await?;
        session.printer.note(&format!("log-probabilities {}", path.display()));
    }
    Ok(exit)
}

async fn listen(link: Link, mut events: mpsc::Receiver<NetworkEvent>, inbox: Inbox) {
    while let Some(event) = events.recv().await {
        let event = match link.hear(event).await {
            Heard::Statement(verified) => Event::Heard(verified),
            Heard::Moved(verified) => {
                // The inbox is gone only when the wait is over.
                let _ = inbox.send(Input::Event(Event::Heard(verified))).await;
                Event::Connected
            }
            Heard::MaybeOperator(peer) => {
                let (link, inbox) = (link.clone(), inbox.clone());
                tokio::spawn(async move {
                    if link.recognise(peer).await {
                        // The inbox is gone only when the wait is over.
                        let _ = inbox.send(Input::Event(Event::Connected)).await;
                    }
                });
                continue;
            }
            Heard::Disconnected => Event::Disconnected,
            Heard::Nothing => continue,
        };
        if inbox.send(Input::Event(event)).await.is_err() {
            return;
        }
    }
}

/// What was read along of an answer, and the file that it is wanted in.
type Wanted<'a> = (Option<Streamed>, Option<&'a Path>);

fn conclude(session: &Session, id: JobId, outcome: Outcome, wanted: Wanted<'_>) -> Result<Exit> {
    let failed = |message: String, hint: String| Err(UserError::input(message).hint(hint).into());
    match outcome {
        Outcome::Answer { receipt, output } => answered(session, id, &receipt, &output, wanted),
        Outcome::Refused { reason, detail, .. } => {
            if session.printer.is_json() {
                let value = serde_json::json!({ "job": id.to_string(), "status": "refused", "reason": reason, "detail": detail });
                session.printer.object(&value);
            }
            let what = match reason {
                Reason::JobExpired => "expired",
                Reason::JobCancelled => "was cancelled",
                Reason::JobUnrunnable => "could not be run",
                _ => "was refused",
            };
            failed(format!("the job {what}: {detail}"), format!("nothing was paid; {}", remedy(reason)))
        }
        Outcome::Disputed { receipt, fault } => {
            let path = session.saved.keep_receipt(&id, &receipt, &[])?;
            failed(
                format!("the operator signed a false receipt: {fault}"),
                format!("keep {}", path.display()),
            )
        }
        Outcome::NoOutput { receipt, why } => {
            let path = session.saved.keep_receipt(&id, &receipt, &[])?;
            let hint = format!("the receipt is in {}; try again with swarm-client wait {id}", path.display());
            failed(format!("the job is done, but its output could not be fetched: {why}"), hint)
        }
        Outcome::Unknown => failed(format!("the pool knows no job {id}"), UNKNOWN.to_owned()),
        Outcome::GaveUp { stage } => {
            let steps = steps(session.saved.job(&id)?.as_ref());
            let stage = stage.map_or("never announced".to_owned(), |stage| stage_text(&stage, steps));
            let hint = format!("ask again later: swarm-client wait {id}");
            failed(format!("no verdict came in time; last seen {stage}"), hint)
        }
    }
}

fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::NoFunds => "lower payment.amount: swarm-client status shows your balance",
        Reason::PriceTooLow => "raise payment.amount",
        Reason::Expired => "send it again with a larger ttl_s, and check this machine's clock",
        Reason::JobExpired => "send it again with a larger ttl_s, or a higher price",
        Reason::TooManyOpenJobs => "wait until some of your jobs are done",
        Reason::PoolFull | Reason::Shortfall => "try again later",
        Reason::UnknownModel => "set model to one that the pool serves: swarm-client status lists them",
        Reason::Unsupported => "leave out what is not built in this version",
        Reason::InputUnavailable => "let swarm-client run until the job is admitted: it serves the input",
        Reason::UnknownJob => UNKNOWN,
        Reason::JobUnrunnable => "make its input or its max_tokens smaller",
        Reason::JobCancelled
        | Reason::NonceReused
        | Reason::NotPending
        | Reason::NotYours
        | Reason::StaleLease
        | Reason::ContentUnavailable
        | Reason::Unacceptable
        | Reason::NotEligible
        | Reason::NotAuditable => "send it again with swarm-client submit",
    }
}

fn answered(
    session: &Session,
    id: JobId,
    signed: &Signed,
    output: &[u8],
    (read, out): Wanted<'_>,
) -> Result<Exit> {
    let path = session.saved.keep_receipt(&id, signed, output)?;
    let (receipt, _) = receipt_of(signed).context("the receipt was checked")?;
    let answer = Rendered::read(output, session.saved.job(&id)?.as_ref());
    let file = written::file(session, id, &answer, out)?;
    if session.printer.is_json() {
        let mut object = serde_json::json!({
            "job": id.to_string(), "status": "answered", "cost_usdc": receipt.price.to_string(),
            "receipt": receipt_json(signed), "receipt_file": path,
        });
        answer.fields().into_iter().for_each(|(name, value)| object[name] = value);
        if let Some(file) = &file {
            object["answer_file"] = file.display().to_string().into();
        }
        session.printer.object(&object);
    } else if let Some(file) = &file {
        session.printer.answer(file.display().to_string().as_bytes());
    } else if answer.is_binary() {
        session.printer.bytes(&answer.text());
    } else {
        print_rest(session, &answer.text(), read);
    }
    let asset = if receipt.asset == swarm_protocol::statement::Asset::Test { " of test credit" } else { "" };
    session.printer.note(&format!(
        "paid {} USDC{asset}: {} {} {}, {} to the operator; held until boundary {}",
        receipt.price,
        receipt.miner_part,
        if receipt.pps.is_some() { "to the reserve, which pays the miner" } else { "to the miner" },
        receipt.wallet,
        receipt.operator_part,
        receipt.held_until
    ));
    session.printer.note(&format!("receipt {}", path.display()));
    Ok(Exit::Done)
}

/// What of the answer was not printed while it was made, after which it stands there whole.
fn print_rest(session: &Session, output: &[u8], read: Option<Streamed>) {
    match read.map(|read| read.rest(output).map(<[u8]>::to_vec)) {
        None => session.printer.answer(output),
        Some(Some(rest)) if rest.is_empty() && output.ends_with(b"\n") => {}
        Some(Some(rest)) => session.printer.answer(&rest),
        Some(None) => {
            session
                .printer
                .break_off("warning: the miner told something else than it proved; this is the answer:");
            session.printer.answer(output);
        }
    }
}

pub(super) async fn cancel(session: Session, job: JobId) -> Result<Exit> {
    let connection = session.connect().await?;
    let link = &connection.link;
    let body = Body::Cancel(Cancel { job });
    let statement = Statement::derived(link.pool(), session.key.address(), session.clock.now(), body);
    let signed = statement.sign(&session.key);
    link.network().publish(wire::topic(Topic::Jobs), signed.encode()).await?;
    link.ask(Query::Hand(signed)).await.ok_or_else(super::no_answer)?;
    let fate = link.ask(Query::Job { job }).await;
    session.printer.finish();
    link.network().shutdown().await;
    match fate {
        Some(Answer::Fate(Fate::Ended { .. })) => {
            session.printer.note("cancelled; the price is free again");
            Ok(Exit::Done)
        }
        Some(Answer::Fate(Fate::Unknown)) => {
            Err(UserError::input(format!("the pool knows no job {job}")).hint(UNKNOWN).into())
        }
        Some(_) => {
            Err(UserError::input("the job could not be cancelled: a miner has it, or it is not yours")
                .hint(format!("swarm-client status {job}"))
                .into())
        }
        None => Err(super::no_answer()),
    }
}
