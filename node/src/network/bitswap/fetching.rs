//! This node's wants: whom to ask for a block, and whom next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;

use super::message::{Block, Presence, Want, WantKind, is_checkable};
use super::{
    ATTEMPT_TIMEOUT, FetchError, MAX_ASKED_BLOCKS, MAX_ASKED_BYTES, MAX_ASKED_PEERS, MAX_ATTEMPT,
    MAX_ENTRIES, MAX_FETCHES, MAX_LATE_BLOCKS, MAX_LATENESS, MAX_SURVEYED,
};
use crate::network::MAX_BLOCK;

#[derive(Debug, Default)]
pub(super) struct Fetching {
    sources: BTreeMap<PeerId, Source>,
    pursuits: BTreeMap<Cid, Pursuit>,
    fetches: BTreeMap<u64, Cid>,
    pub(super) outcomes: VecDeque<(u64, Result<Vec<u8>, FetchError>)>,
    /// Peers to whom there is something to say.
    pub(super) changed: BTreeSet<PeerId>,
}

/// A peer that may be asked.
#[derive(Debug, Default)]
struct Source {
    /// It does not speak Bitswap.
    is_mute: bool,
    asked: BTreeMap<Cid, usize>,
    asked_bytes: usize,
    /// Blocks to ask it for once it has delivered others.
    queue: VecDeque<Cid>,
    /// What it is to be told.
    news: BTreeMap<Cid, Want>,
    /// What it was asked for and may still send, and until when that is no offence.
    late: BTreeMap<Cid, Duration>,
    heard_at: Duration,
    delivered: u64,
}

/// A block that somebody here waits for.
#[derive(Debug, Default)]
struct Pursuit {
    waiters: Vec<Waiter>,
    likely: VecDeque<PeerId>,
    /// Who was asked for the block.
    tried: BTreeSet<PeerId>,
    /// Who was asked for the block or whether it is there.
    asked: BTreeSet<PeerId>,
    current: Option<Attempt>,
    /// Who was asked whether it is there and has not answered.
    surveyed: BTreeSet<PeerId>,
    survey_ends: Duration,
    liar: Option<PeerId>,
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    id: u64,
    max_bytes: usize,
    deadline: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    peer: PeerId,
    /// Absent while the peer is asked for other blocks first.
    asked_at: Option<Duration>,
}

/// A request for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Names the request in its outcome; used once.
    pub id: u64,
    pub cid: Cid,
    /// A longer block is refused.
    pub max_bytes: usize,
    pub deadline: Duration,
    /// Whom to ask first, in this order.
    pub likely: Vec<PeerId>,
}

impl Source {
    fn expect_late(&mut self, cid: Cid, now: Duration) {
        if self.late.len() >= MAX_LATE_BLOCKS {
            self.late.retain(|_, until| *until > now);
        }
        if self.late.len() < MAX_LATE_BLOCKS {
            self.late.insert(cid, now + MAX_LATENESS);
        }
    }
}

impl Fetching {
    pub(super) fn connected(&mut self, peer: PeerId) {
        self.sources.entry(peer).or_default();
    }

    pub(super) fn disconnected(&mut self, peer: PeerId, now: Duration) {
        self.sources.remove(&peer);
        self.changed.remove(&peer);
        self.abandon(peer, now);
    }

