//! Miners that die, come late or are busy: jobs find another way.

use crate::harness::{Finished, Process, Site, job_of, short_id, short_job, text};
use crate::reference;
use std::time::Duration;

/// The miner that the operator says holds the job, by its place.
fn holder(operator: &Process, miners: &[(&str, Process)], job: &str) -> usize {
    let line = operator.expect(&format!("job {} leased to", short_id(job)));
    miners.iter().position(|(name, _)| line.contains(name)).unwrap_or_else(|| panic!("who is it? {line}"))
}

fn two_miners(site: &Site, token: Duration) -> Vec<(&'static str, Process)> {
    ["alice.eth", "bob.eth"].map(|name| (name, site.slow_miner(name, token, &[]))).into()
}

#[test]
fn the_answer_outlives_the_miner() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "5s"]);
    let mut miners = two_miners(&site, Duration::ZERO);
    let id = site.announce(&site.job("job", &short_job("The carriage")));

    let winner = holder(&operator, &miners, &id);
    operator.expect(&format!("proof of {}", short_id(&id)));
    miners.remove(winner).1.kill();
    let answer = site.client(&["wait", "--json", &id]).good().json();
    assert_eq!(answer["status"], "answered");

    operator.expect(&format!("epoch {} sealed", answer["receipt"]["epoch"]));
    operator.terminate().good();
    let reading = reference::read(&site);
    reading.hold(&[answer]);
    assert_eq!(reading.jobs.len(), 1);
}

#[test]
fn a_killed_miners_job_is_anothers() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "5s", "--first-progress", "2s", "--progress", "2s"]);
    let mut miners = two_miners(&site, Duration::from_millis(50));
    let id = site.announce(&site.job("long", &job_of("The carriage", 80)));

    let winner = holder(&operator, &miners, &id);
    let (name, first) = miners.remove(winner);
    first.expect("executing");
    first.kill();
    let waiting = site.start_client(&["wait", "--json", &id]);
    operator.expect(&format!("lease on {}", short_id(&id)));
    let (other, second) = miners.remove(0);
    second.expect(&format!("{} is mine", short_id(&id)));
    let answer = waiting.finish().good().json();
    assert_eq!(answer["status"], "answered");
    assert_ne!(name, other);

    operator.expect(&format!("epoch {} sealed", answer["receipt"]["epoch"]));
    second.terminate().good();
    operator.terminate().good();
    let reading = reference::read(&site);
    reading.hold(&[answer]);
    assert_eq!(reading.jobs.values().map(|job| job.terms).collect::<Vec<_>>(), [2]);
}

#[test]
fn late_and_busy_miners_get_what_was_announced() {
    const JOBS: usize = 4;
    let site = Site::new();
    let operator = site.operator(&[]);
    let job = site.job("job", &job_of("The carriage", 60));
    let waiting = site.start_client(&["submit", "--json", &text(&job)]);
    waiting.expect("no live miner serves queenbee-nano");
    let ids: Vec<String> = (1..JOBS).map(|_| site.announce(&job)).collect();

    // It was not there for any of the announcements, and is busy with one job while the others wait.
    let miner = site.slow_miner("late.eth", Duration::from_millis(20), &["--slots", "1"]);
    assert_eq!(waiting.finish().good().json()["status"], "answered");
    for id in ids {
        assert_eq!(site.client(&["wait", "--json", &id]).good().json()["status"], "answered");
    }
    assert_eq!(miner.lines_with("is mine").len(), JOBS);
    miner.terminate().good();
    operator.terminate().good();
    assert_eq!(reference::read(&site).open_jobs(), 0);
}

fn order(site: &Site, args: &[&str]) -> Finished {
    let mut command = site.command("swarm-node");
    command.args(args);
    Process::start("order", command).finish()
}

