//! Which libp2p protocols a node speaks, and with which numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libp2p::gossipsub::{
    self, IdentTopic, MaxCountSubscriptionFilter, MessageAuthenticity, MessageId, PeerScoreParams,
    PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode, WhitelistSubscriptionFilter,
    score_parameter_decay,
};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    StreamProtocol, Swarm, SwarmBuilder, autonat, connection_limits, dcutr, identify, mdns,
    memory_connection_limits, noise, ping, relay, swarm, tcp, yamux,
};

use super::codec::LengthPrefixed;
use super::crowd::{Crowd, CrowdLimits};
use super::observed::Identify;
use super::reach::{autonat_config, relay_config};
use super::search::{self, Table};
use super::{
    Error, GOSSIP_THRESHOLD, GRAYLIST_THRESHOLD, GossipId, HANDSHAKE_TIMEOUT, MAX_MESSAGE, MAX_POOL_NAME,
    MAX_REQUEST, MAX_RESPONSE, NetworkConfig, PUBLISH_THRESHOLD, REQUEST_TIMEOUT, Topic, bitswap,
};

const SYNC_PROTOCOL: StreamProtocol = StreamProtocol::new("/swarmpool/sync/1");
const IDENTIFY_VERSION: &str = "/swarmpool/1";
/// Stands between the agent and the number of its start.
pub(super) const START_MARK: char = ';';
const ID_CONTEXT: &str = "swarmpool v1 gossip id";

/// Topic name and field tags around a payload.
const MAX_FRAMING: usize = 512;
/// gossipsub holds this against its whole read buffer, in which several messages may lie, and not
/// against one message: it must exceed the largest message and one read of 8 KiB by far. The limit
/// of one message is set per topic.
const MAX_READ_BUFFER: usize = 64 * 1024;
/// An IHAVE of so many ids of 32 bytes stays below gossipsub's 16 KiB for control messages.
const MAX_IDS_PER_CONTROL: usize = 400;
const MAX_QUEUED_PER_PEER: usize = 1024;
/// The longest lease (300 s) and the clock skew on both sides (30 s each): what is replayed later is
/// either too old by its own times or known to the ledger.
const DUPLICATE_CACHE_TIME: Duration = Duration::from_secs(360);
/// Heartbeats, of one second, for which a message can wait for its verdict.
const VERDICT_HEARTBEATS: usize = 10;
/// gossipsub only keeps connections of its mesh open; a client that waits for its answer needs others.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// One ping may be lost; the connection ends with the second, 40 s after the last sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Both sides may dial each other over TCP and QUIC at once; all but one or two close at once again.
const MAX_CONNECTIONS_PER_PEER: u32 = 6;
const MAX_PENDING_CONNECTIONS: u32 = 64;
const MAX_STREAMS_PER_CONNECTION: usize = 32;
const MAX_MEMORY_SHARE: f64 = 0.8;
/// What the operator's node is worth to those who follow it: what it costs to share an address with fifty others, and
/// far less than five invalid messages do.
pub(super) const FAVOUR: f64 = 4000.0;

pub(super) type Gossip = gossipsub::Behaviour<
    gossipsub::IdentityTransform,
    MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>,
>;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    crowd: Crowd,
    memory: memory_connection_limits::Behaviour,
    pub(super) gossip: Gossip,
    identify: Identify,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(super) sync: request_response::Behaviour<LengthPrefixed>,
    pub(super) bitswap: bitswap::Behaviour,
    pub(super) kad: Table,
    autonat: autonat::v1::Behaviour,
    relay: Toggle<relay::Behaviour>,
    relay_client: relay::client::Behaviour,
    /// Last, as it keeps connections that one after it would refuse.
    punch: dcutr::Behaviour,
}

