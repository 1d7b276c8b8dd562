//! What this node can prove against the operator, kept in files that anybody can check: `swarm-client verify FILE`.

use crate::storage::disk::write_atomic;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use swarm_crypto::address::Address;
use swarm_protocol::codec::{JobId, Link};
use swarm_protocol::evidence::{Contradiction, contradiction, end_of};
use swarm_protocol::statement::{Body, Signed, Statement, Verified};

/// Ends of jobs that are remembered to be compared, the last ones.
const MAX_ENDS: usize = 4096;
/// Sealed epochs that are remembered, those with the greatest numbers.
const MAX_SEALS: usize = 1024;
/// Files that are written; one is enough.
const MAX_FILES: usize = 64;

/// Two statements that contradict each other, as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFile {
    /// In words.
    pub evidence: String,
    /// The pool's name is not in it: the pool's id is, in both statements.
    pub operator: String,
    /// The snapshots, in hexadecimal.
    pub statements: [String; 2],
}

impl EvidenceFile {
    fn of(found: Contradiction, operator: Address, statements: [&Signed; 2]) -> Self {
        let statements = statements.map(Signed::encode).map(hex::encode);
        Self { evidence: found.to_string(), operator: operator.to_string(), statements }
    }
}

/// Compares what the operator says with what it said.
#[derive(Debug, Default)]
pub struct Witness {
    folder: Option<PathBuf>,
    seals: BTreeMap<u64, Verified>,
    ends: BTreeMap<JobId, Verified>,
    order: VecDeque<JobId>,
    files: usize,
}

