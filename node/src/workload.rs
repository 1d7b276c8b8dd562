//! Where jobs and models meet: prompts, samplers, transcripts and facts, translated between the rules and the engines.

use crate::cli::UserError;
use crate::models::hold;
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm_crypto::digest::Digest;
use swarm_inference::{
    self as inference, BenchRequest, EngineConfig, Hardware, Model, PaintRequest, Registry, RescoreRequest,
    TextTokenizer, TokenSampler, Tokenizer, Workload,
};
use swarm_protocol::acceptance::{self, AcceptanceFault, ModelFacts, Opened, WorkUnits};
use swarm_protocol::distance::{Measure, RECOMPUTED_PER_CANDIDATE, Recomputed, Tolerance};
use swarm_protocol::finding::{WIDEST_TOLERANCE, can_audit};
use swarm_protocol::sampler::{self, Candidate};
use swarm_protocol::statement::{Input, Job, JobType, Proof};
use swarm_protocol::transcript::{Step, StopReason, Transcript};
use swarm_protocol::workload::{bench, embed, image};

/// A model that this node knows, ready to check proofs or to be run.
#[derive(Debug, Clone)]
pub struct KnownModel {
    model: Model,
    digest: Digest,
    reads: Reads,
    /// While it is open, the model is not removed.
    _held: Option<Arc<File>>,
}

/// How a model takes a job's input.
#[derive(Debug, Clone)]
enum Reads {
    /// As one prompt.
    Prompt(Tokenizer),
    /// As texts, each by itself.
    Texts(TextTokenizer),
    /// As a line that says what picture, and its prompt.
    Picture(TextTokenizer),
    /// As it is written.
    Spec,
}

/// The models that a node knows, by name.
#[derive(Debug, Clone, Default)]
pub struct Models(BTreeMap<String, KnownModel>);

impl Models {
    /// The built-in models and those of the manifest files.
    pub fn load(manifests: &[PathBuf]) -> Result<Self> {
        let mut models = Self::default();
        models.add(inference::queenbee(), None)?;
        models.add(inference::matmul(), None)?;
        for path in manifests {
            let model = Model::from_manifest_file(path).map_err(anyhow::Error::from);
            // Not held where the file system has no locks, or while it is being removed: then it is not there either.
            let held = hold(path).ok().map(Arc::new);
            model.and_then(|model| models.add(model, held)).map_err(|error| unusable(path, &error))?;
        }
        Ok(models)
    }

    fn add(&mut self, model: Model, held: Option<Arc<File>>) -> Result<()> {
        let digest = model.manifest.digest().parse().map_err(|e| anyhow!("manifest digest: {e}"))?;
        let reads = match model.manifest.workload {
            Workload::LlmGen => Reads::Prompt(model.tokenizer()?),
            Workload::Embed => Reads::Texts(model.text_tokenizer()?),
            Workload::SdInfer => Reads::Picture(model.text_tokenizer()?),
            Workload::TorchBench => Reads::Spec,
        };
        self.0.insert(model.manifest.name.clone(), KnownModel { model, digest, reads, _held: held });
        Ok(())
    }

    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Those that are not to be offered in a pool that audits, and why, each in a line.
    pub fn too_wide(&self) -> impl Iterator<Item = String> {
        let told =
            |(name, model): (_, &KnownModel)| Some(format!("{name} {}", too_wide(&model.tolerance())?));
        self.0.iter().filter_map(told)
    }

    /// Their names, and the workload that each is for.
    pub fn workloads(&self) -> BTreeMap<String, JobType> {
        self.0.iter().map(|(name, model)| (name.clone(), model.workload())).collect()
    }

    /// A model by name.
    pub fn get(&self, name: &str) -> Option<&KnownModel> {
        self.0.get(name)
    }
}

fn workload(manifest: &inference::Manifest) -> JobType {
    match manifest.workload {
        Workload::LlmGen => JobType::LlmGen,
        Workload::Embed => JobType::Embed,
        Workload::SdInfer => JobType::SdInfer,
        Workload::TorchBench => JobType::TorchBench,
    }
}

