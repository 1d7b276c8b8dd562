//! Miners and clients come and go at random: every job is answered or refunded, and nothing piles up.

use crate::harness::{Finished, PATIENCE, Process, Site, job_of, text};
use crate::reference;
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// `CHURN_SECONDS=1800` is for the night.
const SECONDS: u64 = 120;
const MAX_MINERS: usize = 4;
const MAX_CLIENTS: usize = 6;
const MINER_NAMES: u64 = 6;
const CLIENT_NAMES: u64 = 4;
const TTL_S: u64 = 20;
/// Finished jobs are remembered for a day, and allocators keep what they had.
const MAX_GROWTH_KIB: u64 = 32 * 1024;
/// Pages of two databases in their caches, for a job's record, transcript and output.
const KIB_PER_JOB: u64 = 16;
/// Two caches of 32 MiB, full.
const MAX_CACHES_KIB: u64 = 64 * 1024;
/// Connections that come and go.
const MAX_MORE: u64 = 4;
/// Threads for blocking work, which end when there is none.
const MAX_MORE_THREADS: u64 = 12;
const OPERATOR: [&str; 16] = [
    "--log",
    "info,swarm_node::operator::story=debug",
    "--epoch",
    "5s",
    "--window",
    "100ms",
    "--first-progress",
    "3s",
    "--progress",
    "3s",
    "--heartbeat",
    "2s",
    "--cooldown",
    "500ms",
    "--max-cooldown",
    "2s",
];

pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Below `limit`, evenly enough.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    pub fn pick<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        let place = self.below(from.len().max(1) as u64) as usize;
        (place < from.len()).then(|| from.swap_remove(place))
    }
}

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What a process takes.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub resident_kib: u64,
    pub threads: u64,
    pub files: u64,
}

impl Usage {
    pub fn of(process: &Process) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let files = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count() as u64;
        Self { resident_kib: field("VmRSS:"), threads: field("Threads:"), files }
    }

    /// Whether it is what it was before so many jobs.
    fn is_near(&self, before: &Self, jobs: u64) -> bool {
        let caches = (jobs * KIB_PER_JOB).min(MAX_CACHES_KIB);
        self.resident_kib <= before.resident_kib + MAX_GROWTH_KIB + caches
            && self.threads <= before.threads + MAX_MORE_THREADS
            && self.files <= before.files + MAX_MORE
    }
}

/// Everybody who comes and goes.
struct Crowd<'a> {
    site: &'a Site,
    dice: Dice,
    miners: Vec<(u64, Process)>,
    clients: Vec<Process>,
    ended: Vec<Finished>,
    jobs: u64,
}

impl Crowd<'_> {
    /// One thing happens.
    fn step(&mut self) {
        match self.dice.below(10) {
            0 | 1 => self.miner_comes(),
            2 => {
                if let Some((_, miner)) = self.dice.pick(&mut self.miners) {
                    miner.terminate().good();
                }
            }
            3 => {
                if let Some((_, miner)) = self.dice.pick(&mut self.miners) {
                    miner.kill();
                }
            }
            4 => {
                if let Some(client) = self.dice.pick(&mut self.clients) {
                    client.kill();
                }
            }
            5 => {
                if let Some(client) = self.dice.pick(&mut self.clients) {
                    client.signal(Signal::INT);
                    self.ended.push(client.finish());
                }
            }
            _ => self.client_comes(),
        }
        for mut client in std::mem::take(&mut self.clients) {
            match client.is_running() {
                true => self.clients.push(client),
                false => self.ended.push(client.finish()),
            }
        }
    }

    fn miner_comes(&mut self) {
        let name = self.dice.below(MINER_NAMES);
        if self.miners.len() < MAX_MINERS && self.miners.iter().all(|(other, _)| *other != name) {
            let token = Duration::from_millis(self.dice.below(3) * 20);
            self.miners.push((name, self.site.slow_miner(&format!("m{name}.eth"), token, &[])));
        }
    }

    fn client_comes(&mut self) {
        if self.clients.len() >= MAX_CLIENTS {
            return;
        }
        let mut job = job_of("The carriage", 4 + self.dice.below(40) as u32);
        job["ttl_s"] = TTL_S.into();
        let job = text(&self.site.job(&format!("job{}", self.jobs % 16), &job));
        self.jobs += 1;
        let name = format!("c{}", self.dice.below(CLIENT_NAMES));
        let mut args = vec!["--name", &name, "submit", "--json", &job];
        if self.dice.below(4) == 0 {
            args.push("--no-wait");
        }
        self.clients.push(self.site.start_client(&args));
    }
}

