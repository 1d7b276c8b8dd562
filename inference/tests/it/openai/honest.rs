//! A server that runs this crate's own engine: what comes through it is what the engine yields.

use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use swarm_inference::testing::{Scripted, manifest, model};
use swarm_inference::{
    CancelToken, Candidate, Candle, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Hardware,
    Manifest, Model, OpenAi, Provider, Registry, RunningProvider, Sampling, ServerConfig, ServerError,
    StopReason, Support, TokenSampler, queenbee, read_sidecar, write_sidecar,
};

use super::loopback::{Answer, Loopback};
use super::wire::{Form, complete};
use super::{MODEL, config, provider, request, run, server_at, start};

/// Takes tokens by a seed, and the first at temperature 0.
struct ByRequest(Sampling, u64);

impl TokenSampler for ByRequest {
    fn sample(&mut self, _: u32, candidates: &[Candidate]) -> u32 {
        self.1 = self.1.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let among = if self.0.temperature == 0 { 1 } else { candidates.len().min(8) };
        candidates[(self.1 >> 33) as usize % among].token
    }
}

fn sampler(sampling: Sampling) -> ByRequest {
    ByRequest(sampling, sampling.seed.unwrap_or(0))
}

fn answer(engine: Box<dyn Engine>, form: Form) -> Arc<Answer> {
    let engine = Mutex::new(engine);
    Arc::new(move |body: &Value, stream: &mut TcpStream| {
        let mut by_request = sampler(super::wire::read_request(body).sampling);
        complete(engine.lock().unwrap().as_mut(), &mut by_request, form, body, stream)
    })
}

fn candle() -> Box<dyn Engine> {
    Candle::default().start(&config()).unwrap()
}

fn requests() -> Vec<GenerateRequest> {
    let seeded = |seed| Sampling { temperature: 8_000, top_p: 9_500, seed: Some(seed) };
    let mut all: Vec<_> =
        (0..6).map(|seed| GenerateRequest { sampling: seeded(seed), ..request(24) }).collect();
    all.push(request(40));
    all.push(GenerateRequest { prompt_ids: vec![7; 500], ..request(100) });
    all
}

#[test]
fn what_a_server_runs_comes_out_as_if_it_ran_here() {
    for form in [Form::Entries, Form::Numbered] {
        let server = Loopback::start(answer(candle(), form));
        let (mut far, mut near) = (start(&provider(&server.url())), candle());
        assert!(far.samples_itself() && !near.samples_itself());
        for request in requests() {
            let (made, steps) = run(far.as_mut(), &request).unwrap();
            let mut expected = Vec::new();
            let direct =
                near.generate(&request, &mut sampler(request.sampling), &CancelToken::new(), &mut |step| {
                    expected.push(step.clone());
                    Flow::Continue
                });
            let direct = direct.unwrap();
            assert_eq!(steps, expected, "{form:?}");
            assert_eq!((made.ids, made.output), (direct.ids, direct.output), "{form:?}");
            assert_eq!(made.stop_reason, direct.stop_reason);
        }
    }
}

#[test]
fn texts_do_where_each_is_one_token() {
    let letters = || Scripted::letters(MODEL);
    let server = Loopback::start(answer(Box::new(letters()), Form::Lists));
    let mut far = start(&provider(&server.url()));
    let asked = GenerateRequest { stop: vec!["aaaa".into()], ..request(9) };
    let (made, steps) = run(far.as_mut(), &asked).unwrap();
    assert_eq!((made.stop_reason, made.ids.len(), made.output.len()), (StopReason::StopSequence, 4, 0));
    let (_, expected) = run(&mut letters(), &asked).unwrap();
    assert_eq!(steps, expected);
}

#[test]
fn texts_that_several_tokens_spell_or_none_are_refused() {
    let server = Loopback::start(answer(candle(), Form::Entries));
    let mut far = start(&provider(&server.url()));
    server.answer(answer(candle(), Form::Lists));
    let error = run(far.as_mut(), &request(20)).unwrap_err();
    assert!(matches!(error, EngineError::Server(ServerError::Token { .. })), "{error}");
    assert!(error.to_string().contains("no text"), "{error}");
}

#[test]
fn a_request_reaches_the_server_whole() {
    let server = Loopback::start(answer(Box::new(Scripted::letters(MODEL)), Form::Entries));
    let mut far = start(&provider(&server.url()));
    let sampling = Sampling { temperature: 7_000, top_p: 9_000, seed: Some((5 << 32) + 6) };
    let asked = GenerateRequest { stop: vec!["zz".into(), "é".into()], sampling, ..request(3) };
    run(far.as_mut(), &asked).unwrap();
    let body = server.asked().pop().unwrap();
    let expected = serde_json::json!({
        "model": MODEL, "prompt": [84, 104, 101], "max_tokens": 3, "stop": ["zz", "é"],
        "temperature": 0.7, "top_p": 0.9, "seed": 6, "top_k": 32, "stream": true, "logprobs": 32,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&body[name], value, "{name}");
    }
}

#[test]
fn fewer_log_probabilities_are_asked_for_where_the_server_states_no_more() {
    let server = Loopback::start(answer(candle(), Form::Numbered));
    let config = ServerConfig { max_log_probabilities: 5, ..server_at(&server.url()) };
    start(&OpenAi::new(config));
    assert_eq!(server.asked()[0]["logprobs"], 5);
}

