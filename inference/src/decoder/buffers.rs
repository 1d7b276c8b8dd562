//! Keys and values of a sequence on a device.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::{BLOCK_POSITIONS, DecoderConfig};

/// Keys and values of each layer, an f32 tensor of `(2 * kv_head, capacity, head_width)` that is written in place: keys of all
/// heads, then values.
///
/// A clone shares them until one of both is to be written to.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers {
    layers: Arc<Vec<Tensor>>,
}

impl Buffers {
    /// Makes room for `positions` that nobody else writes to; there will never be more than `most`.
    ///
    /// After an error what was written before is still there.
    pub(super) fn reserve(
        &mut self,
        config: &DecoderConfig,
        device: &Device,
        positions: usize,
        most: usize,
    ) -> Result<()> {
        let capacity = capacity(positions, most);
        let room = |old: Option<&Tensor>| {
            let before = old.map_or(Ok(0), |old| old.dim(1))?;
            let shape = (2 * config.kv_heads, capacity.max(before), config.head_width);
            let new = Tensor::zeros(shape, DType::F32, device)?;
            old.map_or(Ok(()), |old| new.slice_set(old, 1, 0)).map(|()| new)
        };
        if self.layers.is_empty() || Arc::strong_count(&self.layers) > 1 {
            let layers = (0..config.layers).map(|layer| room(self.layers.get(layer)));
            self.layers = Arc::new(layers.collect::<Result<_>>()?);
        } else if let Some(layers) = Arc::get_mut(&mut self.layers) {
            for buffer in layers {
                if buffer.dim(1)? < positions {
                    *buffer = room(Some(buffer))?;
                }
            }
        }
        Ok(())
    }

    /// Writes keys and values of one layer, `(2 * kv_head, position, head_width)`, from `position` on.
    pub(super) fn write(&self, layer: usize, position: usize, both: &Tensor) -> Result<()> {
        self.layers[layer].slice_set(both, 1, position)
    }

    /// The keys and the values of one layer at the first `positions`, `(kv_head, position, head_width)` each, without
    /// copying them.
    pub(super) fn read(&self, layer: usize, positions: usize) -> Result<[Tensor; 2]> {
        let both = self.layers[layer].narrow(1, 0, positions)?;
        let kv_heads = both.dim(0)? / 2;
        Ok([both.narrow(0, 0, kv_heads)?, both.narrow(0, kv_heads, kv_heads)?])
    }
}

/// Doubles as positions come, up to the whole blocks that [`crate::Batch`] promises for `most`.
fn capacity(positions: usize, most: usize) -> usize {
    let promised = most.next_multiple_of(BLOCK_POSITIONS);
    positions.next_power_of_two().clamp(BLOCK_POSITIONS, promised.max(BLOCK_POSITIONS)).max(positions)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{Shape, gguf};
    use crate::{Compute, Decoder};

    #[test]
    fn buffers_take_no_more_than_their_positions_were_promised() {
        let file = gguf(Shape::default()).unwrap();
        let decoder = Decoder::from_gguf(&mut Cursor::new(file), Compute::Device).unwrap();
        for most in [1usize, 32, 100, 300] {
            let promised = decoder.position_bytes() * most.next_multiple_of(BLOCK_POSITIONS) as u64;
            let mut buffers = Buffers::default();
            for positions in 1..=most {
                buffers.reserve(decoder.config(), &Device::Cpu, positions, most).unwrap();
                let bytes: usize = buffers.layers.iter().map(|buffer| 4 * buffer.elem_count()).sum();
                assert!(bytes as u64 <= promised, "{bytes} bytes at {positions} of {most} positions");
            }
        }
    }

    #[test]
    fn room_doubles_up_to_what_was_promised() {
        assert_eq!([1, 32, 33, 65, 200].map(|positions| capacity(positions, 1000)), [32, 32, 64, 128, 256]);
        assert_eq!([1, 65, 129, 130].map(|positions| capacity(positions, 130)), [32, 128, 160, 160]);
    }
}
