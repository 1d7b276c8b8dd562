//! An audit as a file: everything that it rests on, so that anybody can repeat it with nothing but the model.

use super::Subject;
use crate::cli::UserError;
use crate::content::import;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_protocol::codec::raw_cid;
use swarm_protocol::distance::{Distances, Tolerance};
use swarm_protocol::statement::{Body, Input, Signed, Statement};

/// The longest file that is read: a transcript, an output and an input of the greatest length, in hexadecimal.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// What is written, and read again by `--from`. `docs/audits.md` describes it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Evidence {
    /// In words.
    pub audit: String,
    /// `holds`, `contradicts` or `differs`.
    pub finding: String,
    /// What is wrong, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub proof: String,
    pub job: String,
    pub lease: LeaseText,
    pub model: String,
    /// blake3 of its weights.
    pub model_digest: String,
    /// What computed again.
    pub provider: String,
    /// Of tolerance and distances; none where no rule says how far apart honest runs are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<Tolerance>,
    /// None where the rules were broken already, or no rule compares anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distances: Option<Distances>,
    /// Snapshots and blocks, in hexadecimal.
    pub content: Content,
}

/// What a lease's id is made of, beside pool and job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseTerms {
    pub term: u32,
    pub wallet: Address,
    pub seed: Digest,
}

/// The same as text.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LeaseText {
    term: u32,
    wallet: String,
    seed: String,
}

impl From<&LeaseTerms> for LeaseText {
    fn from(terms: &LeaseTerms) -> Self {
        Self { term: terms.term, wallet: terms.wallet.to_string(), seed: terms.seed.to_string() }
    }
}

impl LeaseText {
    fn read(&self) -> Option<LeaseTerms> {
        Some(LeaseTerms { term: self.term, wallet: self.wallet.parse().ok()?, seed: self.seed.parse().ok()? })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Content {
    pub job: String,
    pub proof: String,
    pub transcript: String,
    pub output: String,
    /// The text behind a linked input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
}

impl Content {
    pub fn of(subject: &Subject) -> Self {
        Self {
            job: hex::encode(subject.job.encode()),
            proof: hex::encode(subject.proof.encode()),
            transcript: hex::encode(&subject.transcript),
            output: hex::encode(&subject.output),
            input: subject.linked.clone(),
        }
    }
}

/// What a file says was audited.
pub(super) fn read(path: &Path) -> Result<Subject> {
    let no_evidence = |error: &dyn std::fmt::Display| {
        UserError::input(format!("{} is no evidence of an audit: {error}", path.display()))
            .hint("name a file that swarm-node audit --out has written")
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| no_evidence(&error))?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(|error| no_evidence(&error))?;
    let file: Evidence = serde_json::from_str(&text).map_err(|error| no_evidence(&error))?;
    let bytes = |text: &str| hex::decode(text).map_err(|error| no_evidence(&error));
    let signed = |text: &str| -> Result<Signed> {
        Ok(Signed::decode(&bytes(text)?).map_err(|error| no_evidence(&error))?)
    };
    let lease = file.lease.read().ok_or_else(|| no_evidence(&"its lease is none"))?;
    let job = signed(&file.content.job)?;
    if !is_linked(&job, file.content.input.as_deref()) {
        return Err(no_evidence(&"its input is not the one that the job links to").into());
    }
    Ok(Subject {
        job,
        proof: signed(&file.content.proof)?,
        lease,
        transcript: bytes(&file.content.transcript)?,
        output: bytes(&file.content.output)?,
        linked: file.content.input,
        recorded: None,
    })
}

/// Whether `input` is what a job with a linked input is about, as this project's own programs cut files into blocks.
fn is_linked(job: &Signed, input: Option<&str>) -> bool {
    let Ok(Statement { body: Body::Job(job), .. }) = Statement::decode(&job.payload) else { return true };
    match (&job.input, input) {
        (Input::Linked { cid, bytes }, Some(text)) => {
            text.len() as u64 == *bytes
                && (import(text.as_bytes()).0 == *cid || raw_cid(text.as_bytes()) == *cid)
        }
        (Input::Linked { .. }, None) => false,
        (Input::Text(_) | Input::Chat(_) | Input::Sealed { .. }, _) => true,
    }
}
