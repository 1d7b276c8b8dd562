//! What a running node says of itself to its owner, over a socket in its own folder.

use crate::cli::{Exit, NodeArgs, UserError};
use crate::clock::Clock;
use crate::daemon::{DaemonStatus, Standing};
use crate::home::home_root;
use crate::link::Link;
use crate::miner::{Diary, Entry};
use crate::network::Network;
use crate::socket::{self, Answering};
use crate::storage::home::DataDir;
use crate::tables::{Column, PEER_COLUMNS, PeerRow, age, column, table, tail};
use crate::view::LiveView;
use crate::words::clean;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use swarm_crypto::address::Address;
use swarm_protocol::Timestamp;
use swarm_protocol::miner::Pause;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::ModelSupply;
use swarm_protocol::view::JobState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The socket, in the node's folder.
const SOCKET_FILE: &str = "status.sock";
/// How long a node may take to say what it does, and how long it waits for whoever asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer: 4,096 peers with addresses as long as may be.
const MAX_STATUS_BYTES: u64 = 16 * 1024 * 1024;
/// Nodes of one pool that are asked.
const MAX_NODES: usize = 256;

const JOB_COLUMNS: [Column; 6] = [
    column("job", 9, 0),
    column("model", 24, 1),
    column("USDC", 10, 1),
    column("ago", 6, 1),
    column("outcome", 10, 0),
    column("why", 100, 0),
];
const PAY_COLUMNS: [Column; 3] =
    [column("model", 40, 0), column("miners", 6, 0), column("USDC for a million work units (pps)", 36, 0)];

/// What a node does. `docs/status.md` describes its JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: String,
    pub role: String,
    pub pool: String,
    pub version: String,
    pub process: u32,
    pub wallet: String,
    pub peer: String,
    pub started_ms: u64,
    pub now_ms: u64,
    pub listening: Vec<String>,
    /// Of a miner that has joined its pool.
    pub view: Option<Seen>,
    /// Of a node with an IPFS daemon beside it.
    #[serde(default)]
    pub ipfs: Option<DaemonStatus>,
    pub peers: Vec<PeerRow>,
}

/// The pool, as a miner sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    pub operator: String,
    pub operator_in_reach: bool,
    pub age_ms: u64,
    pub epoch: u64,
    pub pending: u64,
    pub leased: u64,
    pub leased_here: u64,
    pub miners: u64,
    /// Whether it takes no jobs for now.
    #[serde(default)]
    pub paused: bool,
    /// Whether that is because of `--hours`.
    #[serde(default)]
    pub outside_hours: bool,
    /// The last jobs that it heard of, oldest first.
    #[serde(default)]
    pub jobs: Vec<Entry>,
    /// What the pool pays for which models.
    #[serde(default)]
    pub pays: Vec<Pay>,
}

/// What a pool pays for a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pay {
    pub model: String,
    /// Live miners that serve it.
    pub miners: u64,
    /// What a million of its work units bring a miner that is paid by share, once there is a rate.
    pub pps_usdc: Option<String>,
}

impl Pay {
    fn of(supply: &ModelSupply) -> Self {
        let pps_usdc = supply.rate.map(|rate| MicroUsdc(rate).to_string());
        Self { model: supply.model.clone(), miners: supply.miners, pps_usdc }
    }
}

/// What a node asks about itself.
struct Told {
    role: &'static str,
    pool: String,
    wallet: Address,
    network: Network,
    clock: Clock,
    joined: Joined,
    daemon: Option<Standing>,
}

/// What a miner is and knows once it has joined its pool.
pub struct Member {
    pub link: Link,
    pub view: LiveView,
    pub diary: Diary,
}

/// Where it is put then.
pub type Joined = Arc<OnceLock<Member>>;

/// Begins to answer whoever asks.
#[expect(clippy::too_many_arguments, reason = "they are what is told")]
pub fn answer(
    directory: &DataDir,
    role: &'static str,
    pool: &str,
    wallet: Address,
    network: &Network,
    clock: Clock,
    joined: &Joined,
    daemon: Option<Standing>,
) -> Option<Answering> {
    let (pool, network, joined) = (pool.to_owned(), network.clone(), joined.clone());
    let told = Told { role, pool, wallet, network, clock, joined, daemon };
    let told = Arc::new(told);
    let node = directory.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let started = clock.now();
    socket::answer(directory, SOCKET_FILE, "status", move |asker| {
        tell(asker, told.clone(), node.clone(), started)
    })
}

async fn tell(mut asker: UnixStream, told: Arc<Told>, node: String, started: Timestamp) {
    let answer = async {
        let status = told.status(&node, started).await;
        let text = serde_json::to_vec(&status).unwrap_or_default();
        asker.write_all(&text).await
    };
    // Whoever asked may have gone.
    let _ = timeout(ANSWER_TIMEOUT, answer).await;
}

