//! The whole life of jobs, durable, at one operator: submitted, admitted, claimed, leased, proven, accepted, receipted. The
//! operator alone on redb and on Redis, each beside its bare floor, beside a list of JSON and Celery on the same Redis; and
//! with real peers. Arguments name parts of it: alone, network.

mod alone;
#[path = "../support/at_once.rs"]
mod at_once;
mod cast;
mod floor;
mod foreign;
mod network;
mod redis;
#[path = "../support/mod.rs"]
mod support;

use anyhow::Result;
use redis::Redis;
use std::path::Path;
use support::{figure, median, quantile};
use swarm_node::storage::ledger::{RedbLedger, RedisConfig, RedisLedger};
use tokio::runtime::Runtime;

const JOBS: usize = 6000;
/// Of these the slower ways do fewer, for about as long.
const FOREIGN_JOBS: usize = 1500;
const ROUNDS: usize = 5;

/// Jobs per second of one round, by turns.
struct Round {
    redb: f64,
    redb_floor: f64,
    redis: Option<OnRedis>,
}

struct OnRedis {
    ours: f64,
    floor: f64,
    /// A list of JSON, and Celery.
    foreign: Option<(f64, f64)>,
}

fn rate(time: std::time::Duration) -> f64 {
    JOBS as f64 / time.as_secs_f64()
}

fn on_redb(runtime: &Runtime, round: usize) -> Result<(f64, f64)> {
    let (folder, name) = (tempfile::tempdir()?, format!("redb-{round}.eth"));
    let ledger = RedbLedger::open(&folder.path().join("ledger.redb"), &cast::pool_id(&name).0)?;
    let run = runtime.block_on(alone::run(&name, Box::new(ledger), folder.path(), JOBS))?;
    if round == 0 {
        describe(&run.batches);
    }
    Ok((rate(run.time), rate(floor::redb(folder.path(), &run.batches)?)))
}

fn describe(batches: &[floor::Batch]) {
    let (records, bytes) = batches
        .iter()
        .fold((0, 0), |(records, bytes), batch| (records + batch.len(), bytes + batch.iter().sum::<usize>()));
    println!(
        "{JOBS} jobs, {} in flight: {records} records in {} batches, {:.1} records and {:.0} bytes a job",
        cast::MINERS,
        batches.len(),
        records as f64 / JOBS as f64,
        bytes as f64 / JOBS as f64
    );
}

fn on_redis(runtime: &Runtime, redis: &Redis, python: Option<&Path>, round: usize) -> Result<OnRedis> {
    let (folder, name) = (tempfile::tempdir()?, format!("redis-{round}.eth"));
    redis.clear()?;
    let config = RedisConfig { urls: vec![redis.url()], lossy: false, token: "bench".to_owned() };
    let mut ledger = RedisLedger::open(config, &folder.path().join("ledger.redb"), &cast::pool_id(&name).0)?;
    anyhow::ensure!(ledger.take()?.is_none(), "nobody else is there");
    let run = runtime.block_on(alone::run(&name, Box::new(ledger), folder.path(), JOBS))?;
    let floor = floor::redis(&mut redis.clear()?, &run.batches)?;
    let foreign = python.map(|python| -> Result<_> {
        let json = foreign::per_second(python, "seed", redis, FOREIGN_JOBS)?;
        Ok((json, foreign::per_second(python, "celery", redis, FOREIGN_JOBS)?))
    });
    Ok(OnRedis { ours: rate(run.time), floor: rate(floor), foreign: foreign.transpose()? })
}

fn alone() -> Result<()> {
    let runtime = Runtime::new()?;
    let (redis, python) = (Redis::start()?, foreign::python());
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let (redb, redb_floor) = on_redb(&runtime, round)?;
        let on_redis = |redis| on_redis(&runtime, redis, python.as_deref(), round);
        let redis = redis.as_ref().map(on_redis).transpose()?;
        rounds.push(Round { redb, redb_floor, redis });
    }
    report(&rounds);
    Ok(())
}

fn report(rounds: &[Round]) {
    let of = |value: &dyn Fn(&Round) -> Option<f64>| {
        let values: Vec<f64> = rounds.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| median(values))
    };
    type Value = fn(&Round) -> Option<f64>;
    let rates: [(&str, Value); 6] = [
        ("operator alone, redb", |round| Some(round.redb)),
        ("bare redb", |round| Some(round.redb_floor)),
        ("operator alone, Redis", |round| Some(round.redis.as_ref()?.ours)),
        ("bare Redis", |round| Some(round.redis.as_ref()?.floor)),
        ("a list of JSON on Redis", |round| Some(round.redis.as_ref()?.foreign?.0)),
        ("Celery on Redis", |round| Some(round.redis.as_ref()?.foreign?.1)),
    ];
    for (what, value) in rates {
        if let Some(rate) = of(&value) {
            println!("{what}: {rate:.0} jobs/s");
        }
    }
    let ratios: [(&str, Value); 4] = [
        ("lifecycle/redb-over-floor", |round| Some(round.redb / round.redb_floor)),
        ("lifecycle/redis-over-floor", |round| round.redis.as_ref().map(|redis| redis.ours / redis.floor)),
        ("lifecycle/redis-over-list", |round| {
            round.redis.as_ref().and_then(|redis| Some(redis.ours / redis.foreign?.0))
        }),
        ("lifecycle/redis-over-celery", |round| {
            round.redis.as_ref().and_then(|redis| Some(redis.ours / redis.foreign?.1))
        }),
    ];
    for (name, value) in ratios {
        if let Some(ratio) = of(&value) {
            figure(name, ratio);
        }
    }
}

fn with_peers() -> Result<()> {
    for network::Figures { in_flight, per_second, times } in Runtime::new()?.block_on(network::run())? {
        let at = |share| quantile(times.iter().copied(), share);
        figure(&format!("lifecycle/network-{in_flight}-in-flight-per-s"), per_second);
        figure(&format!("lifecycle/network-{in_flight}-in-flight-p50-ms"), at(0.5));
        figure(&format!("lifecycle/network-{in_flight}-in-flight-p99-ms"), at(0.99));
    }
    Ok(())
}

fn main() -> Result<()> {
    support::machine();
    if support::asked("alone") {
        alone()?;
    }
    if support::asked("network") {
        with_peers()?;
    }
    Ok(())
}
