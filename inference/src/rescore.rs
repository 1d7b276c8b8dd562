//! A finished text, scored by somebody who did not write it: what every output token was to be chosen from.

use std::time::Instant;

use crate::candidates::Softmax;
use crate::{Candidate, Decoder, EngineError, Interrupt, MAX_TOP_K};

/// The most tokens whose costs are asked for at one position.
pub const MAX_ASKED: usize = MAX_TOP_K as usize;

/// A finished text and what is to be said of it.
#[derive(Debug, Clone, Default)]
pub struct RescoreRequest {
    /// Token ids of the prompt, at least one.
    pub prompt_ids: Vec<u32>,
    /// The output, token by token; prompt and output fit the context.
    pub output: Vec<Asked>,
    /// How many of the likeliest tokens to name at each position, at most twice [`MAX_TOP_K`].
    pub top_k: u32,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// The most memory that the weights and this request may take together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// One output position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The token that was chosen.
    pub token: u32,
    /// The tokens whose costs are wanted, at most [`MAX_ASKED`].
    pub tokens: Vec<u32>,
}

/// What the model says of one output position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rescored {
    /// Costs of the tokens that were asked for, in their order, as in [`Candidate::cost`].
    pub costs: Vec<u32>,
    /// The likeliest tokens, as [`crate::candidates`] names them.
    pub top: Vec<Candidate>,
}

impl RescoreRequest {
    fn check(&self) -> Result<(), EngineError> {
        if self.output.is_empty() {
            return Err(EngineError::Request("there is no output to score"));
        }
        if self.top_k > 2 * MAX_TOP_K {
            return Err(EngineError::Request("at most 512 candidates are named"));
        }
        if self.output.iter().any(|asked| asked.tokens.len() > MAX_ASKED) {
            return Err(EngineError::Request("at most 256 costs are asked for at a position"));
        }
        Ok(())
    }

    /// What the decoder sees: the last token has nothing after it to be scored.
    fn tokens(&self) -> Vec<u32> {
        let output = self.output.iter().map(|asked| asked.token);
        let mut tokens: Vec<u32> = self.prompt_ids.iter().copied().chain(output).collect();
        tokens.pop();
        tokens
    }
}

impl Decoder {
    /// Memory that [`Decoder::rescore`] takes beside the weights, in bytes, an upper estimate.
    pub fn rescore_bytes(&self, request: &RescoreRequest) -> u64 {
        let answers: usize =
            request.output.iter().map(|asked| asked.tokens.len() + 2 * request.top_k as usize).sum();
        // Logits of a chunk twice, once as the tensor; and a vocabulary of candidates to choose the likeliest from.
        let logits = (2 * self.compute().chunk() + 2) * self.config().vocab_size;
        self.sequence_bytes(request.prompt_ids.len() + request.output.len()) + 4 * (answers + logits) as u64
    }

    /// Scores a finished text in one prefill, as many tokens at a time as a pass takes.
    pub fn rescore(
        &self,
        request: &RescoreRequest,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Rescored>, EngineError> {
        request.check()?;
        let from = request.prompt_ids.len().checked_sub(1).ok_or(EngineError::EmptyPrompt)?;
        let mut found = Vec::with_capacity(request.output.len());
        self.each_position(&request.tokens(), from, interrupt, &mut |position, logits| {
            let softmax = Softmax::of(logits)?;
            let cost = |token: &u32| softmax.cost_of(*token).ok_or(EngineError::UnknownToken(*token));
            let asked = &request.output[position - from].tokens;
            let costs = asked.iter().map(cost).collect::<Result<_, _>>()?;
            found.push(Rescored { costs, top: softmax.top(request.top_k as usize) });
            Ok(())
        })?;
        Ok(found)
    }
}
