//! What an operator cannot have signed in good faith, and anybody can check from the bytes alone.

use crate::audit::misled;
use crate::codec::{JobId, Link};
use crate::statement::{Body, Reason, Statement};
use std::fmt;

/// How two statements of one operator contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradiction {
    /// Two headers for one epoch.
    Headers {
        /// Which.
        epoch: u64,
    },
    /// Two ends of one job: two receipts, or a receipt and a refund.
    Ends {
        /// Which.
        job: JobId,
    },
    /// An auditor was told something else of a proof than the proof says.
    Audit {
        /// Whose job's.
        job: JobId,
    },
    /// Two statements under one nonce, which is to be used once.
    Nonce,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Headers { epoch } => write!(f, "two headers for epoch {epoch}"),
            Self::Ends { job } => write!(f, "two ends of job {job}"),
            Self::Audit { job } => {
                write!(f, "an auditor was told otherwise than the proof of job {job} says")
            }
            Self::Nonce => write!(f, "two statements under one nonce"),
        }
    }
}

/// Whether two statements, of one pool and by one signer, contradict each other; or one that tells an auditor of a proof, and
/// that proof, which its miner has signed.
pub fn contradiction(a: &Statement, b: &Statement) -> Option<Contradiction> {
    if let (Body::AuditPicked(_), Body::Proof(_)) = (&a.body, &b.body) {
        return misleads(a, b);
    }
    if let (Body::Proof(_), Body::AuditPicked(_)) = (&a.body, &b.body) {
        return misleads(b, a);
    }
    if (a.header.pool, a.header.by) != (b.header.pool, b.header.by) || a == b {
        return None;
    }
    if let (Body::EpochSealed(a), Body::EpochSealed(b)) = (&a.body, &b.body)
        && a.epoch == b.epoch
        && a.header != b.header
    {
        return Some(Contradiction::Headers { epoch: a.epoch });
    }
    if let (Some(job), true) = (end_of(a), end_of(a) == end_of(b)) {
        return Some(Contradiction::Ends { job });
    }
    (a.kind() == b.kind() && a.header.nonce == b.header.nonce).then_some(Contradiction::Nonce)
}

/// Whether an `audit_picked` says of the very proof that it names what that does not say.
fn misleads(told: &Statement, proven: &Statement) -> Option<Contradiction> {
    let (Body::AuditPicked(picked), Body::Proof(proof)) = (&told.body, &proven.body) else { return None };
    let id = Link::of(&proven.encode());
    let same = told.header.pool == proven.header.pool && picked.proof == id;
    let differs = same && misled(picked, id, &proven.header.by, proof).is_some();
    differs.then_some(Contradiction::Audit { job: proof.job })
}

/// The job that a statement ends, if it ends one.
pub fn end_of(statement: &Statement) -> Option<JobId> {
    match &statement.body {
        Body::Receipt(receipt) => Some(receipt.job),
        Body::Refusal(refusal) => {
            let ends =
                matches!(refusal.reason, Reason::JobExpired | Reason::JobCancelled | Reason::JobUnrunnable);
            ends.then_some(refusal.job)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::codec::Link;
    use crate::statement::{EpochSealed, Refusal};
    use swarm_crypto::address::{Address, PoolId};

    fn said(by: u8, at: u64, body: impl Into<Body>) -> Statement {
        Statement::derived(PoolId([1; 32]), Address([by; 20]), Timestamp(at), body.into())
    }

    fn sealed(epoch: u64, header: u8) -> EpochSealed {
        EpochSealed { epoch, header: Link([header; 32]) }
    }

    fn refused(job: u8, reason: Reason) -> Refusal {
        Refusal { subject: Link([job; 32]), job: Link([job; 32]), reason, detail: String::new() }
    }

    #[test]
    fn only_what_excludes_the_other_contradicts_it() {
        let headers = Some(Contradiction::Headers { epoch: 3 });
        let ends = Some(Contradiction::Ends { job: Link([7; 32]) });
        let cases = [
            (said(1, 0, sealed(3, 1)), said(1, 0, sealed(3, 2)), headers),
            (said(1, 0, sealed(3, 1)), said(1, 9, sealed(3, 1)), None),
            (said(1, 0, sealed(3, 1)), said(1, 0, sealed(4, 2)), None),
            (said(1, 0, sealed(3, 1)), said(2, 0, sealed(3, 2)), None),
            (said(1, 0, refused(7, Reason::JobExpired)), said(1, 0, refused(7, Reason::JobCancelled)), ends),
            (said(1, 0, refused(7, Reason::JobExpired)), said(1, 0, refused(7, Reason::NoFunds)), None),
            (said(1, 0, refused(7, Reason::JobExpired)), said(1, 0, refused(8, Reason::JobCancelled)), None),
        ];
        for (a, b, expected) in cases {
            assert_eq!((contradiction(&a, &b), contradiction(&b, &a)), (expected, expected), "{a:?} {b:?}");
        }
        let (one, mut other) = (said(1, 0, sealed(1, 1)), said(1, 0, sealed(2, 1)));
        other.header.nonce = one.header.nonce;
        assert_eq!(contradiction(&one, &other), Some(Contradiction::Nonce));
    }
}
