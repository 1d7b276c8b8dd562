//! A block that somebody here waits for: who was asked, and what they said.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cid::Cid;
use libp2p::PeerId;

use super::{ATTEMPT_TIMEOUT, FetchError, MAX_ASKED_PEERS, MAX_ATTEMPT, MAX_REST, MIN_REST};
use crate::network::MAX_BLOCK;

#[derive(Debug)]
pub(super) struct Pursuit {
    cid: Cid,
    pub(super) waiters: Vec<Waiter>,
    /// Who is asked for the block first, in this order.
    likely: Vec<PeerId>,
    /// Who has said that it is there and was not asked for it since.
    offers: VecDeque<PeerId>,
    answers: BTreeMap<PeerId, Answer>,
    current: Option<Attempt>,
    /// How long the answers of those who were asked whether it is there are waited for.
    survey_ends: Duration,
    /// Present while all have been asked: they are asked again then.
    rests_until: Option<Duration>,
    next_rest: Duration,
    liar: Option<PeerId>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) max_bytes: usize,
    pub(super) patience: Duration,
    pub(super) deadline: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) peer: PeerId,
    /// Absent while the peer is asked for other blocks first.
    pub(super) asked: Option<Asked>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: Duration,
    /// When the next peer is asked whatever this one delivers.
    pub(super) until: Duration,
}

/// What a peer made of being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Awaited,
    Has,
    Lacks,
    /// It was asked for the block and has not sent it in time; it still may.
    Silent,
    /// It has sent something else.
    Lied,
    /// It is to be asked again.
    Outdated,
}

impl Pursuit {
    pub(super) fn new(cid: Cid, now: Duration) -> Self {
        Self {
            cid,
            waiters: Vec::new(),
            likely: Vec::new(),
            offers: VecDeque::new(),
            answers: BTreeMap::new(),
            current: None,
            survey_ends: now,
            rests_until: None,
            next_rest: MIN_REST,
            liar: None,
        }
    }

    pub(super) fn join(&mut self, waiter: Waiter, likely: Vec<PeerId>) {
        self.waiters.push(waiter);
        for peer in likely {
            if self.likely.len() < MAX_ASKED_PEERS && !self.likely.contains(&peer) {
                self.likely.push(peer);
            }
        }
    }

    pub(super) fn attempt(&self) -> Option<Attempt> {
        self.current
    }

    /// Who was asked, in earlier rounds too, and has not left since.
    pub(super) fn asked(&self) -> impl Iterator<Item = PeerId> {
        self.answers.keys().copied()
    }

    /// As much as one of the waiters takes.
    pub(super) fn max_bytes(&self) -> usize {
        self.waiters.iter().map(|waiter| waiter.max_bytes).max().unwrap_or(0).min(MAX_BLOCK)
    }

    /// The next peer to ask for the block.
    pub(super) fn take_candidate(&mut self, can_be_asked: impl Fn(&PeerId) -> bool) -> Option<PeerId> {
        let is_open = |answer: Option<&Answer>| match answer {
            None | Some(Answer::Has | Answer::Outdated) => true,
            Some(Answer::Awaited | Answer::Lacks | Answer::Silent | Answer::Lied) => false,
        };
        let named = self.likely.iter().find(|p| can_be_asked(p) && is_open(self.answers.get(p))).copied();
        named.or_else(|| {
            std::iter::from_fn(|| self.offers.pop_front())
                .find(|p| can_be_asked(p) && self.answers.get(p) == Some(&Answer::Has))
        })
    }

    /// Whether the peer may be asked whether it has the block, and if so whether for the first time.
    pub(super) fn is_stranger(&self, peer: &PeerId) -> Option<bool> {
        match self.answers.get(peer) {
            None => Some(true),
            Some(Answer::Outdated) => Some(false),
            Some(Answer::Awaited | Answer::Has | Answer::Lacks | Answer::Silent | Answer::Lied) => None,
        }
    }

    /// How many peers may still be asked in this round.
    pub(super) fn room(&self) -> usize {
        let asked = self.answers.values().filter(|answer| **answer != Answer::Outdated).count();
        MAX_ASKED_PEERS.saturating_sub(asked)
    }

    pub(super) fn queue(&mut self, peer: PeerId) {
        self.answers.insert(peer, Answer::Awaited);
        self.current = Some(Attempt { peer, asked: None });
        self.rests_until = None;
    }