impl Told {
    async fn status(&self, node: &str, started: Timestamp) -> NodeStatus {
        let peers = self.network.peers().await.unwrap_or_default();
        let listening = self.network.listen_addresses().await.unwrap_or_default();
        NodeStatus {
            node: node.to_owned(),
            role: self.role.to_owned(),
            pool: self.pool.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            wallet: self.wallet.to_string(),
            peer: self.network.peer_id().to_string(),
            started_ms: started.0,
            now_ms: self.clock.now().0,
            listening: listening.iter().map(ToString::to_string).collect(),
            view: self.joined.get().map(|member| self.seen(member)),
            ipfs: self.daemon.as_ref().map(Standing::status),
            peers: peers.iter().map(PeerRow::of).collect(),
        }
    }

    fn seen(&self, member: &Member) -> Seen {
        let Member { link, view, diary } = member;
        let heard = view.heard();
        let (mut leased, mut pending, mut here) = (0, 0, 0);
        for (_, state) in heard.view.jobs() {
            match state {
                JobState::Pending { .. } => pending += 1,
                JobState::Leased { wallet, .. } => {
                    leased += 1;
                    here += u64::from(wallet == self.wallet);
                }
                JobState::Accepted { .. } | JobState::Refunded { .. } => {}
            }
        }
        Seen {
            operator: link.operator().to_string(),
            operator_in_reach: link.peer().is_some(),
            age_ms: self.clock.now().since(heard.heard_at).0,
            epoch: heard.beacon.as_ref().map_or(0, |(beacon, _)| beacon.epoch),
            pending,
            leased,
            leased_here: here,
            miners: heard.live_miners(self.clock.now()) as u64,
            paused: diary.paused().is_some(),
            outside_hours: diary.paused() == Some(Pause::Hours),
            jobs: diary.entries(),
            pays: heard
                .beacon
                .as_ref()
                .map_or_else(Vec::new, |(beacon, _)| beacon.models.iter().map(Pay::of).collect()),
        }
    }
}

/// Asks the nodes of a pool that run here.
pub async fn running(args: &NodeArgs) -> Result<Vec<NodeStatus>> {
    let mut nodes = Vec::new();
    for folder in folders_with(args, SOCKET_FILE)? {
        match timeout(ANSWER_TIMEOUT, ask(&folder.join(SOCKET_FILE))).await {
            Ok(Ok(status)) => nodes.push(status),
            Ok(Err(error)) => tracing::debug!("{} does not answer: {error}", folder.display()),
            Err(_) => tracing::warn!("the node of {} does not answer", folder.display()),
        }
    }
    Ok(nodes)
}

/// The same, and prints what they say.
pub async fn show(args: &NodeArgs, json: bool) -> Result<Exit> {
    let pool = home_root(&args.files)?.join(&args.pool.pool);
    let nodes = running(args).await?;
    if nodes.is_empty() {
        return Err(UserError::input(format!(
            "no such node of {} runs here: none answers in {}",
            args.pool.pool,
            pool.display()
        ))
        .hint("start one with swarm-node --role operator or --role miner, or name its folder with --home")
        .into());
    }
    let text = if json {
        format!("{}\n", serde_json::json!({ "nodes": nodes }))
    } else {
        nodes.iter().map(page).collect::<Vec<_>>().join("\n")
    };
    // A closed pipe is no reason to complain.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(Exit::Done)
}

/// The folders of nodes that may run and can be asked over this socket, by name.
pub(crate) fn folders_with(args: &NodeArgs, socket: &str) -> Result<Vec<PathBuf>> {
    let pool = home_root(&args.files)?.join(&args.pool.pool);
    let Ok(entries) = std::fs::read_dir(pool) else { return Ok(Vec::new()) };
    let role = args.role.map(crate::cli::NodeRole::name);
    let wanted = |folder: &Path| {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (is, called) = name.split_once('-').map_or((name.as_str(), None), |(is, name)| (is, Some(name)));
        role.is_none_or(|role| role == is) && args.data_name().is_none_or(|name| called == Some(name))
    };
    let found = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let found = found.filter(|folder| wanted(folder) && folder.join(socket).exists());
    let mut found: Vec<PathBuf> = found.take(MAX_NODES).collect();
    found.sort();
    Ok(found)
}

