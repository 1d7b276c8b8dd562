//! What miners and clients share after joining: one operator, statements checked on their way in, questions asked.

use crate::clock::Clock;
use crate::known::Known;
use crate::network::{Network, NetworkEvent, Verdict};
use crate::session::{Joined, OPERATOR_AGENT, ask};
use crate::wire;
use libp2p::PeerId;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Beacon, Body, Carrier, Intake, Signed, Topic, Verified};
use swarm_protocol::{Rejection, Timestamp};

/// Between two questions to a peer that may be the operator.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A pool's operator, as seen from a miner or a client.
#[derive(Debug, Clone)]
pub struct Link {
    network: Network,
    intake: Arc<Mutex<Intake>>,
    operator: Arc<Mutex<Option<PeerId>>>,
    /// When the newest beacon was made, and by which node, if it says so.
    beacon: Arc<Mutex<(Timestamp, Option<String>)>>,
    known: Known,
    pool: PoolId,
    wallet_of_operator: Address,
    clock: Clock,
}

/// What a network event means to a miner or a client.
#[derive(Debug)]
pub enum Heard {
    /// A statement came by gossip.
    Statement(Box<Verified>),
    /// A peer that says it is an operator is there: [`Link::recognise`] finds out whether it is ours.
    MaybeOperator(PeerId),
    /// Another node is the operator's now, and it is connected.
    Moved(Box<Verified>),
    /// The operator cannot be asked any more.
    Disconnected,
    /// Nothing.
    Nothing,
}

impl Link {
    /// The link to the operator of a pool that was joined.
    pub async fn new(network: Network, joined: Joined, clock: Clock) -> Self {
        let link = Self {
            network,
            intake: Arc::new(Mutex::new(joined.intake)),
            operator: Arc::new(Mutex::new(Some(joined.peer))),
            beacon: Arc::default(),
            known: Known::default(),
            pool: joined.pool,
            wallet_of_operator: joined.operator,
            clock,
        };
        link.follow(Some(joined.peer)).await;
        link
    }

    /// The pool.
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// The operator's wallet.
    pub fn operator(&self) -> Address {
        self.wallet_of_operator
    }

    /// The operator's node, while it is connected.
    pub fn peer(&self) -> Option<PeerId> {
        *self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, by this node's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn set_peer(&self, peer: Option<PeerId>) {
        *self.operator.lock().unwrap_or_else(PoisonError::into_inner) = peer;
    }

    /// Favours the operator's node, for as long as it is connected.
    async fn follow(&self, peer: Option<PeerId>) {
        self.set_peer(peer);
        // A network that is closing favours nobody.
        let _ = self.network.favour(peer).await;
    }

    /// Judges a network event, and says what it means.
    pub async fn hear(&self, event: NetworkEvent) -> Heard {
        match event {
            NetworkEvent::Gossip { topic, id, from, data } => {
                let heard = self.take(&from, wire::rules_topic(topic), &data);
                let verdict = heard.as_ref().map_or_else(|e| wire::verdict(e.verdict()), |_| Verdict::Accept);
                self.network.metrics().judged(topic, verdict);
                // A network that is closing needs no verdicts.
                let _ = self.network.verdict(id, from, verdict).await;
                match heard {
                    Ok(verified) if self.follow_beacon(&verified).await => Heard::Moved(Box::new(verified)),
                    Ok(verified) => Heard::Statement(Box::new(verified)),
                    Err(rejection) => {
                        self.network.metrics().refused(&rejection);
                        note(&rejection);
                        Heard::Nothing
                    }
                }
            }
            NetworkEvent::Connected { peer, agent, .. } if agent.contains(OPERATOR_AGENT) => {
                Heard::MaybeOperator(peer)
            }
            NetworkEvent::Disconnected { peer } if self.peer() == Some(peer) => {
                self.follow(None).await;
                Heard::Disconnected
            }
            NetworkEvent::SyncRequest { reply, .. } => {
                drop(reply);
                Heard::Nothing
            }
            NetworkEvent::Connected { .. }
            | NetworkEvent::Disconnected { .. }
            | NetworkEvent::Listening(_)
            | NetworkEvent::PeerSubscribed { .. } => Heard::Nothing,
        }
    }

    /// Goes over to the node that the newest beacon names, if it is another and connected. Of several operator
    /// processes only the active one speaks, and the one before may still be connected, and silent.
    async fn follow_beacon(&self, verified: &Verified) -> bool {
        let statement = verified.statement();
        let Body::Beacon(beacon) = &statement.body else { return false };
        let Some(node) = self.newest(statement.header.at, beacon.node.as_deref()) else { return false };
        if self.peer() == Some(node) {
            return false;
        }
        let peers = self.network.peers().await.unwrap_or_default();
        if !peers.iter().any(|known| known.peer == node) {
            return false;
        }
        self.follow(Some(node)).await;
        true
    }

