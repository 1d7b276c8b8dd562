//! Reading an answer along: it comes while it is made, straight from the miner, and is what was proven in the end.

use crate::harness::{Process, Site, job_of, short_id, text};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TOKENS: u32 = 256;
const TOKEN: Duration = Duration::from_millis(12);

/// What a command prints, and when, since it was started.
fn printed(mut command: Command) -> Vec<(Duration, Vec<u8>)> {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut pieces) = (child.stdout.take().unwrap(), Vec::new());
    let mut buffer = [0; 4096];
    loop {
        match out.read(&mut buffer).unwrap() {
            0 => break,
            bytes => pieces.push((begun.elapsed(), buffer[..bytes].to_vec())),
        }
    }
    assert!(child.wait().unwrap().success());
    pieces
}

fn streaming(site: &Site, job: &str) -> Command {
    let mut command = site.command("swarm-client");
    command.args(["submit", "--stream", "--quiet", job]);
    command
}

#[test]
fn an_answer_is_printed_while_it_is_made() {
    let site = Site::new();
    let operator = site.operator(&[]);
    let miner = site.slow_miner("alice.eth", TOKEN, &[]);
    let job = text(&site.job("long", &job_of("The carriage", TOKENS)));
    let pieces = printed(streaming(&site, &job));
    let (first, last) = (pieces[0].0, pieces[pieces.len() - 1].0);
    assert!(pieces.len() > 20, "{} pieces", pieces.len());
    let share = first.as_secs_f64() / last.as_secs_f64();
    println!("the first of {} pieces after {share:.2} of the time", pieces.len());
    let whole: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();

    let id = miner.lines_with("executing")[0].rsplit(' ').next().unwrap().to_owned();
    let kept = site.client(&["status", "--json"]).good().json();
    let job = kept["jobs"].as_array().unwrap().iter().find_map(|job| {
        let name = job["job"].as_str()?;
        (short_id(name) == id).then(|| name.to_owned())
    });
    let answer = site.client(&["wait", "--json", &job.unwrap()]).good().json();
    assert_eq!(String::from_utf8(whole).unwrap().trim_end(), answer["answer"].as_str().unwrap().trim_end());
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn a_reader_begins_anew_with_the_next_miner_and_ends_with_the_proven_answer() {
    let site = Site::new();
    let operator = site.operator(&["--first-progress", "2s", "--progress", "2s"]);
    let mut miners: Vec<(&str, Process)> =
        ["alice.eth", "bob.eth"].map(|name| (name, site.slow_miner(name, TOKEN, &[]))).into();
    let job = text(&site.job("long", &job_of("The carriage", TOKENS)));
    let client = site.start_client(&["submit", "--stream", &job]);
    let line = operator.expect("leased to");
    let holder = miners.iter().position(|(name, _)| line.contains(name)).unwrap();
    let (_, first) = miners.remove(holder);
    client.expect("running at");
    first.kill();
    client.expect("another begins anew");
    let done = client.finish().good();
    let (before, answer) = done.stdout.trim_end().rsplit_once('\n').unwrap();
    assert!(!before.is_empty() && answer.len() > 100, "{done:?}");
    for (_, miner) in miners {
        miner.terminate().good();
    }
    operator.terminate().good();
}

#[test]
fn json_and_parts_do_not_go_together() {
    let site = Site::new();
    let job = text(&site.job("job", &job_of("The carriage", 4)));
    let told = site.client(&["submit", "--stream", "--json", &job]);
    assert_eq!(told.code(), Some(2), "{told:?}");
    assert!(told.stderr.contains("leave out one of them"), "{told:?}");
}
