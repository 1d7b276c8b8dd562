//! Reading an answer along while it is made: straight from the miner, the operator only says who that is.

use super::output::Printer;
use crate::link::Link;
use crate::session::ask;
use anyhow::{Context, Result, bail};
use libp2p::PeerId;
use libp2p::multiaddr::Protocol;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Holder, Query};
use swarm_protocol::streamed::Streamed;
use tokio::task::JoinHandle;

/// How often the holder is looked for under one lease, and a miner that does not answer is asked again.
const MAX_TRIES: u32 = 26;
const PAUSE: Duration = Duration::from_millis(500);
/// The first such pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// What was read so far, and who reads on.
pub(super) struct Along {
    link: Link,
    printer: Printer,
    job: JobId,
    read: Arc<Mutex<Option<Streamed>>>,
    reading: Option<(u32, JoinHandle<()>)>,
}

impl Along {
    pub fn new(link: Link, printer: Printer, job: JobId) -> Self {
        Self { link, printer, job, read: Arc::default(), reading: None }
    }

    /// A miner works on this attempt: it is read, and the one before is not any more.
    pub fn follow(&mut self, attempt: u32) {
        if self.reading.as_ref().is_some_and(|(known, _)| *known >= attempt) {
            return;
        }
        self.stop();
        let reader = Reader {
            link: self.link.clone(),
            printer: self.printer.clone(),
            job: self.job,
            read: self.read.clone(),
        };
        let task = tokio::spawn(async move {
            // The answer comes all the same, whole.
            if let Err(error) = reader.run().await {
                tracing::debug!("the answer cannot be read along: {error:#}");
            }
        });
        self.reading = Some((attempt, task));
    }

    /// Ends the reading, and gives what was read.
    pub fn end(mut self) -> Option<Streamed> {
        self.stop();
        lock(&self.read).take()
    }

    fn stop(&mut self) {
        if let Some((_, task)) = self.reading.take() {
            task.abort();
        }
    }
}

impl Drop for Along {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(PAUSE)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reader {
    link: Link,
    printer: Printer,
    job: JobId,
    read: Arc<Mutex<Option<Streamed>>>,
}

impl Reader {
    async fn run(&self) -> Result<()> {
        let holder = self.holder().await?;
        let mut streamed = Streamed::of(holder.lease);
        let mut tries = 0;
        loop {
            match self.piece(&holder, streamed.len()).await {
                Ok(piece) => {
                    tries = 0;
                    streamed.take(&piece)?;
                    self.show(&streamed, &piece.text);
                    if piece.ended {
                        return Ok(());
                    }
                    if piece.text.is_empty() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Err(error) if tries == MAX_TRIES => return Err(error),
                Err(_) => {
                    tokio::time::sleep(pause(tries)).await;
                    tries += 1;
                }
            }
        }
    }

    /// Who has the lease; the miner may not have told the operator yet from where it speaks.
    async fn holder(&self) -> Result<Holder> {
        for tries in 0..MAX_TRIES {
            match self.link.ask(Query::Holder { job: self.job }).await {
                Some(Answer::Holder(Some(holder))) if !holder.nodes.is_empty() => return Ok(holder),
                _ => tokio::time::sleep(pause(tries)).await,
            }
        }
        bail!("the operator does not say who runs the job")
    }

    async fn piece(&self, holder: &Holder, from: u64) -> Result<swarm_protocol::streamed::Piece> {
        let query = Query::Stream { job: self.job, from };
        let mut last = None;
        for node in holder.nodes.iter().filter_map(|node| node.parse::<PeerId>().ok()) {
            match ask(self.link.network(), node, &query).await {
                Ok(Answer::Stream(Some(piece))) => return Ok(piece),
                Ok(_) => {}
                Err(error) => {
                    last = Some(error);
                    // It may be behind a router: the operator relays.
                    self.reach(node).await;
                }
            }
        }
        Err(last.map_or_else(|| anyhow::anyhow!("the miner has no such job"), anyhow::Error::from))
    }

    /// Connects by the operator's relay; from there the two find a straight way if there is one.
    async fn reach(&self, node: PeerId) {
        let reached = async {
            let operator = self.link.peer().context("the operator is away")?;
            let peers = self.link.network().peers().await?;
            let there = peers.iter().find(|known| known.peer == operator).context("it is not connected")?;
            let mut address = there.address.clone();
            if !matches!(address.iter().last(), Some(Protocol::P2p(_))) {
                address.push(Protocol::P2p(operator));
            }
            address.push(Protocol::P2pCircuit);
            address.push(Protocol::P2p(node));
            anyhow::Ok(self.link.network().dial(address).await?)
        };
        if let Err(error) = reached.await {
            tracing::debug!("the miner is not reached by the operator's relay: {error:#}");
        }
    }

    fn show(&self, streamed: &Streamed, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let before = lock(&self.read).replace(streamed.clone());
        if before.is_some_and(|before| before.lease() != streamed.lease()) {
            self.printer.break_off("the miner gave up; another begins anew:");
        }
        self.printer.piece(text);
    }
}
