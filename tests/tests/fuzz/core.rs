//! The Bitswap core: what the bytes say happens to it, in any order.

use crate::target::{Outcome, Target};
use cid::Cid;
use libp2p::PeerId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use swarm_node::network::bitswap::{
    Block, Core, Effect, Event, Fetch, FetchError, Found, Lookup, MAX_FETCHES, MAX_WANTS_PER_PEER, Message,
    NotSent, Presence, Want, WantKind,
};
use swarm_protocol::codec::raw_cid;

const PEERS: u8 = 5;
const BLOCKS: u8 = 24;

pub fn target() -> Target {
    Target {
        name: "bitswap-core",
        share: 12,
        max_bytes: 1_500,
        memory: (16 * 1024, 4 * 1024 * 1024),
        must: vec![
            "delivered",
            "nothing",
            "NoPeers",
            "Missing",
            "TooLarge",
            "Deadline",
            "UnsupportedCid",
            "shunned",
        ],
        run: Box::new(run),
    }
}

/// A core and all that its shell would keep.
struct Shell {
    core: Core,
    now: Duration,
    sending: BTreeSet<PeerId>,
    connected: BTreeSet<PeerId>,
    lookups: Vec<Lookup>,
    fetches: BTreeMap<u64, Cid>,
    ids: u64,
    outcome: Outcome,
}

fn peer(n: u8) -> PeerId {
    let secret = [n % PEERS + 1; 32];
    libp2p::identity::Keypair::ed25519_from_bytes(secret).expect("32 bytes").public().to_peer_id()
}

fn content(n: u8) -> Vec<u8> {
    vec![n % BLOCKS; 16 << (n % 4)]
}

/// A block's CID; some name what nobody can check.
fn cid(n: u8) -> Cid {
    if n == 0xff {
        let identity = cid::multihash::Multihash::wrap(0, b"inline").expect("short");
        return Cid::new_v1(0x55, identity);
    }
    raw_cid(&content(n))
}

fn run(bytes: &[u8]) -> Outcome {
    thread_local!(static NAMES: Vec<PeerId> = (0..PEERS).map(peer).collect());
    let peers = NAMES.with(Clone::clone);
    let mut shell = Shell {
        core: Core::default(),
        now: Duration::ZERO,
        sending: BTreeSet::new(),
        connected: BTreeSet::new(),
        lookups: Vec::new(),
        fetches: BTreeMap::new(),
        ids: 0,
        outcome: "nothing".into(),
    };
    for step in bytes.chunks(4) {
        let [what, a, b, c] = [0, 1, 2, 3].map(|n| step.get(n).copied().unwrap_or(0));
        shell.step(what, peers[usize::from(a % PEERS)], (a, b, c), &peers);
        shell.check();
    }
    shell.finish();
    shell.outcome
}

impl Shell {
    fn step(&mut self, what: u8, peer: PeerId, (a, b, c): (u8, u8, u8), peers: &[PeerId]) {
        let here = self.connected.contains(&peer);
        match what % 16 {
            0 | 1 if !here => {
                self.connected.insert(peer);
                self.handle(Event::Connected(peer));
            }
            2 if here => {
                self.connected.remove(&peer);
                self.sending.remove(&peer);
                self.handle(Event::Disconnected(peer));
            }
            3 | 4 => self.fetch(b, c, peers),
            5 => {
                let id = 1 + u64::from(b) % self.ids.max(1);
                self.fetches.remove(&id);
                self.handle(Event::Cancel(id));
            }
            6 if here => self.receive(peer, wants(b, c, a)),
            7 if here => {
                let presences =
                    (0..c % 8).map(|n| Presence { cid: cid(b.wrapping_add(n)), has: a & 64 == 0 });
                self.receive(peer, Message { presences: presences.collect(), ..Message::default() });
            }
            8 | 9 if here => {
                let data = content(b);
                let block = Block { cid: raw_cid(&data), data };
                self.receive(peer, Message { blocks: vec![block; usize::from(c % 3)], ..Message::default() });
            }
            10 if here => self.handle(Event::Malformed(peer)),
            11 if self.sending.remove(&peer) => self.handle(Event::Sent(peer)),
            12 if self.sending.remove(&peer) => {
                let reason = [NotSent::Unsupported, NotSent::Broken, NotSent::Stalled][usize::from(c % 3)];
                self.handle(Event::NotSent { peer, reason });
            }
            13 => self.look_up(b, c),
            14 => self.handle(if c % 2 == 0 { Event::Available(cid(b)) } else { Event::Progress(peer) }),
            15 => self.wait(Duration::from_millis(u64::from(b) * (1 << (c % 12)))),
            _ => {}
        }
    }

