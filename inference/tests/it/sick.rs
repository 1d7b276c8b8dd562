//! A device whose engine is up and fails whatever it is given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use swarm_inference::{
    BenchRequest, CancelToken, Candle, DType, Engine, EngineConfig, EngineError, Flow, Isolated,
    PIPE_VERSION, Program, Provider, matmul,
};

const ENGINE: &str = env!("CARGO_BIN_EXE_swarm-engine");

/// Answers orders of the pipe: loads, is alive, and ends each task for this reason. Ids of tasks are below 8 here.
const SICK: &str = r#"
say() { length=$(printf "$1" | wc -c); printf '\000\000\000'"$(printf '\\%o' "$length")$1"; }
say '\241\145Hello\242\144pipe\VERSION\147program\144sick'
while :; do
    set -- $(head -c 4 | od -An -tu1)
    [ $# = 4 ] || exit 0
    order=$(head -c $(($3 * 256 + $4)) | od -An -v -c | tr -d ' \n')
    case $order in
        *Load*) say '\241\146Loaded\241\154weight_bytes\001' ;;
        *Ping*) say '\144Pong' ;;
        *Begin*) say '\241\145Ended\243\142id\'"$id"'\143why\144dust\150at_fault\FAULT'; id=$((id + 1)) ;;
    esac
done
"#;

fn program(folder: &Path, name: &str, script: &str) -> Program {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Program { device_name: name.to_owned(), ..Program::at(path) }
}

/// A device that refuses or fails everything, and one that is well.
fn two_devices(folder: &Path, at_fault: bool) -> Isolated {
    let fault = if at_fault { "365" } else { "364" };
    let sick = SICK.replace("VERSION", &format!("{PIPE_VERSION:03o}")).replace("FAULT", fault);
    let sick = program(folder, "sick", &format!("id=0\n{sick}"));
    let well = program(folder, "well", &format!("exec '{ENGINE}'\n"));
    Isolated::new(Arc::new(Candle::default()), vec![sick, well], |_, _, _| {})
}

/// What jobs came to, one after the other, and how many each device was given.
fn run(provider: &Isolated, jobs: usize) -> (Vec<bool>, Vec<u64>) {
    let mut engine = provider.start(&EngineConfig { model: matmul(), max_memory_bytes: None }).unwrap();
    let came_to = (0..jobs).map(|_| succeeds(engine.as_mut())).collect();
    (came_to, provider.devices().iter().map(|device| device.begun).collect())
}

fn succeeds(engine: &mut dyn Engine) -> bool {
    let (seed, deadline, max_memory_bytes) = ([7; 32], None, None);
    let request =
        BenchRequest { dtype: DType::F32, m: 4, n: 4, k: 4, repeats: 1, seed, deadline, max_memory_bytes };
    match engine.benchmark(&request, &CancelToken::new(), &mut |_| Flow::Continue) {
        Ok(()) => true,
        Err(EngineError::Process(why)) if why == "sick: dust" => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_that_fails_everything_costs_one_job_and_not_all() {
    let folder = tempfile::tempdir().unwrap();
    let provider = two_devices(folder.path(), true);
    assert_eq!(run(&provider, 3), (vec![false, true, true], vec![1, 2]));
    assert_eq!(provider.stats().restarts, 0, "its process was up all along");
}

#[test]
fn a_device_that_refuses_what_it_was_asked_for_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (came_to, begun) = run(&two_devices(folder.path(), false), 4);
    assert_eq!((came_to, begun), (vec![false, true, false, true], vec![2, 2]));
}
