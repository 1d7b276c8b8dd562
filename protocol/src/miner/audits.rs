use super::Miner;
use super::interface::{Effect, Looked, Story};
use crate::Timestamp;
use crate::audit::{Misled, misled};
use crate::codec::keyed;
use crate::evidence::contradiction;
use crate::finding::Finding;
use crate::statement::{Attestation, AuditPicked, Body, Statement, Topic, Verified, Word};
use std::collections::BTreeMap;
use swarm_crypto::address::PoolId;
use swarm_crypto::digest::Digest;

/// Most proofs that this miner is to look at, and remembers what it found.
pub const MAX_AUDITS: usize = 256;
/// Looks at one proof that bring nothing, until it is left.
const MAX_LOOKS: u32 = 3;

/// The proofs that the draw has this miner look at: one at a time, in their order, those after all others that could not
/// be looked at before.
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
    /// What the operator has signed of it, first.
    told: Box<Verified>,
    looks: Looks,
}

#[derive(Debug, Clone, Copy)]
enum Looks {
    /// So many brought nothing.
    Failed(u32),
    Found(Finding),
    /// Something else was accepted.
    Misled,
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

impl Asked {
    /// Looks that brought nothing, if there is to be another.
    fn tries(&self) -> Option<u32> {
        match self.looks {
            Looks::Failed(tries) if tries < MAX_LOOKS => Some(tries),
            Looks::Failed(_) | Looks::Found(_) | Looks::Misled => None,
        }
    }
}

impl Audits {
    fn forget_before(&mut self, epoch: u64) {
        self.asked.retain(|place, asked| asked.picked.until >= epoch || self.looking == Some(*place));
    }

    /// Remembers one more, in place of one that was opened or left if there is no other room: what is forgotten too early
    /// is asked for again.
    fn ask(&mut self, place: Place, picked: &AuditPicked, told: &Verified) {
        if self.asked.len() >= MAX_AUDITS {
            let is_over = |asked: &Asked| match asked.looks {
                Looks::Found(_) => asked.picked.open,
                Looks::Failed(tries) => tries >= MAX_LOOKS,
                Looks::Misled => true,
            };
            let Some(over) = self.asked.iter().find(|(_, asked)| is_over(asked)).map(|(place, _)| *place)
            else {
                return;
            };
            self.asked.remove(&over);
        }
        let (picked, told) = (picked.clone(), Box::new(told.clone()));
        self.asked.insert(place, Asked { picked, told, looks: Looks::Failed(0) });
    }
}

impl Miner {
    /// The operator says whom the draw has look at a proof, and says it again until it has heard what was found.
    pub(super) fn hear_audit_picked(&mut self, picked: &AuditPicked, told: &Verified, now: Timestamp) {
        if picked.wallet == self.config.wallet {
            return self.hear_own_picked(picked);
        }
        if picked.auditor != self.config.wallet {
            return;
        }
        let place = (picked.epoch, picked.index);
        match self.audits.asked.get_mut(&place) {
            None => self.audits.ask(place, picked, told),
            // What was looked at is what is signed for.
            Some(asked) if !is_same(&asked.picked, picked) => {}
            Some(asked) => {
                (asked.picked.open, asked.picked.until) = (picked.open, picked.until);
                if let Looks::Found(finding) = asked.looks {
                    self.attest(picked, finding, now);
                }
            }
        }
        self.look();
    }

    /// Begins with the next proof, once nothing is being looked at.
    pub(super) fn look(&mut self) {
        if self.audits.looking.is_some() || self.duty.is_resting() {
            return;
        }
        if let Some(own) = self.own.doubted() {
            self.audits.looking = Some((own.epoch, own.index));
            return self.effects.push_back(Effect::Audit(Box::new(own.clone())));
        }
        let waiting =
            self.audits.asked.iter().filter_map(|(place, asked)| Some((asked.tries()?, *place, asked)));
        if let Some((_, place, asked)) = waiting.min_by_key(|(tries, place, _)| (*tries, *place)) {
            self.audits.looking = Some(place);
            self.effects.push_back(Effect::Audit(Box::new(asked.picked.clone())));
        }
    }

    /// What a look brought.
    pub(super) fn take_finding(
        &mut self,
        (epoch, index): Place,
        outcome: Result<Looked, String>,
        now: Timestamp,
    ) {
        if self.audits.looking == Some((epoch, index)) {
            self.audits.looking = None;
        }
        let Some(asked) = self.audits.asked.get_mut(&(epoch, index)) else {
            self.take_own_look((epoch, index), outcome, now);
            return self.look();
        };
        let picked = asked.picked.clone();
        match outcome {
            Ok(looked) if let Some(how) = looked.misled(&picked) => {
                asked.looks = Looks::Misled;
                let told = asked.told.clone();
                self.tell(Story::Misled { job: picked.job, how });
                self.keep_evidence(&told, &looked.proof);
            }
            Ok(Looked { finding: Ok(finding), .. }) => {
                asked.looks = Looks::Found(finding);
                self.tell(Story::Audited { job: picked.job, wallet: picked.wallet, finding });
                self.attest(&picked, finding, now);
            }
            Ok(Looked { finding: Err(why), .. }) | Err(why) => {
                asked.looks = Looks::Failed(asked.tries().unwrap_or(MAX_LOOKS).saturating_add(1));
                self.tell(Story::NotAudited { job: picked.job, why });
            }
        }
        self.look();
    }

    /// Two statements prove it where they are of one proof; of two proofs the pool's records are needed too.
    fn keep_evidence(&mut self, told: &Verified, proof: &Verified) {
        if contradiction(told.statement(), proof.statement()).is_some() {
            let both = [told.signed().clone(), proof.signed().clone()];
            self.effects.push_back(Effect::Evidence(Box::new(both)));
        }
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
        self.own.forget_before(epoch);
    }
}

impl Looked {
    /// In what the operator's word differs from the records, if it does: then nothing is said of the proof.
    pub fn misled(&self, picked: &AuditPicked) -> Option<Misled> {
        let Statement { header, body: Body::Proof(proof) } = self.proof.statement() else {
            let (told, proven) = (picked.proof.to_string(), self.proof.id().to_string());
            return Some(Misled { what: "proof", told, proven });
        };
        let accepted = (picked.lease != self.lease).then(|| Misled {
            what: "lease",
            told: picked.lease.to_string(),
            proven: self.lease.to_string(),
        });
        misled(picked, self.proof.id(), &header.by, proof).or(accepted)
    }
}

/// Whether both ask for the same look.
fn is_same(one: &AuditPicked, other: &AuditPicked) -> bool {
    let AuditPicked { open, until, challenge, .. } = other.clone();
    AuditPicked { open, until, challenge, ..one.clone() } == *other
}
