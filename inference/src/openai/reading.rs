//! What a server says of the tokens that it chose, in the shapes that servers say it.

use std::collections::{BTreeSet, HashMap};
use std::f64::consts::LN_2;

use serde::Deserialize;

use super::ServerError;
use super::http::plain;
use crate::{COST_SCALE, Candidate, MAX_COST, Tokenizer};

/// How far above 0 rounding may lift a log-probability.
const MAX_LOG_PROBABILITY: f64 = 1e-6;
/// How far above 1 rounding may lift the sum of a position's probabilities.
const MAX_EXCESS: f64 = 1.0 / 8192.0;
/// A token as vLLM writes it with `return_tokens_as_token_ids`.
const NUMBERED: &str = "token_id:";
/// What stands for bytes that are no text.
const REPLACEMENT: char = '\u{FFFD}';

/// One event of a streamed completion.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Chunk {
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    index: u32,
    text: Option<String>,
    logprobs: Option<LogProbs>,
    token_ids: Option<Vec<u32>>,
    prompt_token_ids: Option<Vec<u32>>,
    finish_reason: Option<String>,
}

/// How many tokens a server counted.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: Option<u64>,
}

/// Either a list of entries, or lists of texts, numbers and tables side by side.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogProbs {
    content: Option<Vec<Entry>>,
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    top_logprobs: Vec<HashMap<String, f64>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(flatten)]
    chosen: Told,
    #[serde(default)]
    top_logprobs: Vec<Told>,
}

/// A token and its log-probability, as told.
#[derive(Debug, Deserialize)]
struct Told {
    #[serde(default)]
    id: Option<u32>,
    token: String,
    logprob: f64,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
}

/// What one event adds to a completion.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// The tokens that were chosen, each with its position's candidates.
    pub(super) tokens: Vec<Chosen>,
    /// What the server made of tokens, some of which may have been told long before.
    pub(super) text: Vec<u8>,
    /// The prompt as the server read it, where it says that.
    pub(super) prompt: Option<Vec<u32>>,
    /// What the server counted.
    pub(super) usage: Option<Usage>,
    /// Why the server ends.
    pub(super) finish: Option<String>,
}

/// A token that was chosen, and what from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) token: u32,
    pub(super) candidates: Vec<Candidate>,
}

/// Reads events for one tokenizer.
pub(super) struct Reading {
    tokenizer: Tokenizer,
    top_k: usize,
    /// The one token of some bytes; nothing where there are several.
    ids: HashMap<Vec<u8>, Option<u32>>,
}

impl Reading {
    pub(super) fn new(tokenizer: Tokenizer, top_k: u32) -> Self {
        let mut ids = HashMap::new();
        for id in 0..tokenizer.vocab_size() {
            ids.entry(tokenizer.piece(id).to_vec()).and_modify(|known| *known = None).or_insert(Some(id));
        }
        Self { tokenizer, top_k: top_k as usize, ids }
    }

