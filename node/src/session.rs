//! Joining a pool: find its operator, check that it is the one known, and agree on whose statements count.

use crate::clock::Clock;
use crate::link::is_by;
use crate::network::{self, Network, NetworkEvent, Verdict};
use crate::storage::pins::{PinError, confirm_operator, pin_operator};
use libp2p::PeerId;
use std::path::PathBuf;
use std::time::Duration;
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::codec::CodecError;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, Intake, SKEW, Signed, Statement, VERSION, Verified};
use swarm_protocol::{Millis, Rejection, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// What an operator's node says of itself on connecting; only a hint whom to ask.
pub const OPERATOR_AGENT: &str = "operator";
const MAX_CANDIDATES: usize = 16;
const FIRST_NOTICE: Duration = Duration::from_secs(5);
/// How long another operator may still turn up once one was refused for good.
const SECOND_CHANCE: Duration = Duration::from_secs(2);

/// Which operator is accepted.
#[derive(Debug, Clone)]
pub struct JoinTerms {
    /// The pool's name.
    pub pool: String,
    /// The only operator accepted, if one was named.
    pub operator: Option<Address>,
    /// A changed operator that the user has confirmed.
    pub accept: Option<Address>,
    /// Where operators are remembered, if they are to be.
    pub known_operators: Option<PathBuf>,
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

/// Why a pool was not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "no operator of {pool} was found within {} s; start one with `swarm-node --role operator`, or name a node with --bootstrap",
        patience.0 / 1000
    )]
    NotFound { pool: String, patience: Millis },
    #[error(
        "the operator of {pool} is {found}, not {wanted}; correct --operator, or leave it out to accept the first one found"
    )]
    OtherOperator { pool: String, wanted: Address, found: Address },
    #[error(transparent)]
    Changed(#[from] PinError),
    #[error(
        "a clock is off: this machine's is {} s {} the operator's; set both by a time server (NTP) and start again",
        (off.0 + 500) / 1000,
        if *ahead { "ahead of" } else { "behind" }
    )]
    Clock { off: Millis, ahead: bool },
    #[error(
        "the operator found runs another pool, '{0}'; name that one with --pool, or look elsewhere with --bootstrap"
    )]
    OtherPool(String),
    #[error(
        "the operator speaks another version of the protocol ({0}); update the older of the two programs"
    )]
    Version(String),
    #[error(
        "a node says that it is the operator, but {0}; it is not to be trusted, look elsewhere with --bootstrap"
    )]
    Invalid(String),
    #[error("the operator was found but does not answer ({0}); try again, and see the operator's log")]
    NoAnswer(network::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
}

impl JoinError {
    /// True if only the user can mend it.
    fn is_final(&self) -> bool {
        match self {
            Self::OtherOperator { .. } | Self::Changed(_) | Self::Clock { .. } => true,
            Self::NotFound { .. }
            | Self::OtherPool(_)
            | Self::Version(_)
            | Self::Invalid(_)
            | Self::NoAnswer(_)
            | Self::Network(_) => false,
        }
    }
}

impl From<Rejection> for JoinError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::UnknownVersion(v) => {
                Self::Version(format!("version {v}, this program speaks version {VERSION}"))
            }
            other => Self::Invalid(format!("its introduction is refused: {other}")),
        }
    }
}

/// Why a question has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error("its answer is unreadable ({0}); it may run another version")]
    Unreadable(#[from] CodecError),
}

impl From<AskError> for JoinError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Network(network::Error::Unsupported) => {
                Self::Version("it names none that is known here".to_owned())
            }
            AskError::Network(error) => Self::NoAnswer(error),
            AskError::Unreadable(error) => Self::Version(format!("its answer is unreadable: {error}")),
        }
    }
}

/// A pool's operator, as it introduced itself.
#[derive(Debug)]
pub struct Introduction {
    peer: PeerId,
    beacon: Signed,
    opened: Signed,
}

