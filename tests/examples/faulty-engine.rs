//! `swarm-engine` with a fault: stands between a node and the real engine, and after some frames something happens.
//!
//! `FAULTY_ENGINE_LOG` names a file to which it writes what it is about to do; `FAULTY_ENGINE_FRAMES` how many frames it
//! lets through at most.

use std::fs::OpenOptions;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write, copy, stdin, stdout};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

/// The first two frames say that the engine is there; before them nothing happens.
const SOUND_FRAMES: u64 = 3;
const FAULTS: [(&str, Fault); 6] = [
    ("kill", kill),
    ("stop", stop),
    ("exit", exit),
    ("garbage", garbage),
    ("half", half),
    ("memory", memory),
];

type Fault = fn(&[u8]) -> Result<()>;

fn main() -> Result<()> {
    let frames: u64 = std::env::var("FAULTY_ENGINE_FRAMES")?.parse()?;
    let until = SOUND_FRAMES + random() % frames;
    let mut engine = start()?;
    let mut orders = engine.stdin.take().context("a pipe")?;
    let mut reports = engine.stdout.take().context("a pipe")?;
    std::thread::spawn(move || copy(&mut stdin().lock(), &mut orders));
    for _ in 0..until {
        let Some(frame) = read(&mut reports)? else { return end(engine) };
        say(&frame)?;
    }
    let Some(frame) = read(&mut reports)? else { return end(engine) };
    let (name, fault) = FAULTS[usize::try_from(random())? % FAULTS.len()];
    let mut log = OpenOptions::new().create(true).append(true).open(std::env::var("FAULTY_ENGINE_LOG")?)?;
    writeln!(log, "{name}")?;
    fault(&frame)?;
    loop {
        std::thread::park();
    }
}

fn start() -> Result<Child> {
    let this = std::env::current_exe()?;
    let programs = this.parent().and_then(Path::parent).context("a folder of programs")?;
    let program = programs.join("swarm-engine");
    Ok(Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

fn end(mut engine: Child) -> Result<()> {
    engine.wait()?;
    Ok(())
}

fn random() -> u64 {
    RandomState::new().hash_one(getpid()) >> 1
}

fn read(reports: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if reports.read(&mut length)? == 0 {
        return Ok(None);
    }
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    reports.read_exact(&mut body)?;
    Ok(Some([&length, body.as_slice()].concat()))
}

fn say(bytes: &[u8]) -> Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

fn kill(_: &[u8]) -> Result<()> {
    Ok(kill_process(getpid(), Signal::KILL)?)
}

fn stop(_: &[u8]) -> Result<()> {
    Ok(kill_process(getpid(), Signal::STOP)?)
}

fn exit(_: &[u8]) -> Result<()> {
    eprintln!("the driver is gone");
    std::process::exit(3);
}

fn garbage(_: &[u8]) -> Result<()> {
    let noise: Vec<u8> = (0..16).flat_map(|_| random().to_be_bytes()).collect();
    say(&noise)
}

fn half(frame: &[u8]) -> Result<()> {
    say(&frame[..frame.len() / 2])?;
    std::process::exit(0);
}

/// More memory than it may have, as a device or a machine that is full would refuse it.
fn memory(_: &[u8]) -> Result<()> {
    let limit = Rlimit { current: Some(64 << 20), maximum: Some(64 << 20) };
    setrlimit(Resource::Data, limit)?;
    let mut all = Vec::new();
    loop {
        all.push(vec![1u8; 1 << 20]);
    }
}
