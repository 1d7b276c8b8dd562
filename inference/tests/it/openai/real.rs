//! A real server: llama.cpp's, which `scripts/llama-server.sh` names in `SWARM_LLAMA_SERVER`.

use std::time::Instant;

use swarm_inference::{
    Candle, Engine, EngineConfig, EngineError, GenerateRequest, KERNEL_TOLERANCE, OpenAi, Provider, Sampling,
    ServerAt, ServerConfig, ServerError, Step, StopReason, finish_output, queenbee,
};

use super::{TIMES, run};

const NAME: &str = "bee";
const PROMPTS: [&str; 6] = [
    "It is a truth",
    "She was not to be persuaded; and the evening, 5 o\u{2019}clock, passed",
    "\u{201c}My dear Mr. Bennet,\u{201d} said his lady to him one day,",
    "Chapter 1\n\n",
    "\u{1f41d}",
    "No",
];

fn bee() -> EngineConfig {
    EngineConfig { model: queenbee(), max_memory_bytes: None }
}

fn provider(command: &str) -> OpenAi {
    let mut command: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let address = super::process::free_address();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/queenbee-nano/queenbee-nano-q8_0.gguf");
    command.extend([model.to_owned(), NAME.to_owned(), address.rsplit(':').next().unwrap().to_owned()]);
    let at = ServerAt::Command { command, url: format!("http://{address}") };
    let models = [(queenbee().manifest.name, NAME.to_owned())].into();
    OpenAi::new(ServerConfig {
        models,
        max_log_probabilities: 256,
        times: TIMES,
        ..ServerConfig::new(at, NAME)
    })
}

/// What the model of this crate offers after each token of a run, as far as it goes along.
fn recomputed(near: &mut dyn Engine, request: &GenerateRequest, steps: &[Step]) -> Vec<Step> {
    let mut prompt_ids = request.prompt_ids.clone();
    let mut all = Vec::new();
    for step in steps {
        let one =
            GenerateRequest { prompt_ids: prompt_ids.clone(), max_tokens: 1, ..GenerateRequest::default() };
        all.extend(run(near, &one).unwrap().1);
        prompt_ids.push(step.token);
    }
    all
}

/// The greatest difference of any candidate's cost, and how many tokens are the likeliest by one side alone.
fn compare(told: &[Step], expected: &[Step]) -> (u32, usize) {
    let mut worst = 0;
    let mut other = 0;
    for (step, near) in told.iter().zip(expected) {
        for candidate in &step.candidates {
            if let Some(own) = near.candidates.iter().find(|own| own.token == candidate.token) {
                worst = worst.max(own.cost.abs_diff(candidate.cost));
            }
        }
        other += usize::from(step.candidates[0].token != near.candidates[0].token);
    }
    (worst, other)
}

fn check(request: &GenerateRequest, made: &swarm_inference::Generation, steps: &[Step]) {
    let (tokenizer, top_k) = (queenbee().tokenizer().unwrap(), queenbee().manifest.top_k as usize);
    assert_eq!(made.output, finish_output(&tokenizer, &made.ids, tokenizer.eos(), &request.stop));
    for step in steps {
        assert!((1..=top_k).contains(&step.candidates.len()) && step.candidates.is_sorted());
        assert!(step.candidates.iter().any(|candidate| candidate.token == step.token));
    }
}

#[test]
fn a_llama_cpp_server_says_what_this_engine_would() {
    let Ok(command) = std::env::var("SWARM_LLAMA_SERVER") else {
        return println!("not run: scripts/llama-server.sh names a llama.cpp server");
    };
    let provider = provider(&command);
    let begun = Instant::now();
    let mut far = provider.start(&bee()).unwrap();
    println!("ready after {:.1} s", begun.elapsed().as_secs_f64());
    let mut near = Candle::default().start(&bee()).unwrap();
    let tokenizer = near.tokenizer().unwrap().clone();
    let (mut worst, mut others, mut tokens, mut lost) = (0, 0, 0, 0);
    for (n, prompt) in (0u64..).zip(PROMPTS.iter().cycle().take(60)) {
        let temperature = if n < 6 { 0 } else { 10_000 };
        let request = GenerateRequest {
            prompt_ids: tokenizer.encode_prompt(prompt).unwrap(),
            max_tokens: 60,
            stop: if n % 3 == 2 { vec![" he ".into(), ",".into()] } else { Vec::new() },
            sampling: Sampling { temperature, top_p: 9_500, seed: Some(n) },
            ..GenerateRequest::default()
        };
        match run(far.as_mut(), &request) {
            Ok((made, steps)) => {
                check(&request, &made, &steps);
                let (difference, other) = compare(&steps, &recomputed(near.as_mut(), &request, &steps));
                (worst, others, tokens) = (worst.max(difference), others + other, tokens + steps.len());
            }
            Err(EngineError::Server(
                error @ (ServerError::OtherText { .. } | ServerError::Miscounted { .. }),
            )) => {
                println!("prompt {n}: {error}");
                lost += 1;
            }
            Err(error) => panic!("prompt {n}: {error}"),
        }
    }
    println!("{tokens} tokens of 60 runs; greatest difference of a cost {worst}, at most {KERNEL_TOLERANCE}");
    println!("{others} of them likeliest on one side alone; {lost} runs refused");
    assert!(worst <= KERNEL_TOLERANCE && others * 50 <= tokens && lost * 10 <= 60);

    let full = GenerateRequest { prompt_ids: vec![300; 250], max_tokens: 60, ..GenerateRequest::default() };
    let (made, steps) = run(far.as_mut(), &full).unwrap();
    assert_eq!((made.stop_reason, steps.len()), (StopReason::Context, 6));
    let stats = provider.stats();
    let rate = stats.output_tokens as f64 / stats.decode_time.as_secs_f64();
    println!(
        "{} requests, {} failed, {rate:.0} tokens a second",
        stats.finished + stats.failed,
        stats.failed
    );
    provider.stop();
}
