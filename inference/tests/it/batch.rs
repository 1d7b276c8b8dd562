//! Sequences that share passes: each gets what it would get alone.

use std::io::Cursor;

use proptest::prelude::*;
use swarm_inference::testing::{Shape, Storage, gguf};
use swarm_inference::{
    BLOCK_POSITIONS, Batch, BatchLimits, CancelToken, Compute, Decoder, EngineError, Interrupt, JoinError,
    Sequence, SequenceId, candidates,
};

const ROOMY: BatchLimits = BatchLimits { max_sequences: 8, max_cache_bytes: 1 << 30 };

fn decoder(compute: Compute, storage: Storage) -> Decoder {
    let shape = Shape { width: 256, hidden: 256, storage, ..Shape::default() };
    Decoder::from_gguf(&mut Cursor::new(gguf(shape).unwrap()), compute).unwrap()
}

fn small() -> Decoder {
    Decoder::from_gguf(&mut Cursor::new(gguf(Shape::default()).unwrap()), Compute::OneCore).unwrap()
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 31 + seed * 17) % 250).collect()
}

fn likeliest(logits: &[f32]) -> u32 {
    candidates(logits, 1).unwrap()[0].token
}

/// Tokens and the logits that each was chosen from, of one sequence without a batch.
fn alone(decoder: &Decoder, prompt: &[u32], count: usize) -> Vec<(u32, Vec<f32>)> {
    let mut sequence = Sequence::default();
    let mut next = prompt.to_vec();
    let mut made = Vec::new();
    for _ in 0..count {
        let logits = decoder.forward(&mut sequence, &next, Interrupt::default()).unwrap();
        next = vec![likeliest(&logits)];
        made.push((next[0], logits));
    }
    made
}

struct Wish {
    prompt: Vec<u32>,
    count: usize,
    /// The step before which it joins.
    joins_at: usize,
}

/// Runs all wishes in one batch, each joining at its step and leaving when it has its tokens.
fn together(decoder: &Decoder, wishes: &[Wish]) -> Vec<Vec<(u32, Vec<f32>)>> {
    let mut batch = Batch::new(decoder, ROOMY);
    let mut made: Vec<Vec<(u32, Vec<f32>)>> = wishes.iter().map(|_| Vec::new()).collect();
    let mut members: Vec<(SequenceId, usize)> = Vec::new();
    for step in 0.. {
        for (index, wish) in wishes.iter().enumerate().filter(|(_, wish)| wish.joins_at == step) {
            members.push((batch.join(&wish.prompt, wish.count).unwrap(), index));
        }
        for offer in batch.step(Interrupt::default()).unwrap() {
            let (id, index) = *members.iter().find(|(id, _)| *id == offer.sequence).unwrap();
            let token = likeliest(&offer.logits);
            made[index].push((token, offer.logits));
            if made[index].len() == wishes[index].count {
                assert!(batch.leave(id));
            } else {
                batch.push(id, token).unwrap();
            }
        }
        if batch.is_empty() && wishes.iter().all(|wish| wish.joins_at <= step) {
            return made;
        }
    }
    unreachable!("steps end")
}

