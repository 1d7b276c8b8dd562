//! What it costs that an engine is a process of its own, and that its answers can be checked. The engine's process is this
//! program itself, started again with the argument `serve`.

mod support;

use anyhow::{Result, anyhow, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use support::{Target, figure, median, quantile, ratio};
use swarm_crypto::digest::Digest;
use swarm_inference::testing::{Shape, Storage, model};
use swarm_inference::{
    CancelToken, Candidate, Candle, Engine, EngineConfig, Flow, GenerateRequest, Isolated, Model, Program,
    Provider, Registry, Step, TokenSampler, Weights, queenbee,
};
use swarm_node::workload::{NormativeSampler, step};
use swarm_protocol::Timestamp;
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::{Assurance, Input, Job, JobType, Params};
use swarm_protocol::transcript::{PrefixDigest, StopReason, Transcript};

const JOBS: usize = 8;
const ROUNDS: usize = 7;
const TOKENS: u32 = 64;
/// Tokens of the small model in one round, and rounds: what a token costs is small there, and what the pipe adds is seen.
const QUICK_TOKENS: u32 = 200;
const QUICK_ROUNDS: usize = 40;
const SHAPE: Shape = Shape {
    layers: 15,
    width: 768,
    hidden: 2048,
    heads: 12,
    kv_heads: 12,
    context_length: 512,
    storage: Storage::Q8_0,
    seed: 1,
};

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return Ok(swarm_inference::serve(
            &mut std::io::stdin().lock(),
            std::io::stdout(),
            &Registry::standard(),
        )?);
    }
    support::machine();
    let folder = tempfile::tempdir()?;
    let program = itself(folder.path())?;
    boundary(&program)?;
    let big = written(folder.path())?;
    let here = engines(&Candle::default(), &big)?;
    let there = Isolated::new(Arc::new(Candle::default()), vec![Program::at(program)], |_, _, _| {});
    let there = engines(&there, &big)?;
    throughput(here, there)
}

