//! Whether others can reach this node, and the relays through which they can if not.
//!
//! [`Reach`] decides and does nothing: a node that nobody has reached from outside asks the relays it is connected to,
//! which are operators, for an address of its own there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, autonat, relay};
use tokio::time::Instant;

/// Relays at which a node has an address at once.
pub(super) const MAX_RELAYS: usize = 3;
/// Relays that a node remembers while they are connected.
const MAX_RELAYS_KNOWN: usize = 16;
/// Addresses of one peer that are kept, of all that it names.
pub(super) const MAX_ADDRESSES: usize = 16;

/// How long others are given to reach this node, since it first met one who could be asked, before it asks a relay.
const GRACE: Duration = Duration::from_secs(10);
const MIN_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(300);

const FIRST_PROBE_DELAY: Duration = Duration::from_secs(2);
/// How soon it is tried again while nobody could be asked: several times within the grace.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);
/// How soon the same peer is asked again.
const PROBE_PAUSE: Duration = Duration::from_secs(30);
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// Dials a second that others may ask for, one of them each.
const MAX_DIAL_BACKS: usize = 8;

const MAX_RESERVATIONS: usize = 1024;
const MAX_CIRCUITS: usize = 256;
const MAX_CIRCUITS_PER_PEER: usize = 8;
/// A circuit is for meeting, and for gossip between those who cannot meet: not for content.
const MAX_CIRCUIT_BYTES: u64 = 4 * 1024 * 1024;
const MAX_CIRCUIT_TIME: Duration = Duration::from_secs(600);
const RESERVATION_TIME: Duration = Duration::from_secs(3600);

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// This machine.
    Machine,
    /// A private network, or one shared behind the address of a provider.
    Site,
    /// Everywhere.
    World,
}

impl Scope {
    /// The scope of an address; names count as known everywhere, and a relayed address reaches as far as its relay's.
    pub fn of(address: &Multiaddr) -> Option<Scope> {
        match address.iter().next()? {
            Protocol::Ip4(ip) => Some(of_ip(IpAddr::V4(ip))),
            Protocol::Ip6(ip) => Some(of_ip(ip.to_canonical())),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name) => {
                Some(if name == "localhost" { Scope::Machine } else { Scope::World })
            }
            _ => None,
        }
    }
}

fn of_ip(ip: IpAddr) -> Scope {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() => Scope::Machine,
        // 100.64.0.0/10 is what providers put between homes and themselves (RFC 6598).
        IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64 => Scope::Site,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || ip.is_unspecified() => Scope::Site,
        IpAddr::V4(_) => Scope::World,
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Scope::Machine,
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified() => {
            Scope::Site
        }
        IpAddr::V6(_) => Scope::World,
    }
}

/// Whether an address leads through a relay.
pub(super) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// What of the addresses that a peer names may be tried: none that reaches less far than the connection over which it
/// named them, or strangers could send this node to the machines of its own network.
pub(super) fn worth_trying(named: &[Multiaddr], connection: &Multiaddr) -> Vec<Multiaddr> {
    let Some(least) = Scope::of(connection) else { return Vec::new() };
    let far = |address: &&Multiaddr| Scope::of(address).is_some_and(|scope| scope >= least);
    named.iter().filter(far).take(MAX_ADDRESSES).cloned().collect()
}

/// A relay's limits.
pub(super) fn relay_config() -> relay::Config {
    relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_reservations_per_peer: 2,
        reservation_duration: RESERVATION_TIME,
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: MAX_CIRCUIT_TIME,
        max_circuit_bytes: MAX_CIRCUIT_BYTES,
        // By peer and by address, one every two minutes and every minute, 30 and 60 at once.
        ..relay::Config::default()
    }
}

