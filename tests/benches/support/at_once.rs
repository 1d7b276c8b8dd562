//! A provider whose engines answer at once.

use anyhow::Result;
use swarm_inference::testing::Scripted;
use swarm_inference::{
    Candidate, Engine, EngineConfig, EngineError, Hardware, Manifest, Model, Provider, Stats, Support,
    Tokenizer,
};

/// Starts engines that offer the same words at every position, at once.
pub struct AtOnce(Scripted);

impl AtOnce {
    pub fn of(model: &Model) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(&mut model.open()?)?;
        let manifest = model.manifest.clone();
        let is_word = |piece: &[u8]| !piece.is_empty() && piece.iter().all(u8::is_ascii_lowercase);
        let words = (0..tokenizer.vocab_size()).filter(|token| is_word(tokenizer.piece(*token)));
        // All alike, and their probabilities sum to one.
        let cost = 4096 * manifest.top_k.ilog2();
        let candidates = words.take(manifest.top_k as usize).map(|token| Candidate { token, cost }).collect();
        Ok(Self(Scripted::new(manifest, tokenizer, candidates)))
    }
}

impl Provider for AtOnce {
    fn name(&self) -> &'static str {
        "at-once"
    }

    fn detect(&self, _: &Hardware, _: &Manifest) -> Support {
        Support::Supported
    }

    fn start(&self, _: &EngineConfig) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(self.0.clone()))
    }

    fn stop(&self) {}

    fn is_running(&self) -> bool {
        true
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}
