//! What a gossiped statement costs for each node that it reaches: processor time of the project's nodes, without and with
//! their checks, against bare gossipsub with the same mesh and the same payloads.

mod support;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, Swarm, SwarmBuilder, noise, tcp, yamux};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{figure, median, processor};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::key::SecretKey;
use swarm_node::network::{Network, NetworkConfig, NetworkEvent, Topic, Verdict};
use swarm_node::storage::blocks::BlockStore;
use swarm_protocol::Timestamp;
use swarm_protocol::statement::{
    self, Assurance, Body, Heartbeat, Intake, ModelOffer, PayoutMode, Statement,
};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

const NODES: usize = 10;
const WAVES: usize = 100;
const ROUNDS: usize = 5;
const SETTLE: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(60);
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const ANYWHERE: &str = "/ip4/127.0.0.1/tcp/0";
const POOL: &str = "bench.eth";

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).expect("a small number is a key")
}

fn pool() -> PoolId {
    PoolId::derive(POOL, key().address(), 0, Address::ZERO)
}

/// A miner's heartbeat, the commonest statement of an idle pool.
fn statement(counter: u64) -> Vec<u8> {
    let model = |name: &str| ModelOffer { model: name.to_owned(), assurances: vec![Assurance::Seeded] };
    let heartbeat = Heartbeat {
        boot_at: NOW,
        counter,
        models: vec![model("queenbee-nano"), model("llama-3.2-1b-q8")],
        slots: 2,
        mode: PayoutMode::Solo,
        ens: Some("alice.eth".to_owned()),
        device: "NVIDIA GeForce RTX 4090".to_owned(),
        vram_mb: 24_564,
        draining: false,
    };
    let body = Body::Heartbeat(heartbeat);
    Statement::derived(pool(), key().address(), NOW, body).sign(&key()).encode()
}

#[derive(Default)]
struct Arrived {
    messages: AtomicU64,
    subscribed: AtomicU64,
    more: Notify,
}

impl Arrived {
    fn count(&self, which: &AtomicU64) {
        which.fetch_add(1, Ordering::Relaxed);
        self.more.notify_one();
    }

    async fn reach(&self, which: &AtomicU64, wanted: u64) -> Result<()> {
        let all = async {
            while which.load(Ordering::Relaxed) < wanted {
                self.more.notified().await;
            }
        };
        timeout(TIMEOUT, all).await.with_context(|| format!("{which:?} of {wanted} came"))
    }
}

/// Nodes that are all connected to each other, and what publishes at each of them.
struct Crowd {
    publish: Vec<mpsc::Sender<Vec<u8>>>,
    arrived: Arc<Arrived>,
    expected: u64,
}

impl Crowd {
    async fn bare() -> Result<Self> {
        let (mut publish, mut known, arrived) = (Vec::new(), Vec::new(), Arc::new(Arrived::default()));
        for _ in 0..NODES {
            let mut swarm = bare()?;
            swarm.listen_on(ANYWHERE.parse()?)?;
            known.push(loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    break address;
                }
            });
            for address in &known[..known.len() - 1] {
                swarm.dial(address.clone())?;
            }
            let (sender, inbox) = mpsc::channel(64);
            publish.push(sender);
            tokio::spawn(run_bare(swarm, inbox, arrived.clone()));
        }
        Self { publish, arrived, expected: 0 }.settled(1).await
    }

    async fn ours(checked: bool) -> Result<Self> {
        let (mut publish, mut known, arrived) =
            (Vec::new(), Vec::<Multiaddr>::new(), Arc::new(Arrived::default()));
        for _ in 0..NODES {
            let mut identity = [0; 32];
            getrandom::fill(&mut identity)?;
            let config = NetworkConfig {
                listen: vec![ANYWHERE.parse()?],
                bootstrap: known.clone(),
                mdns: false,
                ..NetworkConfig::new(identity, POOL)
            };
            let store = Arc::new(BlockStore::in_memory(1 << 20)?);
            let (network, mut events) = Network::start(config, store).await?;
            known.push(loop {
                if let NetworkEvent::Listening(address) = events.recv().await.context("it listens")? {
                    break format!("{address}/p2p/{}", network.peer_id()).parse()?;
                }
            });
            let (sender, inbox) = mpsc::channel(64);
            publish.push(sender);
            tokio::spawn(run_ours(network, events, inbox, arrived.clone(), checked));
        }
        Self { publish, arrived, expected: 0 }.settled(Topic::ALL.len() as u64).await
    }

    /// Waits until everybody knows what everybody listens to, and for the meshes.
    async fn settled(self, topics: u64) -> Result<Self> {
        let pairs = (NODES * (NODES - 1)) as u64;
        self.arrived.reach(&self.arrived.subscribed, pairs * topics).await?;
        sleep(SETTLE).await;
        Ok(self)
    }

    /// Seconds of processor time for each time that a message arrives somewhere: one from each node at once, again and
    /// again.
    async fn run(&mut self, messages: &mut impl Iterator<Item = Vec<u8>>) -> Result<f64> {
        let (before, begun) = (processor()?, self.expected);
        for _ in 0..WAVES {
            for node in &self.publish {
                node.send(messages.next().context("enough messages")?).await?;
            }
            self.expected += (NODES * (NODES - 1)) as u64;
            self.arrived.reach(&self.arrived.messages, self.expected).await?;
        }
        Ok((processor()? - before) / (self.expected - begun) as f64)
    }
}

