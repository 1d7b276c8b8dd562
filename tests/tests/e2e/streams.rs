//! What a hostile program can write on the streams of a node: halves, drops, bombs, numbers of the size of a disk. Each
//! while honest jobs flow, with an eye on how long these take and on what the operator holds.

use crate::floods::{Raw, bytes, dial, frame, graylisted, open, topic, varint};
use crate::harness::{Process, Site, eventually, text};
use crate::hostile::{Besieged, HONEST_JOBS};
use crate::metrics::listener;
use crate::peer::POOL;
use cid::Cid;
use futures::future::join_all;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream::Control;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use swarm_crypto::digest::blake3;
use swarm_node::content::car::CarWriter;
use swarm_node::content::import;
use swarm_node::network::{Topic, addresses};
use swarm_protocol::codec::raw_cid;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const SYNC: StreamProtocol = StreamProtocol::new("/swarmpool/sync/1");
const BITSWAP: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");
/// Streams that are attacked with at once.
const STREAMS: usize = 40;
/// Connections from one address that never end their handshakes.
const CONNECTIONS: u64 = 500;
/// Between two pieces of one stream: attacker and victims share two cores.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one stream is kept; the operator may end it before.
const KEPT: Duration = Duration::from_secs(3);
const WANTS_PER_MESSAGE: u64 = 4_000;
/// The most memory that the operator may ever hold.
const MAX_PEAK_MIB: u64 = 192;
/// Three heartbeats of a second, and one of the metrics' own.
const TIME_TO_GRAYLIST: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy)]
enum Attack {
    /// A request that ends in the middle, and a stream that does not.
    HalfRequest,
    /// A request that claims 4 GiB.
    EndlessRequest,
    /// A request that comes byte by byte.
    DrippingRequest,
    /// CBOR lists in lists, and a list that claims 2^63 items, as requests.
    RequestBomb,
    /// A message that claims 2^40 bytes.
    HugeMessage,
    /// A message that comes byte by byte.
    DrippingMessage,
    /// A million wants of blocks that there are not.
    Wants,
    /// Blocks that nobody asked for.
    Unasked,
    /// Eight blocks of a mebibyte, asked for again and again by one who never reads.
    NeverReading,
}

impl Attack {
    const ALL: [Attack; 9] = [
        Attack::HalfRequest,
        Attack::EndlessRequest,
        Attack::DrippingRequest,
        Attack::RequestBomb,
        Attack::HugeMessage,
        Attack::DrippingMessage,
        Attack::Wants,
        Attack::Unasked,
        Attack::NeverReading,
    ];

    fn protocol(self) -> StreamProtocol {
        match self {
            Attack::HalfRequest | Attack::EndlessRequest | Attack::DrippingRequest | Attack::RequestBomb => {
                SYNC
            }
            Attack::HugeMessage
            | Attack::DrippingMessage
            | Attack::Wants
            | Attack::Unasked
            | Attack::NeverReading => BITSWAP,
        }
    }

    /// What is written at once, and what follows it piece by piece.
    fn pieces(self, round: u64) -> (Vec<u8>, Vec<u8>) {
        let request = |length: u32, body: Vec<u8>| [length.to_be_bytes().to_vec(), body].concat();
        match self {
            Attack::HalfRequest => (request(1000, vec![0xa1; 10]), Vec::new()),
            Attack::EndlessRequest => (request(u32::MAX, vec![0; 8 * 1024]), Vec::new()),
            Attack::DrippingRequest => (request(1000, Vec::new()), vec![0xa1; 999]),
            Attack::RequestBomb => (request(9000, bomb(round, 9000)), Vec::new()),
            Attack::HugeMessage => {
                let mut claim = Vec::new();
                varint(1 << 40, &mut claim);
                (claim, vec![0x0a; 999])
            }
            Attack::DrippingMessage => {
                let mut claim = Vec::new();
                varint(1 << 20, &mut claim);
                (claim, vec![0x0a; 999])
            }
            Attack::Wants => (wants(round), Vec::new()),
            Attack::Unasked => (unasked(round), Vec::new()),
            Attack::NeverReading => (wanted(), Vec::new()),
        }
    }
}

