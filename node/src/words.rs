//! How ids are written for people.

use swarm_crypto::address::Address;
use swarm_protocol::codec::JobId;

/// A job's id, short: its last eight characters, which differ.
pub fn short_job(job: &JobId) -> String {
    let text = job.to_string();
    format!("…{}", &text[text.len().saturating_sub(8)..])
}

/// A wallet by its name, or by its address, short.
pub fn who(wallet: &Address, name: Option<&str>) -> String {
    let text = wallet.to_string();
    let short = format!("{}…{}", &text[..6], &text[38..]);
    name.map_or(short.clone(), |name| format!("{name} ({short})"))
}