fn bare() -> Result<Swarm<gossipsub::Behaviour>> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Anonymous)
        .message_id_fn(|message| {
            let mut hasher = DefaultHasher::new();
            message.data.hash(&mut hasher);
            hasher.finish().to_be_bytes().to_vec().into()
        })
        .mesh_n(8)
        .mesh_n_low(6)
        .mesh_n_high(12)
        .mesh_outbound_min(2)
        .flood_publish(true)
        .build()?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    gossip.subscribe(&topic())?;
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| gossip)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(TIMEOUT * 60))
        .build())
}

fn topic() -> IdentTopic {
    IdentTopic::new(Topic::Heartbeats.wire_name(POOL))
}

async fn run_bare(
    mut swarm: Swarm<gossipsub::Behaviour>,
    mut inbox: mpsc::Receiver<Vec<u8>>,
    arrived: Arc<Arrived>,
) {
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(gossipsub::Event::Message { .. }) => arrived.count(&arrived.messages),
                SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. }) => arrived.count(&arrived.subscribed),
                _ => {}
            },
            message = inbox.recv() => match message {
                Some(message) => drop(swarm.behaviour_mut().publish(topic(), message)),
                None => return,
            }
        }
    }
}

async fn run_ours(
    network: Network,
    mut events: mpsc::Receiver<NetworkEvent>,
    mut inbox: mpsc::Receiver<Vec<u8>>,
    arrived: Arc<Arrived>,
    checked: bool,
) -> Result<()> {
    let mut intake = Intake::new(pool(), Address::ZERO);
    loop {
        tokio::select! {
            Some(event) = events.recv() => match event {
                NetworkEvent::Gossip { id, from, data, .. } => {
                    if checked {
                        intake.accept(Some(statement::Topic::Heartbeats), &data, NOW)?;
                    }
                    network.verdict(id, from, Verdict::Accept).await?;
                    arrived.count(&arrived.messages);
                }
                NetworkEvent::PeerSubscribed { .. } => arrived.count(&arrived.subscribed),
                _ => {}
            },
            message = inbox.recv() => match message {
                Some(message) => network.publish(Topic::Heartbeats, message).await?,
                None => {
                    network.shutdown().await;
                    return Ok(());
                }
            }
        }
    }
}

async fn measure() -> Result<[Vec<f64>; 3]> {
    let messages = (WAVES * NODES * (ROUNDS + 1)) as u64;
    let messages: Vec<Vec<u8>> = (0..messages * 3).map(statement).collect();
    println!("{NODES} nodes, {} bytes a message", messages[0].len());
    let mut messages = messages.into_iter();
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        // Idle nodes cost something too, so there is one crowd at a time.
        let mut costs = [0.0; 3];
        for (which, cost) in costs.iter_mut().enumerate() {
            let mut crowd = match which {
                0 => Crowd::bare().await?,
                1 => Crowd::ours(false).await?,
                _ => Crowd::ours(true).await?,
            };
            *cost = crowd.run(&mut messages).await?;
        }
        if round > 0 {
            times.iter_mut().zip(costs).for_each(|(times, cost)| times.push(cost));
        }
    }
    ensure!(messages.next().is_none(), "all were said");
    Ok(times)
}

fn main() -> Result<()> {
    support::machine();
    let [bare, plain, checked] = Runtime::new()?.block_on(measure())?;
    let micros = |times: &[f64]| median(times.iter().copied()) * 1e6;
    println!(
        "each delivery: bare gossipsub {:.0} µs, a node {:.0} µs, with its checks {:.0} µs",
        micros(&bare),
        micros(&plain),
        micros(&checked)
    );
    let over_bare = |times: &[f64]| median(bare.iter().zip(times).map(|(bare, ours)| ours / bare));
    figure("gossip/delivery-over-bare", over_bare(&plain));
    figure("gossip/checked-delivery-over-bare", over_bare(&checked));
    Ok(())
}
