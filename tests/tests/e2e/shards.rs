//! A model whose weights are in three files: pulled from a hub, a path and other nodes, run, given on and removed.

use crate::harness::{Finished, PATIENCE, Process, Site, short_job, text};
use crate::hub::{Fault, Hub, REPOSITORY};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use swarm_inference::SHARD_INDEX;
use swarm_inference::testing::{cut, tokenizer_json};

type Files = Vec<(String, Vec<u8>)>;

const FIRST: &str = "model-00001-of-00003.safetensors";
const SECOND: &str = "model-00002-of-00003.safetensors";
const THIRD: &str = "model-00003-of-00003.safetensors";

fn fixture(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/decoders/qwen2");
    std::fs::read(folder.join(file)).unwrap()
}

fn beside() -> Files {
    let tokenizer = tokenizer_json().into_bytes();
    vec![("config.json".into(), fixture("config.json")), ("tokenizer.json".into(), tokenizer)]
}

/// The model in one file.
fn whole() -> Files {
    [vec![("model.safetensors".to_owned(), fixture("model.safetensors"))], beside()].concat()
}

/// The same in three, the smallest first.
fn in_three() -> Files {
    let swapped = |name: &str| match name {
        FIRST => THIRD.to_owned(),
        THIRD => FIRST.to_owned(),
        other => other.to_owned(),
    };
    let mut files = cut(&fixture("model.safetensors"), 3).unwrap();
    for (name, bytes) in &mut files {
        if name == SHARD_INDEX {
            let mut index: Value = serde_json::from_slice(bytes).unwrap();
            for file in index["weight_map"].as_object_mut().unwrap().values_mut() {
                *file = swapped(file.as_str().unwrap()).into();
            }
            *bytes = serde_json::to_vec(&index).unwrap();
        } else {
            *name = swapped(name);
        }
    }
    files.sort();
    [files, beside()].concat()
}

fn hub(files: &Files, fault: Fault) -> Hub {
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    Hub::start(&files, fault)
}

fn start(site: &Site, hub: Option<&Hub>, args: &[&str]) -> Process {
    let mut command = site.command("swarm-node");
    command.arg("models").args(args).env_remove("HF_TOKEN");
    if let Some(hub) = hub {
        command.env("HF_ENDPOINT", &hub.endpoint);
    }
    Process::start("models", command)
}

fn models(site: &Site, args: &[&str]) -> Finished {
    start(site, None, args).finish()
}

fn write(folder: &Path, files: &Files) {
    std::fs::create_dir_all(folder).unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
}

/// Bytes that have come of pulls that have not ended.
fn came(site: &Site) -> u64 {
    let below = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let parts = below(site.home().join("models")).flat_map(|pull| below(pull.path()));
    let parts = parts.filter(|file| file.path().extension().is_some_and(|kind| kind == "part"));
    parts.filter_map(|part| part.metadata().ok()).map(|part| part.len()).sum()
}

fn size(files: &Files, wanted: &str) -> u64 {
    files.iter().find(|(name, _)| name == wanted).unwrap().1.len() as u64
}

#[test]
fn a_pull_that_is_killed_in_the_second_of_three_files_goes_on_there() {
    const STALL: usize = 70_000;
    let (site, files) = (Site::new(), in_three());
    assert!(size(&files, FIRST) < STALL as u64 && size(&files, SECOND) > STALL as u64);
    let hub = hub(&files, Fault::Stalls(STALL));
    let pull = start(&site, Some(&hub), &["pull", REPOSITORY]);
    let (enough, deadline) = (size(&files, FIRST) + STALL as u64, Instant::now() + PATIENCE);
    while came(&site) < enough {
        assert!(Instant::now() < deadline, "{} of {enough} bytes came", came(&site));
        std::thread::sleep(Duration::from_millis(2));
    }
    pull.kill();
    assert_eq!(models(&site, &["list", "--json"]).good().json()["models"].as_array().unwrap().len(), 2);
    hub.mend();
    let done = start(&site, Some(&hub), &["pull", REPOSITORY, "--json"]).finish().good();
    let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(done.json()["bytes"], total, "all files count");
    assert!(done.stderr.contains("KiB were there"), "{}", done.stderr);
    let requests = hub.requests();
    let large = requests.iter().filter_map(|request| request.strip_prefix("large /blobs/"));
    let large: Vec<_> = large.filter(|file| file.starts_with("model-")).collect();
    let rest = format!("{SECOND} from {STALL}");
    assert_eq!(large, [FIRST, SECOND, &rest, THIRD], "what was whole is not asked for again");
    for (name, bytes) in &files {
        assert!(std::fs::read(site.home().join("models/hive").join(name)).unwrap() == *bytes, "{name}");
    }
    let manifest = models(&site, &["inspect", "hive"]).good().json();
    let shards: Vec<_> = manifest["shards"].as_array().unwrap().iter().map(|shard| &shard["file"]).collect();
    assert_eq!((&manifest["file"], shards), (&FIRST.into(), vec![&Value::from(SECOND), &THIRD.into()]));
}

