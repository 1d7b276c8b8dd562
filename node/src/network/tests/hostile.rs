//! Foreign programs that mean harm, over real connections, while honest nodes talk.

use std::time::SystemTime;

use libp2p::{Swarm, ping};
use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use super::*;

/// What the victims here call invalid; the rules of real nodes know better.
const INVALID: u8 = 0;
const MAX_HEARD: usize = 10_000;
const GRAYLIST: f64 = -16_000.0;
const HEARTBEATS: Duration = Duration::from_secs(3);

/// A program that speaks gossipsub and was written by somebody else.
struct Foreign {
    peer: PeerId,
    say: mpsc::Sender<(Topic, Vec<u8>)>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Foreign {
    /// Connects and waits until the other side is on all topics.
    async fn join(address: &Multiaddr) -> Self {
        let mut swarm = foreign_swarm();
        swarm.dial(address.clone()).unwrap();
        let mut subscribed = 0;
        while subscribed < Topic::ALL.len() {
            let event = timeout(PATIENCE, swarm.select_next_some()).await.expect("it subscribes");
            subscribed +=
                usize::from(matches!(event, SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. })));
        }
        let (say, mut said) = mpsc::channel::<(Topic, Vec<u8>)>(64);
        let peer = *swarm.local_peer_id();
        let driver = tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some((topic, data)) = said.recv() => {
                        // Whoever is not listened to may not get rid of everything.
                        let _ = swarm.behaviour_mut().publish(IdentTopic::new(topic.wire_name(POOL)), data);
                    }
                    _ = swarm.select_next_some() => {}
                }
            }
        });
        Self { peer, say, driver }
    }

    async fn say(&self, data: Vec<u8>) {
        self.say.send((Topic::Jobs, data)).await.unwrap();
    }
}

pub(super) type ForeignGossip = gossipsub::Behaviour<gossipsub::IdentityTransform>;

/// A node of another program on the pool's topics.
pub(super) fn foreign_swarm() -> Swarm<ForeignGossip> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| {
            let config = gossipsub::ConfigBuilder::default()
                .validation_mode(ValidationMode::Anonymous)
                .message_id_fn(|m| m.data.clone().into())
                .build()
                .unwrap();
            ForeignGossip::new(MessageAuthenticity::Anonymous, config).unwrap()
        })
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(PATIENCE))
        .build();
    for topic in Topic::ALL {
        swarm.behaviour_mut().subscribe(&IdentTopic::new(topic.wire_name(POOL))).unwrap();
    }
    swarm
}

/// Judges all that a node hears from now on, and tells who said what.
fn judge(node: Node) -> (Network, mpsc::Receiver<(PeerId, Vec<u8>)>) {
    let Node { network, mut events, .. } = node;
    let (heard, told) = mpsc::channel(MAX_HEARD);
    let judge = network.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            let NetworkEvent::Gossip { id, from, data, .. } = event else { continue };
            let verdict = if data[0] == INVALID { Verdict::Reject } else { Verdict::Accept };
            if judge.verdict(id, from, verdict).await.is_err() || heard.send((from, data)).await.is_err() {
                return;
            }
        }
    });
    (network, told)
}

