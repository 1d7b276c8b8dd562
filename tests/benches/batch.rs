//! Tokens per second of eight jobs in one engine against the same jobs one by one, on a generated model of 106 M
//! parameters; what an audit of one costs; and, with GGUF files as arguments, of candle by itself, for scripts/llama-cpp.sh.

mod support;

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use support::{Target, figure, median, processor, ratio};
use swarm_inference::testing::{Shape, Storage, gguf, model};
use swarm_inference::{
    Asked, Batch, BatchLimits, CancelToken, Candle, Compute, Decoder, Engine, EngineConfig, Flow,
    GenerateRequest, Greedy, Interrupt, Provider, RescoreRequest, candidates,
};

const JOBS: usize = 8;
const ROUNDS: usize = 5;
const PROMPT: usize = 24;
const TOKENS: u32 = 48;
const LONG_PROMPT: usize = 256;
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

fn prompt(job: usize, length: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 31 + job * 17) % 250) as u32).collect()
}

/// Runs a job and returns how many tokens it made.
fn run(engine: &mut dyn Engine, job: usize) -> Result<usize> {
    let prompt_ids = prompt(job, PROMPT);
    let request = GenerateRequest { prompt_ids, max_tokens: TOKENS, ..GenerateRequest::default() };
    let made = engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue)?;
    Ok(made.ids.len())
}

fn one_by_one(engines: &mut [Box<dyn Engine>]) -> Result<f64> {
    let start = Instant::now();
    let made: Vec<usize> = (0..JOBS).map(|job| run(engines[0].as_mut(), job)).collect::<Result<_>>()?;
    Ok(made.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64())
}

fn together(engines: &mut [Box<dyn Engine>]) -> Result<f64> {
    let start = Instant::now();
    let made: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (engines.iter_mut().enumerate())
            .map(|(job, engine)| scope.spawn(move || run(engine.as_mut(), job)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no job panics")).collect::<Result<_>>()
    })?;
    Ok(made.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64())
}

/// Time to score a finished job in one pass, over the time that it took alone.
fn audit_share(engine: &mut dyn Engine) -> Result<f64> {
    let mut shares = Vec::new();
    for job in 0..ROUNDS {
        let request = GenerateRequest {
            prompt_ids: prompt(job, PROMPT),
            max_tokens: TOKENS,
            ..GenerateRequest::default()
        };
        let (mut output, start) = (Vec::new(), Instant::now());
        engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |step| {
            let tokens = step.candidates.iter().map(|candidate| candidate.token).collect();
            output.push(Asked { token: step.token, tokens });
            Flow::Continue
        })?;
        let (made, start) = (start.elapsed(), Instant::now());
        let top_k = 2 * engine.manifest().top_k;
        let scored =
            RescoreRequest { prompt_ids: request.prompt_ids, output, top_k, ..RescoreRequest::default() };
        engine.rescore(&scored, &CancelToken::new())?;
        shares.push(start.elapsed().as_secs_f64() / made.as_secs_f64());
    }
    Ok(median(shares))
}

fn throughput() -> Result<()> {
    let config = EngineConfig { model: model("big", SHAPE)?, max_memory_bytes: None };
    let candle = Candle::default();
    let mut engines = (0..JOBS).map(|_| candle.start(&config)).collect::<Result<Vec<_>, _>>()?;
    run(engines[0].as_mut(), 0)?;
    figure("batch/audit-over-generation", audit_share(engines[0].as_mut())?);
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push((together(&mut engines)?, one_by_one(&mut engines)?));
    }
    let [batch, single] = [median(rates.iter().map(|r| r.0)), median(rates.iter().map(|r| r.1))];
    println!("{JOBS} jobs at once {batch:.1} tokens/s, one by one {single:.1} tokens/s");
    ratio("batch", median(rates.iter().map(|(batch, single)| batch / single)), Target::AtLeast(2.5));
    Ok(())
}

