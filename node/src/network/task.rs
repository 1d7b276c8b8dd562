//! The one task that owns the swarm.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{IdentTopic, MessageAcceptance, MessageId, PublishError, TopicHash};
use libp2p::multiaddr::Protocol;
use libp2p::request_response::{InboundRequestId, OutboundRequestId};
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::metrics::NetworkMetrics;

use super::addresses::{Found, Watcher};
use super::behaviour::{self, Behaviour};
use super::dialer::{Dialer, peer_in};
use super::handle::{Answer, Command};
use super::reach::Reach;
use super::search::{self, Search};
use super::{
    BlockSource, Error, GossipId, MAX_EVENTS, MAX_PEERS_SHOWN, MAX_PENDING_REQUESTS, MAX_WAITING_AGE,
    MAX_WAITING_MESSAGES, NetworkConfig, NetworkEvent, Peer, PeerInfo, Topic, Verdict, bitswap,
};

const TICK: Duration = Duration::from_millis(500);
/// gossipsub does not say when its queues are empty: what was published just before the end gets this.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Task {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) commands: mpsc::WeakSender<Command>,
    pub(super) events: mpsc::Sender<NetworkEvent>,
    pub(super) topics: HashMap<TopicHash, Topic>,
    pub(super) peers: HashMap<PeerId, Peer>,
    pub(super) dialer: Dialer,
    pub(super) dials: HashMap<ConnectionId, Answer<PeerId>>,
    pub(super) sync: Exchange,
    pub(super) bitswap: bitswap::Shell,
    pub(super) watcher: Option<Watcher>,
    pub(super) dropped_events: u64,
    pub(super) metrics: NetworkMetrics,
    pub(super) reach: Reach,
    pub(super) search: Search,
    pub(super) kad_protocol: StreamProtocol,
    pub(super) is_relay: bool,
    pub(super) announced: Vec<Multiaddr>,
    pub(super) listeners: Vec<ListenerId>,
    favourite: Option<PeerId>,
    waiting: VecDeque<Waiting>,
    pool: String,
}

/// What is under way in one request-response protocol.
#[derive(Default)]
pub(super) struct Exchange {
    pub(super) asked: HashMap<OutboundRequestId, Answer<Vec<u8>>>,
    pub(super) in_service: HashSet<InboundRequestId>,
}

struct Waiting {
    topic: Topic,
    data: Vec<u8>,
    expires: Instant,
}

pub(super) fn spawn(
    config: NetworkConfig,
    source: Arc<dyn BlockSource>,
    receiver: mpsc::Receiver<Command>,
    commands: mpsc::WeakSender<Command>,
    closed: watch::Sender<bool>,
) -> Result<(PeerId, mpsc::Receiver<NetworkEvent>), Error> {
    let mut swarm = behaviour::build_swarm(&config)?;
    let peer_id = *swarm.local_peer_id();
    let listeners = listen(&mut swarm, &config.listen)?;
    config.announce.iter().for_each(|address| swarm.add_external_address(address.clone()));
    let (watcher, found) = match &config.address_file {
        Some(file) => {
            let (watcher, found) = Watcher::spawn(&file.directory, &config.pool_name, &file.role, peer_id)?;
            (Some(watcher), Some(found))
        }
        None => (None, None),
    };
    let (events, event_receiver) = mpsc::channel(MAX_EVENTS);
    let topic_hash = |t: &Topic| (behaviour::topic(&config.pool_name, *t).hash(), *t);
    let task = Task {
        swarm,
        commands,
        events,
        topics: Topic::ALL.iter().map(topic_hash).collect(),
        peers: HashMap::new(),
        dialer: Dialer::new(peer_id, &config.bootstrap, Instant::now()),
        dials: HashMap::new(),
        sync: Exchange::default(),
        bitswap: bitswap::Shell::new(source, config.metrics.bitswap.clone()),
        watcher,
        dropped_events: 0,
        metrics: config.metrics,
        reach: Reach::new(config.outside),
        search: Search::new(),
        kad_protocol: search::protocol(&config.pool_name)?,
        is_relay: config.relay,
        announced: config.announce,
        listeners,
        favourite: None,
        waiting: VecDeque::new(),
        pool: config.pool_name,
    };
    tokio::spawn(async move {
        task.run(receiver, found).await;
        closed.send_replace(true);
    });
    Ok((peer_id, event_receiver))
}

