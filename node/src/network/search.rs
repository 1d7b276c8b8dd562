//! Finding the pool's other nodes: Kademlia under a protocol name of the pool's own.
//!
//! Nodes that others can reach, be it through a relay, are in the table; the rest only ask. Nothing is stored in it.

use std::time::Duration;

use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::{Multiaddr, PeerId, StreamProtocol, kad};
use tokio::time::Instant;

use super::Error;

pub(super) type Table = kad::Behaviour<MemoryStore>;

/// Peers kept that only a search has turned up.
pub(super) const MAX_BY_CHANCE: usize = 16;

/// How long such a peer stays at least, as a search may still need it.
pub(super) const SETTLED: Duration = Duration::from_secs(60);

const QUERY_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_PACKET: usize = 16 * 1024;
/// Between searches while the node knows too few, and while it knows enough.
const SHORT_PAUSE: Duration = Duration::from_secs(15);
const LONG_PAUSE: Duration = Duration::from_secs(300);
/// A node with so many neighbours has a full mesh.
const ENOUGH: usize = 8;

pub(super) fn protocol(pool: &str) -> Result<StreamProtocol, Error> {
    StreamProtocol::try_from_owned(format!("/swarmpool/{pool}/kad/1"))
        .map_err(|e| Error::Config(e.to_string()))
}

pub(super) fn table(local: PeerId, pool: &str) -> Result<Table, Error> {
    let mut config = kad::Config::new(protocol(pool)?);
    config
        .set_query_timeout(QUERY_TIMEOUT)
        .set_max_packet_size(MAX_PACKET)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_caching(kad::Caching::Disabled)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(None);
    let nothing = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: 0,
        max_provided_keys: 0,
    };
    Ok(Table::with_config(local, MemoryStore::with_config(local, nothing), config))
}

/// Puts a peer into the table under these addresses only, or out of it if there are none.
pub(super) fn place(table: &mut Table, peer: &PeerId, addresses: &[Multiaddr]) {
    table.remove_peer(peer);
    for address in addresses {
        table.add_address(peer, address.clone());
    }
}

/// When to search.
#[derive(Debug)]
pub(super) struct Search {
    last: Option<Instant>,
    /// There are peers to ask that were not there at the last search.
    is_fresh: bool,
}

impl Search {
    pub(super) fn new() -> Self {
        Self { last: None, is_fresh: false }
    }

    /// A peer that can be asked has appeared.
    pub(super) fn found(&mut self) {
        self.is_fresh = true;
    }

    /// Whether to search now, given how many peers are connected.
    pub(super) fn is_due(&mut self, peers: usize, now: Instant) -> bool {
        let age = self.last.map(|last| now - last);
        let pause = if peers < ENOUGH { SHORT_PAUSE } else { LONG_PAUSE };
        let is_due = match age {
            None => self.is_fresh,
            Some(age) => age >= pause || (self.is_fresh && peers < ENOUGH && age >= SHORT_PAUSE / 5),
        };
        if is_due {
            self.last = Some(now);
            self.is_fresh = false;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_searches_often_while_it_knows_few() {
        let mut now = Instant::now();
        let mut search = Search::new();
        assert!(!search.is_due(1, now), "nobody can be asked");
        search.found();
        assert!(search.is_due(1, now));
        assert!(!search.is_due(1, now));
        now += SHORT_PAUSE / 5;
        assert!(!search.is_due(1, now));
        search.found();
        assert!(search.is_due(2, now), "somebody new can be asked");
        now += SHORT_PAUSE;
        assert!(!search.is_due(ENOUGH, now));
        assert!(search.is_due(ENOUGH - 1, now));
        now += LONG_PAUSE;
        assert!(search.is_due(ENOUGH, now));
    }
}
