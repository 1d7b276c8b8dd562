use super::body::*;
use crate::{Rejection, codec};

/// Most entries of one listing.
pub const MAX_LISTING_ENTRIES: usize = 16;
/// Most claims that a lease names.
pub const MAX_NAMED_CLAIMS: usize = 8;
/// Most models of one heartbeat or beacon.
pub const MAX_MODELS: usize = 32;
/// The longest peer id, in bytes.
pub const MAX_NODE_BYTES: usize = 128;
/// Longest name of a model, pool or wallet, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Most stop texts of a job.
pub const MAX_STOPS: usize = 8;
/// Longest stop text, in bytes.
pub const MAX_STOP_BYTES: usize = 64;
/// Most slots of one miner.
pub const MAX_SLOTS: u32 = 256;
/// Longest linked input, in bytes.
pub const MAX_INPUT_BYTES: u64 = 64 * 1024 * 1024;
/// Longest input that is a prompt, in bytes: more than any model's context holds.
pub const MAX_PROMPT_BYTES: u64 = 4 * 1024 * 1024;
/// Longest output, in bytes.
pub const MAX_OUTPUT_BYTES: u64 = 1024 * 1024;
/// Longest transcript, in bytes.
pub const MAX_TRANSCRIPT_BYTES: u64 = 1024 * 1024;
/// Most tokens of one job.
pub const MAX_TOKENS: u32 = 4096;
/// Highest temperature, in 1/10000.
pub const MAX_TEMPERATURE: u32 = 100_000;
/// Longest detail of a refusal, in bytes.
pub const MAX_DETAIL_BYTES: usize = 256;

type Bounds = Result<(), Rejection>;

fn within(field: &'static str, ok: bool) -> Bounds {
    if ok { Ok(()) } else { Err(Rejection::OutOfBounds(field)) }
}

fn name(field: &'static str, text: &str) -> Bounds {
    within(field, !text.is_empty() && text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control))
}

impl Body {
    /// Refuses fields outside their fixed bounds: facts of the bytes alone.
    pub(super) fn check_bounds(&self) -> Bounds {
        match self {
            Body::Job(job) => job.check_bounds(),
            Body::Refusal(refusal) => within("detail", refusal.detail.len() <= MAX_DETAIL_BYTES),
            Body::Listing(listing) => {
                within("entries", (1..=MAX_LISTING_ENTRIES).contains(&listing.entries.len()))?;
                listing.entries.iter().try_for_each(|entry| name("model", &entry.model))
            }
            Body::Lease(lease) => within("claims", lease.claims.len() <= MAX_NAMED_CLAIMS),
            Body::Proof(proof) => {
                within("transcript_bytes", proof.transcript_bytes <= MAX_TRANSCRIPT_BYTES)?;
                within("output_bytes", proof.output_bytes <= MAX_OUTPUT_BYTES)
            }
            Body::AuditPicked(picked) => {
                within("transcript_bytes", picked.transcript_bytes <= MAX_TRANSCRIPT_BYTES)?;
                within("output_bytes", picked.output_bytes <= MAX_OUTPUT_BYTES)
            }
            Body::Heartbeat(heartbeat) => heartbeat.check_bounds(),
            Body::Beacon(beacon) => {
                name("name", &beacon.name)?;
                within("models", beacon.models.len() <= MAX_MODELS)?;
                beacon.models.iter().try_for_each(|supply| name("model", &supply.model))?;
                within("node", beacon.node.as_ref().is_none_or(|node| node.len() <= MAX_NODE_BYTES))?;
                within("tree", beacon.tree.as_ref().is_none_or(codec::is_dag_pb))
            }
            Body::Cancel(_)
            | Body::Admitted(_)
            | Body::Claim(_)
            | Body::Release(_)
            | Body::LeaseEnded(_)
            | Body::Receipt(_)
            | Body::Attestation(_)
            | Body::Challenge(_)
            | Body::EpochOpened(_)
            | Body::EpochSealed(_)
            | Body::Progress(_) => Ok(()),
        }
    }
}

impl Job {
    fn check_bounds(&self) -> Bounds {
        name("model", &self.model)?;
        within("max_tokens", (1..=MAX_TOKENS).contains(&self.params.max_tokens))?;
        within("temperature", self.params.temperature <= MAX_TEMPERATURE)?;
        within("top_p", (1..=10_000).contains(&self.params.top_p))?;
        within("stop", self.params.stop.len() <= MAX_STOPS)?;
        for stop in &self.params.stop {
            within("stop", (1..=MAX_STOP_BYTES).contains(&stop.len()))?;
        }
        within("max_runtime_s", self.max_runtime_s > 0)?;
        match &self.input {
            Input::Linked { cid, bytes } => {
                within("input bytes", (1..=MAX_INPUT_BYTES).contains(bytes))?;
                within("input cid", codec::may_be_file(cid))
            }
            Input::Text(text) => within("input", !text.is_empty()),
            Input::Chat(messages) => within("input", !messages.is_empty()),
            Input::Sealed { .. } => Ok(()),
        }
    }
}

impl Heartbeat {
    fn check_bounds(&self) -> Bounds {
        within("models", self.models.len() <= MAX_MODELS)?;
        self.models.iter().try_for_each(|offer| name("model", &offer.model))?;
        within("slots", (1..=MAX_SLOTS).contains(&self.slots))?;
        self.ens.as_deref().map_or(Ok(()), |ens| name("ens", ens))?;
        within("device", self.device.len() <= MAX_NAME_BYTES)
    }
}
