//! Text models on a device: the operations that a GPU would do, here done by the processor where there is none.
//!
//! A device computes what all cores compute but for rounding; its logits against transformers' and llama.cpp's are in
//! `decoders` and `fixture`.

use std::io::Cursor;

use swarm_inference::testing::{Shape, Storage, gguf, model};
use swarm_inference::{
    Asked, BLOCK_POSITIONS, Batch, BatchLimits, CancelToken, Candle, Compute, Decoder, Engine, EngineConfig,
    EngineError, Flow, GenerateRequest, Greedy, Interrupt, JoinError, Provider, RescoreRequest, Sequence,
    SequenceId, Step, device_name, queenbee,
};

const NONE: fn() -> Interrupt<'static> = Interrupt::default;
/// How far apart f32 products may be that are summed in another order.
const WHOLE_LIMIT: f64 = 1e-5;
/// The same with quantised weights: a last bit of an activation decides to which of 255 numbers it is rounded.
const QUANTISED_LIMIT: f64 = 2e-2;

/// Wide enough for every format, with queries that share keys.
const SHAPE: Shape = Shape {
    layers: 3,
    width: 256,
    hidden: 512,
    heads: 8,
    kv_heads: 2,
    context_length: 512,
    storage: Storage::F32,
    seed: 5,
};

fn on(compute: Compute, shape: Shape) -> Decoder {
    Decoder::from_gguf(&mut Cursor::new(gguf(shape).unwrap()), compute).unwrap()
}

fn device() -> Decoder {
    on(Compute::Device, SHAPE)
}

fn ids(length: usize) -> Vec<u32> {
    (0..length).map(|i| (i * 31 % 250) as u32).collect()
}

fn new() -> Sequence {
    Sequence::default()
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    let apart = distance(found, expected);
    assert!(apart <= WHOLE_LIMIT, "{what}: {apart:.2e}");
}

#[test]
fn a_device_computes_what_all_cores_compute() {
    let formats = [
        (Storage::F32, WHOLE_LIMIT),
        (Storage::F16, WHOLE_LIMIT),
        (Storage::Q8_0, QUANTISED_LIMIT),
        (Storage::Q5_0, QUANTISED_LIMIT),
        (Storage::Q4K, QUANTISED_LIMIT),
        (Storage::Q6K, QUANTISED_LIMIT),
    ];
    for (storage, limit) in formats {
        for kv_heads in [1, 2, 8] {
            let shape = Shape { storage, kv_heads, ..SHAPE };
            let all =
                |compute| on(compute, shape).forward_all(&mut new(), &ids(90), NONE()).unwrap().concat();
            let apart = distance(&all(Compute::Device), &all(Compute::AllCores));
            println!("{storage:?} with {kv_heads} heads of keys: {apart:.2e}");
            assert!(apart <= limit, "{storage:?} with {kv_heads} heads of keys: {apart}");
        }
    }
}

#[test]
fn quantised_weights_stay_quantised_and_others_become_f32() {
    let bytes = |storage| on(Compute::Device, Shape { storage, ..SHAPE }).weight_bytes();
    let vocabulary = on(Compute::Device, SHAPE).config().vocab_size as u64;
    // What is looked up is there once.
    let table = 4 * vocabulary * SHAPE.width as u64;
    let copies = if device_name() == "cpu" { 2 } else { 1 };
    let [whole, half, quantised] = [Storage::F32, Storage::F16, Storage::Q8_0].map(bytes);
    let norms = 4 * (2 * SHAPE.layers as u64 + 1) * SHAPE.width as u64;
    assert_eq!(half, whole);
    assert_eq!((quantised - norms) * 32 * 4, ((whole - norms - table) * copies + table) * 34);
}

#[test]
fn runs_cut_in_any_way_are_the_whole_text() {
    let decoder = device();
    let ids = ids(300);
    let whole = decoder.forward_all(&mut new(), &ids, NONE()).unwrap();
    // Room doubles within these: 32, 64, 128, 256 and 512 positions.
    for size in [1, 7, 64, 129] {
        let mut sequence = new();
        let pieces = ids.chunks(size).map(|run| decoder.forward_all(&mut sequence, run, NONE()).unwrap());
        let pieces: Vec<f32> = pieces.flatten().flatten().collect();
        assert_near(&pieces, &whole.concat(), &format!("runs of {size}"));
        assert_eq!(sequence.len(), 300);
    }
}

