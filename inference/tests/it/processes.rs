//! Engines as processes: the real `swarm-engine`, what becomes of it, and programs that are none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use swarm_inference::{
    Asked, BenchRequest, CancelToken, Candle, DType, DeviceChoice, DeviceStats, EmbedRequest, Engine,
    EngineConfig, EngineError, Flow, GenerateRequest, Generation, Greedy, Isolated, Model, PaintRequest,
    Program, Provider, Registry, RescoreRequest, Weights, device_name, matmul, queenbee,
};
use tempfile::TempDir;

use crate::pictures;
use crate::workloads::fixtures;

const ENGINE: &str = env!("CARGO_BIN_EXE_swarm-engine");
const PROMPT: &str = "It is a truth universally acknowledged";
/// Long enough for a busy machine, short enough to be waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A provider whose program writes its process id down and then is `swarm-engine`, or something else.
struct Rig {
    folder: TempDir,
    provider: Isolated,
    changes: Receiver<Option<String>>,
}

impl Rig {
    fn new() -> Self {
        Self::of(&format!("exec '{ENGINE}'"), None)
    }

    fn of(script: &str, max_memory_bytes: Option<u64>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pid = format!("echo $$ > '{}/pid'\n{script}", folder.path().display());
        let program = Program { max_memory_bytes, patience: PATIENCE, ..program(&folder, &pid) };
        Self::with(folder, vec![program])
    }

    /// With two processors, each with a thread.
    fn of_two_devices() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("echo $$ > '{}'/pid-$DEVICE; exec '{ENGINE}'", folder.path().display());
        let script = format!("DEVICE=$(basename \"$0\")\n{script}");
        let program = |name: &str| Program {
            patience: PATIENCE,
            device: DeviceChoice::Processor { threads: Some(1) },
            device_name: name.to_owned(),
            ..program_at(folder.path().join(name), &script)
        };
        let programs = vec![program("first"), program("second")];
        Self::with(folder, programs)
    }

    fn with(folder: TempDir, programs: Vec<Program>) -> Self {
        let (tell, changes) = sync_channel(16);
        let tell = Mutex::new(tell);
        let several = programs.len() > 1;
        let watcher = move |_: &str, device: usize, gone: Option<&str>| {
            let gone = gone.map(|why| if several { format!("{device}: {why}") } else { why.to_owned() });
            let _ = tell.lock().unwrap().send(gone);
        };
        let provider = Isolated::new(Arc::new(Candle::default()), programs, watcher);
        Self { folder, provider, changes }
    }

    fn start(&self) -> Result<Box<dyn Engine>, EngineError> {
        self.provider.start(&EngineConfig { model: queenbee(), max_memory_bytes: None })
    }

    fn pid(&self) -> Pid {
        self.pid_in("pid")
    }

    fn pid_in(&self, file: &str) -> Pid {
        let text = fs::read_to_string(self.folder.path().join(file)).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    fn change(&self) -> Option<String> {
        self.changes.recv_timeout(Duration::from_secs(30)).unwrap()
    }
}

fn request(engine: &dyn Engine, max_tokens: u32) -> GenerateRequest {
    let prompt_ids = engine.tokenizer().unwrap().encode_prompt(PROMPT).unwrap();
    GenerateRequest { prompt_ids, max_tokens, ..GenerateRequest::default() }
}

fn run(engine: &mut dyn Engine, max_tokens: u32) -> Result<Generation, EngineError> {
    let request = request(engine, max_tokens);
    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue)
}

/// Runs, and does something once the third token is there.
fn run_until(engine: &mut dyn Engine, at_third: impl Fn()) -> Result<Generation, EngineError> {
    let request = request(engine, 400);
    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |step| {
        if step.position == 2 {
            at_third();
        }
        Flow::Continue
    })
}

