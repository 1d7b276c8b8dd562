//! What somebody can gain who pays itself, and what others lose by it: each abuse in a pool of its own, beside the same
//! pool without it.

use crate::histories::{Table, heartbeat, key, proof, wish};
use std::collections::BTreeSet;
use swarm_crypto::digest::blake3;
use swarm_protocol::Millis;
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::{ChainEvent, Entry, ExamineFault, PoolEvent, Record, Stage};
use swarm_protocol::statement::*;

const HONEST_CLIENT: u8 = 10;
const HONEST_SOLO: u8 = 2;
const HONEST_SHARE: u8 = 3;
/// One person: a client, and two wallets that mine.
const ABUSER: [u8; 3] = [20, 21, 22];
const OWN_SOLO: u8 = 21;
const OWN_SHARE: u8 = 22;
const MONEY: u64 = 100_000_000;
/// Epochs that each pool runs for.
const EPOCHS: u64 = 40;

struct World {
    table: Table,
    beats: u64,
}

/// What came of it, in µUSDC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    abuser: i128,
    clients: i128,
    miners: i128,
    reserve: i128,
    /// A quarter of the miner's parts of the abuser's own jobs by share: the most that their credits exceed them by.
    excess: i128,
}

impl World {
    fn new() -> Self {
        let mut world = Self { table: Table::new(), beats: 0 };
        for client in [HONEST_CLIENT, ABUSER[0]] {
            let (reference, amount) = (blake3(&[client]), MicroUsdc(MONEY));
            let event = ChainEvent::Deposited { client: key(client).address(), amount, reference };
            world.table.happen(PoolEvent::Chain(event));
        }
        world.beat();
        world
    }

    /// Everybody says that it is there, and how it wants to be paid.
    fn beat(&mut self) {
        self.beats += 1;
        for miner in [HONEST_SOLO, HONEST_SHARE, OWN_SOLO, OWN_SHARE] {
            let mode =
                if matches!(miner, HONEST_SHARE | OWN_SHARE) { PayoutMode::Pps } else { PayoutMode::Solo };
            // The counter of a test's heartbeat also says whether it drains, which nobody does here.
            let beat = Heartbeat { mode, draining: false, ens: None, slots: 64, ..heartbeat(self.beats) };
            self.table.say(miner, beat);
        }
    }

    /// A job that this miner gets and answers; says whether it was accepted.
    fn job(&mut self, client: u8, miner: u8, price: u64, units: u64) -> bool {
        let job = self.table.say(client, wish(price, self.table.now + Millis(60_000)));
        self.table.say(miner, Claim { job, attempt: 1 });
        self.table.wait(450);
        let Some(Stage::Leased(granted)) = self.table.pool.state().job(&job).map(|entry| entry.stage.clone())
        else {
            return false;
        };
        assert_eq!(granted.wallet, key(miner).address());
        self.table.say(miner, proof(job, granted.lease));
        let asked = self.table.asked.pop().unwrap();
        self.table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(units) });
        matches!(self.table.pool.state().job(&job).unwrap().stage, Stage::Accepted(_))
    }

    /// An epoch's honest work, some for each mode, and whatever else happens in it.
    fn epoch(&mut self, abuse: impl FnOnce(&mut Self)) {
        let number = self.table.pool.state().epoch().number;
        self.beat();
        for n in 0..3 {
            assert!(self.job(HONEST_CLIENT, HONEST_SOLO, 1_000 + n, 1_000));
            assert!(self.job(HONEST_CLIENT, HONEST_SHARE, 1_000 + n, 1_000));
        }
        abuse(self);
        while self.table.pool.state().epoch().number == number {
            self.table.wait(500);
            self.beat();
        }
    }

    fn worth(&self, whose: &[u8]) -> i128 {
        let wallets: BTreeSet<_> = whose.iter().map(|n| key(*n).address()).collect();
        let accounts = self.table.pool.state().accounts().iter();
        accounts
            .filter(|(account, _)| account.owner().is_some_and(|o| wallets.contains(&o)))
            .map(|(_, b)| b)
            .sum()
    }

    fn parts_by_share(&self) -> i128 {
        let records = self.table.rows.iter().map(|row| Entry::decode(row).unwrap());
        let paid_in = records.filter(|entry| match &entry.record {
            Record::Accepted { proof, .. } => {
                Statement::decode(&proof.payload).unwrap().header.by == key(OWN_SHARE).address()
            }
            _ => false,
        });
        paid_in.map(|entry| i128::from(entry.transfers[0].amount.0)).sum()
    }

    fn outcome(&self) -> Outcome {
        // Every client of a test pool begins with some credit beside its deposit.
        let credit = |client: u8| {
            let known = self.table.rows.iter().any(|row| {
                matches!(Entry::decode(row).unwrap().record,
                    Record::Credited { client: who } if who == key(client).address())
            });
            if known { i128::from(self.table.pool.state().posted().test_credit.0) } else { 0 }
        };
        Outcome {
            abuser: self.worth(&ABUSER) - i128::from(MONEY) - credit(ABUSER[0]),
            clients: self.worth(&[HONEST_CLIENT]) - i128::from(MONEY) - credit(HONEST_CLIENT),
            miners: self.worth(&[HONEST_SOLO, HONEST_SHARE]),
            reserve: self.table.pool.state().accounts().balance(&Account::Reserve),
            excess: self.parts_by_share() / 4,
        }
    }
}

