//! Tells a story: events in, lines of what the machine does out.

use std::collections::BTreeMap;
use std::time::Duration;

use cid::Cid;
use cid::multihash::Multihash;
use libp2p::PeerId;
use sha2::{Digest, Sha256};

use super::super::*;

pub(super) struct Script {
    pub(super) core: Core,
    pub(super) now: Duration,
    names: BTreeMap<Cid, String>,
    /// Peers whose messages do not leave.
    pub(super) stuck: Vec<u8>,
    /// What this node keeps besides what it kept before, by name; lookups stay open if `answers_lookups` is false.
    pub(super) kept: Vec<String>,
    kept_by_cid: BTreeMap<Cid, String>,
    pub(super) answers_lookups: bool,
    pub(super) sent: Vec<(u8, Message)>,
    pub(super) open_lookups: Vec<Lookup>,
}

pub(super) fn peer(number: u8) -> PeerId {
    PeerId::from_multihash(Multihash::wrap(0, &[number]).unwrap()).unwrap()
}

pub(super) fn number(peer: &PeerId) -> u8 {
    peer.to_bytes()[2]
}

pub(super) fn cid_of(block: &[u8]) -> Cid {
    Cid::new_v1(0x55, Multihash::wrap(0x12, &Sha256::digest(block)).unwrap())
}

pub(super) fn block(name: &str) -> Block {
    Block { cid: cid_of(name.as_bytes()), data: name.as_bytes().to_vec() }
}

pub(super) fn want(name: &str, kind: WantKind) -> Want {
    Want::new(cid_of(name.as_bytes()), kind, false)
}

pub(super) fn wants(wants: &[Want]) -> Message {
    Message { wants: wants.to_vec(), ..Message::default() }
}

pub(super) fn blocks(names: &[&str]) -> Message {
    Message { blocks: names.iter().map(|name| block(name)).collect(), ..Message::default() }
}

pub(super) fn presence(name: &str, has: bool) -> Message {
    let presences = vec![Presence { cid: cid_of(name.as_bytes()), has }];
    Message { presences, ..Message::default() }
}

impl Script {
    /// A node with peers 1, 2, … connected.
    pub(super) fn new(peers: u8) -> Self {
        let mut script = Script {
            core: Core::default(),
            now: Duration::from_secs(1000),
            names: BTreeMap::new(),
            stuck: Vec::new(),
            kept: Vec::new(),
            kept_by_cid: BTreeMap::new(),
            answers_lookups: true,
            sent: Vec::new(),
            open_lookups: Vec::new(),
        };
        for name in ('A'..='Z').map(String::from) {
            script.names.insert(cid_of(name.as_bytes()), name);
        }
        for number in 1..=peers {
            assert!(script.does(Event::Connected(peer(number))).is_empty());
        }
        script
    }

    pub(super) fn does(&mut self, event: Event) -> Vec<String> {
        self.core.handle(event, self.now);
        self.effects()
    }

    pub(super) fn hears(&mut self, from: u8, message: Message) -> Vec<String> {
        self.does(Event::Received { peer: peer(from), message })
    }

    /// Fetches a block of at most 100 bytes within a minute, without patience for one that nobody has.
    pub(super) fn fetches(&mut self, id: u64, name: &str, likely: &[u8]) -> Vec<String> {
        self.fetches_within(id, name, likely, 60, 100)
    }

    pub(super) fn fetches_within(
        &mut self,
        id: u64,
        name: &str,
        likely: &[u8],
        seconds: u64,
        max_bytes: usize,
    ) -> Vec<String> {
        self.fetches_patiently(id, name, likely, 0, seconds, max_bytes)
    }

    /// Goes on asking for `patience` seconds although nobody has it.
    pub(super) fn fetches_patiently(
        &mut self,
        id: u64,
        name: &str,
        likely: &[u8],
        patience: u64,
        seconds: u64,
        max_bytes: usize,
    ) -> Vec<String> {
        let after = |seconds| self.now + Duration::from_secs(seconds);
        let (patience, deadline) = (after(patience), after(seconds));
        let likely = likely.iter().map(|number| peer(*number)).collect();
        let cid = cid_of(name.as_bytes());
        self.names.insert(cid, name.to_owned());
        self.does(Event::Fetch(Fetch { id, cid, max_bytes, patience, deadline, likely }))
    }

