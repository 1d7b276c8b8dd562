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
        let [gate, up] = Matrix::forward_each([&self.gate, &self.up], &normed)?;
        let gated = (gate.silu()? * up)?;
        self.down.forward(&gated)? + x
    }

    fn attend(&self, x: &Tensor, config: &DecoderConfig, attention: &mut dyn Attention) -> Result<Tensor> {
        let projections = [&self.query, &self.key, &self.value];
        let [queries, keys, values] = Matrix::forward_each(projections.map(|part| &part.matrix), x)?;
        let queries = self.query.finish(queries, config)?;
        let keys = self.key.finish(keys, config)?;
        let values = self.value.finish(values, config)?;
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

    /// From what the matrix made to rows of heads, whatever their shape.
    fn finish(&self, mut projected: Tensor, config: &DecoderConfig) -> Result<Tensor> {
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
