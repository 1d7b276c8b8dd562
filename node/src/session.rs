//! Joining a pool: find its operator, check that it is the one known, and agree on whose statements count.

use crate::clock::Clock;
use crate::network::{Network, NetworkEvent, Verdict};
use crate::storage::pins::{PinError, confirm_operator, pin_operator};
use anyhow::{Result, anyhow};
use libp2p::PeerId;
use std::path::PathBuf;
use std::time::Duration;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::key::SecretKey;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, Intake, Signed, Statement, Verified};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// What an operator's node says of itself on connecting; only a hint whom to ask.
pub const OPERATOR_AGENT: &str = "operator";
const MAX_CANDIDATES: usize = 16;
const FIRST_NOTICE: Duration = Duration::from_secs(5);

/// Which operator is accepted.
#[derive(Debug, Clone)]
pub struct JoinTerms {
    /// The pool's name.
    pub pool: String,
    /// The only operator accepted, if one was named.
    pub operator: Option<Address>,
    /// A changed operator that the user has confirmed.
    pub accept: Option<Address>,
    /// Where operators are remembered.
    pub known_operators: PathBuf,
}

/// A pool that was joined.
#[derive(Debug)]
pub struct Joined {
    /// Its id.
    pub pool: PoolId,
    /// Its operator.
    pub operator: Address,
    /// The operator's node.
    pub peer: PeerId,
    /// Its beacon, checked.
    pub beacon: Verified,
    /// The statement that opened the open epoch, checked.
    pub opened: Verified,
    /// The way in for everything that follows.
    pub intake: Intake,
}

/// A pool's operator, as it introduced itself.
#[derive(Debug)]
pub struct Introduction {
    peer: PeerId,
    beacon: Signed,
    opened: Signed,
}

/// Waits until the pool's operator is found and accepted; says what it is waiting for.
pub async fn join(
    network: &Network,
    events: &mut mpsc::Receiver<NetworkEvent>,
    terms: &JoinTerms,
    clock: Clock,
    deadline: Option<Instant>,
) -> Result<Joined> {
    let (sender, mut introductions) = mpsc::channel(MAX_CANDIDATES);
    let mut problem = None;
    let mut notice = Instant::now() + FIRST_NOTICE;
    let mut pause = FIRST_NOTICE;
    for peer in network.peers().await? {
        ask_if_operator(network, peer.peer, peer.agent.as_deref().unwrap_or_default(), &sender);
    }
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(NetworkEvent::Connected { peer, agent, .. }) => ask_if_operator(network, peer, &agent, &sender),
                Some(NetworkEvent::Gossip { id, from, .. }) => network.verdict(id, from, Verdict::Ignore).await?,
                Some(_) => {}
                None => return Err(anyhow!("the network stopped")),
            },
            Some(introduction) = introductions.recv() => match check(introduction, terms, clock) {
                Ok(joined) => return Ok(joined),
                Err(error) if error.downcast_ref::<PinError>().is_some() => return Err(error),
                Err(error) => {
                    tracing::warn!("an operator introduced itself but is not accepted: {error}");
                    problem = Some(error);
                }
            },
            () = sleep_until(notice) => {
                for peer in network.peers().await? {
                    ask_if_operator(network, peer.peer, peer.agent.as_deref().unwrap_or_default(), &sender);
                }
                tracing::info!("looking for the operator of {}; is `swarm-node --role operator` running?", terms.pool);
                pause = (pause * 2).min(Duration::from_secs(60));
                notice += pause;
            }
            () = wait_until(deadline) => {
                return Err(problem.unwrap_or_else(|| anyhow!("no operator of {} was found", terms.pool)));
            }
        }
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn ask_if_operator(network: &Network, peer: PeerId, agent: &str, sender: &mpsc::Sender<Introduction>) {
    if !agent.contains(OPERATOR_AGENT) {
        return;
    }
    let (network, sender) = (network.clone(), sender.clone());
    tokio::spawn(async move {
        match ask(&network, peer, &Query::Beacon).await {
            Ok(Answer::Pool { beacon, opened }) => {
                // A full queue means that enough operators have introduced themselves already.
                let _ = sender.try_send(Introduction { peer, beacon, opened });
            }
            Ok(other) => tracing::debug!(?other, "not an introduction"),
            Err(error) => tracing::warn!("a peer that says it is an operator does not answer: {error}"),
        }
    });
}

/// Asks a peer one question.
pub async fn ask(network: &Network, peer: PeerId, query: &Query) -> Result<Answer> {
    let bytes = network.request(peer, query.encode()).await?;
    Answer::decode(&bytes).map_err(|e| anyhow!("its answer is unreadable ({e}); it may run another version"))
}

fn check(introduction: Introduction, terms: &JoinTerms, clock: Clock) -> Result<Joined> {
    let Introduction { peer, beacon, opened } = introduction;
    let statement = Statement::decode(&beacon.payload)?;
    let Body::Beacon(body) = &statement.body else { return Err(anyhow!("it sent no beacon")) };
    let operator = statement.header.by;
    let pool = PoolId::derive(&body.name, operator, body.chain, body.contract);
    if body.name != terms.pool || statement.header.pool != pool {
        return Err(anyhow!("it runs another pool, '{}'", body.name));
    }
    let mut intake = Intake::new(pool, operator);
    let beacon = intake.accept(None, &beacon.encode(), clock.now())?;
    let opened = intake.accept(None, &opened.encode(), clock.now())?;
    accept_operator(terms, operator)?;
    Ok(Joined { pool, operator, peer, beacon, opened, intake })
}

fn accept_operator(terms: &JoinTerms, operator: Address) -> Result<()> {
    if let Some(wanted) = terms.operator {
        return if wanted == operator {
            Ok(())
        } else {
            Err(anyhow!("its operator is {operator}, but --operator names {wanted}"))
        };
    }
    if terms.accept == Some(operator) {
        return Ok(confirm_operator(&terms.known_operators, &terms.pool, &operator.to_string())?);
    }
    pin_operator(&terms.known_operators, &terms.pool, &operator.to_string())?;
    Ok(())
}

/// Reads a secret file's bytes as a wallet key.
pub fn wallet_key(secret: &[u8; 32]) -> Result<SecretKey> {
    SecretKey::from_bytes(secret).map_err(|e| anyhow!("the key file holds no usable key: {e}"))
}