    /// Reads the data of an event; `position` is that of the first token in it.
    pub(super) fn event(&self, data: &str, position: usize) -> Result<Added, ServerError> {
        // Without what it says: that may be the output.
        let malformed = |error: serde_json::Error| ServerError::Malformed(error.to_string());
        let chunk: Chunk = serde_json::from_str(data).map_err(malformed)?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            let message = error.get("message").and_then(|message| message.as_str());
            return Err(ServerError::Reported(plain(message.unwrap_or(&error.to_string()))));
        }
        let mut added = Added { usage: chunk.usage, ..Added::default() };
        match <[Choice; 1]>::try_from(chunk.choices) {
            Ok([choice]) if choice.index == 0 => self.choice(choice, position, &mut added)?,
            Err(none) if none.is_empty() => {}
            _ => return Err(ServerError::Malformed("it has choices that nobody asked for".into())),
        }
        Ok(added)
    }

    fn choice(&self, choice: Choice, position: usize, added: &mut Added) -> Result<(), ServerError> {
        let tokens = match choice.logprobs {
            None => Vec::new(),
            Some(LogProbs { content: Some(content), .. }) => content,
            Some(lists) => entries(lists)?,
        };
        for (at, entry) in (position..).zip(&tokens) {
            let fault = |why| ServerError::Token { position: at, why };
            added.tokens.push(self.chosen(entry).map_err(fault)?);
        }
        check_ids(choice.token_ids, &added.tokens)?;
        let text = choice.text.unwrap_or_default();
        added.text = self.bytes_told(&tokens).unwrap_or_else(|| text.into_bytes());
        added.prompt = choice.prompt_token_ids;
        added.finish = choice.finish_reason;
        // Servers that state none still tell of text, and nothing else gives that away.
        match added.tokens.is_empty() && added.finish.is_none() && !added.text.is_empty() {
            true => Err(ServerError::NoLogProbabilities),
            false => Ok(()),
        }
    }

    /// What tokens are told to spell, where that is told of all in bytes, which text may not be able to show.
    fn bytes_told(&self, tokens: &[Entry]) -> Option<Vec<u8>> {
        // Some spell out the names of control tokens, which are no part of an output.
        let is_text = |told: &Told| told.id.is_none_or(|id| !self.tokenizer.piece(id).is_empty());
        let told = tokens.iter().map(|entry| &entry.chosen).filter(|told| is_text(told));
        let bytes: Vec<_> = told.map(|told| told.bytes.as_deref()).collect::<Option<_>>()?;
        (!tokens.is_empty()).then(|| bytes.concat())
    }

    fn chosen(&self, entry: &Entry) -> Result<Chosen, String> {
        let token = self.id(&entry.chosen)?;
        let mut candidates = Vec::with_capacity(entry.top_logprobs.len() + 1);
        for told in &entry.top_logprobs {
            candidates.push(Candidate { token: self.id(told)?, cost: cost(told.logprob)? });
        }
        let distinct: BTreeSet<u32> = candidates.iter().map(|candidate| candidate.token).collect();
        if distinct.len() != candidates.len() {
            return Err("has a candidate twice".into());
        }
        let own = Candidate { token, cost: cost(entry.chosen.logprob)? };
        let stated = candidates.iter().find(|candidate| candidate.token == token);
        let own = *stated.unwrap_or(&own);
        candidates.retain(|candidate| candidate.token != token);
        candidates.sort_unstable();
        candidates.truncate(self.top_k.saturating_sub(1));
        candidates.push(own);
        candidates.sort_unstable();
        check_mass(&candidates)?;
        Ok(Chosen { token, candidates })
    }

    /// The id of a token that is told by its number or, where only one token has it, by its text.
    fn id(&self, told: &Told) -> Result<u32, String> {
        let numbered = told.token.strip_prefix(NUMBERED).and_then(|id| id.parse().ok());
        let id = match (told.id.or(numbered), &told.bytes) {
            (Some(id), _) => id,
            (None, Some(bytes)) => self.of_bytes(bytes, &told.token)?,
            (None, None) if told.token.contains(REPLACEMENT) => {
                return Err(format!("is told as {:?}, which is no text", plain(&told.token)));
            }
            (None, None) => self.of_bytes(told.token.as_bytes(), &told.token)?,
        };
        match id < self.tokenizer.vocab_size() {
            true => Ok(id),
            false => Err(format!("is {id}, which the model does not have")),
        }
    }

    fn of_bytes(&self, bytes: &[u8], text: &str) -> Result<u32, String> {
        match self.ids.get(bytes) {
            Some(Some(id)) => Ok(*id),
            Some(None) => Err(format!("is told as {:?}, which several tokens spell", plain(text))),
            None => Err(format!("is told as {:?}, which no token spells", plain(text))),
        }
    }
}

/// Whether the tokens that a server lists beside its log-probabilities are theirs; many list none.
fn check_ids(ids: Option<Vec<u32>>, tokens: &[Chosen]) -> Result<(), ServerError> {
    let Some(ids) = ids.filter(|ids| !ids.is_empty()) else {
        return Ok(());
    };
    let fault = |why: String| Err(ServerError::Malformed(why));
    if ids.len() != tokens.len() {
        return fault(format!("it has {} tokens and log-probabilities of {}", ids.len(), tokens.len()));
    }
    match tokens.iter().map(|chosen| chosen.token).eq(ids) {
        true => Ok(()),
        false => fault("its tokens are not those of its log-probabilities".into()),
    }
}

fn entries(lists: LogProbs) -> Result<Vec<Entry>, ServerError> {
    let LogProbs { tokens, token_logprobs, top_logprobs, .. } = lists;
    if tokens.len() != token_logprobs.len() || tokens.len() != top_logprobs.len() {
        let lengths = format!("{}, {} and {}", tokens.len(), token_logprobs.len(), top_logprobs.len());
        return Err(ServerError::Malformed(format!("its lists of log-probabilities have {lengths} entries")));
    }
    let told = |(token, logprob)| Told { id: None, token, logprob, bytes: None };
    let chosen = tokens.into_iter().zip(token_logprobs).map(told);
    let tops = top_logprobs.into_iter().map(|top| top.into_iter().map(told).collect());
    Ok(chosen.zip(tops).map(|(chosen, top_logprobs)| Entry { chosen, top_logprobs }).collect())
}

fn cost(log_probability: f64) -> Result<u32, String> {
    if log_probability.is_nan() || log_probability > MAX_LOG_PROBABILITY {
        return Err(format!("has the log-probability {log_probability}"));
    }
    let units = (-log_probability / LN_2 * f64::from(COST_SCALE)).round();
    Ok(units.clamp(0.0, f64::from(MAX_COST)) as u32)
}

fn check_mass(candidates: &[Candidate]) -> Result<(), String> {
    let share = |candidate: &Candidate| (-f64::from(candidate.cost) / f64::from(COST_SCALE)).exp2();
    let sum: f64 = candidates.iter().map(share).sum();
    match sum <= 1.0 + MAX_EXCESS {
        true => Ok(()),
        false => Err(format!("has candidates whose probabilities sum to {sum:.4}")),
    }
}
