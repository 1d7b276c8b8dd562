//! The machine that the shell drives: which message goes to whom, and what offends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;

use super::bucket::Bucket;
use super::fetching::{Fetch, Fetching};
use super::message::Message;
use super::serving::{Found, Lookup, Serving};
use super::{
    FORGIVEN_AFTER, FetchError, MAX_ENTRIES_BURST, MAX_ENTRIES_PER_SECOND, MAX_OFFENCES, MAX_OFFENDERS,
};

/// What has happened.
#[derive(Debug)]
pub enum Event {
    Connected(PeerId),
    Disconnected(PeerId),
    /// A message came, its blocks with the CIDs that their bytes have.
    Received {
        peer: PeerId,
        message: Message,
    },
    /// Something came that is no message.
    Malformed(PeerId),
    /// Part of a long message came.
    Progress(PeerId),
    /// The message to this peer has left.
    Sent(PeerId),
    /// The message to this peer could not be sent.
    NotSent {
        peer: PeerId,
        reason: NotSent,
    },
    /// Somebody here wants a block.
    Fetch(Fetch),
    /// Whoever wanted it has gone.
    Cancel(u64),
    /// A lookup is done.
    LookedUp {
        lookup: Lookup,
        found: Found,
    },
    /// This node has a block that it did not have.
    Available(Cid),
}

/// Why a message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// The peer does not speak Bitswap.
    Unsupported,
    /// The stream broke or could not be opened.
    Broken,
    /// The peer does not read.
    Stalled,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a message; [`Event::Sent`] or [`Event::NotSent`] must follow. There is one at a time for a peer.
    Send { peer: PeerId, message: Message },
    /// Look for a block; [`Event::LookedUp`] must follow.
    LookUp(Lookup),
    /// A fetch has ended.
    Deliver { id: u64, outcome: Result<Vec<u8>, FetchError> },
    /// Close all streams with this peer and take no more until it has disconnected or is heard again.
    Shun(PeerId),
    /// Take streams of this peer again.
    Hear(PeerId),
}

/// The Bitswap of one node.
#[derive(Debug, Default)]
pub struct Core {
    peers: BTreeMap<PeerId, Peer>,
    fetching: Fetching,
    serving: Serving,
    offenders: BTreeMap<PeerId, Offender>,
    /// Connected peers that are not heard, and until when.
    shunned: BTreeMap<PeerId, Duration>,
    effects: VecDeque<Effect>,
}

#[derive(Debug)]
struct Peer {
    is_sending: bool,
    entries: Bucket,
}

#[derive(Debug, Clone, Copy, Default)]
struct Offender {
    offences: u32,
    last: Duration,
}