#[test]
fn going_back_forgets_and_a_clone_is_another_sequence() {
    let decoder = device();
    let mut sequence = new();
    decoder.feed(&mut sequence, &ids(60), NONE()).unwrap();
    let mut other = sequence.clone();
    other.truncate(20);
    let again = decoder.forward(&mut other, &[7, 8], NONE()).unwrap();
    let fresh = decoder.forward(&mut new(), &[&ids(20)[..], &[7, 8]].concat(), NONE()).unwrap();
    assert_near(&again, &fresh, "after going back");
    let after = decoder.forward(&mut sequence, &[9], NONE()).unwrap();
    let whole = decoder.forward(&mut new(), &[&ids(60)[..], &[9]].concat(), NONE()).unwrap();
    assert_near(&after, &whole, "the copy wrote to the original");
    assert_eq!((sequence.len(), other.len()), (61, 22));
}

#[test]
fn an_interrupted_pass_leaves_a_sequence_as_it_was() {
    let decoder = device();
    let mut sequence = new();
    decoder.feed(&mut sequence, &ids(31), NONE()).unwrap();
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancelled = decoder.feed(&mut sequence, &ids(40), Interrupt::new(&[&cancel], None));
    assert!(matches!(cancelled, Err(EngineError::Cancelled)));
    let after = decoder.forward(&mut sequence, &[9], NONE()).unwrap();
    let whole = decoder.forward(&mut new(), &[&ids(31)[..], &[9]].concat(), NONE()).unwrap();
    assert_near(&after, &whole, "after an interruption");
}

#[test]
fn a_sequence_goes_on_only_where_it_was_begun() {
    let (device, cores) = (device(), on(Compute::AllCores, SHAPE));
    for (first, second) in [(&device, &cores), (&cores, &device)] {
        let mut sequence = new();
        first.feed(&mut sequence, &ids(3), NONE()).unwrap();
        let refused = second.feed(&mut sequence, &ids(3), NONE()).unwrap_err().to_string();
        assert_eq!(refused, "the request is not valid: the sequence was begun on another device");
        assert!(first.feed(&mut sequence, &ids(3), NONE()).is_ok());
    }
}

/// The logits that each of `texts` is offered token by token from its `given` first on, all in one batch.
fn offered(decoder: &Decoder, texts: &[Vec<u32>], given: usize) -> Vec<Vec<f32>> {
    let mut batch = Batch::new(decoder, BatchLimits { max_sequences: 8, max_cache_bytes: 1 << 30 });
    let join =
        |(index, text): (usize, &Vec<u32>)| (batch.join(&text[..given + index], text.len()).unwrap(), index);
    let members: Vec<(SequenceId, usize)> = texts.iter().enumerate().map(join).collect();
    let mut next: Vec<usize> = (0..texts.len()).map(|index| given + index).collect();
    let mut found = vec![Vec::new(); texts.len()];
    while !batch.is_empty() {
        for offer in batch.step(NONE()).unwrap() {
            let (id, index) = *members.iter().find(|(id, _)| *id == offer.sequence).unwrap();
            found[index].extend(offer.logits);
            match texts[index].get(next[index]) {
                Some(token) => batch.push(id, *token).unwrap(),
                None => assert!(batch.leave(id)),
            }
            next[index] += 1;
        }
    }
    found
}

#[test]
fn a_batch_offers_what_each_is_offered_alone() {
    let decoder = device();
    // Some prompts need more than one pass, and they end at different times.
    let texts: Vec<Vec<u32>> =
        (0..5).map(|n| ids(400 - 40 * n).iter().map(|id| (id + 17 * n as u32) % 250).collect()).collect();
    let given = 150;
    for (index, (text, found)) in texts.iter().zip(offered(&decoder, &texts, given)).enumerate() {
        let alone = decoder.forward_all(&mut new(), text, NONE()).unwrap();
        assert_near(&found, &alone[given + index - 1..].concat(), &format!("sequence {index}"));
    }
}

