//! Pictures by Stable Diffusion: noise, denoised step by step (DDIM, <https://arxiv.org/abs/2010.02502>) towards a
//! prompt, and decoded to pixels.

mod config;

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::text_model::ClipTextTransformer;
use candle_transformers::models::stable_diffusion::schedulers::SchedulerConfig;
use candle_transformers::models::stable_diffusion::unet_2d::UNet2DConditionModel;
use candle_transformers::models::stable_diffusion::vae::AutoEncoderKL;

use self::config::{COLOURS, Config};
use super::{Place, agree, within};
use crate::device::device;
use crate::picture::{CHANNELS, noise, png, summary};
use crate::safetensors::Safetensors;
use crate::{
    CancelToken, Engine, EngineConfig, EngineError, Flow, Interrupt, LoadError, Manifest, PaintRequest,
};

/// What manifests of such models name as their architecture.
pub(super) const ARCHITECTURE: &str = "stable-diffusion";

/// A Stable Diffusion model in memory.
pub(super) struct Painter {
    manifest: Manifest,
    weight_bytes: u64,
    config: Config,
    text: ClipTextTransformer,
    unet: UNet2DConditionModel,
    vae: AutoEncoderKL,
    /// The tokens of no prompt.
    blank: Vec<u32>,
}

impl std::fmt::Debug for Painter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Painter({})", self.manifest.name)
    }
}

