//! `identify`, which says what others see of this node, so that what they make up stays small.
//!
//! Every address that a peer claims to see becomes a candidate that hole punching and reachability tests keep. Only
//! those that reach outside are passed on, each once in a while, and few of them.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId, identify};

use super::reach::{Scope, is_relayed};

/// Addresses of this node that others claim to see and that are remembered at once.
const MAX_CANDIDATES: usize = 64;
/// How long one is remembered at least: what is made up faster is not heard.
const CANDIDATE_LIFE: Duration = Duration::from_secs(3600);

/// `identify`, with few candidates for this node's own addresses.
pub(super) struct Identify {
    inner: identify::Behaviour,
    candidates: Candidates,
}

struct Candidates {
    outside: Scope,
    seen: VecDeque<(Multiaddr, Instant)>,
}

impl Identify {
    pub(super) fn new(config: identify::Config, outside: Scope) -> Self {
        let candidates = Candidates { outside, seen: VecDeque::new() };
        Self { inner: identify::Behaviour::new(config), candidates }
    }
}

impl Candidates {
    fn is_new(&mut self, address: &Multiaddr, now: Instant) -> bool {
        while self.seen.front().is_some_and(|(_, at)| now.duration_since(*at) >= CANDIDATE_LIFE) {
            self.seen.pop_front();
        }
        let is_outside = Scope::of(address).is_some_and(|scope| scope >= self.outside);
        if !is_outside
            || is_relayed(address)
            || self.seen.len() >= MAX_CANDIDATES
            || self.seen.iter().any(|(a, _)| a == address)
        {
            return false;
        }
        self.seen.push_back((address.clone(), now));
        true
    }
}

impl NetworkBehaviour for Identify {
    type ConnectionHandler = <identify::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = identify::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            match self.inner.poll(context) {
                Poll::Ready(ToSwarm::NewExternalAddrCandidate(address))
                    if !self.candidates.is_new(&address, Instant::now()) => {}
                other => return other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_addresses_are_few_and_forgotten_in_time() {
        let mut now = Instant::now();
        let mut candidates = Candidates { outside: Scope::World, seen: VecDeque::new() };
        let address = |n: usize| format!("/ip4/203.0.113.7/tcp/{n}").parse().unwrap();
        assert!(!candidates.is_new(&"/ip4/192.168.1.1/tcp/1".parse().unwrap(), now));
        assert_eq!((1..1000).filter(|n| candidates.is_new(&address(*n), now)).count(), MAX_CANDIDATES);
        assert!(!candidates.is_new(&address(1), now), "passed on once");
        now += CANDIDATE_LIFE;
        assert!(candidates.is_new(&address(1), now));
        assert_eq!(candidates.seen.len(), 1);
    }
}
