//! One request from prompt to end, as a server runs it and the rules of this crate see it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::http::{Endpoint, Exchange, plain};
use super::reading::{Added, Chosen, Reading, Usage};
use super::{ServerError, ServerTimes};
use crate::generate::check;
use crate::output::{Output, StopRule};
use crate::{
    EngineError, Flow, GenerateRequest, Generation, Interrupt, Manifest, Step, StopReason, Tokenizer,
};

/// Events in a row that may bring no token.
const MAX_EMPTY_EVENTS: u32 = 256;
/// How long the end of a stream is waited for once the last token is there.
const CLOSING: Duration = Duration::from_secs(2);
/// What text has in place of bytes that are none: U+FFFD.
const REPLACEMENT: &[u8] = "\u{FFFD}".as_bytes();
/// What ends a stream.
const DONE: &str = "[DONE]";

/// What a run needs besides its request.
pub(super) struct Runner<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) times: &'a ServerTimes,
    pub(super) manifest: &'a Manifest,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) reading: &'a Reading,
    /// The model's name at the server.
    pub(super) model: &'a str,
    /// How many log-probabilities are asked for at each position.
    pub(super) log_probabilities: u32,
}

impl Runner<'_> {
    pub(super) fn run(
        &self,
        request: &GenerateRequest,
        interrupt: Interrupt<'_>,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let context = self.manifest.context_length;
        check(self.tokenizer, context, request)?;
        let room = context - request.prompt_ids.len() as u32;
        let rule =
            StopRule { eos: self.tokenizer.eos(), stop: &request.stop, max_tokens: request.max_tokens, room };
        let started = Instant::now();
        let exchange = self.endpoint.post("/v1/completions", self.body(request, room));
        let mut progress = Progress {
            request,
            interrupt,
            times: self.times,
            started,
            first_at: None,
            last_at: started,
            output: Output::new(self.tokenizer, rule),
            ids: Vec::new(),
            text: Text { tokenizer: self.tokenizer, untold: Vec::new(), replaced: false },
            empty: 0,
        };
        let reason = loop {
            let data = progress.wait(&exchange)?;
            let added = self.reading.event(&data, progress.ids.len())?;
            if let Some(reason) = progress.take(added, sink)? {
                break reason;
            }
        };
        let counts = Counts { prompt: request.prompt_ids.len(), output: progress.ids.len() };
        self.count(&exchange, interrupt, counts)?;
        Ok(progress.finish(reason))
    }

    fn body(&self, request: &GenerateRequest, room: u32) -> String {
        let sampling = request.sampling;
        let share = |units: u32| f64::from(units) / 10_000.0;
        let mut body = json!({
            "model": self.model,
            "prompt": request.prompt_ids,
            "max_tokens": request.max_tokens.min(room),
            "stop": request.stop,
            "temperature": share(sampling.temperature),
            "top_p": share(sampling.top_p),
            "stream": true,
            "stream_options": { "include_usage": true },
            "logprobs": self.log_probabilities,
            // Names that vLLM, SGLang and llama.cpp know, so that nothing they were started with shifts the odds.
            "top_k": self.manifest.top_k,
            "min_p": 0,
            "repetition_penalty": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "return_tokens_as_token_ids": true,
            "return_token_ids": true,
        });
        if let Some(seed) = sampling.seed {
            // What the narrowest of them takes.
            body["seed"] = json!(seed & 0x7fff_ffff);
        }
        body.to_string()
    }

    /// Hears the server out after the last token: what it counts has to be what it told of.
    fn count(
        &self,
        exchange: &Exchange,
        interrupt: Interrupt<'_>,
        counts: Counts,
    ) -> Result<(), EngineError> {
        let until = Instant::now() + CLOSING;
        for _ in 0..MAX_EMPTY_EVENTS {
            // Whatever comes instead: all that was wanted of it is there.
            let Ok(Some(data)) = exchange.next(interrupt, until, CLOSING) else {
                return Ok(());
            };
            match self.reading.event(&data, 0) {
                Ok(Added { usage: Some(usage), .. }) => return counts.check(usage),
                Ok(added) if added.tokens.is_empty() => {}
                // It goes on where the rules end, which is its own affair, or it is done.
                Ok(_) | Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Tokens of a finished run, as far as this side knows.
struct Counts {
    prompt: usize,
    output: usize,
}

impl Counts {
    fn check(&self, usage: Usage) -> Result<(), EngineError> {
        if usage.prompt_tokens != self.prompt as u64 {
            return Err(ServerError::OtherPrompt.into());
        }
        match usage.completion_tokens {
            Some(counted) if counted != self.output as u64 => {
                Err(ServerError::Miscounted { counted, told: self.output }.into())
            }
            _ => Ok(()),
        }
    }
}

/// A run as far as it got.
struct Progress<'a> {
    request: &'a GenerateRequest,
    interrupt: Interrupt<'a>,
    times: &'a ServerTimes,
    started: Instant,
    first_at: Option<Instant>,
    last_at: Instant,
    output: Output<'a>,
    ids: Vec<u32>,
    text: Text<'a>,
    empty: u32,
}

impl Progress<'_> {
    /// The data of the next event, within the time that is left for the next token.
    fn wait(&mut self, exchange: &Exchange) -> Result<String, EngineError> {
        let patience = match self.first_at {
            None => self.times.first_token,
            Some(_) => self.times.next_token,
        };
        if self.empty > MAX_EMPTY_EVENTS {
            return Err(ServerError::NoTokens(MAX_EMPTY_EVENTS).into());
        }
        if self.last_at.elapsed() > patience {
            return Err(ServerError::Silent(patience).into());
        }
        match exchange.next(self.interrupt, self.last_at + patience, patience)? {
            Some(data) if data != DONE => Ok(data),
            _ => Err(self.ended_early("it does not say why")),
        }
    }

    fn ended_early(&self, finish: &str) -> EngineError {
        ServerError::EndedEarly { tokens: self.ids.len(), finish: plain(finish) }.into()
    }

    /// Takes what an event adds, and says whether that ends the run.
    fn take(
        &mut self,
        added: Added,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Option<StopReason>, EngineError> {
        if added.prompt.is_some_and(|prompt| prompt != self.request.prompt_ids) {
            return Err(ServerError::OtherPrompt.into());
        }
        self.empty = if added.tokens.is_empty() { self.empty + 1 } else { 0 };
        let (mut steps, mut ended) = (Vec::with_capacity(added.tokens.len()), None);
        for chosen in added.tokens {
            let (step, reason) = self.step(chosen);
            steps.push(step);
            ended = reason;
            if ended.is_some() {
                break;
            }
        }
        // Before anybody hears of tokens between which one is missing.
        if !self.text.tells(&added.text) {
            return Err(ServerError::OtherText { tokens: self.ids.len() }.into());
        }
        for step in &steps {
            if sink(step) == Flow::Stop {
                return Err(EngineError::Cancelled);
            }
        }
        match added.finish {
            Some(finish) if ended.is_none() => Err(self.ended_early(&finish)),
            _ => Ok(ended),
        }
    }

    fn step(&mut self, chosen: Chosen) -> (Step, Option<StopReason>) {
        let Chosen { token, candidates } = chosen;
        self.last_at = Instant::now();
        self.first_at.get_or_insert(self.last_at);
        self.text.push(token);
        let position = self.ids.len() as u32;
        self.ids.push(token);
        let ended = self.output.push(token);
        (Step { position, token, candidates, text: self.output.take_ready() }, ended)
    }

    fn finish(self, stop_reason: StopReason) -> Generation {
        let first_at = self.first_at.unwrap_or(self.last_at);
        Generation {
            ids: self.ids,
            stop_reason,
            output: self.output.into_bytes(),
            prompt_time: first_at - self.started,
            decode_time: self.last_at - first_at,
        }
    }
}

/// What the tokens so far spell, and how much of that the server has told as text.
///
/// A server may hold text back, and llama.cpp's tells of no token that ends within a character: its text then has
/// more than its tokens do.
struct Text<'a> {
    tokenizer: &'a Tokenizer,
    untold: Vec<u8>,
    /// Whether what follows cannot be compared, since the server replaced bytes that are no text.
    replaced: bool,
}

impl Text<'_> {
    fn push(&mut self, token: u32) {
        if !self.replaced {
            self.untold.extend_from_slice(self.tokenizer.piece(token));
        }
    }

    /// Whether the tokens spell what the server tells next.
    fn tells(&mut self, told: &[u8]) -> bool {
        if self.replaced {
            return true;
        }
        let end = told.windows(REPLACEMENT.len()).position(|bytes| bytes == REPLACEMENT);
        let whole = &told[..end.unwrap_or(told.len())];
        let spelt = self.untold.starts_with(whole);
        if spelt {
            self.untold.drain(..whole.len());
        }
        self.replaced = end.is_some();
        spelt
    }
}
