//! A program of somebody else's, which writes gossipsub's frames by hand, and writes too many of them: what becomes of
//! its score, of honest jobs meanwhile, and of what the operator holds afterwards.

use crate::harness::{PATIENCE, Site, eventually};
use crate::hostile::{Besieged, HONEST_JOBS};
use crate::metrics::{listener, samples, scrape};
use crate::peer::POOL;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use libp2p_stream::Control;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use swarm_crypto::digest::blake3;
use swarm_node::network::{PUBLISH_THRESHOLD, Topic, addresses};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const GOSSIPSUB: StreamProtocol = StreamProtocol::new("/meshsub/1.1.0");
/// Three heartbeats, and the three seconds in which a promised message may come.
const TIME_TO_GRAYLIST: Duration = Duration::from_secs(6);
const IDS_PER_FRAME: u64 = 400;
/// Between two frames: who floods shares two cores with those who are flooded.
const PAUSE: Duration = Duration::from_millis(2);

/// Protobuf, as far as gossipsub needs it.
pub fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3 | 2, &mut out);
    varint(content.len() as u64, &mut out);
    out.extend(content);
    out
}

fn number(field: u64, number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(number, &mut out);
    out
}

pub fn frame(rpc: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(rpc.len() as u64, &mut out);
    out.extend(rpc);
    out
}

pub fn topic(topic: Topic) -> Vec<u8> {
    topic.wire_name(POOL).into_bytes()
}

fn subscribe(name: &[u8]) -> Vec<u8> {
    bytes(1, &[number(1, 1), bytes(2, name)].concat())
}

fn control(kind: u64, content: &[u8]) -> Vec<u8> {
    bytes(3, &bytes(kind, content))
}

/// Ids of messages that there are not.
fn ids(round: u64) -> Vec<u8> {
    let id = |n: u64| blake3(&[round.to_be_bytes(), n.to_be_bytes()].concat()).0;
    (0..IDS_PER_FRAME).flat_map(|n| bytes(2, &id(n))).collect()
}

/// What is sent too often.
#[derive(Debug, Clone, Copy)]
enum Flood {
    /// "I have these messages", of messages that do not exist.
    IHave,
    /// "I want these messages", of messages that do not exist.
    IWant,
    /// Leaves a mesh for ever and enters it again at once.
    PruneAndGraft,
    /// Topics that the pool does not have.
    Subscribe,
}

impl Flood {
    fn frame(self, round: u64) -> Vec<u8> {
        let jobs = topic(Topic::Jobs);
        frame(&match self {
            Flood::IHave => control(1, &[bytes(1, &jobs), ids(round)].concat()),
            // Its ids are field 1.
            Flood::IWant => {
                control(2, &ids(round).chunks(34).flat_map(|id| bytes(1, &id[2..])).collect::<Vec<_>>())
            }
            Flood::PruneAndGraft => {
                let prune = control(4, &[bytes(1, &jobs), number(3, u64::MAX)].concat());
                [prune, control(3, &bytes(1, &jobs))].concat()
            }
            Flood::Subscribe => {
                (0..IDS_PER_FRAME).flat_map(|n| subscribe(format!("/{round}/{n}").as_bytes())).collect()
            }
        })
    }

    /// IWANTs and foreign topics are answered with nothing, which is all that gossipsub holds against them.
    fn costs_score(self) -> bool {
        match self {
            Flood::IHave | Flood::PruneAndGraft => true,
            Flood::IWant | Flood::Subscribe => false,
        }
    }
}

/// A node that speaks only what is written by hand, on its way to the operator.
pub fn dial(site: &Site) -> (Control, PeerId, JoinHandle<()>) {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    let control = swarm.behaviour().new_control();
    let entries = addresses::scan(&site.runtime(), POOL).unwrap();
    let operator = entries.iter().find(|entry| entry.role == "operator").unwrap();
    let peer: PeerId = operator.peer_id.parse().unwrap();
    let address: Multiaddr = operator.addresses[0].parse().unwrap();
    let again = move || DialOpts::peer_id(peer).addresses(vec![Multiaddr::clone(&address)]).build();
    swarm.dial(again()).unwrap();
    let driver = tokio::spawn(async move {
        loop {
            // An operator with as many handshakes under way as it allows refuses one, and takes it later.
            if let SwarmEvent::OutgoingConnectionError { .. } = swarm.select_next_some().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
                swarm.dial(again()).unwrap();
            }
        }
    });
    (control, peer, driver)
}

