//! What this machine makes of models, as one JSON object: `measure MANIFEST…`. scripts/validate-gpu.sh runs it once with the
//! GPU and once without, and compares.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swarm_inference::{
    Batch, BatchLimits, BenchRequest, COST_SCALE, CancelToken, Candle, DType, Decoder, EmbedRequest,
    EngineConfig, Flow, Interrupt, KERNEL_TOLERANCE, Lap, Model, Provider, Workload, candidates, device_name,
    matmul,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Sides of the products that are timed, on GPUs and on processors, and of those whose checksums are compared.
const TIMED: [u32; 2] = [4096, 1024];
const COMPARED: u32 = 512;
const LAPS: u32 = 16;
const BATCHES: [usize; 3] = [1, 8, 64];
const PROMPT: usize = 128;
const TOKENS: usize = 32;
const MAX_CACHE_BYTES: u64 = 8 << 30;
/// A text whose first tokens' costs are compared, over several passes.
const SCORED: &str = include_str!("../../LICENSE");
const SCORED_TOKENS: usize = 512;
const TEXTS: [&str; 4] = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.",
    "A pool is a group of miners who share what they earn.",
    "Größe ist nicht alles.",
    "?",
];

fn main() -> Outcome<()> {
    let mut models = Vec::new();
    for path in std::env::args().skip(1) {
        let model = Model::from_manifest_file(Path::new(&path))?;
        models.push(match model.manifest.workload {
            Workload::LlmGen => text(&model)?,
            Workload::Embed => embed(&model)?,
            Workload::TorchBench | Workload::SdInfer => continue,
        });
    }
    let products =
        [DType::F32, DType::F16, DType::Bf16].into_iter().map(product).collect::<Outcome<Vec<_>>>()?;
    println!("{}", json!({ "device": device_name(), "products": products, "models": models }));
    Ok(())
}

fn laps(dtype: DType, side: u32, repeats: u32) -> Outcome<Vec<Lap>> {
    let mut engine = Candle::default().start(&EngineConfig { model: matmul(), max_memory_bytes: None })?;
    let request = BenchRequest {
        dtype,
        m: side,
        n: side,
        k: side,
        repeats,
        seed: [7; 32],
        deadline: None,
        max_memory_bytes: None,
    };
    let mut laps = Vec::new();
    engine.benchmark(&request, &CancelToken::new(), &mut |lap| {
        laps.push(lap);
        Flow::Continue
    })?;
    Ok(laps)
}

fn product(dtype: DType) -> Outcome<Value> {
    let side = TIMED[usize::from(device_name() == "cpu")];
    let timed = laps(dtype, side, LAPS)?;
    let best = timed.iter().map(|lap| lap.time).min().unwrap_or(Duration::MAX);
    let gflop_s = 2.0 * f64::from(side).powi(3) / best.as_secs_f64() / 1e9;
    let checksums: Vec<String> =
        laps(dtype, COMPARED, 2)?.iter().map(|lap| format!("{:?}", lap.checksum)).collect();
    Ok(json!({ "dtype": format!("{dtype:?}"), "side": side, "gflop_s": gflop_s, "checksums": checksums }))
}

fn embed(model: &Model) -> Outcome<Value> {
    let tokenizer = model.text_tokenizer()?;
    let texts = TEXTS.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
    let mut engine =
        Candle::default().start(&EngineConfig { model: model.clone(), max_memory_bytes: None })?;
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    let request = EmbedRequest { texts: texts.clone(), deadline: None, max_memory_bytes: None };
    engine.embed(&request, &CancelToken::new(), &mut |vector| {
        vectors.push(vector.to_vec());
        Flow::Continue
    })?;
    let many = EmbedRequest { texts: texts.iter().cycle().take(256).cloned().collect(), ..request };
    let begun = Instant::now();
    engine.embed(&many, &CancelToken::new(), &mut |_| Flow::Continue)?;
    let rate = 256.0 / begun.elapsed().as_secs_f64();
    Ok(
        json!({ "model": model.manifest.name, "computed_on": device_name(), "texts_s": rate, "vectors": vectors }),
    )
}

fn text(model: &Model) -> Outcome<Value> {
    let decoder = model.decoder(None, None)?;
    let mut tokens = model.tokenizer()?.encode(SCORED)?;
    tokens.truncate(SCORED_TOKENS.min(decoder.config().context_length));
    let scored = decoder.log_probabilities(&tokens, Interrupt::default())?;
    let cost = |probability: &f64| -probability / std::f64::consts::LN_2 * f64::from(COST_SCALE);
    let costs: Vec<f64> = scored.iter().map(cost).collect();
    rates(&decoder, 1)?;
    let rates = BATCHES.into_iter().map(|size| {
        let [prefill, decode] = rates(&decoder, size)?;
        Ok(json!({ "batch": size, "prefill_tokens_s": prefill, "decode_tokens_s": decode }))
    });
    let rates = rates.collect::<Outcome<Vec<_>>>()?;
    Ok(json!({
        "model": model.manifest.name,
        "computed_on": decoder.compute().device_name(),
        "weight_bytes": decoder.weight_bytes(),
        "costs": costs,
        "tolerance": model.manifest.tolerance.map_or(KERNEL_TOLERANCE, |tolerance| tolerance.mean),
        "rates": rates,
    }))
}

/// Tokens per second of prefill and of decoding in a batch of this size.
fn rates(decoder: &Decoder, size: usize) -> Outcome<[f64; 2]> {
    let vocabulary = decoder.config().vocab_size;
    let room = decoder.config().context_length;
    let (prompt, tokens) = (PROMPT.min(room / 2), TOKENS.min(room / 2));
    let mut batch =
        Batch::new(decoder, BatchLimits { max_sequences: size, max_cache_bytes: MAX_CACHE_BYTES });
    let begun = Instant::now();
    for job in 0..size {
        let ids: Vec<u32> = (0..prompt).map(|i| ((i * 31 + job * 17) % vocabulary) as u32).collect();
        batch.join(&ids, tokens)?;
    }
    let mut offers = Vec::new();
    while offers.len() < size {
        offers.extend(batch.step(Interrupt::default())?);
    }
    let prefill = (size * prompt) as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    for _ in 1..tokens {
        for offer in &offers {
            batch.push(offer.sequence, candidates(&offer.logits, 1)?[0].token)?;
        }
        offers = batch.step(Interrupt::default())?;
    }
    Ok([prefill, (size * (tokens - 1)) as f64 / begun.elapsed().as_secs_f64()])
}
