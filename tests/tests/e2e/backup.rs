//! Copies of an operator, as docs/operations.md says to make and to use them, and what becomes of old ones.

use crate::harness::{Finished, Process, Site, eventually, job_of, short_id, short_job};
use serde_json::Value;
use std::path::Path;

const OPERATOR: [&str; 4] = ["--epoch", "3s", "--window", "0"];

/// Copies files, as `cp -a` does.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => _ = std::fs::copy(entry.path(), target).unwrap(),
        }
    }
}

fn replace(file: &str, from: &Path, to: &Path) {
    std::fs::copy(from.join(file), to.join(file)).unwrap();
}

fn identity(operator: &Process) -> String {
    operator.expect(" INFO operator 0x").split_once(" INFO ").unwrap().1.to_owned()
}

fn answered(site: &Site, prompt: &str) -> (String, u64) {
    let done = site.submit(&site.job(prompt, &short_job(prompt))).good().json();
    (done["job"].as_str().unwrap().to_owned(), done["receipt"]["epoch"].as_u64().unwrap())
}

fn status(site: &Site, job: &str) -> Finished {
    site.client(&["status", "--json", job])
}

/// What a check of a receipt came to, by what was checked.
fn checked(site: &Site, job: &str, what: &str) -> String {
    let done = site.client(&["verify", "--json", job]);
    let report: Value = serde_json::from_str(done.stdout.lines().next().unwrap()).unwrap();
    let row = report["checks"].as_array().unwrap().iter().find(|row| row["check"] == what).unwrap();
    row["result"].as_str().unwrap().to_owned()
}

fn starts(site: &Site) -> Process {
    site.operator(&OPERATOR)
}

#[test]
fn an_operator_goes_on_from_its_copy_on_another_machine() {
    let old = Site::new();
    let operator = starts(&old);
    let (before, miner) = (identity(&operator), old.miner("alice.eth", &[]));
    let (first, _) = answered(&old, "one");
    miner.terminate().good();
    let open = old.announce(&old.job("open", &job_of("two", 8)));
    operator.expect(&format!("new job {}", short_id(&open)));
    operator.terminate().good();

    let new = Site::new();
    copy(&old.home(), &new.home());
    let operator = starts(&new);
    assert_eq!(identity(&operator), before, "the wallet, the pool");
    let miner = new.miner("alice.eth", &[]);
    new.client(&["wait", &open]).good();
    eventually("the receipt from before the move is in a sealed epoch", || {
        (checked(&new, &first, "epoch") == "ok").then_some(())
    });
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn an_old_ledger_beside_the_newest_mark_is_refused_until_what_is_missing_is_back() {
    let site = Site::new();
    let folder = site.data("operator");
    let [old, new] = ["old", "new"].map(|name| site.home().parent().unwrap().join(name));
    starts(&site).terminate().good();
    copy(&folder, &old);
    let (operator, miner) = (starts(&site), site.miner("alice.eth", &[]));
    let (job, _) = answered(&site, "one");
    miner.terminate().good();
    operator.terminate().good();
    copy(&folder, &new);

    replace("ledger.redb", &old, &folder);
    let refused = site.operator_with(&OPERATOR, &[("SWARMPOOL_LOG", "warn")]).finish();
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("are missing and must be copied back"), "{refused:?}");
    replace("ledger.redb", &new, &folder);
    let operator = starts(&site);
    assert_eq!(status(&site, &job).good().json()["status"], "answered");
    operator.terminate().good();
}