    /// What the peer was to be told did not reach it.
    pub(super) fn unreachable(&mut self, peer: PeerId, is_mute: bool, now: Duration) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.is_mute |= is_mute;
            source.news.clear();
        }
        self.abandon(peer, now);
    }

    pub(super) fn fetch(&mut self, fetch: Fetch, now: Duration) {
        let Fetch { id, cid, max_bytes, deadline, likely } = fetch;
        let refusal = if !is_checkable(&cid) {
            Some(FetchError::UnsupportedCid(cid))
        } else if self.fetches.len() >= MAX_FETCHES {
            Some(FetchError::Busy)
        } else if deadline <= now {
            Some(FetchError::Deadline(cid))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.outcomes.push_back((id, Err(refusal)));
        }
        self.fetches.insert(id, cid);
        let pursuit = self.pursuits.entry(cid).or_default();
        pursuit.waiters.push(Waiter { id, max_bytes, deadline });
        for peer in likely.into_iter().take(MAX_ASKED_PEERS) {
            if pursuit.likely.len() < MAX_ASKED_PEERS {
                pursuit.likely.push_back(peer);
            }
        }
        self.advance(cid, now);
    }

    /// Whoever asked has gone.
    pub(super) fn cancel(&mut self, id: u64, now: Duration) {
        let Some(cid) = self.fetches.remove(&id) else { return };
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        pursuit.waiters.retain(|waiter| waiter.id != id);
        if pursuit.waiters.is_empty() {
            self.finish(&cid, None, now);
        }
    }

    /// Whether the block was asked for.
    pub(super) fn block(&mut self, peer: PeerId, block: Block, now: Duration) -> bool {
        let Block { cid, data } = block;
        let Some(source) = self.sources.get_mut(&peer) else { return true };
        let Some(pursuit) = self.pursuits.get(&cid) else {
            return source.late.remove(&cid).is_some_and(|until| now <= until);
        };
        source.heard_at = now;
        source.delivered += 1;
        for waiter in pursuit.waiters.clone() {
            let (length, max) = (data.len(), waiter.max_bytes);
            let outcome = if length > max {
                Err(FetchError::TooLarge { cid, peer, length, max })
            } else {
                Ok(data.clone())
            };
            self.settle(waiter.id, outcome);
        }
        self.finish(&cid, Some(peer), now);
        true
    }

    /// The peer has sent something else than it was asked for.
    pub(super) fn lied(&mut self, peer: PeerId, now: Duration) {
        for cid in self.attempts(|attempt| attempt.peer == peer && attempt.asked_at.is_some()) {
            if let Some(pursuit) = self.pursuits.get_mut(&cid) {
                pursuit.liar = Some(peer);
            }
            self.leave(&cid, now);
            self.advance(cid, now);
        }
    }

    pub(super) fn presence(&mut self, peer: PeerId, presence: Presence, now: Duration) {
        let Presence { cid, has } = presence;
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        if pursuit.surveyed.remove(&peer) {
            if has {
                pursuit.likely.push_back(peer);
            }
            self.advance(cid, now);
        } else if !has && pursuit.current.is_some_and(|c| c.peer == peer && c.asked_at.is_some()) {
            self.leave(&cid, now);
            self.advance(cid, now);
        }
    }

    /// The peer is sending something long.
    pub(super) fn progress(&mut self, peer: PeerId, now: Duration) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.heard_at = now;
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        for (cid, late) in self.late_waiters(now) {
            let liar = self.pursuits.get(&cid).and_then(|p| p.liar);
            let error = match liar {
                Some(peer) => FetchError::WrongBlock { cid, peer },
                None => FetchError::Deadline(cid),
            };
            self.settle(late, Err(error));
            self.cancel_waiter(&cid, late, now);
        }
        let stalled: BTreeSet<PeerId> = self.stalled(now).map(|(_, peer)| peer).collect();
        let due: Vec<Cid> = self.stalled(now).map(|(cid, _)| cid).collect();
        // Behind what does not come nothing else comes either.
        let queued = self.attempts(|a| a.asked_at.is_none() && stalled.contains(&a.peer));
        for cid in queued.into_iter().chain(due) {
            self.leave(&cid, now);
            self.advance(cid, now);
        }
        let over = |p: &Pursuit| p.current.is_none() && p.survey_ends <= now;
        let surveys: Vec<Cid> = self.pursuits.iter().filter(|(_, p)| over(p)).map(|(cid, _)| *cid).collect();
        surveys.into_iter().for_each(|cid| self.advance(cid, now));
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let of = |pursuit: &Pursuit| {
            let attempt = match pursuit.current {
                Some(attempt) => self.attempt_ends(&attempt),
                None => Some(pursuit.survey_ends),
            };
            pursuit.waiters.iter().map(|w| w.deadline).chain(attempt).min()
        };
        self.pursuits.values().filter_map(of).min()
    }

    /// At most half of what one message may hold.
    pub(super) fn take_wants(&mut self, peer: PeerId) -> Vec<Want> {
        self.changed.remove(&peer);
        let Some(source) = self.sources.get_mut(&peer) else { return Vec::new() };
        let mut wants = Vec::new();
        while wants.len() < MAX_ENTRIES / 2
            && let Some((_, want)) = source.news.pop_first()
        {
            wants.push(want);
        }
        if !source.news.is_empty() {
            self.changed.insert(peer);
        }
        wants
    }

    fn settle(&mut self, id: u64, outcome: Result<Vec<u8>, FetchError>) {
        self.fetches.remove(&id);
        self.outcomes.push_back((id, outcome));
    }

    fn cancel_waiter(&mut self, cid: &Cid, id: u64, now: Duration) {
        let Some(pursuit) = self.pursuits.get_mut(cid) else { return };
        pursuit.waiters.retain(|waiter| waiter.id != id);
        if pursuit.waiters.is_empty() {
            self.finish(cid, None, now);
        }
    }

    fn late_waiters(&self, now: Duration) -> Vec<(Cid, u64)> {
        let waiters = self.pursuits.iter().flat_map(|(cid, p)| p.waiters.iter().map(move |w| (*cid, w)));
        waiters.filter(|(_, w)| w.deadline <= now).map(|(cid, w)| (cid, w.id)).collect()
    }

    fn stalled(&self, now: Duration) -> impl Iterator<Item = (Cid, PeerId)> {
        self.pursuits.iter().filter_map(move |(cid, pursuit)| {
            let attempt = pursuit.current?;
            self.attempt_ends(&attempt).filter(|end| *end <= now).map(|_| (*cid, attempt.peer))
        })
    }

    fn attempt_ends(&self, attempt: &Attempt) -> Option<Duration> {
        let asked_at = attempt.asked_at?;
        let heard_at = self.sources.get(&attempt.peer).map_or(asked_at, |source| source.heard_at);
        Some((asked_at.max(heard_at) + ATTEMPT_TIMEOUT).min(asked_at + MAX_ATTEMPT))
    }

    fn attempts(&self, which: impl Fn(&Attempt) -> bool) -> Vec<Cid> {
        let chosen = |p: &Pursuit| p.current.is_some_and(|attempt| which(&attempt));
        self.pursuits.iter().filter(|(_, p)| chosen(p)).map(|(cid, _)| *cid).collect()
    }

    /// Nothing is to be expected from the peer.
    fn abandon(&mut self, peer: PeerId, now: Duration) {
        let cids: Vec<Cid> = self.pursuits.keys().copied().collect();
        for cid in cids {
            let Some(pursuit) = self.pursuits.get_mut(&cid) else { continue };
            let was_surveyed = pursuit.surveyed.remove(&peer);
            if pursuit.current.is_some_and(|attempt| attempt.peer == peer) {
                self.leave(&cid, now);
                self.advance(cid, now);
            } else if was_surveyed {
                self.advance(cid, now);
            }
        }
    }

    /// Asks the next peer, if none is being asked; gives up if none is left.
    fn advance(&mut self, cid: Cid, now: Duration) {
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        if pursuit.current.is_some() {
            return;
        }
        while let Some(peer) = pursuit.likely.pop_front() {
            let can_be_asked = self.sources.get(&peer).is_some_and(|source| !source.is_mute);
            if can_be_asked && pursuit.tried.insert(peer) {
                pursuit.asked.insert(peer);
                pursuit.current = Some(Attempt { peer, asked_at: None });
                if let Some(source) = self.sources.get_mut(&peer) {
                    source.queue.push_back(cid);
                }
                return self.ask_queued(peer, now);
            }
        }
        if pursuit.surveyed.is_empty() || pursuit.survey_ends <= now {
            self.survey(cid, now);
        }
    }

    /// Asks more peers whether they have the block, those first that have delivered most.
    fn survey(&mut self, cid: Cid, now: Duration) {
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        let fresh = |(peer, source): &(&PeerId, &Source)| !source.is_mute && !pursuit.asked.contains(peer);
        let mut others: Vec<_> = self.sources.iter().filter(fresh).map(|(p, s)| (s.delivered, *p)).collect();
        others.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        others.truncate(MAX_SURVEYED.min(MAX_ASKED_PEERS.saturating_sub(pursuit.asked.len())));
        if others.is_empty() {
            return self.give_up(&cid, now);
        }
        pursuit.surveyed = others.iter().map(|(_, peer)| *peer).collect();
        pursuit.asked.extend(&pursuit.surveyed);
        pursuit.survey_ends = now + ATTEMPT_TIMEOUT;
        for (_, peer) in others {
            self.tell(peer, Want::new(cid, WantKind::Have, false));
        }
    }

    fn give_up(&mut self, cid: &Cid, now: Duration) {
        let Some(pursuit) = self.pursuits.get(cid) else { return };
        let (cid, asked, liar) = (*cid, pursuit.asked.len(), pursuit.liar);
        for waiter in pursuit.waiters.clone() {
            let error = match liar {
                Some(peer) => FetchError::WrongBlock { cid, peer },
                None if asked == 0 => FetchError::NoPeers(cid),
                None => FetchError::Missing { cid, asked },
            };
            self.settle(waiter.id, Err(error));
        }
        self.finish(&cid, None, now);
    }

    /// Ends a pursuit whose waiters have their outcome, and tells all who were asked.
    fn finish(&mut self, cid: &Cid, deliverer: Option<PeerId>, now: Duration) {
        let Some(pursuit) = self.pursuits.remove(cid) else { return };
        for peer in pursuit.asked.iter().filter(|peer| Some(**peer) != deliverer) {
            self.tell(*peer, Want::new(*cid, WantKind::Block, true));
            // Nodes answer the question whether they have a small block by the block.
            if let Some(source) = self.sources.get_mut(peer) {
                source.expect_late(*cid, now);
            }
        }
        if let Some(attempt) = pursuit.current {
            self.release(attempt.peer, cid, now);
        }
    }

    /// Ends the attempt under way.
    fn leave(&mut self, cid: &Cid, now: Duration) {
        let Some(attempt) = self.pursuits.get_mut(cid).and_then(|p| p.current.take()) else { return };
        self.release(attempt.peer, cid, now);
    }

    fn release(&mut self, peer: PeerId, cid: &Cid, now: Duration) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.asked_bytes -= source.asked.remove(cid).unwrap_or(0);
            source.queue.retain(|queued| queued != cid);
            self.ask_queued(peer, now);
        }
    }

    fn ask_queued(&mut self, peer: PeerId, now: Duration) {
        let Some(source) = self.sources.get_mut(&peer) else { return };
        while let Some(cid) = source.queue.front().copied() {
            let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
            let bytes = pursuit.waiters.iter().map(|w| w.max_bytes).max().unwrap_or(0).min(MAX_BLOCK);
            let fits = source.asked_bytes + bytes <= MAX_ASKED_BYTES && source.asked.len() < MAX_ASKED_BLOCKS;
            if !fits && !source.asked.is_empty() {
                return;
            }
            source.queue.pop_front();
            source.asked.insert(cid, bytes);
            source.asked_bytes += bytes;
            source.news.insert(cid, Want::new(cid, WantKind::Block, false));
            pursuit.current = Some(Attempt { peer, asked_at: Some(now) });
            self.changed.insert(peer);
        }
    }

    fn tell(&mut self, peer: PeerId, want: Want) {
        let Some(source) = self.sources.get_mut(&peer) else { return };
        // A cancellation that does not fit costs the peer a block that is no longer wanted.
        if !source.is_mute && (source.news.len() < MAX_ENTRIES || !want.cancel) {
            source.news.insert(want.cid, want);
            self.changed.insert(peer);
        }
    }
}
