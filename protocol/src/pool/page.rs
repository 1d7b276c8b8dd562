//! The pool page by page, for everyone's view: what its operator states of live miners and open jobs.

use super::Pool;
use crate::Timestamp;
use crate::codec::JobId;
use crate::query::ViewPlace;
use crate::statement::{Body, Listing, MAX_LISTING_ENTRIES, Signed, Statement};
use std::ops::Bound;
use swarm_crypto::address::Address;

/// Heartbeats of one page.
const MAX_HEARTBEATS: usize = 32;
/// Leases of one page, each with its job.
const MAX_LEASES: usize = 16;

/// Statements of miners and clients as they came, statements of the operator that are to be signed, and where the next
/// page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewPage {
    /// Statements of others.
    pub signed: Vec<Signed>,
    /// The operator's.
    pub unsigned: Vec<Statement>,
    /// Where to read on; none after the last page.
    pub next: Option<ViewPlace>,
}

impl Pool {
    /// The page of the view that begins at `place`: the last heartbeat of each live miner, then live leases and their
    /// jobs, then pending jobs.
    pub fn view_page(&self, place: &ViewPlace, now: Timestamp) -> ViewPage {
        match place {
            ViewPlace::Miners { after } => self.miners_page(*after),
            ViewPlace::Leased { after } => self.leased_page(*after, now),
            ViewPlace::Pending { after } => self.pending_page(*after, now),
        }
    }

    fn miners_page(&self, after: Option<Address>) -> ViewPage {
        let rest = self.live.miners.range((start(after), Bound::Unbounded)).take(MAX_HEARTBEATS);
        let found: Vec<_> = rest.map(|(wallet, miner)| (*wallet, miner.signed.clone())).collect();
        let next = match found.last().filter(|_| found.len() == MAX_HEARTBEATS) {
            Some((last, _)) => ViewPlace::Miners { after: Some(*last) },
            None => ViewPlace::Leased { after: None },
        };
        let signed = found.into_iter().map(|(_, signed)| signed).collect();
        ViewPage { signed, unsigned: Vec::new(), next: Some(next) }
    }

    fn leased_page(&self, after: Option<JobId>, now: Timestamp) -> ViewPage {
        let ids = self.live.runs.range((start(after), Bound::Unbounded)).take(MAX_LEASES);
        let ids: Vec<JobId> = ids.map(|(id, _)| *id).collect();
        let next = match ids.last().filter(|_| ids.len() == MAX_LEASES) {
            Some(last) => ViewPlace::Leased { after: Some(*last) },
            None => ViewPlace::Pending { after: None },
        };
        let leases = ids.iter().filter_map(|id| self.lease_statement(id, Vec::new()));
        let unsigned = leases.map(|lease| self.statement(now, lease)).collect();
        let signed = ids.iter().filter_map(|id| self.snapshot(id)).collect();
        ViewPage { signed, unsigned, next: Some(next) }
    }

    fn pending_page(&self, after: Option<(u32, u64)>, now: Timestamp) -> ViewPage {
        let rest = self.live.queue.range((start(after), Bound::Unbounded)).take(MAX_LISTING_ENTRIES);
        let found: Vec<_> = rest.map(|(place, id)| (*place, *id)).collect();
        let last = found.last().filter(|_| found.len() == MAX_LISTING_ENTRIES);
        let next = last.map(|(place, _)| ViewPlace::Pending { after: Some(*place) });
        let entries: Vec<_> = found.iter().filter_map(|(_, id)| self.listing_entry(id)).collect();
        let listing = (!entries.is_empty()).then(|| self.statement(now, Body::Listing(Listing { entries })));
        ViewPage { signed: Vec::new(), unsigned: listing.into_iter().collect(), next }
    }
}

fn start<T>(after: Option<T>) -> Bound<T> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}