async fn shown(network: &Network, peer: PeerId) -> PeerInfo {
    let search = async {
        loop {
            let found = network.peers().await.unwrap().into_iter().find(|shown| shown.peer == peer);
            match found {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(PATIENCE, search).await.expect("it is connected")
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_invalid_messages_are_the_last_that_is_heard_of_a_peer() {
    let mut victim = Node::start(config(1, TCP, &[])).await;
    let mut honest = Node::start(config(2, TCP, &[&victim])).await;
    victim.meet(&[honest.peer()]).await;
    honest.meet(&[victim.peer()]).await;
    let foreign = Foreign::join(&victim.address).await;
    let (honest_peer, talker) = (honest.peer(), honest.network.clone());
    let (victim, mut heard) = judge(victim);
    let _honest = judge(honest);

    for n in 1..=30 {
        foreign.say(vec![INVALID, n]).await;
        talker.publish(Topic::Jobs, vec![1, n]).await.unwrap();
    }
    let (mut invalid, mut good, mut first) = (0, 0, None);
    while good < 30 {
        let (from, data) = timeout(PATIENCE, heard.recv()).await.expect("honest words arrive").unwrap();
        assert_eq!(from == foreign.peer, data[0] == INVALID);
        if data[0] == INVALID {
            invalid += 1;
            first.get_or_insert(Instant::now());
        } else {
            good += 1;
        }
    }
    let score = loop {
        let score = shown(&victim, foreign.peer).await.score;
        if score < GRAYLIST {
            break score;
        }
        assert!(first.is_none_or(|first| first.elapsed() < HEARTBEATS), "{score} after {invalid} lies");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let took = first.map(|first| first.elapsed());
    while let Ok(Some((from, _))) = timeout(Duration::from_millis(500), heard.recv()).await {
        assert_eq!(from, foreign.peer, "what was under way");
        invalid += 1;
    }

    for n in 1..=30 {
        foreign.say(vec![2, n]).await;
        talker.publish(Topic::Jobs, vec![3, n]).await.unwrap();
    }
    for _ in 0..30 {
        let (from, data) = timeout(PATIENCE, heard.recv()).await.expect("honest words arrive").unwrap();
        assert_eq!((from, data[0]), (honest_peer, 3), "nothing more of it is heard");
    }
    let honest = shown(&victim, honest_peer).await.score;
    assert!(honest >= 0.0, "{honest}");
    println!(
        "30 invalid messages: {invalid} judged, score {score} within {took:?}; the honest peer has {honest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_favoured_peer_is_worth_more_and_may_lie_no_more_than_others() {
    let mut hub = Node::start(config(1, TCP, &[])).await;
    let mut leaves = Vec::new();
    for seed in 2..4 {
        let mut leaf = Node::start(config(seed, TCP, &[&hub])).await;
        leaf.meet(&[hub.peer()]).await;
        leaf.network.favour(Some(hub.peer())).await.unwrap();
        leaves.push(leaf);
    }
    hub.meet(&[leaves[0].peer(), leaves[1].peer()]).await;
    let (hub_peer, liar) = (hub.peer(), hub.network.clone());
    let _hub = judge(hub);
    let (first, _first_heard) = judge(leaves.remove(0));
    let (second, mut heard) = judge(leaves.remove(0));

    first.publish(Topic::Claims, b"through the hub".to_vec()).await.unwrap();
    let relayed = timeout(PATIENCE, heard.recv()).await.expect("the hub relays").unwrap();
    assert_eq!(relayed, (hub_peer, b"through the hub".to_vec()));
    let info = shown(&second, hub_peer).await;
    assert!(info.score >= behaviour::FAVOUR, "{}", info.score);
    assert_eq!(info.route, Route::Direct);
    second.favour(None).await.unwrap();
    assert!(shown(&second, hub_peer).await.score < behaviour::FAVOUR);
    second.favour(Some(hub_peer)).await.unwrap();
    for n in 1..=5 {
        liar.publish(Topic::Jobs, vec![INVALID, n]).await.unwrap();
        assert_eq!(timeout(PATIENCE, heard.recv()).await.unwrap().unwrap().1, [INVALID, n]);
    }
    let score = shown(&second, hub_peer).await.score;
    assert!(score < GRAYLIST, "five lies end it, as with anybody: {score}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_of_peers_tells_route_latency_and_since_when() {
    let before = SystemTime::now();
    let mut a = Node::start(config(1, TCP, &[])).await;
    let b = Node::start(config(2, TCP, &[&a])).await;
    a.meet(&[b.peer()]).await;
    let measured = async {
        loop {
            let info = shown(&a.network, b.peer()).await;
            if info.latency.is_some() {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let info = timeout(PATIENCE, measured).await.expect("it is pinged");
    assert!(info.latency.unwrap() < PATIENCE && info.score >= 0.0 && info.route == Route::Direct);
    assert!(info.connected_since >= before && info.connected_since <= SystemTime::now());
}

/// Another address of this machine.
const ELSEWHERE: &str = "/ip6/::1/tcp/0";

/// One of many connections from one address: what became of it.
async fn intrude(address: Multiaddr) -> Option<Swarm<ping::Behaviour>> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| ping::Behaviour::default())
        .unwrap()
        .with_swarm_config(|c| c.with_idle_connection_timeout(PATIENCE))
        .build();
    swarm.dial(address).unwrap();
    loop {
        match timeout(PATIENCE, swarm.select_next_some()).await.expect("an end") {
            SwarmEvent::Behaviour(ping::Event { result: Ok(_), .. }) => return Some(swarm),
            SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } => return None,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_connections_from_one_address_leave_room_for_all_others() {
    const LIMIT: u32 = 40;
    let mut limited = NetworkConfig { max_connections_per_loopback: LIMIT, ..config(1, TCP, &[]) };
    limited.listen.push(ELSEWHERE.parse().unwrap());
    let mut victim = Node::start(limited).await;
    let addresses = victim.network.listen_addresses().await.unwrap();
    victim.address = addresses.iter().find(|a| a.to_string().contains("127.0.0.1")).expect("IPv4").clone();
    let (mut inside, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        let intruders = (0..25).map(|_| intrude(victim.address.clone()));
        for outcome in futures::future::join_all(intruders).await {
            match outcome {
                Some(swarm) => inside.push(swarm),
                None => refused += 1,
            }
        }
    }
    println!("500 connections from one address: {} taken, {refused} refused", inside.len());
    assert_eq!(inside.len(), LIMIT as usize);

    let started = Instant::now();
    let other =
        victim.network.listen_addresses().await.unwrap().into_iter().find(|a| a.to_string().contains("::1"));
    let bootstrap = vec![other.expect("IPv6 on the loopback")];
    let mut honest = Node::start(NetworkConfig { bootstrap, ..config(2, ELSEWHERE, &[]) }).await;
    honest.meet(&[victim.peer()]).await;
    victim.meet(&[honest.peer()]).await;
    honest.network.publish(Topic::Jobs, b"an honest job".to_vec()).await.unwrap();
    assert_eq!(victim.gossip(Verdict::Accept).await.1, b"an honest job");
    println!("an honest node elsewhere was heard after {:?}", started.elapsed());
    drop(inside);
    let free = async {
        while intrude(victim.address.clone()).await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("the places of those who left are free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_in_time_and_keep_nobody_out() {
    let mut victim = Node::start(config(1, TCP, &[])).await;
    let port = victim.address.to_string().rsplit('/').next().unwrap().parse::<u16>().unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(format!("127.0.0.1:{port}").parse().unwrap()).await.unwrap());
    }
    let started = Instant::now();
    let mut honest = Node::start(config(2, TCP, &[&victim])).await;
    honest.meet(&[victim.peer()]).await;
    victim.meet(&[honest.peer()]).await;
    println!("an honest node was met {:?} after 100 silent connections", started.elapsed());
    assert!(started.elapsed() < HANDSHAKE_TIMEOUT, "it did not have to wait for their end");
    for mut stream in silent {
        let mut nothing = Vec::new();
        let closing = timeout(HANDSHAKE_TIMEOUT + PATIENCE, stream.read_to_end(&mut nothing));
        // An end or an error: it is closed.
        let _ = closing.await.expect("it is closed in time");
    }
    println!("all silent connections were closed after {:?}", started.elapsed());
}