fn fails(result: Result<Generation, EngineError>) -> String {
    match result {
        Err(EngineError::Process(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn here(tokens: u32) -> Generation {
    let registry = Registry::standard();
    let provider = registry.providers().next().unwrap().clone();
    let mut engine = provider.start(&EngineConfig { model: queenbee(), max_memory_bytes: None }).unwrap();
    run(engine.as_mut(), tokens).unwrap()
}

/// A program of this shell script.
fn program(folder: &TempDir, script: &str) -> Program {
    program_at(folder.path().join("engine"), script)
}

fn program_at(path: PathBuf, script: &str) -> Program {
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Program::at(path)
}

#[test]
fn a_program_says_what_it_computes_on() {
    assert_eq!(Program::at(ENGINE.into()).computes_on().as_deref(), Ok(device_name()));
    let folder = tempfile::tempdir().unwrap();
    let says = "echo \"$1 ${CUDA_VISIBLE_DEVICES-any}, ${CUDA_DEVICE_ORDER}, ${RAYON_NUM_THREADS-all}\"";
    let told = |device| Program { device, ..program(&folder, says) }.computes_on().unwrap();
    assert_eq!(told(DeviceChoice::Found), "--device any, PCI_BUS_ID, all");
    assert_eq!(told(DeviceChoice::Gpu(3)), "--device 3, PCI_BUS_ID, all");
    assert_eq!(told(DeviceChoice::Processor { threads: None }), "--device , PCI_BUS_ID, all");
    assert_eq!(told(DeviceChoice::Processor { threads: Some(7) }), "--device , PCI_BUS_ID, 7");
    for says_nothing in ["exit 1", "printf '\\377'", "yes"] {
        let told = program(&folder, says_nothing).computes_on();
        assert!(
            told.as_ref().is_err_and(|why| why.ends_with("does not say what it computes on")),
            "{told:?}"
        );
    }
    let nowhere = Program::at(folder.path().join("nowhere")).computes_on();
    assert!(nowhere.as_ref().is_err_and(|why| why.contains("cannot be started")), "{nowhere:?}");
}

#[test]
fn another_process_scores_a_text_as_this_one_would() {
    let registry = Registry::standard();
    let provider = registry.providers().next().unwrap().clone();
    let mut here = provider.start(&EngineConfig { model: queenbee(), max_memory_bytes: None }).unwrap();
    let made = run(here.as_mut(), 40).unwrap();
    let asked = |token: &u32| Asked { token: *token, tokens: (0..32).collect() };
    let asked = RescoreRequest {
        prompt_ids: here.tokenizer().unwrap().encode_prompt(PROMPT).unwrap(),
        output: made.ids.iter().map(asked).collect(),
        top_k: 64,
        ..RescoreRequest::default()
    };
    let (rig, never) = (Rig::new(), CancelToken::new());
    let mut there = rig.start().unwrap();
    let found = there.rescore(&asked, &never).unwrap();
    assert_eq!((found.len(), found[0].top.len()), (40, 64));
    assert_eq!(found, here.rescore(&asked, &never).unwrap());
    let told = there.rescore(&RescoreRequest { top_k: 513, ..asked.clone() }, &never).unwrap_err();
    assert!(told.to_string().contains("at most 512"), "{told}");
    assert_eq!(there.rescore(&asked, &never).unwrap(), found, "it serves the next");
}

#[test]
fn another_process_offers_what_this_one_would_and_serves_many_at_once() {
    let rig = Rig::new();
    let expected = here(40);
    let mut engines: Vec<_> = (0..4).map(|_| rig.start().unwrap()).collect();
    assert_eq!(rig.change(), None, "one process for all");
    std::thread::scope(|scope| {
        for engine in &mut engines {
            scope.spawn(|| {
                let made = run(engine.as_mut(), 40).unwrap();
                assert_eq!((made.ids, made.output), (expected.ids.clone(), expected.output.clone()));
            });
        }
    });
    let stats = rig.provider.stats();
    assert_eq!((stats.engines, stats.finished, stats.failed, stats.restarts), (4, 4, 0, 0));
    assert_eq!((stats.output_tokens, stats.weight_bytes > 1 << 20), (160, true));
    assert!(rig.changes.try_recv().is_err());
}

#[test]
fn pictures_come_from_another_process_too() {
    let rig = Rig::new();
    let config = EngineConfig { model: pictures::tiny(), max_memory_bytes: None };
    let here = pictures::paint(Candle::default().start(&config).unwrap().as_mut(), &pictures::request());
    let mut engine = rig.provider.start(&config).unwrap();
    let there = pictures::paint(engine.as_mut(), &pictures::request()).unwrap();
    assert_eq!(there, here.unwrap());
    let odd = PaintRequest { width: 65, ..pictures::request() };
    let told = pictures::paint(engine.as_mut(), &odd).unwrap_err();
    assert!(told.to_string().contains("a side of a picture"), "{told}");
    let mut seen = 0;
    let told = engine.paint(&pictures::request(), &CancelToken::new(), &mut |_| {
        seen += 1;
        Flow::Stop
    });
    assert!(matches!(told, Err(EngineError::Cancelled)) && seen == 1, "{told:?}");
    assert_eq!(pictures::paint(engine.as_mut(), &pictures::request()).unwrap(), there, "it goes on");
    assert_eq!((rig.provider.stats().finished, rig.provider.stats().restarts), (2, 0));
}

#[test]
fn embeddings_and_products_come_from_another_process_too() {
    let rig = Rig::new();
    let config = EngineConfig { model: matmul(), max_memory_bytes: None };
    let request = BenchRequest {
        dtype: DType::F32,
        m: 40,
        n: 30,
        k: 50,
        repeats: 5,
        seed: [7; 32],
        deadline: None,
        max_memory_bytes: None,
    };
    let products = |engine: &mut dyn Engine| {
        let mut checksums = Vec::new();
        let mut sink = |lap: swarm_inference::Lap| {
            checksums.push(lap.checksum);
            Flow::Continue
        };
        engine.benchmark(&request, &CancelToken::new(), &mut sink).unwrap();
        checksums
    };
    let here = products(Candle::default().start(&config).unwrap().as_mut());
    let mut engine = rig.provider.start(&config).unwrap();
    assert_eq!(products(engine.as_mut()), here);
    assert_eq!(here.len(), 5);
    let text = EmbedRequest { texts: vec![vec![1]], ..EmbedRequest::default() };
    let refused = engine.embed(&text, &CancelToken::new(), &mut |_| Flow::Continue);
    assert!(matches!(&refused, Err(EngineError::Process(why)) if why.contains("embed")), "{refused:?}");

    let model = Model::from_manifest_file(&fixtures().join("manifest.json")).unwrap();
    let config = EngineConfig { model, max_memory_bytes: None };
    let texts = vec![vec![2, 5, 6, 3], vec![2, 9, 3], vec![2, 3]];
    let request = EmbedRequest { texts, ..EmbedRequest::default() };
    let vectors = |engine: &mut dyn Engine| {
        let mut vectors = Vec::new();
        let mut sink = |vector: &[f32]| {
            vectors.push(vector.to_vec());
            Flow::Continue
        };
        engine.embed(&request, &CancelToken::new(), &mut sink).unwrap();
        vectors
    };
    let here = vectors(Candle::default().start(&config).unwrap().as_mut());
    assert_eq!(vectors(rig.provider.start(&config).unwrap().as_mut()), here);
    assert_eq!(here.len(), 3);
}

#[test]
fn a_model_of_a_file_is_read_by_the_process_itself() {
    let rig = Rig::new();
    let Model { manifest, weights } = queenbee();
    let Weights::Embedded(bytes) = weights else { panic!("it is compiled in") };
    let path = rig.folder.path().join("weights.gguf");
    fs::write(&path, bytes).unwrap();
    let model = Model { manifest, weights: Weights::File(path.clone()) };
    let config = EngineConfig { model, max_memory_bytes: None };
    let mut engine = rig.provider.start(&config).unwrap();
    assert_eq!(run(engine.as_mut(), 8).unwrap().ids, here(8).ids);
    drop(engine);
    fs::write(&path, &bytes[1..]).unwrap();
    assert!(rig.provider.start(&config).is_err());
}

#[test]
fn a_killed_process_fails_its_request_and_another_serves_the_next() {
    let rig = Rig::new();
    let mut engine = rig.start().unwrap();
    assert_eq!(rig.change(), None);
    for round in 1..=3 {
        let killed = run_until(engine.as_mut(), || kill_process(rig.pid(), Signal::KILL).unwrap());
        let why = fails(killed);
        assert!(why.contains("signal 9"), "{why}");
        assert!(rig.change().unwrap().contains("signal 9"));
        assert_eq!(rig.change(), None, "it is up again");
        assert_eq!(run(engine.as_mut(), 12).unwrap().ids, here(12).ids);
        assert_eq!(rig.provider.stats().restarts, round);
    }
}

#[test]
fn jobs_spread_over_devices_and_one_that_dies_takes_only_its_own_with_it() {
    let rig = Rig::of_two_devices();
    let expected = here(120);
    let mut engines: Vec<_> = (0..5).map(|_| rig.start().unwrap()).collect();
    assert_eq!([rig.change(), rig.change()], [None, None], "a process on each device, for all");
    let used = |what: fn(&DeviceStats) -> u64| rig.provider.devices().iter().map(what).collect::<Vec<_>>();
    assert_eq!(used(|device| device.is_up.into()), [1, 1]);

    // All four have begun before the first may go on, so that each device has two.
    let (begun, victim) = (Barrier::new(4), rig.pid_in("pid-second"));
    let victims = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        let four: Vec<_> = engines[..4]
            .iter_mut()
            .map(|engine| {
                let (begun, provider) = (&begun, &rig.provider);
                threads.spawn(move || {
                    let request = request(engine.as_ref(), 120);
                    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |step| {
                        if step.position == 2 && begun.wait().is_leader() {
                            assert_eq!(running(provider), [2, 2]);
                            kill_process(victim, Signal::KILL).unwrap();
                        }
                        Flow::Continue
                    })
                })
            })
            .collect();
        for made in four.into_iter().map(|one| one.join().unwrap()) {
            match made {
                Ok(made) => assert_eq!(made.ids, expected.ids, "the other device goes on"),
                failed => victims.lock().unwrap().push(fails(failed)),
            }
        }
    });
    let victims = victims.into_inner().unwrap();
    assert_eq!(victims, ["second: it was ended by signal 9"; 2]);
    assert!(rig.change().unwrap().starts_with("1: it was ended by signal 9"));
    assert_eq!(run(engines[4].as_mut(), 4).unwrap().ids, here(4).ids, "one device is enough");

    assert_eq!(rig.change(), None, "it is up again");
    let (before, again) = (used(|device| device.begun), 2);
    for _ in 0..2 * again {
        assert_eq!(run(engines[4].as_mut(), 4).unwrap().ids, here(4).ids);
    }
    assert_eq!((running(&rig.provider), used(|device| device.is_up.into())), (vec![0, 0], vec![1, 1]));
    let after = used(|device| device.begun);
    assert!(after[1] > before[1] && after[0] + after[1] == before[0] + before[1] + 2 * again, "{after:?}");
    assert_eq!(rig.provider.stats().restarts, 1);
}

fn running(provider: &Isolated) -> Vec<u32> {
    provider.devices().iter().map(|device| device.running).collect()
}

#[test]
fn a_device_that_cannot_run_a_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let on = |name: &str, script: &str| Program {
        device_name: name.to_owned(),
        ..program_at(folder.path().join(name), script)
    };
    let programs = vec![on("gpu 0", &format!("exec '{ENGINE}'")), on("gpu 1", "echo no memory >&2; exit 1")];
    let rig = Rig::with(tempfile::tempdir().unwrap(), programs);
    let why = rig.start().err().unwrap().to_string();
    assert!(why.contains("gpu 1: it ended with exit code 1, saying: no memory"), "{why}");
}

