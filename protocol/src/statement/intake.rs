use super::body::{Body, Job, MAX_JOB_LIFE, SKEW};
use super::wire::{Kind, Nonce, Role, Signed, Statement, Topic, signing_hash};
use crate::allowance::{Allowance, Class, Meter};
use crate::codec::Link;
use crate::{Millis, Rejection, Timestamp};
use std::collections::BTreeMap;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SignatureError;
use swarm_crypto::keyring::Keyring;

/// Statements remembered for deduplication.
pub const MAX_SEEN: usize = 200_000;

/// A statement whose bytes, pool, time and signature have been checked. [`Intake::verify`] is its one constructor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    id: Link,
    statement: Statement,
    signed: Signed,
}

impl Signed {
    /// Whether the wallet that `statement`, which is this one, names has signed it.
    pub(crate) fn check_signature(
        &self,
        keyring: &mut Keyring,
        statement: &Statement,
    ) -> Result<(), SignatureError> {
        if crate::planted::is_vouched(self) {
            return Ok(());
        }
        let hash = signing_hash(&statement.header.pool, statement.kind(), &self.payload);
        keyring.check(statement.header.by, &hash, &self.signature)
    }
}

impl Verified {
    /// The statement's id.
    pub fn id(&self) -> Link {
        self.id
    }

    /// What is said, and by whom.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The snapshot as it came.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }
}

/// What is known of the name that a signer claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameStanding {
    /// It claims none.
    Unnamed,
    /// It claims one, which nothing could confirm.
    Unverified(String),
    /// ENS says the name is this wallet's.
    Confirmed(String),
}

/// A verified statement whose signer's name has been looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    verified: Verified,
    name: NameStanding,
}

impl Identified {
    /// Joins a statement and what a name lookup said; `confirmed` is whether ENS gives the name to the signer.
    pub fn new(verified: Verified, confirmed: bool) -> Self {
        let name = match &verified.statement.body {
            Body::Heartbeat(heartbeat) => match heartbeat.ens.clone() {
                None => NameStanding::Unnamed,
                Some(name) if confirmed => NameStanding::Confirmed(name),
                Some(name) => NameStanding::Unverified(name),
            },
            _ => NameStanding::Unnamed,
        };
        Self { verified, name }
    }

    /// The statement.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The signer's name.
    pub fn name(&self) -> &NameStanding {
        &self.name
    }
}

/// The peer that brings a statement, and whom the receiver knows.
#[derive(Clone, Copy)]
pub struct Carrier<'a> {
    /// A digest of the peer's id.
    pub peer: Digest,
    /// Whether a signer has money in the pool, is on its roster or has a lease; everybody else is a stranger.
    pub knows: &'a dyn Fn(&Address) -> bool,
}

impl std::fmt::Debug for Carrier<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Carrier").field(&self.peer).finish()
    }
}

/// A statement that has passed every check but that of its signature.
#[derive(Debug)]
struct Unverified {
    id: Link,
    statement: Statement,
    signed: Signed,
}

/// The way in: bytes become verified statements, each once, or a [`Rejection`].
#[derive(Debug)]
pub struct Intake {
    pool: PoolId,
    operator: Address,
    keyring: Keyring,
    /// Ids by signer, kind and nonce, and whether they came by gossip: what was only handed over is relayed still.
    seen: BTreeMap<(Address, Kind, Nonce), (Link, bool)>,
    forget: BTreeMap<(Timestamp, Address, Kind, Nonce), ()>,
    allowance: Allowance,
}

impl Intake {
    /// An intake for statements of `pool`, whose operator is `operator`.
    pub fn new(pool: PoolId, operator: Address) -> Self {
        let (keyring, allowance) = (Keyring::default(), Allowance::default());
        Self { pool, operator, keyring, seen: BTreeMap::new(), forget: BTreeMap::new(), allowance }
    }