/// Many epochs with the same abuse in each of the first half of them.
fn played(abuse: impl Fn(&mut World)) -> Outcome {
    let mut world = World::new();
    for epoch in 0..EPOCHS {
        world.epoch(|world| {
            if (2..EPOCHS / 2).contains(&epoch) {
                abuse(world)
            }
        });
    }
    world.outcome()
}

#[test]
fn who_pays_itself_gains_nothing_and_nobody_else_loses_more_than_the_reserve_keeps() {
    let honest = played(|_| {});
    assert_eq!(honest.abuser, 0);
    type Abuse = (&'static str, fn(&mut World));
    let abuses: [Abuse; 8] = [
        ("own jobs at nothing and next to nothing, solo", |world| {
            assert!([0, 1, 3].iter().all(|price| !world.job(ABUSER[0], OWN_SOLO, *price, 1_000)));
            (4..12).for_each(|price| assert!(world.job(ABUSER[0], OWN_SOLO, price, 1_000)));
        }),
        ("the same by share", |world| {
            (4..12).for_each(|price| assert!(world.job(ABUSER[0], OWN_SHARE, price, 1_000)));
        }),
        ("sixty own jobs an epoch, solo", |world| {
            (0..60).for_each(|_| assert!(world.job(ABUSER[0], OWN_SOLO, 1_000, 1_000)));
        }),
        ("sixty own jobs an epoch by share", |world| {
            (0..60).for_each(|_| assert!(world.job(ABUSER[0], OWN_SHARE, 1_000, 1_000)));
        }),
        ("twin wallets, one solo, one by share", |world| {
            (0..20).for_each(|_| {
                assert!(world.job(ABUSER[0], OWN_SOLO, 1_000, 1_000));
                assert!(world.job(ABUSER[0], OWN_SHARE, 1_000, 1_000));
            });
        }),
        ("wash jobs far above the rate", |world| {
            (0..3).for_each(|_| assert!(world.job(ABUSER[0], OWN_SHARE, 100_000, 10)));
        }),
        ("wash jobs far below the rate", |world| {
            (0..3).for_each(|_| assert!(world.job(ABUSER[0], OWN_SHARE, 4, 1_000_000)));
        }),
        ("work padded to a thousand times its size", |world| {
            (0..3).for_each(|_| assert!(world.job(ABUSER[0], OWN_SHARE, 1_000, 1_000_000)));
        }),
    ];
    println!(
        "abuse, in µUSDC: {:>42} {:>8} {:>8} {:>8} {:>8}",
        "abuser", "clients", "miners", "reserve", "excess"
    );
    for (name, abuse) in abuses {
        let outcome = played(abuse);
        let (clients, miners) = (outcome.clients - honest.clients, outcome.miners - honest.miners);
        let reserve = outcome.reserve - honest.reserve;
        let Outcome { abuser, excess, .. } = outcome;
        println!("{name:<48} {abuser:>10} {clients:>8} {miners:>8} {reserve:>8} {excess:>8}");
        assert!(outcome.abuser <= 0, "{name}: {outcome:?}");
        assert_eq!(clients, 0, "{name}: {outcome:?}");
        // What honest miners have less, if anything, lies in the reserve for them, an eighth of it every epoch, but for
        // what credits exceed parts by.
        assert!(miners >= 0 || -miners <= reserve + outcome.excess, "{name}: {outcome:?}, {honest:?}");
        assert!(outcome.reserve >= 0);
    }
}

/// A job that is leased, and the lease.
fn leased(
    world: &mut World,
    client: u8,
    miner: u8,
    life: u64,
) -> (swarm_protocol::codec::JobId, swarm_crypto::digest::Digest) {
    let job = world.table.say(client, wish(1_000, world.table.now + Millis(life)));
    world.table.say(miner, Claim { job, attempt: 1 });
    world.table.wait(450);
    let Some(Stage::Leased(granted)) = world.table.pool.state().job(&job).map(|entry| entry.stage.clone())
    else {
        panic!("it is leased")
    };
    (job, granted.lease)
}

fn accepted(world: &World) -> usize {
    let records = world.table.rows.iter().map(|row| Entry::decode(row).unwrap().record);
    records.filter(|record| matches!(record, Record::Accepted { .. })).count()
}

#[test]
fn one_proof_is_paid_once_also_in_the_next_epoch() {
    let mut world = World::new();
    let (job, lease) = leased(&mut world, HONEST_CLIENT, HONEST_SOLO, 60_000);
    for _ in 0..3 {
        world.table.say(HONEST_SOLO, proof(job, lease));
        if let Some(asked) = world.table.asked.pop() {
            world.table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(1_000) });
        }
        world.table.wait(9_000);
        world.beat();
    }
    assert_eq!((accepted(&world), world.outcome().miners), (1, 750));
}

