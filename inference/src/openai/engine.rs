//! An engine whose model runs on a server.

use std::sync::{Arc, Mutex};

use super::reading::Reading;
use super::run::Runner;
use super::server::Server;
use super::{ServerConfig, State};
use crate::lock::lock;
use crate::{
    CancelToken, Engine, EngineError, Flow, GenerateRequest, Generation, Interrupt, Manifest, Step,
    TokenSampler, Tokenizer,
};

/// A model on a server; whoever makes one has counted it, and dropping it takes that back.
pub(super) struct OpenAiEngine {
    pub(super) manifest: Manifest,
    pub(super) tokenizer: Tokenizer,
    pub(super) reading: Reading,
    /// What the server calls the model.
    pub(super) model: String,
    pub(super) config: Arc<ServerConfig>,
    pub(super) server: Arc<Server>,
    pub(super) stopped: CancelToken,
    pub(super) state: Arc<Mutex<State>>,
}

impl Engine for OpenAiEngine {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(&self.tokenizer)
    }

    fn samples_itself(&self) -> bool {
        true
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        _: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let cancels = [cancel, &self.stopped];
        let result = self.run(request, Interrupt::new(&cancels, request.deadline), sink);
        lock(&self.state).stats.count(request, &result);
        result
    }
}

impl OpenAiEngine {
    fn run(
        &self,
        request: &GenerateRequest,
        interrupt: Interrupt<'_>,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        interrupt.check()?;
        self.server.ready(interrupt)?;
        let runner = Runner {
            endpoint: self.server.endpoint(),
            times: &self.config.times,
            manifest: &self.manifest,
            tokenizer: &self.tokenizer,
            reading: &self.reading,
            model: &self.model,
            log_probabilities: self.manifest.top_k.min(self.config.max_log_probabilities),
        };
        runner.run(request, interrupt, sink)
    }

    /// Whether the server takes token ids and states log-probabilities, before any job depends on it.
    pub(super) fn try_one_token(&self) -> Result<(), EngineError> {
        let id =
            (0..self.tokenizer.vocab_size()).find(|&id| !self.tokenizer.piece(id).is_empty()).unwrap_or(0);
        let prompt_ids = self.tokenizer.bos().into_iter().chain([id]).collect();
        let request = GenerateRequest { prompt_ids, max_tokens: 1, ..GenerateRequest::default() };
        let cancels = [&self.stopped];
        self.run(&request, Interrupt::new(&cancels, None), &mut |_| Flow::Continue).map(|_| ())
    }
}

impl Drop for OpenAiEngine {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if !self.stopped.is_cancelled() {
            state.stats.engines -= 1;
        }
    }
}
