//! A miner whose models a server of another project runs: llama.cpp's, which `scripts/llama-server.sh` names in
//! `SWARM_LLAMA_SERVER`.

use crate::harness::{Process, Site, job_of, text};
use serde_json::{Value, json};
use std::net::TcpListener;

/// What the server calls the built-in model.
const NAME: &str = "bee";
const PROMPTS: [&str; 6] = [
    "It is a truth universally acknowledged, that",
    "The carriage was at the door",
    "She was not to be persuaded; and the evening, 5 o\u{2019}clock, passed",
    "\u{201c}My dear Mr. Bennet,\u{201d} said his lady to him one day,",
    "Chapter 1\n\n",
    "No",
];
/// Of each prompt one at temperature 0 and one at 0.9.
const JOBS: usize = 2 * PROMPTS.len();

fn server(command: &str) -> [String; 6] {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/queenbee-nano/queenbee-nano-q8_0.gguf");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    [
        "--server".to_owned(),
        format!("http://{address}"),
        "--server-model".to_owned(),
        format!("queenbee-nano={NAME}"),
        "--server-command".to_owned(),
        format!("{command} {model} {NAME} {}", address.port()),
    ]
}

fn finding(site: &Site, proof: &str) -> Value {
    let mut command = site.command("swarm-node");
    command.args(["audit", proof, "--json"]);
    Process::start("audit", command).finish().json()["proof"].clone()
}

#[test]
fn jobs_that_llama_cpp_runs_are_answered_paid_and_hold_in_audits() {
    let Ok(command) = std::env::var("SWARM_LLAMA_SERVER") else {
        return println!("skipped: scripts/llama-server.sh sets SWARM_LLAMA_SERVER");
    };
    let site = Site::new();
    let operator = site.operator(&["--epoch", "20s", "--heartbeat", "1s"]);
    let server = server(&command);
    let miner = site.miner("alice.eth", &server.each_ref().map(String::as_str));
    let answers: Vec<Value> = (0..JOBS)
        .map(|n| {
            let mut job = job_of(PROMPTS[n / 2], 60);
            job["assurance"] = json!("distance");
            job["params"]["temperature"] = if n % 2 == 0 { json!(0) } else { json!(0.9) };
            site.submit(&site.job(&format!("job{n}"), &job)).good().json()
        })
        .collect();
    let last = &answers[JOBS - 1];
    operator.expect(&format!("epoch {} sealed", last["receipt"]["epoch"]));
    let mut held = 0;
    for answer in &answers {
        assert_eq!((&answer["status"], &answer["cost_usdc"]), (&json!("answered"), &json!("0.10")));
        let found = finding(&site, answer["receipt"]["proof"].as_str().unwrap());
        println!("{}: {}", found["finding"], found["distances"]);
        assert_ne!(found["finding"], "contradicts", "{found}");
        held += usize::from(found["finding"] == "holds");
    }
    println!("{held} of {JOBS} proofs hold");
    assert_eq!(held, JOBS);

    let mut seeded = job_of(PROMPTS[0], 10);
    seeded["ttl_s"] = json!(5);
    let told = site.client(&["submit", &text(&site.job("seeded", &seeded))]);
    assert_eq!(told.code(), Some(1), "a server samples by itself: {told:?}");
    for process in [miner, operator] {
        process.terminate().good();
    }
}