impl Painter {
    pub(super) fn load(config: &EngineConfig) -> Result<Self, LoadError> {
        let manifest = &config.model.manifest;
        // The file and the same as 32-bit floats, until the tensors are made.
        let numbers = 4 * Safetensors::open(vec![config.model.open()?])?.parameters();
        within(numbers.saturating_add(manifest.size), config.max_memory_bytes)?;
        let shape = Config::from_json(&config.model.file("config.json")?)?;
        agree("vocabulary size", manifest.vocab_size as usize, shape.text_encoder.vocab_size)?;
        let context = shape.text_encoder.max_position_embeddings;
        agree("context length", manifest.context_length as usize, context)?;
        let blank = config.model.text_tokenizer()?.encode("")?;
        let mut bytes = Vec::new();
        let read = config.model.open()?.read_to_end(&mut bytes);
        read.map_err(|error| LoadError::Prepare(error.to_string()))?;
        let tensors = VarBuilder::from_buffered_safetensors(bytes, DType::F32, device())?;
        let text = ClipTextTransformer::new(tensors.pp("text_encoder.text_model"), &shape.text())?;
        let unet = UNet2DConditionModel::new(tensors.pp("unet"), CHANNELS, CHANNELS, false, shape.unet())?;
        let vae = AutoEncoderKL::new(tensors.pp("vae"), COLOURS, COLOURS, shape.vae())?;
        tracing::debug!(model = manifest.name, bytes = manifest.size, "model loaded");
        Ok(Self { manifest: manifest.clone(), weight_bytes: numbers, config: shape, text, unet, vae, blank })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// The scores of all heads at the finest latents, for both prompts and twice; or the widest layers of the pixels.
    fn working_bytes(&self, request: &PaintRequest) -> u64 {
        let (rows, columns) = request.latents();
        let latents = (rows * columns) as u64;
        let heads = self.config.unet.most_heads() as u64;
        let widest = |channels: &[usize]| channels.iter().copied().max().unwrap_or(1) as u64;
        let steps = latents * (4 * heads * latents + 16 * widest(&self.config.unet.block_out_channels));
        let pixels = u64::from(request.width) * u64::from(request.height);
        let decoding = 2 * latents * latents + 4 * pixels * widest(&self.config.vae.block_out_channels);
        4 * steps.max(decoding)
    }

    /// What the text encoder makes of prompts, each filled up to the context.
    fn read(&self, prompts: &[&[u32]]) -> Result<Tensor, EngineError> {
        let context = self.config.text_encoder.max_position_embeddings;
        let filled = |ids: &&[u32]| {
            let mut ids = ids.to_vec();
            ids.resize(context, self.config.pad_token_id);
            ids
        };
        let ids: Vec<u32> = prompts.iter().flat_map(filled).collect();
        let ids = Tensor::from_vec(ids, (prompts.len(), context), device())?;
        Ok(self.text.forward_with_mask(&ids, usize::MAX)?)
    }

    /// What is noise in the latents, as the prompt has it or, guided, further from no prompt than that.
    fn predict(
        &self,
        latents: &Tensor,
        timestep: usize,
        texts: &Tensor,
        guidance: f64,
    ) -> Result<Tensor, EngineError> {
        let prompts = texts.dim(0)?;
        let repeated = latents.repeat((prompts, 1, 1, 1))?;
        let predicted = self.unet.forward(&repeated, timestep as f64, texts)?;
        if prompts == 1 {
            return Ok(predicted);
        }
        let (blank, prompted) = (predicted.narrow(0, 0, 1)?, predicted.narrow(0, 1, 1)?);
        Ok((&blank + ((prompted - &blank)? * guidance)?)?)
    }

    /// The pixels of latents, row by row.
    fn decode(&self, latents: &Tensor) -> Result<Vec<u8>, EngineError> {
        let scaled = (latents / self.config.vae.scaling_factor)?;
        let colours = self.vae.decode(&scaled)?.squeeze(0)?.permute((1, 2, 0))?;
        let colours: Vec<f32> = colours.flatten_all()?.to_vec1()?;
        if colours.iter().any(|colour| !colour.is_finite()) {
            return Err(EngineError::NotFinite);
        }
        Ok(colours
            .into_iter()
            .map(|colour| ((colour / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round() as u8)
            .collect())
    }
}

/// One engine of such a model.
pub(super) struct Painting {
    painter: Arc<Painter>,
    place: Place,
}

impl Painting {
    pub(super) fn new(painter: Arc<Painter>, place: Place) -> Self {
        Self { painter, place }
    }

    fn run(
        &self,
        request: &PaintRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[i32]) -> Flow,
    ) -> Result<Vec<u8>, EngineError> {
        self.check(request)?;
        let cancels = [cancel, &self.place.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        interrupt.check()?;
        let painter = &self.painter;
        let guidance = f64::from(request.guidance) / 1000.0;
        let prompt = request.prompt_ids.as_slice();
        let texts = match guidance > 1.0 {
            true => painter.read(&[&painter.blank, prompt])?,
            false => painter.read(&[prompt])?,
        };
        let mut scheduler = painter.config.schedule().build(request.steps as usize)?;
        let (rows, columns) = request.latents();
        let drawn = noise(&request.seed, CHANNELS * rows * columns);
        let mut latents = Tensor::from_vec(drawn, (1, CHANNELS, rows, columns), device())?;
        for timestep in scheduler.timesteps().to_vec() {
            interrupt.check()?;
            let predicted = painter.predict(&latents, timestep, &texts, guidance)?;
            latents = scheduler.step(&predicted, timestep, &latents)?;
            let numbers: Vec<f32> = latents.flatten_all()?.to_vec1()?;
            if sink(&summary(&numbers, (rows, columns))?) == Flow::Stop {
                return Err(EngineError::Cancelled);
            }
        }
        interrupt.check()?;
        let rgb = painter.decode(&latents)?;
        interrupt.check()?;
        png(&rgb, request.width, request.height)
    }

    fn check(&self, request: &PaintRequest) -> Result<(), EngineError> {
        request.check()?;
        let manifest = &self.painter.manifest;
        if request.prompt_ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if request.prompt_ids.len() > manifest.context_length as usize {
            return Err(EngineError::Request("the prompt is longer than the model's context"));
        }
        if let Some(unknown) = request.prompt_ids.iter().find(|id| **id >= manifest.vocab_size) {
            return Err(EngineError::UnknownToken(*unknown));
        }
        let needed = self.painter.weight_bytes() + self.painter.working_bytes(request);
        match request.max_memory_bytes {
            Some(allowed) if needed > allowed => Err(EngineError::Memory { needed, allowed }),
            _ => Ok(()),
        }
    }
}

impl Engine for Painting {
    fn manifest(&self) -> &Manifest {
        &self.painter.manifest
    }

    fn paint(
        &mut self,
        request: &PaintRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&[i32]) -> Flow,
    ) -> Result<Vec<u8>, EngineError> {
        let begun = Instant::now();
        let result = self.run(request, cancel, sink);
        self.place.count(&result, request.prompt_ids.len(), begun.elapsed());
        result
    }
}
