//! Keys and values of the positions that a sequence has seen.

use std::sync::Arc;

use candle_core::Device;

use super::buffers::Buffers;
use super::{Compute, DecoderConfig};

/// Positions whose keys and values lie together, and are shared together.
pub const BLOCK_POSITIONS: usize = 32;

/// Keys of [`BLOCK_POSITIONS`] positions in all layers, `(layer, kv_head, head_width, position)`, so that a query meets many at
/// once, and values, `(layer, kv_head, position, head_width)`.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// A sequence that a [`super::Decoder`] has seen.
///
/// Blocks may be shared with other sequences; one that is written to while shared is copied first.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    /// What it holds of models on processors.
    blocks: Vec<Arc<Block>>,
    /// What it holds of models on [`Compute::Device`]; the other is empty.
    buffers: Buffers,
    length: usize,
    /// The most positions that there will be, if that is known.
    most: Option<usize>,
}

/// Where the rows of one head in one layer lie in a [`Block`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) kv_head: usize,
}

impl Sequence {
    /// A sequence that begins with whole blocks that were computed before and will have at most `most` positions.
    pub(crate) fn with_prefix(blocks: Vec<Arc<Block>>, most: usize) -> Self {
        let length = blocks.len() * BLOCK_POSITIONS;
        Self { blocks, length, most: Some(most), ..Self::default() }
    }

    /// Positions seen.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was seen yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets all positions from `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.blocks.truncate(self.length.div_ceil(BLOCK_POSITIONS));
    }

    /// A block all of whose positions were seen.
    pub(crate) fn full_block(&self, index: usize) -> Option<&Arc<Block>> {
        self.blocks.get(index).filter(|_| (index + 1) * BLOCK_POSITIONS <= self.length)
    }

    /// Makes room for `more` positions, which count once [`Sequence::advance`] is called.
    pub(super) fn reserve(&mut self, more: usize, config: &DecoderConfig) {
        let blocks = (self.length + more).div_ceil(BLOCK_POSITIONS);
        let cells = config.layers * config.kv_width() * BLOCK_POSITIONS;
        while self.blocks.len() < blocks {
            self.blocks.push(Arc::new(Block { keys: vec![0.0; cells], values: vec![0.0; cells] }));
        }
    }

    /// The same for models on a device: buffers with that room.
    pub(super) fn reserve_buffers(
        &mut self,
        more: usize,
        config: &DecoderConfig,
        device: &Device,
    ) -> candle_core::Result<&Buffers> {
        let most = self.most.unwrap_or(config.context_length);
        self.buffers.reserve(config, device, self.length + more, most)?;
        Ok(&self.buffers)
    }

    /// Whether what it holds is where this way of computing looks for it.
    pub(super) fn is_held_for(&self, compute: Compute) -> bool {
        self.is_empty() || self.blocks.is_empty() == (compute == Compute::Device)
    }

    pub(super) fn advance(&mut self, positions: usize) {
        self.length += positions;
    }

    /// Writes a position's keys and values of one layer, `(kv_head, head_width)` each.
    pub(super) fn write(
        &mut self,
        config: &DecoderConfig,
        layer: usize,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let width = config.head_width;
        let block = Arc::make_mut(&mut self.blocks[position / BLOCK_POSITIONS]);
        for kv_head in 0..config.kv_heads {
            let first = Place { layer, kv_head }.start(config);
            let start = first + position % BLOCK_POSITIONS * width;
            let head = kv_head * width..(kv_head + 1) * width;
            block.values[start..start + width].copy_from_slice(&values[head.clone()]);
            let column = block.keys[first..].iter_mut().skip(position % BLOCK_POSITIONS);
            column.step_by(BLOCK_POSITIONS).zip(&keys[head]).for_each(|(cell, key)| *cell = *key);
        }
    }

    /// Of one head and block: keys of all positions, `(head_width, position)`, and values of those among the first `positions`
    /// of the sequence, `(position, head_width)`.
    pub(super) fn read(
        &self,
        config: &DecoderConfig,
        place: Place,
        block: usize,
        positions: usize,
    ) -> (&[f32], &[f32]) {
        let (start, width) = (place.start(config), config.head_width);
        let left = positions.saturating_sub(block * BLOCK_POSITIONS).min(BLOCK_POSITIONS);
        let block = &self.blocks[block];
        (&block.keys[start..start + BLOCK_POSITIONS * width], &block.values[start..start + left * width])
    }
}

impl Place {
    fn start(self, config: &DecoderConfig) -> usize {
        (self.layer * config.kv_heads + self.kv_head) * BLOCK_POSITIONS * config.head_width
    }
}
