//! What an auditor says about a proof, what several of them come to, and what many audits say of a wallet.

use crate::acceptance::AcceptanceFault;
use crate::codec::keyed;
use crate::distance::{Distances, Excess, Tolerance};
use serde::{Deserialize, Serialize};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;

/// Most auditors of one proof.
pub const MAX_OPINIONS: usize = 7;
/// Audits of a wallet that its score looks back on.
pub const SCORE_AUDITS: u32 = 20;
/// So many of them that differ condemn it.
pub const SCORE_MISSES: u32 = 3;
/// A mean distance that no two honest looks at one proof can lie on both sides of, as tolerances are far below it: half a bit,
/// a thirty-second of a vector's length, eight shades.
pub const BEYOND_DOUBT: u32 = 2048;
/// The widest mean and worst of a tolerance in a pool that audits: two honest looks may be twice that apart.
pub const WIDEST_TOLERANCE: u32 = BEYOND_DOUBT / 2;
/// So many errors make an auditor careless.
pub const CARELESS_ERRORS: u32 = 2;

/// Whether proofs of a model of this tolerance can be audited, and altered beyond doubt for all who run it.
pub fn can_audit(tolerance: &Tolerance) -> bool {
    tolerance.mean.max(tolerance.worst) <= WIDEST_TOLERANCE
}

/// What an auditor says about one proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// It is what the model gives, within the model's tolerance.
    Holds,
    /// It breaks an exact rule: the sampler's choice, the prompt, its ids, the output. Anybody can repeat that.
    Contradicts,
    /// Another run of the model computes something else: the mean distance, in its workload's unit
    /// ([`crate::distance::Measure`]), which is beyond the tolerance.
    Differs(u32),
}

impl Finding {
    /// Its name, without by how much.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Contradicts => "contradicts",
            Self::Differs(_) => "differs",
        }
    }

    /// What an auditor seals before anybody shows a finding: `keyed(salt; pool id, lease, auditor, finding)`. It is of no
    /// use to another auditor, who cannot open it.
    pub fn seal(&self, pool: &PoolId, lease: &Digest, auditor: &Address, salt: &Digest) -> Digest {
        keyed(&salt.0, &(pool, lease, auditor, self))
    }
}

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It should not have been accepted.
    #[error(transparent)]
    Rule(#[from] AcceptanceFault),
    /// The model says something else.
    #[error(transparent)]
    Model(#[from] Excess),
}

/// The auditor has other weights under the model's name than the proof was made with: it can say nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was made with other weights than are here")]
pub struct OtherWeights;

/// What check A and check B come to: `checked` is what the acceptance rule finds wrong with a delivery, or, where it finds
/// nothing, how far the delivery is from what the model computes.
pub fn judge(
    checked: Result<&Distances, &AcceptanceFault>,
    tolerance: &Tolerance,
) -> Result<(Finding, Option<Flaw>), OtherWeights> {
    match checked {
        Err(AcceptanceFault::ModelDigest) => Err(OtherWeights),
        Err(fault) => Ok((Finding::Contradicts, Some(fault.clone().into()))),
        Ok(distances) => Ok(match distances.judge(tolerance) {
            Ok(()) => (Finding::Holds, None),
            Err(excess) => (Finding::Differs(distances.mean), Some(excess.into())),
        }),
    }
}

/// How an audit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditEnd {
    /// The proof stands.
    Holds,
    /// It breaks an exact rule and is overturned.
    Contradicts,
    /// It is not what the model computes: a miss of its wallet's score.
    Differs,
    /// Nobody could or would look in time, or those who did agree on nothing; the proof stands.
    Unserved,
}

/// What opinions come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They decide.
    Decided(AuditEnd),
    /// So many more are needed.
    Open(usize),
}

/// What the findings of a proof's auditors come to. One that it holds is enough as long as nobody says otherwise; against
/// a proof two must agree, and be more than any others who agree. So whoever says alone that it does not hold brings in
/// two more, and a tie one more.
pub fn outcome(findings: &[Finding]) -> Outcome {
    let count = |wanted: fn(&Finding) -> bool| findings.iter().filter(|finding| wanted(finding)).count();
    let holds = count(|finding| matches!(finding, Finding::Holds));
    let contradicts = count(|finding| matches!(finding, Finding::Contradicts));
    let differs = count(|finding| matches!(finding, Finding::Differs(_)));
    let sides = [
        (holds, contradicts.max(differs), AuditEnd::Holds),
        (contradicts, holds.max(differs), AuditEnd::Contradicts),
        (differs, holds.max(contradicts), AuditEnd::Differs),
    ];
    let most = sides.into_iter().find(|(agree, others, _)| *agree >= 2 && agree > others);
    match (findings, most) {
        ([Finding::Holds], _) => Outcome::Decided(AuditEnd::Holds),
        (_, Some((.., end))) => Outcome::Decided(end),
        ([_], None) => Outcome::Open(2),
        (_, None) => Outcome::Open(1),
    }
}

