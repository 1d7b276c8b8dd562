use std::io::Cursor;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use swarm_inference::testing::{Scripted, Shape, gguf, manifest, model, tokenizer};
use swarm_inference::{
    CancelToken, Candidate, Compute, Decoder, Engine, EngineConfig, EngineError, Flow, GenerateRequest,
    Generation, Greedy, Interrupt, Registry, Sequence, Step, StopReason, TokenSampler, candidates,
    finish_output,
};

/// Chooses by a seed, with equal chances.
struct Seeded(u64);

impl TokenSampler for Seeded {
    fn sample(&mut self, _position: u32, candidates: &[Candidate]) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        candidates[(self.0 >> 33) as usize % candidates.len()].token
    }
}

fn engine(shape: Shape) -> Box<dyn Engine> {
    let config = EngineConfig { model: model("tiny", shape).unwrap(), max_memory_bytes: None };
    let registry = Registry::standard();
    registry.providers().next().unwrap().start(&config).unwrap()
}

fn request(prompt: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt_ids: tokenizer().encode(prompt).unwrap(),
        max_tokens,
        ..GenerateRequest::default()
    }
}

fn run(
    engine: &mut dyn Engine,
    request: &GenerateRequest,
    sampler: &mut dyn TokenSampler,
) -> Result<Generation, EngineError> {
    engine.generate(request, sampler, &CancelToken::new(), &mut |_| Flow::Continue)
}

/// An engine that says this text, one byte per token, then the end token.
struct Says(Vec<u8>);

impl TokenSampler for Says {
    fn sample(&mut self, position: u32, _: &[Candidate]) -> u32 {
        self.0.get(position as usize).map_or(262, |&byte| byte.into())
    }
}

fn anything() -> Scripted {
    let offered = (0..263).map(|token| Candidate { token, cost: 1 }).collect();
    Scripted::new(manifest("anything"), tokenizer(), offered)
}

fn say(text: &str, request: &GenerateRequest) -> (Generation, Vec<Step>) {
    let mut steps = Vec::new();
    let mut sink = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    let mut says = Says(text.into());
    let generation = anything().generate(request, &mut says, &CancelToken::new(), &mut sink);
    (generation.unwrap(), steps)
}

#[test]
fn same_seed_same_tokens_other_seed_other_tokens() {
    let mut engine = engine(Shape::default());
    let request = request("Once upon a time", 24);
    let first = run(&mut *engine, &request, &mut Seeded(1)).unwrap();
    let again = run(&mut *engine, &request, &mut Seeded(1)).unwrap();
    let other = run(&mut *engine, &request, &mut Seeded(2)).unwrap();
    assert_eq!((&first.ids, &first.output), (&again.ids, &again.output));
    assert_ne!(first.ids, other.ids);
}

#[test]
fn steps_carry_ordered_candidates_and_positions() {
    let mut engine = engine(Shape::default());
    let mut steps = Vec::new();
    let mut sink = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    let request = request(&"long prompt ".repeat(12), 10);
    let generation = engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut sink).unwrap();
    assert_eq!(steps.iter().map(|step| step.token).collect::<Vec<_>>(), generation.ids);
    for (position, step) in (0u32..).zip(&steps) {
        assert_eq!((step.position, step.candidates.len()), (position, 32));
        assert_eq!(step.candidates[0].token, step.token);
        let key = |candidate: &Candidate| (candidate.cost, candidate.token);
        assert!(step.candidates.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
    }
}

#[test]
fn every_step_offers_what_one_pass_over_the_whole_text_computes() {
    let mut steps = Vec::new();
    let mut sink = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    let request = request(&"a longer prompt ".repeat(6), 12);
    let mut engine = engine(Shape::default());
    engine.generate(&request, &mut Seeded(3), &CancelToken::new(), &mut sink).unwrap();
    let ids: Vec<u32> =
        request.prompt_ids.iter().copied().chain(steps.iter().map(|step| step.token)).collect();
    let file = gguf(Shape::default()).unwrap();
    let decoder = Decoder::from_gguf(&mut Cursor::new(file), Compute::OneCore).unwrap();
    let logits = decoder.forward_all(&mut Sequence::default(), &ids, Interrupt::default()).unwrap();
    for (step, logits) in steps.iter().zip(&logits[request.prompt_ids.len() - 1..]) {
        assert_eq!(step.candidates, candidates(logits, 32).unwrap(), "position {}", step.position);
    }
}

#[test]
fn each_stop_reason() {
    let stop = |stop: &str| GenerateRequest { stop: vec![stop.into()], ..request("p", 100) };
    let reason = |generation: &Generation| (generation.stop_reason, generation.ids.len());
    let (eos, _) = say("fine", &request("p", 100));
    assert_eq!((reason(&eos), &*eos.output), ((StopReason::Eos, 5), &b"fine"[..]));
    let (most, _) = say("fine", &request("p", 3));
    assert_eq!((reason(&most), &*most.output), ((StopReason::MaxTokens, 3), &b"fin"[..]));
    let (cut, _) = say("one\n\ntwo", &stop("\n\nt"));
    assert_eq!((reason(&cut), &*cut.output), ((StopReason::StopSequence, 6), &b"one"[..]));
    let full = GenerateRequest { prompt_ids: vec![1; 4_090], ..request("p", 100) };
    let (full, _) = say("a long answer", &full);
    assert_eq!((reason(&full), &*full.output), ((StopReason::Context, 6), &b"a long"[..]));
}

