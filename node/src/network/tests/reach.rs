//! Nodes that others cannot reach, which here are those that do not listen.

use super::*;

const FAST: Duration = Duration::from_secs(45);

fn relay(seed: u8) -> NetworkConfig {
    NetworkConfig { relay: true, outside: Scope::Machine, ..config(seed, TCP, &[]) }
}

fn hidden(seed: u8, bootstrap: &[&Node]) -> NetworkConfig {
    NetworkConfig { listen: Vec::new(), outside: Scope::Machine, ..config(seed, TCP, bootstrap) }
}

fn open(seed: u8, bootstrap: &[&Node]) -> NetworkConfig {
    NetworkConfig { outside: Scope::Machine, ..config(seed, TCP, bootstrap) }
}

async fn shown(node: &Node, peer: PeerId) -> Option<PeerInfo> {
    node.network.peers().await.unwrap().into_iter().find(|info| info.peer == peer)
}

/// Asks until the peer is reached in this way.
async fn reached(node: &Node, peer: PeerId, route: Route) -> PeerInfo {
    let search = async {
        loop {
            if let Some(info) = shown(node, peer).await.filter(|info| info.route == route) {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("never {route:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_cannot_be_reached_find_each_other_and_meet_through_the_relay() {
    let operator = Node::start(relay(1)).await;
    let mut miner = Node::start(hidden(2, &[&operator])).await;
    let circuit = miner.address.to_string();
    assert!(circuit.contains("/p2p-circuit/"), "{circuit}");
    let mut client = Node::start_deaf(hidden(3, &[&operator])).await;
    client.meet(&[miner.peer()]).await;
    miner.meet(&[client.peer()]).await;

    for (node, other) in [(&client, miner.peer()), (&miner, client.peer())] {
        let info = reached(node, other, Route::Relayed).await;
        assert!(info.address.to_string().contains("/p2p-circuit/"), "{}", info.address);
        assert!(info.route_since >= info.connected_since);
        assert_eq!(shown(node, operator.peer()).await.unwrap().route, Route::Direct);
    }
    client.network.publish(Topic::Claims, b"by relay".to_vec()).await.unwrap();
    assert_eq!(miner.gossip(Verdict::Accept).await, (Topic::Claims, b"by relay".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_be_reached_is_met_without_the_relay_that_led_to_it() {
    let operator = Node::start(relay(1)).await;
    let hidden = Node::start(hidden(2, &[&operator])).await;
    let visitor = Node::start(open(3, &[])).await;
    visitor.network.dial(hidden.address.clone()).await.unwrap();
    let info = reached(&hidden, visitor.peer(), Route::Direct).await;
    assert!(info.route_since >= info.connected_since);
    let info = reached(&visitor, hidden.peer(), Route::Direct).await;
    assert!(!info.address.to_string().contains("p2p-circuit"), "{}", info.address);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_others_reach_asks_no_relay_and_no_relay_is_one_that_does_not_want_to() {
    let operator = Node::start(relay(1)).await;
    let other = Node::start(NetworkConfig { relay: false, ..relay(4) }).await;
    let mut reachable = Node::start(open(2, &[&operator])).await;
    let mut hidden = Node::start_deaf(hidden(3, &[&other])).await;
    let circuit = |event: NetworkEvent| match event {
        NetworkEvent::Listening(address) if address.to_string().contains("p2p-circuit") => Some(address),
        _ => None,
    };
    let waiting = async {
        tokio::select! {
            address = reachable.until("a relay", circuit) => address,
            address = hidden.until("a relay", circuit) => address,
        }
    };
    assert!(timeout(Duration::from_secs(20), waiting).await.is_err(), "a relay was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_when_its_operator_has_another_address() {
    let first = Node::start(relay(1)).await;
    let next: Multiaddr = free_port();
    let bootstrap = vec![first.address.clone(), next.clone()];
    let mut node = Node::start(NetworkConfig { bootstrap, ..open(2, &[]) }).await;
    node.meet(&[first.peer()]).await;
    first.network.shutdown().await;
    let gone = |event| matches!(event, NetworkEvent::Disconnected { .. }).then_some(());
    node.until("disconnection", gone).await;
    let moved = Node::start(NetworkConfig { listen: vec![next], ..relay(1) }).await;
    timeout(FAST, node.meet(&[moved.peer()])).await.expect("it is found at its other address");
}

/// A port that nobody listens on, and that nobody is given soon.
fn free_port() -> Multiaddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap()
}