/// The answers among what clients printed; whoever got none says why, unless it was interrupted before it began.
fn answers(ended: &[Finished]) -> Vec<Value> {
    let unborn = |end: &Finished| {
        end.status.signal() == Some(Signal::INT.as_raw()) && end.stderr.is_empty() && end.stdout.is_empty()
    };
    let told = |end: &Finished| end.code() == Some(0) || end.stderr.contains("error: ") || unborn(end);
    for end in ended {
        assert!(told(end), "{end:?}");
    }
    let printed = ended.iter().filter(|end| end.code() == Some(0)).map(Finished::json);
    printed.filter(|value| value["status"] == "answered").collect()
}

fn pool(site: &Site) -> Value {
    site.client(&["status", "--json"]).good().json()
}

/// Waits until the pool has no open job, and no miner but the steady one.
fn quiet(site: &Site) {
    crate::harness::eventually("an idle pool with one miner", || {
        let pool = pool(site);
        let idle = pool["pending"] == 0 && pool["leased"] == 0 && pool["models"][0]["miners"] == 1;
        idle.then_some(())
    });
}

pub fn settles(what: &str, process: &Process, before: Usage, jobs: u64) {
    let end = Instant::now() + PATIENCE;
    let mut now = Usage::of(process);
    while !now.is_near(&before, jobs) {
        assert!(Instant::now() < end, "{what} took {before:?} at first and now takes {now:?}");
        std::thread::sleep(Duration::from_millis(100));
        now = Usage::of(process);
    }
    println!("{what}: {before:?} before, {now:?} after");
}

/// How many tasks the operator has and how much it holds in every map, as it says when the next epoch opens.
pub fn held(operator: &Process) -> (u64, Value) {
    let line = operator.expect_after(operator.mark(), "tasks, holding").1;
    let (tasks, maps) = line.split_once(" tasks, holding ").unwrap();
    let tasks = tasks.rsplit(' ').next().unwrap().parse().unwrap();
    (tasks, serde_json::from_str(maps).unwrap())
}

/// Waits until the operator holds what it held before: the same in every map.
pub fn lets_go(operator: &Process, before: &(u64, Value)) {
    let mut now = held(operator);
    for _ in 0..5 {
        if now.1 == before.1 && now.0 <= before.0 + MAX_MORE {
            println!("the operator holds what it held: {} tasks, {}", now.0, now.1);
            return;
        }
        now = held(operator);
    }
    panic!("the operator held {before:?} and now holds {now:?}");
}

#[test]
fn who_comes_and_goes_leaves_nothing_behind() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = setting("CHURN_SEED", now);
    let time = Duration::from_secs(setting("CHURN_SECONDS", SECONDS));
    println!("CHURN_SEED={seed}, {} s", time.as_secs());
    let site = Site::new();
    let operator = site.operator(&OPERATOR);
    let steady = site.miner("steady.eth", &[]);
    let job = site.job("first", &job_of("The carriage", 20));
    for _ in 0..5 {
        site.submit(&job).good();
    }
    let holdings = held(&operator);
    let before = (Usage::of(&operator), Usage::of(&steady));

    let dice = Dice::new(seed);
    let (miners, clients, ended) = (Vec::new(), Vec::new(), Vec::new());
    let mut crowd = Crowd { site: &site, dice, miners, clients, ended, jobs: 0 };
    let start = Instant::now();
    let mut minutes = 0;
    while start.elapsed() < time {
        crowd.step();
        if start.elapsed().as_secs() / 60 > minutes {
            minutes += 1;
            println!(
                "{minutes} min, {} jobs: {:?}, {:?}",
                crowd.jobs,
                Usage::of(&operator),
                Usage::of(&steady)
            );
        }
        std::thread::sleep(Duration::from_millis(crowd.dice.below(300)));
    }
    let Crowd { miners, clients, mut ended, jobs, .. } = crowd;
    drop(miners);
    ended.extend(clients.into_iter().map(Process::finish));
    quiet(&site);
    settles("the operator", &operator, before.0, jobs);
    lets_go(&operator, &holdings);
    settles("the miner that stayed", &steady, before.1, jobs);

    let answers = answers(&ended);
    let last = answers.iter().map(|answer| answer["receipt"]["epoch"].as_u64().unwrap()).max().unwrap();
    operator.expect(&format!("epoch {last} sealed"));
    steady.terminate().good();
    operator.terminate().good();
    assert_eq!(site.running(), Vec::<u32>::new());
    let reading = reference::read(&site);
    println!(
        "{jobs} jobs signed, {} admitted, {} accepted, {} clients got their answer",
        reading.jobs.len(),
        reading.receipts.len(),
        answers.len()
    );
    assert_eq!(reading.open_jobs(), 0);
    reading.hold(&answers);
}