/// How far apart honest runs of a model are: as its manifest says, or else as of its workload's usual models.
pub fn tolerance(manifest: &inference::Manifest) -> Tolerance {
    let stated = |t: inference::Tolerance| Tolerance {
        mean: t.mean,
        worst: t.worst,
        strangers: t.strangers,
        strays: t.strays,
    };
    let usual = Measure::of(workload(manifest)).map_or(Tolerance::BUILT_IN, Measure::tolerance);
    manifest.tolerance.map_or(usual, stated)
}

/// What is wrong with a tolerance that is too wide for audits, after the model's name.
pub fn too_wide(tolerance: &Tolerance) -> Option<String> {
    let Tolerance { mean, worst, .. } = tolerance;
    (!can_audit(tolerance)).then(|| {
        format!("has a tolerance of {mean} in the mean and {worst} at the worst place, of which {WIDEST_TOLERANCE} is the most where proofs are audited")
    })
}

fn unusable(path: &Path, error: &anyhow::Error) -> UserError {
    let text = error.to_string();
    let cause = text.strip_suffix("; fetch the file again").unwrap_or(&text);
    UserError::misuse(format!("the model of {} cannot be used: {cause}", path.display())).hint(
        "--model names a manifest.json with the files that it describes beside it: fetch all of them again",
    )
}

/// What a lease holder delivers: the proof, and the transcript and the output that it names.
pub type Delivery<'a> = (&'a Proof, &'a [u8], &'a [u8]);

impl KnownModel {
    /// The blake3 digest that names it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What it is.
    pub fn manifest(&self) -> &inference::Manifest {
        &self.model.manifest
    }

    /// A warning, if a processor computes it slowly for the format of its weights.
    pub fn slow_format(&self) -> Option<String> {
        inference::slow_format(&self.model).ok().flatten()
    }

    /// What it is for.
    pub fn workload(&self) -> JobType {
        workload(&self.model.manifest)
    }

    /// How far apart honest runs of it are.
    pub fn tolerance(&self) -> Tolerance {
        tolerance(&self.model.manifest)
    }

    /// Loads it for running, on this machine as it is now.
    pub fn start(&self, registry: &Registry) -> Result<Box<dyn inference::Engine>> {
        self.start_on(&Hardware::probe(), registry)
    }

    /// Loads it for running on a machine that was looked at before: what runs it already has taken its memory since.
    pub fn start_on(&self, hardware: &Hardware, registry: &Registry) -> Result<Box<dyn inference::Engine>> {
        let provider = registry.find(hardware, &self.model.manifest)?;
        Ok(provider.start(&EngineConfig { model: self.model.clone(), max_memory_bytes: None })?)
    }

    /// Token ids of a job's input; `linked` is the text behind a linked one.
    pub fn prompt_ids(&self, job: &Job, linked: Option<&str>) -> Result<Vec<u32>> {
        let Reads::Prompt(tokenizer) = &self.reads else { return Err(self.is_for_other(JobType::LlmGen)) };
        Ok(tokenizer.encode_prompt(&prompt_text(job, linked)?)?)
    }

    /// The bytes that a token spells.
    pub fn piece(&self, token: u32) -> Option<&[u8]> {
        let Reads::Prompt(tokenizer) = &self.reads else { return None };
        (token < tokenizer.vocab_size()).then(|| tokenizer.piece(token))
    }

    /// Token ids of each text of a job's input; `linked` is the text behind a linked one.
    pub fn text_ids(&self, job: &Job, linked: Option<&str>) -> Result<Vec<Vec<u32>>> {
        let input = prompt_text(job, linked)?;
        embed::texts(&input).into_iter().map(|text| self.text_of(text)).collect()
    }

    /// Token ids of one text.
    pub fn text_of(&self, text: &str) -> Result<Vec<u32>> {
        let Reads::Texts(tokenizer) = &self.reads else { return Err(self.is_for_other(JobType::Embed)) };
        Ok(tokenizer.encode(text)?)
    }

