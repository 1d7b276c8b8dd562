//! `swarm-node models`: what a node would know, and whether it should be offered.

use crate::harness::{Finished, Process, Site, text};
use serde_json::Value;

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
    assert_eq!(written["checks"].as_array().unwrap().len(), 7);
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
