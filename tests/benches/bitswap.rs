//! A file of 64 MiB over Bitswap between nodes of this project, from one peer and from ten, against a bare stream between
//! two libp2p nodes, and against Helia to Helia.

mod support;

use anyhow::{Context, Result, anyhow, ensure};
use cid::Cid;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use futures::{StreamExt, future::join_all};
use libp2p::swarm::SwarmEvent;
use libp2p::{PeerId, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{figure, median};
use swarm_node::content::{Reader, import, read_ahead};
use swarm_node::network::{MAX_BLOCK, Network, NetworkConfig, NetworkEvent, Until};
use swarm_node::storage::blocks::BlockStore;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

const MIB: usize = 1 << 20;
const FILE_MIB: usize = 64;
const ROUNDS: usize = 7;
const HELIA_ROUNDS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(60);
const STREAM: StreamProtocol = StreamProtocol::new("/swarmpool-bench/1");
const ANYWHERE: &str = "/ip4/127.0.0.1/tcp/0";

fn content() -> Vec<u8> {
    (0..FILE_MIB * MIB).map(|i| (i * 131 + i / 251 * 7 + i / 65_521) as u8).collect()
}

/// A node that holds these blocks, and where it is.
struct Node {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
}

impl Node {
    async fn start(blocks: Arc<BlockStore>, bootstrap: &[String]) -> Result<Self> {
        let mut identity = [0; 32];
        getrandom::fill(&mut identity)?;
        let config = NetworkConfig {
            listen: vec![ANYWHERE.parse()?],
            bootstrap: bootstrap.iter().map(|address| address.parse()).collect::<Result<_, _>>()?,
            mdns: false,
            ..NetworkConfig::new(identity, "bench.eth")
        };
        let (network, events) = Network::start(config, blocks).await?;
        Ok(Self { network, events })
    }

    async fn address(&mut self) -> Result<String> {
        loop {
            if let NetworkEvent::Listening(address) = self.events.recv().await.context("it listens")? {
                return Ok(format!("{address}/p2p/{}", self.network.peer_id()));
            }
        }
    }

    async fn connected(&mut self, peers: usize) -> Result<Vec<PeerId>> {
        let mut there = Vec::new();
        while there.len() < peers {
            if let NetworkEvent::Connected { peer, .. } = self.events.recv().await.context("they connect")? {
                there.push(peer);
            }
        }
        Ok(there)
    }

    /// What nobody listens to is let go, so that the node is never slowed down by it.
    fn attend(mut self) -> Network {
        tokio::spawn(async move { while self.events.recv().await.is_some() {} });
        self.network
    }
}

/// Fetches the file as a new node does, from those at these addresses; a peer's allowance is the node's own.
async fn fetch(addresses: &[String], root: Cid, length: u64) -> Result<Duration> {
    let mut node = Node::start(Arc::new(BlockStore::in_memory(1 << 20)?), addresses).await?;
    let peers = node.connected(addresses.len()).await?;
    let network = node.attend();
    let begun = Instant::now();
    let fetch = |cid| {
        let (network, peers) = (&network, &peers);
        async move { Ok(network.fetch(&cid, peers, MAX_BLOCK, Until::within(TIMEOUT)).await?) }
    };
    let read = read_ahead(Reader::new(root, length)?, fetch, |_, _, _| Ok(())).await?;
    let took = begun.elapsed();
    ensure!(read == length, "all of it came");
    network.shutdown().await;
    Ok(took)
}

fn bare() -> Result<Swarm<libp2p_stream::Behaviour>> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| libp2p_stream::Behaviour::new())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(TIMEOUT))
        .build())
}

fn drive(mut swarm: Swarm<libp2p_stream::Behaviour>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    })
}