/// A program that is this one as an engine.
fn itself(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("engine");
    let me = std::env::current_exe()?;
    std::fs::write(&path, format!("#!/bin/sh\nexec '{}' serve\n", me.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The generated model as a file, which a process can open.
fn written(folder: &Path) -> Result<Model> {
    let generated = model("big", SHAPE)?;
    let Weights::Memory(bytes) = &generated.weights else { return Err(anyhow!("it is in memory")) };
    let path = folder.join(&generated.manifest.file);
    std::fs::write(&path, bytes)?;
    Ok(Model { manifest: generated.manifest, weights: Weights::File(path) })
}

fn engines(provider: &dyn Provider, model: &Model) -> Result<Vec<Box<dyn Engine>>> {
    let config = EngineConfig { model: model.clone(), max_memory_bytes: None };
    Ok((0..JOBS).map(|_| provider.start(&config)).collect::<Result<_, _>>()?)
}

/// Takes the likeliest.
struct First;

impl TokenSampler for First {
    fn sample(&mut self, _: u32, candidates: &[Candidate]) -> u32 {
        candidates.first().map_or(u32::MAX, |best| best.token)
    }
}

fn request(job: usize, max_tokens: u32) -> GenerateRequest {
    let prompt_ids = (0..24).map(|i| ((i * 31 + job * 17) % 250) as u32).collect();
    GenerateRequest { prompt_ids, max_tokens, ..GenerateRequest::default() }
}

/// Runs a request; when each token came, in microseconds after the one before, the first after the request.
fn intervals(engine: &mut dyn Engine, tokens: u32) -> Result<Vec<f64>> {
    let (mut times, mut last) = (Vec::new(), Instant::now());
    engine.generate(&request(times.len(), tokens), &mut First, &CancelToken::new(), &mut |_: &Step| {
        let now = Instant::now();
        times.push(now.duration_since(last).as_secs_f64() * 1e6);
        last = now;
        Flow::Continue
    })?;
    ensure!(times.len() == tokens as usize, "the engine stopped after {} tokens", times.len());
    Ok(times)
}

/// What the pipe adds to a token and to a job, of a model that is quick.
fn boundary(program: &Path) -> Result<()> {
    let config = EngineConfig { model: queenbee(), max_memory_bytes: None };
    let isolated =
        Isolated::new(Arc::new(Candle::default()), vec![Program::at(program.to_owned())], |_, _, _| {});
    let (mut here, mut there) = (Candle::default().start(&config)?, isolated.start(&config)?);
    let mut tokens = [Vec::new(), Vec::new()];
    let mut jobs = [Vec::new(), Vec::new()];
    for round in 0..=QUICK_ROUNDS {
        for (side, engine) in [here.as_mut(), there.as_mut()].into_iter().enumerate() {
            let run = intervals(engine, QUICK_TOKENS)?;
            let start = Instant::now();
            intervals(engine, 1)?;
            let job = start.elapsed().as_secs_f64() * 1e6;
            // The first round warms both up.
            if round > 0 {
                tokens[side].extend_from_slice(&run[1..]);
                jobs[side].push(job);
            }
        }
    }
    for (what, [here, there]) in [("token", tokens), ("job", jobs)] {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let [alone, piped] =
                [&here, &there].map(|times: &Vec<f64>| quantile(times.iter().copied(), share));
            println!("a {what} of the small model, {name}: {alone:.0} µs here, {piped:.0} µs in a process");
            figure(&format!("engine/process-adds-to-a-{what}-{name}-us"), piped - alone);
        }
    }
    Ok(())
}

fn run(engine: &mut dyn Engine, job: usize) -> Result<usize> {
    let made =
        engine.generate(&request(job, TOKENS), &mut First, &CancelToken::new(), &mut |_| Flow::Continue)?;
    Ok(made.ids.len())
}

fn rate(tokens: usize, start: Instant) -> f64 {
    tokens as f64 / start.elapsed().as_secs_f64()
}

fn alone(engine: &mut dyn Engine) -> Result<f64> {
    let start = Instant::now();
    Ok(rate(run(engine, 0)?, start))
}

fn one_by_one(engines: &mut [Box<dyn Engine>]) -> Result<f64> {
    let start = Instant::now();
    let made: Vec<usize> = (0..JOBS).map(|job| run(engines[0].as_mut(), job)).collect::<Result<_>>()?;
    Ok(rate(made.iter().sum(), start))
}

fn together(engines: &mut [Box<dyn Engine>]) -> Result<f64> {
    let start = Instant::now();
    let made: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (engines.iter_mut().enumerate())
            .map(|(job, engine)| scope.spawn(move || run(engine.as_mut(), job)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no job panics")).collect::<Result<_>>()
    })?;
    Ok(rate(made.iter().sum(), start))
}

/// The same job as a miner does it: the rules' sampler, the digest of what it has so far, the transcript.
fn checkable(engine: &mut dyn Engine) -> Result<f64> {
    let start = Instant::now();
    let params = Params { max_tokens: TOKENS, temperature: 8_000, top_p: 9_500, seed: Some(1), stop: vec![] };
    let job = Job {
        job_type: JobType::LlmGen,
        model: "big".to_owned(),
        input: Input::Text(String::new()),
        params,
        price: MicroUsdc(1),
        not_after: Timestamp(0),
        max_runtime_s: 1,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    };
    let (lease, model_digest) = (Digest([1; 32]), Digest([2; 32]));
    let request = request(0, TOKENS);
    let mut prefix = PrefixDigest::new(&lease, &model_digest, &request.prompt_ids);
    let mut steps = Vec::new();
    let mut sampler = NormativeSampler::new(&job, lease);
    engine.generate(&request, &mut sampler, &CancelToken::new(), &mut |made| {
        let taken = step(made);
        prefix.push(&taken);
        steps.push(taken);
        std::hint::black_box(prefix.digest());
        Flow::Continue
    })?;
    let tokens = steps.len();
    let prompt = request.prompt_ids;
    let (model, stop) = ("big".to_owned(), StopReason::MaxTokens);
    std::hint::black_box(Transcript { model, model_digest, prompt, steps, stop }.encode());
    Ok(rate(tokens, start))
}

/// Tokens per second of a model of 106 M parameters: in a process and here, checkable and not, eight jobs and one.
fn throughput(mut here: Vec<Box<dyn Engine>>, mut there: Vec<Box<dyn Engine>>) -> Result<()> {
    let (mut process, mut checked, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (plain, piped) = (alone(here[0].as_mut())?, alone(there[0].as_mut())?);
        let (proven, again) = (checkable(here[0].as_mut())?, alone(here[0].as_mut())?);
        let (all, single) = (together(&mut there)?, one_by_one(&mut there)?);
        if round > 0 {
            process.push(piped / plain);
            checked.push(proven / (0.5 * (plain + again)));
            batch.push(all / single);
        }
    }
    figure("engine/process-over-here", median(process));
    ratio("engine/checkable-over-not", median(checked), Target::AtLeast(0.98));
    ratio("engine/eight-in-a-process-over-one-by-one", median(batch), Target::AtLeast(2.5));
    Ok(())
}
