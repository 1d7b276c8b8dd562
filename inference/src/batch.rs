//! Many sequences on one model: they join and leave between tokens, and every step computes all of them in one pass.
//!
//! A step takes one token of every sequence that has one, and of those whose prompt is not yet computed a chunk of
//! tokens between them, the oldest first. What a sequence is offered does not depend on the others. Keys and values are
//! bounded: a sequence that joins is sure of room to its end, or is refused. On processors, what finished sequences leave
//! behind serves those that begin alike, until room is needed; on a device it is given back.

mod prefixes;

use std::collections::BTreeMap;

use candle_core::Tensor;
use thiserror::Error;

use self::prefixes::{PrefixKey, Prefixes};
use crate::decoder::Run;
use crate::{BLOCK_POSITIONS, Decoder, EngineError, Interrupt, Sequence};

/// The most sequences that one batch may be given.
pub const MAX_BATCH_SEQUENCES: usize = 64;

/// How much a batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most sequences at a time, at most [`MAX_BATCH_SEQUENCES`].
    pub max_sequences: usize,
    /// The most bytes of keys and values, those kept for their prefixes among them.
    pub max_cache_bytes: u64,
}

/// Names a sequence of a batch; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// The logits after the last token that a sequence has.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Whose.
    pub sequence: SequenceId,
    /// `vocab_size` numbers.
    pub logits: Vec<f32>,
}

/// Why a sequence may not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// As many as allowed are there.
    #[error("the batch holds {0} sequences already")]
    Sequences(usize),
    /// Its keys and values would not fit.
    #[error("the sequence needs a cache of {needed} positions, {free} of {max} are free")]
    Cache {
        /// Positions that it would take beyond what it shares.
        needed: usize,
        /// Positions that nobody uses.
        free: usize,
        /// Positions of the whole cache.
        max: usize,
    },
    /// The request is not possible.
    #[error(transparent)]
    Request(#[from] EngineError),
}

/// A model with the sequences that it works on.
#[derive(Debug)]
pub struct Batch<M = Decoder> {
    model: M,
    max_sequences: usize,
    max_blocks: usize,
    members: BTreeMap<SequenceId, Member>,
    prefixes: Prefixes,
    next: u64,
}

#[derive(Debug)]
struct Member {
    sequence: Sequence,
    /// All tokens, of which the sequence has seen the first.
    tokens: Vec<u32>,
    /// The most tokens that there may be.
    max_tokens: usize,
    /// Blocks that it may fill beside those that others can find.
    reserved: usize,
    /// Digest of the blocks so far.
    key: PrefixKey,
    filed: usize,
    shared: usize,
}

impl<M: AsRef<Decoder>> Batch<M> {
    /// An empty batch; limits beyond [`MAX_BATCH_SEQUENCES`] are lowered to it.
    pub fn new(model: M, limits: BatchLimits) -> Self {
        let max_blocks = blocks_in(limits.max_cache_bytes, model.as_ref());
        Self {
            model,
            max_sequences: limits.max_sequences.min(MAX_BATCH_SEQUENCES),
            max_blocks,
            members: BTreeMap::new(),
            prefixes: Prefixes::default(),
            next: 0,
        }
    }

    /// Takes a sequence that begins with `prompt` and to which at most `max_new` tokens will be added.
    pub fn join(&mut self, prompt: &[u32], max_new: usize) -> Result<SequenceId, JoinError> {
        let decoder = self.model.as_ref();
        decoder.check(prompt, 0)?;
        if self.members.len() >= self.max_sequences {
            return Err(JoinError::Sequences(self.members.len()));
        }
        let max_tokens = prompt.len().saturating_add(max_new).min(decoder.config().context_length);
        // The last token is computed anyhow: its logits are what is asked for.
        let found = self.prefixes.find(&prompt[..prompt.len() - 1]);
        let reserved = max_tokens.div_ceil(BLOCK_POSITIONS) - found.blocks.len();
        let free = self.free_blocks() + self.prefixes.idle().count();
        if reserved > free {
            let [needed, free, max] =
                [reserved, free, self.max_blocks].map(|blocks| blocks * BLOCK_POSITIONS);
            return Err(JoinError::Cache { needed, free, max });
        }
        let lacking = reserved.saturating_sub(self.free_blocks());
        self.prefixes.drop_oldest(lacking);
        let shared = found.blocks.len();
        let member = Member {
            sequence: Sequence::with_prefix(found.blocks, max_tokens),
            tokens: prompt.to_vec(),
            max_tokens,
            reserved,
            key: found.key,
            filed: shared,
            shared,
        };
        let id = SequenceId(self.next);
        self.next += 1;
        self.members.insert(id, member);
        Ok(id)
    }

