//! What peers send, on its way to the pool: checked, judged, and turned into events and questions.

use super::shell::{OperatorAsk, OperatorInput, Peers};
use crate::clock::Clock;
use crate::driver::Input;
use crate::known::Known;
use crate::network::{Network, NetworkEvent, ReplyHandle, Verdict};
use crate::wire;
use libp2p::PeerId;
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::Rejection;
use swarm_protocol::pool::PoolEvent;
use swarm_protocol::query::{Answer, MAX_REASON_BYTES, Query};
use swarm_protocol::statement::{Carrier, Identified, Intake, Topic, Verified};
use tokio::sync::mpsc;

pub struct Ingress {
    network: Network,
    inbox: mpsc::Sender<OperatorInput>,
    intake: Intake,
    peers: Peers,
    known: Known,
    clock: Clock,
}

impl Ingress {
    pub fn new(
        network: Network,
        inbox: mpsc::Sender<OperatorInput>,
        pool: PoolId,
        operator: Address,
        peers: Peers,
        known: Known,
        clock: Clock,
    ) -> Self {
        Self { network, inbox, intake: Intake::new(pool, operator), peers, known, clock }
    }

    pub async fn run(mut self, mut events: mpsc::Receiver<NetworkEvent>) {
        while let Some(event) = events.recv().await {
            let going = match event {
                NetworkEvent::Gossip { topic, id, from, data } => {
                    let heard = self.take(&from, Some(wire::rules_topic(topic)), &data);
                    let verdict =
                        heard.as_ref().map_or_else(|e| wire::verdict(e.verdict()), |_| Verdict::Accept);
                    self.network.metrics().judged(topic, verdict);
                    let told = self.network.verdict(id, from, verdict).await.is_ok();
                    told && self.pass(heard).await
                }
                NetworkEvent::SyncRequest { peer, data, reply } => {
                    self.handle_request(peer, &data, reply).await
                }
                NetworkEvent::Listening(address) => {
                    tracing::info!("listening on {address}");
                    true
                }
                NetworkEvent::Disconnected { peer } => {
                    self.peers.forget(&peer);
                    true
                }
                NetworkEvent::Connected { .. } | NetworkEvent::PeerSubscribed { .. } => true,
            };
            if !going {
                return;
            }
        }
    }

    fn take(&mut self, from: &PeerId, topic: Option<Topic>, bytes: &[u8]) -> Result<Verified, Rejection> {
        let carrier = Carrier { peer: wire::peer(from), knows: &|by| self.known.contains(by) };
        self.intake.accept_from(&carrier, topic, bytes, self.clock.now())
    }

    async fn handle_request(&mut self, peer: PeerId, data: &[u8], reply: ReplyHandle) -> bool {
        match Query::decode(data) {
            Ok(Query::Hand(signed)) => {
                let heard = self.take(&peer, None, &signed.encode());
                if let Ok(verified) = &heard {
                    self.peers.note(verified.statement().header.by, peer);
                }
                let answer = heard.as_ref().map_or_else(refused, |_| Answer::Taken);
                // The peer may be gone; its statement counts all the same.
                let _ = reply.send(answer.encode()).await;
                self.pass(heard).await
            }
            Ok(query) => match self.intake.question(wire::peer(&peer), self.clock.now()) {
                Ok(()) => self.inbox.send(Input::Ask(OperatorAsk::Peer { query, reply })).await.is_ok(),
                Err(rejection) => {
                    self.network.metrics().refused(&rejection);
                    // The peer may be gone, and nothing is owed to it.
                    let _ = reply.send(Answer::Error(rejection.to_string()).encode()).await;
                    true
                }
            },
            Err(error) => {
                let _ = reply.send(Answer::Error(error.to_string()).encode()).await;
                true
            }
        }
    }

    async fn pass(&mut self, heard: Result<Verified, Rejection>) -> bool {
        match heard {
            Ok(verified) => {
                let event = PoolEvent::Statement(Identified::new(verified, false));
                self.inbox.send(Input::Event(event)).await.is_ok()
            }
            Err(rejection) => {
                self.network.metrics().refused(&rejection);
                tracing::debug!("not taken: {rejection}");
                true
            }
        }
    }
}

fn refused(rejection: &Rejection) -> Answer {
    let mut why = rejection.to_string();
    let fits = (0..=MAX_REASON_BYTES).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
    why.truncate(fits);
    Answer::Refused(why)
}
