//! Homes behind routers, with no port open to the outside: jobs go from one to the other, whatever happens between.

use crate::harness::{Finished, Process, eventually, job_of, text};
use crate::internet::{Cut, Internet, Machine, Nat};
use std::time::{Duration, Instant};

const PUNCHED: &str = "connected directly, past both routers";
const RELAYED: &str = "connected through a relay";
const RESERVED: &str = "others can reach this node through a relay";
/// The time that a job takes so that the two homes meet while it runs.
const TOKEN: (&str, &str) = ("SWARMPOOL_TOKEN_PAUSE_MS", "1000");
const PARTITION: Duration = Duration::from_secs(60);

/// An internet, or nothing where none can be made, which is said.
fn internet() -> Option<(Internet, Machine)> {
    Internet::new().inspect_err(|why| println!("skipped: {why}")).ok()
}

/// A job submitted from one home and mined in the other, whose node shows this route; gives what the client and the miner
/// said.
fn from_home_to_home(nat: Nat, route: &str) -> Option<(Finished, Finished)> {
    let (mut internet, outside) = internet()?;
    let [here, there] = [1, 2].map(|number| internet.home(number, nat));
    let _operator = outside.operator(&[]);
    let miner = there.miner("miner.eth", &[TOKEN]);
    miner.expect(RESERVED);
    let job = here.site.job("job", &job_of("Once", 25));
    let client = here.client(&["submit", "--json", &text(&job)]);
    miner.expect("executing");
    eventually("the miner's node shows how it meets the client", || {
        there.routes().iter().any(|shown| shown == route).then_some(())
    });
    let client = client.finish().good();
    assert!(client.json()["receipt"]["output"].is_string(), "{}", client.stdout);
    Some((client, miner.terminate().good()))
}

#[test]
fn a_job_goes_from_home_to_home_past_both_routers() {
    let Some((client, miner)) = from_home_to_home(Nat::Steady, "punched") else { return };
    for said in [&client.stderr, &miner.stderr] {
        assert!(said.contains(RELAYED) && said.contains(PUNCHED), "{said}");
    }
}

#[test]
fn a_job_goes_from_home_to_home_by_relay_where_routers_draw_their_ports() {
    let Some((client, miner)) = from_home_to_home(Nat::Symmetric, "relayed") else { return };
    for said in [&client.stderr, &miner.stderr] {
        assert!(said.contains(RELAYED) && !said.contains(PUNCHED), "{said}");
    }
}

/// Two homes that mine for an operator outside.
struct Pool {
    miners: Vec<Process>,
    operator: Process,
    outside: Machine,
    _homes: Vec<Machine>,
    internet: Internet,
}

fn pool() -> Option<Pool> {
    let (mut internet, outside) = internet()?;
    let homes = vec![internet.home(1, Nat::Steady), internet.home(2, Nat::Symmetric)];
    let operator = outside.operator(&[]);
    let names = ["alice.eth", "bob.eth"];
    let miners = names.iter().zip(&homes).map(|(name, home)| home.miner(name, &[TOKEN])).collect();
    Some(Pool { miners, operator, outside, _homes: homes, internet })
}

impl Pool {
    fn submit(&self, name: &str, tokens: u32) -> String {
        let job = self.outside.site.job(name, &job_of("Once", tokens));
        let done = self.outside.client_beside(&["submit", "--no-wait", "--json", &text(&job)]).good();
        done.json()["job"].as_str().unwrap().to_owned()
    }

    fn await_answer(&self, job: &str) {
        let done = self.outside.client_beside(&["wait", "--json", job]).good().json();
        assert!(done["receipt"]["output"].is_string(), "{done}");
    }

    fn marks(&self) -> Vec<usize> {
        self.miners.iter().map(Process::mark).collect()
    }

    /// Waits until each miner has been away and is back.
    fn await_return(&self, marks: &[usize]) {
        for (miner, mark) in self.miners.iter().zip(marks) {
            let (away, _) = miner.expect_after(*mark, "the operator is away");
            miner.expect_after(away, "connected to the operator");
        }
    }

    /// Cuts, with a job under way and one submitted meanwhile, and heals.
    fn survives(self, cut: Cut) {
        let leased = self.submit("leased", 30);
        self.operator.expect("leased");
        let marks = self.marks();
        self.internet.cut(cut);
        let begun = Instant::now();
        let pending = self.submit("pending", 2);
        std::thread::sleep(PARTITION.saturating_sub(begun.elapsed()));
        self.internet.heal();
        let healed = Instant::now();
        self.await_return(&marks);
        println!("{cut:?}: both miners are back after {} ms", healed.elapsed().as_millis());
        self.await_answer(&leased);
        self.await_answer(&pending);
        println!("{cut:?}: both jobs are answered after {} ms", healed.elapsed().as_millis());
    }
}

#[test]
fn nodes_come_back_when_the_operators_address_changes() {
    let Some(pool) = pool() else { return };
    pool.miners.iter().for_each(|miner| _ = miner.expect(RESERVED));
    let marks = pool.marks();
    let moved = Instant::now();
    pool.internet.move_operator();
    // What a relay gives ends with the connection, and is given anew on the next.
    for (miner, mark) in pool.miners.iter().zip(&marks) {
        miner.expect_after(*mark, RESERVED);
    }
    println!("both miners are back after {} ms", moved.elapsed().as_millis());
    let jobs = ["one", "another"].map(|name| pool.submit(name, 12));
    jobs.iter().for_each(|job| pool.await_answer(job));
    for (miner, mark) in pool.miners.iter().zip(&marks) {
        miner.expect_after(*mark, "earned");
    }
}

#[test]
fn a_partition_of_a_minute_loses_nothing() {
    if let Some(pool) = pool() {
        pool.survives(Cut::Both);
    }
}

#[test]
fn a_minute_in_which_the_operator_is_not_heard_loses_nothing() {
    if let Some(pool) = pool() {
        pool.survives(Cut::FromOperator);
    }
}

#[test]
fn a_minute_in_which_the_operator_hears_nothing_loses_nothing() {
    if let Some(pool) = pool() {
        pool.survives(Cut::ToOperator);
    }
}