impl Witness {
    /// One that keeps what it finds in this folder.
    pub fn keeping(folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..Self::default() }
    }

    /// Takes in a statement; says where evidence is kept, if there is some now.
    pub fn hear(&mut self, verified: &Verified) -> Option<PathBuf> {
        let statement = verified.statement();
        let before = match (&statement.body, end_of(statement)) {
            (Body::EpochSealed(sealed), _) => self.seals.get(&sealed.epoch),
            (_, Some(job)) => self.ends.get(&job),
            _ => return None,
        };
        match before {
            Some(before) => {
                let found = contradiction(before.statement(), statement)?;
                let by = statement.header.by;
                self.keep(&EvidenceFile::of(found, by, [before.signed(), verified.signed()]), &verified.id())
            }
            None => {
                self.remember(verified);
                None
            }
        }
    }

    /// Keeps what an operator told an auditor, and the proof that says otherwise; says where.
    pub fn keep_misled(&mut self, told: &Signed, proof: &Signed) -> Option<PathBuf> {
        let [one, other] = [told, proof].map(|signed| Statement::decode(&signed.payload).ok());
        let (one, other) = (one?, other?);
        let found = contradiction(&one, &other)?;
        self.keep(&EvidenceFile::of(found, one.header.by, [told, proof]), &told.id())
    }

    fn remember(&mut self, verified: &Verified) {
        if let Body::EpochSealed(sealed) = &verified.statement().body {
            self.seals.insert(sealed.epoch, verified.clone());
            if self.seals.len() > MAX_SEALS {
                self.seals.pop_first();
            }
        } else if let Some(job) = end_of(verified.statement()) {
            self.ends.insert(job, verified.clone());
            self.order.push_back(job);
            if self.order.len() > MAX_ENDS
                && let Some(first) = self.order.pop_front()
            {
                self.ends.remove(&first);
            }
        }
    }

    fn keep(&mut self, file: &EvidenceFile, id: &Link) -> Option<PathBuf> {
        let path = self.folder.as_ref()?.join(format!("{id}.json"));
        if self.files >= MAX_FILES || path.exists() {
            return None;
        }
        self.files += 1;
        let text = serde_json::to_string_pretty(file).expect("a structure of texts");
        let written = std::fs::create_dir_all(path.parent()?).map(|()| write_atomic(&path, text.as_bytes()));
        match written {
            Ok(Ok(())) => Some(path),
            Ok(Err(error)) => {
                tracing::error!("evidence against the operator could not be kept: {error}");
                None
            }
            Err(error) => {
                tracing::error!("evidence against the operator could not be kept: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarm_crypto::address::PoolId;
    use swarm_crypto::digest::Digest;
    use swarm_crypto::key::SecretKey;
    use swarm_protocol::Timestamp;
    use swarm_protocol::codec;
    use swarm_protocol::statement::{AuditPicked, EpochSealed, Intake, Proof};

    fn sealed(epoch: u64, header: u8) -> Verified {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let (operator, at) = (key.address(), Timestamp(1_800_000_000_000));
        let pool = PoolId::derive("swarmpool.eth", operator, 0, Address::ZERO);
        let body = EpochSealed { epoch, header: Link([header; 32]) };
        let signed = Statement::derived(pool, operator, at, body.into()).sign(&key);
        Intake::new(pool, operator).verify(None, &signed.encode(), at).unwrap()
    }

    #[test]
    fn what_contradicts_is_kept_once_and_what_is_repeated_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut witness = Witness::keeping(folder.path().join("evidence"));
        assert_eq!(witness.hear(&sealed(0, 1)), None);
        assert_eq!(witness.hear(&sealed(0, 1)), None);
        assert_eq!(witness.hear(&sealed(1, 2)), None);
        let path = witness.hear(&sealed(0, 3)).unwrap();
        assert_eq!(witness.hear(&sealed(0, 3)), None);
        let file: EvidenceFile = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(file.evidence, "two headers for epoch 0");
        assert_eq!(file.statements, [sealed(0, 1), sealed(0, 3)].map(|s| hex::encode(s.signed().encode())));
    }

    #[test]
    fn what_an_auditor_was_told_is_kept_with_the_proof_that_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let mut witness = Witness::keeping(folder.path().join("evidence"));
        let [operator, miner] = [[1; 32], [2; 32]].map(|bytes| SecretKey::from_bytes(&bytes).unwrap());
        let at = Timestamp(1_800_000_000_000);
        let pool = PoolId::derive("swarmpool.eth", operator.address(), 0, Address::ZERO);
        let sign = |key: &SecretKey, body: Body| Statement::derived(pool, key.address(), at, body).sign(key);
        let (job, lease, output) = (Link([1; 32]), Digest([4; 32]), codec::raw_cid(b"text"));
        let transcript = Link([3; 32]);
        let body = Proof { job, lease, transcript, transcript_bytes: 9, output, output_bytes: 4 };
        let proof = sign(&miner, body.into());
        let told = |transcript| AuditPicked {
            epoch: 3,
            index: 0,
            auditor: Address([9; 20]),
            job,
            asked: Link([2; 32]),
            proof: proof.id(),
            wallet: miner.address(),
            lease,
            transcript,
            transcript_bytes: 9,
            output,
            output_bytes: 4,
            open: false,
            until: 5,
            challenge: None,
        };
        let truth = sign(&operator, told(transcript).into());
        assert_eq!(witness.keep_misled(&truth, &proof), None, "it says what the proof says");
        let lie = sign(&operator, told(Link([7; 32])).into());
        let path = witness.keep_misled(&lie, &proof).unwrap();
        let file: EvidenceFile = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(file.evidence, format!("an auditor was told otherwise than the proof of job {job} says"));
        assert_eq!(file.operator, operator.address().to_string());
        assert_eq!(witness.keep_misled(&lie, &proof), None, "once is enough");
    }

    #[test]
    fn no_more_is_remembered_than_is_allowed() {
        let mut witness = Witness::default();
        (0..=MAX_SEALS as u64).for_each(|epoch| assert_eq!(witness.hear(&sealed(epoch, 1)), None));
        assert_eq!(witness.seals.len(), MAX_SEALS);
    }
}
