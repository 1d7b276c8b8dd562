//! The whole thing over real connections on the loopback: operator, miners and a client in one process, with engines that
//! answer at once.

use crate::at_once::AtOnce;
use crate::cast::{job, key};
use anyhow::{Context, Result, bail};
use clap::Parser;
use libp2p::PeerId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};
use swarm_crypto::address::PoolId;
use swarm_inference::{Registry, queenbee};
use swarm_node::cli::NodeArgs;
use swarm_node::clock::Clock;
use swarm_node::network::{BlockSource, Network, NetworkConfig, NetworkEvent, Verdict};
use swarm_node::providers::Providers;
use swarm_protocol::codec::JobId;
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::statement::{self, Body, Intake, Job, Params, Statement};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const POOL: &str = "lifecycle.eth";
const MINERS: usize = 4;
/// Wallets of the one node that submits.
const CLIENTS: usize = 16;
/// As many as there are miners, who take them at once; and so many that most of them wait for one.
const IN_FLIGHT: [usize; 2] = [4, 32];
const WARM_UP: usize = 64;
const JOBS: usize = 1000;
const TOKENS: u32 = 16;
const TIMEOUT: Duration = Duration::from_secs(300);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After this long without news the client asks what became of its jobs.
const SILENCE: Duration = Duration::from_secs(2);
const ANYWHERE: &str = "/ip4/127.0.0.1/tcp/0";

pub struct Figures {
    pub in_flight: usize,
    pub per_second: f64,
    /// Milliseconds from a job's submission to its receipt, one for each job.
    pub times: Vec<f64>,
}

struct NoBlocks;

impl BlockSource for NoBlocks {
    fn block(&self, _: &cid::Cid) -> Option<Vec<u8>> {
        None
    }
}

/// The nodes that are the pool.
struct Pool {
    address: String,
    stop: CancellationToken,
    nodes: Vec<JoinHandle<Result<()>>>,
    _home: tempfile::TempDir,
}

impl Pool {
    fn start() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}");
        let args = |role: &str, name: &str, more: &[&str]| {
            let mut args: Vec<OsString> = vec!["swarm-node".into(), "--home".into(), home.path().into()];
            let flags = ["--role", role, "--name", name, "--pool", POOL, "--no-mdns"];
            args.extend(flags.iter().chain(more).map(OsString::from));
            NodeArgs::try_parse_from(args)
        };
        let stop = CancellationToken::new();
        let operator = args("operator", "operator", &["--listen", &address, "--window", "0s"])?;
        let mut nodes = vec![tokio::spawn(swarm_node::operator::run(operator, stop.clone()))];
        for n in 0..MINERS {
            let args =
                args("miner", &format!("miner-{n}"), &["--listen", ANYWHERE, "--bootstrap", &address])?;
            let mut providers = Registry::empty();
            providers.register(Arc::new(AtOnce::of(&queenbee())?));
            let (providers, token) = (Providers::lasting(providers), stop.clone());
            nodes.push(tokio::spawn(
                async move { swarm_node::miner::run_with(args, &providers, token).await },
            ));
        }
        Ok(Self { address, stop, nodes, _home: home })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        for node in self.nodes {
            node.await??;
        }
        Ok(())
    }
}

/// One node with several wallets, that submits jobs and waits for their receipts.
struct Client {
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    operator: PeerId,
    clock: Clock,
    pool: PoolId,
    intake: Intake,
    said: usize,
    /// When each open job was submitted.
    open: BTreeMap<JobId, Instant>,
}