    /// The peer is being asked. It gets half of the time that is left, so that others may have their turn.
    pub(super) fn ask(&mut self, peer: PeerId, now: Duration) {
        let deadline = self.waiters.iter().map(|waiter| waiter.deadline).max().unwrap_or(now);
        let span = (deadline.saturating_sub(now) / 2).clamp(ATTEMPT_TIMEOUT, MAX_ATTEMPT);
        self.current = Some(Attempt { peer, asked: Some(Asked { at: now, until: now + span }) });
    }

    /// Ends the attempt under way, if there is one.
    pub(super) fn leave(&mut self) -> Option<PeerId> {
        self.current.take().map(|attempt| attempt.peer)
    }

    pub(super) fn survey(&mut self, peers: &[PeerId], now: Duration) {
        self.answers.extend(peers.iter().map(|peer| (*peer, Answer::Awaited)));
        self.survey_ends = now + ATTEMPT_TIMEOUT;
        self.rests_until = None;
    }

    /// Whether an answer is worth waiting for before others are asked.
    pub(super) fn is_surveying(&self, now: Duration) -> bool {
        self.survey_ends > now && self.answers.values().any(|answer| *answer == Answer::Awaited)
    }

    pub(super) fn rest(&mut self, now: Duration) {
        if self.rests_until.is_none() {
            self.rests_until = Some(now + self.next_rest);
            self.next_rest = (self.next_rest * 2).min(MAX_REST);
        }
    }

    /// After the rest what was said is forgotten, but not who lied; who may have the block is asked for it again.
    pub(super) fn wake(&mut self, now: Duration) {
        if self.rests_until.is_none_or(|until| until > now) {
            return;
        }
        self.rests_until = None;
        self.offers.clear();
        for (peer, answer) in &mut self.answers {
            *answer = match *answer {
                Answer::Lied => Answer::Lied,
                Answer::Has | Answer::Silent => {
                    self.offers.push_back(*peer);
                    Answer::Has
                }
                Answer::Awaited | Answer::Lacks | Answer::Outdated => Answer::Outdated,
            };
        }
    }

    /// A HAVE is worth hearing from whoever was asked, however late it comes.
    pub(super) fn answered(&mut self, peer: PeerId, has: bool) {
        let Some(answer) = self.answers.get_mut(&peer) else { return };
        let is_news = match *answer {
            Answer::Lied => false,
            Answer::Has | Answer::Silent => !has,
            Answer::Awaited | Answer::Lacks | Answer::Outdated => true,
        };
        if !is_news {
            return;
        }
        *answer = if has { Answer::Has } else { Answer::Lacks };
        if has {
            self.offers.push_back(peer);
        }
    }

    /// What became of an attempt.
    pub(super) fn note(&mut self, peer: PeerId, answer: Answer) {
        self.answers.insert(peer, answer);
        if answer == Answer::Lied {
            self.liar = Some(peer);
        }
    }

    /// Nothing is to be expected from the peer.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.answers.remove(peer);
    }

    /// Ends those whose time is over: at the deadline, or when nobody has the block and they want to wait no longer.
    pub(super) fn take_ended(&mut self, now: Duration) -> Vec<(u64, FetchError)> {
        let has_run_out = self.has_run_out();
        let is_over = |w: &Waiter| w.deadline <= now || (has_run_out && w.patience <= now);
        let ended: Vec<Waiter> = self.waiters.extract_if(.., |waiter| is_over(waiter)).collect();
        ended.into_iter().map(|waiter| (waiter.id, self.reason())).collect()
    }

    fn reason(&self) -> FetchError {
        let cid = self.cid;
        match (self.liar, self.answers.len()) {
            (Some(peer), _) => FetchError::WrongBlock { cid, peer },
            (None, _) if !self.has_run_out() => FetchError::Deadline(cid),
            (None, 0) => FetchError::NoPeers(cid),
            (None, asked) => FetchError::Missing { cid, asked },
        }
    }

    /// When something is due that depends on no peer.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let next = self.rests_until.unwrap_or(self.survey_ends);
        let phase = self.current.is_none().then_some(next);
        let has_run_out = self.has_run_out();
        let ends = |waiter: &Waiter| {
            if has_run_out { waiter.patience.min(waiter.deadline) } else { waiter.deadline }
        };
        self.waiters.iter().map(ends).chain(phase).min()
    }

    /// Whether all have been asked and nobody who may have the block has yet to answer.
    fn has_run_out(&self) -> bool {
        let may_come = self.answers.values().any(|answer| *answer == Answer::Silent);
        self.current.is_none() && self.rests_until.is_some() && !may_come
    }
}