    /// What picture a job asks for, and the token ids of its prompt.
    pub fn picture(&self, job: &Job) -> Result<(image::Spec, Vec<u32>)> {
        let input = prompt_text(job, None)?;
        let (spec, prompt) = image::Spec::of_input(&input)?;
        Ok((spec, self.painted(prompt)?))
    }

    /// Token ids of a picture's prompt.
    pub fn painted(&self, prompt: &str) -> Result<Vec<u32>> {
        let Reads::Picture(tokenizer) = &self.reads else { return Err(self.is_for_other(JobType::SdInfer)) };
        Ok(tokenizer.encode(prompt)?)
    }

    fn is_for_other(&self, asked: JobType) -> anyhow::Error {
        let Self { model, .. } = self;
        anyhow!(
            "the model {} is for {}, not for {}",
            model.manifest.name,
            self.workload().as_str(),
            asked.as_str()
        )
    }

    /// The work units of what was delivered for a job, or why it is not acceptable, by the rule of the model's workload.
    pub fn accept(
        &self,
        job: &Job,
        linked: Option<&str>,
        progress: &[(u64, Digest)],
        delivery: Delivery<'_>,
    ) -> Result<Result<u64, AcceptanceFault>> {
        let (name, digest, manifest) = (self.model.manifest.name.clone(), self.digest, &self.model.manifest);
        let (weight_in, weight_out) = (manifest.weight_in, manifest.weight_out);
        let units = match &self.reads {
            Reads::Prompt(tokenizer) => {
                return Ok(self
                    .accept_text(tokenizer, job, linked, progress, delivery)?
                    .map(|units| units.0));
            }
            Reads::Texts(_) => {
                let (dimensions, texts) = (manifest.dimensions, self.text_ids(job, linked)?);
                let facts = embed::Facts { name, digest, dimensions, weight_in, weight_out, texts };
                embed::check(job, progress, delivery, &facts)
            }
            Reads::Picture(_) => {
                let (_, prompt) = self.picture(job)?;
                let facts = image::Facts { name, digest, weight_in, weight_out, prompt };
                image::check(job, progress, delivery, &facts)
            }
            Reads::Spec => {
                let facts = bench::Facts { name, digest, weight_out };
                bench::check(job, progress, delivery, &facts)
            }
        };
        Ok(units.map(|units| units.0))
    }

    fn accept_text(
        &self,
        tokenizer: &Tokenizer,
        job: &Job,
        linked: Option<&str>,
        progress: &[(u64, Digest)],
        (proof, transcript, output): Delivery<'_>,
    ) -> Result<Result<WorkUnits, AcceptanceFault>> {
        let opened = match acceptance::open(proof, transcript) {
            Ok(opened) => opened,
            Err(fault) => return Ok(Err(fault)),
        };
        let facts = self.facts(tokenizer, job, linked, &opened)?;
        Ok(acceptance::check(job, progress, &opened, output, &facts))
    }

    fn facts(
        &self,
        tokenizer: &Tokenizer,
        job: &Job,
        linked: Option<&str>,
        opened: &Opened,
    ) -> Result<ModelFacts> {
        let manifest = &self.model.manifest;
        let piece = |id: u32| {
            let in_vocabulary = id < tokenizer.vocab_size();
            if in_vocabulary { tokenizer.piece(id).to_vec() } else { Vec::new() }
        };
        Ok(ModelFacts {
            name: manifest.name.clone(),
            digest: self.digest,
            top_k: manifest.top_k,
            vocab_size: manifest.vocab_size,
            context_length: manifest.context_length,
            eos: tokenizer.eos(),
            weight_in: manifest.weight_in,
            weight_out: manifest.weight_out,
            prompt: self.prompt_ids(job, linked)?,
            pieces: opened.tokens().map(piece).collect(),
        })
    }
}