    fn handle(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.perform();
    }

    fn receive(&mut self, peer: PeerId, message: Message) {
        self.handle(Event::Received { peer, message });
    }

    fn fetch(&mut self, b: u8, c: u8, peers: &[PeerId]) {
        self.ids += 1;
        let (id, cid) = (self.ids, cid(b));
        let fetch = Fetch {
            id,
            cid,
            max_bytes: usize::from(c) * 2,
            patience: self.now + Duration::from_secs(u64::from(c % 8)),
            deadline: self.now + Duration::from_secs(u64::from(c)),
            likely: peers.iter().take(usize::from(c % 4)).copied().collect(),
        };
        self.fetches.insert(id, cid);
        self.handle(Event::Fetch(fetch));
    }

    fn look_up(&mut self, b: u8, c: u8) {
        if self.lookups.is_empty() {
            return;
        }
        let lookup = self.lookups.swap_remove(usize::from(b) % self.lookups.len());
        let wanted = (0..BLOCKS).find(|n| cid(*n) == lookup.cid);
        let found = match wanted.filter(|_| !c.is_multiple_of(3)) {
            Some(n) if lookup.kind == WantKind::Block => Found::Block(content(n)),
            Some(_) => Found::Present,
            None => Found::Absent,
        };
        self.handle(Event::LookedUp { lookup, found });
    }

    fn wait(&mut self, span: Duration) {
        let until = self.now + span;
        for _ in 0..64 {
            let Some(at) = self.core.poll_timeout().filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.perform();
        }
        self.now = until;
        self.core.handle_timeout(self.now);
        self.perform();
    }

    fn perform(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { peer, message } => {
                    assert!(self.connected.contains(&peer), "a message to nobody");
                    assert!(self.sending.insert(peer), "two messages at once");
                    assert!(!message.is_empty(), "an empty message");
                }
                Effect::LookUp(lookup) => self.lookups.push(lookup),
                Effect::Deliver { id, outcome } => self.delivered(id, outcome),
                Effect::Hear(_) => {}
                Effect::Shun(peer) => {
                    self.sending.remove(&peer);
                    self.outcome = "shunned".into();
                }
            }
        }
    }

    fn delivered(&mut self, id: u64, outcome: Result<Vec<u8>, FetchError>) {
        let wanted = self.fetches.remove(&id).expect("one outcome for each fetch");
        self.outcome = match outcome {
            Ok(data) => {
                assert_eq!(raw_cid(&data), wanted, "another block");
                "delivered".into()
            }
            Err(error) => crate::target::name(&error),
        };
    }

    fn check(&self) {
        assert!(self.fetches.len() <= MAX_FETCHES);
        for peer in &self.connected {
            assert!(self.core.wants_held(peer) <= MAX_WANTS_PER_PEER);
        }
    }

    /// Every fetch ends, whatever happened.
    fn finish(&mut self) {
        let outcome = self.outcome.clone();
        for _ in 0..64 {
            self.wait(Duration::from_secs(10));
        }
        let cancelled = self.fetches.len();
        assert_eq!(cancelled, 0, "fetches that never end: {:?}", self.fetches);
        if outcome != "nothing" {
            self.outcome = outcome;
        }
    }
}

fn wants(b: u8, c: u8, a: u8) -> Message {
    let kind = if a & 32 == 0 { WantKind::Block } else { WantKind::Have };
    let want =
        |n: u8| Want { send_dont_have: c & 8 == 0, ..Want::new(cid(b.wrapping_add(n)), kind, c & 16 != 0) };
    Message { wants: (0..c % 8).map(want).collect(), full: c & 64 != 0, ..Message::default() }
}