    /// Adds the token that was chosen from a sequence's last offer.
    pub fn push(&mut self, id: SequenceId, token: u32) -> Result<(), EngineError> {
        let decoder = self.model.as_ref();
        let member =
            self.members.get_mut(&id).ok_or(EngineError::Request("the sequence is not in the batch"))?;
        decoder.check(&[token], member.tokens.len())?;
        if member.tokens.len() >= member.max_tokens {
            return Err(EngineError::Request("the sequence has all the tokens that it joined for"));
        }
        if member.sequence.len() < member.tokens.len() {
            return Err(EngineError::Request("the sequence was not offered anything yet"));
        }
        member.tokens.push(token);
        Ok(())
    }

    /// Takes a sequence out; what it computed may serve others.
    pub fn leave(&mut self, id: SequenceId) -> bool {
        self.members.remove(&id).is_some()
    }

    /// Takes all sequences out, and what they left behind.
    pub fn clear(&mut self) {
        self.members.clear();
        self.prefixes = Prefixes::default();
    }

    /// Promises sequences that join from now on no more than this beside what is promised.
    pub(crate) fn limit_cache(&mut self, max_cache_bytes: u64) {
        self.max_blocks = blocks_in(max_cache_bytes, self.model.as_ref());
    }

    /// Computes what is there to compute and returns the logits of the sequences whose last token is among it.
    ///
    /// After an error only [`Batch::clear`] brings it to a known state.
    pub fn step(&mut self, interrupt: Interrupt<'_>) -> Result<Vec<Offer>, EngineError> {
        let taken = self.taken();
        if taken.is_empty() {
            return Ok(Vec::new());
        }
        let members = self.members.iter_mut().filter_map(|(id, member)| Some((member, *taken.get(id)?)));
        let mut runs: Vec<Run<'_>> = members
            .map(|(member, count)| {
                let seen = member.sequence.len();
                Run { tokens: &member.tokens[seen..seen + count], sequence: &mut member.sequence }
            })
            .collect();
        let hidden = self.model.as_ref().advance(&mut runs, interrupt)?;
        let offers = self.offers(&taken, &hidden)?;
        self.file_full_blocks();
        Ok(offers)
    }

    /// Whether a step would compute nothing.
    pub fn is_idle(&self) -> bool {
        self.members.values().all(|member| member.waiting() == 0)
    }

    /// Sequences that are here.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether no sequence is here.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Prompt tokens that a sequence did not have to compute.
    pub fn reused_tokens(&self, id: SequenceId) -> Option<usize> {
        self.members.get(&id).map(|member| member.shared * BLOCK_POSITIONS)
    }

    /// Memory of keys and values that are held or promised, in bytes.
    pub fn cache_bytes(&self) -> u64 {
        (self.used_blocks() * BLOCK_POSITIONS) as u64 * self.model.as_ref().position_bytes()
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    fn used_blocks(&self) -> usize {
        self.members.values().map(|member| member.reserved).sum::<usize>() + self.prefixes.len()
    }

    fn free_blocks(&self) -> usize {
        self.max_blocks.saturating_sub(self.used_blocks())
    }

    /// How many tokens of which sequence the next step takes.
    fn taken(&self) -> BTreeMap<SequenceId, usize> {
        let mut chunk = self.model.as_ref().compute().chunk();
        let mut taken = BTreeMap::new();
        for (id, member) in &self.members {
            let waiting = member.waiting();
            let count = if waiting == 1 { 1 } else { waiting.min(chunk) };
            if count > 0 {
                taken.insert(*id, count);
            }
            if waiting > 1 {
                chunk -= count;
            }
        }
        taken
    }

    fn offers(
        &self,
        taken: &BTreeMap<SequenceId, usize>,
        hidden: &Tensor,
    ) -> Result<Vec<Offer>, EngineError> {
        let mut end = 0;
        let (mut whose, mut rows) = (Vec::new(), Vec::new());
        for (id, count) in taken {
            end += count;
            if self.members[id].waiting() == 0 {
                whose.push(*id);
                rows.push(end as u32 - 1);
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = hidden.index_select(&Tensor::new(rows, hidden.device())?, 0)?;
        let logits = self.model.as_ref().logits(&hidden)?;
        Ok(whose.into_iter().zip(logits).map(|(sequence, logits)| Offer { sequence, logits }).collect())
    }

    fn file_full_blocks(&mut self) {
        for member in self.members.values_mut() {
            while let Some(block) = member.sequence.full_block(member.filed) {
                let tokens = &member.tokens[member.filed * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
                member.key = member.key.after(tokens);
                if self.prefixes.file(member.key, member.filed, block) {
                    member.reserved -= 1;
                }
                member.filed += 1;
            }
        }
    }
}

/// Whole blocks of keys and values in so many bytes.
fn blocks_in(bytes: u64, decoder: &Decoder) -> usize {
    let block_bytes = decoder.position_bytes() * BLOCK_POSITIONS as u64;
    usize::try_from(bytes / block_bytes).unwrap_or(usize::MAX)
}

impl Member {
    /// Tokens that the sequence has not seen.
    fn waiting(&self) -> usize {
        self.tokens.len() - self.sequence.len()
    }
}