/// How a node asks others whether they reach it, and answers that question.
pub(super) fn autonat_config(outside: Scope) -> autonat::v1::Config {
    autonat::v1::Config {
        timeout: PROBE_TIMEOUT,
        boot_delay: FIRST_PROBE_DELAY,
        retry_interval: PROBE_INTERVAL,
        throttle_server_period: PROBE_PAUSE,
        throttle_clients_global_max: MAX_DIAL_BACKS,
        throttle_clients_peer_max: 1,
        max_peer_addresses: MAX_ADDRESSES,
        only_global_ips: outside == Scope::World,
        ..autonat::v1::Config::default()
    }
}

#[derive(Debug)]
struct Relay {
    address: Multiaddr,
    listener: Option<ListenerId>,
    due: Instant,
    pause: Duration,
}

/// What is known of this node's own reachability, and its relays.
#[derive(Debug)]
pub(super) struct Reach {
    outside: Scope,
    is_public: bool,
    grace_ends: Option<Instant>,
    relays: BTreeMap<PeerId, Relay>,
}

impl Reach {
    pub(super) fn new(outside: Scope) -> Self {
        Self { outside, is_public: false, grace_ends: None, relays: BTreeMap::new() }
    }

    /// Others have reached this node at an address of its own, or no longer do.
    pub(super) fn set_public(&mut self, is_public: bool) {
        self.is_public = is_public;
    }

    /// Whether an address is one that the whole pool could use.
    pub(super) fn is_outside(&self, address: &Multiaddr) -> bool {
        Scope::of(address).is_some_and(|scope| scope >= self.outside)
    }

    /// A connected peer relays, and is reached directly at this address.
    pub(super) fn found(&mut self, peer: PeerId, address: &Multiaddr, now: Instant) {
        if is_relayed(address) || !self.is_outside(address) {
            return;
        }
        self.grace_ends.get_or_insert(now + GRACE);
        let (address, count) = (address.clone(), self.relays.len());
        match self.relays.get_mut(&peer) {
            // It may have moved, and this is where it was seen last.
            Some(relay) => relay.address = address,
            None if count < MAX_RELAYS_KNOWN => {
                self.relays.insert(peer, Relay { address, listener: None, due: now, pause: MIN_PAUSE });
            }
            None => {}
        }
    }

    /// A peer is no longer connected, or relays no more.
    pub(super) fn lost(&mut self, peer: &PeerId) {
        self.relays.remove(peer);
    }

    /// Where to ask for an address now: `/…/p2p/<relay>/p2p-circuit`.
    pub(super) fn due(&self, now: Instant) -> Option<(PeerId, Multiaddr)> {
        let held = self.relays.values().filter(|relay| relay.listener.is_some()).count();
        let is_too_early = self.grace_ends.is_none_or(|end| now < end);
        if self.is_public || is_too_early || held >= MAX_RELAYS {
            return None;
        }
        let (peer, relay) = self.relays.iter().find(|(_, r)| r.listener.is_none() && r.due <= now)?;
        let at: Multiaddr =
            relay.address.iter().take_while(|part| !matches!(part, Protocol::P2p(_))).collect();
        Some((*peer, at.with(Protocol::P2p(*peer)).with(Protocol::P2pCircuit)))
    }

    /// A relay was asked; what it gives is listened on under this id.
    pub(super) fn asked(&mut self, peer: &PeerId, listener: ListenerId) {
        if let Some(relay) = self.relays.get_mut(peer) {
            relay.listener = Some(listener);
        }
    }

    /// A relay has given or renewed an address.
    pub(super) fn granted(&mut self, peer: &PeerId) {
        if let Some(relay) = self.relays.get_mut(peer) {
            relay.pause = MIN_PAUSE;
        }
    }

