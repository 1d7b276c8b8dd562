//! A miner with several devices: jobs on all of them, and one that fails takes only its own with it.

use crate::harness::{Process, Site, binary, eventually, job_of, text};
use crate::metrics::{listener, samples, scrape};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const JOBS: usize = 8;
/// Long enough that four jobs meet.
const TOKEN: (&str, &str) = ("SWARMPOOL_TOKEN_PAUSE_MS", "100");
const TOKENS: u32 = 40;
/// A pool that trusts everybody from the second epoch on: only then may a miner hold several leases.
const POOL: [&str; 10] =
    ["--epoch", "6s", "--heartbeat", "1s", "--established", "0", "--cooldown", "1s", "--max-cooldown", "2s"];
/// Two GPUs, as NVIDIA's program tells of them.
const TWO: &str =
    "0, GPU-a, 143771, 143162, 580.65.06, NVIDIA H200\\n1, GPU-b, 81559, 70000, 580.65.06, NVIDIA H100";

fn script(path: &Path, lines: &str) -> PathBuf {
    std::fs::write(path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// An engine that writes down which of its processes is on which device, as far as those have been told.
fn listed_engine(site: &Site) -> PathBuf {
    let engine = binary("swarm-engine");
    let note = format!("[ -n \"$1\" ] || echo $$ >> '{}'", site.home().join("engines").display());
    script(&site.home().join("engine"), &format!("{note}\nexec '{}' \"$@\"", engine.display()))
}

fn engines(site: &Site) -> Vec<Pid> {
    let listed = std::fs::read_to_string(site.home().join("engines")).unwrap();
    listed.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
}

/// A miner that is slow enough to be watched, once it may hold several leases.
fn miner(site: &Site, operator: &Process, ens: &str, args: &[&str], variables: &[(&str, &str)]) -> Process {
    let mut command = site.command("swarm-node");
    command.env(TOKEN.0, TOKEN.1).envs(variables.iter().copied());
    command.args(["--role", "miner", "--ens", ens, "--metrics", "0"]).args(args);
    let miner = Process::start(ens, command);
    miner.expect("joined swarmpool.eth");
    let mark = operator.mark();
    operator.expect_after(mark, "sealed");
    miner
}

fn row(site: &Site, name: &str) -> Value {
    let told = site.client(&["status", "--json"]).good().json();
    let all = told["miners"].as_array().unwrap().clone();
    all.into_iter().find(|miner| miner["name"] == name).unwrap_or_else(|| panic!("no {name}: {told}"))
}

#[test]
fn two_devices_run_four_jobs_at_once_and_one_that_dies_takes_only_its_own_with_it() {
    let site = Site::new();
    let operator = site.operator(&POOL);
    let engine = text(&listed_engine(&site));
    let args = ["--slots", "2", "--devices", "cpu,cpu", "--engine", &engine];
    let alice = miner(&site, &operator, "alice.eth", &args, &[]);
    alice.expect("on cpu 0, cpu 1");
    let offered = row(&site, "alice.eth");
    assert_eq!((&offered["slots"], &offered["device"]), (&4.into(), &"2 cpu".into()), "{offered}");

    let job = text(&site.job("job", &job_of("The carriage", TOKENS)));
    let submitted: Vec<_> = (0..JOBS).map(|_| site.start_client(&["submit", "--json", &job])).collect();
    let shown = listener(&alice);
    let on = |device: &str| format!("swarmpool_miner_device_running{{device=\"{device}\"}}");
    let busy = |samples: &BTreeMap<String, f64>| [on("cpu 0"), on("cpu 1")].map(|one| samples[&one]);
    eventually("two jobs on each device", || {
        let samples = samples(&scrape(shown));
        (busy(&samples) == [2.0, 2.0] && samples["swarmpool_miner_engines"] == 4.0).then_some(())
    });
    // The model of text comes last, on both devices at once.
    let started = engines(&site);
    let victim = started[started.len() - 1];
    let mark = alice.mark();
    kill_process(victim, Signal::KILL).unwrap();
    let (_, told) = alice.expect_after(mark, "the engine of queenbee-nano on cpu ");
    assert!(told.contains("it was ended by signal 9"), "{told}");
    let dead = if told.contains("on cpu 0 ") { "cpu 0" } else { "cpu 1" };
    let victims = format!("{dead}: it was ended by signal 9");
    eventually("both of its jobs end", || (alice.lines_with(&victims).len() == 2).then_some(()));
    // A job that it let go is another miner's.
    let bob = miner(&site, &operator, "bob.eth", &[], &[]);
    let answers: Vec<Value> = submitted
        .into_iter()
        .map(|client| client.patiently(Duration::from_secs(180)).finish().good().json())
        .collect();
    let jobs: BTreeSet<_> = answers.iter().map(|answer| answer["job"].to_string()).collect();
    assert_eq!(jobs.len(), JOBS, "{answers:?}");
    let after = eventually("both devices are up and at rest", || {
        let samples = samples(&scrape(shown));
        let up = |device| samples[&format!("swarmpool_miner_device_up{{device=\"{device}\"}}")];
        (busy(&samples) == [0.0, 0.0] && [up("cpu 0"), up("cpu 1")] == [1.0, 1.0]).then_some(samples)
    });
    assert_eq!(after["swarmpool_miner_engines_gone_total"], 1.0);
    assert_eq!(after["swarmpool_miner_jobs_total{outcome=\"released\"}"], 2.0, "the others were not touched");
    assert_eq!(after["swarmpool_miner_engines"], 4.0);
    let begun = ["cpu 0", "cpu 1"]
        .map(|device| after[&format!("swarmpool_miner_device_begun_total{{device=\"{device}\"}}")]);
    assert!(begun.iter().all(|begun| *begun >= 2.0), "{begun:?}");
    for node in [alice, bob, operator] {
        node.terminate().good();
    }
}

#[test]
fn all_gpus_are_used_and_the_smallest_of_them_is_what_is_offered() {
    let site = Site::new();
    let operator = site.operator(&POOL);
    let tools = site.home().join("tools");
    std::fs::create_dir(&tools).unwrap();
    script(&tools.join("nvidia-smi"), &format!("case \"$*\" in *-lms*) exit 1;; esac\nprintf '{TWO}\\n'"));
    // It says that it computes on a GPU, and does on the processor.
    let says = format!(
        "[ \"$1\" != --device ] || exec echo cuda\nexec '{}' \"$@\"",
        binary("swarm-engine").display()
    );
    let engine = text(&script(&tools.join("engine"), &says));
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let variables = [("PATH", path.as_str())];

    let miner = miner(&site, &operator, "alice.eth", &["--engine", &engine], &variables);
    miner.expect("on gpu 0 (NVIDIA H200), gpu 1 (NVIDIA H100)");
    let offered = row(&site, "alice.eth");
    assert_eq!((&offered["vram_mb"], &offered["device"]), (&81_559.into(), &"2 cuda".into()), "{offered}");
    assert_eq!(offered["slots"], 2, "{offered}");

    let doctor = |args: &[&str]| {
        let mut command = site.command("swarm-node");
        command.envs(variables).args(["doctor", "--json", "--engine", &engine]).args(args);
        let told = Process::start("doctor", command).finish().json();
        let found = |name: &str| {
            let all = told["checks"].as_array().unwrap().clone();
            let row = all.into_iter().find(|check| check["check"] == name);
            row.map(|check| {
                format!("{} {}", check["state"].as_str().unwrap(), check["found"].as_str().unwrap())
            })
        };
        ["gpu 0", "gpu 1", "gpu"].map(found)
    };
    let used = "ok NVIDIA H200, 140.4 GiB, 139.8 GiB free, driver 580.65.06; models run on it";
    let other = "NVIDIA H100, 79.6 GiB, 68.3 GiB free, driver 580.65.06";
    assert_eq!(doctor(&[]), [Some(used.to_owned()), Some(format!("ok {other}; models run on it")), None]);
    let not = format!("none {other}; not used: see --devices, --accel-mode and --engine");
    assert_eq!(doctor(&["--devices", "0"]), [Some(used.to_owned()), Some(not), None]);
    miner.terminate().good();
    operator.terminate().good();
}
