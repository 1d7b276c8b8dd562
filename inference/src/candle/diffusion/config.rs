//! What `config.json` of a Stable Diffusion model says: for each part what diffusers keeps of it, and the padding.

use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::stable_diffusion::ddim::DDIMSchedulerConfig;
use candle_transformers::models::stable_diffusion::schedulers::{
    BetaSchedule, PredictionType, TimestepSpacing,
};
use candle_transformers::models::stable_diffusion::unet_2d::{BlockConfig, UNet2DConditionModelConfig};
use candle_transformers::models::stable_diffusion::vae::AutoEncoderKLConfig;
use serde::Deserialize;

use crate::picture::CHANNELS;
use crate::{LoadError, MAX_PICTURE_STEPS};

/// Channels of a picture.
pub(super) const COLOURS: usize = 3;
/// Blocks of an auto-encoder that makes eight pixels of a latent in each direction.
const VAE_BLOCKS: usize = 4;
/// A picture of the least size has eight latents in each direction, which can be halved three times.
const MAX_UNET_BLOCKS: usize = 4;
/// Groups in which candle's U-Net normalises channels, whatever it is told.
const UNET_GROUPS: usize = 32;
/// The most of whatever is counted, so that nothing overflows.
const MAX_COUNT: usize = 1 << 18;
/// What training took.
const TRAIN_STEPS: std::ops::RangeInclusive<usize> = MAX_PICTURE_STEPS as usize..=100_000;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) text_encoder: Text,
    pub(super) unet: Unet,
    pub(super) vae: Vae,
    scheduler: Schedule,
    /// What prompts are filled up with.
    pub(super) pad_token_id: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Text {
    pub(super) vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    pub(super) max_position_embeddings: usize,
    hidden_act: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Unet {
    in_channels: usize,
    out_channels: usize,
    pub(super) block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    attention_head_dim: Heads,
    layers_per_block: usize,
    cross_attention_dim: usize,
    norm_num_groups: usize,
    norm_eps: f64,
    downsample_padding: usize,
    mid_block_scale_factor: f64,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    center_input_sample: bool,
    use_linear_projection: bool,
    act_fn: String,
}

/// Attention heads, which diffusers calls a dimension: the same in all blocks, or of each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Heads {
    All(usize),
    Each(Vec<usize>),
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Vae {
    in_channels: usize,
    out_channels: usize,
    pub(super) block_out_channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    norm_num_groups: usize,
    pub(super) scaling_factor: f64,
    shift_factor: Option<f64>,
    use_quant_conv: bool,
    use_post_quant_conv: bool,
    act_fn: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Schedule {
    beta_start: f64,
    beta_end: f64,
    beta_schedule: String,
    num_train_timesteps: usize,
    steps_offset: usize,
    prediction_type: String,
    timestep_spacing: String,
    clip_sample: bool,
    set_alpha_to_one: bool,
}

impl Config {
    /// Reads it, refusing what candle's model is not, and numbers that no model has.
    pub(super) fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let config: Self = serde_json::from_slice(json).map_err(|error| {
            LoadError::Unsupported(format!("config.json is no Stable Diffusion model's: {error}"))
        })?;
        let Self { text_encoder, unet, vae, scheduler, .. } = &config;
        let rules = [
            ("the text encoder's shape or activation", text_encoder.is_known()),
            ("the U-Net's blocks, channels or activation", unet.is_known()),
            ("the auto-encoder's blocks, channels or activation", vae.is_known()),
            ("the scheduler's settings", scheduler.is_known()),
            ("the width of the text", text_encoder.hidden_size == unet.cross_attention_dim),
            ("the padding", (config.pad_token_id as usize) < text_encoder.vocab_size),
        ];
        match rules.iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(LoadError::Unsupported(format!("config.json: {what} is not supported"))),
            None => Ok(config),
        }
    }

    pub(super) fn text(&self) -> ClipTextConfig {
        let Text { vocab_size, hidden_size, intermediate_size, .. } = self.text_encoder;
        ClipTextConfig {
            vocab_size,
            embed_dim: hidden_size,
            activation: Activation::QuickGelu,
            intermediate_size,
            max_position_embeddings: self.text_encoder.max_position_embeddings,
            pad_with: None,
            num_hidden_layers: self.text_encoder.num_hidden_layers,
            num_attention_heads: self.text_encoder.num_attention_heads,
            projection_dim: hidden_size,
        }
    }

    pub(super) fn unet(&self) -> UNet2DConditionModelConfig {
        let unet = &self.unet;
        UNet2DConditionModelConfig {
            center_input_sample: unet.center_input_sample,
            flip_sin_to_cos: unet.flip_sin_to_cos,
            freq_shift: unet.freq_shift,
            blocks: unet.blocks(),
            layers_per_block: unet.layers_per_block,
            downsample_padding: unet.downsample_padding,
            mid_block_scale_factor: unet.mid_block_scale_factor,
            norm_num_groups: unet.norm_num_groups,
            norm_eps: unet.norm_eps,
            cross_attention_dim: unet.cross_attention_dim,
            sliced_attention_size: None,
            use_linear_projection: unet.use_linear_projection,
        }
    }

    pub(super) fn vae(&self) -> AutoEncoderKLConfig {
        let vae = &self.vae;
        AutoEncoderKLConfig {
            block_out_channels: vae.block_out_channels.clone(),
            layers_per_block: vae.layers_per_block,
            latent_channels: vae.latent_channels,
            norm_num_groups: vae.norm_num_groups,
            use_quant_conv: vae.use_quant_conv,
            use_post_quant_conv: vae.use_post_quant_conv,
        }
    }

    pub(super) fn schedule(&self) -> DDIMSchedulerConfig {
        let scheduler = &self.scheduler;
        DDIMSchedulerConfig {
            beta_start: scheduler.beta_start,
            beta_end: scheduler.beta_end,
            beta_schedule: match scheduler.beta_schedule.as_str() {
                "linear" => BetaSchedule::Linear,
                _ => BetaSchedule::ScaledLinear,
            },
            eta: 0.0,
            steps_offset: scheduler.steps_offset,
            prediction_type: match scheduler.prediction_type.as_str() {
                "v_prediction" => PredictionType::VPrediction,
                _ => PredictionType::Epsilon,
            },
            train_timesteps: scheduler.num_train_timesteps,
            timestep_spacing: TimestepSpacing::Leading,
        }
    }
}

