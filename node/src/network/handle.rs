//! The handle through which the rest of the program uses the network.

use std::sync::Arc;

use cid::Cid;
use libp2p::request_response::ResponseChannel;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::bitswap::FetchAnswer;
use super::task;
use crate::metrics::NetworkMetrics;

use super::{
    BlockSource, Error, GossipId, MAX_MESSAGE, MAX_REQUEST, MAX_RESPONSE, NetworkConfig, NetworkEvent,
    PeerInfo, REQUEST_TIMEOUT, SHUTDOWN_TIMEOUT, Topic, Until, Verdict,
};

pub(super) type Answer<T> = oneshot::Sender<Result<T, Error>>;

pub(super) enum Command {
    Publish { topic: Topic, data: Vec<u8> },
    Verdict { id: GossipId, from: PeerId, verdict: Verdict },
    Request { peer: PeerId, data: Vec<u8>, answer: Answer<Vec<u8>> },
    Fetch { cid: Cid, likely: Vec<PeerId>, max_bytes: usize, until: Until, answer: FetchAnswer },
    Stored(Vec<Cid>),
    Reply { channel: ResponseChannel<Vec<u8>>, data: Vec<u8> },
    Dial { address: Multiaddr, answer: Answer<PeerId> },
    Favour { peer: Option<PeerId> },
    Peers { answer: Answer<Vec<PeerInfo>> },
    ListenAddresses { answer: Answer<Vec<Multiaddr>> },
    Shutdown,
}

/// The handle to a running network; clones share it. The network shuts down when the last is dropped.
#[derive(Debug, Clone)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    closed: watch::Receiver<bool>,
    peer_id: PeerId,
    metrics: NetworkMetrics,
}

impl Network {
    /// Starts to listen and to connect. Fails if an address cannot be listened on, if the identity or the
    /// pool's name is invalid, or if the directory of the address file is not private to this user.
    pub async fn start(
        config: NetworkConfig,
        blocks: Arc<dyn BlockSource>,
    ) -> Result<(Network, mpsc::Receiver<NetworkEvent>), Error> {
        let (commands, receiver) = mpsc::channel(super::MAX_COMMANDS);
        let (closed_sender, closed) = watch::channel(false);
        let metrics = config.metrics.clone();
        let (peer_id, events) = task::spawn(config, blocks, receiver, commands.downgrade(), closed_sender)?;
        Ok((Network { commands, closed, peer_id, metrics }, events))
    }

    /// What is counted here.
    pub fn metrics(&self) -> &NetworkMetrics {
        &self.metrics
    }

    /// This node's own peer id.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Publishes at most [`MAX_MESSAGE`] bytes. While no peer is on the topic the message waits, for a
    /// minute at most. Bytes that this node has published or seen in the last six minutes are not
    /// sent again.
    pub async fn publish(&self, topic: Topic, data: Vec<u8>) -> Result<(), Error> {
        check_length(&data, MAX_MESSAGE)?;
        self.send(Command::Publish { topic, data }).await
    }

    /// Answers one [`NetworkEvent::Gossip`].
    pub async fn verdict(&self, id: GossipId, from: PeerId, verdict: Verdict) -> Result<(), Error> {
        self.send(Command::Verdict { id, from, verdict }).await
    }

    /// Asks a peer, with at most [`MAX_REQUEST`] bytes, and waits for its answer.
    pub async fn request(&self, peer: PeerId, data: Vec<u8>) -> Result<Vec<u8>, Error> {
        check_length(&data, MAX_REQUEST)?;
        self.ask(|answer| Command::Request { peer, data, answer }).await
    }

    /// Makes one peer, and no other, worth so much that no accident of its address or of its load keeps this node from
    /// hearing it; invalid messages still do. It holds for as long as the peer is connected.
    pub async fn favour(&self, peer: Option<PeerId>) -> Result<(), Error> {
        self.send(Command::Favour { peer }).await
    }

    /// The peers connected now, those connected longest first, at most [`super::MAX_PEERS_SHOWN`].
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        self.ask(|answer| Command::Peers { answer }).await
    }

    /// Connects to an address once, and says who is there.
    pub async fn dial(&self, address: Multiaddr) -> Result<PeerId, Error> {
        self.ask(|answer| Command::Dial { address, answer }).await
    }

    /// The addresses that this node listens on.
    pub async fn listen_addresses(&self) -> Result<Vec<Multiaddr>, Error> {
        self.ask(|answer| Command::ListenAddresses { answer }).await
    }

    /// Sends what is on its way, closes all connections and removes the address file.
    pub async fn shutdown(&self) {
        let mut closed = self.closed.clone();
        let closing = async {
            // An error says that the task has ended already.
            let _ = self.commands.send(Command::Shutdown).await;
            let _ = closed.wait_for(|closed| *closed).await;
        };
        if timeout(SHUTDOWN_TIMEOUT, closing).await.is_err() {
            tracing::warn!("the network did not shut down in time");
        }
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), Error> {
        match timeout(REQUEST_TIMEOUT, self.commands.send(command)).await {
            Ok(sent) => sent.map_err(|_| Error::Closed),
            Err(_) => Err(Error::Busy),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Error> {
        let (answer, receiver) = oneshot::channel();
        self.send(command(answer)).await?;
        match timeout(REQUEST_TIMEOUT * 2, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Timeout),
        }
    }
}

fn check_length(data: &[u8], max: usize) -> Result<(), Error> {
    if data.len() > max {
        return Err(Error::TooLarge { length: data.len(), max });
    }
    Ok(())
}

/// The way back to a peer that asked. Dropping it refuses.
#[derive(Debug)]
pub struct ReplyHandle {
    pub(super) channel: ResponseChannel<Vec<u8>>,
    pub(super) commands: mpsc::Sender<Command>,
}

impl ReplyHandle {
    /// Answers with at most [`MAX_RESPONSE`] bytes. That the peer has gone meanwhile is no error.
    pub async fn send(self, data: Vec<u8>) -> Result<(), Error> {
        check_length(&data, MAX_RESPONSE)?;
        let reply = Command::Reply { channel: self.channel, data };
        match timeout(REQUEST_TIMEOUT, self.commands.send(reply)).await {
            Ok(sent) => sent.map_err(|_| Error::Closed),
            Err(_) => Err(Error::Busy),
        }
    }
}
