//! Whom to connect to, and when to try again.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
const MAX_TARGETS: usize = 1024;
const MAX_ADDRESSES: usize = 16;

/// How a target became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Bootstrap,
    Machine,
    Lan,
}

#[derive(Debug)]
struct Target {
    peer: Option<PeerId>,
    addresses: Vec<Multiaddr>,
    backoff: Duration,
    due: Instant,
    attempt: Option<ConnectionId>,
}

/// The peers that this node wants to be connected to, each dialled with a backoff of its own.
#[derive(Debug)]
pub(super) struct Dialer {
    local: PeerId,
    targets: BTreeMap<(Origin, Vec<u8>), Target>,
}

impl Dialer {
    pub(super) fn new(local: PeerId, bootstrap: &[Multiaddr], now: Instant) -> Self {
        let mut dialer = Self { local, targets: BTreeMap::new() };
        for address in bootstrap {
            let target = Target::new(peer_in(address), vec![address.clone()], now);
            dialer.insert((Origin::Bootstrap, address.to_vec()), target);
        }
        dialer
    }

    /// Takes the whole list of nodes that run on this machine; those no longer in it are forgotten.
    pub(super) fn set_machine(&mut self, found: Vec<(PeerId, Vec<Multiaddr>)>, now: Instant) {
        self.targets.retain(|(origin, key), _| {
            *origin != Origin::Machine || found.iter().any(|(peer, _)| peer.to_bytes() == *key)
        });
        for (peer, addresses) in found {
            self.offer(Origin::Machine, peer, addresses, now);
        }
    }

    pub(super) fn found_on_lan(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        let known = self.targets.get(&(Origin::Lan, peer.to_bytes()));
        let mut addresses = known.map(|t| t.addresses.clone()).unwrap_or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        self.offer(Origin::Lan, peer, addresses, now);
    }

    pub(super) fn lost_on_lan(&mut self, peer: PeerId, address: &Multiaddr) {
        let key = (Origin::Lan, peer.to_bytes());
        if let Some(target) = self.targets.get_mut(&key) {
            target.addresses.retain(|a| a != address);
            if target.addresses.is_empty() {
                self.targets.remove(&key);
            }
        }
    }

    /// What to dial now, given who is connected.
    pub(super) fn due(&mut self, now: Instant, connected: impl Fn(&PeerId) -> bool) -> Vec<DialOpts> {
        let mut dials = Vec::new();
        for ((origin, _), target) in &mut self.targets {
            if target.attempt.is_some() || target.due > now {
                continue;
            }
            if target.peer.as_ref().is_some_and(&connected) {
                // It stayed for as long as we would have waited: the next loss starts afresh.
                target.backoff = MIN_BACKOFF;
                continue;
            }
            let options = target.dial(*origin);
            target.attempt = Some(options.connection_id());
            dials.push(options);
        }
        dials
    }

    /// Says whether it was the dialer who asked for the connection.
    pub(super) fn established(&mut self, attempt: ConnectionId, peer: PeerId, now: Instant) -> bool {
        let Some(target) = self.targets.values_mut().find(|t| t.attempt == Some(attempt)) else {
            return false;
        };
        target.peer = Some(peer);
        target.retry_later(now);
        true
    }

    /// Says whether the attempt was for a bootstrap peer.
    pub(super) fn failed(&mut self, attempt: ConnectionId, now: Instant) -> bool {
        let mut targets = self.targets.iter_mut();
        let Some(((origin, _), target)) = targets.find(|(_, t)| t.attempt == Some(attempt)) else {
            return false;
        };
        target.retry_later(now);
        *origin == Origin::Bootstrap
    }

    /// Whether the peer at one of the bootstrap addresses is connected.
    pub(super) fn has_bootstrap(&self, connected: impl Fn(&PeerId) -> bool) -> bool {
        let mut targets = self.targets.iter().filter(|((origin, _), _)| *origin == Origin::Bootstrap);
        targets.any(|(_, target)| target.peer.as_ref().is_some_and(&connected))
    }

    /// For addresses that lead back to this node.
    pub(super) fn forget(&mut self, attempt: ConnectionId) {
        self.targets.retain(|_, target| target.attempt != Some(attempt));
    }

