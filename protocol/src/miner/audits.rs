use super::Miner;
use super::interface::{Effect, Story};
use crate::Timestamp;
use crate::codec::keyed;
use crate::finding::Finding;
use crate::statement::{Attestation, AuditPicked, Topic, Word};
use std::collections::BTreeMap;
use swarm_crypto::address::PoolId;
use swarm_crypto::digest::Digest;

/// Most proofs that this miner is to look at, and remembers what it found.
pub const MAX_AUDITS: usize = 256;

/// The proofs that the draw has this miner look at: one at a time, in their order.
#[derive(Debug, Default)]
pub(super) struct Audits {
    asked: BTreeMap<Place, Asked>,
    /// Which is being looked at.
    looking: Option<Place>,
}

/// The epoch that accepted a proof, and its index there.
type Place = (u64, u64);

#[derive(Debug)]
struct Asked {
    picked: AuditPicked,
    /// Nothing before it was looked at, and for what could not be.
    found: Option<Finding>,
}

/// What the salts of a wallet's seals follow from; nobody else can guess them.
#[derive(Clone, PartialEq, Eq)]
pub struct AuditSecret(Digest);

impl AuditSecret {
    /// That of the wallet with this secret key.
    pub fn of(key: &[u8; 32]) -> Self {
        Self(keyed(key, &("salts of audits",)))
    }

    fn salt(&self, pool: &PoolId, lease: &Digest) -> Digest {
        keyed(&self.0.0, &(pool, lease))
    }
}

impl std::fmt::Debug for AuditSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditSecret")
    }
}

impl Audits {
    fn forget_before(&mut self, epoch: u64) {
        self.asked.retain(|place, asked| asked.picked.until >= epoch || self.looking == Some(*place));
    }
}

impl Miner {
    /// The operator says whom the draw has look at a proof, and says it again until it has heard what was found.
    pub(super) fn hear_audit_picked(&mut self, picked: &AuditPicked, now: Timestamp) {
        if picked.auditor != self.config.wallet || picked.wallet == self.config.wallet {
            return;
        }
        let place = (picked.epoch, picked.index);
        let known = self.audits.asked.get_mut(&place).map(|asked| {
            asked.picked = picked.clone();
            asked.found
        });
        match known {
            Some(Some(finding)) => self.attest(picked, finding, now),
            Some(None) => {}
            None if self.audits.asked.len() < MAX_AUDITS => {
                self.audits.asked.insert(place, Asked { picked: picked.clone(), found: None });
            }
            // It is said again once there is room.
            None => {}
        }
        self.look();
    }

    /// Begins with the next proof, once nothing is being looked at.
    fn look(&mut self) {
        if self.audits.looking.is_some() || self.duty.is_resting() {
            return;
        }
        let next = self.audits.asked.iter().find(|(_, asked)| asked.found.is_none());
        if let Some((place, asked)) = next {
            self.audits.looking = Some(*place);
            self.effects.push_back(Effect::Audit(Box::new(asked.picked.clone())));
        }
    }

    /// What a look brought. What could not be looked at is forgotten, and looked at again when it is asked for again.
    pub(super) fn take_finding(
        &mut self,
        (epoch, index): Place,
        outcome: Result<Finding, String>,
        now: Timestamp,
    ) {
        if self.audits.looking == Some((epoch, index)) {
            self.audits.looking = None;
        }
        let Some(asked) = self.audits.asked.get_mut(&(epoch, index)) else { return self.look() };
        let picked = asked.picked.clone();
        match outcome {
            Ok(finding) => {
                asked.found = Some(finding);
                self.tell(Story::Audited { job: picked.job, wallet: picked.wallet, finding });
                self.attest(&picked, finding, now);
            }
            Err(why) => {
                self.audits.asked.remove(&(epoch, index));
                self.tell(Story::NotAudited { job: picked.job, why });
            }
        }
        self.look();
    }

    /// The seal, and what opens it once the operator says that all are sealed. It follows from the miner's secret and
    /// the finding, so one that has forgotten what it sealed finds the same again.
    fn attest(&mut self, picked: &AuditPicked, finding: Finding, now: Timestamp) {
        let (pool, auditor, lease) = (&self.config.pool, &self.config.wallet, &picked.lease);
        let salt = self.config.audit_secret.salt(pool, lease);
        let word = match picked.open {
            false => Word::Sealed(finding.seal(pool, lease, auditor, &salt)),
            true => Word::Opened { finding, salt },
        };
        let body = Attestation { epoch: picked.epoch, index: picked.index, lease: *lease, word };
        let statement = self.state(body, now);
        self.say(Topic::Proofs, statement);
    }

    /// A new epoch: what may not be said any more is forgotten.
    pub(super) fn forget_audits(&mut self, epoch: u64) {
        self.audits.forget_before(epoch);
    }
}