#[test]
fn a_late_proof_after_the_job_went_to_another_is_worth_nothing() {
    let mut world = World::new();
    let (job, lease) = leased(&mut world, HONEST_CLIENT, OWN_SOLO, 60_000);
    // No progress comes; another has the job.
    world.table.wait(4_000);
    world.beat();
    world.table.say(HONEST_SOLO, Claim { job, attempt: 2 });
    world.table.wait(450);
    world.table.say(OWN_SOLO, proof(job, lease));
    assert!(world.table.asked.is_empty(), "nobody looks at it");
    let Stage::Leased(second) = world.table.pool.state().job(&job).unwrap().stage.clone() else { panic!() };
    world.table.say(HONEST_SOLO, proof(job, second.lease));
    let asked = world.table.asked.pop().unwrap();
    world.table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(1_000) });
    assert_eq!((accepted(&world), world.outcome().miners, world.outcome().abuser), (1, 750, 0));
}

#[test]
fn a_client_cannot_take_back_or_outwait_a_job_that_is_being_run() {
    for (cancels, life) in [(true, 60_000), (false, 1_000)] {
        let mut world = World::new();
        let (job, lease) = leased(&mut world, ABUSER[0], HONEST_SOLO, life);
        if cancels {
            world.table.say(ABUSER[0], Cancel { job });
        }
        world.table.say(HONEST_SOLO, proof(job, lease));
        let asked = world.table.asked.pop().unwrap();
        // The proof came in time; that its check takes longer than the job would have lived is not the miner's loss.
        world.table.wait(2_000);
        world.table.say(ABUSER[0], Cancel { job });
        world.table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(1_000) });
        assert_eq!((accepted(&world), world.outcome().miners, world.outcome().abuser), (1, 750, -1_000));
    }
}

#[test]
fn an_answer_that_was_not_there_is_not_paid_by_the_client() {
    let mut world = World::new();
    let (job, lease) = leased(&mut world, HONEST_CLIENT, OWN_SOLO, 3_000);
    world.table.say(OWN_SOLO, proof(job, lease));
    let asked = world.table.asked.pop().unwrap();
    let outcome = Err(ExamineFault::Unacceptable("it is not the model's".into()));
    world.table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome });
    world.table.wait(10_000);
    assert_eq!((accepted(&world), world.outcome().abuser, world.outcome().clients), (0, 0, 0));
}