fn listen(swarm: &mut Swarm<Behaviour>, addresses: &[Multiaddr]) -> Result<Vec<ListenerId>, Error> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listening = probe(address)
            .map_err(|e| e.to_string())
            .and_then(|()| swarm.listen_on(address.clone()).map_err(|e| e.to_string()));
        match listening {
            Ok(listener) => listeners.push(listener),
            // Machines without IPv6 are common, and nobody asked for one interface in particular.
            Err(error) if is_any_ipv6(address) => {
                tracing::debug!(%address, %error, "not listening")
            }
            Err(reason) => {
                return Err(Error::Listen { address: address.clone(), reason });
            }
        }
    }
    if listeners.is_empty() && !addresses.is_empty() {
        return Err(Error::NoListener);
    }
    Ok(listeners)
}

/// libp2p's TCP listeners share their port with any other process of this user that asks for it: only a
/// plain socket tells whether it is taken.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        // A plain socket on all of IPv6 would take the port of all of IPv4 with it.
        Some(Protocol::Ip6(ip)) if !ip.is_unspecified() => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

fn is_any_ipv6(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unspecified())
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut found: Option<mpsc::Receiver<Found>>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Shutdown) | None => break,
                    Some(command) => self.handle_command(command),
                },
                event = self.swarm.select_next_some() => self.handle_swarm_event(event),
                Some(nodes) = receive(&mut found) => {
                    self.dialer.set_machine(nodes, Instant::now());
                    self.dial_due();
                }
                report = self.bitswap.next() => self.bitswap.handle(report),
                _ = tick.tick() => self.handle_tick(),
            }
            while let Some(peer) = self.bitswap.poll_open() {
                self.swarm.behaviour_mut().bitswap.open(peer);
            }
        }
        drop(commands);
        self.close().await;
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Publish { topic, data } => self.publish(topic, data),
            Command::Verdict { id, from, verdict } => self.report(id, from, verdict),
            Command::Request { peer, data, answer } => {
                if let Some(answer) = admit(&self.sync, answer) {
                    let id = self.swarm.behaviour_mut().sync.send_request(&peer, data);
                    self.sync.asked.insert(id, answer);
                }
            }
            Command::Fetch { cid, likely, max_bytes, until, answer } => {
                self.bitswap.fetch(cid, likely, max_bytes, until, answer);
            }
            Command::Stored(cids) => self.bitswap.available(cids),
            Command::Reply { channel, data } => {
                // The peer may have gone: nothing is owed to it then.
                let _ = self.swarm.behaviour_mut().sync.send_response(channel, data);
            }
            Command::Dial { address, answer } => self.dial(address, answer),
            Command::Favour { peer } => self.favour(peer),
            Command::Peers { answer } => respond(answer, Ok(self.peer_infos())),
            Command::ListenAddresses { answer } => {
                respond(answer, Ok(self.swarm.listeners().cloned().collect()));
            }
            Command::Shutdown => {}
        }
    }

    fn publish(&mut self, topic: Topic, data: Vec<u8>) {
        let wire_topic = self.wire_topic(topic);
        match self.swarm.behaviour_mut().gossip.publish(wire_topic, data.clone()) {
            Ok(_) | Err(PublishError::Duplicate) => {}
            Err(PublishError::NoPeersSubscribedToTopic) => self.wait_for_peer(topic, data),
            Err(error) => {
                tracing::warn!(topic = topic.name(), %error, "a message was not published")
            }
        }
    }

    fn wait_for_peer(&mut self, topic: Topic, data: Vec<u8>) {
        if self.waiting.len() >= MAX_WAITING_MESSAGES {
            tracing::warn!("no peers to publish to, the oldest waiting message is dropped");
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { topic, data, expires: Instant::now() + MAX_WAITING_AGE });
    }

    pub(super) fn publish_waiting(&mut self, topic: Topic) {
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.topic == topic);
        self.waiting = waiting;
        for message in VecDeque::<Waiting>::into_iter(ready) {
            self.publish(topic, message.data);
        }
    }

    pub(super) fn report(&mut self, id: GossipId, from: PeerId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        let id = MessageId(id.0.to_vec());
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if !gossip.report_message_validation_result(&id, &from, acceptance) {
            tracing::debug!(%id, "a verdict came too late");
        }
    }

    fn favour(&mut self, peer: Option<PeerId>) {
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        if let Some(last) = std::mem::replace(&mut self.favourite, peer) {
            gossip.set_application_score(&last, 0.0);
        }
        if let Some(peer) = peer
            && !gossip.set_application_score(&peer, behaviour::FAVOUR)
        {
            tracing::debug!(%peer, "left before it could be favoured");
        }
    }

    fn dial(&mut self, address: Multiaddr, answer: Answer<PeerId>) {
        let options = match peer_in(&address) {
            Some(peer) if self.swarm.is_connected(&peer) => return respond(answer, Ok(peer)),
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Disconnected)
                .addresses(vec![address])
                .build(),
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let attempt = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dials.insert(attempt, answer);
            }
            Err(error) => respond(answer, Err(Error::Unreachable(error.to_string()))),
        }
    }

    fn dial_due(&mut self) {
        // What is dialled before a port is listened on does not come from that port, and routers show others another.
        if !self.listeners.is_empty() && self.swarm.listeners().next().is_none() {
            return;
        }
        let swarm = &self.swarm;
        for options in self.dialer.due(Instant::now(), |peer| swarm.is_connected(peer)) {
            let attempt = options.connection_id();
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%error, "not dialled");
                self.dialer.failed(attempt, Instant::now());
            }
        }
    }

    fn handle_tick(&mut self) {
        let now = Instant::now();
        let before = self.waiting.len();
        self.waiting.retain(|message| message.expires > now);
        if self.waiting.len() < before {
            tracing::warn!(count = before - self.waiting.len(), "messages found no peer within a minute");
        }
        self.dial_due();
        self.seek_paths();
        self.bitswap.handle_tick();
    }

    fn peer_infos(&self) -> Vec<PeerInfo> {
        let gossip = &self.swarm.behaviour().gossip;
        let topics: HashMap<_, _> = gossip.all_peers().collect();
        let topics_of = |peer: &PeerId| {
            let hashes = topics.get(peer).into_iter().flatten();
            hashes.filter_map(|hash| self.topics.get(*hash).copied()).collect()
        };
        let info = |(peer, known): (&PeerId, &Peer)| {
            let line = known.best()?;
            Some(PeerInfo {
                peer: *peer,
                address: line.address.clone(),
                agent: known.agent.clone(),
                topics: topics_of(peer),
                route: line.route,
                route_since: line.since,
                score: gossip.peer_score(peer).unwrap_or_default(),
                latency: known.latency,
                connected_since: known.since,
            })
        };
        let mut infos: Vec<PeerInfo> = self.peers.iter().filter_map(info).collect();
        infos.sort_by_key(|info| (info.connected_since, info.peer));
        infos.truncate(MAX_PEERS_SHOWN);
        infos
    }

    fn wire_topic(&self, topic: Topic) -> IdentTopic {
        behaviour::topic(&self.pool, topic)
    }

    /// Leaves by closing connections, not by unsubscribing: an unsubscription would keep this node out of
    /// its neighbours' meshes for a while should it start again at once.
    async fn close(mut self) {
        if let Some(watcher) = self.watcher.take() {
            let _ = timeout(FLUSH_TIMEOUT, watcher.close()).await;
        }
        for listener in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(listener);
        }
        if self.swarm.connected_peers().next().is_some() {
            let _ = timeout(FLUSH_TIMEOUT, self.drive(|_| false)).await;
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that the peer has left first.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let _ = timeout(CLOSE_TIMEOUT, self.drive(|swarm| swarm.connected_peers().next().is_none())).await;
    }

    async fn drive(&mut self, until: impl Fn(&Swarm<Behaviour>) -> bool) {
        while !until(&self.swarm) {
            let event = self.swarm.select_next_some().await;
            self.handle_swarm_event(event);
        }
    }
}

fn admit(exchange: &Exchange, answer: Answer<Vec<u8>>) -> Option<Answer<Vec<u8>>> {
    if exchange.asked.len() >= MAX_PENDING_REQUESTS {
        respond(answer, Err(Error::Busy));
        return None;
    }
    Some(answer)
}

/// Whoever asked may have given up, which is no loss.
pub(super) fn respond<T>(answer: Answer<T>, result: Result<T, Error>) {
    let _ = answer.send(result);
}

async fn receive(found: &mut Option<mpsc::Receiver<Found>>) -> Option<Found> {
    match found {
        Some(receiver) => receiver.recv().await,
        None => None,
    }
}
