//! Two hundred jobs and three miners: every job is answered once, every receipt is in its epoch, no money is lost.

use crate::harness::{Site, short_job};
use crate::reference;
use serde_json::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const JOBS: usize = 200;
const SUBMITTERS: usize = 4;

#[test]
fn two_hundred_jobs_are_answered_once_each() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "10s", "--window", "100ms"]);
    let miners = ["alice.eth", "bob.eth", "carol.eth"].map(|name| site.miner(name, &[]));
    let job = site.job("job", &short_job("The carriage"));

    let begun = Instant::now();
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(Vec::<Value>::new()));
    std::thread::scope(|threads| {
        for _ in 0..SUBMITTERS {
            threads.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < JOBS {
                    let answer = site.submit(&job).good().json();
                    answers.lock().unwrap().push(answer);
                }
            });
        }
    });
    println!("{JOBS} jobs by {SUBMITTERS} submitters in {:.1} s", begun.elapsed().as_secs_f64());
    let answers = answers.into_inner().unwrap();

    let status = site.client(&["status", "--json"]).good().json();
    assert_eq!((&status["free_usdc"], &status["reserved_usdc"]), (&"80.00".into(), &"0.00".into()));
    let last = answers.iter().map(|answer| answer["receipt"]["epoch"].as_u64().unwrap()).max().unwrap();
    operator.expect(&format!("epoch {last} sealed"));
    let earned = miners.iter().filter(|miner| !miner.lines_with("earned").is_empty()).count();
    assert!(earned >= 2, "the draw spreads jobs; only {earned} miners earned");
    for miner in miners {
        miner.terminate().good();
    }
    operator.terminate().good();

    let reading = reference::read(&site);
    assert_eq!((reading.jobs.len(), reading.receipts.len()), (JOBS, JOBS));
    reading.hold(&answers);
}
