//! A server that the provider starts, starts again and stops, with all that it started itself.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use swarm_inference::testing::Scripted;
use swarm_inference::{EngineError, Greedy, OpenAi, Provider, ServerAt, ServerConfig, ServerError};

use super::loopback::Loopback;
use super::wire::{Form, complete};
use super::{MODEL, TIMES, config, request, run, start};

const ADDRESS: &str = "SWARM_TEST_SERVER_ADDRESS";
const FOLDER: &str = "SWARM_TEST_SERVER_FOLDER";
const HABIT: &str = "SWARM_TEST_SERVER_HABIT";

const NODE: &str = "SWARM_TEST_NODE_FOLDER";

/// Not a test but the server itself, where this program is started as one.
#[test]
fn as_a_server() {
    let (Ok(address), Ok(folder)) = (std::env::var(ADDRESS), std::env::var(FOLDER)) else {
        return println!("the other tests start this one as a server");
    };
    let habit = std::env::var(HABIT).unwrap();
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let folder = PathBuf::from(folder);
    fs::write(folder.join("child"), child.id().to_string()).unwrap();
    fs::write(folder.join("server"), std::process::id().to_string()).unwrap();
    if habit == "fails" {
        eprintln!("error: no such model");
        std::process::exit(3);
    }
    let _server = (habit == "serves").then(|| serve(&address, folder));
    child.wait().unwrap();
}

/// Not a test but a node that starts the server, where this program is started as one.
#[test]
fn as_a_node() {
    let Ok(folder) = std::env::var(NODE) else {
        return println!("another test starts this one as a node");
    };
    let folder = PathBuf::from(folder);
    let provider = provider(command(&free_address(), &folder, "serves"));
    let _engine = start(&provider);
    fs::write(folder.join("ready"), "").unwrap();
    loop {
        std::thread::park();
    }
}

fn serve(address: &str, folder: PathBuf) -> Loopback {
    let answers = Arc::new(move |body: &_, stream: &mut _| {
        if fs::remove_file(folder.join("die")).is_ok() {
            eprintln!("out of memory");
            std::process::exit(9);
        }
        complete(&mut Scripted::letters(MODEL), &mut Greedy, Form::Numbered, body, stream)
    });
    Loopback::listen(TcpListener::bind(address).unwrap(), answers)
}

pub fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn command(address: &str, folder: &Path, habit: &str) -> ServerAt {
    let program = std::env::current_exe().unwrap();
    let words = [
        "env".to_owned(),
        format!("{ADDRESS}={address}"),
        format!("{FOLDER}={}", folder.display()),
        format!("{HABIT}={habit}"),
        program.display().to_string(),
        "--exact".to_owned(),
        "openai::process::as_a_server".to_owned(),
        "--nocapture".to_owned(),
    ];
    ServerAt::Command { command: words.into(), url: format!("http://{address}") }
}

fn provider(at: ServerAt) -> OpenAi {
    OpenAi::new(ServerConfig { max_log_probabilities: 256, times: TIMES, ..ServerConfig::new(at, MODEL) })
}

fn lives(folder: &Path, who: &str) -> bool {
    let id = fs::read_to_string(folder.join(who)).unwrap();
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // A zombie waits for whoever inherited it.
    !matches!(stat.rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z'))
}

fn all_gone(folder: &Path) {
    let until = Instant::now() + Duration::from_secs(2);
    while ["server", "child"].iter().any(|who| lives(folder, who)) {
        assert!(Instant::now() < until, "something still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_command_is_started_shared_started_again_and_stopped_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let at = command(&free_address(), folder.path(), "serves");
    let provider = provider(at);
    assert!(!provider.is_running() && provider.endpoint().is_none());
    let (mut one, mut two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| start(&provider));
        (start(&provider), other.join().unwrap())
    });
    assert!(provider.is_running() && provider.endpoint().is_some());
    let first = fs::read_to_string(folder.path().join("server")).unwrap();
    assert!(lives(folder.path(), "server") && lives(folder.path(), "child"));
    for engine in [&mut one, &mut two] {
        assert_eq!(run(engine.as_mut(), &request(5)).unwrap().1.len(), 5);
    }
    assert_eq!(fs::read_to_string(folder.path().join("server")).unwrap(), first, "one server for all");

    fs::write(folder.path().join("die"), "").unwrap();
    let error = run(one.as_mut(), &request(5)).unwrap_err();
    assert!(matches!(error, EngineError::Server(_)), "{error}");
    let until = Instant::now() + Duration::from_secs(10);
    let again = loop {
        match run(two.as_mut(), &request(5)) {
            Ok((_, steps)) => break steps.len(),
            Err(error) => assert!(matches!(error, EngineError::Server(_)), "{error}"),
        }
        assert!(Instant::now() < until, "it was not started again");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(again, 5);
    assert_ne!(fs::read_to_string(folder.path().join("server")).unwrap(), first);

    provider.stop();
    all_gone(folder.path());
    assert!(matches!(run(one.as_mut(), &request(1)), Err(EngineError::Cancelled)));
    let after = start(&provider);
    drop(after);
    all_gone(folder.path());
}

#[test]
fn a_node_that_is_killed_takes_its_server_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "openai::process::as_a_node", "--nocapture"])
        .env(NODE, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while !folder.path().join("ready").exists() {
        assert!(Instant::now() < until && node.try_wait().unwrap().is_none(), "it does not start its server");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(lives(folder.path(), "server") && lives(folder.path(), "child"));
    node.kill().unwrap();
    node.wait().unwrap();
    all_gone(folder.path());
}

#[test]
fn the_last_engine_takes_the_server_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let provider = provider(command(&free_address(), folder.path(), "serves"));
    let (one, two) = (start(&provider), start(&provider));
    drop(one);
    assert!(lives(folder.path(), "server"));
    drop(two);
    all_gone(folder.path());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let nowhere = vec!["/nowhere/vllm".to_owned()];
    let cases = [
        (
            ServerAt::Command { command: nowhere, url: "http://127.0.0.1:9".into() },
            "cannot be started: No such file",
        ),
        (
            ServerAt::Command { command: vec![], url: "http://127.0.0.1:9".into() },
            "command that starts the server is empty",
        ),
    ];
    for (at, reason) in cases {
        let error = provider(at).start(&config()).err().unwrap();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let failing = provider(command(&free_address(), folder.path(), "fails"));
    let error = failing.start(&config()).err().unwrap();
    assert!(error.to_string().contains("process has ended"), "{error}");
    assert!(error.to_string().ends_with("error: no such model"), "{error}");
    all_gone(folder.path());
}

#[test]
fn a_server_that_never_answers_is_stopped_when_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let times = swarm_inference::ServerTimes { ready: Duration::from_millis(1500), ..TIMES };
    let hanging = OpenAi::new(ServerConfig {
        times,
        ..ServerConfig::new(command(&free_address(), folder.path(), "hangs"), MODEL)
    });
    let begun = Instant::now();
    let error = hanging.start(&config()).err().unwrap();
    assert!(matches!(error, EngineError::Server(ServerError::NotReady { .. })), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(6));
    all_gone(folder.path());
}

#[test]
fn an_address_that_answers_already_is_not_taken_for_the_command() {
    let stranger = Loopback::start(Arc::new(|_: &_, _: &mut _| Ok(())));
    let folder = tempfile::tempdir().unwrap();
    let address = stranger.url().replace("http://", "");
    let error = provider(command(&address, folder.path(), "serves")).start(&config()).err().unwrap();
    assert!(error.to_string().starts_with("something answers at http://127.0.0.1:"), "{error}");
    assert!(!folder.path().join("server").exists());
}
