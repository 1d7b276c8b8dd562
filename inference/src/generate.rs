//! The generation loop that all engines of this crate share.

use std::time::Instant;

use crate::output::{Output, StopRule};
use crate::{
    Candidate, EngineError, Flow, GenerateRequest, Generation, Interrupt, MAX_STOP_BYTES, MAX_STOP_SEQUENCES,
    Step, TokenSampler, Tokenizer,
};

/// Prompt tokens that are computed together, between two looks at the cancel token.
pub const PREFILL_CHUNK: usize = 32;

/// Something that knows what may come next.
pub(crate) trait Predictor {
    /// Takes a prompt, to be followed by at most `max_new` tokens, and says what may come after it.
    fn begin(
        &mut self,
        prompt: &[u32],
        max_new: u32,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Candidate>, EngineError>;

    /// Takes the token that was chosen and says what may come after it.
    fn next(&mut self, token: u32, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError>;
}

/// Runs a request on a predictor whose context holds `context` tokens.
pub(crate) fn generate(
    predictor: &mut dyn Predictor,
    tokenizer: &Tokenizer,
    context: u32,
    request: &GenerateRequest,
    interrupt: Interrupt<'_>,
    sampler: &mut dyn TokenSampler,
    sink: &mut dyn FnMut(&Step) -> Flow,
) -> Result<Generation, EngineError> {
    check(tokenizer, context, request)?;
    let started = Instant::now();
    let prompt = request.prompt_ids.len();
    let mut offered = predictor.begin(&request.prompt_ids, request.max_tokens, interrupt)?;
    let prompted = Instant::now();
    let rule = StopRule {
        eos: tokenizer.eos(),
        stop: &request.stop,
        max_tokens: request.max_tokens,
        room: context - prompt as u32,
    };
    let mut output = Output::new(tokenizer, rule);
    let mut ids = Vec::new();
    let stop_reason = loop {
        interrupt.check()?;
        let step = choose(sampler, ids.len() as u32, offered)?;
        ids.push(step.token);
        let ended = output.push(step.token);
        let text = output.take_ready();
        let token = step.token;
        if sink(&Step { text, ..step }) == Flow::Stop {
            return Err(EngineError::Cancelled);
        }
        if let Some(reason) = ended {
            break reason;
        }
        offered = predictor.next(token, interrupt)?;
    };
    Ok(Generation {
        ids,
        stop_reason,
        output: output.into_bytes(),
        prompt_time: prompted - started,
        decode_time: prompted.elapsed(),
    })
}

/// Refuses a request that no engine whose context holds `context` tokens can run.
pub(crate) fn check(
    tokenizer: &Tokenizer,
    context: u32,
    request: &GenerateRequest,
) -> Result<(), EngineError> {
    let tokens = request.prompt_ids.len();
    if tokens == 0 {
        return Err(EngineError::EmptyPrompt);
    }
    if tokens >= context as usize {
        return Err(EngineError::PromptTooLong { tokens, context });
    }
    let known = |id: &&u32| **id >= tokenizer.vocab_size();
    if let Some(id) = request.prompt_ids.iter().find(known) {
        return Err(EngineError::UnknownToken(*id));
    }
    if request.max_tokens == 0 {
        return Err(EngineError::Request("max_tokens must be at least 1"));
    }
    if request.stop.len() > MAX_STOP_SEQUENCES {
        return Err(EngineError::Request("at most 16 stop sequences"));
    }
    if !request.stop.iter().all(|stop| (1..=MAX_STOP_BYTES).contains(&stop.len())) {
        return Err(EngineError::Request("a stop sequence has 1 to 256 bytes"));
    }
    Ok(())
}

fn choose(
    sampler: &mut dyn TokenSampler,
    position: u32,
    candidates: Vec<Candidate>,
) -> Result<Step, EngineError> {
    let token = sampler.sample(position, &candidates);
    if !candidates.iter().any(|candidate| candidate.token == token) {
        return Err(EngineError::Sampler(token));
    }
    Ok(Step { position, token, candidates, text: Vec::new() })
}