#[test]
fn a_model_in_three_files_is_what_it_is_in_one_runs_jobs_and_is_given_to_others() {
    let site = Site::new();
    for (name, files) in [("one", whole()), ("three", in_three())] {
        let folder = site.home().join("source").join(name);
        write(&folder, &files);
        models(&site, &["pull", &text(&folder)]).good();
    }
    // Random weights know no text, so validation says no, and measures all the same.
    let measured = |name: &str| {
        let told = models(&site, &["validate", name, "--json"]).json();
        let checks = told["checks"].as_array().unwrap().clone();
        let told_by = |check: &str| checks.iter().find(|c| c["check"] == check).unwrap()["found"].clone();
        (told["perplexity"].clone(), ["one pass", "kernels", "repeat", "tokenizer"].map(told_by))
    };
    assert_eq!(measured("three"), measured("one"));
    let listed = models(&site, &["list", "--json"]).good().json();
    let entry =
        listed["models"].as_array().unwrap().iter().find(|m| m["manifest"]["name"] == "three").unwrap();
    let cid = entry["cid"].as_str().unwrap().to_owned();
    assert_eq!(entry["provider"], "candle");

    let operator = site.operator(&["--model", "three", "--epoch", "10s", "--heartbeat", "1s"]);
    let miner = site.miner("alice.eth", &["--model", "three"]);
    miner.expect(&format!("models pull {cid}"));
    let mut job = short_job("the thin cat in the");
    job["model"] = "three".into();
    let (file, costs) = (site.job("three", &job), site.home().join("costs.json"));
    let answer = site.client(&["submit", &text(&file), "--json", "--logprobs", &text(&costs)]).good();
    checked(&site, &operator, (&answer, &costs));
    let told = models(&site, &["remove", "three"]);
    assert!(told.code() == Some(1) && told.stderr.contains("three is in use by process"), "{told:?}");

    let other = Site::new();
    let mut command = other.command("swarm-node");
    command.env("SWARMPOOL_RUNTIME_DIR", site.runtime()).args(["models", "pull", &cid, "--json"]);
    let done = Process::start("pull", command).finish().good().json();
    assert_eq!(done["cid"], cid.as_str());
    for (name, bytes) in in_three() {
        assert!(std::fs::read(other.home().join("models/three").join(&name)).unwrap() == bytes, "{name}");
    }
    let told = models(&other, &["remove", "three"]).good();
    assert!(told.stdout.starts_with("three is removed, "), "{told:?}");
    assert_eq!(std::fs::read_dir(other.home().join("models")).unwrap().count(), 0);
}

/// Clients know a model that was pulled: the text of its tokens, and whether its answers were due; others are told what to do.
fn checked(site: &Site, operator: &Process, (answer, costs): (&Finished, &Path)) {
    let told: Value = serde_json::from_slice(&std::fs::read(costs).unwrap()).unwrap();
    let tokens = told["logprobs"]["content"].as_array().unwrap();
    assert!(!tokens.is_empty() && tokens.iter().all(|token| token["token"].is_string()), "{told}");
    assert!(!answer.stderr.contains("ids and no text"), "{answer:?}");
    operator.expect(&format!("epoch {} sealed", answer.json()["receipt"]["epoch"]));
    let archive = text(&site.home().join("pool.car"));
    let answers = |site: &Site, args: &[&str]| {
        let verified = site.client(&[&["verify", "--json", "--answers"], args].concat()).json();
        let checks = verified["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["check"] == "answers").unwrap()
    };
    let here = answers(site, &["--save", &archive]);
    assert_eq!(here["result"], "ok", "{here}");
    let elsewhere = answers(&Site::new(), &["--car", &archive]);
    let due = "the model three is not here: install it with swarm-node models pull (--name three), then run this again";
    assert!(
        elsewhere["detail"].as_str().unwrap().contains(due) && elsewhere["result"] == "open",
        "{elsewhere}"
    );
}

#[test]
fn files_that_are_no_whole_model_are_refused_in_one_line_and_leave_nothing() {
    let site = Site::new();
    let index = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut files = in_three();
        let (_, bytes) = files.iter_mut().find(|(name, _)| name == SHARD_INDEX).unwrap();
        let mut index: Value = serde_json::from_slice(bytes).unwrap();
        change(index["weight_map"].as_object_mut().unwrap());
        *bytes = serde_json::to_vec(&index).unwrap();
        files
    };
    let norm = "model.norm.weight";
    let without: Files = in_three().into_iter().filter(|(name, _)| name != SECOND).collect();
    let cases: [(Files, &str); 4] = [
        (without, "it has no model-00002-of-00003.safetensors, which its model.safetensors.index.json names"),
        (
            index(&|map| map[norm] = SECOND.into()),
            "says that the tensor model.norm.weight is in model-00002-of",
        ),
        (
            index(&|map| map[norm] = "../x.safetensors".into()),
            "names \"../x.safetensors\", which is no safetensors",
        ),
        (index(&|map| _ = map.remove(norm)), "does not name the tensor model.norm.weight of"),
    ];
    for (number, (files, told)) in cases.into_iter().enumerate() {
        let folder = site.home().join(format!("source-{number}"));
        write(&folder, &files);
        let hub = hub(&files, Fault::Nothing);
        for refused in [
            models(&site, &["pull", &text(&folder), "--name", "hive"]),
            start(&site, Some(&hub), &["pull", REPOSITORY]).finish(),
        ] {
            assert!(refused.code() == Some(1) && refused.stderr.contains(told), "{told}: {refused:?}");
            let error = refused.stderr.lines().filter(|line| line.contains(told)).count();
            assert!(error == 1 && refused.stderr.contains("\n  → "), "{refused:?}");
        }
    }
    let left: Vec<_> =
        std::fs::read_dir(site.home().join("models")).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
