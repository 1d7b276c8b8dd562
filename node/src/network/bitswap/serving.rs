//! Other nodes' wants, and what they are answered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;

use super::bucket::Bucket;
use super::message::{Block, Presence, Want, WantKind};
use super::{
    LOOKUP_COST, MAX_ANSWER_BYTES, MAX_HELD_BYTES, MAX_LOOKUPS, MAX_LOOKUPS_PER_PEER, MAX_SERVED_BURST,
    MAX_SERVED_PER_SECOND, MAX_STALL_PAUSE, MAX_WANTS, MAX_WANTS_PER_PEER, MAX_WANTS_SPARED, MIN_STALL_PAUSE,
};

/// A block to look for among this node's own, on behalf of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    pub peer: PeerId,
    pub cid: Cid,
    /// Whether its bytes are wanted, or only whether it is there.
    pub kind: WantKind,
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Absent,
    Present,
    Block(Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct Serving {
    askers: BTreeMap<PeerId, Asker>,
    /// Those with wants that are to be looked up.
    hungry: BTreeSet<PeerId>,
    /// Who waits for a block that is not here.
    missing: BTreeMap<Cid, BTreeSet<PeerId>>,
    wants: usize,
    lookups: usize,
    /// Bytes of answers that have not left.
    held_bytes: usize,
    arrivals: u64,
    last_served: Option<PeerId>,
    /// Peers to whom there is something to say.
    pub(super) changed: BTreeSet<PeerId>,
}

type Turn = (Reverse<i32>, u64);

#[derive(Debug)]
struct Asker {
    wants: BTreeMap<Cid, Held>,
    queue: BTreeMap<Turn, Cid>,
    lookups: usize,
    presences: Vec<Presence>,
    blocks: Vec<Block>,
    answer_bytes: usize,
    /// Bytes of answers that are on their way.
    leaving_bytes: usize,
    budget: Bucket,
    /// Messages in a row that it has not read in time, and when it is served again after the last.
    stalls: u32,
    served_from: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    want: Want,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued(Turn),
    LookedUp,
    Missing,
}

impl Serving {
    pub(super) fn connected(&mut self, peer: PeerId, now: Duration) {
        self.askers.entry(peer).or_insert_with(|| Asker {
            wants: BTreeMap::new(),
            queue: BTreeMap::new(),
            lookups: 0,
            presences: Vec::new(),
            blocks: Vec::new(),
            answer_bytes: 0,
            leaving_bytes: 0,
            budget: Bucket::new(MAX_SERVED_PER_SECOND, MAX_SERVED_BURST, now),
            stalls: 0,
            served_from: now,
        });
    }

    pub(super) fn disconnected(&mut self, peer: PeerId) {
        self.clear(peer);
        if let Some(asker) = self.askers.remove(&peer) {
            self.held_bytes -= asker.answer_bytes + asker.leaving_bytes;
        }
        self.changed.remove(&peer);
    }

    pub(super) fn wants_held(&self, peer: &PeerId) -> usize {
        self.askers.get(peer).map_or(0, |asker| asker.wants.len())
    }

    pub(super) fn all_wants_held(&self) -> usize {
        self.wants
    }

    /// Forgets all that the peer wants.
    pub(super) fn clear(&mut self, peer: PeerId) {
        let Some(asker) = self.askers.get(&peer) else { return };
        for cid in asker.wants.keys().copied().collect::<Vec<_>>() {
            self.forget(peer, &cid);
        }
    }

    /// A full wantlist says what the peer still wants.
    pub(super) fn keep_only(&mut self, peer: PeerId, wants: &[Want]) {
        let listed: BTreeSet<&Cid> = wants.iter().map(|want| &want.cid).collect();
        let Some(asker) = self.askers.get(&peer) else { return };
        for cid in asker.wants.keys().filter(|cid| !listed.contains(cid)).copied().collect::<Vec<_>>() {
            self.forget(peer, &cid);
        }
    }

    pub(super) fn hear(&mut self, peer: PeerId, want: Want) {
        if want.cancel {
            return self.forget(peer, &want.cid);
        }
        let arrivals = self.arrivals;
        let Some(asker) = self.askers.get(&peer) else { return };
        match asker.wants.get(&want.cid).copied() {
            // Asked again while it is under way, or for less than before.
            Some(held) if held.state != State::Missing && held.want.covers(&want) => return,
            Some(_) => self.forget(peer, &want.cid),
            None if !self.has_room(peer) => return,
            None => {}
        }
        self.arrivals += 1;
        self.wants += 1;
        self.hungry.insert(peer);
        if let Some(asker) = self.askers.get_mut(&peer) {
            let turn = (Reverse(want.priority), arrivals);
            asker.queue.insert(turn, want.cid);
            asker.wants.insert(want.cid, Held { want, state: State::Queued(turn) });
        }
    }

    /// Wants that wait for a block that is not here give way to new ones.
    fn has_room(&mut self, peer: PeerId) -> bool {
        let (total, held) = (self.wants, self.askers.get(&peer).map_or(0, |a| a.wants.len()));
        if held < MAX_WANTS_SPARED || (held < MAX_WANTS_PER_PEER && total < MAX_WANTS) {
            return true;
        }
        let mut wants = self.askers.get(&peer).into_iter().flat_map(|a| &a.wants);
        let missing = wants.find(|(_, held)| held.state == State::Missing).map(|(cid, _)| *cid);
        if let Some(cid) = missing {
            self.forget(peer, &cid);
        }
        missing.is_some()
    }

    fn forget(&mut self, peer: PeerId, cid: &Cid) {
        let Some(asker) = self.askers.get_mut(&peer) else { return };
        let Some(held) = asker.wants.remove(cid) else { return };
        self.wants -= 1;
        match held.state {
            State::Queued(turn) => {
                asker.queue.remove(&turn);
                if asker.queue.is_empty() {
                    self.hungry.remove(&peer);
                }
            }
            State::LookedUp => {}
            State::Missing => {
                if let Some(waiting) = self.missing.get_mut(cid) {
                    waiting.remove(&peer);
                    if waiting.is_empty() {
                        self.missing.remove(cid);
                    }
                }
            }
        }
    }

    /// The next block to look up, the peers taking turns.
    pub(super) fn next_lookup(&mut self, now: Duration) -> Option<Lookup> {
        if self.is_full() {
            return None;
        }
        let after = self.last_served.map_or(Unbounded, Excluded);
        let peers = self.hungry.range((after, Unbounded)).chain(&self.hungry);
        let is_pressed = self.is_pressed();
        let askers = &mut self.askers;
        let peer = *peers.take(self.hungry.len()).find(|peer| {
            let asker = askers.get_mut(peer);
            asker.is_some_and(|asker| {
                asker.may_look_up(is_pressed) && asker.served_from <= now && asker.budget.has_some(now)
            })
        })?;
        let asker = self.askers.get_mut(&peer)?;
        let (_, cid) = asker.queue.pop_first()?;
        let held = asker.wants.get_mut(&cid)?;
        held.state = State::LookedUp;
        let kind = held.want.kind;
        asker.lookups += 1;
        asker.budget.charge(LOOKUP_COST);
        self.lookups += 1;
        self.last_served = Some(peer);
        if asker.queue.is_empty() {
            self.hungry.remove(&peer);
        }
        Some(Lookup { peer, cid, kind })
    }

    /// When a budget that was used up allows the next lookup.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        if self.is_full() {
            return None;
        }
        let waiting = self.hungry.iter().filter_map(|peer| self.askers.get(peer));
        let may = waiting.filter(|asker| asker.may_look_up(self.is_pressed()));
        may.map(|asker| asker.budget.refilled_at().max(asker.served_from)).min()
    }

    /// Half of the memory is left to those who read what they are sent.
    fn is_pressed(&self) -> bool {
        self.held_bytes >= MAX_HELD_BYTES / 2
    }

    fn is_full(&self) -> bool {
        self.lookups >= MAX_LOOKUPS || self.held_bytes >= MAX_HELD_BYTES
    }

    pub(super) fn found(&mut self, lookup: &Lookup, found: Found) {
        self.lookups = self.lookups.saturating_sub(1);
        let (peer, cid) = (lookup.peer, lookup.cid);
        let Some(asker) = self.askers.get_mut(&peer) else { return };
        asker.lookups = asker.lookups.saturating_sub(1);
        let Some(held) = asker.wants.get_mut(&cid).filter(|h| h.state == State::LookedUp) else { return };
        let want = held.want;
        if found == Found::Absent {
            held.state = State::Missing;
            self.missing.entry(cid).or_default().insert(peer);
        } else {
            self.forget(peer, &cid);
        }
        match (found, want.kind) {
            (Found::Absent, _) if !want.send_dont_have => {}
            (Found::Absent, _) => self.say(peer, Presence { cid, has: false }),
            (Found::Block(data), WantKind::Block) => self.send(peer, Block { cid, data }),
            (Found::Present | Found::Block(_), WantKind::Have) => self.say(peer, Presence { cid, has: true }),
            // The want has grown while the lookup was under way.
            (Found::Present, WantKind::Block) => self.hear(peer, want),
        }
    }

    fn say(&mut self, peer: PeerId, presence: Presence) {
        let Some(asker) = self.askers.get_mut(&peer) else { return };
        asker.answer_bytes += presence.weight();
        self.held_bytes += presence.weight();
        asker.presences.push(presence);
        self.changed.insert(peer);
    }

    fn send(&mut self, peer: PeerId, block: Block) {
        let Some(asker) = self.askers.get_mut(&peer) else { return };
        asker.answer_bytes += block.weight();
        self.held_bytes += block.weight();
        asker.budget.charge(block.data.len() as u64);
        asker.blocks.push(block);
        self.changed.insert(peer);
    }

    /// A block is here now: whoever waited for it gets it.
    pub(super) fn available(&mut self, cid: &Cid) {
        for peer in self.missing.remove(cid).unwrap_or_default() {
            let asker = self.askers.get(&peer);
            if let Some(want) = asker.and_then(|a| a.wants.get(cid)).map(|held| held.want) {
                self.hear(peer, want);
            }
        }
    }

    /// What goes into one message, at most [`MAX_ANSWER_BYTES`] and what of one block lies across.
    pub(super) fn take_answers(&mut self, peer: PeerId) -> (Vec<Presence>, Vec<Block>) {
        self.changed.remove(&peer);
        let Some(asker) = self.askers.get_mut(&peer) else { return Default::default() };
        let presences = std::mem::take(&mut asker.presences);
        let mut bytes: usize = presences.iter().map(Presence::weight).sum();
        let mut count = 0;
        while let Some(block) = asker.blocks.get(count).filter(|_| bytes < MAX_ANSWER_BYTES) {
            bytes += block.weight();
            count += 1;
        }
        let rest = asker.blocks.split_off(count);
        let blocks = std::mem::replace(&mut asker.blocks, rest);
        asker.answer_bytes -= bytes;
        asker.leaving_bytes += bytes;
        if !asker.blocks.is_empty() {
            self.changed.insert(peer);
        }
        (presences, blocks)
    }

    pub(super) fn drop_answers(&mut self, peer: PeerId) {
        if let Some(asker) = self.askers.get_mut(&peer) {
            asker.presences.clear();
            asker.blocks.clear();
            self.held_bytes -= std::mem::take(&mut asker.answer_bytes);
        }
    }

    /// The peer has read a message.
    pub(super) fn was_read(&mut self, peer: &PeerId) {
        if let Some(asker) = self.askers.get_mut(peer) {
            asker.stalls = 0;
        }
    }

    /// The peer has not read a message in time: it is left alone, the longer the more often it happens.
    pub(super) fn stalled(&mut self, peer: &PeerId, now: Duration) {
        if let Some(asker) = self.askers.get_mut(peer) {
            let pause = MIN_STALL_PAUSE * (1 << asker.stalls.min(16));
            asker.served_from = now + pause.min(MAX_STALL_PAUSE);
            asker.stalls = asker.stalls.saturating_add(1);
        }
    }

    /// The message with the answers taken last has left, or never will.
    pub(super) fn sent(&mut self, peer: PeerId) {
        if let Some(asker) = self.askers.get_mut(&peer) {
            self.held_bytes -= std::mem::take(&mut asker.leaving_bytes);
        }
    }
}

impl Want {
    fn covers(&self, other: &Want) -> bool {
        self.kind == WantKind::Block || other.kind == WantKind::Have
    }
}

impl Asker {
    /// What is being looked up counts as if it filled its share, so that at most one block lies across. When memory
    /// is scarce, one block at a time is looked up, and none for whoever has not read the last.
    fn may_look_up(&self, is_pressed: bool) -> bool {
        if is_pressed {
            return self.lookups == 0 && self.answer_bytes + self.leaving_bytes == 0;
        }
        self.lookups < MAX_LOOKUPS_PER_PEER
            && self.answer_bytes + self.lookups * (MAX_ANSWER_BYTES / MAX_LOOKUPS_PER_PEER) < MAX_ANSWER_BYTES
    }
}