async fn ask(path: &Path) -> Result<NodeStatus> {
    let stream = socket::connect(path).await?;
    let mut text = Vec::new();
    stream.take(MAX_STATUS_BYTES).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

fn page(status: &NodeStatus) -> String {
    let mut text = format!(
        "{}\n  process   {}, version {}, up {}\n  wallet    {}\n  pool      {}\n",
        clean(&status.node),
        status.process,
        clean(&status.version),
        age(status.started_ms, status.now_ms),
        clean(&status.wallet),
        clean(&status.pool),
    );
    match &status.view {
        Some(seen) => text.push_str(&seen_page(seen)),
        None if status.role == "miner" => text.push_str("  operator  looking for it\n"),
        None => {}
    }
    if let Some(daemon) = &status.ipfs {
        text.push_str(&daemon_line(daemon));
    }
    text.push_str(&format!("  peer      {}\n", clean(&status.peer)));
    for address in &status.listening {
        text.push_str(&format!("  listens   {}\n", clean(address)));
    }
    text.push_str(&format!("\n  Peers ({})\n", status.peers.len()));
    let rows: Vec<_> = status.peers.iter().map(|peer| peer.cells(status.now_ms)).collect();
    if !rows.is_empty() {
        text.push_str(&table(&PEER_COLUMNS, &rows));
    }
    text
}

fn daemon_line(daemon: &DaemonStatus) -> String {
    let behind = match (daemon.behind, daemon.compared) {
        (0, true) => "has everything that is pinned here".to_owned(),
        (blocks, true) => format!("{blocks} blocks behind"),
        (blocks, false) => format!("{blocks} blocks behind or more"),
    };
    let trouble = daemon.trouble.as_ref().map_or(String::new(), |why| format!(": {}", clean(why)));
    format!("  ipfs      {}, {behind}{trouble}\n", clean(&daemon.api))
}

/// Says for the miners of a pool that run here why the last jobs were not theirs, and what the pool pays.
pub async fn explain(args: &NodeArgs, json: bool) -> Result<Exit> {
    let nodes = running(args).await?;
    let miners: Vec<(&NodeStatus, &Seen)> =
        nodes.iter().filter_map(|node| Some((node, node.view.as_ref()?))).collect();
    if miners.is_empty() {
        return Err(UserError::input(format!(
            "no miner of {} runs here, or none has joined it yet",
            args.pool.pool
        ))
        .hint("swarm-node doctor says what keeps it from it")
        .into());
    }
    let text = if json {
        let told = |(node, seen): &(&NodeStatus, &Seen)| serde_json::json!({ "node": node.node, "jobs": seen.jobs, "pays": seen.pays });
        format!("{}\n", serde_json::json!({ "miners": miners.iter().map(told).collect::<Vec<_>>() }))
    } else {
        miners.iter().map(|(node, seen)| explained(node, seen)).collect::<Vec<_>>().join("\n")
    };
    // A closed pipe is no reason to complain.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(Exit::Done)
}

fn explained(node: &NodeStatus, seen: &Seen) -> String {
    let job = |entry: &Entry| {
        vec![
            tail(&entry.job),
            clean(entry.model.as_deref().unwrap_or("-")),
            clean(entry.price_usdc.as_deref().unwrap_or("-")),
            age(entry.at_ms, node.now_ms),
            clean(&entry.outcome),
            entry.pace.map_or(clean(&entry.why), |pace| format!("{}; {pace}", clean(&entry.why))),
        ]
    };
    let pay = |pay: &Pay| {
        let rate = pay.pps_usdc.as_deref().map_or("none yet".to_owned(), clean);
        vec![clean(&pay.model), pay.miners.to_string(), rate]
    };
    let paused = match (seen.paused, seen.outside_hours) {
        (false, _) => "",
        (true, false) => "  PAUSED: it takes no jobs until swarm-node resume\n",
        (true, true) => "  PAUSED: it takes no jobs until its --hours begin\n",
    };
    let jobs = match seen.jobs.is_empty() {
        true => "  it has heard of no job yet\n".to_owned(),
        false => table(&JOB_COLUMNS, &seen.jobs.iter().map(job).collect::<Vec<_>>()),
    };
    let pays = table(&PAY_COLUMNS, &seen.pays.iter().map(pay).collect::<Vec<_>>());
    format!("{}\n{paused}{jobs}\n{pays}", clean(&node.node))
}

fn seen_page(seen: &Seen) -> String {
    let age = age(0, seen.age_ms);
    let reach =
        if seen.operator_in_reach { format!("heard {age} ago") } else { format!("OUT OF REACH for {age}") };
    let paused = match (seen.paused, seen.outside_hours) {
        (false, _) => "",
        (true, false) => "  PAUSED    swarm-node resume ends it\n",
        (true, true) => "  PAUSED    until its --hours begin\n",
    };
    format!(
        "{paused}  operator  {}, {reach}\n  epoch     {}\n  jobs      {} pending, {} leased, {} of them here\n  miners    {} live\n",
        clean(&seen.operator),
        seen.epoch,
        seen.pending,
        seen.leased,
        seen.leased_here,
        seen.miners,
    )
}
