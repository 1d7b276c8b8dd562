//! Operators that share a ledger on Redis: one is active, and whatever happens to it or to Redis, the pool goes on, or
//! halts and says what is missing.

use crate::harness::{Process, Site, short_job, text};
use crate::redis::Redis;
use rustix::process::Signal;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A line to Redis that can be cut.
struct Wire {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, cut) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let is_cut = cut.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Some(far) =
                    TcpStream::connect(("127.0.0.1", redis)).ok().filter(|_| !is_cut.load(Ordering::SeqCst))
                else {
                    continue;
                };
                let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let (there, back) = (is_cut.clone(), is_cut.clone());
                std::thread::spawn(move || carry(near, far, &there));
                std::thread::spawn(move || carry(far_too, near_too, &back));
            }
        });
        Self { port, cut }
    }

    fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 64 << 10];
    while !cut.load(Ordering::SeqCst) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

const FLAGS: [&str; 6] = ["--epoch", "8s", "--heartbeat", "1s", "--first-progress", "5s"];

fn operator(site: &Site, name: &str, url: &str) -> Process {
    operator_with(site, name, url, &FLAGS)
}

fn operator_with(site: &Site, name: &str, url: &str, flags: &[&str]) -> Process {
    let mut command = site.command("swarm-node");
    command.args(["--role", "operator", "--name", name, "--redis-url", url]).args(flags);
    Process::start(name, command)
}

