//! What became of the last jobs that a miner heard of, and why those that were not its own were not.

use super::Pace;
use crate::words::who;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use swarm_protocol::Timestamp;
use swarm_protocol::codec::JobId;
use swarm_protocol::miner::{Pause, Story};
use swarm_protocol::money::MicroUsdc;

/// Jobs that are remembered.
const MAX_JOBS: usize = 100;

/// One job. `docs/status.md` describes its JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub job: String,
    /// When it was last heard of.
    pub at_ms: u64,
    /// If it was one that suits.
    pub model: Option<String>,
    pub price_usdc: Option<String>,
    pub outcome: String,
    pub why: String,
    /// Of text that was made here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
}

/// The last jobs, shared by those who write and those who show them.
#[derive(Debug, Clone, Default)]
pub struct Diary(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    entries: VecDeque<Entry>,
    paused: Option<Pause>,
}

impl Diary {
    /// Takes in what the miner tells.
    pub fn note(&self, story: &Story, now: Timestamp) {
        let mut written = self.written();
        match story {
            Story::Paused { why, .. } => written.paused = Some(*why),
            Story::Resumed => written.paused = None,
            _ => {}
        }
        let Some((job, outcome, why)) = outcome(story) else { return };
        let entries = &mut written.entries;
        let name = job.to_string();
        let place = entries.iter().rposition(|entry| entry.job == name).unwrap_or_else(|| {
            if entries.len() == MAX_JOBS {
                entries.pop_front();
            }
            entries.push_back(Entry {
                job: name,
                at_ms: 0,
                model: None,
                price_usdc: None,
                outcome: String::new(),
                why: String::new(),
                pace: None,
            });
            entries.len() - 1
        });
        let entry = &mut entries[place];
        (entry.at_ms, entry.outcome, entry.why) = (now.0, outcome.to_owned(), why);
        if let Story::NewJob { model, price, .. } = story {
            (entry.model, entry.price_usdc) = (Some(model.clone()), Some(price.to_string()));
        }
    }

    /// How fast a job went.
    pub fn measured(&self, job: &JobId, pace: Option<Pace>) {
        let name = job.to_string();
        if let Some(entry) = self.written().entries.iter_mut().rfind(|entry| entry.job == name) {
            entry.pace = pace;
        }
    }

    /// All of them, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.written().entries.iter().cloned().collect()
    }

    /// Why the miner takes no jobs for now, if it does not.
    pub fn paused(&self) -> Option<Pause> {
        self.written().paused
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job, what became of it so far, and why.
fn outcome(story: &Story) -> Option<(JobId, &'static str, String)> {
    Some(match story {
        Story::NewJob { job, .. } => {
            (*job, "heard of", "its turn in the race comes after better ranks".to_owned())
        }
        Story::Declined { job, reason } => (*job, "declined", reason.to_string()),
        Story::Claiming { job, class, .. } => {
            (*job, "claimed", format!("in class {class}; the operator decides"))
        }
        Story::Won { job, .. } => (*job, "won", "its claim was the best".to_owned()),
        Story::Lost { job, to } => (
            *job,
            "lost",
            format!("{} had the better rank, or claimed while this miner waited", who(to, None)),
        ),
        Story::Executing { job, .. } => (*job, "running", "its engine runs".to_owned()),
        Story::ProofSubmitted { job, .. } => (*job, "proven", "the operator checks the proof".to_owned()),
        Story::Earned { job, amount, epoch, .. } => {
            (*job, "earned", format!("{amount} USDC in epoch {epoch}"))
        }
        Story::Shared { job, units, terms, epoch, .. } => {
            let rate = terms
                .rate
                .map_or("their share".to_owned(), |rate| format!("{} USDC a million", MicroUsdc(rate)));
            (*job, "earned", format!("{units} work units at {rate} in epoch {epoch}"))
        }
        Story::Underpaid { job, due, paid } => {
            (*job, "underpaid", format!("{paid} USDC, {due} were due; the receipt is evidence"))
        }
        Story::Refused { job, reason, detail } => (*job, "refused", format!("{reason:?}: {detail}")),
        Story::LeaseLost { job, cause } => (*job, "lease lost", format!("{cause:?}")),
        Story::Released { job, why, .. } => (*job, "given back", why.clone()),
        Story::Audited { .. }
        | Story::NotAudited { .. }
        | Story::Misled { .. }
        | Story::Altered { .. }
        | Story::AlteredAudited { .. }
        | Story::Challenge { .. }
        | Story::Draining { .. }
        | Story::Paused { .. }
        | Story::Resumed => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_crypto::address::Address;
    use swarm_protocol::codec::Link;
    use swarm_protocol::miner::Decline;

    #[test]
    fn the_last_jobs_are_kept_with_what_became_of_them() {
        let (diary, job) = (Diary::default(), |n: u8| Link([n; 32]));
        let heard = |n| Story::NewJob { job: job(n), attempt: 1, model: "m".into(), price: MicroUsdc(5) };
        diary.note(&heard(0), Timestamp(1));
        diary.note(&Story::Lost { job: job(0), to: Address([7; 20]) }, Timestamp(2));
        diary.note(&Story::Declined { job: job(1), reason: Decline::Model("big".into()) }, Timestamp(3));
        diary.note(&Story::Paused { why: Pause::Hours, running: 0 }, Timestamp(4));
        assert_eq!(diary.paused(), Some(Pause::Hours));
        diary.note(&Story::Resumed, Timestamp(4));
        assert_eq!(diary.paused(), None);
        let entries = diary.entries();
        let told: Vec<_> =
            entries.iter().map(|e| (e.at_ms, e.outcome.as_str(), e.model.as_deref())).collect();
        assert_eq!(told, [(2, "lost", Some("m")), (3, "declined", None)]);
        assert_eq!(entries[1].why, "model big is not served here");
        (2..=101).for_each(|n| diary.note(&heard(n), Timestamp(5)));
        assert_eq!((diary.entries().len(), diary.entries()[0].job.clone()), (MAX_JOBS, job(2).to_string()));
    }
}
