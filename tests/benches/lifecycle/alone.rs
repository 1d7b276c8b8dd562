//! The operator without a network: its machine, the driver, the checks of an intake, its signatures and the ledger.
//! Not in it: peers, content, and what clients and miners do themselves.

use crate::cast::{Cast, Heard, MODEL, Play, SECRET, key, pool_id};
use crate::floor::Batch;
use anyhow::{Context, Result};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use swarm_crypto::key::SecretKey;
use swarm_node::clock::Clock;
use swarm_node::driver::{self, Flow, Input, MAX_INBOX, Shell};
use swarm_node::storage::high_water::HighWater;
use swarm_node::storage::ledger::Ledger;
use swarm_node::storage::sequencer::LedgerWriter;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{Pool, PoolConfig, PoolEffect, PoolEvent, PoolStory};
use swarm_protocol::statement::{Body, Identified, Intake, JobType, Statement, Topic};
use swarm_protocol::{Millis, Posted};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Everything that is in flight fits.
const MAX_SAID: usize = 8192;
const TIMEOUT: Duration = Duration::from_secs(300);

/// Lives of jobs, from the first one's submission to the last one's receipt.
pub struct Run {
    pub time: Duration,
    pub batches: Vec<Batch>,
}

pub fn config(name: &str) -> PoolConfig {
    PoolConfig {
        node: None,
        reserve: MicroUsdc(0),
        name: name.into(),
        operator: key(0).address(),
        models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
        // The first claim gets the job: windows are waiting, of which there is none to be measured.
        posted: Posted { window: Millis(0), audit_rate: 0, ..Posted::default() },
        secret: SECRET,
    }
}

/// The operator's shell without content and peers.
struct Durable {
    key: SecretKey,
    writer: LedgerWriter,
    high_water: HighWater,
    inbox: mpsc::Sender<Input<PoolEvent, ()>>,
    said: mpsc::Sender<Heard>,
    batches: Vec<Batch>,
}

impl Durable {
    async fn append(&mut self, rows: Vec<Vec<u8>>) -> Result<()> {
        self.batches.push(rows.iter().map(Vec::len).collect());
        let appended = self.writer.append(rows).await?;
        Ok(self.high_water.rely_on(appended.last_seq, appended.head)?)
    }

    async fn publish(&self, statement: &Statement) -> Result<()> {
        black_box(statement.sign(&self.key).encode());
        let heard: Vec<Heard> = match &statement.body {
            Body::Listing(listing) => listing.entries.iter().map(|entry| Heard::Listed(entry.job)).collect(),
            Body::Lease(lease) => vec![Heard::Leased(lease.job)],
            Body::Receipt(receipt) => vec![Heard::Receipted(receipt.job)],
            _ => Vec::new(),
        };
        for heard in heard {
            self.said.send(heard).await?;
        }
        Ok(())
    }
}

impl Shell<Pool> for Durable {
    type Ask = ();

    async fn perform(&mut self, _: &Pool, effects: Vec<PoolEffect>) -> Result<Flow> {
        let (mut rows, mut rest) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                PoolEffect::Record(row) => rows.push(row),
                other => rest.push(other),
            }
        }
        if !rows.is_empty() {
            self.append(rows).await?;
        }
        for effect in rest {
            match effect {
                PoolEffect::Publish(_, statement) => self.publish(&statement).await?,
                PoolEffect::Examine(examination) => {
                    let (job, proof) = (examination.id, examination.proof_id);
                    let (inbox, outcome) = (self.inbox.clone(), Ok(64));
                    tokio::spawn(async move {
                        // The inbox is gone only when all is over.
                        let _ = inbox.send(Input::Event(PoolEvent::Examined { job, proof, outcome })).await;
                    });
                }
                PoolEffect::Story(PoolStory::MinerJoined { .. }) => self.said.send(Heard::Joined).await?,
                PoolEffect::Story(PoolStory::Refused { reason, detail, .. }) => {
                    anyhow::bail!("{reason:?}: {detail}")
                }
                // A block is another store's, and the tree is not the sequencer's work.
                _ => {}
            }
        }
        Ok(Flow::Continue)
    }

    async fn answer(&mut self, _: &Pool, (): ()) {}
}

/// Checks what comes and hands it to the machine, as the operator's ingress does.
async fn take_in(
    mut intake: Intake,
    clock: Clock,
    mut waiting: mpsc::Receiver<(Topic, Vec<u8>)>,
    inbox: mpsc::Sender<Input<PoolEvent, ()>>,
) -> Result<()> {
    while let Some((topic, bytes)) = waiting.recv().await {
        let verified = intake.accept(Some(topic), &bytes, clock.now())?;
        inbox.send(Input::Event(PoolEvent::Statement(Identified::new(verified, false)))).await?;
    }
    Ok(())
}

/// All jobs of a fresh pool, with the miners known before the clock starts.
pub async fn run(name: &str, ledger: Box<dyn Ledger>, folder: &Path, jobs: usize) -> Result<Run> {
    let (clock, cast) = (Clock::start(), Cast::of(pool_id(name)));
    let (writer, thread) = LedgerWriter::spawn(ledger)?;
    let (inbox, mut inputs) = mpsc::channel(MAX_INBOX);
    let (say, waiting) = mpsc::channel(MAX_SAID);
    let (said, mut heard) = mpsc::channel(MAX_SAID);
    let high_water = HighWater::open(&folder.join("high_water"))?;
    let mut shell =
        Durable { key: key(0), writer, high_water, inbox: inbox.clone(), said, batches: Vec::new() };
    let mut pool = Pool::create(config(name), clock.now());
    let intake = Intake::new(pool.id(), key(0).address());
    let ingress = tokio::spawn(take_in(intake, clock, waiting, inbox));
    let stop = CancellationToken::new();
    let ending = stop.clone();
    let others = async move {
        for heartbeat in cast.heartbeats(clock.now()) {
            say.send((Topic::Heartbeats, heartbeat)).await?;
            heard.recv().await.context("the operator is there")?;
        }
        let mut play = Play::of(&cast, jobs, clock.now());
        let start = Instant::now();
        for said in play.begin() {
            say.send(said).await?;
        }
        while !play.is_over() {
            let heard = heard.recv().await.context("the operator is there")?;
            if let Some(said) = play.hear(heard) {
                say.send(said).await?;
            }
        }
        ending.cancel();
        Ok(start.elapsed())
    };
    let operator = driver::run(&mut pool, &mut shell, &mut inputs, clock, &stop);
    let all = async { tokio::try_join!(others, operator, async { ingress.await? }) };
    let (time, (), ()) = timeout(TIMEOUT, all).await.context("all jobs in time")??;
    let batches = std::mem::take(&mut shell.batches);
    drop(shell);
    let ledger = tokio::task::spawn_blocking(move || thread.join()).await?;
    let ledger = ledger.map_err(|_| anyhow::anyhow!("the ledger's thread broke off"))?;
    let records: usize = batches.iter().map(Vec::len).sum();
    anyhow::ensure!(ledger.next_seq() == records as u64, "every record is in the ledger");
    anyhow::ensure!(pool.state().epoch().tree.len() == jobs as u64, "every job was accepted");
    Ok(Run { time, batches })
}
