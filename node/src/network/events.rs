//! What the swarm reports, turned into what the rest of the program hears.

use std::time::Duration;

use libp2p::core::ConnectedPoint;
use libp2p::gossipsub;
use libp2p::request_response::{Event as ExchangeEvent, Message, OutboundFailure};
use libp2p::swarm::{ConnectionId, DialError, ListenError, SwarmEvent};
use libp2p::{PeerId, connection_limits, identify, mdns, memory_connection_limits, ping};
use tokio::time::Instant;

use crate::metrics::Refused;

use super::behaviour::{BehaviourEvent, START_MARK, gossip_id};
use super::crowd::Crowded;
use super::handle::ReplyHandle;
use super::reach::is_relayed;
use super::task::{Exchange, Task, respond};
use super::{
    Error, GossipId, MAX_AGENT, MAX_MESSAGE, MAX_SYNC_IN_SERVICE, NetworkEvent, RESERVED_EVENTS, Topic,
    Verdict,
};

type Bytes = ExchangeEvent<Vec<u8>, Vec<u8>>;

impl Task {
    pub(super) fn handle_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.handle_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                let known = self.peers.remove(&peer_id);
                self.reach.lost(&peer_id);
                self.bitswap.disconnected(peer_id);
                if known.is_some_and(|p| p.agent.is_some()) {
                    self.tell(NetworkEvent::Disconnected { peer: peer_id });
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.close_line(&peer_id, connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.handle_dial_failure(connection_id, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.publish_addresses();
                self.add_own_address(&address);
                self.tell(NetworkEvent::Listening(address));
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.remove_own_address(&address);
                self.publish_addresses();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.end_listener(listener_id, &addresses, reason.err());
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener"),
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "refused");
                self.metrics.connection_refused(why_refused(&error));
            }
            // The enum is not ours and not exhaustive; the rest is no change that anybody waits for.
            _ => {}
        }
    }

    fn handle_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(event) => self.handle_gossip(event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, connection_id, info }) => {
                self.learn_paths(peer_id, connection_id, &info);
                self.handle_identified(peer_id, &info);
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Ping(ping::Event { peer, connection, result }) => {
                self.handle_ping(&peer, connection, result);
            }
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.dialer.found_on_lan(peer, address, Instant::now());
                }
            }
            BehaviourEvent::Mdns(mdns::Event::Expired(lost)) => {
                for (peer, address) in lost {
                    self.dialer.lost_on_lan(peer, &address);
                }
            }
            BehaviourEvent::Sync(event) => self.handle_sync(event),
            BehaviourEvent::Bitswap((peer, event)) => self.bitswap.handle_stream(peer, event),
            BehaviourEvent::Autonat(event) => self.handle_autonat(event),
            BehaviourEvent::RelayClient(event) => self.handle_relay_client(event),
            BehaviourEvent::Punch(event) => self.handle_punch(event),
            BehaviourEvent::Relay(event) => tracing::debug!(?event, "relay"),
            // What a search finds is connected to, and says by itself where it is.
            BehaviourEvent::Kad(_) => {}
            BehaviourEvent::Limits(never) | BehaviourEvent::Crowd(never) | BehaviourEvent::Memory(never) => {
                match never {}
            }
        }
    }

    fn handle_ping(
        &mut self,
        peer: &PeerId,
        connection: ConnectionId,
        result: Result<Duration, ping::Failure>,
    ) {
        match result {
            Ok(latency) => {
                if let Some(known) = self.peers.get_mut(peer) {
                    known.latency = Some(latency);
                }
            }
            Err(ping::Failure::Unsupported) => {}
            // A line that is dead in one direction never times out by itself: not even a stream for the ping is had.
            Err(ping::Failure::Timeout | ping::Failure::Other { .. }) => {
                self.swarm.close_connection(connection);
            }
        }
    }

    fn handle_established(&mut self, peer: PeerId, attempt: ConnectionId, endpoint: &ConnectedPoint) {
        let mut wanted = self.dialer.established(attempt, peer, Instant::now());
        if let Some(answer) = self.dials.remove(&attempt) {
            wanted = true;
            respond(answer, Ok(peer));
        }
        self.open_line(peer, attempt, endpoint, wanted);
    }

    fn handle_dial_failure(&mut self, attempt: ConnectionId, error: &DialError) {
        match error {
            DialError::LocalPeerId { .. } => self.dialer.forget(attempt),
            error => {
                let is_bootstrap = self.dialer.failed(attempt, Instant::now());
                if is_bootstrap && !self.dialer.has_bootstrap(|peer| self.swarm.is_connected(peer)) {
                    tracing::warn!(%error, "a bootstrap peer cannot be reached, trying again");
                } else {
                    tracing::debug!(%error, "a peer cannot be reached");
                }
            }
        }
        if let Some(answer) = self.dials.remove(&attempt) {
            respond(answer, Err(Error::Unreachable(error.to_string())));
        }
    }

    fn handle_identified(&mut self, peer: PeerId, info: &identify::Info) {
        let printable = info.agent_version.chars().filter(|c| !c.is_control()).take(MAX_AGENT);
        let text: String = printable.collect();
        let (agent, start) = text.rsplit_once(START_MARK).unwrap_or((&text, ""));
        let Some(known) = self.peers.get_mut(&peer) else { return };
        match &known.start {
            None => {
                known.start = Some(start.to_owned());
                known.agent = Some(agent.to_owned());
                let Some(line) = known.best() else { return };
                let (address, agent) = (line.address.clone(), agent.to_owned());
                self.tell(NetworkEvent::Connected { peer, address, agent });
            }
            // The peer has restarted, and the end of its last connection has not reached us. gossipsub
            // tells its topics on the first connection only: both sides must begin again.
            Some(last) if last != start => {
                tracing::debug!(%peer, "restarted");
                // An error says that the peer has left first.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Some(_) => {}
        }
    }

    fn handle_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message, .. } => {
                let id = gossip_id(&message.topic, &message.data);
                match self.topics.get(&message.topic).copied() {
                    Some(topic) if message.data.len() > MAX_MESSAGE => {
                        self.metrics.judged(topic, Verdict::Reject);
                        self.report(id, propagation_source, Verdict::Reject);
                    }
                    Some(topic) => self.deliver(topic, id, propagation_source, message.data),
                    None => self.report(id, propagation_source, Verdict::Ignore),
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                if let Some(topic) = self.topics.get(&topic).copied() {
                    self.publish_waiting(topic);
                    self.tell(NetworkEvent::PeerSubscribed { peer: peer_id, topic });
                }
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                tracing::debug!(%peer_id, ?failed_messages, "slow peer");
            }
            gossipsub::Event::Unsubscribed { .. } | gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }

    fn deliver(&mut self, topic: Topic, id: GossipId, from: PeerId, data: Vec<u8>) {
        if self.events.capacity() > RESERVED_EVENTS {
            self.tell(NetworkEvent::Gossip { topic, id, from, data });
        } else {
            self.count_dropped();
            self.metrics.judged(topic, Verdict::Ignore);
            self.report(id, from, Verdict::Ignore);
        }
    }

    fn handle_sync(&mut self, event: Bytes) {
        match event {
            ExchangeEvent::Message {
                peer,
                message: Message::Request { request_id, request, channel },
                ..
            } => {
                let Some(commands) = self.commands.upgrade() else {
                    return;
                };
                if self.sync.in_service.len() >= MAX_SYNC_IN_SERVICE
                    || self.events.capacity() <= RESERVED_EVENTS
                {
                    return self.count_dropped();
                }
                self.sync.in_service.insert(request_id);
                let reply = ReplyHandle { channel, commands };
                self.tell(NetworkEvent::SyncRequest { peer, data: request, reply });
            }
            event => self.sync.settle(event),
        }
    }

    pub(super) fn publish_addresses(&self) {
        if let Some(watcher) = &self.watcher {
            let own = self.swarm.listeners().filter(|address| !is_relayed(address));
            watcher.set_addresses(own.cloned().collect());
        }
    }

    /// Never waits: a driver that does not keep up must not stall the swarm.
    fn tell(&mut self, event: NetworkEvent) {
        if self.events.try_send(event).is_err() && !self.events.is_closed() {
            self.count_dropped();
        }
    }

    fn count_dropped(&mut self) {
        self.metrics.dropped();
        self.dropped_events += 1;
        if self.dropped_events.is_power_of_two() {
            tracing::warn!(count = self.dropped_events, "events are dropped: the node does not keep up");
        }
    }
}