    fn offer(&mut self, origin: Origin, peer: PeerId, mut addresses: Vec<Multiaddr>, now: Instant) {
        addresses.truncate(MAX_ADDRESSES);
        let key = (origin, peer.to_bytes());
        match self.targets.get_mut(&key) {
            Some(target) if target.addresses == addresses => {}
            Some(target) => {
                target.addresses = addresses;
                target.backoff = MIN_BACKOFF;
                target.due = now;
            }
            None => self.insert(key, Target::new(Some(peer), addresses, now)),
        }
    }

    fn insert(&mut self, key: (Origin, Vec<u8>), target: Target) {
        if target.peer == Some(self.local) || target.addresses.is_empty() {
            return;
        }
        if self.targets.len() >= MAX_TARGETS {
            tracing::debug!("too many peers to dial, one is left out");
            return;
        }
        self.targets.insert(key, target);
    }
}

impl Target {
    fn new(peer: Option<PeerId>, addresses: Vec<Multiaddr>, now: Instant) -> Self {
        Self { peer, addresses, backoff: MIN_BACKOFF, due: now, attempt: None }
    }

    fn retry_later(&mut self, now: Instant) {
        self.attempt = None;
        self.due = now + self.backoff;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }

    fn dial(&self, origin: Origin) -> DialOpts {
        let named = match origin {
            Origin::Bootstrap => self.addresses.first().and_then(peer_in),
            Origin::Machine | Origin::Lan => self.peer,
        };
        let Some(peer) = named else {
            return DialOpts::unknown_peer_id().address(self.addresses[0].clone()).build();
        };
        let options = DialOpts::peer_id(peer).condition(PeerCondition::DisconnectedAndNotDialing);
        // One after the other on one machine, where an address works at once or not at all: dialled
        // together, TCP and QUIC would both be answered.
        let options = match origin {
            Origin::Machine => options.override_dial_concurrency_factor(NonZeroU8::MIN),
            Origin::Bootstrap | Origin::Lan => options,
        };
        options.addresses(self.addresses.clone()).build()
    }
}

pub(super) fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn waits_double_up_to_a_minute_and_start_afresh_after_a_lasting_connection() {
        let mut now = Instant::now();
        let mut dialer = Dialer::new(PeerId::random(), &[address(1)], now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let dial = dialer.due(now, |_| false).pop().expect("due");
            assert!(dialer.due(now, |_| false).is_empty(), "one attempt at a time");
            dialer.failed(dial.connection_id(), now);
            let before = now;
            while dialer.due(now, |_| false).is_empty() {
                now += Duration::from_millis(500);
            }
            waits.push((now - before).as_secs());
            dialer.targets.values_mut().for_each(|t| t.attempt = None);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);

        let peer = PeerId::random();
        let dial = dialer.due(now, |_| false).pop().expect("due");
        dialer.established(dial.connection_id(), peer, now);
        now += MAX_BACKOFF;
        assert!(dialer.due(now, |p| *p == peer).is_empty());
        assert_eq!(dialer.due(now, |_| false).len(), 1);
        assert!(dialer.targets.values().all(|t| t.backoff == MIN_BACKOFF));
    }

    #[test]
    fn nodes_that_left_the_machine_are_forgotten_and_own_addresses_never_dialled() {
        let (now, local, peer) = (Instant::now(), PeerId::random(), PeerId::random());
        let mut dialer = Dialer::new(local, &[], now);
        dialer.set_machine(vec![(local, vec![address(1)]), (peer, vec![address(2)])], now);
        let dials = dialer.due(now, |_| false);
        assert_eq!(dials.iter().map(DialOpts::get_peer_id).collect::<Vec<_>>(), [Some(peer)]);
        dialer.set_machine(Vec::new(), now);
        assert!(dialer.targets.is_empty());
    }

    #[test]
    fn a_new_address_of_a_known_node_is_tried_at_once() {
        let (now, peer) = (Instant::now(), PeerId::random());
        let mut dialer = Dialer::new(PeerId::random(), &[], now);
        dialer.set_machine(vec![(peer, vec![address(1)])], now);
        let dial = dialer.due(now, |_| false).pop().expect("due");
        dialer.failed(dial.connection_id(), now);
        dialer.set_machine(vec![(peer, vec![address(1)])], now);
        assert!(dialer.due(now, |_| false).is_empty());
        dialer.set_machine(vec![(peer, vec![address(2)])], now);
        assert_eq!(dialer.due(now, |_| false).len(), 1);
    }
}