#[test]
fn a_sequence_gets_the_same_bits_whoever_else_is_there() {
    let wishes: Vec<Wish> = (0..8)
        .map(|i| Wish { prompt: prompt(i as u32, 1 + 13 * i), count: 3 + i % 4, joins_at: i / 2 * 3 })
        .collect();
    for storage in [Storage::F32, Storage::Q8_0, Storage::Q4K, Storage::Q6K] {
        for compute in [Compute::AllCores, Compute::OneCore] {
            let decoder = decoder(compute, storage);
            let made = together(&decoder, &wishes);
            for (wish, made) in wishes.iter().zip(&made) {
                assert!(*made == alone(&decoder, &wish.prompt, wish.count), "{storage:?} on {compute:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn joining_and_leaving_at_any_time_changes_nothing(
        wishes in prop::collection::vec((0u32..3, 1usize..100, 1usize..6, 0usize..6), 1..8),
    ) {
        let decoder = small();
        let wish = |&(seed, length, count, joins_at): &(u32, usize, usize, usize)| {
            Wish { prompt: prompt(seed, length), count, joins_at }
        };
        let wishes: Vec<Wish> = wishes.iter().map(wish).collect();
        for (wish, made) in wishes.iter().zip(together(&decoder, &wishes)) {
            prop_assert!(made == alone(&decoder, &wish.prompt, wish.count));
        }
    }
}

/// Takes one token of a sequence that was just joined.
fn first(batch: &mut Batch<&Decoder>, id: SequenceId) -> Vec<f32> {
    loop {
        let offers = batch.step(Interrupt::default()).unwrap();
        if let Some(offer) = offers.into_iter().find(|offer| offer.sequence == id) {
            return offer.logits;
        }
    }
}

#[test]
fn what_two_prompts_begin_with_is_computed_once() {
    let decoder = small();
    let mut batch = Batch::new(&decoder, ROOMY);
    let text = prompt(1, 3 * BLOCK_POSITIONS + 5);
    let other = [&text[..2 * BLOCK_POSITIONS + 3], &prompt(9, 40)].concat();
    let one = batch.join(&text, 4).unwrap();
    let logits = first(&mut batch, one);
    // The second joins while the first is there, the third after it left.
    let two = batch.join(&other, 4).unwrap();
    assert_eq!(batch.reused_tokens(two), Some(2 * BLOCK_POSITIONS));
    assert_eq!(first(&mut batch, two), alone(&decoder, &other, 1)[0].1);
    batch.leave(one);
    let three = batch.join(&text, 4).unwrap();
    assert_eq!(batch.reused_tokens(three), Some(3 * BLOCK_POSITIONS));
    assert_eq!(first(&mut batch, three), logits);
    let another = [&[249], &text[1..]].concat();
    let four = batch.join(&another, 4).unwrap();
    assert_eq!(batch.reused_tokens(four), Some(0));
    // The same tokens after others, or after none, are not the same.
    let later = batch.join(&text[BLOCK_POSITIONS..], 4).unwrap();
    assert_eq!(batch.reused_tokens(later), Some(0));
    // A whole number of blocks leaves the last one to compute: its logits are asked for.
    let five = batch.join(&text[..2 * BLOCK_POSITIONS], 4).unwrap();
    assert_eq!(batch.reused_tokens(five), Some(BLOCK_POSITIONS));
}

fn limits(decoder: &Decoder, blocks: usize) -> BatchLimits {
    let max_cache_bytes = decoder.position_bytes() * (blocks * BLOCK_POSITIONS) as u64;
    BatchLimits { max_sequences: 4, max_cache_bytes }
}

#[test]
fn a_full_cache_refuses_and_forgets_the_oldest_first() {
    let decoder = small();
    let mut batch = Batch::new(&decoder, limits(&decoder, 4));
    let [old, new] = [prompt(1, 33), prompt(2, 33)];
    for text in [&old, &new] {
        let id = batch.join(text, 1).unwrap();
        first(&mut batch, id);
        batch.leave(id);
    }
    assert_eq!(batch.cache_bytes(), decoder.position_bytes() * 64);
    // Three blocks: two are free, and of the two that are left from before the older one goes.
    let big = batch.join(&prompt(3, 65), 31).unwrap();
    let refused = batch.join(&prompt(4, 65), 1).unwrap_err();
    assert_eq!(refused.to_string(), "the sequence needs a cache of 96 positions, 32 of 128 are free");
    let again = batch.join(&new, 1).unwrap_err();
    assert!(matches!(again, JoinError::Cache { needed: 32, free: 0, .. }), "{again}");
    batch.leave(big);
    let id = batch.join(&new, 1).unwrap();
    assert_eq!(batch.reused_tokens(id), Some(32));
    let id = batch.join(&old, 1).unwrap();
    assert_eq!(batch.reused_tokens(id), Some(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_cache_never_exceeds_its_limit(
        wishes in prop::collection::vec((0u32..6, 1usize..150, 1usize..40, any::<bool>()), 1..24),
    ) {
        let decoder = small();
        let limits = limits(&decoder, 7);
        let mut batch = Batch::new(&decoder, limits);
        let mut members: Vec<SequenceId> = Vec::new();
        for (seed, length, count, stays) in wishes {
            match batch.join(&prompt(seed, length), count) {
                Ok(id) => {
                    first(&mut batch, id);
                    if stays { members.push(id) } else { batch.leave(id); }
                }
                Err(JoinError::Request(error)) => prop_assert!(false, "{error}"),
                Err(_) => members.drain(..).for_each(|id| { batch.leave(id); }),
            }
            prop_assert!(batch.cache_bytes() <= limits.max_cache_bytes);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let decoder = small();
    let mut batch = Batch::new(&decoder, limits(&decoder, 100));
    let refusal = |result: Result<SequenceId, JoinError>| result.unwrap_err().to_string();
    assert_eq!(refusal(batch.join(&[], 1)), "the prompt is empty");
    assert_eq!(refusal(batch.join(&[263], 1)), "token 263 is not in the model's vocabulary");
    let ids: Vec<SequenceId> = (0..4).map(|_| batch.join(&[1], 2).unwrap()).collect();
    assert_eq!(refusal(batch.join(&[1], 1)), "the batch holds 4 sequences already");
    let early = batch.push(ids[0], 1).unwrap_err().to_string();
    assert_eq!(early, "the request is not valid: the sequence was not offered anything yet");
    for _ in 0..2 {
        batch.step(Interrupt::default()).unwrap();
        batch.push(ids[0], 1).unwrap();
    }
    batch.step(Interrupt::default()).unwrap();
    let late = batch.push(ids[0], 1).unwrap_err().to_string();
    assert_eq!(late, "the request is not valid: the sequence has all the tokens that it joined for");
    assert!(batch.leave(ids[0]));
    assert!(!batch.leave(ids[0]));
    assert!(matches!(batch.push(ids[0], 1), Err(EngineError::Request(_))));
}

#[test]
fn an_interrupted_step_changes_nothing() {
    let decoder = small();
    let mut batch = Batch::new(&decoder, ROOMY);
    let text = prompt(5, 50);
    let id = batch.join(&text, 2).unwrap();
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancels = [&cancel];
    for _ in 0..3 {
        let result = batch.step(Interrupt::new(&cancels, None));
        assert!(matches!(result, Err(EngineError::Cancelled)));
    }
    assert_eq!(first(&mut batch, id), alone(&decoder, &text, 1)[0].1);
    assert!(batch.is_idle());
}
