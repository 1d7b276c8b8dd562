use std::sync::Arc;

use swarm_inference::{
    CancelToken, Engine, EngineConfig, Flow, GenerateRequest, Greedy, Hardware, Provider, Registry, Support,
    finish_output, queenbee,
};

fn provider() -> Arc<dyn Provider> {
    let hardware = Hardware::probe();
    let manifest = queenbee().manifest;
    let provider = Registry::standard().find(&hardware, &manifest).unwrap();
    assert_eq!(provider.detect(&hardware, &manifest), Support::Supported);
    provider
}

fn engine() -> Box<dyn Engine> {
    let config = EngineConfig { model: queenbee(), max_memory_bytes: Some(64 << 20) };
    provider().start(&config).unwrap()
}

#[test]
fn the_compiled_in_model_equals_its_manifest_and_runs_within_64_mebibytes() {
    let mut engine = engine();
    let tokenizer = engine.tokenizer().unwrap().clone();
    let request = GenerateRequest {
        prompt_ids: tokenizer.encode_prompt("It is a truth").unwrap(),
        max_tokens: 40,
        max_memory_bytes: Some(64 << 20),
        ..GenerateRequest::default()
    };
    let generation =
        engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue).unwrap();
    let text = String::from_utf8(generation.output.clone()).unwrap();
    assert!(text.split_whitespace().count() >= 10, "{text:?}");
    let letters = text.chars().filter(|c| c.is_ascii_alphabetic()).count();
    assert!(letters * 2 > text.len(), "{text:?}");
    assert_eq!(generation.output, finish_output(&tokenizer, &generation.ids, tokenizer.eos(), &[]));
}

#[test]
fn its_tokenizer_merges_words_and_keeps_every_byte() {
    let tokenizer = queenbee().tokenizer().unwrap();
    let text = "She was not to be persuaded; and the evening, 5 o\u{2019}clock, passed \u{1f41d}\n";
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    assert!(ids.len() < text.len() / 2, "{} tokens", ids.len());
    assert_eq!(tokenizer.vocab_size(), queenbee().manifest.vocab_size);
    assert!(tokenizer.eos().is_some());
}

/// What it said before the engine was written anew, to the token.
#[test]
fn its_likeliest_words_stay_what_they_were() {
    let mut engine = engine();
    let prompt_ids = engine.tokenizer().unwrap().encode_prompt("It is a truth").unwrap();
    let request = GenerateRequest { prompt_ids, max_tokens: 40, ..GenerateRequest::default() };
    let generation =
        engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue).unwrap();
    let said = ", and I am sure it will be a very good sort of woman, and a very good-natured woman, \
                and a very good-natured woman, and a very good-";
    assert_eq!(String::from_utf8(generation.output).unwrap(), said);
}
