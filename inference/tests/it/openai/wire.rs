//! Steps of an engine as servers write them.

use std::net::TcpStream;

use serde_json::{Map, Value, json};
use swarm_inference::{Candidate, Engine, Flow, GenerateRequest, Sampling, Step, TokenSampler, Tokenizer};

use super::loopback::{chunked, end, event};

/// How a server states log-probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A list of entries with ids and bytes, as llama.cpp does.
    Entries,
    /// Lists of texts and numbers, as servers did from the first.
    Lists,
    /// The same with ids in place of texts, as vLLM does when asked.
    Numbered,
}

pub fn log_probability(candidate: &Candidate) -> f64 {
    -f64::from(candidate.cost) / 4096.0 * std::f64::consts::LN_2
}

/// The event of one step, `text` having become whole with it.
pub fn step_event(form: Form, tokenizer: &Tokenizer, step: &Step, text: &str) -> Value {
    let own = step.candidates.iter().find(|candidate| candidate.token == step.token).unwrap();
    let piece = |token: u32| String::from_utf8_lossy(tokenizer.piece(token)).into_owned();
    let entry = |candidate: &Candidate| {
        let Candidate { token, .. } = *candidate;
        json!({ "id": token, "token": piece(token), "bytes": tokenizer.piece(token),
            "logprob": log_probability(candidate) })
    };
    let name = |token| if form == Form::Lists { piece(token) } else { format!("token_id:{token}") };
    let log_probabilities = match form {
        Form::Entries => {
            let mut chosen = entry(own);
            chosen["top_logprobs"] = step.candidates.iter().map(entry).collect();
            json!({ "content": [chosen] })
        }
        Form::Lists | Form::Numbered => {
            let top: Map<String, Value> =
                step.candidates.iter().map(|c| (name(c.token), json!(log_probability(c)))).collect();
            json!({ "text_offset": [0], "tokens": [name(step.token)],
                "token_logprobs": [log_probability(own)], "top_logprobs": [top] })
        }
    };
    json!({ "object": "text_completion", "choices": [{ "index": 0, "text": text,
        "logprobs": log_probabilities, "finish_reason": null }] })
}

/// The event that ends a completion.
pub fn last_event(prompt: usize, tokens: usize) -> Value {
    json!({ "choices": [{ "index": 0, "text": "", "logprobs": null, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens } })
}

/// What a client asked for, as this crate's own engines take it.
pub fn read_request(body: &Value) -> GenerateRequest {
    let units = |name: &str| (body[name].as_f64().unwrap() * 10_000.0).round() as u32;
    GenerateRequest {
        prompt_ids: serde_json::from_value(body["prompt"].clone()).unwrap(),
        max_tokens: body["max_tokens"].as_u64().unwrap() as u32,
        stop: serde_json::from_value(body["stop"].clone()).unwrap(),
        sampling: Sampling {
            temperature: units("temperature"),
            top_p: units("top_p"),
            seed: body["seed"].as_u64(),
        },
        ..GenerateRequest::default()
    }
}

/// Answers with what an engine generates, each step as it comes.
pub fn complete(
    engine: &mut dyn Engine,
    sampler: &mut dyn TokenSampler,
    form: Form,
    body: &Value,
    stream: &mut TcpStream,
) -> std::io::Result<()> {
    let request = read_request(body);
    let tokenizer = engine.tokenizer().unwrap().clone();
    chunked(stream)?;
    let (mut held, mut count) = (Vec::new(), 0);
    let mut sink = |step: &Step| {
        count += 1;
        held.extend_from_slice(&step.text);
        let text = take_whole(&mut held);
        match event(stream, &step_event(form, &tokenizer, step, &text).to_string()) {
            Ok(()) => Flow::Continue,
            Err(_) => Flow::Stop,
        }
    };
    let made = engine.generate(&request, sampler, &Default::default(), &mut sink);
    if made.is_ok() {
        event(stream, &last_event(request.prompt_ids.len(), count).to_string())?;
    }
    end(stream)
}

/// The text up to a character that is not whole yet; bytes that never will be are replaced.
fn take_whole(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(held) {
            Ok(all) => text.push_str(all),
            Err(error) => {
                text.push_str(std::str::from_utf8(&held[..error.valid_up_to()]).unwrap());
                if let Some(broken) = error.error_len() {
                    text.push(char::REPLACEMENT_CHARACTER);
                    held.drain(..error.valid_up_to() + broken);
                    continue;
                }
                held.drain(..error.valid_up_to());
                return text;
            }
        }
        held.clear();
        return text;
    }
}