/// The second operator has the first one's key and secret.
fn share(site: &Site, from: &str, to: &str) {
    let (from, to) = (site.data(&format!("operator-{from}")), site.data(&format!("operator-{to}")));
    std::fs::DirBuilder::new().mode(0o700).create(&to).unwrap();
    for file in ["key", "pool.secret"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

struct Pool {
    site: Site,
    job: PathBuf,
    answers: Vec<Value>,
}

impl Pool {
    fn answered(&mut self) {
        self.answers.push(self.site.submit(&self.job).good().json());
    }

    /// Waits until this operator has sealed the epoch of the last answer.
    fn sealed_by(&self, operator: &Process) {
        let last = self.answers.last().unwrap()["receipt"]["epoch"].as_u64().unwrap();
        operator.expect(&format!("epoch {last} sealed"));
    }

    /// All that was answered is in the pool's records, once each, and all of those hold.
    fn recomputed(&self) {
        let ids: std::collections::BTreeSet<_> =
            self.answers.iter().map(|answer| answer["job"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), self.answers.len());
        let verified = self.site.client(&["verify", "--json"]).good().json();
        assert!(
            verified["checks"].as_array().unwrap().iter().all(|check| check["result"] == "ok"),
            "{verified}"
        );
        let history = self.site.client(&["history", "--json"]).good().json();
        let of = |kind: &str| {
            let moved = history["movements"].as_array().unwrap().iter();
            moved.filter(|moved| moved["kind"] == kind).count()
        };
        assert_eq!((of("admitted"), of("accepted")), (self.answers.len(), 2 * self.answers.len()));
    }
}

#[test]
fn whatever_happens_to_the_active_operator_another_takes_its_place() {
    let Some(mut redis) = Redis::start() else { return };
    let site = Site::new();
    let wires = [Wire::to(redis.port), Wire::to(redis.port)];
    let first = operator(&site, "first", &wires[0].url());
    first.expect("listening on");
    share(&site, "first", "second");
    let second = operator(&site, "second", &wires[1].url());
    second.expect("standing by");
    let _miners = [site.miner("alice.eth", &[]), site.miner("bob.eth", &[])];
    let job = site.job("job", &short_job("The carriage"));
    let mut pool = Pool { site, job, answers: Vec::new() };
    pool.answered();

    let mut times = Vec::new();
    let mut takes_over = |what: &str, heir: &Process, mark: usize, since: Instant, pool: &mut Pool| {
        heir.expect_after(mark, "this one takes over");
        let taken = since.elapsed();
        pool.answered();
        times.push(format!("{what}: taken over after {:.1?}, answered after {:.1?}", taken, since.elapsed()));
    };

    let (mark, since) = (second.mark(), Instant::now());
    first.signal(Signal::STOP);
    takes_over("frozen", &second, mark, since, &mut pool);
    let mark = first.mark();
    first.signal(Signal::CONT);
    first.expect_after(mark, "standing by: ");

    let (mark, since) = (first.mark(), Instant::now());
    let deposed = second.mark();
    wires[1].set_cut(true);
    takes_over("cut off from Redis", &first, mark, since, &mut pool);
    wires[1].set_cut(false);
    second.expect_after(deposed, "standing by: ");

    let (mark, since) = (second.mark(), Instant::now());
    first.kill();
    takes_over("killed", &second, mark, since, &mut pool);
    let first = operator(&pool.site, "first", &wires[0].url());
    first.expect("standing by: ");

    let (mark, since) = (first.mark(), Instant::now());
    second.terminate().good();
    takes_over("ended", &first, mark, since, &mut pool);

    // Redis is gone for two seconds, and comes back with all that it acknowledged.
    let waiting = pool.site.start_client(&["submit", "--json", &text(&pool.job)]);
    redis.kill();
    std::thread::sleep(Duration::from_secs(2));
    redis.run();
    pool.answers.push(waiting.finish().good().json());

    pool.sealed_by(&first);
    pool.recomputed();
    times.iter().for_each(|line| println!("{line}"));
}

#[test]
fn a_redis_that_lost_records_halts_the_pool_until_it_has_them_back() {
    let Some(mut redis) = Redis::start() else { return };
    let site = Site::new();
    let operator_of = |site: &Site| operator(site, "only", &redis.url());
    let first = operator_of(&site);
    first.expect("listening on");
    let miner = site.miner("alice.eth", &[]);
    let job = site.job("job", &short_job("The carriage"));
    let mut pool = Pool { site, job, answers: Vec::new() };
    pool.answered();
    let backup = redis.backup();
    pool.answered();
    first.terminate().good();
    let url = redis.url();
    redis.roll_back(backup.path());

    let halted = operator(&pool.site, "only", &url).finish();
    assert_eq!(halted.code(), Some(2), "{halted:?}");
    assert!(
        halted.stderr.contains("are missing") && halted.stderr.contains("swarm-node repair"),
        "{halted:?}"
    );
    let mut command = pool.site.command("swarm-node");
    command.args(["repair", "--name", "only", "--redis-url", &url]);
    let repaired = Process::start("repair", command).finish().good();
    assert!(repaired.stderr.contains("records were given back to Redis"), "{repaired:?}");

    let again = operator(&pool.site, "only", &url);
    again.expect("listening on");
    pool.answered();
    pool.sealed_by(&again);
    pool.recomputed();
    miner.terminate().good();
    again.terminate().good();
}

#[test]
fn a_promoted_replica_is_used_and_one_that_lacks_the_newest_records_is_not_believed() {
    let (Some(mut one), Some(mut other)) = (Redis::start(), Redis::start()) else { return };
    other.follow(&one);
    let (site, urls) = (Site::new(), format!("{},{}", one.url(), other.url()));
    let active = operator(&site, "only", &urls);
    active.expect("listening on");
    let miner = site.miner("alice.eth", &[]);
    let job = site.job("job", &short_job("The carriage"));
    let mut pool = Pool { site, job, answers: Vec::new() };
    pool.answered();

    // The master is gone for good, and its replica, which has all, is the master now.
    assert_eq!(one.say("WAIT 1 10000"), ":1");
    one.kill();
    other.lead();
    pool.answered();

    // The former master follows, is parted from the master, and is promoted without what came since.
    one.run();
    one.follow(&other);
    one.lead();
    pool.answered();
    other.kill();
    let halted = active.finish();
    assert_eq!(halted.code(), Some(2), "{halted:?}");
    assert!(halted.stderr.contains("are missing"), "{halted:?}");

    let mut command = pool.site.command("swarm-node");
    command.args(["repair", "--name", "only", "--redis-url", &urls]);
    Process::start("repair", command).finish().good();
    let again = operator(&pool.site, "only", &urls);
    again.expect("listening on");
    pool.answered();
    pool.sealed_by(&again);
    pool.recomputed();
    miner.terminate().good();
    again.terminate().good();
}

#[test]
fn a_new_operator_joins_a_log_that_has_dropped_its_beginning() {
    let Some(redis) = Redis::start() else { return };
    let site = Site::new();
    let flags = ["--epoch", "1s", "--keep-epochs", "1", "--heartbeat", "1s"];
    let first = operator_with(&site, "first", &redis.url(), &flags);
    first.expect("listening on");
    let _miner = site.miner("alice.eth", &[]);
    let job = site.job("job", &short_job("The carriage"));
    let mut pool = Pool { site, job, answers: Vec::new() };
    (0..3).for_each(|_| pool.answered());
    let last = pool.answers[2]["receipt"]["epoch"].as_u64().unwrap();
    first.expect(&format!("the records of epoch {last} are in its published pages only now"));

    share(&pool.site, "first", "second");
    let second = operator_with(&pool.site, "second", &redis.url(), &flags);
    second.expect("standing by");
    second.expect("all that is published of sealed epochs is here too");
    first.kill();
    second.expect("this one takes over");
    pool.answered();
    pool.sealed_by(&second);
    // What only the first one had seen comes from the second one now.
    pool.recomputed();
    second.terminate().good();
}
