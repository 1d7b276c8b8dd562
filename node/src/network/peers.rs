//! The connected peers, and by which of its connections each is reached.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::Route;

/// What is under way over a relay may end there once there is a better way.
const RELAY_AFTERLIFE: Duration = Duration::from_secs(10);

/// One connection to a peer.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) address: Multiaddr,
    pub(super) route: Route,
    pub(super) since: SystemTime,
}

impl Line {
    pub(super) fn new(peer: PeerId, endpoint: &ConnectedPoint) -> Self {
        let route = if endpoint.is_relayed() { Route::Relayed } else { Route::Direct };
        let address = match endpoint {
            // Who came through a relay has no address but the relay's.
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => {
                let at = local_addr.iter().take_while(|part| *part != Protocol::P2pCircuit);
                at.collect::<Multiaddr>().with(Protocol::P2pCircuit).with(Protocol::P2p(peer))
            }
            other => other.get_remote_address().clone(),
        };
        Self { address, route, since: SystemTime::now() }
    }
}

/// A connected peer.
pub(super) struct Peer {
    /// Present once the peer has said what it is and has been reported as connected.
    pub(super) agent: Option<String>,
    /// The number that the peer drew when it started.
    pub(super) start: Option<String>,
    pub(super) latency: Option<Duration>,
    pub(super) since: SystemTime,
    /// Nobody asked for it: it turned up in a search.
    pub(super) by_chance: bool,
    /// It was tried once to reach it without its relay.
    pub(super) is_tried: bool,
    /// The addresses at which it is offered to those who search.
    pub(super) found_at: Vec<Multiaddr>,
    lines: BTreeMap<ConnectionId, Line>,
}

impl Peer {
    pub(super) fn new(by_chance: bool) -> Self {
        Self {
            agent: None,
            start: None,
            latency: None,
            since: SystemTime::now(),
            by_chance,
            is_tried: false,
            found_at: Vec::new(),
            lines: BTreeMap::new(),
        }
    }

    /// Says what is better now than it was, if anything is.
    pub(super) fn opened(&mut self, id: ConnectionId, line: Line) -> Option<Route> {
        self.changed(|lines| _ = lines.insert(id, line))
    }

    /// The connection came about by both sides dialling each other at once.
    pub(super) fn punched(&mut self, id: ConnectionId) -> Option<Route> {
        self.changed(|lines| {
            if let Some(line) = lines.get_mut(&id) {
                line.route = Route::Punched;
            }
        })
    }

    /// Says how the peer is reached from now on, if that is another way.
    pub(super) fn closed(&mut self, id: ConnectionId) -> Option<Route> {
        self.changed(|lines| _ = lines.remove(&id))
    }

    fn changed(&mut self, change: impl FnOnce(&mut BTreeMap<ConnectionId, Line>)) -> Option<Route> {
        let before = self.best().map(|line| line.route);
        change(&mut self.lines);
        self.best().map(|line| line.route).filter(|route| before != Some(*route))
    }

    /// The best of its connections, and of several the oldest.
    pub(super) fn best(&self) -> Option<&Line> {
        self.lines.values().min_by_key(|line| (line.route, line.since))
    }

    pub(super) fn line(&self, id: ConnectionId) -> Option<&Line> {
        self.lines.get(&id)
    }

    /// Relayed connections that a better one has made needless.
    pub(super) fn needless(&self, now: SystemTime) -> Vec<ConnectionId> {
        let Some(best) = self.best().filter(|best| best.route != Route::Relayed) else { return Vec::new() };
        if now.duration_since(best.since).is_ok_and(|age| age >= RELAY_AFTERLIFE) {
            let relayed = self.lines.iter().filter(|(_, line)| line.route == Route::Relayed);
            return relayed.map(|(id, _)| *id).collect();
        }
        Vec::new()
    }
}

/// Whether this node dialled, in the ordinary way.
pub(super) fn is_own_dial(endpoint: &ConnectedPoint) -> bool {
    matches!(endpoint, ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(route: Route, age: u64) -> Line {
        Line { address: Multiaddr::empty(), route, since: SystemTime::now() - Duration::from_secs(age) }
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    #[test]
    fn a_peer_is_reached_by_the_best_of_its_connections() {
        let mut peer = Peer::new(false);
        assert_eq!(peer.opened(id(1), line(Route::Relayed, 60)), Some(Route::Relayed));
        assert_eq!(peer.opened(id(2), line(Route::Relayed, 50)), None, "no better");
        assert!(peer.needless(SystemTime::now()).is_empty(), "there is no other");
        assert_eq!(peer.opened(id(3), line(Route::Direct, 5)), Some(Route::Direct));
        assert_eq!(peer.punched(id(3)), Some(Route::Punched));
        assert!(peer.needless(SystemTime::now()).is_empty(), "what is under way may end");
        let later = SystemTime::now() + RELAY_AFTERLIFE;
        assert_eq!(peer.needless(later), [id(1), id(2)]);
        assert_eq!(peer.opened(id(4), line(Route::Direct, 1)), Some(Route::Direct));
        assert_eq!(peer.closed(id(4)), Some(Route::Punched));
        assert_eq!(peer.closed(id(3)), Some(Route::Relayed));
        assert_eq!(peer.closed(id(1)), None);
        assert_eq!(peer.closed(id(2)), None);
        assert!(peer.best().is_none());
    }

    #[test]
    fn who_comes_through_a_relay_is_shown_at_the_relay() {
        let (relay, peer) = (PeerId::random(), PeerId::random());
        let at: Multiaddr = format!("/ip4/203.0.113.7/tcp/1/p2p/{relay}/p2p-circuit").parse().unwrap();
        let endpoint = ConnectedPoint::Listener {
            local_addr: at.clone(),
            send_back_addr: Multiaddr::empty().with(Protocol::P2p(peer)),
        };
        let line = Line::new(peer, &endpoint);
        assert_eq!((line.address, line.route), (at.with(Protocol::P2p(peer)), Route::Relayed));
    }
}