    /// The whole way: decode, pool, kind, time, seen before, signature; cheap checks first.
    /// What is handed over directly (`topic` is none) may come again; what is gossiped may not.
    pub fn accept(
        &mut self,
        topic: Option<Topic>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Verified, Rejection> {
        let verified = self.verify(topic, bytes, now)?;
        self.remember(&verified, topic.is_some());
        Ok(verified)
    }

    /// As [`Intake::accept`], but takes of the peer that brings it, and of the signer, no more than their
    /// [`Allowance`]. Before the signature only the peer is charged, as it alone is certain; the signer is charged
    /// after, and once: repeating what it said is the peer's doing.
    pub fn accept_from(
        &mut self,
        carrier: &Carrier<'_>,
        topic: Option<Topic>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Verified, Rejection> {
        if topic.is_none() {
            self.allowance.take(Meter::Handed(carrier.peer), now)?;
        }
        let unverified = self.examine(topic, bytes, now)?;
        let (by, kind) = (unverified.statement.header.by, unverified.statement.kind());
        let counted = by != self.operator && !self.has_seen(&unverified.statement);
        let known = counted && (carrier.knows)(&by);
        if counted && !known {
            let peer = carrier.peer;
            let strangers = if topic.is_some() { Meter::Forwarded(peer) } else { Meter::Introduced(peer) };
            self.allowance.take(strangers, now)?;
        }
        let verified = self.check_signature(unverified)?;
        if let Some(class) = Class::of(kind).filter(|_| known) {
            self.allowance.take(Meter::Signer(by, class), now)?;
        }
        self.remember(&verified, topic.is_some());
        Ok(verified)
    }

    /// Charges a peer for a question.
    pub fn question(&mut self, peer: Digest, now: Timestamp) -> Result<(), Rejection> {
        self.allowance.take(Meter::Questions(peer), now)
    }

    /// As [`Intake::accept`], but remembers nothing: for answers to our own questions.
    pub fn verify(
        &mut self,
        topic: Option<Topic>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Verified, Rejection> {
        let unverified = self.examine(topic, bytes, now)?;
        self.check_signature(unverified)
    }

    fn examine(
        &mut self,
        topic: Option<Topic>,
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<Unverified, Rejection> {
        let signed = Signed::decode(bytes)?;
        let statement = Statement::decode(&signed.payload)?;
        let header = &statement.header;
        let kind = statement.kind();
        if header.pool != self.pool && !crate::planted::is(crate::planted::Bug::OtherPool) {
            return Err(Rejection::OtherPool);
        }
        if topic.is_some_and(|topic| !kind.topics().contains(&topic)) {
            return Err(Rejection::WrongTopic(kind));
        }
        if kind.signer() == Role::Operator && header.by != self.operator {
            return Err(Rejection::NotOperator(kind, header.by));
        }
        check_time(&statement, now)?;
        self.forget_until(now);
        let id = signed.id();
        self.check_seen(&statement, id, topic.is_some())?;
        Ok(Unverified { id, statement, signed })
    }

    fn check_signature(&mut self, unverified: Unverified) -> Result<Verified, Rejection> {
        let Unverified { id, statement, signed } = unverified;
        let checked = signed.check_signature(&mut self.keyring, &statement);
        checked.map_err(|e| Rejection::BadSignature(e.to_string()))?;
        Ok(Verified { id, statement, signed })
    }

    /// Statements remembered at this moment.
    pub fn remembered(&self) -> usize {
        self.seen.len()
    }

    fn has_seen(&self, statement: &Statement) -> bool {
        self.seen.contains_key(&(statement.header.by, statement.kind(), statement.header.nonce))
    }

    fn check_seen(&self, statement: &Statement, id: Link, once: bool) -> Result<(), Rejection> {
        let header = &statement.header;
        match self.seen.get(&(header.by, statement.kind(), header.nonce)) {
            Some((seen, _)) if *seen != id => Err(Rejection::NonceReused(header.by, statement.kind())),
            Some((_, true)) if once => Err(Rejection::Duplicate),
            _ => Ok(()),
        }
    }

    fn remember(&mut self, verified: &Verified, gossiped: bool) {
        let header = &verified.statement.header;
        let kind = verified.statement.kind();
        let key = (header.by, kind, header.nonce);
        let seen = self.seen.entry(key);
        if let std::collections::btree_map::Entry::Occupied(mut known) = seen {
            known.get_mut().1 |= gossiped;
            return;
        }
        seen.or_insert((verified.id, gossiped));
        self.forget.insert((expiry(&verified.statement), header.by, kind, header.nonce), ());
        if self.seen.len() > MAX_SEEN
            && let Some(((_, by, kind, nonce), ())) = self.forget.pop_first()
        {
            self.seen.remove(&(by, kind, nonce));
        }
    }

    fn forget_until(&mut self, now: Timestamp) {
        while let Some(entry) = self.forget.first_entry() {
            let (at, by, kind, nonce) = *entry.key();
            if at >= now {
                break;
            }
            entry.remove();
            self.seen.remove(&(by, kind, nonce));
        }
    }
}

fn check_time(statement: &Statement, now: Timestamp) -> Result<(), Rejection> {
    let at = statement.header.at;
    if at > now + SKEW {
        return Err(Rejection::FromFuture(at.since(now)));
    }
    if expiry(statement) < now { Err(Rejection::TooOld(at)) } else { Ok(()) }
}

/// When a statement is too old to be taken; what was seen is remembered until then.
fn expiry(statement: &Statement) -> Timestamp {
    let at = statement.header.at;
    match &statement.body {
        Body::Job(job) => job.last_valid_at(at) + SKEW,
        Body::Claim(_) | Body::Heartbeat(_) | Body::Beacon(_) | Body::Progress(_) => at + SKEW.times(2),
        Body::Listing(_) => at + Millis::from_secs(300),
        Body::Cancel(_)
        | Body::Admitted(_)
        | Body::Refusal(_)
        | Body::Release(_)
        | Body::Lease(_)
        | Body::LeaseEnded(_)
        | Body::Proof(_)
        | Body::AuditPicked(_)
        | Body::Attestation(_)
        | Body::Challenge(_) => at + MAX_JOB_LIFE.times(2),
        Body::Receipt(_) | Body::EpochOpened(_) | Body::EpochSealed(_) => Timestamp(u64::MAX),
    }
}

impl Job {
    /// Until when a job signed at `at` can be valid.
    pub fn last_valid_at(&self, at: Timestamp) -> Timestamp {
        self.not_after.min(at + MAX_JOB_LIFE)
    }
}
