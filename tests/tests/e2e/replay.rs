//! A job is its signed bytes: signed twice it is two jobs, the same bytes are one job however often they come.

use crate::harness::{Site, short_job};
use crate::peer::Peer;
use crate::reference;
use std::collections::BTreeSet;
use swarm_node::network::Topic;
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::Signed;

const REPLAYS_A_PHASE: usize = 250;
const PHASES: usize = 4;

/// Gossips the bytes once, and hands them over again and again.
async fn replay(site: &Site, signed: &Signed) -> BTreeSet<String> {
    let mut peer = Peer::start(site, "a stranger").await;
    let operator = peer.meet("operator").await;
    peer.network.publish(Topic::Jobs, signed.encode()).await.unwrap();
    let mut said = BTreeSet::new();
    for _ in 0..REPLAYS_A_PHASE {
        match peer.ask(operator, &Query::Hand(signed.clone())).await {
            Answer::Taken => said.insert("taken".to_owned()),
            Answer::Refused(why) => said.insert(why),
            other => panic!("an answer to something else: {other:?}"),
        };
    }
    peer.network.shutdown().await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bytes_a_thousand_times_are_one_job() {
    const OPERATOR: [&str; 4] = ["--epoch", "3s", "--window", "100ms"];
    let site = Site::new();
    let mut operator = site.operator(&OPERATOR);
    let job = site.job("job", &short_job("The carriage"));
    let ids = [site.announce(&job), site.announce(&job)];
    assert_ne!(ids[0], ids[1], "one file twice is two jobs");
    let path = site.data("client").join("jobs").join(format!("{}.job", ids[0]));
    let signed = Signed::decode(&std::fs::read(path).unwrap()).unwrap();

    let mut said = replay(&site, &signed).await;
    operator.kill();
    operator = site.operator(&OPERATOR);
    said.extend(replay(&site, &signed).await);

    let miner = site.miner("alice.eth", &[]);
    let answers = ids.each_ref().map(|id| site.client(&["wait", "--json", id]).good().json());
    said.extend(replay(&site, &signed).await);
    let last = answers.iter().map(|answer| answer["receipt"]["epoch"].as_u64().unwrap()).max().unwrap();
    operator.expect(&format!("epoch {last} sealed"));
    operator.terminate().good();
    operator = site.operator(&OPERATOR);
    said.extend(replay(&site, &signed).await);
    println!("{} replays, answered: {said:?}", PHASES * REPLAYS_A_PHASE);

    let again = site.client(&["wait", "--json", &ids[0]]).good().json();
    assert_eq!(
        (&again["answer"], &again["receipt"]["proof"]),
        (&answers[0]["answer"], &answers[0]["receipt"]["proof"])
    );
    let status = site.client(&["status", "--json"]).good().json();
    assert_eq!((&status["free_usdc"], &status["pending"]), (&"99.80".into(), &0.into()));
    miner.terminate().good();
    operator.terminate().good();
    let reading = reference::read(&site);
    assert_eq!((reading.jobs.len(), reading.receipts.len()), (2, 2));
    reading.hold(&answers);
}
