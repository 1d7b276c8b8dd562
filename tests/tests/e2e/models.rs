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