/// The same bytes over one stream, written in pieces of the size of a block.
async fn stream(content: &Arc<Vec<u8>>) -> Result<Duration> {
    let (mut server, mut client) = (bare()?, bare()?);
    server.listen_on(ANYWHERE.parse()?)?;
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
            break address;
        }
    };
    let (peer, mut incoming) = (*server.local_peer_id(), server.behaviour().new_control().accept(STREAM)?);
    let serving = drive(server);
    client.dial(address)?;
    while !matches!(client.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    let mut control = client.behaviour().new_control();
    let driving = [serving, drive(client)];
    let sent = content.clone();
    let sending = tokio::spawn(async move {
        let (_, mut out) = incoming.next().await.context("a stream comes")?;
        let mut ready = [0];
        out.read_exact(&mut ready).await?;
        for piece in sent.chunks(MIB) {
            out.write_all(piece).await?;
        }
        out.close().await?;
        anyhow::Ok(())
    });
    let mut back = control.open_stream(peer, STREAM).await.map_err(|error| anyhow!("{error}"))?;
    let begun = Instant::now();
    back.write_all(&[1]).await?;
    back.flush().await?;
    let mut piece = vec![0; MIB];
    let mut read = 0;
    while let length @ 1.. = back.read(&mut piece).await? {
        read += length;
    }
    let took = begun.elapsed();
    ensure!(read == content.len(), "all of it came");
    sending.await??;
    driving.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(took)
}

struct Helia(Child);

impl Drop for Helia {
    fn drop(&mut self) {
        // It is this process's own child, and may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cold reads by new Helia nodes from one that has the file, in seconds; none where Helia is not installed.
fn helia() -> Result<Option<Vec<f64>>> {
    let serve = support::helia(&["-", "serve-file", &FILE_MIB.to_string()]);
    let Some(mut serve) = serve else { return Ok(None) };
    let mut server = Helia(serve.stderr(Stdio::piped()).spawn()?);
    let told = BufReader::new(server.0.stderr.take().context("it is piped")?);
    let told =
        told.lines().map_while(Result::ok).find(|line| line.contains("serves")).context("it serves")?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let field = |name: &str| told[name].as_str().context("it says so").map(str::to_owned);
    let (address, root) = (field("address")?, field("serves")?);
    let mut times = Vec::new();
    for _ in 0..HELIA_ROUNDS {
        let read = support::helia(&[&address, "cat", &root]).context("it is installed")?.output()?;
        let read: serde_json::Value = serde_json::from_slice(&read.stdout)?;
        ensure!(read["bytes"].as_u64() == Some((FILE_MIB * MIB) as u64), "all of it came");
        times.push(read["ms"].as_f64().context("it says how long")? / 1000.0);
    }
    Ok(Some(times))
}

async fn ours(content: &Arc<Vec<u8>>) -> Result<[Vec<f64>; 3]> {
    let (root, blocks) = import(content);
    let store = Arc::new(BlockStore::in_memory(1 << 30)?);
    let blocks: Vec<(Cid, &[u8])> = blocks.iter().map(|(cid, block)| (*cid, block.as_slice())).collect();
    store.put_pinned(&blocks)?;
    let nodes = join_all((0..10).map(|_| Node::start(store.clone(), &[]))).await;
    let (mut addresses, mut servers) = (Vec::new(), Vec::new());
    for node in nodes {
        let mut node = node?;
        addresses.push(node.address().await?);
        servers.push(node.attend());
    }
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(stream(content).await?.as_secs_f64());
        times[1].push(fetch(&addresses[..1], root, content.len() as u64).await?.as_secs_f64());
        times[2].push(fetch(&addresses, root, content.len() as u64).await?.as_secs_f64());
    }
    Ok(times)
}

fn main() -> Result<()> {
    support::machine();
    let [stream, one, ten] = Runtime::new()?.block_on(ours(&Arc::new(content())))?;
    let rate = |times: &[f64]| FILE_MIB as f64 / median(times.iter().copied());
    println!("stream {:.0} MiB/s, one peer {:.0}, ten peers {:.0}", rate(&stream), rate(&one), rate(&ten));
    let over_stream = |times: &[f64]| median(stream.iter().zip(times).map(|(bare, ours)| bare / ours));
    figure("bitswap/one-peer-over-stream", over_stream(&one));
    figure("bitswap/ten-peers-over-stream", over_stream(&ten));
    if let Some(foreign) = helia()? {
        println!("Helia to Helia {:.0} MiB/s", rate(&foreign));
        figure("bitswap/one-peer-over-helia", rate(&one) / rate(&foreign));
    }
    Ok(())
}
