//! Blocks of keys and values by the tokens that they and all before them stand for.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::BLOCK_POSITIONS;
use crate::decoder::Block;

/// Digest of all tokens up to the end of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct PrefixKey([u8; 32]);

impl PrefixKey {
    /// The key of the block of `tokens` that follows.
    pub(super) fn after(self, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0);
        tokens.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
        Self(*hasher.finalize().as_bytes())
    }
}

/// Full blocks that a new sequence may begin with; the batch bounds their number.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    filed: HashMap<PrefixKey, Filed>,
    clock: u64,
}

#[derive(Debug)]
pub(super) struct Filed {
    block: Arc<Block>,
    /// Blocks before it.
    depth: usize,
    used_at: u64,
}

/// The blocks that a text begins with.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) blocks: Vec<Arc<Block>>,
    pub(super) key: PrefixKey,
}

impl Prefixes {
    pub(super) fn len(&self) -> usize {
        self.filed.len()
    }

    /// The longest run of blocks that `tokens` begin with.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Found {
        self.clock += 1;
        let mut found = Found::default();
        for tokens in tokens.chunks_exact(BLOCK_POSITIONS) {
            let key = found.key.after(tokens);
            let Some(filed) = self.filed.get_mut(&key) else { break };
            filed.used_at = self.clock;
            found.blocks.push(filed.block.clone());
            found.key = key;
        }
        found
    }

    /// Keeps a block; false if there is one for its tokens already.
    pub(super) fn file(&mut self, key: PrefixKey, depth: usize, block: &Arc<Block>) -> bool {
        let new = !self.filed.contains_key(&key);
        let used_at = self.clock;
        self.filed.entry(key).or_insert_with(|| Filed { block: block.clone(), depth, used_at });
        new
    }

    /// Drops up to `count` blocks that no sequence holds, the longest unused first, and of one text its end first.
    pub(super) fn drop_oldest(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let mut idle: Vec<_> =
            self.idle().map(|(key, filed)| (filed.used_at, Reverse(filed.depth), *key)).collect();
        idle.sort_unstable_by_key(|(used_at, depth, _)| (*used_at, *depth));
        for (_, _, key) in idle.into_iter().take(count) {
            self.filed.remove(&key);
        }
    }

    /// Those that no sequence holds.
    pub(super) fn idle(&self) -> impl Iterator<Item = (&PrefixKey, &Filed)> {
        self.filed.iter().filter(|(_, filed)| Arc::strong_count(&filed.block) == 1)
    }
}