#[test]
fn a_miner_takes_no_job_outside_its_hours() {
    let site = Site::new();
    let operator = site.operator(&[]);
    // A stretch that neither now nor the next minutes are in.
    let hour = |later: i64| jiff::ZonedDateTime::now().hour().rem_euclid(24) as i64 + later;
    let hours = format!("{:02}:00-{:02}:00", hour(8) % 24, hour(9) % 24);
    let miner = site.miner("alice.eth", &["--hours", &hours]);
    miner.expect("outside its hours: no new jobs, 0 still running");
    let id = site.announce(&site.job("waiting", &short_job("Waiting")));
    let told = order(&site, &["resume"]).good();
    assert!(told.stderr.contains("takes jobs again once its --hours begin"), "{told:?}");
    let status = order(&site, &["status"]).good();
    assert!(status.stdout.contains("PAUSED    until its --hours begin"), "{status:?}");
    let whole = site.miner("bob.eth", &["--hours", "00:00-12:00,12:00-24:00"]);
    whole.expect("claim accepted");
    assert_eq!(site.client(&["wait", "--json", &id]).good().json()["status"], "answered");
    let wrong = order(&site, &["--role", "miner", "--hours", "22-6"]);
    assert_eq!(wrong.code(), Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("22:00-06:30"), "{wrong:?}");
    for process in [miner, whole, operator] {
        process.terminate().good();
    }
}

#[test]
fn a_paused_miner_leaves_jobs_to_others_until_it_is_resumed() {
    let site = Site::new();
    let told = order(&site, &["pause"]);
    assert_eq!(told.code(), Some(1), "{told:?}");
    assert!(told.stderr.contains("no miner of swarmpool.eth runs here"), "{told:?}");
    let operator = site.operator(&[]);
    let miners = two_miners(&site, Duration::ZERO);
    let answers = |n: usize, prompt: &str| {
        let id = site.announce(&site.job(prompt, &short_job(prompt)));
        assert_eq!(holder(&operator, &miners, &id), n, "{prompt}");
        assert_eq!(site.client(&["wait", "--json", &id]).good().json()["status"], "answered");
    };
    order(&site, &["pause", "--name", "alice.eth"]).good();
    miners[0].1.expect("paused: no new jobs, 0 still running");
    ["It is", "She was", "The carriage"].into_iter().for_each(|prompt| answers(1, prompt));
    let status = order(&site, &["status", "--json"]).good().json();
    let paused = status["nodes"].as_array().unwrap().iter().filter(|node| node["view"]["paused"] == true);
    assert_eq!(paused.map(|node| node["node"].clone()).collect::<Vec<_>>(), ["miner-alice.eth"]);

    let told = order(&site, &["explain", "--json"]).good().json();
    let jobs = |name: &str| {
        let miners = told["miners"].as_array().unwrap();
        let miner = miners.iter().find(|miner| miner["node"] == name).unwrap();
        miner["jobs"].as_array().unwrap().iter().map(|job| job["outcome"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(jobs("miner-bob.eth"), ["earned", "earned", "earned"], "{told}");
    let bobs =
        told["miners"].as_array().unwrap().iter().find(|miner| miner["node"] == "miner-bob.eth").unwrap();
    for job in bobs["jobs"].as_array().unwrap() {
        assert!(job["pace"]["tokens"].as_u64() >= Some(1), "{job}");
        assert!(job["pace"]["tokens_per_s"].as_f64() > Some(0.0), "{job}");
    }
    assert!(jobs("miner-alice.eth").is_empty(), "{told}");
    assert_eq!(told["miners"][0]["pays"][1]["model"], "queenbee-nano", "{told}");

    let both = order(&site, &["pause"]).good();
    assert_eq!(both.stderr.matches("takes no more jobs").count(), 2, "{both:?}");
    miners[1].1.expect("paused");
    let id = site.announce(&site.job("waiting", &short_job("Waiting")));
    order(&site, &["resume", "--name", "alice.eth"]).good();
    assert_eq!(holder(&operator, &miners, &id), 0);
    assert_eq!(site.client(&["wait", "--json", &id]).good().json()["status"], "answered");
    for (_, miner) in miners {
        miner.terminate().good();
    }
}
