//! The three machines play the whole game with each other, over a network that loses, doubles and reorders.

mod sybils;
mod world;

use swarm_crypto::address::Address;
use swarm_protocol::finding::AuditEnd;
use swarm_protocol::miner::{self, Story};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{Entry, Record};
use swarm_protocol::statement::Statement;
use swarm_protocol::{Millis, Posted};
use world::{Arrival, FIRST_CLIENT, FIRST_MINER, World, key, posted};

#[test]
fn one_job_has_one_winner_and_the_other_hears_of_it() {
    let mut world = World::new(2, 0, 1);
    world.submit(FIRST_CLIENT, 0);
    let before = world.now;
    while world.outcomes.is_empty() {
        world.run(10);
    }
    let pause = world.now.since(before).0 - world.work.0;
    assert!(pause < 1500, "the pool adds {pause} ms");
    world.run(1000);
    world.assert_all_answered();
    let earned = world.told(|story| matches!(story, Story::Earned { .. }));
    let won = world.told(|story| matches!(story, Story::Won { .. }));
    let lost = world.told(|story| matches!(story, Story::Lost { .. }));
    assert_eq!((earned.len(), won.len(), lost.len()), (1, 1, 1));
    assert!(earned == won && won != lost);
}

#[test]
fn every_job_is_answered_once_over_a_bad_network() {
    for seed in 0..3 {
        let mut world = World::new(3, 25, seed);
        (0..25).for_each(|n| {
            world.submit(FIRST_CLIENT + n, u64::from(n));
        });
        world.run_until_done();
        world.assert_settled(23);
    }
}

#[test]
fn operators_and_miners_may_die_at_any_time() {
    for seed in 0..3 {
        let mut world = World::new(3, 5, seed + 10);
        for round in 0..8 {
            (0..3).for_each(|n| {
                world.submit(FIRST_CLIENT + round * 3 + n, 0);
            });
            let pause = 500 + world.roll(4000);
            world.run(pause);
            if round % 2 == 0 {
                world.restart_operator();
            } else {
                world.miners.remove(&FIRST_MINER);
                world.start_miner(FIRST_MINER, 1);
            }
        }
        world.run_until_done();
        world.assert_settled(22);
    }
}

#[test]
fn miners_look_at_each_others_proofs_over_a_bad_network_and_after_they_have_forgotten_what_they_sealed() {
    let posted = Posted { audit_rate: 10_000, established: MicroUsdc(0), ..posted() };
    let mut world = World::with(posted, 5, 20, 3);
    world.cheat = Some(FIRST_MINER);
    // The roster of epoch 0 is empty, and so nobody audits it.
    world.run(20_000);
    (0..16).for_each(|n| {
        world.submit(FIRST_CLIENT + n, u64::from(n));
    });
    for round in 0..60 {
        world.run(3_000);
        if round % 4 == 1 {
            let n = FIRST_MINER + round % 5;
            world.miners.remove(&n);
            world.start_miner(n, 1);
        }
        if round == 20 {
            world.restart_operator();
        }
    }
    let record = |row: &Vec<u8>| Entry::decode(row).unwrap().record;
    let mut proofs = vec![vec![]];
    let (mut held, mut broken, mut overturned) = (0, 0, 0);
    for record in world.rows.iter().map(record) {
        match record {
            Record::Accepted { proof, .. } => {
                proofs.last_mut().unwrap().push(Statement::decode(&proof.payload).unwrap().header.by);
            }
            Record::Boundary(_) => proofs.push(vec![]),
            Record::Overturned { .. } => overturned += 1,
            Record::AuditClosed { leaf, end } => {
                let by = proofs[usize::try_from(leaf.epoch).unwrap()][usize::try_from(leaf.index).unwrap()];
                match end {
                    AuditEnd::Contradicts => broken += 1,
                    AuditEnd::Holds => held += 1,
                    AuditEnd::Differs | AuditEnd::Unserved => panic!("{leaf:?} ended with {end:?}"),
                }
                assert_eq!(by == key(FIRST_MINER).address(), end == AuditEnd::Contradicts);
            }
            _ => {}
        }
    }
    assert_eq!((held + broken, overturned), (proofs.concat().len(), broken));
    assert!(held > 5 && broken > 1, "{held} held, {broken} broken");
    assert!(world.told(|story| matches!(story, Story::Audited { .. })).len() > held + 3 * broken);
}

#[test]
fn a_miner_that_drains_leaves_its_job_to_the_others() {
    let mut world = World::new(2, 0, 3);
    world.work = Millis::from_secs(20);
    world.submit(FIRST_CLIENT, 0);
    world.run(3000);
    let winner = world.told(|story| matches!(story, Story::Won { .. }))[0];
    world.to(winner, Arrival::Miner(miner::Event::Drain { grace: Millis(1000) }));
    world.run(60_000);
    world.assert_all_answered();
    let earned = world.told(|story| matches!(story, Story::Earned { .. }));
    assert!(earned.len() == 1 && earned[0] != winner);
}

#[test]
fn the_same_game_twice_is_the_same_to_the_byte() {
    let play = || {
        let mut world = World::new(3, 10, 5);
        (0..5).for_each(|n| {
            world.submit(FIRST_CLIENT + n, 0);
        });
        world.run(60_000);
        let wallets: Vec<Address> = world.miners.keys().map(|n| key(*n).address()).collect();
        (world.rows, world.stories, wallets)
    };
    assert_eq!(play(), play());
}
