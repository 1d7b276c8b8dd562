//! The byte-level network layer: topics, peers, requests and blocks over libp2p.
//!
//! It knows nothing of jobs. One task owns the swarm; the rest of the program holds a cloneable
//! [`Network`] and receives [`NetworkEvent`]s on a bounded channel. Every [`NetworkEvent::Gossip`]
//! must be answered by [`Network::verdict`]; nothing is forwarded before it is.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};

use crate::metrics::NetworkMetrics;

pub mod addresses;
mod behaviour;
pub mod bitswap;
mod blocks;
mod codec;
mod crowd;
mod dialer;
mod events;
mod handle;
mod observed;
mod paths;
mod peers;
mod reach;
mod search;
mod task;
#[cfg(test)]
mod tests;

pub use bitswap::FetchError;
pub use blocks::{BlockSource, Until};
pub use handle::{Network, ReplyHandle};
use peers::Peer;
pub use reach::Scope;

/// Largest gossip message, in bytes of payload.
pub const MAX_MESSAGE: usize = 8 * 1024;
/// Largest body of a `/swarmpool/sync/1` request.
pub const MAX_REQUEST: usize = 16 * 1024;
/// Largest body of a `/swarmpool/sync/1` response.
pub const MAX_RESPONSE: usize = 1024 * 1024;
/// Largest block: 1 MiB of content and the frame that UnixFS puts around it.
pub const MAX_BLOCK: usize = 1024 * 1024 + 4096;
/// Messages that wait for a first peer on their topic.
pub const MAX_WAITING_MESSAGES: usize = 256;
/// How long a message waits for a first peer on its topic.
pub const MAX_WAITING_AGE: Duration = Duration::from_secs(60);
/// How long a request waits for its response.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new connection may take until it is encrypted and shared by streams.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Peers that [`Network::peers`] shows, those that have been connected longest.
pub const MAX_PEERS_SHOWN: usize = 4096;
/// How long [`Network::shutdown`] takes at most.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest pool name, the limit that DNS sets for names.
pub const MAX_POOL_NAME: usize = 253;

/// Below this score a peer is neither told of messages nor asked for those that it tells of.
pub const GOSSIP_THRESHOLD: f64 = -4000.0;
/// Below this score a peer gets nothing that is published here.
pub const PUBLISH_THRESHOLD: f64 = -8000.0;
/// Below this score a peer is not listened to.
pub const GRAYLIST_THRESHOLD: f64 = -16_000.0;

const MAX_COMMANDS: usize = 1024;
const MAX_EVENTS: usize = 4096;
/// Part of the event channel that gossip and requests leave to changes of state.
const RESERVED_EVENTS: usize = 1024;
const MAX_PENDING_REQUESTS: usize = 1024;
const MAX_SYNC_IN_SERVICE: usize = 256;
const MAX_AGENT: usize = 128;

/// One of the five topics of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Jobs,
    Claims,
    Proofs,
    Heartbeats,
    Epochs,
}

impl Topic {
    /// All topics, in the order of their declaration.
    pub const ALL: [Topic; 5] = [Topic::Jobs, Topic::Claims, Topic::Proofs, Topic::Heartbeats, Topic::Epochs];

    /// The last part of the topic's name.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Jobs => "jobs",
            Topic::Claims => "claims",
            Topic::Proofs => "proofs",
            Topic::Heartbeats => "heartbeats",
            Topic::Epochs => "epochs",
        }
    }

    /// The topic's name on the wire: `/{pool}/{name}`.
    pub fn wire_name(self, pool: &str) -> String {
        format!("/{pool}/{}", self.name())
    }
}

/// What gossipsub is told about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Valid: forward it.
    Accept,
    /// Not ours to forward, and nobody's fault.
    Ignore,
    /// Invalid from its bytes alone: costs the peer that sent it its score.
    Reject,
}

/// The content hash that names a gossip message: blake3 of its topic and its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GossipId(pub [u8; 32]);

impl fmt::Debug for GossipId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GossipId({})", hex::encode(&self.0[..8]))
    }
}

/// How the network layer is set up.
#[derive(Clone)]
pub struct NetworkConfig {
    /// Secret of the node's ed25519 identity; the peer id follows from it.
    pub identity: [u8; 32],
    /// The pool whose topics are joined.
    pub pool_name: String,
    /// Addresses to listen on.
    pub listen: Vec<Multiaddr>,
    /// Peers to stay connected to, dialled again for ever.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to look for peers on the LAN.
    pub mdns: bool,
    /// Further addresses of this node that others are told, such as those of a router that forwards to it.
    pub announce: Vec<Multiaddr>,
    /// Whether to relay between nodes that others cannot reach, within limits.
    pub relay: bool,
    /// From where on an address is outside: one that others in the pool could use, who are asked whether they can.
    pub outside: Scope,
    /// Where nodes of one machine leave their addresses for each other.
    pub address_file: Option<AddressFile>,
    /// What `identify` tells others about this program.
    pub agent: String,
    /// Established connections, inbound and outbound together.
    pub max_connections: u32,
    /// Inbound connections from one IP address, or from one /64 of IPv6; homes and farms share one.
    pub max_connections_per_ip: u32,
    /// Inbound connections from one /24 of IPv4 or one /56 of IPv6.
    pub max_connections_per_subnet: u32,
    /// Inbound connections from one address of this machine itself.
    pub max_connections_per_loopback: u32,
    /// Resident memory of this process above which no connection is taken; 80 % of the machine's if absent.
    pub max_memory_bytes: Option<usize>,
    /// What the network counts.
    pub metrics: NetworkMetrics,
}

