//! Does what the core decides: streams, lookups, timers. It belongs to the task that owns the swarm and never
//! waits there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cid::Cid;
use libp2p::{PeerId, Stream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::reading::{Memory, Patience, Reader, Taken};
use super::streams::StreamEvent;
use super::writing::Writer;
use super::{Core, Effect, Event, Fetch, FetchError, Found, Lookup, Message, NotSent, WantKind};
use crate::metrics::BitswapMetrics;
use crate::network::{BlockSource, MAX_BLOCK, Until};

/// Streams that one peer may have open towards this node.
const MAX_INBOUND_STREAMS: usize = 16;
const MAX_REPORTS: usize = 256;
/// How long opening a stream may take; negotiation has a timeout of its own.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long after it was asked a peer may send long messages.
const EXPECTED_FOR: Duration = Duration::from_secs(120);

pub(in crate::network) type FetchAnswer = oneshot::Sender<Result<Vec<u8>, FetchError>>;

/// What streams and lookups report.
#[derive(Debug)]
pub(in crate::network) enum Report {
    Event(Event),
    /// Its memory is given back when the message is dealt with.
    Received {
        peer: PeerId,
        message: Message,
        memory: Taken,
    },
    Written {
        peer: PeerId,
        generation: u64,
    },
    NotWritten {
        peer: PeerId,
        generation: u64,
        reason: NotSent,
    },
    /// A stream that had served before has broken.
    StreamLost {
        peer: PeerId,
        generation: u64,
        message: Vec<u8>,
    },
    LookedUp(Id, Found),
    Due,
    TaskOver,
}

/// The Bitswap of one node, with its streams.
#[derive(Debug)]
pub(in crate::network) struct Shell {
    core: Core,
    source: Arc<dyn BlockSource>,
    metrics: BitswapMetrics,
    started: Instant,
    links: HashMap<PeerId, Link>,
    generations: u64,
    fetches: HashMap<u64, FetchAnswer>,
    next_fetch: u64,
    lookups: HashMap<Id, Lookup>,
    lookup_tasks: JoinSet<Found>,
    stream_tasks: JoinSet<()>,
    memory: Memory,
    reports: mpsc::Sender<Report>,
    received: mpsc::Receiver<Report>,
    opens: VecDeque<PeerId>,
}

#[derive(Debug)]
struct Link {
    generation: u64,
    outgoing: Outgoing,
    inbound: Arc<Semaphore>,
    memory: Memory,
    expected_until: Arc<AtomicU64>,
    stop: CancellationToken,
}

#[derive(Debug)]
enum Outgoing {
    Closed,
    Opening { message: Vec<u8>, since: Instant },
    Open(mpsc::Sender<Vec<u8>>),
}

impl Shell {
    pub(in crate::network) fn new(source: Arc<dyn BlockSource>, metrics: BitswapMetrics) -> Self {
        let (reports, received) = mpsc::channel(MAX_REPORTS);
        Self {
            core: Core::default(),
            source,
            metrics,
            started: Instant::now(),
            links: HashMap::new(),
            generations: 0,
            fetches: HashMap::new(),
            next_fetch: 0,
            lookups: HashMap::new(),
            lookup_tasks: JoinSet::new(),
            stream_tasks: JoinSet::new(),
            memory: Memory::whole(),
            reports,
            received,
            opens: VecDeque::new(),
        }
    }

    /// The next report; nothing is lost if the wait is broken off.
    pub(in crate::network) async fn next(&mut self) -> Report {
        let due = self.core.poll_timeout().map(|due| self.started + due);
        tokio::select! {
            Some(report) = self.received.recv() => report,
            Some(done) = self.lookup_tasks.join_next_with_id() => match done {
                Ok((id, found)) => Report::LookedUp(id, found),
                Err(error) => {
                    tracing::error!(%error, "a block could not be looked up");
                    Report::LookedUp(error.id(), Found::Absent)
                }
            },
            Some(_) = self.stream_tasks.join_next() => Report::TaskOver,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Report::Due,
            else => std::future::pending().await,
        }
    }

    pub(in crate::network) fn handle(&mut self, report: Report) {
        match report {
            Report::Event(event) => self.tell(event),
            Report::Received { peer, message, memory } => {
                let blocks = message.blocks.iter().map(|block| block.data.len());
                self.metrics.received(message.wants.len() + message.skipped, blocks);
                self.tell(Event::Received { peer, message });
                drop(memory);
            }
            Report::Written { peer, generation } if self.is_current(&peer, generation) => {
                self.tell(Event::Sent(peer));
            }
            Report::NotWritten { peer, generation, reason } if self.is_current(&peer, generation) => {
                self.not_sent(peer, reason);
            }
            Report::StreamLost { peer, generation, message } if self.is_current(&peer, generation) => {
                self.open(peer, message);
            }
            Report::Written { .. } | Report::NotWritten { .. } | Report::StreamLost { .. } => {}
            Report::LookedUp(id, found) => {
                if let Some(lookup) = self.lookups.remove(&id) {
                    self.tell(Event::LookedUp { lookup, found });
                }
            }
            Report::Due => {
                self.core.handle_timeout(self.started.elapsed());
                self.act();
            }
            Report::TaskOver => {}
        }
    }

    pub(in crate::network) fn connected(&mut self, peer: PeerId) {
        self.generations += 1;
        let link = Link {
            generation: self.generations,
            outgoing: Outgoing::Closed,
            inbound: Arc::new(Semaphore::new(MAX_INBOUND_STREAMS)),
            memory: Memory::share(),
            expected_until: Arc::default(),
            stop: CancellationToken::new(),
        };
        self.links.insert(peer, link);
        self.tell(Event::Connected(peer));
    }

    pub(in crate::network) fn disconnected(&mut self, peer: PeerId) {
        if let Some(link) = self.links.remove(&peer) {
            link.stop.cancel();
        }
        self.tell(Event::Disconnected(peer));
    }

    pub(in crate::network) fn fetch(
        &mut self,
        cid: Cid,
        likely: Vec<PeerId>,
        max_bytes: usize,
        until: Until,
        answer: FetchAnswer,
    ) {
        let id = self.next_fetch;
        self.next_fetch += 1;
        self.fetches.insert(id, answer);
        let since_start = |instant: Instant| instant.saturating_duration_since(self.started);
        let (patience, deadline) = (since_start(until.found), since_start(until.fetched));
        self.tell(Event::Fetch(Fetch { id, cid, max_bytes, patience, deadline, likely }));
    }

    pub(in crate::network) fn available(&mut self, cids: Vec<Cid>) {
        cids.into_iter().for_each(|cid| self.tell(Event::Available(cid)));
    }

    /// Gives up what nobody waits for any more, and streams that do not open.
    pub(in crate::network) fn handle_tick(&mut self) {
        self.metrics.hold(self.core.all_wants_held());
        let gone: Vec<u64> = self.fetches.iter().filter(|(_, a)| a.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.fetches.remove(&id);
            self.tell(Event::Cancel(id));
        }
        let is_late = |link: &Link| matches!(&link.outgoing, Outgoing::Opening { since, .. } if since.elapsed() > OPEN_TIMEOUT);
        let late: Vec<PeerId> =
            self.links.iter().filter(|(_, l)| is_late(l)).map(|(peer, _)| *peer).collect();
        for peer in late {
            self.not_sent(peer, NotSent::Broken);
        }
    }

    /// The next peer to whom a stream is to be opened.
    pub(in crate::network) fn poll_open(&mut self) -> Option<PeerId> {
        self.opens.pop_front()
    }

    pub(in crate::network) fn handle_stream(&mut self, peer: PeerId, event: StreamEvent) {
        match event {
            StreamEvent::Inbound(stream) => self.read(peer, stream),
            StreamEvent::Opened(stream) => self.write(peer, stream),
            StreamEvent::NotOpened(reason) => {
                if self.links.get(&peer).is_some_and(|l| matches!(l.outgoing, Outgoing::Opening { .. })) {
                    self.not_sent(peer, reason);
                }
            }
        }
    }

    fn read(&mut self, peer: PeerId, stream: Stream) {
        let Some(link) = self.links.get(&peer).filter(|link| !link.stop.is_cancelled()) else { return };
        let Ok(place) = link.inbound.clone().try_acquire_owned() else {
            return tracing::debug!(%peer, "too many streams, one is refused");
        };
        let reader = Reader {
            peer,
            share: link.memory.clone(),
            whole: self.memory.clone(),
            started: self.started,
            expected_until: link.expected_until.clone(),
            reports: self.reports.clone(),
            patience: Patience::default(),
        };
        let stop = link.stop.clone();
        self.stream_tasks.spawn(async move {
            let _ = stop.run_until_cancelled(reader.run(stream)).await;
            drop(place);
        });
    }

    fn write(&mut self, peer: PeerId, stream: Stream) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let (sender, others) = mpsc::channel(1);
        match std::mem::replace(&mut link.outgoing, Outgoing::Closed) {
            Outgoing::Opening { message, .. } => {
                link.outgoing = Outgoing::Open(sender);
                let writer = Writer { peer, generation: link.generation, reports: self.reports.clone() };
                let stop = link.stop.clone();
                self.stream_tasks.spawn(async move {
                    let _ = stop.run_until_cancelled(writer.run(stream, message, others)).await;
                });
            }
            // It comes after it was given up.
            outgoing @ (Outgoing::Closed | Outgoing::Open(_)) => link.outgoing = outgoing,
        }
    }

    fn is_current(&self, peer: &PeerId, generation: u64) -> bool {
        self.links.get(peer).is_some_and(|link| link.generation == generation)
    }

    fn not_sent(&mut self, peer: PeerId, reason: NotSent) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.outgoing = Outgoing::Closed;
        }
        self.tell(Event::NotSent { peer, reason });
    }

    fn tell(&mut self, event: Event) {
        self.core.handle(event, self.started.elapsed());
        self.act();
    }

    fn act(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { peer, message } => self.send(peer, &message),
                Effect::LookUp(lookup) => self.look_up(lookup),
                Effect::Deliver { id, outcome } => {
                    if let Some(answer) = self.fetches.remove(&id) {
                        // Whoever asked may have given up, which is no loss.
                        let _ = answer.send(outcome);
                    }
                }
                Effect::Shun(peer) => {
                    if let Some(link) = self.links.get_mut(&peer) {
                        link.stop.cancel();
                        link.outgoing = Outgoing::Closed;
                    }
                }
                Effect::Hear(peer) => {
                    if let Some(link) = self.links.get_mut(&peer) {
                        link.stop = CancellationToken::new();
                    }
                }
            }
        }
    }

    fn send(&mut self, peer: PeerId, message: &Message) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        self.metrics.sent(message.wants.len(), message.blocks.iter().map(|block| block.data.len()));
        if message.wants.iter().any(|want| want.kind == WantKind::Block && !want.cancel) {
            let until = (self.started.elapsed() + EXPECTED_FOR).as_millis();
            link.expected_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let framed = message.encode_framed();
        let unsent = match &link.outgoing {
            Outgoing::Open(writer) => writer.try_send(framed).err().map(|error| error.into_inner()),
            Outgoing::Closed | Outgoing::Opening { .. } => Some(framed),
        };
        if let Some(message) = unsent {
            self.open(peer, message);
        }
    }

    fn open(&mut self, peer: PeerId, message: Vec<u8>) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.outgoing = Outgoing::Opening { message, since: Instant::now() };
            self.opens.push_back(peer);
        }
    }

    fn look_up(&mut self, lookup: Lookup) {
        let source = self.source.clone();
        let task = self.lookup_tasks.spawn_blocking(move || find(source.as_ref(), &lookup));
        self.lookups.insert(task.id(), lookup);
    }
}

fn find(source: &dyn BlockSource, lookup: &Lookup) -> Found {
    match lookup.kind {
        WantKind::Have if source.has(&lookup.cid) => Found::Present,
        WantKind::Have => Found::Absent,
        WantKind::Block => match source.block(&lookup.cid) {
            Some(block) if block.len() <= MAX_BLOCK => Found::Block(block),
            Some(_) | None => Found::Absent,
        },
    }
}
