//! A thousand identities of one attacker, who claims with those that have the best draws and abandons every lease.

use super::world::{Arrival, FIRST_CLIENT, FIRST_MINER, Id, MODEL, OPERATOR, World, key, posted};
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_protocol::codec::JobId;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::race;
use swarm_protocol::statement::{
    Assurance, Body, Claim, Heartbeat, LeaseEnded, Listing, ModelOffer, PayoutMode, Statement, Topic,
};
use swarm_protocol::submission::Outcome;
use swarm_protocol::{Millis, Posted, Timestamp};

const FIRST_SYBIL: Id = 10_000;
const SYBILS: Id = 1000;
const HONEST: Id = 10;
/// Claims that the attacker makes for one listing; more of them win no more often.
const CLAIMS: usize = 3;
const JOBS: Id = 100;
const FRESH_JOBS: Id = 30;
/// Between two jobs: one in which ten miners are never all busy, and one in which they are.
const PAUSE_MS: u64 = 2000;
const SHORT_PAUSE_MS: u64 = 100;

/// What the attacker knows.
pub(super) struct Sybils {
    wallets: BTreeMap<Address, Id>,
    leases: BTreeMap<Digest, Address>,
    /// Losses, and the end of the cooldown.
    losses: BTreeMap<Address, (u32, Timestamp)>,
    lost: BTreeSet<(JobId, Address)>,
    posted: Posted,
    won: u64,
}

impl Sybils {
    fn new(posted: Posted) -> Self {
        let wallets = (0..SYBILS).map(|n| (key(FIRST_SYBIL + n).address(), FIRST_SYBIL + n)).collect();
        let (leases, losses, lost) = Default::default();
        Self { wallets, leases, losses, lost, posted, won: 0 }
    }

    /// Hears without delay whatever anybody says.
    pub(super) fn hear(&mut self, world: &mut World, statement: &Statement) {
        match &statement.body {
            Body::Listing(listing) => self.claim(world, listing),
            Body::Lease(lease) if self.wallets.contains_key(&lease.wallet) => {
                self.won += 1;
                self.leases.insert(lease.lease, lease.wallet);
                self.lost.insert((lease.job, lease.wallet));
            }
            Body::LeaseEnded(ended) => self.ended(world.now, ended),
            _ => {}
        }
    }

    fn ended(&mut self, now: Timestamp, ended: &LeaseEnded) {
        if let Some(wallet) = self.leases.remove(&ended.lease) {
            let (count, until) = self.losses.entry(wallet).or_insert((0, now));
            *count += 1;
            *until = now + race::cooldown(&self.posted, *count);
        }
    }

    fn claim(&self, world: &mut World, listing: &Listing) {
        let busy: BTreeSet<&Address> = self.leases.values().collect();
        for entry in &listing.entries {
            let can = |wallet: &&Address| {
                let cooled = self.losses.get(wallet).is_none_or(|(_, until)| *until <= world.now);
                cooled && !busy.contains(wallet) && !self.lost.contains(&(entry.job, **wallet))
            };
            let draw = |wallet: &Address| race::draw(&entry.seed, &entry.job, wallet, 1);
            let mut best: Vec<_> = self.wallets.keys().filter(can).map(|w| (draw(w), *w)).collect();
            best.sort_unstable();
            for (_, wallet) in best.into_iter().take(CLAIMS) {
                let claim = Claim { job: entry.job, attempt: entry.attempt };
                say(world, self.wallets[&wallet], Topic::Claims, claim.into());
            }
        }
    }
}

fn say(world: &mut World, from: Id, topic: Topic, body: Body) {
    let pool = world.pool.machine.id();
    let signed = Statement::derived(pool, key(from).address(), world.now, body).sign(&key(from));
    world.send(OPERATOR, Arrival::Gossip(topic, signed));
}

/// All identities say that they are there, as honest miners do.
fn heartbeats(world: &mut World, counter: u64) {
    for n in 0..SYBILS {
        let models = vec![ModelOffer { model: MODEL.to_owned(), assurances: vec![Assurance::Seeded] }];
        let heartbeat = Heartbeat {
            boot_at: Timestamp(1),
            counter,
            models,
            slots: 1,
            mode: PayoutMode::Solo,
            ens: None,
            device: "cpu".to_owned(),
            vram_mb: 0,
            draining: false,
        };
        say(world, FIRST_SYBIL + n, Topic::Heartbeats, heartbeat.into());
    }
}