fn is_count(count: usize) -> bool {
    (1..=MAX_COUNT).contains(&count)
}

fn shared_by(groups: usize, channels: &[usize]) -> bool {
    is_count(groups) && channels.iter().all(|channels| is_count(*channels) && channels.is_multiple_of(groups))
}

impl Text {
    fn is_known(&self) -> bool {
        let counts =
            [self.vocab_size, self.intermediate_size, self.num_hidden_layers, self.max_position_embeddings];
        counts.into_iter().all(is_count)
            && shared_by(self.num_attention_heads, &[self.hidden_size])
            && self.hidden_act == "quick_gelu"
    }
}

impl Unet {
    fn heads(&self) -> Vec<usize> {
        match &self.attention_head_dim {
            Heads::All(heads) => vec![*heads; self.block_out_channels.len()],
            Heads::Each(heads) => heads.clone(),
        }
    }

    /// The most heads of a block.
    pub(super) fn most_heads(&self) -> usize {
        self.heads().into_iter().max().unwrap_or(1)
    }

    fn blocks(&self) -> Vec<BlockConfig> {
        let channels = self.block_out_channels.iter().zip(&self.down_block_types).zip(self.heads());
        let block = |((channels, kind), heads): ((&usize, &String), usize)| BlockConfig {
            out_channels: *channels,
            use_cross_attn: (kind == "CrossAttnDownBlock2D").then_some(1),
            attention_head_dim: heads,
        };
        channels.map(block).collect()
    }

    fn is_known(&self) -> bool {
        let heads = self.heads();
        let blocks = self.block_out_channels.len();
        let mirrored = self.up_block_types.iter().rev().map(|kind| kind.replace("Up", "Down"));
        let kinds = ["CrossAttnDownBlock2D", "DownBlock2D"];
        (1..=MAX_UNET_BLOCKS).contains(&blocks)
            && (self.down_block_types.len(), heads.len()) == (blocks, blocks)
            && mirrored.eq(self.down_block_types.iter().cloned())
            && self.down_block_types.iter().all(|kind| kinds.contains(&kind.as_str()))
            && self
                .block_out_channels
                .iter()
                .zip(&heads)
                .all(|(channels, heads)| shared_by(*heads, &[*channels]))
            && self.norm_num_groups == UNET_GROUPS
            && shared_by(UNET_GROUPS, &self.block_out_channels)
            && (self.in_channels, self.out_channels) == (CHANNELS, CHANNELS)
            && is_count(self.layers_per_block)
            && self.downsample_padding == 1
            && self.act_fn == "silu"
    }
}

impl Vae {
    fn is_known(&self) -> bool {
        self.block_out_channels.len() == VAE_BLOCKS
            && shared_by(self.norm_num_groups, &self.block_out_channels)
            && (self.in_channels, self.out_channels, self.latent_channels) == (COLOURS, COLOURS, CHANNELS)
            && is_count(self.layers_per_block)
            && self.scaling_factor > 0.0
            && self.shift_factor.is_none()
            && self.act_fn == "silu"
    }
}

impl Schedule {
    fn is_known(&self) -> bool {
        ["linear", "scaled_linear"].contains(&self.beta_schedule.as_str())
            && ["epsilon", "v_prediction"].contains(&self.prediction_type.as_str())
            && self.timestep_spacing == "leading"
            && TRAIN_STEPS.contains(&self.num_train_timesteps)
            && self.steps_offset <= 1
            && !self.clip_sample
            && !self.set_alpha_to_one
    }
}
