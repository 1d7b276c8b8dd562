//! What the task does so that nodes behind routers reach each other: relays, meeting directly, searching.

use std::io::Error;
use std::time::SystemTime;

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, autonat, dcutr, identify, relay};
use tokio::time::Instant;

use super::peers::{Line, is_own_dial};
use super::reach::{is_relayed, worth_trying};
use super::search::{self, MAX_BY_CHANCE};
use super::task::Task;
use super::{Peer, Route};

impl Task {
    /// A connection was made; `wanted` says that this node meant to make it.
    pub(super) fn open_line(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        wanted: bool,
    ) {
        let by_chance = is_own_dial(endpoint) && !wanted;
        let known = self.peers.entry(peer).or_insert_with(|| {
            self.bitswap.connected(peer);
            Peer::new(by_chance)
        });
        known.by_chance &= by_chance;
        let route = known.opened(id, Line::new(peer, endpoint));
        tell_route(&peer, route);
    }

    pub(super) fn close_line(&mut self, peer: &PeerId, id: ConnectionId) {
        let route = self.peers.get_mut(peer).and_then(|known| known.closed(id));
        tell_route(peer, route);
    }

    pub(super) fn handle_punch(&mut self, event: dcutr::Event) {
        match event.result {
            Ok(id) => {
                let known = self.peers.get_mut(&event.remote_peer_id);
                tell_route(&event.remote_peer_id, known.and_then(|known| known.punched(id)));
            }
            Err(error) => {
                tracing::debug!(peer = %event.remote_peer_id, %error, "no direct way was found; the relay is used");
            }
        }
    }

    pub(super) fn handle_autonat(&mut self, event: autonat::v1::Event) {
        if let autonat::v1::Event::StatusChanged { new, .. } = event {
            match &new {
                autonat::v1::NatStatus::Public(address) => {
                    tracing::info!(%address, "others can reach this node")
                }
                autonat::v1::NatStatus::Private => {
                    tracing::info!("others cannot reach this node by itself; relays will be asked");
                }
                autonat::v1::NatStatus::Unknown => {}
            }
            self.reach.set_public(new.is_public());
        }
    }

    pub(super) fn handle_relay_client(&mut self, event: relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
                if !renewal {
                    tracing::info!(relay = %relay_peer_id, "others can reach this node through a relay");
                }
                self.reach.granted(&relay_peer_id);
            }
            relay::client::Event::OutboundCircuitEstablished { .. }
            | relay::client::Event::InboundCircuitEstablished { .. } => {}
        }
    }

    /// Learns from what a peer says of itself where it can be found, and whether it relays.
    pub(super) fn learn_paths(&mut self, peer: PeerId, connection: ConnectionId, info: &identify::Info) {
        let now = Instant::now();
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(line) = known.line(connection).cloned() else { return };
        if info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.reach.found(peer, &line.address, now);
        }
        let addresses = worth_trying(&info.listen_addrs, &line.address);
        let is_searched = info.protocols.contains(&self.kad_protocol);
        let found_at = if is_searched { addresses.clone() } else { Vec::new() };
        if known.found_at != found_at {
            search::place(&mut self.swarm.behaviour_mut().kad, &peer, &found_at);
            self.search.found();
            known.found_at = found_at;
        }
        if line.route == Route::Relayed && !known.is_tried {
            known.is_tried = true;
            self.dial_past_relay(peer, addresses);
        }
    }

    /// A peer that others can reach needs no relay to be met, and it is not for it to dial.
    fn dial_past_relay(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) {
        addresses.retain(|address| !is_relayed(address) && self.reach.is_outside(address));
        if addresses.is_empty() {
            return;
        }
        let options = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "not dialled past the relay");
        }
    }

    /// An address of this node's own; a relay tells others of those that it has.
    pub(super) fn add_own_address(&mut self, address: &Multiaddr) {
        if self.is_relay && !is_relayed(address) && self.reach.is_outside(address) {
            self.swarm.add_external_address(address.clone());
        }
    }

    pub(super) fn remove_own_address(&mut self, address: &Multiaddr) {
        if self.is_relay && !self.announced.contains(address) {
            self.swarm.remove_external_address(address);
        }
    }

    /// A listener has ended, of this node itself or at a relay.
    pub(super) fn end_listener(
        &mut self,
        listener: ListenerId,
        addresses: &[Multiaddr],
        error: Option<Error>,
    ) {
        let is_own = self.listeners.contains(&listener);
        self.listeners.retain(|own| *own != listener);
        self.reach.ended(listener, Instant::now());
        match error {
            Some(error) if is_own => tracing::warn!(?addresses, %error, "no longer listening"),
            Some(error) => tracing::debug!(%error, "a relay gives no address, or no longer"),
            None => {}
        }
        self.publish_addresses();
    }

    pub(super) fn seek_paths(&mut self) {
        let now = Instant::now();
        if let Some((relay, address)) = self.reach.due(now) {
            match self.swarm.listen_on(address) {
                Ok(listener) => self.reach.asked(&relay, listener),
                Err(error) => {
                    tracing::debug!(%relay, %error, "a relay cannot be asked");
                    self.reach.lost(&relay);
                }
            }
        }
        if self.search.is_due(self.peers.len(), now) {
            // Without anybody to ask there is nothing to do.
            let _ = self.swarm.behaviour_mut().kad.bootstrap();
        }
        self.close_needless();
    }

    fn close_needless(&mut self) {
        let now = SystemTime::now();
        for id in self.peers.values().flat_map(|peer| peer.needless(now)).collect::<Vec<_>>() {
            self.swarm.close_connection(id);
        }
        let mut chance: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.by_chance).collect();
        chance.sort_by_key(|(_, peer)| peer.since);
        // Those who came last may be part of a search that goes on.
        let is_settled = |peer: &Peer| now.duration_since(peer.since).is_ok_and(|age| age >= search::SETTLED);
        let surplus = chance.iter().skip(MAX_BY_CHANCE).filter(|(_, peer)| is_settled(peer));
        for peer in surplus.map(|(peer, _)| **peer).collect::<Vec<_>>() {
            // An error says that the peer has left first.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}

fn tell_route(peer: &PeerId, route: Option<Route>) {
    match route {
        Some(Route::Direct) => tracing::debug!(%peer, "connected directly"),
        Some(Route::Punched) => tracing::info!(%peer, "connected directly, past both routers"),
        Some(Route::Relayed) => tracing::info!(%peer, "connected through a relay"),
        None => {}
    }
}
