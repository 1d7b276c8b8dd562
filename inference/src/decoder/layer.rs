//! One block of the model, and what it remembers.

use std::io::{Read, Seek};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops;
use candle_nn::rotary_emb::{rope_i, rope_i_slow};

use super::one_core::attention;
use super::{Compute, LlamaConfig, Matrix, Weights};
use crate::LoadError;

/// Positions by which a full cache grows.
pub(super) const CACHE_GROWTH: usize = 256;

pub(super) struct Layer {
    attention_norm: Tensor,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    attention_output: Matrix,
    feed_norm: Tensor,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    pub(super) cache: Cache,
}

impl Layer {
    pub(super) fn load<R: Read + Seek>(
        weights: &mut Weights<'_, R>,
        config: &LlamaConfig,
        index: usize,
    ) -> Result<Self, LoadError> {
        let LlamaConfig { width, hidden, .. } = *config;
        let kv_width = config.kv_heads * config.head_width;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        Ok(Self {
            attention_norm: weights.vector(&name("attn_norm"), width)?,
            query: weights.matrix(&name("attn_q"), &[width, width])?,
            key: weights.matrix(&name("attn_k"), &[kv_width, width])?,
            value: weights.matrix(&name("attn_v"), &[kv_width, width])?,
            attention_output: weights.matrix(&name("attn_output"), &[width, width])?,
            feed_norm: weights.vector(&name("ffn_norm"), width)?,
            gate: weights.matrix(&name("ffn_gate"), &[hidden, width])?,
            up: weights.matrix(&name("ffn_up"), &[hidden, width])?,
            down: weights.matrix(&name("ffn_down"), &[width, hidden])?,
            cache: Cache::default(),
        })
    }

    pub(super) fn forward(
        &mut self,
        x: &Tensor,
        config: &LlamaConfig,
        step: &PositionStep,
    ) -> candle_core::Result<Tensor> {
        let normed = ops::rms_norm(x, &self.attention_norm, config.rms_epsilon)?;
        let x = (self.attend(&normed, config, step)? + x)?;
        let normed = ops::rms_norm(&x, &self.feed_norm, config.rms_epsilon)?;
        let gated = (self.gate.forward(&normed)?.silu()? * self.up.forward(&normed)?)?;
        self.down.forward(&gated)? + x
    }

    fn attend(
        &mut self,
        x: &Tensor,
        config: &LlamaConfig,
        step: &PositionStep,
    ) -> candle_core::Result<Tensor> {
        let length = x.dim(0)?;
        let LlamaConfig { heads, kv_heads, head_width, .. } = *config;
        let query = step.rotate(&split(&self.query.forward(x)?, heads, head_width)?)?;
        let key = step.rotate(&split(&self.key.forward(x)?, kv_heads, head_width)?)?;
        let value = split(&self.value.forward(x)?, kv_heads, head_width)?;
        let (keys, values) = self.cache.put(&key, &value, step.position, config.context_length)?;
        let mixed = match (step.compute, length) {
            (Compute::OneCore, _) | (Compute::AllCores, 1) => attention(&query, &keys, &values)?,
            (Compute::AllCores, _) => attention_on_all_cores(&query, &keys, &values, &step.mask)?,
        };
        self.attention_output.forward(&mixed)
    }
}

/// What [`attention`] computes, with a mask of `(length, positions)`.
fn attention_on_all_cores(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: &Tensor,
) -> candle_core::Result<Tensor> {
    let (heads, length, width) = queries.dims3()?;
    let (kv_heads, positions, _) = keys.dims3()?;
    let group = heads / kv_heads;
    let queries = (queries.reshape((kv_heads, group * length, width))? / (width as f64).sqrt())?;
    let scores = queries.matmul(&keys.t()?)?.reshape((kv_heads, group, length, positions))?;
    let weights = ops::softmax_last_dim(&scores.broadcast_add(mask)?)?;
    let mixed = weights.reshape((kv_heads, group * length, positions))?.matmul(values)?;
    mixed.reshape((heads, length, width))?.transpose(0, 1)?.reshape((length, heads * width))
}

/// From `(length, heads * head_width)` to `(heads, length, head_width)`.
fn split(x: &Tensor, heads: usize, head_width: usize) -> candle_core::Result<Tensor> {
    let length = x.dim(0)?;
    x.reshape((length, heads, head_width))?.transpose(0, 1)?.contiguous()
}

/// What all layers need to know of a run of positions.
pub(super) struct PositionStep {
    pub(super) compute: Compute,
    pub(super) position: usize,
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    pub(super) mask: Tensor,
}

impl PositionStep {
    fn rotate(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = x.unsqueeze(0)?;
        let rotated = match self.compute {
            Compute::AllCores => rope_i(&x, &self.cos, &self.sin)?,
            Compute::OneCore => rope_i_slow(&x, &self.cos, &self.sin)?,
        };
        rotated.squeeze(0)
    }
}

/// `(length, position + length)`: 0 where a position may look, minus infinity where it may not.
pub(super) fn mask(position: usize, length: usize) -> candle_core::Result<Tensor> {
    let columns = position + length;
    let cell = |row: usize, column: usize| {
        if column <= position + row { 0.0 } else { f32::NEG_INFINITY }
    };
    let cells: Vec<f32> =
        (0..length).flat_map(|row| (0..columns).map(move |column| cell(row, column))).collect();
    Tensor::from_vec(cells, (length, columns), &Device::Cpu)
}

/// Keys and values of the positions seen, `(kv_heads, capacity, head_width)` each.
#[derive(Default)]
pub(super) struct Cache(Option<(Tensor, Tensor)>);

impl Cache {
    /// Writes keys and values at `position` and returns those of all positions up to and with them.
    fn put(
        &mut self,
        key: &Tensor,
        value: &Tensor,
        position: usize,
        max: usize,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let end = position + key.dim(1)?;
        let (keys, values) = match self.0.take() {
            Some((keys, values)) => (grown(keys, end, max)?, grown(values, end, max)?),
            None => (empty(key, end, max)?, empty(value, end, max)?),
        };
        keys.slice_set(key, 1, position)?;
        values.slice_set(value, 1, position)?;
        let seen = (keys.narrow(1, 0, end)?, values.narrow(1, 0, end)?);
        self.0 = Some((keys, values));
        Ok(seen)
    }
}

fn empty(like: &Tensor, end: usize, max: usize) -> candle_core::Result<Tensor> {
    let capacity = end.next_multiple_of(CACHE_GROWTH).min(max);
    Tensor::zeros((like.dim(0)?, capacity, like.dim(D::Minus1)?), DType::F32, &Device::Cpu)
}

fn grown(cache: Tensor, end: usize, max: usize) -> candle_core::Result<Tensor> {
    if end <= cache.dim(1)? {
        return Ok(cache);
    }
    let larger = empty(&cache, end, max)?;
    larger.slice_set(&cache, 1, 0)?;
    Ok(larger)
}