#[test]
fn room_is_promised_to_the_end_and_given_back() {
    let decoder = device();
    let max_cache_bytes = decoder.position_bytes() * (4 * BLOCK_POSITIONS) as u64;
    let mut batch = Batch::new(&decoder, BatchLimits { max_sequences: 4, max_cache_bytes });
    let text = ids(65);
    let one = batch.join(&text, 31).unwrap();
    let refused = batch.join(&text, 31).unwrap_err();
    assert!(matches!(refused, JoinError::Cache { needed: 96, free: 32, max: 128 }), "{refused}");
    while batch.step(NONE()).unwrap().is_empty() {}
    assert_eq!(batch.cache_bytes(), decoder.position_bytes() * 96);
    batch.leave(one);
    assert_eq!(batch.cache_bytes(), 0);
    // Nothing is left of the first that the second could begin with.
    let two = batch.join(&text, 31).unwrap();
    assert_eq!(batch.reused_tokens(two), Some(0));
}

const TEXT: &str = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in \
    want of a wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, \
    this truth is so well fixed in the minds of the surrounding families, that he is considered the rightful property of \
    some one or other of their daughters.";

#[test]
fn the_built_in_model_finds_a_text_as_likely_as_on_a_processor() {
    let tokens = queenbee().tokenizer().unwrap().encode(TEXT).unwrap();
    let scored = |compute| {
        let decoder = queenbee().decoder(Some(compute), None).unwrap();
        let found = decoder.log_probabilities(&tokens, NONE()).unwrap();
        (-found.iter().sum::<f64>() / found.len() as f64).exp()
    };
    let [device, cores] = [Compute::Device, Compute::AllCores].map(scored);
    println!("perplexity {device:.4} on a device, {cores:.4} on all cores");
    assert!((3.0..60.0).contains(&cores), "{cores}");
    assert!((device / cores - 1.0).abs() < 2e-3, "{device} and {cores}");
}

fn run(engine: &mut dyn Engine, prompt: &[u32], max_tokens: u32) -> Vec<Step> {
    let request = GenerateRequest { prompt_ids: prompt.to_vec(), max_tokens, ..GenerateRequest::default() };
    let mut steps = Vec::new();
    let mut sink = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut sink).unwrap();
    steps
}

fn start(candle: &Candle, model: swarm_inference::Model) -> Box<dyn Engine> {
    candle.start(&EngineConfig { model, max_memory_bytes: None }).unwrap()
}

#[test]
fn jobs_on_a_device_say_what_jobs_on_a_processor_say() {
    let candle = Candle::computing(Compute::Device);
    let prompt = queenbee().tokenizer().unwrap().encode_prompt("It is a truth").unwrap();
    let on_processor = run(&mut *start(&Candle::computing(Compute::OneCore), queenbee()), &prompt, 40);
    let engines: Vec<_> = (0..4).map(|_| start(&candle, queenbee())).collect();
    let bytes = [Compute::Device, Compute::OneCore]
        .map(|compute| queenbee().decoder(Some(compute), None).unwrap().weight_bytes());
    assert_ne!(bytes[0], bytes[1]);
    assert_eq!(candle.stats().weight_bytes, bytes[0]);
    let together: Vec<Vec<Step>> = std::thread::scope(|scope| {
        let threads: Vec<_> = engines
            .into_iter()
            .map(|mut engine| {
                scope.spawn({
                    let prompt = &prompt;
                    move || run(&mut *engine, prompt, 40)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let tokens = |steps: &[Step]| steps.iter().map(|step| step.token).collect::<Vec<_>>();
    for steps in &together {
        assert_eq!(tokens(steps), tokens(&on_processor));
    }
}

#[test]
fn a_text_is_scored_on_a_device_as_it_was_made_there() {
    let candle = Candle::computing(Compute::Device);
    let mut engine = start(&candle, model("device", SHAPE).unwrap());
    let prompt = ids(140);
    let steps = run(&mut *engine, &prompt, 30);
    let asked = |step: &Step| Asked {
        token: step.token,
        tokens: step.candidates.iter().map(|candidate| candidate.token).collect(),
    };
    let request = RescoreRequest {
        prompt_ids: prompt,
        output: steps.iter().map(asked).collect(),
        ..Default::default()
    };
    let found = engine.rescore(&request, &CancelToken::new()).unwrap();
    let costs = steps.iter().flat_map(|step| step.candidates.iter().map(|candidate| candidate.cost));
    let scored = found.iter().flat_map(|found| found.costs.iter().copied());
    let worst = costs.zip(scored).map(|(cost, scored)| cost.abs_diff(scored)).max();
    assert!(worst.is_some_and(|worst| worst <= 1), "{worst:?} units of 1/4096 bit");
}
