//! `swarm-node audit`: an honest proof holds, also from files alone, and a miner that runs other weights is found out.

use crate::harness::{Finished, Process, Site, eventually, job_of, short_id, text};
use crate::recompute::{SEALED, good};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use swarm_inference::testing::{Change, Storage, changed};
use swarm_inference::{Weights, queenbee};
use swarm_protocol::codec::Link;
use swarm_protocol::finding::BEYOND_DOUBT;

pub const CHECKS: [&str; 4] = ["signatures", "lease", "check A", "check B"];

pub fn audit(site: &Site, args: &[&str]) -> Finished {
    let mut command = site.command("swarm-node");
    command.arg("audit").args(args);
    Process::start("audit", command).finish()
}

/// A pool whose one miner did one job of 60 tokens: the proof's id, once its epoch is sealed.
fn proven(site: &Site, variables: &[(&str, &str)]) -> (Vec<Process>, String) {
    let operator = site.operator(&["--epoch", "6s", "--heartbeat", "1s"]);
    let mut command = site.command("swarm-node");
    command.args(["--role", "miner", "--ens", "alice.eth"]).envs(variables.iter().copied());
    let miner = Process::start("alice.eth", command);
    miner.expect("joined swarmpool.eth");
    let mut job = job_of("The carriage was at the door", 60);
    job["params"]["temperature"] = json!(0.9);
    let answer = site.submit(&site.job("job", &job)).good().json();
    operator.expect(&format!("epoch {} sealed", answer["receipt"]["epoch"]));
    (vec![operator, miner], answer["receipt"]["proof"].as_str().unwrap().to_owned())
}

/// The built-in model with 4-bit weights, as a folder that a manifest describes.
fn coarse(site: &Site) -> PathBuf {
    let model = changed(&queenbee(), Change::Stored(Storage::Q4_0)).unwrap();
    let Weights::Memory(bytes) = &model.weights else { panic!("changed models are in memory") };
    let path = site.home().join("coarse.json");
    std::fs::write(path.with_file_name(&model.manifest.file), bytes).unwrap();
    std::fs::write(&path, serde_json::to_string(&model.manifest).unwrap()).unwrap();
    path
}

