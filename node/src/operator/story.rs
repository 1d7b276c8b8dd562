//! The operator's log.

use crate::words::{short_job, who};
use swarm_protocol::pool::{Holdings, PoolStory};

/// Writes one line.
pub fn tell(story: &PoolStory) {
    match story {
        PoolStory::NewJob { job, client, model, price } => {
            tracing::info!("new job {} from {}: {model} for {price} USDC", short_job(job), who(client, None));
        }
        PoolStory::Refused { job, reason, detail } => {
            tracing::info!("refused {} ({reason:?}): {detail}", short_job(job));
        }
        PoolStory::Leased { job, wallet, name, claims } => {
            tracing::info!(
                "job {} leased to {} ({claims} claims)",
                short_job(job),
                who(wallet, name.as_deref())
            );
        }
        PoolStory::LeaseEnded { job, wallet, cause } => {
            tracing::info!(
                "lease on {} by {} ended: {cause:?}; listed again",
                short_job(job),
                who(wallet, None)
            );
        }
        PoolStory::Accepted { job, wallet, price, units } => {
            let miner = who(wallet, None);
            tracing::info!(
                "proof of {} by {miner} accepted: {units} work units, {price} USDC",
                short_job(job)
            );
        }
        PoolStory::Closed { job, end } => tracing::info!("job {} {end}; refunded", short_job(job)),
        PoolStory::MinerJoined { wallet, name, models } => {
            tracing::info!("miner {} joined with {}", who(wallet, name.as_deref()), models.join(", "));
        }
        PoolStory::MinerOffline { wallet, name } => {
            tracing::info!("miner {} is offline", who(wallet, name.as_deref()));
        }
        PoolStory::EpochOpened { epoch, miners } => {
            tracing::info!("epoch {epoch} opened, {miners} miners in its roster")
        }
        PoolStory::EpochSealed { epoch, header, accepted, volume } => {
            tracing::info!("epoch {epoch} sealed as {header}: {accepted} jobs, {volume} USDC");
        }
        PoolStory::Settled { epoch, miners, miner_total, operator } => {
            tracing::info!(
                "epoch {epoch} settled: {miner_total} USDC to {miners} miners, {operator} USDC to the operator"
            );
        }
    }
}

/// Writes what is in hand, for whoever looks for leaks: the pool's maps, and tasks of the process.
pub fn tell_holdings(holdings: &Holdings) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    match serde_json::to_string(holdings) {
        Ok(maps) => tracing::debug!("{tasks} tasks, holding {maps}"),
        Err(error) => tracing::debug!("{tasks} tasks, {error}"),
    }
}