/// A wallet is established by the operator's fees from so many jobs.
fn numbers(established_by: u64) -> Posted {
    let established = MicroUsdc(25_000 * established_by);
    Posted { established, heartbeat: Millis::from_secs(30), ..posted() }
}

/// How long each of a row of jobs took, shortest first, and how many were answered at all.
struct Row {
    jobs: Id,
    answered: usize,
    times: Vec<u64>,
}

impl Row {
    /// Submits one job after the other, under attack if there are identities, and waits for all.
    fn of(world: &mut World, first: Id, jobs: Id, pause_ms: u64) -> Self {
        let mut begun = BTreeMap::new();
        for n in first..first + jobs {
            if world.sybils.is_some() && (n - first).is_multiple_of(20) {
                heartbeats(world, u64::from(n));
                world.run(200);
            }
            begun.insert(n, world.now);
            world.submit(n, u64::from(n));
            world.run(pause_ms);
        }
        let mut beats = u64::from(first + jobs);
        while world.outcomes.len() < usize::from(first + jobs - FIRST_CLIENT) {
            if world.sybils.is_some() {
                beats += 1;
                heartbeats(world, beats);
            }
            world.run(30_000);
        }
        let answered = |n: &Id| matches!(world.outcomes[n], Outcome::Answer { .. });
        let mut times: Vec<u64> =
            begun.iter().filter(|(n, _)| answered(n)).map(|(n, at)| world.ended_at[n].since(*at).0).collect();
        times.sort_unstable();
        Self { jobs, answered: times.len(), times }
    }

    fn mean(&self) -> u64 {
        self.times.iter().sum::<u64>() / self.times.len().max(1) as u64
    }

    fn tell(&self, what: &str, leases: u64) {
        let at = |percent: usize| self.times.get(self.times.len() * percent / 100).copied().unwrap_or(0);
        println!(
            "{what}: {} of {} answered, ms mean {} median {} p90 {} longest {}, {leases} leases to the attacker",
            self.answered,
            self.jobs,
            self.mean(),
            at(50),
            at(90),
            self.times.last().copied().unwrap_or(0)
        );
    }
}

fn attack(world: &mut World, posted: Posted) {
    world.sybils = Some(Sybils::new(posted));
    heartbeats(world, 0);
    world.run(1000);
}

fn leases(world: &World) -> u64 {
    world.sybils.as_ref().map_or(0, |sybils| sybils.won)
}

#[test]
fn a_thousand_identities_that_abandon_keep_no_job_from_ten_established_miners() {
    let posted = numbers(1);
    let mut world = World::with(posted.clone(), HONEST, 0, 21);
    Row::of(&mut world, FIRST_CLIENT, JOBS, SHORT_PAUSE_MS);
    world.run(posted.epoch.0 * 2);
    for n in 0..HONEST {
        let entry = world.pool.machine.roster_entry(&key(FIRST_MINER + n).address());
        assert!(entry.is_some_and(|entry| entry.established), "miner {n} is established by earlier epochs");
    }
    let calm = Row::of(&mut world, FIRST_CLIENT + JOBS, JOBS, PAUSE_MS);
    calm.tell("nobody attacks ten established miners", 0);
    attack(&mut world, posted.clone());
    let attacked = Row::of(&mut world, FIRST_CLIENT + 2 * JOBS, JOBS, PAUSE_MS);
    attacked.tell("a thousand identities attack them", leases(&world));
    world.assert_all_answered();
    let added = attacked.mean() - calm.mean();
    assert!(leases(&world) >= 1, "one listing in ten is open to all, and the attacker takes it");
    assert!(added < posted.first_progress.0 / 4, "in the mean {added} ms are added");
}

#[test]
fn in_a_fresh_pool_a_thousand_identities_delay_jobs_and_nobody_loses_money() {
    let posted = numbers(40);
    let mut world = World::with(posted.clone(), HONEST, 0, 22);
    attack(&mut world, posted.clone());
    let row = Row::of(&mut world, FIRST_CLIENT, FRESH_JOBS, PAUSE_MS);
    row.tell("a thousand identities attack a fresh pool", leases(&world));
    // What nobody answers in time is refunded: the books balance to the unit.
    world.assert_settled(row.answered);
    assert!(row.answered > 0, "none is answered");
}
