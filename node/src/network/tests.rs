//! Real swarms on the loopback.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cid::Cid;
use cid::multihash::Multihash;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, tcp, yamux};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::bitswap::{Message, Presence, StreamEvent, Want, WantKind};
use super::*;

mod hostile;
mod reach;

const POOL: &str = "test.eth";
const PATIENCE: Duration = Duration::from_secs(60);
const TCP: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

#[derive(Default)]
struct Blocks(HashMap<Cid, Vec<u8>>);

impl BlockSource for Blocks {
    fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        self.0.get(cid).cloned()
    }
}

struct Node {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    address: Multiaddr,
}

fn config(seed: u8, transport: &str, bootstrap: &[&Node]) -> NetworkConfig {
    NetworkConfig {
        listen: vec![transport.parse().unwrap()],
        bootstrap: bootstrap.iter().map(|n| n.address.clone()).collect(),
        mdns: false,
        ..NetworkConfig::new([seed; 32], POOL)
    }
}

impl Node {
    async fn start(config: NetworkConfig) -> Node {
        Self::with_blocks(config, Arc::new(Blocks::default())).await
    }

    async fn with_blocks(config: NetworkConfig, blocks: Arc<dyn BlockSource>) -> Node {
        let (network, events) = Network::start(config, blocks).await.unwrap();
        let mut node = Node { network, events, address: Multiaddr::empty() };
        node.address = node
            .until("listening", |event| match event {
                NetworkEvent::Listening(address) => Some(address),
                _ => None,
            })
            .await;
        node
    }

    /// One that listens on nothing.
    async fn start_deaf(config: NetworkConfig) -> Node {
        let (network, events) = Network::start(config, Arc::new(Blocks::default())).await.unwrap();
        Node { network, events, address: Multiaddr::empty() }
    }

    fn peer(&self) -> PeerId {
        self.network.peer_id()
    }

