use std::fmt;
use swarm_crypto::address::Address;

/// How far a job got, for a progress line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The job went out.
    Announced,
    /// The operator took it; its price is reserved.
    Admitted,
    /// It waits for a miner.
    Listed {
        /// Which attempt, from 1.
        attempt: u32,
        /// Jobs before it, if the operator said.
        ahead: Option<u64>,
    },
    /// A miner has it.
    Leased {
        /// Which attempt.
        attempt: u32,
        /// Who.
        to: Address,
        /// The miner's name, if it is known.
        name: Option<String>,
    },
    /// The miner works on it.
    Running {
        /// Which attempt.
        attempt: u32,
        /// Who.
        to: Address,
        /// The miner's name, if it is known.
        name: Option<String>,
        /// Tokens (or the workload's own steps) so far.
        units: u64,
    },
    /// The miner is through, and the operator checks its proof.
    Proven {
        /// Which attempt.
        attempt: u32,
    },
    /// The operator accepted the proof and promised its place in an epoch.
    Receipted {
        /// Who earned.
        by: Address,
        /// The epoch.
        epoch: u64,
    },
}

impl Stage {
    /// The attempt that it belongs to, if it is of one.
    pub fn attempt(&self) -> Option<u32> {
        match self {
            Stage::Announced | Stage::Admitted | Stage::Receipted { .. } => None,
            Stage::Listed { attempt, .. }
            | Stage::Leased { attempt, .. }
            | Stage::Running { attempt, .. }
            | Stage::Proven { attempt } => Some(*attempt),
        }
    }

    /// True while no miner has the job.
    pub fn is_waiting(&self) -> bool {
        matches!(self, Stage::Announced | Stage::Admitted | Stage::Listed { .. })
    }

    /// Stages in the order of a job's life: by attempt, by stage within it, by progress within that.
    pub(super) fn order(&self) -> (u32, u8, u64) {
        match self {
            Stage::Announced => (0, 0, 0),
            Stage::Admitted => (0, 1, 0),
            Stage::Listed { attempt, ahead } => (*attempt, 0, ahead.map_or(0, |ahead| u64::MAX - ahead)),
            Stage::Leased { attempt, .. } => (*attempt, 1, 0),
            Stage::Running { attempt, units, .. } => (*attempt, 2, *units),
            Stage::Proven { attempt } => (*attempt, 3, 0),
            Stage::Receipted { .. } => (u32::MAX, u8::MAX, 0),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |to: &Address, name: &Option<String>| name.clone().unwrap_or_else(|| to.to_string());
        match self {
            Stage::Announced => f.write_str("announced"),
            Stage::Admitted => f.write_str("admitted"),
            Stage::Listed { attempt, ahead } => {
                f.write_str("listed")?;
                if *attempt > 1 {
                    write!(f, ", attempt {attempt}")?;
                }
                ahead.filter(|ahead| *ahead > 0).map_or(Ok(()), |ahead| write!(f, ", {ahead} ahead"))
            }
            Stage::Leased { to, name, .. } => write!(f, "leased to {}", who(to, name)),
            Stage::Running { to, name, units, .. } => {
                write!(f, "running on {}, {units} tokens", who(to, name))
            }
            Stage::Proven { .. } => f.write_str("proven"),
            Stage::Receipted { by: _, epoch } => write!(f, "receipted in epoch {epoch}"),
        }
    }
}