/// Whether an auditor who opened `found` cannot have looked, since an audit in which `opened` was said came to `end`: it holds,
/// it said, and it breaks an exact rule, or is at least [`BEYOND_DOUBT`] apart by all who say that it differs. Who finds
/// against a proof makes no error: those who do not look would outvote it.
pub fn is_error(found: Finding, end: AuditEnd, opened: &[Finding]) -> bool {
    let means = opened.iter().filter_map(|finding| match finding {
        Finding::Differs(mean) => Some(*mean),
        Finding::Holds | Finding::Contradicts => None,
    });
    match (found, end) {
        (Finding::Holds, AuditEnd::Contradicts) => true,
        (Finding::Holds, AuditEnd::Differs) => means.min().is_some_and(|least| least >= BEYOND_DOUBT),
        (Finding::Holds, AuditEnd::Holds | AuditEnd::Unserved)
        | (Finding::Contradicts | Finding::Differs(_), _) => false,
    }
}

/// A wallet's last [`SCORE_AUDITS`] audited proofs, newest in the lowest bit: set where it was found to differ.
///
/// The rule is made for a tolerance that an honest proof passes in all but 1 of 1,000 audits (`p`). An audit condemns an
/// honest wallet only if it misses and two of the 19 before it did: at most `C(19, 2) · p³ < 1.8 · 10⁻⁷` for each audit.
/// A wallet that is found to differ in 36 of 100 audits is condemned within 20 of them in 99 of 100 cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Score(u32);

impl Score {
    /// One more audit has ended.
    pub fn note(&mut self, differs: bool) {
        self.0 = (self.0 << 1 | u32::from(differs)) & ((1 << SCORE_AUDITS) - 1);
    }

    /// Whether it missed too often.
    pub fn is_condemned(&self) -> bool {
        self.0.count_ones() >= SCORE_MISSES
    }

