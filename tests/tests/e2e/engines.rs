//! Engines that die, hang, talk nonsense and run out of memory under jobs: the node lives, each job is answered once.

use crate::harness::{Process, Site, binary, job_of, text};
use crate::reference;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SUBMITTERS: usize = 6;
/// Frames that a faulty engine lets through at most: three jobs or so.
const FRAMES: &str = "60";

/// A miner whose engines each have a fault in them, and note it in a file.
fn faulty_miner(site: &Site, name: &str) -> Process {
    let mut command = site.command("swarm-node");
    command.env("FAULTY_ENGINE_LOG", site.home().join("faults")).env("FAULTY_ENGINE_FRAMES", FRAMES);
    command.args(["--role", "miner", "--ens", name, "--slots", "2", "--engine"]);
    command.arg(binary("examples/faulty-engine"));
    let miner = Process::start(name, command).patiently(Duration::from_secs(180));
    miner.expect("joined swarmpool.eth");
    miner
}

/// Whatever two of three miners' engines do, a job that they cannot bring to an end is the third's.
fn answers_all(jobs: usize) {
    let site = Site::new();
    let operator =
        site.operator(&["--epoch", "10s", "--window", "50ms", "--cooldown", "1s", "--max-cooldown", "2s"]);
    let mut faulty = ["alice.eth", "bob.eth"].map(|name| faulty_miner(&site, name));
    let sound = site.miner("carol.eth", &[]);
    let job = site.job("job", &job_of("The carriage", 16));

    let begun = Instant::now();
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::<Value>::new()));
    std::thread::scope(|threads| {
        for _ in 0..SUBMITTERS {
            threads.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < jobs {
                    let submitted = site.start_client(&["submit", "--json", &text(&job)]);
                    let answer = submitted.patiently(Duration::from_secs(180)).finish().good().json();
                    answers.lock().unwrap().push(answer);
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap();
    let faults = std::fs::read_to_string(site.home().join("faults")).unwrap_or_default();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    faults.lines().for_each(|fault| *kinds.entry(fault).or_default() += 1);
    println!("{jobs} jobs in {:.0} s; faults: {kinds:?}", begun.elapsed().as_secs_f64());
    assert!(faults.lines().count() >= jobs / 10, "hardly anything went wrong: {kinds:?}");

    let last = answers.iter().map(|answer| answer["receipt"]["epoch"].as_u64().unwrap()).max().unwrap();
    operator.expect(&format!("epoch {last} sealed"));
    for miner in &mut faulty {
        assert!(miner.is_running(), "no engine takes its node with it");
        let gone = miner.lines_with("the engine of queenbee-nano is gone: ");
        assert!(!gone.is_empty(), "the log says why");
    }
    for miner in faulty.into_iter().chain([sound]) {
        miner.terminate().good();
    }
    operator.terminate().good();
    let reading = reference::read(&site);
    assert_eq!((reading.jobs.len(), reading.receipts.len()), (jobs, jobs), "none is paid twice");
    reading.hold(&answers);
}

#[test]
fn sixty_jobs_are_answered_whatever_the_engines_do() {
    answers_all(60);
}

#[test]
#[ignore = "half an hour: scripts/nightly.sh engines"]
fn a_thousand_jobs_are_answered_whatever_the_engines_do() {
    answers_all(1_000);
}
