//! The two namings of topics and verdicts, one of the rules and one of the network, made one.

use crate::network::{Topic, Verdict};
use libp2p::PeerId;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol as rules;

/// The rules' name of a peer.
pub fn peer(peer: &PeerId) -> Digest {
    blake3(&peer.to_bytes())
}

/// The network's name of a topic.
pub fn topic(topic: rules::statement::Topic) -> Topic {
    match topic {
        rules::statement::Topic::Jobs => Topic::Jobs,
        rules::statement::Topic::Claims => Topic::Claims,
        rules::statement::Topic::Proofs => Topic::Proofs,
        rules::statement::Topic::Heartbeats => Topic::Heartbeats,
        rules::statement::Topic::Epochs => Topic::Epochs,
    }
}

/// The rules' name of a topic.
pub fn rules_topic(topic: Topic) -> rules::statement::Topic {
    match topic {
        Topic::Jobs => rules::statement::Topic::Jobs,
        Topic::Claims => rules::statement::Topic::Claims,
        Topic::Proofs => rules::statement::Topic::Proofs,
        Topic::Heartbeats => rules::statement::Topic::Heartbeats,
        Topic::Epochs => rules::statement::Topic::Epochs,
    }
}

/// The network's name of a verdict.
pub fn verdict(verdict: rules::Verdict) -> Verdict {
    match verdict {
        rules::Verdict::Accept => Verdict::Accept,
        rules::Verdict::Ignore => Verdict::Ignore,
        rules::Verdict::Reject => Verdict::Reject,
    }
}