#[test]
fn a_stop_sequence_is_held_back_until_it_cannot_be_one() {
    let request = GenerateRequest { stop: vec!["END".into(), "EN!".into()], ..request("p", 100) };
    let texts = |text: &str| -> Vec<String> {
        let (_, steps) = say(text, &request);
        steps.into_iter().map(|step| String::from_utf8(step.text).unwrap()).collect()
    };
    assert_eq!(texts("aENxEND"), ["a", "", "", "ENx", "", "", ""]);
    assert_eq!(texts("EEEN"), ["", "E", "E", "", "EN"]);
}

proptest! {
    #[test]
    fn the_steps_together_are_the_output_and_the_output_follows_from_the_ids(
        text in "[ab\n]{0,24}",
        stop in prop::collection::vec("[ab\n]{1,4}", 0..3),
        max_tokens in 1u32..30,
    ) {
        let request = GenerateRequest { stop: stop.clone(), ..request("p", max_tokens) };
        let (generation, steps) = say(&text, &request);
        let streamed: Vec<u8> = steps.iter().flat_map(|step| step.text.clone()).collect();
        prop_assert_eq!(&streamed, &generation.output);
        let recomputed = finish_output(&tokenizer(), &generation.ids, tokenizer().eos(), &stop);
        prop_assert_eq!(recomputed, generation.output);
    }
}

#[test]
fn the_sink_and_the_token_cancel() {
    let mut engine = engine(Shape::default());
    let request = request("Once", 400);
    let stop = &mut |step: &Step| {
        if step.position == 3 { Flow::Stop } else { Flow::Continue }
    };
    let stopped = engine.generate(&request, &mut Seeded(1), &CancelToken::new(), stop);
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    let cancel = CancelToken::new();
    let mut seen = 0;
    let cancelled = engine.generate(&request, &mut Seeded(1), &cancel, &mut |_| {
        seen += 1;
        cancel.cancel();
        Flow::Continue
    });
    assert!(matches!(cancelled, Err(EngineError::Cancelled)));
    assert_eq!(seen, 1);
    assert!(run(&mut *engine, &request, &mut Greedy).is_ok());
}

#[test]
fn another_thread_cancels_within_200_milliseconds() {
    let mut engine =
        engine(Shape { layers: 4, width: 256, hidden: 1024, context_length: 4_096, ..Shape::default() });
    let request =
        GenerateRequest { prompt_ids: vec![1; 4_000], max_tokens: 90, ..GenerateRequest::default() };
    let cancel = CancelToken::new();
    let remote = cancel.clone();
    let switch = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        remote.cancel();
        Instant::now()
    });
    let result = engine.generate(&request, &mut Greedy, &cancel, &mut |_| Flow::Continue);
    let freed_at = Instant::now();
    assert!(matches!(result, Err(EngineError::Cancelled)));
    let taken = freed_at.duration_since(switch.join().unwrap());
    assert!(taken < Duration::from_millis(200), "{taken:?}");
}

#[test]
fn a_deadline_ends_the_work() {
    let mut engine = Scripted::letters("slow").with_step_time(Duration::from_millis(500));
    let request =
        GenerateRequest { deadline: Some(Instant::now() + Duration::from_millis(20)), ..request("p", 5) };
    assert!(matches!(run(&mut engine, &request, &mut Greedy), Err(EngineError::Deadline)));
}

#[test]
fn impossible_requests_are_refused_in_words() {
    let mut engine = engine(Shape::default());
    let mut refusal =
        |request: GenerateRequest| run(&mut *engine, &request, &mut Greedy).unwrap_err().to_string();
    assert_eq!(refusal(GenerateRequest::default()), "the prompt is empty");
    let long = GenerateRequest { prompt_ids: vec![1; 512], ..request("p", 1) };
    assert_eq!(
        refusal(long),
        "the prompt has 512 tokens, the model's context holds 512 with at least one of output"
    );
    let unknown = GenerateRequest { prompt_ids: vec![1, 263], ..request("p", 1) };
    assert_eq!(refusal(unknown), "token 263 is not in the model's vocabulary");
    assert_eq!(refusal(request("p", 0)), "the request is not valid: max_tokens must be at least 1");
    let stop = GenerateRequest { stop: vec![String::new()], ..request("p", 1) };
    assert_eq!(refusal(stop), "the request is not valid: a stop sequence has 1 to 256 bytes");
    let small = GenerateRequest { max_memory_bytes: Some(1000), ..request("p", 1) };
    assert!(refusal(small).ends_with("bytes of memory, 1000 are allowed"));
}

#[test]
fn a_sampler_may_only_take_what_is_offered() {
    struct Wrong;
    impl TokenSampler for Wrong {
        fn sample(&mut self, _: u32, _: &[Candidate]) -> u32 {
            7
        }
    }
    let mut engine = Scripted::letters("letters");
    assert!(matches!(run(&mut engine, &request("p", 5), &mut Wrong), Err(EngineError::Sampler(7))));
    let generation = run(&mut engine, &request("p", 5), &mut Greedy).unwrap();
    assert_eq!(generation.output, b"aaaaa");
}