#[test]
fn a_process_that_hangs_is_ended() {
    let rig = Rig::new();
    let mut engine = rig.start().unwrap();
    let started = Instant::now();
    let why = fails(run_until(engine.as_mut(), || kill_process(rig.pid(), Signal::STOP).unwrap()));
    assert!(why.contains("has said nothing for 2s"), "{why}");
    assert!(started.elapsed() < PATIENCE * 10, "{:?}", started.elapsed());
    assert_eq!(run(engine.as_mut(), 4).unwrap().ids, here(4).ids);
}

#[test]
fn what_is_cancelled_or_late_ends_at_once_and_the_process_goes_on() {
    let rig = Rig::new();
    let mut engine = rig.start().unwrap();
    let cancel = CancelToken::new();
    let asked = request(engine.as_ref(), 400);
    let cancelled = engine.generate(&asked, &mut Greedy, &cancel, &mut |_| {
        cancel.cancel();
        Flow::Continue
    });
    assert!(matches!(cancelled, Err(EngineError::Cancelled)), "{cancelled:?}");
    let late = GenerateRequest { deadline: Some(Instant::now() + Duration::from_millis(50)), ..asked };
    let late = engine.generate(&late, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue);
    assert!(matches!(late, Err(EngineError::Deadline)), "{late:?}");
    assert_eq!(run(engine.as_mut(), 4).unwrap().ids, here(4).ids);
    assert_eq!(rig.provider.stats().restarts, 0);
}