    /// What a relay gave has ended; it is asked again after a while.
    pub(super) fn ended(&mut self, listener: ListenerId, now: Instant) {
        if let Some(relay) = self.relays.values_mut().find(|r| r.listener == Some(listener)) {
            relay.listener = None;
            relay.due = now + relay.pause;
            relay.pause = (relay.pause * 2).min(MAX_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_reach_as_far_as_their_networks() {
        let cases = [
            ("/ip4/127.0.0.1/tcp/1", Some(Scope::Machine)),
            ("/ip6/::1/udp/1/quic-v1", Some(Scope::Machine)),
            ("/ip4/192.168.1.2/tcp/1", Some(Scope::Site)),
            ("/ip4/172.16.0.1/tcp/1", Some(Scope::Site)),
            ("/ip4/100.127.0.1/tcp/1", Some(Scope::Site)),
            ("/ip4/169.254.3.3/tcp/1", Some(Scope::Site)),
            ("/ip6/::ffff:10.0.0.1/tcp/1", Some(Scope::Site)),
            ("/ip6/fd00::1/tcp/1", Some(Scope::Site)),
            ("/ip6/fe80::1/tcp/1", Some(Scope::Site)),
            ("/ip4/100.128.0.1/tcp/1", Some(Scope::World)),
            ("/ip4/203.0.113.7/tcp/1", Some(Scope::World)),
            ("/ip6/2a00::1/tcp/1", Some(Scope::World)),
            ("/dns4/pool.example/tcp/1", Some(Scope::World)),
            ("/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN", None),
        ];
        for (text, scope) in cases {
            assert_eq!(Scope::of(&address(text)), scope, "{text}");
        }
    }

    #[test]
    fn a_stranger_sends_this_node_to_no_private_address() {
        let named =
            ["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/80", "/ip4/203.0.113.9/tcp/1"].map(address);
        assert_eq!(worth_trying(&named, &address("/ip4/203.0.113.7/tcp/1")), named[2..]);
        assert_eq!(worth_trying(&named, &address("/ip4/192.168.1.7/tcp/1")), named[1..]);
        assert_eq!(worth_trying(&named, &address("/ip4/127.0.0.1/tcp/1")), named);
        let many = vec![named[2].clone(); MAX_ADDRESSES + 1];
        assert_eq!(worth_trying(&many, &address("/ip4/127.0.0.1/tcp/1")).len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_node_that_nobody_reaches_asks_its_relays_and_asks_again_with_growing_pauses() {
        let mut now = Instant::now();
        let (relay, at) = (PeerId::random(), address("/ip4/203.0.113.7/tcp/1"));
        let mut reach = Reach::new(Scope::World);
        reach.found(PeerId::random(), &address("/ip4/192.168.1.7/tcp/1"), now);
        now += GRACE;
        reach.found(relay, &at.clone().with(Protocol::P2p(relay)), now);
        assert_eq!(reach.due(now), None, "others may reach it yet");
        now += GRACE;
        let circuit = at.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
        assert_eq!(reach.due(now), Some((relay, circuit)));
        for pause in [5, 10, 20] {
            let listener = ListenerId::next();
            reach.asked(&relay, listener);
            assert_eq!(reach.due(now), None, "asked once");
            reach.ended(listener, now);
            now += Duration::from_secs(pause) - Duration::from_millis(1);
            assert_eq!(reach.due(now), None, "after {pause} s");
            now += Duration::from_millis(1);
            assert!(reach.due(now).is_some(), "after {pause} s");
        }
        reach.set_public(true);
        assert_eq!(reach.due(now), None, "it needs none");
        reach.set_public(false);
        reach.lost(&relay);
        assert_eq!(reach.due(now), None);
    }

    #[test]
    fn a_node_holds_addresses_at_few_relays() {
        let mut now = Instant::now();
        let mut reach = Reach::new(Scope::World);
        (0..MAX_RELAYS_KNOWN + 9).for_each(|_| {
            reach.found(PeerId::random(), &address("/ip4/203.0.113.7/tcp/1"), now);
        });
        assert_eq!(reach.relays.len(), MAX_RELAYS_KNOWN);
        now += GRACE;
        let mut held = 0;
        while let Some((peer, _)) = reach.due(now) {
            reach.asked(&peer, ListenerId::next());
            held += 1;
        }
        assert_eq!(held, MAX_RELAYS);
    }
}