/// The text of a job's input.
pub fn prompt_text(job: &Job, linked: Option<&str>) -> Result<String> {
    match &job.input {
        Input::Text(text) => Ok(text.clone()),
        Input::Chat(messages) => {
            let turn = |m: &swarm_protocol::statement::Message| inference::Message {
                role: m.role.clone(),
                content: m.content.clone(),
            };
            Ok(inference::render_chat(&messages.iter().map(turn).collect::<Vec<_>>()))
        }
        Input::Linked { .. } => {
            linked.map(str::to_owned).ok_or_else(|| anyhow!("the linked input is not at hand"))
        }
        Input::Sealed { .. } => Err(anyhow!("sealed input is not built in this version")),
    }
}

/// The normative sampler, as engines want it.
#[derive(Debug)]
pub struct NormativeSampler {
    seed: Digest,
    temperature: u32,
    top_p: u32,
}

impl NormativeSampler {
    /// The sampler of a job under a lease's seed.
    pub fn new(job: &Job, seed: Digest) -> Self {
        Self { seed, temperature: job.params.temperature, top_p: job.params.top_p }
    }
}

impl TokenSampler for NormativeSampler {
    fn sample(&mut self, position: u32, candidates: &[inference::Candidate]) -> u32 {
        let candidates: Vec<Candidate> = candidates.iter().map(candidate).collect();
        let draw = sampler::draw(&self.seed, u64::from(position));
        sampler::sample(self.temperature, self.top_p, draw, &candidates).unwrap_or(u32::MAX)
    }
}

/// A candidate as the rules have it.
pub fn candidate(c: &inference::Candidate) -> Candidate {
    Candidate { token: c.token, cost: c.cost }
}

/// What an engine is asked, to check what a transcript was signed with.
pub fn rescore_request(transcript: &Transcript, top_k: u32) -> RescoreRequest {
    let asked = |step: &Step| inference::Asked {
        token: step.token,
        tokens: step.candidates.iter().map(|candidate| candidate.token).collect(),
    };
    RescoreRequest {
        prompt_ids: transcript.prompt.clone(),
        output: transcript.steps.iter().map(asked).collect(),
        top_k: top_k * RECOMPUTED_PER_CANDIDATE,
        ..RescoreRequest::default()
    }
}

/// What the engine answered, as the rule wants it.
pub fn recomputed(rescored: inference::Rescored) -> Recomputed {
    Recomputed { costs: rescored.costs, top: rescored.top.iter().map(candidate).collect() }
}

/// One engine step as the transcript writes it.
pub fn step(step: &inference::Step) -> Step {
    Step { token: step.token, candidates: step.candidates.iter().map(candidate).collect() }
}

/// Why an engine stopped, as the transcript writes it.
pub fn stop_reason(reason: inference::StopReason) -> StopReason {
    match reason {
        inference::StopReason::Eos => StopReason::Eos,
        inference::StopReason::StopSequence => StopReason::StopSequence,
        inference::StopReason::MaxTokens => StopReason::MaxTokens,
        inference::StopReason::Context => StopReason::Context,
    }
}

/// What a benchmark multiplies, as engines want it.
pub fn bench_request(spec: &bench::Spec, seed: Digest) -> BenchRequest {
    let dtype = match spec.dtype {
        bench::DType::F32 => inference::DType::F32,
        bench::DType::F16 => inference::DType::F16,
        bench::DType::Bf16 => inference::DType::Bf16,
    };
    let bench::Spec { m, n, k, repeats, .. } = *spec;
    BenchRequest { dtype, m, n, k, repeats, seed: seed.0, deadline: None, max_memory_bytes: None }
}

/// What picture is to be painted, as engines want it.
pub fn paint_request(spec: &image::Spec, prompt_ids: Vec<u32>, seed: Digest) -> PaintRequest {
    let image::Spec { width, height, steps, guidance } = *spec;
    let seed = seed.0;
    PaintRequest { prompt_ids, width, height, steps, guidance, seed, deadline: None, max_memory_bytes: None }
}
