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
fn an_answer_comes_with_the_probabilities_of_its_tokens() {
    let site = Site::new();
    let operator = site.operator(&[]);
    let miner = site.miner("alice.eth", &[]);
    let mut job = job_of("It is a truth universally acknowledged, that", 40);
    job["params"]["temperature"] = 0.into();
    let (job, file) = (site.job("job", &job), site.home().join("logprobs.json"));
    let answered = site.client(&["submit", &text(&job), "--json", "--logprobs", &text(&file)]).good().json();
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let tokens = told["logprobs"]["content"].as_array().unwrap();
    let mut spelt = String::new();
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(token["id"], top[0]["id"], "at temperature 0 the likeliest");
        assert_eq!(token["logprob"], top[0]["logprob"]);
        let sum: f64 = top.iter().map(|other| other["logprob"].as_f64().unwrap().exp()).sum();
        assert!(sum > 0.1 && sum < 1.001, "{sum}");
        spelt += token["token"].as_str().unwrap();
    }
    assert_eq!(spelt, answered["answer"].as_str().unwrap());
    assert_eq!((told["job"].clone(), told["stop"].as_str()), (answered["job"].clone(), Some("max_tokens")));

    let again = site.home().join("again.json");
    let id = answered["job"].as_str().unwrap();
    site.client(&["wait", id, "--logprobs", &text(&again)]).good();
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&file).unwrap());
    let bench = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/bench.json");
    let told = site.client(&["submit", bench, "--logprobs", &text(&again)]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(told.stderr.contains("only text has them"), "{told:?}");
    for process in [miner, operator] {
        process.terminate().good();
    }
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