    /// Lets time pass, doing what is due when it is due.
    pub(super) fn waits(&mut self, milliseconds: u64) -> Vec<String> {
        let end = self.now + Duration::from_millis(milliseconds);
        let mut lines = Vec::new();
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            assert!(due > self.now || !lines.is_empty() || due == self.now, "time runs forward");
            let before = (self.now, self.core.poll_timeout());
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            lines.extend(self.effects());
            assert_ne!(before, (self.now, self.core.poll_timeout()), "a timeout changed nothing");
        }
        self.now = end;
        lines
    }

    fn effects(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { peer, message } => {
                    lines.push(format!("to {}: {}", number(&peer), self.tell(&message)));
                    self.sent.push((number(&peer), message));
                    if !self.stuck.contains(&number(&peer)) {
                        self.core.handle(Event::Sent(peer), self.now);
                    }
                }
                Effect::LookUp(lookup) if self.answers_lookups => {
                    let found = self.find(&lookup);
                    self.core.handle(Event::LookedUp { lookup, found }, self.now);
                }
                Effect::LookUp(lookup) => self.open_lookups.push(lookup),
                Effect::Deliver { id, outcome: Ok(block) } => {
                    lines.push(format!("fetch {id}: {} bytes", block.len()));
                }
                Effect::Deliver { id, outcome: Err(error) } => {
                    lines.push(format!("fetch {id}: {}", failure(&error)));
                }
                Effect::Hear(peer) => lines.push(format!("hear {}", number(&peer))),
                Effect::Shun(peer) => lines.push(format!("shun {}", number(&peer))),
            }
        }
        lines
    }

    pub(super) fn find(&mut self, lookup: &Lookup) -> Found {
        for name in self.kept.drain(..) {
            self.kept_by_cid.insert(cid_of(name.as_bytes()), name);
        }
        match self.kept_by_cid.get(&lookup.cid) {
            None => Found::Absent,
            Some(_) if lookup.kind == WantKind::Have => Found::Present,
            Some(name) => Found::Block(name.as_bytes().to_vec()),
        }
    }

    fn name(&self, cid: &Cid) -> String {
        self.names.get(cid).cloned().unwrap_or_else(|| "?".to_owned())
    }

    fn tell(&self, message: &Message) -> String {
        let want = |want: &Want| match (want.cancel, want.kind) {
            (true, _) => format!("cancel {}", self.name(&want.cid)),
            (false, WantKind::Block) => format!("want {}", self.name(&want.cid)),
            (false, WantKind::Have) => format!("have {}?", self.name(&want.cid)),
        };
        let presence = |presence: &Presence| {
            let word = if presence.has { "have" } else { "lack" };
            format!("{word} {}", self.name(&presence.cid))
        };
        let block = |block: &Block| format!("block {}", self.name(&block.cid));
        let mut parts: Vec<String> = message.wants.iter().map(want).collect();
        parts.sort();
        parts.extend(message.presences.iter().map(presence));
        parts.extend(message.blocks.iter().map(block));
        parts.join(", ")
    }
}

fn failure(error: &FetchError) -> String {
    match error {
        FetchError::UnsupportedCid(_) => "unsupported".to_owned(),
        FetchError::NoPeers(_) => "no peers".to_owned(),
        FetchError::Missing { asked, .. } => format!("missing at {asked}"),
        FetchError::WrongBlock { peer, .. } => format!("{} lied", number(peer)),
        FetchError::TooLarge { peer, length, max, .. } => {
            format!("{length} bytes at {}, over {max}", number(peer))
        }
        FetchError::Deadline(_) => "too late".to_owned(),
        FetchError::Busy => "busy".to_owned(),
        FetchError::Closed => "closed".to_owned(),
    }
}
