//! What ends a generation and what its output is: pure rules over token ids.

use serde::{Deserialize, Serialize};

use crate::Tokenizer;

/// Why a generation ended; where several hold for one token, the first of this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended the text.
    Eos,
    /// The output came to contain a stop sequence.
    StopSequence,
    /// As many tokens as were asked for.
    MaxTokens,
    /// Prompt and output together fill the context.
    Context,
}

/// What ends a generation.
#[derive(Debug, Clone, Copy)]
pub struct StopRule<'a> {
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// Texts that end the output when it comes to contain one; empty ones never do.
    pub stop: &'a [String],
    /// The most tokens to generate.
    pub max_tokens: u32,
    /// Tokens that the context holds beyond the prompt.
    pub room: u32,
}

/// The output of a generation: the bytes of its tokens without a final `eos`, cut at the first stop sequence.
///
/// Where several stop sequences occur, the one that begins first cuts.
pub fn finish_output(tokenizer: &Tokenizer, ids: &[u32], eos: Option<u32>, stop: &[String]) -> Vec<u8> {
    let text = match ids.split_last() {
        Some((last, before)) if Some(*last) == eos => before,
        _ => ids,
    };
    let mut bytes = tokenizer.decode(text);
    if let Some(cut) = first_stop(&bytes, stop) {
        bytes.truncate(cut);
    }
    bytes
}

/// The index of the first of `ids` at which a generation by `rule` ends, and why; nothing if it would go on.
pub fn stop_reason(tokenizer: &Tokenizer, ids: &[u32], rule: StopRule<'_>) -> Option<(usize, StopReason)> {
    let mut output = Output::new(tokenizer, rule);
    ids.iter().enumerate().find_map(|(index, &id)| Some((index, output.push(id)?)))
}

/// An output as it grows, token by token.
pub(crate) struct Output<'a> {
    tokenizer: &'a Tokenizer,
    rule: StopRule<'a>,
    longest_stop: usize,
    tokens: u32,
    bytes: Vec<u8>,
    given: usize,
    ended: bool,
}

impl<'a> Output<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, rule: StopRule<'a>) -> Self {
        Self {
            tokenizer,
            rule,
            longest_stop: rule.stop.iter().map(String::len).max().unwrap_or(0),
            tokens: 0,
            bytes: Vec::new(),
            given: 0,
            ended: false,
        }
    }

    /// Takes the next token and says whether it is the last.
    pub(crate) fn push(&mut self, token: u32) -> Option<StopReason> {
        self.tokens = self.tokens.saturating_add(1);
        let reason = if Some(token) == self.rule.eos {
            Some(StopReason::Eos)
        } else if self.append(token) {
            Some(StopReason::StopSequence)
        } else if self.tokens >= self.rule.max_tokens {
            Some(StopReason::MaxTokens)
        } else if self.tokens >= self.rule.room {
            Some(StopReason::Context)
        } else {
            None
        };
        self.ended = reason.is_some();
        reason
    }

    fn append(&mut self, token: u32) -> bool {
        let unseen = (self.bytes.len() + 1).saturating_sub(self.longest_stop);
        self.bytes.extend_from_slice(self.tokenizer.piece(token));
        let unseen = unseen.min(self.bytes.len());
        let found = first_stop(&self.bytes[unseen..], self.rule.stop);
        if let Some(at) = found {
            self.bytes.truncate(unseen + at);
        }
        found.is_some()
    }

    /// The bytes that are new since the last call and that no stop sequence can cut any more.
    pub(crate) fn take_ready(&mut self) -> Vec<u8> {
        let held = if self.ended { 0 } else { self.open_stop() };
        let ready = self.bytes[self.given..self.bytes.len() - held].to_vec();
        self.given += ready.len();
        ready
    }

    /// Length of the longest end of the output that a stop sequence may begin with.
    fn open_stop(&self) -> usize {
        let begins = |length: &usize| {
            let end = &self.bytes[self.bytes.len() - length..];
            self.rule.stop.iter().any(|stop| stop.as_bytes().starts_with(end))
        };
        let longest = self.longest_stop.saturating_sub(1).min(self.bytes.len() - self.given);
        (1..=longest).rev().find(begins).unwrap_or(0)
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn first_stop(bytes: &[u8], stop: &[String]) -> Option<usize> {
    let position = |stop: &String| match stop.as_bytes() {
        [] => None,
        stop => bytes.windows(stop.len()).position(|window| window == stop),
    };
    stop.iter().filter_map(position).min()
}