    async fn until<T>(&mut self, what: &str, mut pick: impl FnMut(NetworkEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = pick(self.events.recv().await.expect("the network runs")) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
    }

    /// Waits until the peers are on all topics and have said what they are.
    async fn meet(&mut self, peers: &[PeerId]) {
        let mut subscribed: BTreeSet<(PeerId, Topic)> = BTreeSet::new();
        let mut connected = BTreeSet::new();
        self.until("peers", |event| {
            match event {
                NetworkEvent::PeerSubscribed { peer, topic } => _ = subscribed.insert((peer, topic)),
                NetworkEvent::Connected { peer, .. } => _ = connected.insert(peer),
                _ => {}
            }
            let met = |peer: &PeerId| {
                connected.contains(peer) && Topic::ALL.iter().all(|t| subscribed.contains(&(*peer, *t)))
            };
            peers.iter().all(met).then_some(())
        })
        .await;
    }

    /// The next message, with the verdict given.
    async fn gossip(&mut self, verdict: Verdict) -> (Topic, Vec<u8>) {
        let next = |event| match event {
            NetworkEvent::Gossip { topic, id, from, data } => Some((topic, id, from, data)),
            _ => None,
        };
        let (topic, id, from, data) = self.until("gossip", next).await;
        self.network.verdict(id, from, verdict).await.unwrap();
        (topic, data)
    }
}

fn cid_of(block: &[u8]) -> Cid {
    Cid::new_v1(0x55, Multihash::wrap(0x12, &Sha256::digest(block)).unwrap())
}

/// A block that nobody has is not waited for.
fn soon() -> Until {
    let now = Instant::now();
    Until { found: now, fetched: now + PATIENCE }
}

async fn exchange_on_each_topic(transport: &str) {
    let mut a = Node::start(config(1, transport, &[])).await;
    let mut b = Node::start(config(2, transport, &[&a])).await;
    a.meet(&[b.peer()]).await;
    b.meet(&[a.peer()]).await;
    for topic in Topic::ALL {
        let (there, back) = (format!("{topic:?} there").into_bytes(), format!("{topic:?} back").into_bytes());
        a.network.publish(topic, there.clone()).await.unwrap();
        assert_eq!(b.gossip(Verdict::Accept).await, (topic, there));
        b.network.publish(topic, back.clone()).await.unwrap();
        assert_eq!(a.gossip(Verdict::Accept).await, (topic, back));
    }
    let peers = a.network.peers().await.unwrap();
    assert_eq!(peers.len(), 1);
    assert_eq!((peers[0].peer, peers[0].topics.len()), (b.peer(), Topic::ALL.len()));
    assert_eq!(peers[0].agent.as_deref(), Some(concat!("swarm-node/", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_exchange_a_message_on_each_topic_over_tcp() {
    exchange_on_each_topic(TCP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_exchange_a_message_on_each_topic_over_quic() {
    exchange_on_each_topic(QUIC).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_exchange_a_message_on_each_topic_over_ipv6() {
    if let Err(error) = std::net::TcpListener::bind("[::1]:0") {
        return println!("skipped: this machine has no IPv6 ({error})");
    }
    exchange_on_each_topic("/ip6/::1/tcp/0").await;
    exchange_on_each_topic("/ip6/::1/udp/0/quic-v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_around_one_hear_each_other_on_each_topic() {
    let mut hub = Node::start(config(1, TCP, &[])).await;
    let mut others = Vec::new();
    for seed in 2..6 {
        others.push(Node::start(config(seed, TCP, &[&hub])).await);
    }
    let peers: Vec<PeerId> = others.iter().map(Node::peer).collect();
    hub.meet(&peers).await;
    for node in &mut others {
        node.meet(&[hub.peer()]).await;
    }
    let mut nodes = vec![hub];
    nodes.append(&mut others);
    for (speaker, topic) in Topic::ALL.into_iter().enumerate() {
        let message = vec![speaker as u8; 100];
        nodes[speaker].network.publish(topic, message.clone()).await.unwrap();
        for listener in (0..nodes.len()).filter(|l| *l != speaker) {
            assert_eq!(nodes[listener].gossip(Verdict::Accept).await, (topic, message.clone()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_accepted_is_forwarded() {
    let mut a = Node::start(config(1, TCP, &[])).await;
    let mut b = Node::start(config(2, TCP, &[&a])).await;
    let mut c = Node::start(config(3, TCP, &[&b])).await;
    b.meet(&[a.peer(), c.peer()]).await;
    a.meet(&[b.peer()]).await;
    c.meet(&[b.peer()]).await;
    for (message, verdict) in
        [("forged", Verdict::Reject), ("early", Verdict::Ignore), ("genuine", Verdict::Accept)]
    {
        a.network.publish(Topic::Jobs, message.into()).await.unwrap();
        assert_eq!(b.gossip(verdict).await, (Topic::Jobs, message.into()));
    }
    assert_eq!(c.gossip(Verdict::Accept).await, (Topic::Jobs, b"genuine".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_the_largest_messages_arrives_whole() {
    let mut a = Node::start(config(1, TCP, &[])).await;
    let mut b = Node::start(config(2, TCP, &[&a])).await;
    a.meet(&[b.peer()]).await;
    b.meet(&[a.peer()]).await;
    let too_large = a.network.publish(Topic::Jobs, vec![0; MAX_MESSAGE + 1]).await;
    assert!(matches!(too_large, Err(Error::TooLarge { length: 8193, max: 8192 })));
    for i in 0..50 {
        a.network.publish(Topic::Proofs, vec![i; MAX_MESSAGE]).await.unwrap();
    }
    let mut arrived = BTreeSet::new();
    while arrived.len() < 50 {
        let (_, data) = b.gossip(Verdict::Accept).await;
        assert_eq!(data.len(), MAX_MESSAGE);
        arrived.insert(data[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_larger_message_from_a_foreign_program_is_not_delivered() {
    let mut node = Node::start(config(1, TCP, &[])).await;
    let mut foreign = hostile::foreign_swarm();
    let topics = Topic::ALL.map(|t| IdentTopic::new(t.wire_name(POOL)));
    foreign.dial(node.address.clone()).unwrap();
    let mut subscribed = 0;
    while subscribed < topics.len() {
        let event = timeout(PATIENCE, foreign.select_next_some()).await.unwrap();
        subscribed +=
            usize::from(matches!(event, SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })));
    }
    let [jobs, claims, ..] = topics;
    foreign.behaviour_mut().publish(jobs, vec![1; MAX_MESSAGE + 1]).unwrap();
    foreign.behaviour_mut().publish(claims, vec![2; 10]).unwrap();
    let driver = tokio::spawn(async move {
        loop {
            foreign.select_next_some().await;
        }
    });
    assert_eq!(node.gossip(Verdict::Accept).await, (Topic::Claims, vec![2; 10]));
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_published_alone_waits_for_the_first_peer() {
    let mut a = Node::start(config(1, TCP, &[])).await;
    a.network.publish(Topic::Jobs, b"first".to_vec()).await.unwrap();
    let mut b = Node::start(config(2, TCP, &[&a])).await;
    assert_eq!(b.gossip(Verdict::Accept).await, (Topic::Jobs, b"first".to_vec()));
    a.meet(&[b.peer()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_joiner_hears_what_is_said_from_then_on() {
    let mut a = Node::start(config(1, TCP, &[])).await;
    let mut b = Node::start(config(2, TCP, &[&a])).await;
    a.meet(&[b.peer()]).await;
    a.network.publish(Topic::Jobs, b"before".to_vec()).await.unwrap();
    b.gossip(Verdict::Accept).await;
    let mut late = Node::start(config(3, TCP, &[&b])).await;
    b.meet(&[late.peer()]).await;
    late.meet(&[b.peer()]).await;
    a.network.publish(Topic::Jobs, b"after".to_vec()).await.unwrap();
    assert_eq!(b.gossip(Verdict::Accept).await.1, b"after");
    assert_eq!(late.gossip(Verdict::Accept).await.1, b"after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_refused_or_unreachable() {
    let mut a = Node::start(config(1, TCP, &[])).await;
    let mut b = Node::start(config(2, TCP, &[&a])).await;
    b.meet(&[a.peer()]).await;
    let (asker, server) = (b.network.clone(), a.peer());
    let request = |event| match event {
        NetworkEvent::SyncRequest { peer, data, reply } => Some((peer, data, reply)),
        _ => None,
    };

    let asking = tokio::spawn(async move { asker.request(server, vec![5; MAX_REQUEST]).await });
    let (peer, data, reply) = a.until("request", request).await;
    assert_eq!((peer, data), (b.peer(), vec![5; MAX_REQUEST]));
    reply.send(vec![6; MAX_RESPONSE]).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap(), vec![6; MAX_RESPONSE]);

    let asker = b.network.clone();
    let asking = tokio::spawn(async move { asker.request(server, vec![1]).await });
    let (_, _, reply) = a.until("request", request).await;
    assert!(matches!(reply.send(vec![0; MAX_RESPONSE + 1]).await, Err(Error::TooLarge { .. })));
    assert!(matches!(asking.await.unwrap(), Err(Error::Broken(_))));

    let too_large = b.network.request(server, vec![0; MAX_REQUEST + 1]).await;
    assert!(matches!(too_large, Err(Error::TooLarge { .. })));
    let nobody = b.network.request(PeerId::random(), vec![1]).await;
    assert!(matches!(nobody, Err(Error::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_fetched_from_whoever_has_it_and_a_liar_is_named() {
    let block = vec![9; 300_000];
    let cid = cid_of(&block);
    let honest = Arc::new(Blocks([(cid, block.clone())].into()));
    let liar = Arc::new(Blocks([(cid, b"something else".to_vec())].into()));
    let honest = Node::with_blocks(config(1, TCP, &[]), honest).await;
    let liar = Node::with_blocks(config(2, TCP, &[]), liar).await;
    let without = Node::start(config(3, TCP, &[])).await;
    let mut asker = Node::start(config(4, TCP, &[&honest, &liar, &without])).await;
    asker.meet(&[honest.peer(), liar.peer(), without.peer()]).await;
    let network = asker.network.clone();

    let fetched = network.fetch(&cid, &[honest.peer()], 300_000, soon()).await.unwrap();
    assert_eq!(fetched, block);
    let likely = [liar.peer(), without.peer(), honest.peer()];
    assert_eq!(network.fetch(&cid, &likely, 300_000, soon()).await.unwrap(), block);
    assert_eq!(network.fetch(&cid, &[], 300_000, soon()).await.unwrap(), block);
    assert_eq!(network.fetch(&cid, &[without.peer()], 300_000, soon()).await.unwrap(), block);

    let large = network.fetch(&cid, &[honest.peer()], 299_999, soon()).await;
    assert!(matches!(large, Err(FetchError::TooLarge { length: 300_000, max: 299_999, .. })));
    let missing = network.fetch(&cid_of(b"x"), &[without.peer(), PeerId::random()], 10, soon()).await;
    assert!(matches!(missing, Err(FetchError::Missing { asked: 3, .. })), "{missing:?}");
    let foreign = Cid::new_v1(0x55, Multihash::wrap(0x1e, &[0; 32]).unwrap());
    let foreign = network.fetch(&foreign, &[honest.peer()], 300_000, soon()).await;
    assert!(matches!(foreign, Err(FetchError::UnsupportedCid(_))));

    honest.network.shutdown().await;
    let gone = |event| matches!(event, NetworkEvent::Disconnected { .. }).then_some(());
    asker.until("disconnection", gone).await;
    let lied = asker.network.fetch(&cid, &[without.peer()], 300_000, soon()).await;
    assert!(matches!(lied, Err(FetchError::WrongBlock { peer, .. }) if peer == liar.peer()), "{lied:?}");
    let alone = liar.network.fetch(&cid_of(b"y"), &[PeerId::random()], 10, soon()).await;
    assert!(matches!(alone, Err(FetchError::Missing { asked: 1, .. })), "{alone:?}");
    let nobody = Node::start(config(5, TCP, &[])).await.network.fetch(&cid, &[], 10, soon()).await;
    assert!(matches!(nobody, Err(FetchError::NoPeers(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_blocks_come_at_once_from_several_peers_over_tcp_and_quic() {
    let blocks: Vec<Vec<u8>> = (0..32).map(|n| vec![n; MAX_BLOCK]).collect();
    let kept = Arc::new(Blocks(blocks.iter().map(|block| (cid_of(block), block.clone())).collect()));
    let one = Node::with_blocks(config(1, TCP, &[]), kept.clone()).await;
    let other = Node::with_blocks(config(2, QUIC, &[]), kept).await;
    let listen = vec![TCP.parse().unwrap(), QUIC.parse().unwrap()];
    let mut asker = Node::start(NetworkConfig { listen, ..config(3, TCP, &[&one, &other]) }).await;
    asker.meet(&[one.peer(), other.peer()]).await;
    let fetches = blocks.iter().zip([one.peer(), other.peer()].into_iter().cycle()).map(|(block, peer)| {
        let network = asker.network.clone();
        async move { network.fetch(&cid_of(block), &[peer], MAX_BLOCK, soon()).await.unwrap() == *block }
    });
    let started = Instant::now();
    assert!(futures::future::join_all(fetches).await.into_iter().all(|arrived| arrived));
    println!("32 blocks of 1 MiB from two peers, ms: {}", started.elapsed().as_millis());
}

/// Some of them appear while the node runs.
#[derive(Default)]
struct Growing(Mutex<HashMap<Cid, Vec<u8>>>);

impl BlockSource for Growing {
    fn block(&self, cid: &Cid) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(cid).cloned()
    }
}

/// A foreign node that speaks nothing but Bitswap's streams.
struct Foreign {
    swarm: libp2p::Swarm<bitswap::Behaviour>,
    node: PeerId,
}

impl Foreign {
    async fn new(node: &Node) -> Foreign {
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| bitswap::Behaviour::default())
            .unwrap()
            .with_swarm_config(|c| c.with_idle_connection_timeout(PATIENCE))
            .build();
        swarm.dial(node.address.clone()).unwrap();
        while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        Foreign { swarm, node: node.peer() }
    }

    async fn open(&mut self) -> libp2p::Stream {
        self.swarm.behaviour_mut().open(self.node);
        self.stream(|event| match event {
            StreamEvent::Opened(stream) => Some(stream),
            StreamEvent::Inbound(_) | StreamEvent::NotOpened(_) => None,
        })
        .await
    }

    /// The stream on which the node answers.
    async fn accept(&mut self) -> libp2p::Stream {
        self.stream(|event| match event {
            StreamEvent::Inbound(stream) => Some(stream),
            StreamEvent::Opened(_) | StreamEvent::NotOpened(_) => None,
        })
        .await
    }

    async fn stream(&mut self, pick: impl Fn(StreamEvent) -> Option<libp2p::Stream>) -> libp2p::Stream {
        let search = async {
            loop {
                if let SwarmEvent::Behaviour((_, event)) = self.swarm.select_next_some().await
                    && let Some(stream) = pick(event)
                {
                    return stream;
                }
            }
        };
        timeout(PATIENCE, search).await.expect("a stream")
    }

    /// Keeps the connection alive while something else happens.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let drive = async {
            loop {
                self.swarm.select_next_some().await;
            }
        };
        tokio::select! {
            result = timeout(PATIENCE, work) => result.expect("it ends"),
            () = drive => unreachable!("it never ends"),
        }
    }
}

fn wanting(cid: Cid) -> Vec<u8> {
    let wants = vec![Want::new(cid, WantKind::Block, false)];
    Message { wants, ..Message::default() }.encode_framed()
}

async fn read_message(stream: &mut libp2p::Stream) -> Message {
    let mut length = 0;
    for shift in (0..).step_by(7) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    Message::decode(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_node_is_told_that_a_block_is_not_here_and_gets_it_once_it_is() {
    let kept = Arc::new(Growing::default());
    let node = Node::with_blocks(config(1, TCP, &[]), kept.clone()).await;
    let mut foreign = Foreign::new(&node).await;
    let cid = cid_of(b"late");
    let mut asking = foreign.open().await;
    foreign.during(async { asking.write_all(&wanting(cid)).await.unwrap() }).await;
    let mut answers = foreign.accept().await;
    let first = foreign.during(read_message(&mut answers)).await;
    assert_eq!(first.presences, [Presence { cid, has: false }]);
    kept.0.lock().unwrap_or_else(PoisonError::into_inner).insert(cid, b"late".to_vec());
    node.network.stored(vec![cid]).await.unwrap();
    let second = foreign.during(read_message(&mut answers)).await;
    assert_eq!(second.blocks, [bitswap::Block { cid, data: b"late".to_vec() }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_with_huge_lengths_are_cut_off_and_others_are_served_meanwhile() {
    let kept = Arc::new(Blocks([(cid_of(b"x"), b"x".to_vec())].into()));
    let node = Node::with_blocks(config(1, TCP, &[]), kept).await;
    let mut asker = Node::start(config(2, TCP, &[&node])).await;
    asker.meet(&[node.peer()]).await;
    let mut foreign = Foreign::new(&node).await;
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    for _ in 0..bitswap::MAX_OFFENCES {
        let mut stream = foreign.open().await;
        let ended = foreign.during(async {
            stream.write_all(&huge).await.unwrap();
            stream.flush().await.unwrap();
            stream.read(&mut [0; 1]).await
        });
        assert!(matches!(ended.await, Ok(0) | Err(_)), "the stream is open");
        let fetched = asker.network.fetch(&cid_of(b"x"), &[node.peer()], 1, soon()).await;
        assert_eq!(fetched.unwrap(), b"x");
    }
    let mut stream = foreign.open().await;
    let refused = foreign.during(async {
        let _ = stream.write_all(&wanting(cid_of(b"x"))).await;
        let _ = stream.flush().await;
        stream.read(&mut [0; 1]).await
    });
    assert!(matches!(refused.await, Ok(0) | Err(_)), "it is shunned");
}

struct Stuck(Mutex<Option<oneshot::Receiver<()>>>);

impl BlockSource for Stuck {
    fn block(&self, _: &Cid) -> Option<Vec<u8>> {
        let released = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = released.map(oneshot::Receiver::blocking_recv);
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_at_its_deadline() {
    let (release, released) = oneshot::channel();
    let stuck = Arc::new(Stuck(Mutex::new(Some(released))));
    let server = Node::with_blocks(config(1, TCP, &[]), stuck).await;
    let mut asker = Node::start(config(2, TCP, &[&server])).await;
    asker.meet(&[server.peer()]).await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let until = Until { found: deadline, fetched: deadline };
    let fetched = asker.network.fetch(&cid_of(b"x"), &[server.peer()], 10, until).await;
    assert!(matches!(fetched, Err(FetchError::Deadline(_))), "{fetched:?}");
    assert!(deadline.elapsed() < Duration::from_secs(2));
    release.send(()).unwrap();
}

fn on_machine(seed: u8, directory: &Path) -> NetworkConfig {
    let file = AddressFile { directory: directory.to_owned(), role: "miner".to_owned() };
    NetworkConfig { address_file: Some(file), ..config(seed, TCP, &[]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_machine_find_each_other_by_file() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("swarmpool");
    let mut a = Node::start(on_machine(1, &directory)).await;
    let mut b = Node::start(on_machine(2, &directory)).await;
    a.meet(&[b.peer()]).await;
    b.meet(&[a.peer()]).await;
    let entries = addresses::scan(&directory, POOL).unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|e| e.role == "miner"));

    b.network.shutdown().await;
    let gone = |event| matches!(event, NetworkEvent::Disconnected { .. }).then_some(());
    a.until("disconnection", gone).await;
    let left = addresses::scan(&directory, POOL).unwrap();
    assert_eq!(left.iter().map(|e| e.peer_id.clone()).collect::<Vec<_>>(), [a.peer().to_base58()]);

    fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
    let refused = Network::start(on_machine(3, &directory), Arc::new(Blocks::default())).await;
    assert!(matches!(refused, Err(Error::AddressFile(addresses::Error::NotPrivate(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_flows_again_soon_after_each_of_ten_restarts() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("swarmpool");
    let mut a = Node::start(on_machine(1, &directory)).await;
    let mut times = Vec::new();
    for round in 0u8..11 {
        let started = Instant::now();
        let mut restarted = Node::start(on_machine(2, &directory)).await;
        restarted.network.publish(Topic::Claims, vec![round, 1]).await.unwrap();
        assert_eq!(a.gossip(Verdict::Accept).await.1, [round, 1]);
        a.network.publish(Topic::Jobs, vec![round, 2]).await.unwrap();
        assert_eq!(restarted.gossip(Verdict::Accept).await.1, [round, 2]);
        times.push(started.elapsed().as_millis());
        let stopping = Instant::now();
        restarted.network.shutdown().await;
        assert!(stopping.elapsed() < SHUTDOWN_TIMEOUT);
    }
    println!("start to gossip both ways, ms: first {}, after restarts {:?}", times[0], &times[1..]);
    assert!(times.iter().all(|ms| *ms < 10_000), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_an_error_and_a_shut_down_node_frees_it() {
    let first = Node::start(config(1, TCP, &[])).await;
    let mut second = config(2, TCP, &[]);
    second.listen = vec![first.address.clone()];
    let refused = Network::start(second.clone(), Arc::new(Blocks::default())).await;
    assert!(matches!(refused, Err(Error::Listen { .. })));

    first.network.shutdown().await;
    assert!(matches!(first.network.peers().await, Err(Error::Closed)));
    assert!(matches!(first.network.publish(Topic::Jobs, vec![1]).await, Err(Error::Closed)));
    let second = Node::start(second).await;
    assert_eq!(second.address, first.address);
    assert_eq!(second.network.listen_addresses().await.unwrap(), vec![second.address.clone()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dial_says_who_answered() {
    let a = Node::start(config(1, TCP, &[])).await;
    let b = Node::start(config(2, TCP, &[])).await;
    assert_eq!(b.network.dial(a.address.clone()).await.unwrap(), a.peer());
    let closed = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
    assert!(matches!(b.network.dial(closed).await, Err(Error::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_peer_that_went_away_is_found_again() {
    let first = Node::start(config(1, TCP, &[])).await;
    let mut node = Node::start(config(2, TCP, &[&first])).await;
    node.meet(&[first.peer()]).await;
    first.network.shutdown().await;
    let gone = |event| matches!(event, NetworkEvent::Disconnected { .. }).then_some(());
    node.until("disconnection", gone).await;
    let again = NetworkConfig { listen: vec![first.address.clone()], ..config(1, TCP, &[]) };
    let again = Node::start(again).await;
    node.meet(&[again.peer()]).await;
}

/// A crash whose connections look alive: the old node stays, a new one with its identity appears.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_before_its_old_connection_ends_is_met_anew() {
    let crashed = Node::start(config(1, TCP, &[])).await;
    let mut node = Node::start(config(2, TCP, &[])).await;
    node.network.dial(crashed.address.clone()).await.unwrap();
    node.meet(&[crashed.peer()]).await;
    let mut restarted = Node::start(config(1, TCP, &[&node])).await;
    let started = Instant::now();
    restarted.network.publish(Topic::Claims, b"back".to_vec()).await.unwrap();
    assert_eq!(node.gossip(Verdict::Accept).await.1, b"back");
    node.network.publish(Topic::Jobs, b"welcome".to_vec()).await.unwrap();
    assert_eq!(restarted.gossip(Verdict::Accept).await.1, b"welcome");
    println!("gossip after a crash that was not noticed, ms: {}", started.elapsed().as_millis());
}

/// `ip netns add lan; ip -n lan link set lo up; ip -n lan link add lan0 type veth peer name lan1;
/// ip -n lan addr add 10.9.0.1/24 dev lan0; ip -n lan link set lan0 up; ip -n lan link set lan1 up;
/// ip netns exec lan <test binary> --ignored mdns`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "multicast: run it in a network namespace of its own"]
async fn nodes_of_one_lan_find_each_other_by_mdns() {
    let on_lan = |seed| NetworkConfig { mdns: true, ..NetworkConfig::new([seed; 32], POOL) };
    let mut a = Node::start(on_lan(1)).await;
    let mut b = Node::start(on_lan(2)).await;
    a.meet(&[b.peer()]).await;
    b.meet(&[a.peer()]).await;
}