#[test]
fn candidates_beyond_k_are_left_out_and_the_chosen_one_never() {
    let wide = Manifest { top_k: 256, ..config().model.manifest };
    let narrow = Manifest { top_k: 3, ..config().model.manifest };
    let of = |manifest| EngineConfig { model: Model { manifest, ..config().model }, max_memory_bytes: None };
    let server = Loopback::start(answer(Candle::default().start(&of(wide)).unwrap(), Form::Entries));
    let mut far = provider(&server.url()).start(&of(narrow)).unwrap();
    let sampling = Sampling { temperature: 20_000, top_p: 10_000, seed: Some(3) };
    let (_, steps) = run(far.as_mut(), &GenerateRequest { sampling, ..request(30) }).unwrap();
    assert!(steps.iter().any(|step| step.candidates[0].token != step.token));
    for step in steps {
        assert!(step.candidates.len() == 3 && step.candidates.is_sorted());
        assert!(step.candidates.iter().any(|candidate| candidate.token == step.token));
    }
}

#[test]
fn the_built_in_model_reads_and_says_the_same_through_a_server() {
    let bee = EngineConfig { model: queenbee(), max_memory_bytes: None };
    let name = &queenbee().manifest.name;
    let mut near = Candle::default().start(&bee).unwrap();
    let server = Loopback::start(answer(Candle::default().start(&bee).unwrap(), Form::Entries));
    let models = [(name.clone(), MODEL.to_owned())].into();
    let mut far = OpenAi::new(ServerConfig { models, ..server_at(&server.url()) }).start(&bee).unwrap();
    let prompt_ids = near.tokenizer().unwrap().encode_prompt("It is a truth").unwrap();
    let asked = GenerateRequest { prompt_ids, stop: vec!["woman".into()], ..request(60) };
    let (made, steps) = run(far.as_mut(), &asked).unwrap();
    let (direct, expected) = run(near.as_mut(), &asked).unwrap();
    assert_eq!((steps, made.output, made.stop_reason), (expected, direct.output, direct.stop_reason));
    assert_eq!(made.stop_reason, StopReason::StopSequence);
}

#[test]
fn a_provider_is_asked_only_for_the_models_of_its_server() {
    let machine = Hardware { memory_bytes: 1 << 20, cores: 1 };
    let provider = provider("http://127.0.0.1:9");
    assert_eq!(provider.detect(&machine, &manifest(MODEL)), Support::Supported);
    let Support::Unsupported(reason) = provider.detect(&machine, &manifest("other")) else {
        panic!("supported")
    };
    assert_eq!(reason, "the server at http://127.0.0.1:9 is not set up for the model other");
    let error = provider.start(&config()).err().unwrap();
    assert!(error.to_string().starts_with("the server could not be reached: "), "{error}");
    for url in ["https://host", "127.0.0.1:80", "http://", "http://host/?x=1", "http://me:secret@host"] {
        let error = super::provider(url).start(&config()).err().unwrap();
        assert!(matches!(error, EngineError::Server(ServerError::Address(_))), "{url}: {error}");
    }
}

#[test]
fn a_server_without_the_model_is_refused_at_the_start() {
    let server = Loopback::start(answer(candle(), Form::Entries));
    let models = [(MODEL.to_owned(), "big".to_owned())].into();
    let provider = OpenAi::new(ServerConfig { models, ..server_at(&server.url()) });
    let error = provider.start(&config()).err().unwrap();
    assert_eq!(error.to_string(), "the server has no model \"big\"; it has tiny");
    assert!(!provider.is_running());
}

#[test]
fn engines_are_counted_and_the_sidecar_tells_servers_by_their_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("providers.json");
    let server = Loopback::start(answer(candle(), Form::Entries));
    let (far, near) = (Arc::new(provider(&server.url())), Arc::new(Candle::default()));
    let mut registry = Registry::empty();
    assert!(registry.register(far.clone()) && registry.register(near.clone()));
    assert!(!registry.register(Arc::new(provider("http://127.0.0.1:9"))));
    assert_eq!(read_sidecar(&path).unwrap(), []);

    let (mut one, two) = (start(&*far), start(&*far));
    let other = near.start(&EngineConfig { model: model("m", Default::default()).unwrap(), ..config() });
    let made = run(one.as_mut(), &request(5)).unwrap().0;
    let stats = far.stats();
    // Each start tries one token of one.
    assert_eq!((stats.engines, stats.finished, stats.output_tokens), (2, 1, made.ids.len() as u64));
    write_sidecar(&path, &registry).unwrap();
    let said = read_sidecar(&path).unwrap();
    let running = |endpoint: Option<String>| move |p: &RunningProvider| p.endpoint == endpoint;
    assert_eq!(said.iter().filter(|p| running(Some(server.url()))(p)).count(), 1);
    assert_eq!(said.iter().filter(|p| running(None)(p)).count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    drop(two);
    far.stop();
    assert!(!far.is_running() && matches!(run(one.as_mut(), &request(1)), Err(EngineError::Cancelled)));
    write_sidecar(&path, &registry).unwrap();
    assert!(read_sidecar(&path).unwrap().iter().all(|running| running.endpoint.is_none()));
    assert!(run(start(&*far).as_mut(), &request(1)).is_ok());
    drop((one, other));
    assert_eq!((far.stats().engines, near.stats().engines), (0, 0));
}