impl Core {
    /// Takes in one event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Connected(peer) => self.connected(peer, now),
            Event::Disconnected(peer) => {
                self.shunned.remove(&peer);
                self.disconnected(peer, now);
            }
            Event::Received { peer, message } => self.received(peer, message, now),
            Event::Malformed(peer) => {
                self.fetching.lied(peer, now);
                self.offended(peer, 1, now);
            }
            Event::Progress(peer) => self.fetching.progress(peer, now),
            Event::Sent(peer) => {
                self.sent(peer);
                self.serving.was_read(&peer);
            }
            Event::NotSent { peer, reason } => self.not_sent(peer, reason, now),
            Event::Fetch(fetch) => self.fetching.fetch(fetch, now),
            Event::Cancel(id) => self.fetching.cancel(id, now),
            Event::LookedUp { lookup, found } => self.serving.found(&lookup, found),
            Event::Available(cid) => self.serving.available(&cid),
        }
        self.act(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.fetching.handle_timeout(now);
        let forgiven: Vec<PeerId> =
            self.shunned.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        for peer in forgiven {
            self.shunned.remove(&peer);
            self.effects.push_back(Effect::Hear(peer));
            self.connected(peer, now);
        }
        self.act(now);
    }

    /// When [`Core::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let forgiven = self.shunned.values().copied().min();
        self.fetching.next_timeout().into_iter().chain(self.serving.next_timeout()).chain(forgiven).min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// How many wants of this peer are held.
    pub fn wants_held(&self, peer: &PeerId) -> usize {
        self.serving.wants_held(peer)
    }

    /// How many wants of all peers are held.
    pub fn all_wants_held(&self) -> usize {
        self.serving.all_wants_held()
    }

    fn connected(&mut self, peer: PeerId, now: Duration) {
        if self.is_shunned(&peer, now) {
            return self.shun(peer);
        }
        let entries = Bucket::new(MAX_ENTRIES_PER_SECOND, MAX_ENTRIES_BURST, now);
        self.peers.insert(peer, Peer { is_sending: false, entries });
        self.fetching.connected(peer, now);
        self.serving.connected(peer, now);
    }

    fn disconnected(&mut self, peer: PeerId, now: Duration) {
        self.peers.remove(&peer);
        self.fetching.disconnected(peer, now);
        self.serving.disconnected(peer);
    }

    fn received(&mut self, peer: PeerId, message: Message, now: Duration) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Message { wants, full, blocks, presences, skipped, unusable_blocks } = message;
        let entries = 1 + wants.len() + presences.len() + skipped;
        let in_measure = known.entries.try_charge(entries as u64, now);
        let mut offences = u32::from(!in_measure);
        let mut lies = unusable_blocks;
        for block in blocks {
            lies += usize::from(!self.fetching.block(peer, block, now));
        }
        if lies > 0 {
            self.fetching.lied(peer, now);
            offences = offences.saturating_add(u32::try_from(lies).unwrap_or(u32::MAX));
        }
        if in_measure {
            presences.into_iter().for_each(|presence| self.fetching.presence(peer, presence, now));
            if full {
                self.serving.keep_only(peer, &wants);
            }
            wants.into_iter().for_each(|want| self.serving.hear(peer, want));
        }
        self.offended(peer, offences, now);
    }

    fn sent(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.is_sending = false;
            self.serving.sent(peer);
        }
    }

    /// What the peer asked for is forgotten: it asks again when it can be reached.
    fn not_sent(&mut self, peer: PeerId, reason: NotSent, now: Duration) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        self.sent(peer);
        self.serving.clear(peer);
        self.serving.drop_answers(peer);
        if reason == NotSent::Stalled {
            self.serving.stalled(&peer, now);
        }
        self.fetching.unreachable(peer, reason == NotSent::Unsupported, now);
    }

    fn is_shunned(&mut self, peer: &PeerId, now: Duration) -> bool {
        if self.offenders.get(peer).is_some_and(|o| o.last + FORGIVEN_AFTER <= now) {
            self.offenders.remove(peer);
        }
        self.offenders.get(peer).is_some_and(|o| o.offences >= MAX_OFFENCES)
    }

    fn offended(&mut self, peer: PeerId, offences: u32, now: Duration) {
        if offences == 0 || !self.peers.contains_key(&peer) {
            return;
        }
        self.is_shunned(&peer, now);
        if self.offenders.len() >= MAX_OFFENDERS && !self.offenders.contains_key(&peer) {
            let oldest = self.offenders.iter().min_by_key(|(_, o)| o.last).map(|(peer, _)| *peer);
            oldest.map(|peer| self.offenders.remove(&peer));
        }
        let offender = self.offenders.entry(peer).or_default();
        offender.offences = offender.offences.saturating_add(offences);
        offender.last = now;
        if offender.offences >= MAX_OFFENCES {
            tracing::warn!(%peer, "the peer sends blocks that nobody asked for, or too much; it is no longer heard");
            self.disconnected(peer, now);
            self.shun(peer);
        }
    }

    fn shun(&mut self, peer: PeerId) {
        let last = self.offenders.get(&peer).map(|offender| offender.last).unwrap_or_default();
        self.shunned.insert(peer, last + FORGIVEN_AFTER);
        self.effects.push_back(Effect::Shun(peer));
    }

    /// Turns what the parts want into effects.
    fn act(&mut self, now: Duration) {
        while let Some(lookup) = self.serving.next_lookup(now) {
            self.effects.push_back(Effect::LookUp(lookup));
        }
        let changed: BTreeSet<PeerId> = self.fetching.changed.union(&self.serving.changed).copied().collect();
        for peer in changed {
            self.send(peer);
        }
        while let Some((id, outcome)) = self.fetching.outcomes.pop_front() {
            self.effects.push_back(Effect::Deliver { id, outcome });
        }
    }

    fn send(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get_mut(&peer).filter(|known| !known.is_sending) else { return };
        let (presences, blocks) = self.serving.take_answers(peer);
        let wants = self.fetching.take_wants(peer);
        let message = Message { wants, blocks, presences, ..Message::default() };
        if !message.is_empty() {
            known.is_sending = true;
            self.effects.push_back(Effect::Send { peer, message });
        }
    }
}
