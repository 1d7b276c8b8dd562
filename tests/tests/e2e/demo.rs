//! The main job: an operator, two miners, a job, its answer, its receipt.

use crate::harness::{Site, job_of, short_id, text};
use cid::Cid;
use swarm_node::content::car::CarReader;

/// UTF-8 text (the JSON that it came in is) of five words or more, most of whose characters are letters and spaces.
fn assert_readable(answer: &str) {
    let letters = answer.chars().filter(|c| c.is_alphabetic() || *c == ' ').count();
    assert!(answer.split_whitespace().count() >= 5, "not five words: {answer:?}");
    assert!(letters * 10 >= answer.chars().count() * 8, "not mostly letters: {answer:?}");
    assert!(!answer.contains('\u{fffd}'), "not UTF-8: {answer:?}");
}

#[test]
fn a_job_is_raced_for_answered_and_receipted() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "8s"]);
    let miners = [site.miner("alice.eth", &[]), site.miner("bob.eth", &[])];
    operator.expect("joined with matmul, queenbee-nano");

    let job = site.job("job", &job_of("It is a truth universally acknowledged, that", 60));
    let answered = site.submit(&job).good().json();
    assert_readable(answered["answer"].as_str().unwrap());
    assert_eq!(answered["cost_usdc"], "0.10");
    let id = answered["job"].as_str().unwrap();

    let winner = miners.iter().position(|miner| miner.lines_with("is mine").len() == 1).expect("a winner");
    let (won, lost) = (&miners[winner], &miners[1 - winner]);
    won.expect("proof of");
    won.expect("earned 0.075 USDC");
    assert!(lost.lines_with("is mine").is_empty());
    let wallet = answered["receipt"]["miner"].as_str().unwrap();
    let told = lost.expect(&format!("{} went to", short_id(id)));
    assert!(told.contains(&format!("{}…{}", &wallet[..6], &wallet[38..])), "{told} does not name {wallet}");

    operator.expect("epoch 0 sealed");
    let verified = site.client(&["verify", "--json", id]).good().json();
    let checks = verified["checks"].as_array().unwrap();
    assert!(checks.len() >= 6 && checks.iter().all(|check| check["result"] == "ok"), "{verified}");

    let output = answered["receipt"]["output"].as_str().unwrap();
    assert_eq!(site.client(&["get", output]).good().stdout, answered["answer"].as_str().unwrap());
    let archive = site.home().join("answer.car");
    site.client(&["get", output, "--car", &text(&archive)]).good();
    let mut archive = CarReader::new(std::fs::File::open(archive).unwrap()).unwrap();
    assert_eq!(archive.roots(), [output.parse::<Cid>().unwrap()]);
    let (cid, block) = archive.next_block().unwrap().expect("the answer");
    assert_eq!((cid.to_string(), block), (output.to_owned(), answered["answer"].as_str().unwrap().into()));
    assert!(archive.next_block().unwrap().is_none());

    for miner in miners {
        miner.terminate().good();
    }
    operator.terminate().good();
    assert_eq!(site.running(), Vec::<u32>::new());
}
