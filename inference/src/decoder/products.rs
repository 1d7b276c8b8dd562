//! Attention on a device: products of tensors that stay there, run by run.

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::rotary_emb::{rope, rope_i};

use super::attention::Rotation;
use super::buffers::Buffers;
use super::layer::Attention;
use super::{DecoderConfig, RotaryPairs, Run};

/// The runs of a pass, each with its own keys and values.
pub(super) struct Products<'a> {
    config: &'a DecoderConfig,
    /// Of every row's angles, `(row, 1, head_width / 2)`.
    cos: Tensor,
    sin: Tensor,
    spans: Vec<Span<'a>>,
}

/// One run: which rows of the pass it is, and what it attends to.
struct Span<'a> {
    start: usize,
    tokens: usize,
    seen: usize,
    /// What is added to the scores of `(token, 1, position)`; a single token sees all positions.
    mask: Option<Tensor>,
    buffers: &'a Buffers,
}

impl<'a> Products<'a> {
    /// Makes room for the runs' keys and values.
    pub(super) fn new(
        config: &'a DecoderConfig,
        device: &Device,
        rotation: &Rotation,
        runs: &'a mut [Run<'_>],
    ) -> Result<Self> {
        let [cos, sin] = rotation.tensors(config.head_width / 2, device)?;
        let mut spans: Vec<Span<'a>> = Vec::with_capacity(runs.len());
        for run in runs {
            let start = spans.last().map_or(0, |span| span.start + span.tokens);
            let (tokens, seen) = (run.tokens.len(), run.sequence.len());
            let mask = if tokens > 1 { Some(mask(seen, tokens, device)?) } else { None };
            let buffers = run.sequence.reserve_buffers(tokens, config, device)?;
            spans.push(Span { start, tokens, seen, mask, buffers });
        }
        Ok(Self { config, cos, sin, spans })
    }

    /// Rows of heads, turned by their angles: `(row, head, head_width)`.
    fn turned(&self, rows: &Tensor, heads: usize) -> Result<Tensor> {
        let width = self.config.head_width;
        let rows = rows.reshape(((), heads, 1, width))?;
        let turned = match self.config.rope_pairs {
            RotaryPairs::Neighbours => rope_i(&rows, &self.cos, &self.sin),
            RotaryPairs::Halves => rope(&rows, &self.cos, &self.sin),
        };
        turned?.reshape(((), heads, width))
    }
}

impl Attention for Products<'_> {
    fn attend(&mut self, layer: usize, queries: Tensor, keys: Tensor, values: Tensor) -> Result<Tensor> {
        let DecoderConfig { heads, kv_heads, head_width, .. } = *self.config;
        let scale = 1.0 / (head_width as f64).sqrt();
        let queries = (self.turned(&queries, heads)? * scale)?;
        let keys = self.turned(&keys, kv_heads)?;
        let values = values.reshape(((), kv_heads, head_width))?;
        let both = Tensor::cat(&[keys, values], 1)?;
        let mixed = self.spans.iter().map(|span| span.attend(self.config, layer, &queries, &both));
        Tensor::cat(&mixed.collect::<Result<Vec<_>>>()?, 0)
    }
}

impl Span<'_> {
    /// From rows of the whole pass, `(row, head, head_width)`, queries and then keys with values, to what this run's rows mix.
    fn attend(
        &self,
        config: &DecoderConfig,
        layer: usize,
        queries: &Tensor,
        both: &Tensor,
    ) -> Result<Tensor> {
        let DecoderConfig { heads, kv_heads, head_width, .. } = *config;
        let (tokens, group) = (self.tokens, heads / kv_heads);
        let own = |rows: &Tensor| rows.narrow(0, self.start, tokens);
        self.buffers.write(layer, self.seen, &own(both)?.transpose(0, 1)?.contiguous()?)?;
        let [keys, values] = self.buffers.read(layer, self.seen + tokens)?;
        // The queries that share a key's head are rows of one product with it.
        let queries =
            own(queries)?.reshape((tokens, kv_heads, group, head_width))?.transpose(0, 1)?.contiguous()?;
        let queries = queries.reshape((kv_heads, tokens * group, head_width))?;
        let weights = softmax_last_dim(&self.masked(queries.matmul(&keys.t()?)?, group)?)?;
        let mixed = weights.matmul(&values)?.reshape((kv_heads, tokens, group, head_width))?;
        mixed.transpose(0, 1)?.reshape((tokens, heads * head_width))
    }

    /// Scores of `(kv_head, token * group, position)` without those of later positions.
    fn masked(&self, scores: Tensor, group: usize) -> Result<Tensor> {
        let Some(mask) = &self.mask else { return Ok(scores) };
        let (kv_heads, rows, positions) = scores.dims3()?;
        let scores = scores.reshape((kv_heads, self.tokens, group, positions))?;
        scores.broadcast_add(mask)?.reshape((kv_heads, rows, positions))
    }
}

/// Nothing where a token after `seen` others may look, minus infinity where it may not: `(token, 1, position)`.
fn mask(seen: usize, tokens: usize, device: &Device) -> Result<Tensor> {
    let [seen, all] = [seen, seen + tokens].map(|positions| positions as u32);
    let positions = Tensor::arange(0, all, device)?.reshape((1, 1, ()))?;
    let own = Tensor::arange(seen, all, device)?.reshape(((), 1, 1))?;
    let later = positions.broadcast_gt(&own)?;
    let full = |number: f32| Tensor::new(number, device)?.broadcast_as(later.shape());
    later.where_cond(&full(f32::NEG_INFINITY)?, &full(0.0)?)
}
