//! An operator, a miner and a client in one process, with real connections on the loopback.

use anyhow::{Context, Result, bail};
use clap::Parser;
use libp2p::PeerId;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_crypto::key::SecretKey;
use swarm_inference::Registry;
use swarm_node::cli::NodeArgs;
use swarm_node::clock::Clock;
use swarm_node::driver::{self, Flow, Input, MAX_INBOX, Shell};
use swarm_node::network::{BlockSource, Network, NetworkConfig, NetworkEvent, Topic, Until, Verdict};
use swarm_node::providers::Providers;
use swarm_protocol::Millis;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::statement::{
    Assurance, Body, Header, Input as JobInput, Intake, Job, JobType, Nonce, Params, Signed, Statement,
    Topic as RulesTopic, Verified,
};
use swarm_protocol::submission::{Effect, Event, Outcome, Submission};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const POOL: &str = "bench.eth";
const SETUP_TIMEOUT: Duration = Duration::from_secs(60);
const JOB_TIMEOUT: Duration = Duration::from_secs(300);
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the rig looks whether the miner has been heard; nothing tells it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A pool that works, for as long as this lives.
pub struct Rig {
    stop: CancellationToken,
    nodes: Vec<JoinHandle<Result<()>>>,
    client: Client,
    address: String,
    _home: tempfile::TempDir,
}

impl Rig {
    /// Where the operator listens.
    #[allow(dead_code, reason = "only a client that is a process of its own asks")]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts the three, the miner with `providers`, both nodes with the models of `manifests`; waits until a miner
    /// serves `model`.
    pub async fn start(manifests: &[PathBuf], providers: Registry, model: &str) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("/ip4/127.0.0.1/tcp/{port}");
        let anywhere = "/ip4/127.0.0.1/tcp/0";
        let args = |role: &str, listen: &str| {
            let mut args: Vec<OsString> = vec!["swarm-node".into(), "--home".into(), home.path().into()];
            let flags = ["--role", role, "--pool", POOL, "--no-mdns", "--listen", listen];
            args.extend(flags.map(OsString::from));
            args.extend(manifests.iter().flat_map(|path| ["--model".into(), path.into()]));
            args
        };
        let operator = NodeArgs::try_parse_from(args("operator", &address))?;
        let mut miner = args("miner", anywhere);
        miner.extend(["--bootstrap".into(), address.clone().into()]);
        let miner = NodeArgs::try_parse_from(miner)?;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let operator = tokio::spawn(swarm_node::operator::run(operator, stop.clone()));
        let providers = Providers::lasting(providers);
        let miner = tokio::spawn(async move { swarm_node::miner::run_with(miner, &providers, token).await });
        let client = timeout(SETUP_TIMEOUT, Client::join(&address, anywhere, model)).await;
        Ok(Self {
            client: client.context("no pool in time")??,
            stop,
            nodes: vec![operator, miner],
            address,
            _home: home,
        })
    }

    /// Submits a job and waits for its answer.
    pub async fn submit(&mut self, job: Job) -> Result<Vec<u8>> {
        timeout(JOB_TIMEOUT, self.client.submit(job)).await.context("no answer in time")?
    }

    /// Ends all three.
    pub async fn stop(self) -> Result<()> {
        self.client.network.shutdown().await;
        self.stop.cancel();
        for node in self.nodes {
            node.await??;
        }
        Ok(())
    }

    /// A job that asks `model` for `max_tokens` tokens.
    pub fn job(&self, model: &str, text: &str, max_tokens: u32, temperature: u32) -> Job {
        Job {
            job_type: JobType::LlmGen,
            model: model.to_owned(),
            input: JobInput::Text(text.to_owned()),
            params: Params { max_tokens, temperature, top_p: 10_000, seed: None, stop: vec![] },
            price: MicroUsdc(100),
            not_after: self.client.clock.now() + Millis::from_secs(300),
            max_runtime_s: 200,
            vram_mb: 0,
            assurance: Assurance::Seeded,
        }
    }
}

struct NoBlocks;

impl BlockSource for NoBlocks {
    fn block(&self, _: &cid::Cid) -> Option<Vec<u8>> {
        None
    }
}

struct Client {
    key: SecretKey,
    clock: Clock,
    network: Network,
    events: mpsc::Receiver<NetworkEvent>,
    operator: PeerId,
    intake: Arc<Mutex<Intake>>,
    beacon: Verified,
    jobs: u64,
}

