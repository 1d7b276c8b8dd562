//! Which proofs are audited, and by whom: draws from the secret that an epoch committed to before anything in it was done.

use crate::codec::{Link, keyed};
use crate::finding::MAX_OPINIONS;
use crate::race::Roster;
use crate::statement::{AuditPicked, Proof};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// Parts of the audit rate.
const PARTS: u32 = 10_000;

/// Whether the proof under `lease` is picked: `keyed(s_M; lease id) < rate / 10000 · 2^256`.
pub fn is_picked(secret: &Digest, lease: &Digest, rate: u32) -> bool {
    let draw = keyed(&secret.0, &(lease,));
    let whole = draw.0.iter().rev().fold(0, |carry, byte| (u32::from(*byte) * PARTS + carry) >> 8);
    whole < rate
}

/// The wallets that may audit the proof under `lease`, the first first: the established on the roster with the model that
/// are not `barred`, by `keyed(s_M; lease id, wallet)`; at most [`MAX_OPINIONS`]. A wallet costs nothing, so one that has
/// earned nothing has no say over the money of others.
pub fn auditors(
    secret: &Digest,
    lease: &Digest,
    roster: &Roster,
    model: &str,
    barred: &[Address],
) -> Vec<Address> {
    let serves = |models: &[String]| models.iter().any(|served| served == model);
    let able = roster.0.iter().filter(|entry| entry.established && serves(&entry.models));
    let able = able.filter(|entry| !barred.contains(&entry.wallet));
    let mut drawn: Vec<(Digest, Address)> =
        able.map(|entry| (keyed(&secret.0, &(lease, entry.wallet)), entry.wallet)).collect();
    drawn.sort_unstable();
    drawn.truncate(MAX_OPINIONS);
    drawn.into_iter().map(|(_, wallet)| wallet).collect()
}

/// What an auditor was told of a proof, and is not so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is to look at the {what} {told}, and that of the proof is {proven}")]
pub struct Misled {
    /// Which part of it.
    pub what: &'static str,
    /// As the operator's `audit_picked` has it.
    pub told: String,
    /// As the proof has it.
    pub proven: String,
}

/// The first thing in which what an auditor is told differs from the proof of this id, signed by `by`; the proof itself
/// before all else.
pub fn misled(picked: &AuditPicked, id: Link, by: &Address, proof: &Proof) -> Option<Misled> {
    let parts = [
        ("proof", picked.proof.to_string(), id.to_string()),
        ("wallet", picked.wallet.to_string(), by.to_string()),
        ("job", picked.job.to_string(), proof.job.to_string()),
        ("lease", picked.lease.to_string(), proof.lease.to_string()),
        ("transcript", picked.transcript.to_string(), proof.transcript.to_string()),
        ("transcript's length", picked.transcript_bytes.to_string(), proof.transcript_bytes.to_string()),
        ("output", picked.output.to_string(), proof.output.to_string()),
        ("output's length", picked.output_bytes.to_string(), proof.output_bytes.to_string()),
    ];
    let differs = parts.into_iter().find(|(_, told, proven)| told != proven);
    differs.map(|(what, told, proven)| Misled { what, told, proven })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::MicroUsdc;
    use crate::race::RosterEntry;
    use crate::statement::PayoutMode;

    fn lease(n: u32) -> Digest {
        swarm_crypto::digest::blake3(&n.to_be_bytes())
    }

    #[test]
    fn the_share_picked_is_the_rate() {
        let secret = Digest([7; 32]);
        let picked = |rate| (0..20_000).filter(|n| is_picked(&secret, &lease(*n), rate)).count();
        assert_eq!((picked(0), picked(10_000), picked(u32::MAX)), (0, 20_000, 20_000));
        // Within five standard deviations of a binomial.
        assert!(picked(500).abs_diff(1_000) < 155, "{}", picked(500));
        assert!(picked(5_000).abs_diff(10_000) < 354, "{}", picked(5_000));
    }

    #[test]
    fn the_line_is_exact() {
        // The first 64 bits of a draw, as a share of 10,000, must agree with the whole of it.
        let secret = Digest([9; 32]);
        for n in 0..1_000 {
            let draw = keyed(&secret.0, &(lease(n),));
            let share = (u128::from(draw.first_u64_be()) * 10_000) >> 64;
            let share = u32::try_from(share).unwrap();
            assert!(!is_picked(&secret, &lease(n), share) && is_picked(&secret, &lease(n), share + 1));
        }
    }

    #[test]
    fn auditors_are_established_serve_the_model_and_have_no_part_in_the_job() {
        let entry = |n: u8| RosterEntry {
            wallet: Address([n; 20]),
            w: 1,
            fee168: MicroUsdc(0),
            loss24: 0,
            established: n != 6,
            models: vec![if n.is_multiple_of(2) { "even" } else { "odd" }.to_owned()],
            slots: 1,
            mode: PayoutMode::Solo,
        };
        let roster = Roster((0..40).map(entry).collect());
        let (secret, barred) = (Digest([7; 32]), [2, 4].map(|n| Address([n; 20])));
        let mut first = std::collections::BTreeSet::new();
        for n in 0..500 {
            let drawn = auditors(&secret, &lease(n), &roster, "even", &barred);
            assert_eq!(drawn.len(), MAX_OPINIONS);
            assert!(drawn.iter().all(|wallet| wallet.0[0] % 2 == 0 && !barred.contains(wallet)));
            let draw = |wallet: &Address| keyed(&secret.0, &(lease(n), wallet));
            assert!(drawn.windows(2).all(|pair| draw(&pair[0]) < draw(&pair[1])));
            first.insert(drawn[0]);
        }
        assert_eq!(first.len(), 17, "everybody is drawn at times");
        assert!(!first.contains(&Address([6; 20])), "who is not established is never drawn");
        assert_eq!(auditors(&secret, &lease(1), &roster, "prime", &barred), []);
    }
}