/// Lists in lists, or one that claims more items than there are bytes in the world.
fn bomb(round: u64, length: usize) -> Vec<u8> {
    let mut bytes = if round.is_multiple_of(2) { vec![0x81; length] } else { vec![0x9b; length] };
    bytes[length - 8..].copy_from_slice(&round.to_be_bytes());
    bytes
}

fn wants(round: u64) -> Vec<u8> {
    let entry =
        |n: u64| bytes(1, &bytes(1, &raw_cid(&(round * WANTS_PER_MESSAGE + n).to_be_bytes()).to_bytes()));
    frame(&bytes(1, &(0..WANTS_PER_MESSAGE).flat_map(entry).collect::<Vec<_>>()))
}

type Blocks = Vec<(Cid, Vec<u8>)>;

/// What the operator imports at its start.
static FILE: LazyLock<(Cid, Blocks)> = LazyLock::new(|| {
    let numbers = (0..8u64 * 1024 * 1024 / 8).flat_map(u64::to_be_bytes);
    import(&numbers.collect::<Vec<u8>>())
});

fn wanted() -> Vec<u8> {
    let entries = FILE.1.iter().flat_map(|(cid, _)| bytes(1, &bytes(1, &cid.to_bytes())));
    frame(&bytes(1, &entries.collect::<Vec<_>>()))
}

fn unasked(round: u64) -> Vec<u8> {
    let block = blake3(&round.to_be_bytes()).0.repeat(8 * 1024);
    frame(&bytes(3, &[bytes(1, &[1, 0x55, 0x12, 32]), bytes(2, &block)].concat()))
}

/// One stream after another, until it is stopped.
async fn attack(attack: Attack, mut control: Control, peer: PeerId, sent: Arc<AtomicU64>) {
    loop {
        let round = sent.fetch_add(1, Ordering::Relaxed);
        // A node that has had enough opens no more streams: that ends the attack.
        let Ok(Ok(mut stream)) = timeout(KEPT, control.open_stream(peer, attack.protocol())).await else {
            sleep(KEPT).await;
            continue;
        };
        let (first, rest) = attack.pieces(round);
        let write = async {
            stream.write_all(&first).await?;
            stream.flush().await?;
            for byte in rest {
                sleep(PAUSE).await;
                stream.write_all(&[byte]).await?;
                stream.flush().await?;
            }
            // Whoever hangs up says so by ending the stream.
            stream.read(&mut [0]).await
        };
        // That the operator ends the stream is its good right.
        let _ = timeout(KEPT, write).await;
        sleep(PAUSE).await;
    }
}

/// Takes streams and reads none.
async fn ignore(mut incoming: libp2p_stream::IncomingStreams) {
    let mut kept = Vec::new();
    while let Some(stream) = incoming.next().await {
        kept.push(stream);
    }
}