impl Client {
    async fn join(operator: &str, listen: &str, model: &str) -> Result<Self> {
        let mut config = NetworkConfig::new([9; 32], POOL);
        config.listen = vec![listen.parse()?];
        config.bootstrap = vec![operator.parse()?];
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
            if body.models.iter().any(|supply| supply.model == model && supply.miners > 0) {
                let mut intake = Intake::new(said.header.pool, said.header.by);
                let beacon = intake.verify(None, &beacon.encode(), clock.now())?;
                let (key, intake) = (SecretKey::from_bytes(&[5; 32])?, Arc::new(Mutex::new(intake)));
                return Ok(Self { key, clock, network, events, operator, intake, beacon, jobs: 0 });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn submit(&mut self, job: Job) -> Result<Vec<u8>> {
        self.jobs += 1;
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.jobs.to_be_bytes());
        let pool = self.beacon.statement().header.pool;
        let header = Header { pool, by: self.key.address(), at: self.clock.now(), nonce: Nonce(nonce) };
        let signed = Statement { header, body: Body::Job(job) }.sign(&self.key);
        let verified = verify(&self.intake, &signed, self.clock)?;
        let mut submission = Submission::new(&verified).context("it is a job")?;
        let (inbox, mut inputs) = mpsc::channel(MAX_INBOX);
        inbox.send(Input::Event(Event::Connected)).await?;
        inbox.send(Input::Event(Event::Heard(Box::new(self.beacon.clone())))).await?;
        let (network, intake) = (self.network.clone(), self.intake.clone());
        let forward = forward(&network, &intake, self.clock, &mut self.events, inbox.clone());
        let (operator, clock) = (self.operator, self.clock);
        let mut shell = JobShell {
            network: network.clone(),
            operator,
            intake: intake.clone(),
            clock,
            inbox,
            outcome: None,
        };
        let stop = CancellationToken::new();
        tokio::select! {
            run = driver::run(&mut submission, &mut shell, &mut inputs, clock, &stop) => run?,
            () = forward => bail!("the network ended"),
        }
        match shell.outcome.context("the wait ended without an outcome")? {
            Outcome::Answer { output, .. } => Ok(output),
            other => bail!("no answer: {other:?}"),
        }
    }
}

async fn forward(
    network: &Network,
    intake: &Mutex<Intake>,
    clock: Clock,
    events: &mut mpsc::Receiver<NetworkEvent>,
    inbox: mpsc::Sender<Input<Event, ()>>,
) {
    while let Some(event) = events.recv().await {
        let NetworkEvent::Gossip { topic, id, from, data } = event else { continue };
        let topic = RULES_TOPICS[topic as usize];
        let heard =
            intake.lock().unwrap_or_else(PoisonError::into_inner).accept(Some(topic), &data, clock.now());
        let verdict = if heard.is_ok() { Verdict::Accept } else { Verdict::Ignore };
        let told = network.verdict(id, from, verdict).await;
        if told.is_err() {
            return;
        }
        if let Ok(verified) = heard {
            // The inbox is gone only when the wait is over.
            let _ = inbox.send(Input::Event(Event::Heard(Box::new(verified)))).await;
        }
    }
}

/// In the order of [`Topic::ALL`].
const RULES_TOPICS: [RulesTopic; 5] =
    [RulesTopic::Jobs, RulesTopic::Claims, RulesTopic::Proofs, RulesTopic::Heartbeats, RulesTopic::Epochs];

fn verify(intake: &Mutex<Intake>, signed: &Signed, clock: Clock) -> Result<Verified> {
    let mut intake = intake.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(intake.verify(None, &signed.encode(), clock.now())?)
}

async fn ask(network: &Network, peer: PeerId, query: &Query) -> Result<Answer> {
    Ok(Answer::decode(&network.request(peer, query.encode()).await?)?)
}

struct JobShell {
    network: Network,
    operator: PeerId,
    intake: Arc<Mutex<Intake>>,
    clock: Clock,
    inbox: mpsc::Sender<Input<Event, ()>>,
    outcome: Option<Outcome>,
}

impl JobShell {
    fn ask(&self, query: Query) {
        let (network, operator, inbox) = (self.network.clone(), self.operator, self.inbox.clone());
        let (intake, clock) = (self.intake.clone(), self.clock);
        tokio::spawn(async move {
            let Ok(Answer::Fate(fate)) = ask(&network, operator, &query).await else { return };
            if let Fate::Accepted { receipt: said, .. } | Fate::Ended { refusal: said } = &fate
                && let Ok(verified) = verify(&intake, said, clock)
            {
                let _ = inbox.send(Input::Event(Event::Heard(Box::new(verified)))).await;
            }
            let _ = inbox.send(Input::Event(Event::Fate(fate))).await;
        });
    }

    fn fetch(&self, cid: cid::Cid, bytes: u64) {
        let (network, operator, inbox) = (self.network.clone(), self.operator, self.inbox.clone());
        tokio::spawn(async move {
            let max = usize::try_from(bytes).unwrap_or(usize::MAX);
            let fetched = network.fetch(&cid, &[operator], max, Until::within(FETCH_TIMEOUT)).await;
            let bytes = fetched.map_err(|e| e.to_string());
            let _ = inbox.send(Input::Event(Event::OutputFetched { cid, bytes })).await;
        });
    }
}

impl Shell<Submission> for JobShell {
    type Ask = ();

    async fn perform(&mut self, _: &Submission, effects: Vec<Effect>) -> Result<Flow> {
        for effect in effects {
            match effect {
                Effect::Publish(topic, signed) => {
                    let place = RULES_TOPICS.iter().position(|known| *known == topic).context("a topic")?;
                    self.network.publish(Topic::ALL[place], signed.encode()).await?;
                }
                Effect::Hand(signed) => self.ask(Query::Hand(signed)),
                Effect::Ask(query) => self.ask(query),
                Effect::Fetch { cid, bytes } => self.fetch(cid, bytes),
                // An old beacon may say that there is no miner; the rig has seen a newer one.
                Effect::Stage(_) | Effect::NoMiner { .. } => {}
                Effect::Done(outcome) => {
                    self.outcome = Some(*outcome);
                    return Ok(Flow::Stop);
                }
            }
        }
        Ok(Flow::Continue)
    }

    async fn answer(&mut self, _: &Submission, (): ()) {}
}