pub fn evidence(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn audit_of_an_honest_proof_holds_and_can_be_repeated_from_files_alone() {
    let site = Site::new();
    let (processes, proof) = proven(&site, &[]);
    let (file, archive) = (site.home().join("evidence.json"), site.home().join("audit.car"));
    let told =
        audit(&site, &[&proof, "--json", "--out", &text(&file), "--save", &text(&archive)]).good().json();
    good(&told, &CHECKS);
    assert_eq!((&told["proof"]["id"], &told["proof"]["finding"]), (&json!(proof), &json!("holds")));
    let kept = evidence(&file);
    // As many as were asked for, unless the text came to its end before: the lease's seed says.
    let tokens = kept["distances"]["positions"].as_array().unwrap().len();
    assert!((1..=60).contains(&tokens), "{tokens}");
    assert_eq!(kept["finding"], "holds");
    let shown = audit(&site, &[&proof]).good().stdout;
    assert!(
        shown.contains("ok     check B")
            && shown.contains(&format!("{tokens} tokens are what its seed picks")),
        "{shown}"
    );
    let nobody = audit(&site, &[&Link([7; 32]).to_string()]);
    assert!(nobody.code() == Some(1) && nobody.stderr.contains("no sealed epoch has accepted"), "{nobody:?}");
    processes.into_iter().for_each(|process| _ = process.terminate().good());

    good(&audit(&site, &[&proof, "--json", "--car", &text(&archive)]).good().json(), &CHECKS);
    let elsewhere = Site::new();
    let again = audit(&elsewhere, &["--json", "--from", &text(&file)]).good().json();
    assert_eq!(again["proof"]["distances"], told["proof"]["distances"]);

    // Whoever changes what is in it is told so: another job, another lease, another transcript.
    for (field, place) in [("job", 200), ("proof", 150), ("transcript", 300), ("output", 9)] {
        let mut bad = kept.clone();
        let mut bytes = hex::decode(bad["content"][field].as_str().unwrap()).unwrap();
        bytes[place] ^= 1;
        bad["content"][field] = hex::encode(bytes).into();
        std::fs::write(&file, bad.to_string()).unwrap();
        let told = audit(&elsewhere, &["--from", &text(&file)]);
        assert!(
            matches!(told.code(), Some(1 | 2)) && !told.stdout.contains("ok     check B"),
            "{field}: {told:?}"
        );
    }
    let mut bad = kept;
    bad["lease"]["term"] = json!(2);
    std::fs::write(&file, bad.to_string()).unwrap();
    let told = audit(&elsewhere, &["--json", "--from", &text(&file)]);
    assert_eq!((told.code(), &told.json()["proof"]["finding"]), (Some(1), &json!("contradicts")), "{told:?}");
}

#[test]
fn audit_finds_a_miner_that_runs_coarser_weights_under_the_models_name() {
    let site = Site::new();
    let coarse = coarse(&site);
    let (processes, proof) = proven(&site, &[("SWARMPOOL_CHEAT_MODEL", &text(&coarse))]);
    let file = site.home().join("evidence.json");
    let told = audit(&site, &[&proof, "--json", "--out", &text(&file)]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(
        told.stderr.contains("the proof is not good") && told.stderr.contains("4096ths of a bit"),
        "{told:?}"
    );
    let found = told.json();
    assert_eq!(found["proof"]["finding"], "differs", "{found}");
    let result = |what: &str| {
        let checks = found["checks"].as_array().unwrap();
        checks.iter().find(|check| check["check"] == what).unwrap()["result"].clone()
    };
    assert_eq!(CHECKS.map(result), [json!("ok"), json!("ok"), json!("ok"), json!("false")], "{found}");
    assert_eq!(evidence(&file)["finding"], "differs");
    let alone = audit(&site, &[&proof, "--challenge"]);
    assert!(alone.code() == Some(1) && alone.stderr.contains("the challenge was refused"), "{alone:?}");
    processes.into_iter().for_each(|process| _ = process.terminate().good());
    let elsewhere = Site::new();
    assert_eq!(audit(&elsewhere, &["--from", &text(&file)]).code(), Some(1));
}

#[test]
fn who_finds_a_proof_out_challenges_it_and_has_the_money_back_if_others_agree() {
    let site = Site::new();
    let coarse = coarse(&site);
    let operator =
        site.operator(&["--epoch", "12s", "--heartbeat", "1s", "--audit-rate", "1", "--established", "0"]);
    let honest = ["alice.eth", "bob.eth", "carol.eth"].map(|ens| site.miner(ens, &["--min-price", "0.20"]));
    let mut command = site.command("swarm-node");
    command.args(["--role", "miner", "--ens", "mallory.eth"]).env("SWARMPOOL_CHEAT_MODEL", text(&coarse));
    let cheat = Process::start("mallory.eth", command);
    cheat.expect("joined swarmpool.eth");
    operator.expect("epoch 0 sealed");
    // One in a hundred is picked by the draw, and then somebody looks already.
    let mut answers = Vec::new();
    let told = loop {
        assert!(answers.len() < 4, "the draw picks every one");
        let false_one = priced(&site, &format!("false-{}", answers.len()), "0.10");
        operator.expect(&format!("epoch {} sealed", false_one["receipt"]["epoch"]));
        let proof = false_one["receipt"]["proof"].as_str().unwrap().to_owned();
        answers.push(false_one);
        let told = audit(&site, &[&proof, "--challenge", "--json"]);
        if !told.stderr.contains("the challenge was refused") {
            break told;
        }
    };
    assert_eq!((told.code(), &told.json()["proof"]["finding"]), (Some(1), &json!("differs")), "{told:?}");
    let looks = told.json()["proof"]["challenged"].clone();
    assert!(looks.as_str().is_some_and(|auditor| auditor.starts_with("0x")), "{told:?}");
    eventually("two who find the same", || {
        let found =
            honest.iter().filter(|miner| !miner.lines_with("it is not what the model says").is_empty());
        (found.count() >= 2).then_some(())
    });
    // Its job stands, as one miss overturns nothing; what the look cost is back.
    eventually("the challenge's price", || {
        let free = site.client(&["status", "--json"]).good().json()["free_usdc"].clone();
        (free == format!("{}.{}0", 99, 10 - answers.len())).then_some(())
    });
    operator.expect_after(operator.mark(), "sealed");
    good(&site.client(&["verify", "--json"]).good().json(), &SEALED);
    honest.into_iter().for_each(|miner| _ = miner.terminate().good());
    cheat.terminate().good();
    operator.terminate().good();
    crate::reference::read(&site).hold(&answers);
}

/// A job of 40 tokens for this price.
fn priced(site: &Site, name: &str, price: &str) -> Value {
    let mut job = job_of("The carriage was at the door", 40);
    (job["params"]["temperature"], job["payment"]["amount"]) = (json!(0.9), price.into());
    site.submit(&site.job(name, &job)).good().json()
}

#[test]
fn miners_look_at_each_others_proofs_and_one_that_runs_coarser_weights_loses_its_pay() {
    let site = Site::new();
    let coarse = coarse(&site);
    let args = ["--epoch", "12s", "--heartbeat", "1s", "--audit-rate", "100", "--established", "0"];
    let operator = site.operator(&args);
    let honest = ["alice.eth", "bob.eth", "carol.eth"].map(|ens| site.miner(ens, &["--min-price", "0.20"]));
    operator.expect("epoch 0 sealed");
    let good_one = priced(&site, "honest", "0.20");
    assert_eq!(good_one["receipt"]["epoch"], 1);
    eventually("somebody who finds that it holds", || {
        honest.iter().any(|miner| !miner.lines_with("it holds").is_empty()).then_some(())
    });

    let mut command = site.command("swarm-node");
    command.args(["--role", "miner", "--ens", "mallory.eth"]).env("SWARMPOOL_CHEAT_MODEL", text(&coarse));
    let cheat = Process::start("mallory.eth", command);
    cheat.expect("joined swarmpool.eth");
    // All of them admitted in one epoch: looks at false proofs cost more than their fees, which stops a small pool for the
    // rest of one.
    operator.expect_after(operator.mark(), "sealed");
    for n in 0..4 {
        let mut job = job_of("The carriage was at the door", 40);
        job["params"]["temperature"] = json!(0.9);
        site.announce(&site.job(&format!("false-{n}"), &job));
    }
    // The third miss in twenty audits condemns: that proof and the next are overturned.
    let back = eventually("the money of two jobs", || {
        let free = site.client(&["status", "--json"]).good().json()["free_usdc"].clone();
        (free == "99.60").then_some(free)
    });
    assert_eq!(back, "99.60");
    for miner in &honest {
        assert!(!miner.lines_with("it is not what the model says").is_empty());
        assert!(miner.lines_with("it breaks the rules").is_empty());
    }
    operator.expect("sealed");
    good(&site.client(&["verify", "--json"]).good().json(), &SEALED);
    honest.into_iter().for_each(|miner| _ = miner.terminate().good());
    cheat.terminate().good();
    operator.terminate().good();
    assert_eq!(crate::reference::read(&site).open_jobs(), 0);
}

/// A miner that alters proofs, and the first job of which it did; whoever else is there does not work for so little.
fn altering(site: &Site) -> (Process, Value) {
    let miner = site.miner("mallory.eth", &["--alter-proofs", "10"]);
    for n in 0..90 {
        let mut job = job_of("The carriage was at the door", 40);
        job["params"]["temperature"] = json!(0.9);
        let file = site.job(&format!("job-{n}"), &job);
        let answer = site.submit(&file).good().json();
        let id = short_id(answer["job"].as_str().unwrap());
        if !miner.lines_with(&format!("altered the costs of {id}")).is_empty() {
            return (miner, answer);
        }
    }
    panic!("one in ten proofs is altered");
}

const ALTERING: [&str; 8] =
    ["--epoch", "12s", "--heartbeat", "1s", "--audit-rate", "100", "--established", "0"];

#[test]
fn an_altered_proof_brings_the_right_answer_and_only_a_run_of_the_model_finds_it_out() {
    let site = Site::new();
    let operator = site.operator(&ALTERING);
    let honest = ["alice.eth", "bob.eth", "carol.eth"].map(|ens| site.miner(ens, &["--min-price", "0.20"]));
    operator.expect("epoch 0 sealed");
    let (maker, answer) = altering(&site);
    operator.expect(&format!("epoch {} sealed", answer["receipt"]["epoch"]));
    let told = audit(&site, &[answer["receipt"]["proof"].as_str().unwrap(), "--json"]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    let found = told.json();
    assert_eq!(found["proof"]["finding"], "differs", "{found}");
    assert!(found["proof"]["distances"]["mean"].as_u64().unwrap() >= u64::from(BEYOND_DOUBT), "{found}");
    let right = found["checks"].as_array().unwrap().iter().filter(|check| check["result"] == "ok");
    let right: Vec<_> = right.map(|check| check["check"].as_str().unwrap()).collect();
    assert!(right.contains(&"check A") && !right.contains(&"check B"), "{found}");
    let id = short_id(answer["job"].as_str().unwrap());
    maker.expect(&format!("the altered proof of {id} was audited: it was found out"));
    let against = |miner: &Process| miner.lines_with("it is not what the model says");
    let against: Vec<String> = honest.iter().flat_map(against).collect();
    assert!(against.len() >= 2 && against.iter().all(|line| line.contains(&id)), "{against:?}");
    assert_eq!(maker.lines_with("challeng"), [""; 0]);
    honest.into_iter().for_each(|miner| _ = miner.terminate().good());
    maker.terminate().good();
    operator.terminate().good();
}

#[test]
fn an_auditor_who_does_not_look_is_challenged_by_the_maker_of_an_altered_proof() {
    let site = Site::new();
    let operator = site.operator(&ALTERING);
    // Whoever is asked first does not look.
    let lazy = site.home().join("lazy");
    std::fs::create_dir(&lazy).unwrap();
    let auditors = ["alice.eth", "bob.eth", "carol.eth"].map(|ens| {
        let mut command = site.command("swarm-node");
        command.args(["--role", "miner", "--ens", ens, "--min-price", "0.20"]);
        command.env("SWARMPOOL_LAZY_AUDITS", &lazy);
        let miner = Process::start(ens, command);
        miner.expect("joined swarmpool.eth");
        miner
    });
    operator.expect("epoch 0 sealed");
    let (maker, answer) = altering(&site);
    let id = short_id(answer["job"].as_str().unwrap());
    maker.expect(&format!("the altered proof of {id} was audited: it was called good"));
    maker.expect(&format!("challenging who called the altered proof of {id} good"));
    maker.expect("the challenge is taken");
    maker.expect("the challenge was right");
    operator.expect_after(operator.mark(), "sealed");
    good(&site.client(&["verify", "--json"]).good().json(), &SEALED);
    auditors.into_iter().for_each(|miner| _ = miner.terminate().good());
    maker.terminate().good();
    operator.terminate().good();
}
