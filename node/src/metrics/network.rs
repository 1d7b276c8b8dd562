//! Peers, gossip, and what is refused.

use super::{BitswapMetrics, Counters, Gauges, Label, RealGauge, Source, Subsystem, counters, set};
use crate::network::{
    GOSSIP_THRESHOLD, GRAYLIST_THRESHOLD, Network, PUBLISH_THRESHOLD, PeerInfo, Route, Topic, Verdict,
};
use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use swarm_protocol::Rejection;

const ROLES: [&str; 4] = ["operator", "miner", "client", "other"];
const ROUTES: [Route; 3] = [Route::Direct, Route::Punched, Route::Relayed];
const VERDICTS: [Verdict; 3] = [Verdict::Accept, Verdict::Ignore, Verdict::Reject];
const THRESHOLDS: [(&str, f64); 3] =
    [("gossip", GOSSIP_THRESHOLD), ("publish", PUBLISH_THRESHOLD), ("graylist", GRAYLIST_THRESHOLD)];

/// Why a connection was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Enough come from its address, or are shaking hands with it.
    Address,
    /// Enough come from the network around its address.
    Subnet,
    /// There are enough in all, or with this peer.
    Total,
    /// The process has taken enough memory.
    Memory,
    /// It was not completed: no handshake in time, another protocol, a wrong key.
    Handshake,
}

impl Refused {
    const ALL: [Refused; 5] =
        [Refused::Address, Refused::Subnet, Refused::Total, Refused::Memory, Refused::Handshake];

    fn name(self) -> &'static str {
        match self {
            Refused::Address => "address",
            Refused::Subnet => "subnet",
            Refused::Total => "total",
            Refused::Memory => "memory",
            Refused::Handshake => "handshake",
        }
    }
}

/// What the network layer, and those who judge what it brings, count.
#[derive(Debug, Clone)]
pub struct NetworkMetrics {
    /// Blocks on their way.
    pub bitswap: BitswapMetrics,
    peers: Gauges<2>,
    score_lowest: RealGauge,
    scored_below: Gauges<1>,
    messages: Counters<2>,
    statements_refused: Counters<1>,
    connections_refused: Counters<1>,
    events_dropped: Counter,
}

impl Default for NetworkMetrics {
    fn default() -> Self {
        let verdicts = |topic| VERDICTS.map(|verdict| message(topic, verdict));
        let metrics = Self {
            bitswap: BitswapMetrics::default(),
            peers: Gauges::default(),
            score_lowest: Default::default(),
            scored_below: Gauges::default(),
            messages: counters(Topic::ALL.into_iter().flat_map(verdicts)),
            statements_refused: counters(REASONS.map(|reason| [("reason", reason)])),
            connections_refused: counters(Refused::ALL.map(|why| [("reason", why.name())])),
            events_dropped: Counter::default(),
        };
        metrics.show_peers(&[]);
        metrics
    }
}

impl NetworkMetrics {
    /// A message was judged.
    pub fn judged(&self, topic: Topic, verdict: Verdict) {
        self.messages.get_or_create(&message(topic, verdict)).inc();
    }

    /// A statement was refused, however it came.
    pub fn refused(&self, rejection: &Rejection) {
        self.statements_refused.get_or_create(&[("reason", reason(rejection))]).inc();
    }

    /// A connection was refused.
    pub fn connection_refused(&self, why: Refused) {
        self.connections_refused.get_or_create(&[("reason", why.name())]).inc();
    }

    /// The node did not keep up.
    pub fn dropped(&self) {
        self.events_dropped.inc();
    }

    fn show_peers(&self, peers: &[PeerInfo]) {
        for route in ROUTES {
            for role in ROLES {
                let is = |peer: &&PeerInfo| peer.route == route && role_of(peer.agent.as_deref()) == role;
                set(&self.peers, [("role", role), ("route", route.name())], peers.iter().filter(is).count());
            }
        }
        for (threshold, score) in THRESHOLDS {
            let below = peers.iter().filter(|peer| peer.score < score).count();
            set(&self.scored_below, [("threshold", threshold)], below);
        }
        self.score_lowest.set(peers.iter().map(|peer| peer.score).reduce(f64::min).unwrap_or_default());
    }
}

