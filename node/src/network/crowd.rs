//! How many connections others may open from one place: an address, and the network that it is in.
//!
//! Connections that this node opens are its own choice and are not counted. An IPv6 address stands for its /64, which
//! is what one home has; the network around an address is its /24, or its /56 in IPv6. Whoever shares the machine
//! shares one address and is limited by a number of its own. Who comes through a relay has no address but the relay's,
//! which may stand for anybody: all relayed connections together, those that this node opens too, have one limit, below
//! what gossipsub takes for a crowd at the relay's address.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, ListenFailure,
    NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::reach::is_relayed;
use crate::metrics::Refused;

/// Handshakes under way from one address: who opens connections and is silent leaves room for others.
const MAX_HANDSHAKES_PER_HOST: u32 = 16;
/// The same for the nodes of one machine, which start together.
const MAX_HANDSHAKES_PER_LOOPBACK: u32 = 48;

/// Connections through relays, whoever opened them.
pub(super) const MAX_RELAYED: usize = 24;

/// Connections that others may have open at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrowdLimits {
    pub(super) per_host: u32,
    pub(super) per_subnet: u32,
    pub(super) per_loopback: u32,
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Crowded {
    #[error("{count} connections from {place} are as many as are taken")]
    Place { place: IpAddr, count: u32, refused: Refused },
    #[error("{MAX_RELAYED} connections through relays are as many as are taken")]
    Relayed,
}

impl Crowded {
    pub(super) fn refused(&self) -> Refused {
        match self {
            Crowded::Place { refused, .. } => *refused,
            Crowded::Relayed => Refused::Total,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Origin {
    host: IpAddr,
    subnet: IpAddr,
    /// The handshake is over.
    established: bool,
}

#[derive(Debug, Default)]
struct Count {
    open: u32,
    handshakes: u32,
}

/// Refuses inbound connections from places that have enough.
#[derive(Debug)]
pub(super) struct Crowd {
    limits: CrowdLimits,
    connections: HashMap<ConnectionId, Origin>,
    hosts: HashMap<IpAddr, Count>,
    subnets: HashMap<IpAddr, u32>,
    relayed: HashSet<ConnectionId>,
}

impl Crowd {
    pub(super) fn new(limits: CrowdLimits) -> Self {
        Self {
            limits,
            connections: HashMap::new(),
            hosts: HashMap::new(),
            subnets: HashMap::new(),
            relayed: HashSet::new(),
        }
    }

    fn come(&mut self, id: ConnectionId, address: &Multiaddr) -> Result<(), Crowded> {
        let Some((host, subnet)) = place_of(address) else { return Ok(()) };
        let (per_host, handshakes, per_subnet) = if host.is_loopback() {
            (self.limits.per_loopback, MAX_HANDSHAKES_PER_LOOPBACK, u32::MAX)
        } else {
            (self.limits.per_host, MAX_HANDSHAKES_PER_HOST, self.limits.per_subnet)
        };
        let known = self.hosts.get(&host);
        let (open, under_way) = known.map_or((0, 0), |count| (count.open, count.handshakes));
        let near = self.subnets.get(&subnet).copied().unwrap_or(0);
        if open >= per_host || under_way >= handshakes {
            return Err(Crowded::Place { place: host, count: open, refused: Refused::Address });
        }
        if near >= per_subnet {
            return Err(Crowded::Place { place: subnet, count: near, refused: Refused::Subnet });
        }
        self.connections.insert(id, Origin { host, subnet, established: false });
        let count = self.hosts.entry(host).or_default();
        count.open += 1;
        count.handshakes += 1;
        *self.subnets.entry(subnet).or_default() += 1;
        Ok(())
    }

    fn come_relayed(&mut self, id: ConnectionId) -> Result<(), Crowded> {
        if self.relayed.len() >= MAX_RELAYED {
            return Err(Crowded::Relayed);
        }
        self.relayed.insert(id);
        Ok(())
    }

    fn settle(&mut self, id: ConnectionId) {
        if let Some(origin) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut origin.established, true)
            && let Some(count) = self.hosts.get_mut(&origin.host)
        {
            count.handshakes -= 1;
        }
    }

    fn go(&mut self, id: ConnectionId) {
        self.relayed.remove(&id);
        self.settle(id);
        let Some(Origin { host, subnet, .. }) = self.connections.remove(&id) else { return };
        if let Some(count) = self.hosts.get_mut(&host) {
            count.open -= 1;
            if count.open == 0 {
                self.hosts.remove(&host);
            }
        }
        if let Some(count) = self.subnets.get_mut(&subnet) {
            *count -= 1;
            if *count == 0 {
                self.subnets.remove(&subnet);
            }
        }
    }
}

/// The host and the network that an address is in.
fn place_of(address: &Multiaddr) -> Option<(IpAddr, IpAddr)> {
    let ip = address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })?;
    Some(match ip.to_canonical() {
        IpAddr::V4(ip) => (IpAddr::V4(ip), IpAddr::V4(Ipv4Addr::from(u32::from(ip) & (u32::MAX << 8)))),
        IpAddr::V6(ip) if ip.is_loopback() => (IpAddr::V6(ip), IpAddr::V6(ip)),
        IpAddr::V6(ip) => {
            let network =
                |bits: u32| IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << (128 - bits))));
            (network(64), network(56))
        }
    })
}

