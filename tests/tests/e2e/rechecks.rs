//! Audits of what is not text: an honest vector and an honest picture hold, those of other weights do not, and of a benchmark
//! there is no more to say than its rule does.

use crate::audits::{CHECKS, audit, evidence};
use crate::harness::{Process, Site, eventually, text};
use crate::recompute::{SEALED, good};
use crate::workloads::{drawn, job, manifest, picture_manifest};
use serde_json::{Value, json};
use std::path::Path;
use swarm_inference::Model;
use swarm_inference::testing::{Change, Storage, changed_folder};

/// A job of each workload that a rule compares.
fn jobs(price: &str) -> [(&'static str, Value); 2] {
    let texts = json!({ "texts": ["The queen bee of the hive.", "Working bees swarmed.", "x"] });
    [("texts", job("embed", "tiny-bert", texts)), ("picture", drawn("bee").2)].map(|(name, mut job)| {
        job["payment"]["amount"] = price.into();
        (name, job)
    })
}

fn benchmark() -> Value {
    let product = json!({ "product": { "dtype": "f32", "m": 96, "n": 64, "k": 200, "repeats": 3 } });
    job("torch_bench", "matmul", product)
}

/// Runs a job; the proof's id.
fn proven(site: &Site, name: &str, job: &Value) -> (u64, String) {
    let answer = site.client(&["submit", "--json", &text(&site.job(name, job))]).good().json();
    let receipt = &answer["receipt"];
    (receipt["epoch"].as_u64().unwrap(), receipt["proof"].as_str().unwrap().to_owned())
}

fn models() -> [String; 4] {
    ["--model".into(), manifest(), "--model".into(), picture_manifest()]
}

/// An audit with the models at hand.
fn audited(site: &Site, args: &[&str]) -> crate::harness::Finished {
    let models = models();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    audit(site, &[args, &models].concat())
}

/// A model's weights in four bits, in a folder of its own.
fn coarse(site: &Site, manifest: &str) -> String {
    let model = Model::from_manifest_file(Path::new(manifest)).unwrap();
    let folder = site.home().join(format!("coarse-{}", model.manifest.name));
    std::fs::create_dir(&folder).unwrap();
    changed_folder(&model, Change::Stored(Storage::Q4_0), &folder).unwrap();
    text(&folder.join("manifest.json"))
}

#[test]
fn audits_of_vectors_and_pictures_hold_and_can_be_repeated_from_a_file() {
    let site = Site::new();
    let models = models();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    let operator = site.operator(&[&["--epoch", "6s", "--heartbeat", "1s"], &models[..]].concat());
    let miner = site.miner("alice.eth", &models);
    let proofs = jobs("0.10").map(|(name, job)| (name, proven(&site, name, &job)));
    let (last, measured) = proven(&site, "benchmark", &benchmark());
    operator.expect(&format!("epoch {last} sealed"));
    for (name, (_, proof)) in &proofs {
        let file = site.home().join(format!("{name}.json"));
        let told = audited(&site, &[proof, "--json", "--out", &text(&file)]).good().json();
        good(&told, &CHECKS);
        assert_eq!(told["proof"]["finding"], "holds", "{told}");
        assert_eq!(told["proof"]["distances"]["worst"], 0, "the same machine computes the same: {told}");
        // Three texts; four steps and one tile.
        let positions = evidence(&file)["distances"]["positions"].as_array().unwrap().len();
        assert_eq!(positions, if *name == "texts" { 3 } else { 5 });
        let elsewhere = Site::new();
        let again = audited(&elsewhere, &["--json", "--from", &text(&file)]).good().json();
        for field in ["distances", "tolerance", "unit", "finding"] {
            assert_eq!(again["proof"][field], told["proof"][field], "{field}");
        }
        let mut bad = evidence(&file);
        let mut bytes = hex::decode(bad["content"]["output"].as_str().unwrap()).unwrap();
        bytes[60] ^= 1;
        bad["content"]["output"] = hex::encode(bytes).into();
        std::fs::write(&file, bad.to_string()).unwrap();
        let told = audited(&elsewhere, &["--json", "--from", &text(&file)]);
        assert_eq!(
            (told.code(), &told.json()["proof"]["finding"]),
            (Some(1), &json!("contradicts")),
            "{told:?}"
        );
    }
    let told = audited(&site, &[&measured, "--json"]).good().json();
    assert_eq!((&told["proof"]["finding"], &told["proof"]["tolerance"]), (&json!("holds"), &Value::Null));
    let shown = audited(&site, &[&measured]).good().stdout;
    assert!(shown.contains("ok     check A    3 products are right"), "{shown}");
    assert!(shown.contains("open   check B    none of a benchmark"), "{shown}");
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn miners_look_at_vectors_and_pictures_too_and_find_those_of_coarser_weights() {
    let site = Site::new();
    let models = models();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    let args = ["--epoch", "12s", "--heartbeat", "1s", "--audit-rate", "100", "--established", "0"];
    let operator = site.operator(&[&args, &models[..]].concat());
    let honest = ["alice.eth", "bob.eth", "carol.eth"]
        .map(|ens| site.miner(ens, &[&["--min-price", "0.20"], &models[..]].concat()));
    operator.expect("epoch 0 sealed");
    for (name, job) in jobs("0.20") {
        proven(&site, name, &job);
    }
    let mut unpicked = benchmark();
    unpicked["payment"]["amount"] = "0.20".into();
    proven(&site, "benchmark", &unpicked);
    let lines = |what: &str| honest.iter().map(|miner| miner.lines_with(what).len()).sum::<usize>();
    eventually("somebody who finds that both hold", || (lines("it holds") >= 2).then_some(()));

    let cheats = [("mallory.eth", manifest()), ("trudy.eth", picture_manifest())].map(|(ens, manifest)| {
        let mut command = site.command("swarm-node");
        command.args(["--role", "miner", "--ens", ens, "--model", &manifest]);
        command.env("SWARMPOOL_CHEAT_MODEL", coarse(&site, &manifest));
        let cheat = Process::start(ens, command);
        cheat.expect("joined swarmpool.eth");
        cheat
    });
    let proofs = jobs("0.10").map(|(name, job)| proven(&site, &format!("false-{name}"), &job));
    // Whoever is asked first, and two more since it says that they differ.
    eventually("two who find against each", || (lines("it is not what the model says") >= 4).then_some(()));
    for (_, proof) in proofs {
        let told = audited(&site, &[&proof, "--json"]);
        assert_eq!((told.code(), &told.json()["proof"]["finding"]), (Some(1), &json!("differs")), "{told:?}");
    }
    assert_eq!((lines("it breaks the rules"), lines("could not be looked at")), (0, 0));
    operator.expect_after(operator.mark(), "sealed");
    good(&site.client(&["verify", "--json"]).good().json(), &SEALED);
    honest.into_iter().chain(cheats).for_each(|miner| _ = miner.terminate().good());
    operator.terminate().good();
    assert_eq!(crate::reference::read(&site).open_jobs(), 0);
}
