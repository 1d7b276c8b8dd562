//! `swarm-node models`: what a node would know, and whether it should be offered.

use crate::harness::{Finished, Process, Site, text};
use serde_json::{Value, json};
use std::path::Path;

fn models(site: &Site, args: &[&str]) -> Finished {
    let mut command = site.command("swarm-node");
    command.arg("models").args(args);
    Process::start("models", command).finish()
}

#[test]
fn the_built_in_model_is_listed_inspected_and_validated() {
    let site = Site::new();
    let listed = models(&site, &["list", "--json"]).good().json();
    assert_eq!(listed["models"][0]["manifest"]["name"], "queenbee-nano");
    assert_eq!(listed["models"][0]["provider"], "candle");
    let inspected = models(&site, &["inspect", "queenbee-nano"]).good().json();
    assert_eq!(inspected, listed["models"][0]["manifest"]);

    let artifact = site.home().join("queenbee-nano.json");
    let told = models(&site, &["validate", "queenbee-nano", "--out", &text(&artifact)]).good();
    assert!(told.stdout.contains("queenbee-nano can be offered"), "{told:?}");
    let written: Value = serde_json::from_slice(&std::fs::read(&artifact).unwrap()).unwrap();
    assert_eq!((&written["passed"], &written["blake3"]), (&Value::Bool(true), &inspected["blake3"]));
    assert_eq!(written["checks"].as_array().unwrap().len(), 8);
}

#[test]
fn calibration_finds_no_difference_but_between_kernels_and_gives_a_tolerance_that_a_manifest_takes() {
    let site = Site::new();
    let artifact = site.home().join("calibration.json");
    let args = ["calibrate", "queenbee-nano", "--jobs", "16", "--json", "--out", &text(&artifact)];
    let found = models(&site, &args).good().json();
    let written: Value = serde_json::from_slice(&std::fs::read(&artifact).unwrap()).unwrap();
    assert_eq!(written, found);
    let pairs = found["pairs"].as_array().unwrap();
    let worst: Vec<u64> = pairs.iter().map(|pair| pair["worst"].as_u64().unwrap()).collect();
    assert_eq!((pairs.len(), &worst[..3]), (5, &[0, 0, 0][..]), "one pass, a batch, one thread: {found}");
    assert!(worst[3..].iter().all(|worst| (50..1000).contains(worst)), "kernels: {found}");
    let tolerance = &found["tolerance"];
    let stated = ["mean", "worst", "strangers", "strays"].map(|name| tolerance[name].as_u64().unwrap());
    assert!((60..300).contains(&stated[0]) && (100..1300).contains(&stated[1]), "{found}");
    assert!(stated[2] > 0 && (50..1500).contains(&stated[3]), "{found}");
    assert_eq!((&found["jobs"], &found["tried"]), (&Value::from(16), &Value::from(40)));

    let mut manifest = models(&site, &["inspect", "queenbee-nano"]).good().json();
    manifest["tolerance"] = tolerance.clone();
    let path = site.home().join("manifest.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(models(&site, &["inspect", &text(&path)]).good().json(), manifest);
    let told = models(&site, &["calibrate", "queenbee-nano", "--text", "/dev/null"]);
    assert!(told.code() == Some(1) && told.stderr.contains("take a longer one"), "{told:?}");
}

#[test]
fn a_tolerance_that_is_too_wide_for_audits_is_refused_by_who_audits() {
    let site = Site::new();
    let mut manifest = models(&site, &["inspect", "queenbee-nano"]).good().json();
    let file = manifest["file"].as_str().unwrap().to_owned();
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/queenbee-nano").join(&file);
    std::fs::copy(weights, site.home().join(file)).unwrap();
    let path = site.home().join("manifest.json");
    let mut states = |mean: u32, worst: u32| {
        manifest["name"] = "wide".into();
        manifest["tolerance"] = json!({ "mean": mean, "worst": worst, "strangers": 1, "strays": 228 });
        std::fs::write(&path, manifest.to_string()).unwrap();
    };
    let model = text(&path);
    let told =
        "wide has a tolerance of 103 in the mean and 1025 at the worst place, of which 1024 is the most";

    states(1024, 1024);
    assert!(!models(&site, &["inspect", &model]).good().stderr.contains("tolerance"));
    let operator = site.operator(&["--model", &model]);
    operator.terminate().good();
    states(103, 1025);
    assert!(models(&site, &["inspect", &model]).good().stderr.contains(&format!("warning: {told}")));
    let checked = models(&site, &["validate", &model]);
    assert_eq!(checked.code(), Some(1), "{checked:?}");
    assert!(checked.stdout.contains("mean 103, worst 1025, 1024 allowed"), "{checked:?}");
    assert!(checked.stdout.contains("wide is not to be offered"), "{checked:?}");
    let mut command = site.command("swarm-node");
    command.args(["--role", "operator", "--model", &model]);
    let refused = Process::start("operator", command).finish();
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains(&format!("error: {told}")), "{refused:?}");

    let operator = site.operator(&["--model", &model, "--audit-rate", "0"]);
    let miner = site.miner("alice.eth", &["--model", &model]);
    assert_eq!(miner.lines_with(told).len(), 1);
    for node in [miner, operator] {
        node.terminate().good();
    }
}

#[test]
fn a_model_that_is_not_what_its_manifest_says_is_refused() {
    let site = Site::new();
    let mut manifest = models(&site, &["inspect", "queenbee-nano"]).good().json();
    manifest["name"] = "other".into();
    let path = site.home().join("manifest.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    std::fs::write(site.home().join("queenbee-nano-q8_0.gguf"), b"GGUF").unwrap();
    let told = models(&site, &["validate", &text(&path)]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(told.stderr.contains("other cannot be offered: the weights of other have 4 bytes"), "{told:?}");
    let told = models(&site, &["inspect", "nobody"]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(told.stderr.contains("there is no model 'nobody'"), "{told:?}");
}
