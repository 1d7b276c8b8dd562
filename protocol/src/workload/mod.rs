//! The workloads beside text generation: what each is given, what a run leaves behind, and what is accepted.
//!
//! What `llm_gen` leaves behind is a [`crate::transcript::Transcript`]; its rule is [`crate::acceptance`]. An input is
//! text for every workload: how a workload reads it is said here, so that the statement of a job is the same for all.

pub mod bench;
pub mod embed;

use crate::statement::{Input, Job, JobType};

/// Why no miner could do what a job asks, whatever its model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadFault {
    /// No rule is built for the workload.
    #[error("{} is not built in this version", .0.as_str())]
    Unbuilt(JobType),
    /// Sealed input is not built.
    #[error("sealed input is not built in this version")]
    Sealed,
    /// The workload takes no conversation.
    #[error("{} takes text, not a conversation", .0.as_str())]
    Chat(JobType),
    /// A benchmark stands in the statement itself.
    #[error("a benchmark is written in the statement itself, not linked")]
    Linked,
    /// The input is no benchmark.
    #[error(transparent)]
    Bench(#[from] bench::SpecFault),
}

/// Refuses a job that its workload cannot be given; looks at nothing but the job.
pub fn check_input(job: &Job) -> Result<(), WorkloadFault> {
    match (job.job_type, &job.input) {
        (_, Input::Sealed { .. }) => Err(WorkloadFault::Sealed),
        (JobType::SdInfer, _) => Err(WorkloadFault::Unbuilt(job.job_type)),
        (JobType::LlmGen, _) => Ok(()),
        (JobType::Embed | JobType::TorchBench, Input::Chat(_)) => Err(WorkloadFault::Chat(job.job_type)),
        (JobType::Embed, Input::Text(_) | Input::Linked { .. }) => Ok(()),
        (JobType::TorchBench, Input::Linked { .. }) => Err(WorkloadFault::Linked),
        (JobType::TorchBench, Input::Text(text)) => Ok(bench::Spec::parse(text).map(|_| ())?),
    }
}