#[test]
fn an_old_copy_of_everything_is_not_noticed_by_the_operator_but_its_receipts_are_evidence() {
    let site = Site::new();
    let folder = site.data("operator");
    let old = site.home().parent().unwrap().join("old");
    starts(&site).terminate().good();
    copy(&folder, &old);
    let (operator, miner) = (starts(&site), site.miner("alice.eth", &[]));
    let (job, epoch) = answered(&site, "one");
    operator.expect(&format!("epoch {epoch} sealed"));
    assert_eq!(checked(&site, &job, "epoch"), "ok");
    operator.terminate().good();

    std::fs::remove_dir_all(&folder).unwrap();
    copy(&old, &folder);
    let operator = starts(&site);
    assert_eq!(status(&site, &job).code(), Some(1), "the job is forgotten");
    operator.expect(&format!("epoch {epoch} sealed"));
    assert_eq!(checked(&site, &job, "signature"), "ok", "and yet the receipt is signed");
    assert_eq!(checked(&site, &job, "epoch"), "false");
    let verdict = site.client(&["verify", &job]);
    assert!(verdict.code() == Some(1) && verdict.stderr.contains("it is evidence"), "{verdict:?}");
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn an_operator_without_its_content_still_knows_what_it_owes() {
    let site = Site::new();
    let (operator, miner) = (starts(&site), site.miner("alice.eth", &[]));
    let (job, _) = answered(&site, "one");
    let free = || site.client(&["status", "--json"]).good().json()["free_usdc"].clone();
    let before = free();
    assert_eq!(before, "99.90");
    miner.terminate().good();
    operator.terminate().good();
    std::fs::remove_file(site.data("operator").join("blocks.redb")).unwrap();
    let (operator, miner) = (starts(&site), site.miner("alice.eth", &[]));
    assert_eq!(free(), before);
    assert_eq!(status(&site, &job).good().json()["status"], "answered");
    answered(&site, "two");
    miner.terminate().good();
    operator.terminate().good();
}

fn backed_up(site: &Site, folder: &Path) -> Finished {
    let mut command = site.command("swarm-node");
    command.args(["backup", folder.to_str().unwrap()]);
    Process::start("backup", command).finish()
}

#[test]
fn a_running_operator_is_copied_and_a_copy_that_broke_off_is_none() {
    let site = Site::new();
    let copies = tempfile::tempdir().unwrap();
    let folder = copies.path().join("copy");
    // Three times it dies while it makes one: there is none, and the operator goes on.
    for _ in 0..3 {
        let operator = site.operator_with(&OPERATOR, &[("SWARMPOOL_CRASH_AT", "mid-backup")]);
        operator.expect("listening on");
        let broken = backed_up(&site, &folder);
        assert_eq!(broken.code(), Some(2), "{broken:?}");
        assert!(!folder.exists());
        operator.finish();
    }
    let (operator, miner) = (starts(&site), site.miner("alice.eth", &[]));
    let (first, epoch) = answered(&site, "one");
    operator.expect(&format!("epoch {epoch} sealed"));
    // Jobs flow while it is made.
    let done = std::thread::scope(|scope| {
        let jobs = scope.spawn(|| (0..6).map(|n| answered(&site, &format!("job {n}")).0).collect::<Vec<_>>());
        let made = backed_up(&site, &folder).good();
        assert!(made.stderr.contains("records"), "{made:?}");
        jobs.join().unwrap()
    });
    let again = backed_up(&site, &folder);
    assert_eq!(again.code(), Some(1), "{again:?}");
    miner.terminate().good();
    operator.kill();

    // The machine is lost; the copy goes on from its moment.
    let data = site.data("operator");
    std::fs::remove_dir_all(&data).unwrap();
    copy(&folder, &data);
    std::fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (operator, miner) = (starts(&site), site.miner("alice.eth", &[]));
    assert_eq!(status(&site, &first).good().json()["status"], "answered");
    let (last, epoch) = answered(&site, "after");
    operator.expect(&format!("epoch {epoch} sealed"));
    assert_eq!(checked(&site, &last, "epoch"), "ok");
    site.client(&["verify"]).good();
    let known = done.iter().filter(|job| status(&site, job).code() == Some(0)).count();
    println!("{known} of {} jobs that ran meanwhile are in the copy", done.len());
    miner.terminate().good();
    operator.terminate().good();

    let gone = backed_up(&site, &copies.path().join("other"));
    assert!(gone.code() == Some(2) && gone.stderr.contains("no operator"), "{gone:?}");
}