/// Waits until the pool's operator is found and accepted, for ever if `patience` is none.
pub async fn join(
    network: &Network,
    events: &mut mpsc::Receiver<NetworkEvent>,
    terms: &JoinTerms,
    clock: Clock,
    patience: Option<Millis>,
) -> Result<Joined, JoinError> {
    let (sender, mut introductions) = mpsc::channel(MAX_CANDIDATES);
    let mut deadline = patience.map(|patience| Instant::now() + Duration::from_millis(patience.0));
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
                Some(NetworkEvent::Gossip { topic, id, from, .. }) => {
                    network.metrics().judged(topic, Verdict::Ignore);
                    network.verdict(id, from, Verdict::Ignore).await?;
                }
                Some(_) => {}
                None => return Err(network::Error::Closed.into()),
            },
            Some(introduction) = introductions.recv() => {
                match introduction.and_then(|introduction| check(introduction, terms, clock)) {
                    Ok(joined) => return Ok(joined),
                    Err(error) => {
                        if error.is_final() {
                            let last = Instant::now() + SECOND_CHANCE;
                            deadline = Some(deadline.map_or(last, |deadline| deadline.min(last)));
                        } else {
                            tracing::warn!("{error}");
                        }
                        problem = Some(error);
                    }
                }
            }
            () = sleep_until(notice) => {
                for peer in network.peers().await? {
                    ask_if_operator(network, peer.peer, peer.agent.as_deref().unwrap_or_default(), &sender);
                }
                tracing::info!("looking for the operator of {}; is `swarm-node --role operator` running?", terms.pool);
                pause = (pause * 2).min(Duration::from_secs(60));
                notice += pause;
            }
            () = wait_until(deadline) => {
                let patience = patience.unwrap_or_default();
                return Err(problem.unwrap_or(JoinError::NotFound { pool: terms.pool.clone(), patience }));
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

type Introduced = Result<Introduction, JoinError>;

fn ask_if_operator(network: &Network, peer: PeerId, agent: &str, sender: &mpsc::Sender<Introduced>) {
    if !agent.contains(OPERATOR_AGENT) {
        return;
    }
    let (network, sender) = (network.clone(), sender.clone());
    tokio::spawn(async move {
        let introduced = match ask(&network, peer, &Query::Beacon).await {
            Ok(Answer::Pool { beacon, opened }) => Ok(Introduction { peer, beacon, opened }),
            Ok(_) => Err(JoinError::Invalid("it does not introduce itself".to_owned())),
            Err(error) => Err(error.into()),
        };
        // A full queue means that enough operators have introduced themselves already.
        let _ = sender.try_send(introduced);
    });
}

/// Asks a peer one question.
pub async fn ask(network: &Network, peer: PeerId, query: &Query) -> Result<Answer, AskError> {
    let bytes = network.request(peer, query.encode()).await?;
    Ok(Answer::decode(&bytes)?)
}

fn check(introduction: Introduction, terms: &JoinTerms, clock: Clock) -> Result<Joined, JoinError> {
    let Introduction { peer, beacon, opened } = introduction;
    let statement = Statement::decode(&beacon.payload)?;
    let Body::Beacon(body) = &statement.body else {
        return Err(JoinError::Invalid("it sent no beacon".to_owned()));
    };
    if !is_by(body, &peer) {
        return Err(JoinError::Invalid("its beacon is another node's".to_owned()));
    }
    let operator = statement.header.by;
    let pool = PoolId::derive(&body.name, operator, body.chain, body.contract);
    if body.name != terms.pool || statement.header.pool != pool {
        return Err(JoinError::OtherPool(body.name.chars().filter(|c| !c.is_control()).collect()));
    }
    let mut intake = Intake::new(pool, operator);
    // Signed just now: by its own clock it is valid, whatever ours says.
    let signed_at = statement.header.at;
    let beacon = intake.accept(None, &beacon.encode(), signed_at)?;
    let opened = intake.accept(None, &opened.encode(), signed_at)?;
    accept_operator(terms, operator)?;
    check_clock(signed_at, clock.now())?;
    Ok(Joined { pool, operator, peer, beacon, opened, intake })
}

fn check_clock(theirs: Timestamp, ours: Timestamp) -> Result<(), JoinError> {
    let ahead = ours > theirs;
    let off = if ahead { ours.since(theirs) } else { theirs.since(ours) };
    if off > SKEW { Err(JoinError::Clock { off, ahead }) } else { Ok(()) }
}

fn accept_operator(terms: &JoinTerms, operator: Address) -> Result<(), JoinError> {
    if let Some(wanted) = terms.operator {
        let other = JoinError::OtherOperator { pool: terms.pool.clone(), wanted, found: operator };
        return if wanted == operator { Ok(()) } else { Err(other) };
    }
    let Some(known_operators) = &terms.known_operators else { return Ok(()) };
    if terms.accept == Some(operator) {
        return Ok(confirm_operator(known_operators, &terms.pool, &operator.to_string())?);
    }
    pin_operator(known_operators, &terms.pool, &operator.to_string())?;
    Ok(())
}
