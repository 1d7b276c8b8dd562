//! One pass over a text that is there already: log-probabilities of all its positions, and hidden states.

use crate::candidates::Softmax;
use crate::{Candidate, Decoder, EngineError, Interrupt, Sequence, candidates};

use super::Run;

/// Is shown the index of a token and the logits after it; an error ends the pass.
pub type Show<'a> = dyn FnMut(usize, &[f32]) -> Result<(), EngineError> + 'a;

impl Decoder {
    /// Takes `tokens` in one prefill and shows the logits after each of them from index `from` on, by index, in order.
    ///
    /// Prompt and output together show what an engine was offered at every position of the output. No more than
    /// one pass's logits are in memory at a time.
    pub fn each_position(
        &self,
        tokens: &[u32],
        from: usize,
        interrupt: Interrupt<'_>,
        show: &mut Show<'_>,
    ) -> Result<(), EngineError> {
        self.check(tokens, 0)?;
        let mut sequence = Sequence::with_prefix(Vec::new(), tokens.len());
        for chunk in tokens.chunks(self.compute.chunk()) {
            let begun = sequence.len();
            let hidden = self.advance(&mut [Run { sequence: &mut sequence, tokens: chunk }], interrupt)?;
            let skipped = from.saturating_sub(begun).min(chunk.len());
            if skipped == chunk.len() {
                continue;
            }
            let logits = self.logits(&hidden.narrow(0, skipped, chunk.len() - skipped)?)?;
            (begun + skipped..).zip(&logits).try_for_each(|(position, logits)| show(position, logits))?;
        }
        Ok(())
    }

    /// The `top_k` candidates after each of `tokens` from index `from` on, as [`candidates`] makes them.
    pub fn candidates_from(
        &self,
        tokens: &[u32],
        from: usize,
        top_k: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Vec<Candidate>>, EngineError> {
        let mut found = Vec::new();
        self.each_position(tokens, from, interrupt, &mut |_, logits| {
            found.push(candidates(logits, top_k)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// The natural log-probability of each of `tokens` but the first, given those before it.
    pub fn log_probabilities(
        &self,
        tokens: &[u32],
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<f64>, EngineError> {
        let mut found = Vec::new();
        self.each_position(tokens, 0, interrupt, &mut |position, logits| {
            if let Some(&next) = tokens.get(position + 1) {
                let found_at = Softmax::of(logits)?.log_probability(next);
                found.push(found_at.ok_or(EngineError::UnknownToken(next))?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The residual stream after `layers` blocks at every one of `tokens`, `width` numbers each: 0 is the
    /// embedding; with all blocks, the last norm is applied too.
    ///
    /// These are the hidden states as transformers numbers them.
    pub fn hidden_states(
        &self,
        tokens: &[u32],
        layers: usize,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Vec<f32>>, EngineError> {
        if layers > self.config.layers {
            return Err(EngineError::Request("the model has fewer blocks"));
        }
        self.check(tokens, 0)?;
        let mut sequence = Sequence::with_prefix(Vec::new(), tokens.len());
        let mut found = Vec::with_capacity(tokens.len());
        for chunk in tokens.chunks(self.compute.chunk()) {
            let mut runs = [Run { sequence: &mut sequence, tokens: chunk }];
            let mut hidden = self.run_layers(&mut runs, layers, interrupt)?;
            sequence.advance(chunk.len());
            if layers == self.config.layers {
                hidden = self.normed(&hidden)?;
            }
            found.extend(hidden.to_vec2::<f32>()?);
        }
        Ok(found)
    }
}
