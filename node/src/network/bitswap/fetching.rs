//! This node's wants: whom to ask for a block, and whom next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;

use super::message::{Block, Presence, Want, WantKind, is_checkable};
use super::pursuit::{Answer, Attempt, Pursuit, Waiter};
use super::{
    ATTEMPT_TIMEOUT, FetchError, MAX_ASKED_BLOCKS, MAX_ASKED_BYTES, MAX_ENTRIES, MAX_FETCHES,
    MAX_LATE_BLOCKS, MAX_LATENESS, MAX_SURVEYED,
};

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

/// A request for a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Names the request in its outcome; used once.
    pub id: u64,
    pub cid: Cid,
    /// A longer block is refused.
    pub max_bytes: usize,
    /// Until when to go on asking although nobody has it.
    pub patience: Duration,
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
    /// Whoever comes may have what others have not.
    pub(super) fn connected(&mut self, peer: PeerId, now: Duration) {
        self.sources.entry(peer).or_default();
        self.advance_all(now);
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
        let Fetch { id, cid, max_bytes, patience, deadline, likely } = fetch;
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
        let pursuit = self.pursuits.entry(cid).or_insert_with(|| Pursuit::new(cid, now));
        pursuit.join(Waiter { id, max_bytes, patience, deadline }, likely);
        self.advance(cid, now);
    }

    /// Whoever asked has gone.
    pub(super) fn cancel(&mut self, id: u64, now: Duration) {
        let Some(cid) = self.fetches.remove(&id) else { return };
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        pursuit.waiters.retain(|waiter| waiter.id != id);
        self.settle(cid, Vec::new(), now);
    }

    /// Whether the block was asked for.
    pub(super) fn block(&mut self, peer: PeerId, block: Block, now: Duration) -> bool {
        let Block { cid, data } = block;
        let Some(source) = self.sources.get_mut(&peer) else { return true };
        let Some(pursuit) = self.pursuits.get_mut(&cid) else {
            return source.late.remove(&cid).is_some_and(|until| now <= until);
        };
        source.heard_at = now;
        source.delivered += 1;
        for waiter in std::mem::take(&mut pursuit.waiters) {
            let (length, max) = (data.len(), waiter.max_bytes);
            let outcome = if length > max {
                Err(FetchError::TooLarge { cid, peer, length, max })
            } else {
                Ok(data.clone())
            };
            self.fetches.remove(&waiter.id);
            self.outcomes.push_back((waiter.id, outcome));
        }
        self.finish(cid, Some(peer), now);
        true
    }

    /// The peer has sent something else than it was asked for.
    pub(super) fn lied(&mut self, peer: PeerId, now: Duration) {
        for cid in self.attempts(|attempt| attempt.peer == peer && attempt.asked.is_some()) {
            self.leave(cid, Some(Answer::Lied), now);
        }
    }

    pub(super) fn presence(&mut self, peer: PeerId, presence: Presence, now: Duration) {
        let Presence { cid, has } = presence;
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        match pursuit.attempt() {
            Some(attempt) if attempt.peer == peer && attempt.asked.is_some() && !has => {
                self.leave(cid, Some(Answer::Lacks), now);
            }
            // It says that the block comes.
            Some(attempt) if attempt.peer == peer => {}
            Some(_) | None => {
                pursuit.answered(peer, has);
                self.advance(cid, now);
            }
        }
    }

    /// The peer is sending something long.
    pub(super) fn progress(&mut self, peer: PeerId, now: Duration) {
        if let Some(source) = self.sources.get_mut(&peer) {
            source.heard_at = now;
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        for cid in self.pursuits.keys().copied().collect::<Vec<_>>() {
            let Some(pursuit) = self.pursuits.get_mut(&cid) else { continue };
            let ended = pursuit.take_ended(now);
            self.settle(cid, ended, now);
        }
        let stalled: BTreeSet<PeerId> = self.stalled(now).map(|(_, peer)| peer).collect();
        let due: Vec<Cid> = self.stalled(now).map(|(cid, _)| cid).collect();
        // Behind what does not come nothing else comes either.
        let queued = self.attempts(|a| a.asked.is_none() && stalled.contains(&a.peer));
        for cid in queued.into_iter().chain(due) {
            self.leave(cid, Some(Answer::Silent), now);
        }
        self.pursuits.values_mut().for_each(|pursuit| pursuit.wake(now));
        self.advance_all(now);
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let of = |pursuit: &Pursuit| {
            let attempt = pursuit.attempt().and_then(|attempt| self.attempt_ends(&attempt));
            pursuit.next_timeout().into_iter().chain(attempt).min()
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

    /// Tells those who wait no longer; nobody is asked for what nobody waits for.
    fn settle(&mut self, cid: Cid, ended: Vec<(u64, FetchError)>, now: Duration) {
        for (id, error) in ended {
            self.fetches.remove(&id);
            self.outcomes.push_back((id, Err(error)));
        }
        if self.pursuits.get(&cid).is_some_and(|pursuit| pursuit.waiters.is_empty()) {
            self.finish(cid, None, now);
        }
    }

    fn stalled(&self, now: Duration) -> impl Iterator<Item = (Cid, PeerId)> {
        self.pursuits.iter().filter_map(move |(cid, pursuit)| {
            let attempt = pursuit.attempt()?;
            self.attempt_ends(&attempt).filter(|end| *end <= now).map(|_| (*cid, attempt.peer))
        })
    }

    fn attempt_ends(&self, attempt: &Attempt) -> Option<Duration> {
        let asked = attempt.asked?;
        let heard_at = self.sources.get(&attempt.peer).map_or(asked.at, |source| source.heard_at);
        Some((asked.at.max(heard_at) + ATTEMPT_TIMEOUT).min(asked.until))
    }

    fn attempts(&self, which: impl Fn(&Attempt) -> bool) -> Vec<Cid> {
        let chosen = |p: &Pursuit| p.attempt().is_some_and(|attempt| which(&attempt));
        self.pursuits.iter().filter(|(_, p)| chosen(p)).map(|(cid, _)| *cid).collect()
    }

    /// Nothing is to be expected from the peer.
    fn abandon(&mut self, peer: PeerId, now: Duration) {
        for cid in self.attempts(|attempt| attempt.peer == peer) {
            self.leave(cid, None, now);
        }
        self.pursuits.values_mut().for_each(|pursuit| pursuit.forget(&peer));
        self.advance_all(now);
    }

    fn advance_all(&mut self, now: Duration) {
        self.pursuits.keys().copied().collect::<Vec<_>>().into_iter().for_each(|cid| self.advance(cid, now));
    }

    /// Asks the next peer, if none is being asked; rests when all have been asked.
    fn advance(&mut self, cid: Cid, now: Duration) {
        let Some(pursuit) = self.pursuits.get_mut(&cid).filter(|pursuit| pursuit.attempt().is_none()) else {
            return;
        };
        let sources = &mut self.sources;
        let speaks = |peer: &PeerId| sources.get(peer).is_some_and(|source| !source.is_mute);
        if let Some(peer) = pursuit.take_candidate(speaks) {
            pursuit.queue(peer);
            if let Some(source) = sources.get_mut(&peer) {
                source.queue.push_back(cid);
            }
            return self.ask_queued(peer, now);
        }
        if pursuit.is_surveying(now) {
            return;
        }
        let others = self.strangers(&cid);
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        if others.is_empty() {
            pursuit.rest(now);
            let ended = pursuit.take_ended(now);
            return self.settle(cid, ended, now);
        }
        pursuit.survey(&others, now);
        for peer in others {
            self.tell(peer, Want::new(cid, WantKind::Have, false));
        }
    }

    /// Whom to ask whether they have the block: who was not asked yet, and of those who has delivered most.
    fn strangers(&self, cid: &Cid) -> Vec<PeerId> {
        let Some(pursuit) = self.pursuits.get(cid) else { return Vec::new() };
        let speaking = self.sources.iter().filter(|(_, source)| !source.is_mute);
        let of = |(peer, source): (&PeerId, &Source)| {
            pursuit.is_stranger(peer).map(|is_new| (Reverse(is_new), Reverse(source.delivered), *peer))
        };
        let mut others: Vec<_> = speaking.filter_map(of).collect();
        others.sort_unstable();
        others.truncate(MAX_SURVEYED.min(pursuit.room()));
        others.into_iter().map(|(_, _, peer)| peer).collect()
    }

    /// Ends a pursuit whose waiters have their outcome, and tells all who were asked.
    fn finish(&mut self, cid: Cid, deliverer: Option<PeerId>, now: Duration) {
        let Some(pursuit) = self.pursuits.remove(&cid) else { return };
        for peer in pursuit.asked().filter(|peer| Some(*peer) != deliverer) {
            self.tell(peer, Want::new(cid, WantKind::Block, true));
            // Nodes answer the question whether they have a small block by the block.
            if let Some(source) = self.sources.get_mut(&peer) {
                source.expect_late(cid, now);
            }
        }
        if let Some(attempt) = pursuit.attempt() {
            self.release(attempt.peer, &cid, now);
        }
    }

    /// Ends the attempt under way and goes on to the next peer.
    fn leave(&mut self, cid: Cid, answer: Option<Answer>, now: Duration) {
        let Some(pursuit) = self.pursuits.get_mut(&cid) else { return };
        let Some(peer) = pursuit.leave() else { return };
        match answer {
            Some(answer) => pursuit.note(peer, answer),
            None => pursuit.forget(&peer),
        }
        self.release(peer, &cid, now);
        self.advance(cid, now);
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
            let bytes = pursuit.max_bytes();
            let fits = source.asked_bytes + bytes <= MAX_ASKED_BYTES && source.asked.len() < MAX_ASKED_BLOCKS;
            if !fits && !source.asked.is_empty() {
                return;
            }
            source.queue.pop_front();
            source.asked.insert(cid, bytes);
            source.asked_bytes += bytes;
            source.news.insert(cid, Want::new(cid, WantKind::Block, false));
            pursuit.ask(peer, now);
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