impl Client {
    async fn join(address: &str) -> Result<Self> {
        let mut config = NetworkConfig::new([9; 32], POOL);
        config.listen = vec![ANYWHERE.parse()?];
        config.bootstrap = vec![address.parse()?];
        config.mdns = false;
        let (network, mut events) = Network::start(config, Arc::new(NoBlocks)).await?;
        let operator = loop {
            match events.recv().await.context("the network ended")? {
                NetworkEvent::Connected { peer, agent, .. } if agent.contains("operator") => break peer,
                _ => {}
            }
        };
        let clock = Clock::start();
        loop {
            let Answer::Pool { beacon, .. } = ask(&network, operator, &Query::Beacon).await? else {
                bail!("the operator does not introduce itself")
            };
            let said = Statement::decode(&beacon.payload)?;
            let Body::Beacon(body) = &said.body else { bail!("the operator sends no beacon") };
            if body.models.iter().any(|supply| supply.miners == MINERS as u64) {
                let (pool, open) = (said.header.pool, BTreeMap::new());
                let intake = Intake::new(pool, said.header.by);
                return Ok(Self { network, events, operator, clock, pool, intake, said: 0, open });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn submit(&mut self) -> Result<()> {
        let (n, at) = (self.said, self.clock.now());
        self.said += 1;
        let params =
            Params { max_tokens: TOKENS, temperature: 10_000, top_p: 10_000, seed: None, stop: vec![] };
        let job = Job { model: queenbee().manifest.name, params, ..job(n, at) };
        let (key, start) = (key(100 + n % CLIENTS), Instant::now());
        let signed = Statement::derived(self.pool, key.address(), at, job.into()).sign(&key);
        self.open.insert(signed.id(), start);
        match ask(&self.network, self.operator, &Query::Hand(signed)).await? {
            Answer::Taken => Ok(()),
            other => bail!("a job was not taken: {other:?}"),
        }
    }

    /// The next job that is receipted, and how many milliseconds after its submission.
    async fn receipt(&mut self) -> Result<f64> {
        loop {
            let Ok(event) = timeout(SILENCE, self.events.recv()).await else {
                if let Some(time) = self.missed().await? {
                    return Ok(time);
                }
                continue;
            };
            let NetworkEvent::Gossip { topic, id, from, data } = event.context("the network ended")? else {
                continue;
            };
            let heard = self.intake.accept(Some(RULES_TOPICS[topic as usize]), &data, self.clock.now());
            let verdict = if heard.is_ok() { Verdict::Accept } else { Verdict::Ignore };
            self.network.verdict(id, from, verdict).await?;
            let Ok(Body::Receipt(receipt)) = heard.as_ref().map(|heard| &heard.statement().body) else {
                continue;
            };
            if let Some(start) = self.open.remove(&receipt.job) {
                return Ok(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }

    /// A receipt that was not heard is asked for.
    async fn missed(&mut self) -> Result<Option<f64>> {
        for job in self.open.keys().copied().collect::<Vec<_>>() {
            let answer = ask(&self.network, self.operator, &Query::Job { job }).await?;
            if let Answer::Fate(Fate::Accepted { receipt, .. }) = answer {
                self.intake.verify(None, &receipt.encode(), self.clock.now())?;
                let start = self.open.remove(&job).context("it was open")?;
                return Ok(Some(start.elapsed().as_secs_f64() * 1e3));
            }
        }
        Ok(None)
    }

    async fn lives(&mut self, jobs: usize, in_flight: usize) -> Result<Vec<f64>> {
        let (mut times, last) = (Vec::new(), self.said + jobs);
        while times.len() < jobs {
            while self.open.len() < in_flight && self.said < last {
                self.submit().await?;
            }
            times.push(self.receipt().await?);
        }
        Ok(times)
    }
}

/// In the order of the network's topics.
const RULES_TOPICS: [statement::Topic; 5] = [
    statement::Topic::Jobs,
    statement::Topic::Claims,
    statement::Topic::Proofs,
    statement::Topic::Heartbeats,
    statement::Topic::Epochs,
];

async fn ask(network: &Network, peer: PeerId, query: &Query) -> Result<Answer> {
    Ok(Answer::decode(&network.request(peer, query.encode()).await?)?)
}

pub async fn run() -> Result<Vec<Figures>> {
    let pool = Pool::start()?;
    let mut client = timeout(TIMEOUT, Client::join(&pool.address)).await.context("no pool in time")??;
    timeout(TIMEOUT, client.lives(WARM_UP, IN_FLIGHT[0])).await.context("no answers in time")??;
    let mut figures = Vec::new();
    for in_flight in IN_FLIGHT {
        let start = Instant::now();
        let lives = timeout(TIMEOUT, client.lives(JOBS, in_flight)).await;
        let times = lives.context("no answers in time")??;
        let per_second = JOBS as f64 / start.elapsed().as_secs_f64();
        figures.push(Figures { in_flight, per_second, times });
    }
    client.network.shutdown().await;
    pool.stop().await?;
    println!("{MINERS} miners, {JOBS} jobs");
    Ok(figures)
}