/// A stream to the operator; the connection may still be on its way.
pub async fn open(control: &mut Control, peer: PeerId, protocol: StreamProtocol) -> Stream {
    let opened = timeout(PATIENCE, async {
        loop {
            match control.open_stream(peer, protocol.clone()).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    opened.await.expect("the operator speaks it")
}

/// A peer of the operator that speaks gossipsub by hand.
pub struct Raw {
    out: Stream,
    received: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Raw {
    /// Connects, subscribes to all topics and reads whatever comes.
    pub async fn join(site: &Site) -> Self {
        let (mut control, peer, driver) = dial(site);
        let mut incoming = control.accept(GOSSIPSUB).unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let count = received.clone();
        let reader = tokio::spawn(async move {
            while let Some((_, mut stream)) = incoming.next().await {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    count.fetch_add(length as u64, Ordering::Relaxed);
                }
            }
        });
        let mut out = open(&mut control, peer, GOSSIPSUB).await;
        let hello: Vec<u8> = Topic::ALL.iter().flat_map(|each| subscribe(&topic(*each))).collect();
        out.write_all(&frame(&hello)).await.unwrap();
        out.flush().await.unwrap();
        Self { out, received, tasks: vec![driver, reader] }
    }

    /// Sends frames until it is stopped; gives how many, and how many bytes came back.
    pub async fn flood(mut self, frame: impl Fn(u64) -> Vec<u8>, stop: CancellationToken) -> (u64, u64) {
        let mut sent = 0;
        let mut turn = tokio::time::interval(PAUSE);
        let _ = stop
            .run_until_cancelled(async {
                loop {
                    turn.tick().await;
                    let written = self.out.write_all(&frame(sent)).await;
                    if written.is_err() || self.out.flush().await.is_err() {
                        return std::future::pending::<()>().await;
                    }
                    sent += 1;
                }
            })
            .await;
        (sent, self.received.load(Ordering::Relaxed))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn lowest(metrics: SocketAddr) -> f64 {
    samples(&scrape(metrics))["swarmpool_network_peer_score_lowest"]
}

pub fn graylisted(metrics: SocketAddr) -> f64 {
    samples(&scrape(metrics))["swarmpool_network_peers_scored_below{threshold=\"graylist\"}"]
}

#[test]
fn floods_of_control_messages_cost_their_sender_its_score_and_nobody_else_anything() {
    let pool = Besieged::start(Site::new(), &["--metrics", "0"]);
    let (metrics, calm) = (listener(&pool.operator), &pool.calm);
    println!("calm: median {:?}, longest {:?}", calm[HONEST_JOBS / 2], calm[HONEST_JOBS - 1]);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for flood in [Flood::IHave, Flood::IWant, Flood::PruneAndGraft, Flood::Subscribe] {
        let stop = CancellationToken::new();
        let raw = runtime.block_on(Raw::join(&pool.site));
        let begun = Instant::now();
        let flooding = runtime.spawn(raw.flood(move |round| flood.frame(round), stop.clone()));
        let mut fell_after = None;
        if flood.costs_score() {
            eventually("it is no longer listened to", || (graylisted(metrics) > 0.0).then_some(()));
            fell_after = Some(begun.elapsed());
        }
        let score = lowest(metrics);
        let attacked = pool.honest();
        let end = lowest(metrics);
        stop.cancel();
        let (sent, received) = runtime.block_on(flooding).unwrap();
        println!(
            "{flood:?}: {sent} frames in {:?}, {received} bytes came back; score {score:.0} after {fell_after:?}, {end:.0} \
             at the end; honest jobs: median {:?}, longest {:?}",
            begun.elapsed(),
            attacked[HONEST_JOBS / 2],
            attacked[HONEST_JOBS - 1]
        );
        pool.bears(&format!("{flood:?}"), &attacked);
        assert!(fell_after.is_none_or(|after| after < TIME_TO_GRAYLIST), "{flood:?}: {fell_after:?}");
        // Out of the graylist it is heard again, and falls again.
        assert!(!flood.costs_score() || end < PUBLISH_THRESHOLD, "{flood:?}: {end}");
        eventually("it has left, and nobody else has lost score", || (lowest(metrics) >= 0.0).then_some(()));
    }
    pool.recovers(60);
}
