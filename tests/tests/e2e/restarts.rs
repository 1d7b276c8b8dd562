//! The operator is restarted again and again: how soon its gossip flows, and whether jobs do.

use crate::harness::{Site, short_job};
use crate::peer::Peer;
use crate::reference;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use swarm_node::network::{NetworkEvent, Topic, Verdict};
use swarm_protocol::statement::{Body, Signed, Statement};

const RESTARTS: usize = 10;
/// A node that was connected tries again at once and then ever more seldom.
const MAX_SILENCE: Duration = Duration::from_secs(30);

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Waits for a beacon that was made after `since` and comes by gossip.
async fn beacon(peer: &mut Peer, since: u64) {
    loop {
        let found = peer.wait(|event| match event {
            NetworkEvent::Gossip { topic: Topic::Heartbeats, id, from, data } => {
                Some((*id, *from, data.clone()))
            }
            _ => None,
        });
        let (id, from, data) = found.await;
        peer.network.verdict(id, from, Verdict::Accept).await.unwrap();
        let statement = Statement::decode(&Signed::decode(&data).unwrap().payload).unwrap();
        if matches!(statement.body, Body::Beacon(_)) && statement.header.at.0 >= since {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_and_jobs_flow_after_each_restart() {
    const OPERATOR: [&str; 6] = ["--epoch", "4s", "--window", "100ms", "--heartbeat", "500ms"];
    let site = Site::new();
    let mut operator = site.operator(&OPERATOR);
    let miners = ["alice.eth", "bob.eth"].map(|name| site.miner(name, &[]));
    let mut peer = Peer::start(&site, "a listener").await;
    peer.meet("operator").await;
    let job = site.job("job", &short_job("The carriage"));

    let (mut answers, mut silences) = (Vec::new(), Vec::new());
    for round in 1..=RESTARTS {
        // Half of the restarts are crashes.
        let ended = if round % 2 == 0 { operator.kill() } else { operator.terminate().good() };
        drop(ended);
        let marks = miners.each_ref().map(|miner| miner.mark());
        let since = now_ms();
        operator = site.operator(&OPERATOR);
        let begun = Instant::now();
        beacon(&mut peer, since).await;
        let heard = begun.elapsed();
        for (miner, mark) in miners.iter().zip(marks) {
            miner.expect_after(mark, "connected to the operator");
        }
        operator.expect("joined with matmul, queenbee-nano");
        let met = begun.elapsed();
        answers.push(site.submit(&job).good().json());
        println!(
            "restart {round}: gossip after {:.2} s, both miners after {:.2} s, a job answered after {:.2} s",
            heard.as_secs_f64(),
            met.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
        silences.push(met);
    }
    silences.sort();
    println!(
        "gossip flows again: median {:.2?}, longest {:.2?}",
        silences[RESTARTS / 2],
        silences[RESTARTS - 1]
    );
    assert!(silences[RESTARTS - 1] < MAX_SILENCE);

    peer.network.shutdown().await;
    let epoch = answers[RESTARTS - 1]["receipt"]["epoch"].as_u64().unwrap();
    operator.expect(&format!("epoch {epoch} sealed"));
    for miner in miners {
        miner.terminate().good();
    }
    operator.terminate().good();
    let reading = reference::read(&site);
    assert_eq!((reading.jobs.len(), reading.open_jobs()), (RESTARTS, 0));
    reading.hold(&answers);
}
