//! The three machines play the whole game with each other, over a network that loses, doubles and reorders.

mod sybils;
mod world;

use swarm_crypto::address::Address;
use swarm_protocol::Millis;
use swarm_protocol::miner::{self, Story};
use world::{Arrival, FIRST_CLIENT, FIRST_MINER, World, key};

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