/// Tokens per second of processor time, of prefill and of decoding in a batch of this size.
fn rates(decoder: &Decoder, size: usize) -> Result<[f64; 2]> {
    let limits = BatchLimits { max_sequences: size, max_cache_bytes: 1 << 32 };
    let mut batch = Batch::new(decoder, limits);
    let start = processor()?;
    for job in 0..size {
        batch.join(&prompt(job, LONG_PROMPT), TOKENS as usize)?;
    }
    let mut offers = Vec::new();
    while offers.len() < size {
        offers.extend(batch.step(Interrupt::default())?);
    }
    let prefill = (size * LONG_PROMPT) as f64 / (processor()? - start);
    let start = processor()?;
    for _ in 0..TOKENS {
        for offer in &offers {
            batch.push(offer.sequence, candidates(&offer.logits, 1)?[0].token)?;
        }
        offers = batch.step(Interrupt::default())?;
        ensure!(offers.len() == size, "a sequence was left out");
    }
    Ok([prefill, (size * TOKENS as usize) as f64 / (processor()? - start)])
}

/// The same of the model code of candle-transformers on the same file.
fn library(file: &[u8]) -> Result<[f64; 2]> {
    let mut reader = Cursor::new(file);
    let content = gguf_file::Content::read(&mut reader)?;
    let mut model = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?;
    let forward = |model: &mut ModelWeights, tokens: &[u32], seen: usize| -> Result<u32> {
        let logits = model.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, seen)?;
        Ok(logits.flatten_all()?.argmax(0)?.to_scalar()?)
    };
    // The first pass brings the weights into the order of its kernels.
    forward(&mut model, &prompt(0, 1), 0)?;
    let start = processor()?;
    let mut token = forward(&mut model, &prompt(0, LONG_PROMPT), 0)?;
    let prefill = LONG_PROMPT as f64 / (processor()? - start);
    let start = processor()?;
    for index in 0..TOKENS as usize {
        token = forward(&mut model, &[token], LONG_PROMPT + index)?;
    }
    Ok([prefill, f64::from(TOKENS) / (processor()? - start)])
}

/// This decoder over the library's own, on the same bytes, by turns.
fn over_library() -> Result<()> {
    for (name, storage) in [("q8_0", Storage::Q8_0), ("q4_k", Storage::Q4K)] {
        let file = gguf(Shape { storage, ..SHAPE })?;
        let decoder = Decoder::from_gguf(&mut Cursor::new(&file), Compute::AllCores)?;
        rates(&decoder, 1)?;
        let mut shares = Vec::new();
        for _ in 0..ROUNDS {
            let (ours, theirs) = (rates(&decoder, 1)?, library(&file)?);
            shares.push([ours[0] / theirs[0], ours[1] / theirs[1]]);
        }
        for (phase, what) in ["prefill", "decode"].iter().enumerate() {
            let share = median(shares.iter().map(|shares| shares[phase]));
            ratio(&format!("batch/{what}-{name}-over-library"), share, Target::AtLeast(1.0));
        }
    }
    Ok(())
}

/// One line for each file, phase and size: what scripts/llama-cpp.sh divides by llama.cpp's.
fn compare(path: &str) -> Result<()> {
    let decoder = Decoder::from_gguf(&mut File::open(path).context("open")?, Compute::AllCores)?;
    rates(&decoder, 1)?;
    for size in [1, JOBS] {
        for (name, rate) in ["prefill", "decode"].iter().zip(rates(&decoder, size)?) {
            let file = Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            println!("rate {file} {name} {size} {rate:.2}");
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let files: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    match &files[..] {
        [command, path] if command == "write" => {
            let shape = Shape { storage: Storage::F16, ..SHAPE };
            std::fs::write(path, gguf(shape)?).context("write the model")
        }
        [] => {
            support::machine();
            println!("a generated model of 106 M parameters, Q8_0, {TOKENS} tokens after {PROMPT}");
            throughput()?;
            over_library()
        }
        files => files.iter().try_for_each(|path| compare(path)),
    }
}
