//! One block of the model.

use std::io::{Read, Seek};

use candle_core::{Result, Tensor};
use candle_nn::ops;

use super::matrix::Matrix;
use super::weights::Weights;
use super::{Architecture, DecoderConfig};
use crate::LoadError;

pub(super) struct Layer {
    index: usize,
    attention_norm: Tensor,
    query: Projection,
    key: Projection,
    value: Projection,
    attention_output: Matrix,
    feed_norm: Tensor,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// Lets the rows of a pass attend to what their sequences hold.
pub(super) trait Attention {
    /// Turns queries and keys of `(row, head * head_width)` by their positions, keeps keys and values as those of `layer`, and
    /// mixes for each row the values that its queries find: `(row, head * head_width)`.
    fn attend(&mut self, layer: usize, queries: Tensor, keys: Tensor, values: Tensor) -> Result<Tensor>;
}

impl Layer {
    pub(super) fn load<R: Read + Seek>(
        weights: &mut Weights<'_, R>,
        config: &DecoderConfig,
        index: usize,
    ) -> std::result::Result<Self, LoadError> {
        let DecoderConfig { width, hidden, .. } = *config;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        Ok(Self {
            index,
            attention_norm: weights.vector(&name("attn_norm"), width)?,
            query: Projection::load(weights, config, index, "attn_q", config.query_width())?,
            key: Projection::load(weights, config, index, "attn_k", config.kv_width())?,
            value: Projection::load(weights, config, index, "attn_v", config.kv_width())?,
            attention_output: weights.matrix(&name("attn_output"), &[width, config.query_width()])?,
            feed_norm: weights.vector(&name("ffn_norm"), width)?,
            gate: weights.matrix(&name("ffn_gate"), &[hidden, width])?,
            up: weights.matrix(&name("ffn_up"), &[hidden, width])?,
            down: weights.matrix(&name("ffn_down"), &[width, hidden])?,
        })
    }

    pub(super) fn forward(
        &self,
        x: &Tensor,
        config: &DecoderConfig,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let normed = ops::rms_norm(x, &self.attention_norm, config.rms_epsilon)?;
        let x = (self.attend(&normed, config, attention)? + x)?;
        let normed = ops::rms_norm(&x, &self.feed_norm, config.rms_epsilon)?;
        let gated = (self.gate.forward(&normed)?.silu()? * self.up.forward(&normed)?)?;
        self.down.forward(&gated)? + x
    }

    fn attend(&self, x: &Tensor, config: &DecoderConfig, attention: &mut dyn Attention) -> Result<Tensor> {
        let queries = self.query.forward(x, config)?;
        let keys = self.key.forward(x, config)?;
        let values = self.value.forward(x, config)?;
        self.attention_output.forward(&attention.attend(self.index, queries, keys, values)?)
    }
}

/// Queries, keys or values of all heads.
struct Projection {
    matrix: Matrix,
    bias: Option<Tensor>,
    norm: Option<Tensor>,
}

impl Projection {
    fn load<R: Read + Seek>(
        weights: &mut Weights<'_, R>,
        config: &DecoderConfig,
        layer: usize,
        part: &str,
        width: usize,
    ) -> std::result::Result<Self, LoadError> {
        let name = format!("blk.{layer}.{part}");
        let matrix = weights.matrix(&format!("{name}.weight"), &[width, config.width])?;
        let bias = match config.architecture {
            Architecture::Qwen2 => Some(weights.vector(&format!("{name}.bias"), width)?),
            Architecture::Llama | Architecture::Qwen3 => None,
        };
        let norm = match config.architecture {
            Architecture::Qwen3 if part != "attn_v" => {
                Some(weights.vector(&format!("{name}_norm.weight"), config.head_width)?)
            }
            _ => None,
        };
        Ok(Self { matrix, bias, norm })
    }

    /// From `(rows, width)` to rows of heads, whatever their shape.
    fn forward(&self, x: &Tensor, config: &DecoderConfig) -> Result<Tensor> {
        let mut projected = self.matrix.forward(x)?;
        if let Some(bias) = &self.bias {
            projected = projected.broadcast_add(bias)?;
        }
        if let Some(norm) = &self.norm {
            let heads = projected.contiguous()?.reshape(((), config.head_width))?;
            projected = ops::rms_norm(&heads, norm, config.rms_epsilon)?;
        }
        Ok(projected)
    }
}