#[test]
fn dropped_and_stopped_engines_leave_no_process() {
    let gone = |pid: Pid| {
        let until = Instant::now() + Duration::from_secs(10);
        while test_kill_process(pid).is_ok() {
            assert!(Instant::now() < until, "{pid:?} lives");
            std::thread::yield_now();
        }
    };
    let rig = Rig::new();
    let engine = rig.start().unwrap();
    let first = rig.pid();
    drop(engine);
    gone(first);
    let mut engine = rig.start().unwrap();
    let second = rig.pid();
    rig.provider.stop();
    gone(second);
    assert!(matches!(run(engine.as_mut(), 4), Err(EngineError::Cancelled)));
    assert!(!rig.provider.is_running());
    let mut engine = rig.start().unwrap();
    assert!(run(engine.as_mut(), 4).is_ok());
}

#[test]
fn programs_that_are_no_engine_are_refused_in_words_and_within_the_patience() {
    let hello = |text: &str| format!("printf '{text}'; exec sleep 100");
    let programs = [
        ("exit 7", "exit code 7"),
        ("echo no GPU here >&2; exit 1", "saying: no GPU here"),
        ("kill -SEGV $$", "signal 11"),
        (&hello("Segmentation fault"), "said what nobody understands"),
        ("printf '\\0\\0\\0\\005ab'", "said what nobody understands"),
        (&hello("\\0\\0\\0\\006ePong1"), "said what nobody understands"),
        (&hello("\\0\\0\\0\\005dPong"), "it said Pong out of turn"),
        ("exec sleep 100", "it has said nothing for 2s"),
    ];
    for (script, expected) in programs {
        let started = Instant::now();
        let why = Rig::of(script, None).start().err().unwrap().to_string();
        assert!(why.contains(expected), "{script}: {why}");
        assert!(started.elapsed() < PATIENCE * 5, "{script}: {:?}", started.elapsed());
    }
    let nowhere = Isolated::new(
        Arc::new(Candle::default()),
        vec![Program::at(PathBuf::from("/nowhere/swarm-engine"))],
        |_, _, _| {},
    );
    let why = nowhere.start(&EngineConfig { model: queenbee(), max_memory_bytes: None }).err().unwrap();
    assert!(why.to_string().contains("/nowhere/swarm-engine cannot be started"), "{why}");
}