    /// Whether it has missed at all.
    pub fn has_missed(&self) -> bool {
        self.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::Measure;
    use Finding::{Contradicts, Differs, Holds};

    #[test]
    fn check_a_contradicts_check_b_differs_and_other_weights_say_nothing() {
        let apart = |mean, strays| Distances {
            positions: Vec::new(),
            mean,
            high: mean,
            worst: mean,
            candidates: 0,
            strangers: 0,
            strays,
        };
        let tolerance = Tolerance { mean: 100, worst: 100, strangers: 0, strays: 0 };
        let (near, far, strayed) = (apart(100, 2), apart(101, 0), apart(0, 3));
        let of_model = |excess: Excess| Some(Flaw::Model(excess));
        let rule = |fault: &AcceptanceFault| Ok((Contradicts, Some(Flaw::Rule(fault.clone()))));
        let (model, output) = (AcceptanceFault::Model, AcceptanceFault::OutputLink);
        let table = [
            (Ok(&near), Ok((Holds, None))),
            (Ok(&far), Ok((Differs(101), of_model(Excess::Mean { found: 101, allowed: 100 })))),
            // The mean is told, whatever was too far.
            (Ok(&strayed), Ok((Differs(0), of_model(Excess::Strays { found: 3, allowed: 2 })))),
            (Err(&model), rule(&model)),
            (Err(&output), rule(&output)),
            (Err(&AcceptanceFault::ModelDigest), Err(OtherWeights)),
        ];
        for (checked, due) in table {
            assert_eq!(judge(checked, &tolerance), due, "{checked:?}");
        }
    }

    #[test]
    fn a_majority_decides_and_nobody_condemns_alone() {
        let decided = Outcome::Decided;
        let table: [(&[Finding], Outcome); 12] = [
            (&[], Outcome::Open(1)),
            (&[Holds], decided(AuditEnd::Holds)),
            (&[Contradicts], Outcome::Open(2)),
            (&[Differs(9)], Outcome::Open(2)),
            (&[Holds, Contradicts], Outcome::Open(1)),
            (&[Contradicts, Contradicts], decided(AuditEnd::Contradicts)),
            (&[Contradicts, Holds, Holds], decided(AuditEnd::Holds)),
            (&[Holds, Contradicts, Contradicts], decided(AuditEnd::Contradicts)),
            (&[Differs(9), Differs(1), Holds], decided(AuditEnd::Differs)),
            (&[Contradicts, Differs(9), Holds], Outcome::Open(1)),
            (&[Holds, Holds, Contradicts, Contradicts], Outcome::Open(1)),
            (&[Holds, Holds, Contradicts, Contradicts, Contradicts], decided(AuditEnd::Contradicts)),
        ];
        for (findings, due) in table {
            assert_eq!(outcome(findings), due, "{findings:?}");
        }
    }

    #[test]
    fn an_error_is_what_two_honest_looks_cannot_both_find() {
        const FAR: u32 = BEYOND_DOUBT;
        let table: [(Finding, AuditEnd, &[Finding], bool); 9] = [
            (Holds, AuditEnd::Contradicts, &[Holds, Contradicts, Contradicts], true),
            (Holds, AuditEnd::Differs, &[Holds, Differs(FAR), Differs(FAR)], true),
            (Holds, AuditEnd::Differs, &[Holds, Differs(FAR), Differs(FAR - 1)], false),
            (Holds, AuditEnd::Holds, &[Holds], false),
            (Holds, AuditEnd::Unserved, &[Holds, Contradicts], false),
            (Differs(FAR), AuditEnd::Holds, &[Differs(FAR), Holds, Holds], false),
            (Contradicts, AuditEnd::Holds, &[Contradicts, Holds, Holds], false),
            (Differs(9), AuditEnd::Contradicts, &[Differs(9), Contradicts, Contradicts], false),
            (Contradicts, AuditEnd::Differs, &[Contradicts, Differs(9), Differs(9)], false),
        ];
        for (found, end, opened, due) in table {
            assert_eq!(is_error(found, end, opened), due, "{found:?} of {opened:?}");
        }
        for tolerance in [Measure::Bits, Measure::Lengths, Measure::Shades].map(Measure::tolerance) {
            let widest = tolerance.mean_of(1).max(tolerance.worst);
            assert!(
                widest * 2 < FAR,
                "a run at the edge of the tolerance is not beyond doubt on another kernel"
            );
        }
    }

    #[test]
    fn a_seal_opens_for_nobody_else_and_for_nothing_else() {
        let (pool, lease, me, salt) = (PoolId([1; 32]), Digest([2; 32]), Address([3; 20]), Digest([4; 32]));
        let sealed = Holds.seal(&pool, &lease, &me, &salt);
        assert_ne!(sealed, Holds.seal(&pool, &lease, &Address([5; 20]), &salt));
        assert_ne!(sealed, Holds.seal(&pool, &Digest([5; 32]), &me, &salt));
        assert_ne!(sealed, Contradicts.seal(&pool, &lease, &me, &salt));
        assert_ne!(sealed, Holds.seal(&pool, &lease, &me, &Digest([5; 32])));
        assert_ne!(Differs(1).seal(&pool, &lease, &me, &salt), Differs(2).seal(&pool, &lease, &me, &salt));
    }

    fn choose(n: u128, k: u128) -> u128 {
        (0..k).fold(1, |product, i| product * (n - i) / (i + 1))
    }

    #[test]
    fn the_rates_of_the_score_are_as_stated() {
        // Out of 10^9 triples of audits that each miss with 1 in 1,000.
        let (before, misses) = (u128::from(SCORE_AUDITS) - 1, u128::from(SCORE_MISSES));
        assert!(choose(before, misses - 1) * 10 < 1_800);
        // A cheat that is seen in 18 of 50 audits, and how often fewer than three of twenty show it.
        let missed = |seen: u32| choose(20, seen.into()) * 18u128.pow(seen) * 32u128.pow(20 - seen);
        let slips = (0..SCORE_MISSES).map(missed).sum::<u128>();
        assert!(slips * 100 < 50u128.pow(SCORE_AUDITS), "{slips}");
    }

    #[test]
    fn a_score_forgets_what_is_older_than_its_audits() {
        let mut score = Score::default();
        (0..2).for_each(|_| score.note(true));
        assert!(!score.is_condemned(), "two misses are chance");
        (0..18).for_each(|_| score.note(false));
        let mut late = score;
        late.note(true);
        assert!(!late.is_condemned(), "the first miss is forgotten");
        score = Score::default();
        (0..3).for_each(|_| score.note(true));
        assert!(score.is_condemned());
        (0..18).for_each(|_| score.note(false));
        assert!(!score.is_condemned() && score.has_missed());
    }
}
