//! The workloads beside text generation: what each is given, what a run leaves behind, and what is accepted.
//!
//! What `llm_gen` leaves behind is a [`crate::transcript::Transcript`]; its rule is [`crate::acceptance`]. An input is
//! text for every workload: how a workload reads it is said here, so that the statement of a job is the same for all.

pub mod bench;
pub mod embed;
pub mod image;
pub mod png;

use crate::codec::{self, CodecError};
use crate::statement::{Input, Job, JobType};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why no miner could do what a job asks, whatever its model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadFault {
    /// Sealed input is not built.
    #[error("sealed input is not built in this version")]
    Sealed,
    /// The workload takes no conversation.
    #[error("{} takes text, not a conversation", .0.as_str())]
    Chat(JobType),
    /// The workload's input stands in the statement itself.
    #[error("what {} is given is written in the statement itself, not linked", .0.as_str())]
    Linked(JobType),
    /// The input is no benchmark.
    #[error(transparent)]
    Bench(#[from] bench::SpecFault),
    /// The input asks for no picture.
    #[error(transparent)]
    Image(#[from] image::SpecFault),
}

/// Refuses a job that its workload cannot be given; looks at nothing but the job.
pub fn check_input(job: &Job) -> Result<(), WorkloadFault> {
    match (job.job_type, &job.input) {
        (_, Input::Sealed { .. }) => Err(WorkloadFault::Sealed),
        (JobType::LlmGen, _) => Ok(()),
        (JobType::Embed | JobType::SdInfer | JobType::TorchBench, Input::Chat(_)) => {
            Err(WorkloadFault::Chat(job.job_type))
        }
        (JobType::Embed, Input::Text(_) | Input::Linked { .. }) => Ok(()),
        (JobType::SdInfer | JobType::TorchBench, Input::Linked { .. }) => {
            Err(WorkloadFault::Linked(job.job_type))
        }
        (JobType::SdInfer, Input::Text(text)) => Ok(image::Spec::of_input(text).map(|_| ())?),
        (JobType::TorchBench, Input::Text(text)) => Ok(bench::Spec::parse(text).map(|_| ())?),
    }
}

/// Reads the block of a workload's transcript, refusing non-canonical bytes, more than `max_bytes` of them, and whatever there
/// are too many of: `counts` gives for each thing how many there are, how many there may be, and its name.
pub(crate) fn read_transcript<T: DeserializeOwned + Serialize, const N: usize>(
    bytes: &[u8],
    max_bytes: u64,
    counts: impl Fn(&T) -> [(usize, usize, &'static str); N],
) -> Result<T, CodecError> {
    let excess = |what: &str| Err(CodecError::Malformed(format!("transcript of too many {what}")));
    if bytes.len() as u64 > max_bytes {
        return excess("bytes");
    }
    let transcript: T = codec::decode(bytes).map_err(CodecError::shortened)?;
    match counts(&transcript).into_iter().find(|(found, most, _)| found > most) {
        Some((.., what)) => excess(what),
        None => Ok(transcript),
    }
}
