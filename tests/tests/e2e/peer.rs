//! A node of the test's own: it speaks to the programs as any stranger could.

use crate::harness::{PATIENCE, Site};
use libp2p::PeerId;
use std::sync::Arc;
use swarm_node::network::{AddressFile, BlockSource, Network, NetworkConfig, NetworkEvent};
use swarm_protocol::query::{Answer, Query};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const POOL: &str = "swarmpool.eth";

#[derive(Debug)]
struct NoBlocks;

impl BlockSource for NoBlocks {
    fn block(&self, _: &cid::Cid) -> Option<Vec<u8>> {
        None
    }
}

/// A node that finds, and is found by, the programs of a site.
pub struct Peer {
    pub network: Network,
    pub events: mpsc::Receiver<NetworkEvent>,
}

impl Peer {
    /// Starts it; `agent` is what it says that it is.
    pub async fn start(site: &Site, agent: &str) -> Self {
        Self::with(site, agent, Arc::new(NoBlocks)).await
    }

    /// The same with blocks to give.
    pub async fn with(site: &Site, agent: &str, blocks: Arc<dyn BlockSource>) -> Self {
        let mut identity = [0; 32];
        getrandom::fill(&mut identity).unwrap();
        let mut config = NetworkConfig::new(identity, POOL);
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.mdns = false;
        config.agent = agent.to_owned();
        config.address_file = Some(AddressFile { directory: site.runtime(), role: "peer".to_owned() });
        let (network, events) = Network::start(config, blocks).await.unwrap();
        Self { network, events }
    }

    /// The next event that `wanted` takes; all others are passed over.
    pub async fn wait<T>(&mut self, wanted: impl Fn(&NetworkEvent) -> Option<T>) -> T {
        let next = async {
            loop {
                let event = self.events.recv().await.expect("the network runs");
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        timeout(PATIENCE, next).await.expect("the event came in time")
    }

    /// Waits until it is connected to a node that says it is `what`.
    pub async fn meet(&mut self, what: &str) -> PeerId {
        self.wait(|event| match event {
            NetworkEvent::Connected { peer, agent, .. } if agent.contains(what) => Some(*peer),
            _ => None,
        })
        .await
    }

    /// Asks another node.
    pub async fn ask(&self, peer: PeerId, query: &Query) -> Answer {
        Answer::decode(&self.network.request(peer, query.encode()).await.unwrap()).unwrap()
    }
}