    /// Notes the newest beacon; gives the node that it names, unless a newer one was seen.
    fn newest(&self, at: Timestamp, node: Option<&str>) -> Option<PeerId> {
        let mut newest = self.beacon.lock().unwrap_or_else(PoisonError::into_inner);
        if at < newest.0 {
            return None;
        }
        *newest = (at, node.map(str::to_owned));
        node?.parse().ok()
    }

    /// Asks a peer until it shows that it is our operator; false if it is gone or if the operator is connected
    /// already: whoever repeats its beacon must not take its place.
    pub async fn recognise(&self, peer: PeerId) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            let peers = self.network.peers().await.unwrap_or_default();
            if self.peer().is_some() || !peers.iter().any(|known| known.peer == peer) {
                return false;
            }
            if self.is_our_operator(peer).await {
                self.follow(Some(peer)).await;
                return true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn is_our_operator(&self, peer: PeerId) -> bool {
        match ask(&self.network, peer, &Query::Beacon).await {
            Ok(Answer::Pool { beacon, .. }) => match self.check(&beacon) {
                Ok(verified) => match &verified.statement().body {
                    Body::Beacon(beacon) => is_by(beacon, &peer),
                    _ => false,
                },
                Err(rejection) => {
                    tracing::warn!("a peer that says it is our operator is not accepted: {rejection}");
                    false
                }
            },
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("the operator does not answer: {error}");
                false
            }
        }
    }

    /// What the operator forwards has passed its allowance for strangers; what others forward has not.
    fn take(&self, from: &PeerId, topic: Topic, bytes: &[u8]) -> Result<Verified, Rejection> {
        let by_operator = self.peer().as_ref() == Some(from);
        let carrier = Carrier { peer: wire::peer(from), knows: &|by| by_operator || self.known.contains(by) };
        let mut intake = self.intake.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = intake.accept_from(&carrier, Some(topic), bytes, self.now())?;
        match &verified.statement().body {
            Body::Lease(lease) => self.known.note(lease.wallet),
            Body::Receipt(receipt) => self.know([receipt.client, receipt.wallet]),
            _ => {}
        }
        Ok(verified)
    }

    /// Learns of wallets that the operator has named.
    pub fn know(&self, wallets: impl IntoIterator<Item = Address>) {
        wallets.into_iter().for_each(|wallet| self.known.note(wallet));
    }

    /// Checks a statement inside an answer.
    pub fn check(&self, signed: &Signed) -> Result<Verified, Rejection> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner).verify(None, &signed.encode(), self.now())
    }

    /// Asks the operator; `None` while it is away or does not answer.
    pub async fn ask(&self, query: Query) -> Option<Answer> {
        let peer = self.peer()?;
        match ask(&self.network, peer, &query).await {
            Ok(Answer::Refused(why)) => {
                tracing::warn!("the operator refused a statement: {why}");
                None
            }
            Ok(Answer::Error(why)) => {
                tracing::debug!("the operator cannot answer: {why}");
                None
            }
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::debug!("no answer from the operator: {error}");
                None
            }
        }
    }

    /// The network beneath.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Statements inside an answer, checked; what does not check is dropped and said.
    pub fn statements_of(&self, answer: &Answer) -> Vec<Verified> {
        let signed: Vec<&Signed> = match answer {
            Answer::Pool { beacon, opened } => vec![opened, beacon],
            Answer::Jobs(listings) => listings.iter().collect(),
            Answer::View { statements, .. } => statements.iter().collect(),
            Answer::Fate(swarm_protocol::query::Fate::Accepted { receipt, .. }) => vec![receipt],
            Answer::Fate(swarm_protocol::query::Fate::Ended { refusal }) => vec![refusal],
            Answer::Snapshot(signed) | Answer::Sealed(signed) => signed.iter().collect(),
            Answer::Fate(_)
            | Answer::Taken
            | Answer::Refused(_)
            | Answer::Roster(_)
            | Answer::Account(_)
            | Answer::Holder(_)
            | Answer::Stream(_)
            | Answer::Error(_) => Vec::new(),
        };
        let checked = signed.into_iter().filter_map(|signed| match self.check(signed) {
            Ok(verified) => Some(verified),
            Err(rejection) => {
                note(&rejection);
                None
            }
        });
        checked.collect()
    }
}

/// Whether a beacon may be this node's own.
pub fn is_by(beacon: &Beacon, peer: &PeerId) -> bool {
    beacon.node.as_ref().is_none_or(|node| *node == peer.to_string())
}

fn note(rejection: &Rejection) {
    match rejection {
        Rejection::FromFuture(_) | Rejection::UnknownVersion(_) | Rejection::NotOperator(..) => {
            tracing::warn!("a statement was not taken: {rejection}");
        }
        _ => tracing::debug!("a statement was not taken: {rejection}"),
    }
}