pub(super) fn build_swarm(config: &NetworkConfig) -> Result<Swarm<Behaviour>, Error> {
    let keypair = config.keypair()?;
    let behaviour = behaviour_of(config, &keypair)?;
    let transports = || {
        SwarmBuilder::with_existing_identity(keypair.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .map(|builder| builder.with_quic())
            .map_err(|e| Error::Config(e.to_string()))
    };
    let swarm_config = |c: swarm::Config| c.with_idle_connection_timeout(IDLE_TIMEOUT);
    let swarm = match transports()?.with_dns() {
        Ok(builder) => builder
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .map_err(|e| Error::Config(e.to_string()))?
            .with_behaviour(|_, relay| behaviour(relay))
            .map(|b| b.with_swarm_config(swarm_config).with_connection_timeout(HANDSHAKE_TIMEOUT).build()),
        // A machine without a resolver can still use addresses that need none.
        Err(error) => {
            tracing::warn!(%error, "no resolver is configured, /dns addresses cannot be reached");
            transports()?
                .with_dns_config(Default::default(), Default::default())
                .with_relay_client(noise::Config::new, yamux::Config::default)
                .map_err(|e| Error::Config(e.to_string()))?
                .with_behaviour(|_, relay| behaviour(relay))
                .map(|b| b.with_swarm_config(swarm_config).with_connection_timeout(HANDSHAKE_TIMEOUT).build())
        }
    };
    swarm.map_err(|e| Error::Config(e.to_string()))
}

/// All but the client of relays, which comes with the transport.
fn behaviour_of(
    config: &NetworkConfig,
    keypair: &Keypair,
) -> Result<impl FnOnce(relay::client::Behaviour) -> Behaviour + use<>, Error> {
    check_pool_name(&config.pool_name)?;
    let peer = keypair.public().to_peer_id();
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_CONNECTIONS))
        .with_max_pending_outgoing(Some(MAX_PENDING_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
        // Room for the peers that we choose, however many choose us.
        .with_max_established_incoming(Some(config.max_connections / 4 * 3))
        .with_max_established(Some(config.max_connections));
    let memory = match config.max_memory_bytes {
        Some(bytes) => memory_connection_limits::Behaviour::with_max_bytes(bytes),
        None => memory_connection_limits::Behaviour::with_max_percentage(MAX_MEMORY_SHARE),
    };
    let identify = identify::Config::new(IDENTIFY_VERSION.to_owned(), keypair.public())
        .with_agent_version(agent_of_this_start(&config.agent)?)
        .with_push_listen_addr_updates(true)
        .with_cache_size(0);
    let crowd = CrowdLimits {
        per_host: config.max_connections_per_ip,
        per_subnet: config.max_connections_per_subnet,
        per_loopback: config.max_connections_per_loopback,
    };
    let gossip = build_gossip(&config.pool_name)?;
    let kad = search::table(peer, &config.pool_name)?;
    let mdns = config.mdns.then(|| build_mdns(peer)).flatten();
    let relay = config.relay.then(|| relay::Behaviour::new(peer, relay_config()));
    let outside = config.outside;
    Ok(move |relay_client| Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        crowd: Crowd::new(crowd),
        memory,
        gossip,
        identify: Identify::new(identify, outside),
        ping: ping::Behaviour::new(
            ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT),
        ),
        mdns: mdns.into(),
        sync: exchange(SYNC_PROTOCOL, MAX_REQUEST, MAX_RESPONSE),
        bitswap: bitswap::Behaviour::default(),
        kad,
        autonat: autonat::v1::Behaviour::new(peer, autonat_config(outside)),
        relay: relay.into(),
        relay_client,
        punch: dcutr::Behaviour::new(peer),
    })
}

/// The agent and a number drawn at each start, by which peers notice a restart.
fn agent_of_this_start(agent: &str) -> Result<String, Error> {
    let mut start = [0; 8];
    getrandom::fill(&mut start).map_err(|e| Error::Config(e.to_string()))?;
    Ok(format!("{agent}{START_MARK}{}", hex::encode(start)))
}

fn check_pool_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_POOL_NAME || name.contains(['/', '\0']) {
        return Err(Error::Config(format!("a pool's name has 1 to {MAX_POOL_NAME} bytes and no slash")));
    }
    Ok(())
}

fn exchange(
    protocol: StreamProtocol,
    max_request: usize,
    max_response: usize,
) -> request_response::Behaviour<LengthPrefixed> {
    request_response::Behaviour::with_codec(
        LengthPrefixed { max_request, max_response },
        [(protocol, ProtocolSupport::Full)],
        request_response::Config::default()
            .with_request_timeout(REQUEST_TIMEOUT)
            .with_max_concurrent_streams(MAX_STREAMS_PER_CONNECTION),
    )
}

fn build_mdns(peer: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: Duration::from_secs(30), ..Default::default() };
    mdns::tokio::Behaviour::new(config, peer)
        .inspect_err(
            |error| tracing::warn!(%error, "mDNS is not available, peers on the LAN are not looked for"),
        )
        .ok()
}

pub(super) fn topic(pool: &str, topic: Topic) -> IdentTopic {
    IdentTopic::new(topic.wire_name(pool))
}

