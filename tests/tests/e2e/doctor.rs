//! `swarm-node doctor`: whether a machine is ready, in every state that it can be in.

use crate::harness::{Finished, Process, Site, text};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn doctor(site: &Site, args: &[&str]) -> Finished {
    let mut command = site.command("swarm-node");
    command.args(["doctor", "--json"]).args(args);
    Process::start("doctor", command).finish()
}

/// The state of a check, and what was found.
fn check<'a>(told: &'a Value, name: &str) -> (&'a str, &'a str) {
    let all = told["checks"].as_array().unwrap();
    let found =
        all.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name}: {told}"));
    (found["state"].as_str().unwrap(), found["found"].as_str().unwrap())
}

#[test]
fn a_machine_is_judged_before_a_node_runs_and_while_it_does() {
    let site = Site::new();
    let before = doctor(&site, &[]);
    assert_eq!(before.code(), Some(1), "{before:?}");
    let told = before.json();
    assert_eq!(told["ok"], false);
    for (name, state) in [
        ("disk", "ok"),
        ("memory", "ok"),
        ("wallet", "none"),
        ("provider candle", "ok"),
        ("model queenbee-nano", "ok"),
        ("node", "none"),
        ("ports", "ok"),
        ("operator", "fail"),
        ("clock", "none"),
    ] {
        assert_eq!(check(&told, name).0, state, "{name}: {told}");
    }
    assert_eq!(std::fs::read_dir(site.home()).unwrap().count(), 0, "it leaves nothing behind");

    let operator = site.operator(&[]);
    let miner = site.miner("alice.eth", &[]);
    let ready = doctor(&site, &["--ens", "alice.eth"]).good().json();
    assert_eq!(ready["ok"], true);
    let wallet = check(&ready, "wallet");
    assert!(wallet.0 == "ok" && wallet.1.starts_with("0x"), "{ready}");
    assert_eq!(check(&ready, "node miner-alice.eth").0, "ok", "{ready}");
    assert_eq!(check(&ready, "operator").0, "ok", "{ready}");
    assert_eq!(check(&ready, "clock").0, "ok", "{ready}");
    drop(miner.terminate().good());
    drop(operator.terminate().good());
}

#[test]
fn what_is_wrong_is_named_with_what_to_do() {
    let site = Site::new();
    let _operator = site.operator(&[]);
    let key = site.home().join("loose.key");
    std::fs::write(&key, "11".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let nobody = "/ip4/127.0.0.1/tcp/1";
    let args = ["--key", &text(&key), "--bootstrap", nobody, "--model", "/nowhere/manifest.json"];
    let told = doctor(&site, &args);
    assert_eq!(told.code(), Some(1), "{told:?}");
    let told = told.json();
    for name in ["wallet", "model", &format!("bootstrap {nobody}")] {
        assert_eq!(check(&told, name).0, "fail", "{told}");
    }
    let advised = told["checks"].as_array().unwrap().iter().filter(|check| check["advice"].is_string());
    assert_eq!(advised.count(), 3, "{told}");
    assert_eq!(check(&told, "operator").0, "ok", "{told}");

    let other = "0x0000000000000000000000000000000000000001";
    let told = doctor(&site, &["--operator", other]).json();
    assert!(check(&told, "operator").0 == "fail" && check(&told, "operator").1.contains(other), "{told}");
}
