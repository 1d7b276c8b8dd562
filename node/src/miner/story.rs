//! The miner's log.

use crate::words::{short_job, who};
use swarm_protocol::finding::{AuditEnd, Finding};
use swarm_protocol::miner::{Challenged, Pause, Story};
use swarm_protocol::money::MicroUsdc;

/// Writes one line.
pub fn tell(story: &Story) {
    match story {
        Story::NewJob { job, attempt, model, price } => {
            let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            tracing::info!("new job {}: {model} for {price} USDC{again}", short_job(job));
        }
        Story::Declined { job, reason } => tracing::info!("job {} is not for me: {reason}", short_job(job)),
        Story::Claiming { job, class, waited } => {
            tracing::info!("claiming {} (class {class}, after {waited})", short_job(job));
        }
        Story::Won { job, .. } => tracing::info!("claim accepted: {} is mine", short_job(job)),
        Story::Lost { job, to } => tracing::info!("claim lost: {} went to {}", short_job(job), who(to, None)),
        Story::Executing { job, .. } => tracing::info!("executing {}", short_job(job)),
        Story::ProofSubmitted { job, .. } => tracing::info!("proof of {} submitted", short_job(job)),
        Story::Earned { job, amount, epoch, held_until } => tracing::info!(
            "earned {amount} USDC with {} in epoch {epoch}, held until boundary {held_until}",
            short_job(job)
        ),
        Story::Shared { job, units, terms, epoch, held_until } => {
            let rate = match terms.rate {
                Some(rate) => format!("at {} USDC for a million", MicroUsdc(rate)),
                None => "by their share of the epoch's".to_owned(),
            };
            tracing::info!(
                "earned {units} work units with {}, paid {rate} when epoch {epoch} ends, at most {} USDC, held until \
                 boundary {held_until}",
                short_job(job),
                terms.at_most
            );
        }
        Story::Underpaid { job, due, paid } => {
            tracing::warn!("the receipt of {} names {paid} USDC, {due} were due; keep it", short_job(job));
        }
        Story::Refused { job, reason, detail } => {
            tracing::warn!("proof of {} refused ({reason:?}): {detail}", short_job(job));
        }
        Story::LeaseLost { job, cause } => tracing::warn!("lease on {} lost: {cause:?}", short_job(job)),
        Story::Released { job, cause, why } => {
            tracing::info!("lease on {} given back ({cause:?}): {why}", short_job(job));
        }
        Story::Audited { job, wallet, finding } => {
            let found = found(*finding);
            tracing::info!("looked at the proof of {} by {}: {found}", short_job(job), who(wallet, None));
        }
        Story::NotAudited { job, why } => {
            tracing::warn!("the proof of {} could not be looked at for now: {why}", short_job(job));
        }
        Story::Misled { job, how } => {
            tracing::error!(
                "the operator misleads the auditor of {}, nothing is said of it: {how}",
                short_job(job)
            );
        }
        Story::Altered { job, mean } => tracing::info!(
            "altered the costs of {} on purpose, by {mean} of 4096ths of a bit in the mean; the answer is the model's",
            short_job(job)
        ),
        Story::AlteredAudited { job, end } => {
            tracing::info!("the altered proof of {} was audited: {}", short_job(job), ended(*end))
        }
        Story::Challenge { job, how } => challenge(&short_job(job), how),
        Story::Draining { running } => tracing::info!("stopping: no new jobs, {running} still running"),
        Story::Paused { why: Pause::Owner, running } => {
            tracing::info!("paused: no new jobs, {running} still running");
        }
        Story::Paused { why: Pause::Hours, running } => {
            tracing::info!("outside its hours: no new jobs, {running} still running");
        }
        Story::Resumed => tracing::info!("resumed: jobs are taken again"),
    }
}

fn found(finding: Finding) -> String {
    match finding {
        Finding::Holds => "it holds".to_owned(),
        Finding::Contradicts => "it breaks the rules".to_owned(),
        Finding::Differs(mean) => format!("it is not what the model says, by {mean} in the mean"),
    }
}

fn ended(end: AuditEnd) -> &'static str {
    match end {
        AuditEnd::Holds => "it was called good",
        AuditEnd::Contradicts | AuditEnd::Differs => "it was found out",
        AuditEnd::Unserved => "nobody could look",
    }
}

/// Of a finding that an altered proof is good.
fn challenge(job: &str, how: &Challenged) {
    match how {
        Challenged::Asked => tracing::info!("challenging who called the altered proof of {job} good"),
        Challenged::Looks(auditor) => {
            tracing::info!(
                "the challenge is taken: {} looks at the altered proof of {job}",
                who(auditor, None)
            );
        }
        Challenged::Not(why) => tracing::warn!("the altered proof of {job} is not challenged: {why}"),
        Challenged::Ended(AuditEnd::Contradicts | AuditEnd::Differs) => tracing::info!(
            "the challenge was right: who called the altered proof of {job} good has not looked, and its price is back"
        ),
        Challenged::Ended(AuditEnd::Holds | AuditEnd::Unserved) => tracing::warn!(
            "the challenge has cost its price: others called the altered proof of {job} good too"
        ),
    }
}