/// Connections of which each says so little that its handshake never ends.
async fn slow_handshakes(at: SocketAddr, opened: Arc<AtomicU64>) {
    let one = || async {
        loop {
            if let Ok(mut connection) = tokio::net::TcpStream::connect(at).await {
                opened.fetch_add(1, Ordering::Relaxed);
                while tokio::io::AsyncWriteExt::write_all(&mut connection, &[0x13]).await.is_ok() {
                    sleep(Duration::from_secs(1)).await;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    };
    join_all((0..CONNECTIONS).map(|_| one())).await;
}

fn peak_mib(operator: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Where the operator takes TCP.
fn address(site: &Site) -> SocketAddr {
    let entries = addresses::scan(&site.runtime(), POOL).unwrap();
    let operator = entries.iter().find(|entry| entry.role == "operator").unwrap();
    let port = operator.addresses.iter().find_map(|address| {
        let port = address.split("/tcp/").nth(1)?.split('/').next()?.parse().ok()?;
        Some(port)
    });
    SocketAddr::from(([127, 0, 0, 1], port.unwrap()))
}

/// Honest jobs and the operator's memory bear it; prints a row of the table.
fn hold(what: &str, pool: &Besieged, attacked: &[Duration], note: &str) {
    let peak = peak_mib(&pool.operator);
    let (median, longest) = (attacked[HONEST_JOBS / 2], attacked[HONEST_JOBS - 1]);
    println!("| {what} | {note} | {median:.2?} | {longest:.2?} | {peak} MiB |");
    pool.bears(what, attacked);
    assert!(peak <= MAX_PEAK_MIB, "{what}: {peak} MiB");
}

fn besieged() -> Besieged {
    let site = Site::new();
    let archive = site.home().join("file.car");
    let mut writer = CarWriter::new(std::fs::File::create(&archive).unwrap(), &[FILE.0]).unwrap();
    FILE.1.iter().for_each(|(cid, block)| writer.put(cid, block).unwrap());
    writer.finish().unwrap();
    Besieged::start(site, &["--metrics", "0", "--import", &text(&archive)])
}

/// Forty streams at a time.
fn by_streams(kind: Attack, pool: &Besieged, runtime: &Runtime) {
    let (mut control, peer, driver) = runtime.block_on(async { dial(&pool.site) });
    drop(runtime.block_on(open(&mut control, peer, kind.protocol())));
    let ignoring = runtime.spawn(ignore(control.accept(BITSWAP).unwrap()));
    let sent = Arc::new(AtomicU64::new(0));
    let attackers: Vec<_> =
        (0..STREAMS).map(|_| runtime.spawn(attack(kind, control.clone(), peer, sent.clone()))).collect();
    let attacked = pool.honest();
    attackers.iter().chain([&driver, &ignoring]).for_each(JoinHandle::abort);
    let streams = sent.load(Ordering::Relaxed);
    assert!(streams >= STREAMS as u64, "{kind:?} was tried");
    hold(&format!("{kind:?}"), pool, &attacked, &streams.to_string());
}

fn by_handshakes(pool: &Besieged, runtime: &Runtime) {
    let opened = Arc::new(AtomicU64::new(0));
    let slow = runtime.spawn(slow_handshakes(address(&pool.site), opened.clone()));
    eventually("all have connected", || (opened.load(Ordering::Relaxed) >= CONNECTIONS).then_some(()));
    let attacked = pool.honest();
    slow.abort();
    let connections = format!("{} connections", opened.load(Ordering::Relaxed));
    hold("SlowHandshakes", pool, &attacked, &connections);
}

/// Bytes that are invalid for everybody, as gossip.
fn by_gossip(pool: &Besieged, runtime: &Runtime, metrics: SocketAddr) {
    let stop = CancellationToken::new();
    let raw = runtime.block_on(Raw::join(&pool.site));
    let message = |round: u64| {
        frame(&bytes(2, &[bytes(2, &bomb(round, 4000)), bytes(4, &topic(Topic::Jobs))].concat()))
    };
    let begun = Instant::now();
    let flooding = runtime.spawn(raw.flood(message, stop.clone()));
    eventually("who gossips bombs is no longer listened to", || (graylisted(metrics) > 0.0).then_some(()));
    let fell_after = begun.elapsed();
    let attacked = pool.honest();
    assert!(graylisted(metrics) <= 1.0, "nobody else is despised");
    stop.cancel();
    let (sent, _) = runtime.block_on(flooding).unwrap();
    let note = format!("{sent} messages, graylisted after {fell_after:.2?}");
    hold("GossipBomb", pool, &attacked, &note);
    assert!(fell_after <= TIME_TO_GRAYLIST, "{fell_after:?}");
}

#[test]
fn halves_drops_and_bombs_keep_no_honest_job_waiting() {
    let pool = besieged();
    let metrics = listener(&pool.operator);
    println!("| attack | streams | honest jobs, median | longest | operator's peak |\n|---|---|---|---|---|");
    hold("none", &pool, &pool.calm, "");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for kind in Attack::ALL {
        by_streams(kind, &pool, &runtime);
        assert!(graylisted(metrics) < 1.0, "{kind:?}: somebody honest is despised");
    }
    by_handshakes(&pool, &runtime);
    by_gossip(&pool, &runtime, metrics);
    drop(runtime);
    pool.recovers(140);
}