impl Subsystem for NetworkMetrics {
    fn register(&self, registry: &mut Registry) {
        self.bitswap.register(registry);
        let network = registry.sub_registry_with_prefix("swarmpool_network");
        network.register("peers", "Connected peers, by what they say they are", self.peers.clone());
        let help = "The lowest score of a connected peer; 0 if there is none";
        network.register("peer_score_lowest", help, self.score_lowest.clone());
        let help = "Connected peers that get no gossip, are published nothing, are not listened to";
        network.register("peers_scored_below", help, self.scored_below.clone());
        network.register("messages", "Gossip messages, by what was told of them", self.messages.clone());
        let help = "Statements that were not taken, by gossip or handed over";
        network.register("statements_refused", help, self.statements_refused.clone());
        let help = "Connections of others that were not taken";
        network.register("connections_refused", help, self.connections_refused.clone());
        let help = "Messages and questions that the node was too busy for";
        network.register("events_dropped", help, self.events_dropped.clone());
    }
}

/// The peers that are connected.
#[derive(Debug)]
pub struct NetworkSource {
    pub network: Network,
}

#[async_trait]
impl Source for NetworkSource {
    async fn sample(&self) {
        // A network that is closing has no peers.
        let peers = self.network.peers().await.unwrap_or_default();
        self.network.metrics().show_peers(&peers);
    }
}

fn message(topic: Topic, verdict: Verdict) -> Label<2> {
    let verdict = match verdict {
        Verdict::Accept => "accept",
        Verdict::Ignore => "ignore",
        Verdict::Reject => "reject",
    };
    [("topic", topic.name()), ("verdict", verdict)]
}

/// What a peer says it is, as this project's programs say it; anybody can say anything.
fn role_of(agent: Option<&str>) -> &'static str {
    let agent = agent.unwrap_or_default();
    let is =
        |role: &&&str| agent.ends_with(&format!("({role})")) || agent.starts_with(&format!("swarm-{role}/"));
    ROLES.iter().find(is).copied().unwrap_or("other")
}

const REASONS: [&str; 17] = [
    "too_long",
    "malformed",
    "out_of_bounds",
    "bad_signature",
    "wrong_topic",
    "not_operator",
    "unbuilt",
    "unknown_kind",
    "unknown_version",
    "other_pool",
    "from_future",
    "too_old",
    "duplicate",
    "nonce_reused",
    "rate_limited",
    "too_many_strangers",
    "peer_rate_limited",
];

fn reason(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::TooLong(_) => "too_long",
        Rejection::Malformed(_) => "malformed",
        Rejection::OutOfBounds(_) => "out_of_bounds",
        Rejection::BadSignature(_) => "bad_signature",
        Rejection::WrongTopic(_) => "wrong_topic",
        Rejection::NotOperator(..) => "not_operator",
        Rejection::Unbuilt(_) => "unbuilt",
        Rejection::UnknownKind(_) => "unknown_kind",
        Rejection::UnknownVersion(_) => "unknown_version",
        Rejection::OtherPool => "other_pool",
        Rejection::FromFuture(_) => "from_future",
        Rejection::TooOld(_) => "too_old",
        Rejection::Duplicate => "duplicate",
        Rejection::NonceReused(..) => "nonce_reused",
        Rejection::RateLimited(_) => "rate_limited",
        Rejection::TooManyStrangers => "too_many_strangers",
        Rejection::PeerRateLimited => "peer_rate_limited",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_those_that_the_programs_name() {
        for (agent, role) in [
            ("swarm-node/0.1.0 (operator)", "operator"),
            ("swarm-node/0.1.0 (miner)", "miner"),
            ("swarm-client/0.1.0", "client"),
            ("helia/7.1.0", "other"),
            ("(operator) or so", "other"),
        ] {
            assert_eq!(role_of(Some(agent)), role, "{agent}");
        }
        assert_eq!(role_of(None), "other");
    }
}