pub(super) fn gossip_id(topic: &TopicHash, data: &[u8]) -> GossipId {
    let mut hasher = blake3::Hasher::new_derive_key(ID_CONTEXT);
    hasher.update(&(topic.as_str().len() as u64).to_be_bytes());
    hasher.update(topic.as_str().as_bytes());
    hasher.update(data);
    GossipId(hasher.finalize().into())
}

fn build_gossip(pool: &str) -> Result<Gossip, Error> {
    let topics: Vec<IdentTopic> = Topic::ALL.iter().map(|t| topic(pool, *t)).collect();
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(topics.iter().map(IdentTopic::hash).collect()),
        max_subscribed_topics: Topic::ALL.len(),
        max_subscriptions_per_request: 100,
    };
    let config = gossip_config(&topics)?;
    let mut gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(|e| Error::Config(e.to_owned()))?;
    gossip.with_peer_score(score_params(&topics), score_thresholds()).map_err(Error::Config)?;
    for topic in &topics {
        gossip.subscribe(topic).map_err(|e| Error::Config(e.to_string()))?;
    }
    Ok(gossip)
}

fn gossip_config(topics: &[IdentTopic]) -> Result<gossipsub::Config, Error> {
    let mut builder = gossipsub::ConfigBuilder::default();
    for topic in topics {
        builder.max_transmit_size_for_topic(MAX_MESSAGE + MAX_FRAMING, topic.hash());
    }
    builder
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|m| MessageId(gossip_id(&m.topic, &m.data).0.to_vec()))
        .max_transmit_size(MAX_READ_BUFFER)
        .max_control_messages_sent(MAX_IDS_PER_CONTROL)
        .duplicate_cache_time(DUPLICATE_CACHE_TIME)
        .history_length(VERDICT_HEARTBEATS)
        .heartbeat_initial_delay(Duration::from_millis(100))
        .heartbeat_interval(Duration::from_secs(1))
        // Below mesh_n_low a peer is taken into the mesh the moment it subscribes, so that two nodes
        // need no heartbeat; above, 8 neighbours reach 1000 nodes in four hops.
        .mesh_n(8)
        .mesh_n_low(6)
        .mesh_n_high(12)
        .mesh_outbound_min(2)
        .flood_publish(true)
        .connection_handler_queue_len(MAX_QUEUED_PER_PEER)
        .publish_queue_duration(Duration::from_secs(10))
        .forward_queue_duration(Duration::from_secs(5))
        .build()
        .map_err(|e| Error::Config(e.to_string()))
}

/// A peer earns at most 100 points. One invalid message in a topic costs 1000 and thereby the place in
/// the mesh, two lose gossip, three lose what is published, five are no longer listened to; half an
/// hour forgives.
fn score_params(topics: &[IdentTopic]) -> PeerScoreParams {
    let topic = TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 1.0,
        time_in_mesh_quantum: Duration::from_secs(60),
        time_in_mesh_cap: 10.0,
        first_message_deliveries_weight: 1.0,
        first_message_deliveries_decay: score_parameter_decay(Duration::from_secs(600)),
        first_message_deliveries_cap: 10.0,
        // A pool may be silent for hours: nobody is blamed for having delivered nothing.
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -1000.0,
        invalid_message_deliveries_decay: score_parameter_decay(Duration::from_secs(1800)),
        ..Default::default()
    };
    PeerScoreParams {
        topics: topics.iter().map(|t| (t.hash(), topic.clone())).collect(),
        topic_score_cap: 100.0,
        app_specific_weight: 1.0,
        // Homes and farms share one address, and all nodes of one machine share the loopback.
        ip_colocation_factor_weight: -10.0,
        ip_colocation_factor_threshold: 32.0,
        ip_colocation_factor_whitelist: [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
            .into(),
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: score_parameter_decay(Duration::from_secs(600)),
        // A miner at work may be slow to read: that alone must not cost it the mesh.
        slow_peer_weight: -0.2,
        slow_peer_threshold: 200.0,
        retain_score: Duration::from_secs(1800),
        ..Default::default()
    }
}

fn score_thresholds() -> PeerScoreThresholds {
    PeerScoreThresholds {
        gossip_threshold: GOSSIP_THRESHOLD,
        publish_threshold: PUBLISH_THRESHOLD,
        graylist_threshold: GRAYLIST_THRESHOLD,
        accept_px_threshold: 1000.0,
        opportunistic_graft_threshold: 5.0,
    }
}