/// Where and as what a node writes its address file.
#[derive(Debug, Clone)]
pub struct AddressFile {
    /// The directory, private to the user; see [`addresses::runtime_directory`].
    pub directory: PathBuf,
    /// The role shown to other nodes.
    pub role: String,
}

impl NetworkConfig {
    /// The node's peer id.
    pub fn peer_id(&self) -> Result<PeerId, Error> {
        Ok(self.keypair()?.public().to_peer_id())
    }

    pub(in crate::network) fn keypair(&self) -> Result<Keypair, Error> {
        Keypair::ed25519_from_bytes(self.identity).map_err(|e| Error::Config(e.to_string()))
    }

    /// A node that listens on all interfaces, TCP and QUIC, on free ports, and is found by mDNS only.
    pub fn new(identity: [u8; 32], pool_name: impl Into<String>) -> Self {
        Self {
            identity,
            pool_name: pool_name.into(),
            listen: default_listen_addresses(),
            bootstrap: Vec::new(),
            mdns: true,
            announce: Vec::new(),
            relay: false,
            outside: Scope::World,
            address_file: None,
            agent: concat!("swarm-node/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_connections: 1024,
            max_connections_per_ip: 32,
            max_connections_per_subnet: 128,
            max_connections_per_loopback: 512,
            max_memory_bytes: None,
            metrics: NetworkMetrics::default(),
        }
    }
}

impl fmt::Debug for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkConfig")
            .field("pool_name", &self.pool_name)
            .field("listen", &self.listen)
            .field("bootstrap", &self.bootstrap)
            .field("mdns", &self.mdns)
            .field("announce", &self.announce)
            .field("relay", &self.relay)
            .field("address_file", &self.address_file)
            .finish_non_exhaustive()
    }
}

/// TCP and QUIC on a free port of every IPv4 and IPv6 interface.
pub fn default_listen_addresses() -> Vec<Multiaddr> {
    ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1", "/ip6/::/tcp/0", "/ip6/::/udp/0/quic-v1"]
        .iter()
        .map(|address| address.parse().expect("a literal multiaddr is well-formed"))
        .collect()
}

/// What the network layer tells the rest of the program.
#[derive(Debug)]
pub enum NetworkEvent {
    /// A message arrived and awaits its verdict, which must come within ten seconds.
    Gossip { topic: Topic, id: GossipId, from: PeerId, data: Vec<u8> },
    /// A peer asks; dropping `reply` refuses.
    SyncRequest { peer: PeerId, data: Vec<u8>, reply: ReplyHandle },
    /// A peer is connected and has said what it is.
    Connected { peer: PeerId, address: Multiaddr, agent: String },
    /// The last connection to a peer that was [`NetworkEvent::Connected`] is gone.
    Disconnected { peer: PeerId },
    /// Others can reach this node here.
    Listening(Multiaddr),
    /// A peer has joined a topic; this may come before its [`NetworkEvent::Connected`].
    PeerSubscribed { peer: PeerId, topic: Topic },
}

/// How a peer is connected, the best way first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// Straight to its address.
    Direct,
    /// Straight, past the routers of both: each side dialled the other at the same time.
    Punched,
    /// Through a relay.
    Relayed,
}

impl Route {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Route::Direct => "direct",
            Route::Punched => "punched",
            Route::Relayed => "relayed",
        }
    }
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    pub peer: PeerId,
    pub address: Multiaddr,
    /// What the peer says it runs; absent until it has said so.
    pub agent: Option<String>,
    pub topics: Vec<Topic>,
    /// The best of its connections, to which `address` and `route_since` belong too.
    pub route: Route,
    pub route_since: SystemTime,
    /// What gossipsub thinks of it: 0 at first, at most 100 for what it brings and 4000 more for the peer that is
    /// [`Network::favour`]ed; see [`GOSSIP_THRESHOLD`], [`PUBLISH_THRESHOLD`], [`GRAYLIST_THRESHOLD`].
    pub score: f64,
    /// The last round trip; absent until there was one.
    pub latency: Option<Duration>,
    /// Since when there has been a connection of any kind.
    pub connected_since: SystemTime,
}

/// Why the network layer could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the network is shut down")]
    Closed,
    #[error("{length} bytes exceed the limit of {max}")]
    TooLarge { length: usize, max: usize },
    #[error(
        "cannot listen on {address}: {reason}; stop the process that uses the port, or choose another with --listen"
    )]
    Listen { address: Multiaddr, reason: String },
    #[error("no address to listen on could be used; name one with --listen")]
    NoListener,
    #[error("invalid network configuration: {0}")]
    Config(String),
    #[error("cannot reach the peer: {0}")]
    Unreachable(String),
    #[error("the peer did not answer in time")]
    Timeout,
    #[error("the peer does not speak this protocol")]
    Unsupported,
    #[error("the peer refused or broke off: {0}")]
    Broken(String),
    #[error("too many requests are under way")]
    Busy,
    #[error("address file: {0}")]
    AddressFile(#[from] addresses::Error),
}