impl Exchange {
    fn settle(&mut self, event: Bytes) {
        match event {
            ExchangeEvent::Message { message: Message::Response { request_id, response }, .. } => {
                if let Some(answer) = self.asked.remove(&request_id) {
                    respond(answer, Ok(response));
                }
            }
            ExchangeEvent::OutboundFailure { request_id, error, .. } => {
                if let Some(answer) = self.asked.remove(&request_id) {
                    respond(answer, Err(failure(error)));
                }
            }
            ExchangeEvent::InboundFailure { request_id, .. }
            | ExchangeEvent::ResponseSent { request_id, .. } => {
                self.in_service.remove(&request_id);
            }
            ExchangeEvent::Message { message: Message::Request { .. }, .. } => {}
        }
    }
}

fn failure(error: OutboundFailure) -> Error {
    match error {
        OutboundFailure::DialFailure => Error::Unreachable("it is not connected".to_owned()),
        OutboundFailure::Timeout => Error::Timeout,
        OutboundFailure::ConnectionClosed => Error::Broken("the connection closed".to_owned()),
        OutboundFailure::UnsupportedProtocols => Error::Unsupported,
        OutboundFailure::Io(error) => Error::Broken(error.to_string()),
    }
}

fn why_refused(error: &ListenError) -> Refused {
    let ListenError::Denied { cause } = error else { return Refused::Handshake };
    if let Some(crowded) = cause.downcast_ref::<Crowded>() {
        crowded.refused()
    } else if cause.downcast_ref::<connection_limits::Exceeded>().is_some() {
        Refused::Total
    } else if cause.downcast_ref::<memory_connection_limits::MemoryUsageLimitExceeded>().is_some() {
        Refused::Memory
    } else {
        Refused::Handshake
    }
}
