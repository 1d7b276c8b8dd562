//! What lies behind links: inputs, outputs, and how good a transcript is.

use cid::Cid;
use std::collections::HashMap;
use swarm_protocol::codec::{Link, raw_cid};
use swarm_protocol::finding::Finding;

/// What an examination of a transcript finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    Good(u64),
    Bad,
    Missing,
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    texts: HashMap<Cid, String>,
    transcripts: HashMap<Link, Quality>,
    /// What only the model shows of transcripts that are accepted.
    false_ones: HashMap<Link, Finding>,
}

impl Content {
    pub(crate) fn put(&mut self, text: &str) -> Cid {
        let cid = raw_cid(text.as_bytes());
        self.texts.insert(cid, text.to_owned());
        cid
    }

    pub(crate) fn get(&self, cid: &Cid) -> Option<&String> {
        self.texts.get(cid)
    }

    pub(crate) fn set_quality(&mut self, transcript: Link, quality: Quality) {
        self.transcripts.insert(transcript, quality);
    }

    pub(crate) fn falsify(&mut self, transcript: Link, finding: Finding) {
        self.false_ones.insert(transcript, finding);
    }

    /// What an honest look at a transcript finds.
    pub(crate) fn truth(&self, transcript: &Link) -> Finding {
        self.false_ones.get(transcript).copied().unwrap_or(Finding::Holds)
    }

    pub(crate) fn quality(&self, transcript: &Link) -> Quality {
        self.transcripts.get(transcript).copied().unwrap_or(Quality::Missing)
    }
}