impl NetworkBehaviour for Crowd {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let come = if is_relayed(local) { self.come_relayed(id) } else { self.come(id, remote) };
        come.map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.settle(id);
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if is_relayed(address) {
            self.come_relayed(id).map_err(ConnectionDenied::new)?;
        }
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::DialFailure(DialFailure { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => self.go(connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CrowdLimits = CrowdLimits { per_host: 20, per_subnet: 50, per_loopback: 100 };

    fn address(ip: &str) -> Multiaddr {
        let kind = if ip.contains(':') { "ip6" } else { "ip4" };
        format!("/{kind}/{ip}/tcp/4001").parse().unwrap()
    }

    /// Lets `tries` connections from an address come, each established at once; gives those taken.
    fn come(
        crowd: &mut Crowd,
        ids: &mut std::ops::RangeFrom<usize>,
        ip: &str,
        tries: usize,
    ) -> Vec<ConnectionId> {
        let ids = ids.by_ref().take(tries).map(ConnectionId::new_unchecked);
        let taken = |id: &ConnectionId| {
            let taken = crowd.come(*id, &address(ip)).is_ok();
            crowd.settle(*id);
            taken
        };
        ids.filter(taken).collect()
    }

    #[test]
    fn one_address_and_one_network_have_their_limits_and_get_them_back() {
        let (mut crowd, mut ids) = (Crowd::new(LIMITS), 0..);
        let first = come(&mut crowd, &mut ids, "203.0.113.7", 30);
        assert_eq!(first.len(), 20);
        assert_eq!(come(&mut crowd, &mut ids, "203.0.113.8", 30).len(), 20);
        assert_eq!(come(&mut crowd, &mut ids, "203.0.113.9", 30).len(), 10, "the /24 is full");
        assert_eq!(come(&mut crowd, &mut ids, "203.0.114.9", 30).len(), 20, "another network");
        first.iter().for_each(|id| crowd.go(*id));
        assert_eq!(come(&mut crowd, &mut ids, "::ffff:203.0.113.7", 30).len(), 20, "IPv4 written as IPv6");
        crowd.connections.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| crowd.go(id));
        assert!(crowd.hosts.is_empty() && crowd.subnets.is_empty(), "nothing is left of those who are gone");
    }

    #[test]
    fn an_ipv6_home_is_one_address_whatever_it_calls_itself() {
        let (mut crowd, mut ids) = (Crowd::new(LIMITS), 0..);
        let homes = (0..30).map(|n| come(&mut crowd, &mut ids, &format!("2001:db8:1:2::{n}"), 1).len());
        assert_eq!(homes.sum::<usize>(), 20);
        assert_eq!(come(&mut crowd, &mut ids, "2001:db8:1:3::1", 30).len(), 20);
        assert_eq!(come(&mut crowd, &mut ids, "2001:db8:1:4::1", 30).len(), 10, "the /56 is full");
        assert_eq!(come(&mut crowd, &mut ids, "2001:db8:1:103::1", 30).len(), 20);
    }

    #[test]
    fn the_own_machine_has_a_limit_of_its_own() {
        let (mut crowd, mut ids) = (Crowd::new(LIMITS), 0..);
        assert_eq!(come(&mut crowd, &mut ids, "127.0.0.1", 200).len(), 100);
        assert_eq!(come(&mut crowd, &mut ids, "127.0.0.2", 200).len(), 100);
        assert_eq!(come(&mut crowd, &mut ids, "::1", 200).len(), 100);
    }

    #[test]
    fn relayed_connections_of_both_directions_share_a_limit_and_take_none_from_the_relays_address() {
        let mut crowd = Crowd::new(LIMITS);
        let relay: Multiaddr =
            format!("/ip4/203.0.113.7/tcp/1/p2p/{}/p2p-circuit", PeerId::random()).parse().unwrap();
        let peer = PeerId::random();
        let nowhere = Multiaddr::empty().with(Protocol::P2p(peer));
        let mut taken = 0;
        for id in (0..100).map(ConnectionId::new_unchecked) {
            taken += usize::from(crowd.handle_pending_inbound_connection(id, &relay, &nowhere).is_ok());
        }
        assert_eq!(taken, MAX_RELAYED);
        let dial = |crowd: &mut Crowd, id: usize| {
            let (id, to) = (ConnectionId::new_unchecked(id), relay.clone().with(Protocol::P2p(peer)));
            crowd
                .handle_established_outbound_connection(id, peer, &to, Endpoint::Dialer, PortUse::New)
                .is_ok()
        };
        assert!(!dial(&mut crowd, 200));
        crowd.go(ConnectionId::new_unchecked(0));
        assert!(dial(&mut crowd, 201), "there is room again");
        assert!(!dial(&mut crowd, 202));
        assert_eq!(come(&mut crowd, &mut (1000..), "203.0.113.7", 30).len(), 20, "the relay's own");
    }

    #[test]
    fn silent_handshakes_leave_room_for_others() {
        let (mut crowd, mut ids) = (Crowd::new(LIMITS), 0..);
        let silent =
            |crowd: &mut Crowd, id| crowd.come(ConnectionId::new_unchecked(id), &address("203.0.113.7"));
        let taken = (5000..5030).filter(|id| silent(&mut crowd, *id).is_ok()).count();
        assert_eq!(taken, MAX_HANDSHAKES_PER_HOST as usize);
        assert_eq!(come(&mut crowd, &mut ids, "203.0.113.8", 1).len(), 1);
        crowd.go(ConnectionId::new_unchecked(5000));
        assert!(silent(&mut crowd, 6000).is_ok(), "its time is over");
    }
}