#[test]
fn an_engine_of_another_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let frame = hello_of_version(99, folder.path());
    let rig = Rig::of(&format!("cat '{}'; exec sleep 100", frame.display()), None);
    let why = rig.start().err().unwrap().to_string();
    assert!(why.contains("install programs of one release"), "{why}");
}

/// A file with the first report of an engine that speaks this version of the pipe.
fn hello_of_version(version: u8, folder: &Path) -> PathBuf {
    let mut body = vec![0xa1, 0x65];
    body.extend(b"Hello");
    body.extend([0xa2, 0x64]);
    body.extend(b"pipe");
    body.extend([0x18, version, 0x67]);
    body.extend(b"program");
    body.push(0x65);
    body.extend(b"older");
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.extend(body);
    let path = folder.join("hello");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn memory_is_limited_for_the_process_and_not_for_the_node() {
    let weights = queenbee().manifest.size;
    let little = Rig::of(&format!("exec '{ENGINE}'"), Some(weights - 1));
    let why = little.start().err().unwrap().to_string();
    assert!(why.contains("memory") || why.contains("signal"), "{why}");
    // Enough for the program to start with, and for the file alone: the process takes more than it may and is ended by it.
    let some = Rig::of(&format!("exec '{ENGINE}'"), Some(weights + (1 << 20)));
    let why = some.start().err().unwrap().to_string();
    assert!(why.contains("memory") && why.contains("saying: "), "{why}");
    let plenty = Rig::of(&format!("exec '{ENGINE}'"), Some(1 << 30));
    assert!(run(plenty.start().unwrap().as_mut(), 4).is_ok());
}
