use std::io::Cursor;
use std::process::Command;

use swarm_inference::testing::{Shape, Storage, gguf};
use swarm_inference::{CancelToken, Compute, Decoder, EngineError, Interrupt, Sequence};

const NONE: fn() -> Interrupt<'static> = Interrupt::default;

const BOTH: [Compute; 2] = [Compute::AllCores, Compute::OneCore];

fn llama(shape: Shape) -> Decoder {
    on(Compute::AllCores, shape)
}

fn on(compute: Compute, shape: Shape) -> Decoder {
    Decoder::from_gguf(&mut Cursor::new(gguf(shape).unwrap()), compute).unwrap()
}

fn new() -> Sequence {
    Sequence::default()
}

fn stored(storage: Storage) -> Shape {
    Shape { storage, ..Shape::default() }
}

fn ids(length: usize) -> Vec<u32> {
    (0..length).map(|i| (i * 31 % 250) as u32).collect()
}

fn distance(left: &[f32], right: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = left.iter().zip(right).map(|(l, r)| square(l - r)).sum();
    (difference / right.iter().map(|&r| square(r)).sum::<f64>()).sqrt()
}

fn one_by_one(compute: Compute, storage: Storage) -> f64 {
    let ids = ids(70);
    let llama = on(compute, stored(storage));
    let all = llama.forward_all(&mut new(), &ids, NONE()).unwrap();
    assert_eq!((all.len(), all[0].len()), (70, 263));
    let mut sequence = new();
    let single = |id: &u32| llama.forward(&mut sequence, &[*id], NONE()).unwrap();
    let singles: Vec<Vec<f32>> = ids.iter().map(single).collect();
    distance(&singles.concat(), &all.concat())
}

#[test]
fn one_by_one_equals_all_at_once_to_the_bit() {
    for storage in [Storage::F32, Storage::F16, Storage::Q8_0] {
        for compute in BOTH {
            assert_eq!(one_by_one(compute, storage), 0.0, "{storage:?} on {compute:?}");
        }
    }
}

#[test]
fn one_core_computes_what_all_cores_compute() {
    let ids = ids(70);
    for shape in [stored(Storage::F32), Shape { kv_heads: 4, ..stored(Storage::F16) }] {
        let [all, one] =
            BOTH.map(|compute| on(compute, shape).forward_all(&mut new(), &ids, NONE()).unwrap().concat());
        let apart = distance(&one, &all);
        assert!(apart < 1e-5, "{apart}");
    }
}

/// Wide enough for the kernels that pack quantised weights.
fn wide(storage: Storage) -> Shape {
    Shape { width: 256, hidden: 512, ..stored(storage) }
}

#[test]
fn quantised_weights_compute_nearly_the_same() {
    for (exact, quantised) in
        [(stored(Storage::F32), stored(Storage::Q8_0)), (wide(Storage::F32), wide(Storage::Q8_0))]
    {
        let exact = llama(exact).forward_all(&mut new(), &ids(50), NONE()).unwrap();
        let found = llama(quantised).forward_all(&mut new(), &ids(50), NONE()).unwrap();
        let distance = distance(&found.concat(), &exact.concat());
        assert!((1e-4..5e-2).contains(&distance), "{distance}");
    }
}

#[test]
fn engines_side_by_side_do_not_disturb_each_other() {
    let ids = ids(80);
    let run = || llama(wide(Storage::Q8_0)).forward_all(&mut new(), &ids, NONE()).unwrap();
    let alone = run();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), alone);
        }
    });
}

/// Prints a digest for the test below, which runs it with other numbers of threads.
#[test]
#[ignore = "run by the_number_of_threads_changes_no_bit"]
fn print_logits_digest() {
    let mut hasher = blake3::Hasher::new();
    for storage in [Storage::F32, Storage::F16, Storage::Q8_0] {
        let logits = llama(wide(storage)).forward_all(&mut new(), &ids(80), NONE()).unwrap();
        for logit in logits.concat() {
            hasher.update(&logit.to_le_bytes());
        }
    }
    println!("digest {}", hasher.finalize());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let digest = |threads: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture", "forward::print_logits_digest"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, digest) = text.split_once("digest ").unwrap_or_else(|| panic!("{text}"));
        digest[..64].to_owned()
    };
    let one = digest("1");
    assert_eq!([digest("2"), digest("3")], [one.clone(), one]);
}

#[test]
fn chunks_equal_the_whole() {
    let ids = ids(130);
    let llama = llama(stored(Storage::Q8_0));
    let whole = llama.forward(&mut new(), &ids, NONE()).unwrap();
    for size in [7, 64, 129] {
        let mut sequence = new();
        let last = (ids.len() - 1) / size * size;
        for chunk in ids[..last].chunks(size) {
            llama.feed(&mut sequence, chunk, NONE()).unwrap();
        }
        assert_eq!(llama.forward(&mut sequence, &ids[last..], NONE()).unwrap(), whole, "chunks of {size}");
    }
}

#[test]
fn every_earlier_token_and_its_place_matters() {
    let llama = llama(Shape::default());
    let before = llama.forward(&mut new(), &[10, 20, 30, 40], NONE()).unwrap();
    for other in [[11, 20, 30, 40], [20, 10, 30, 40], [10, 30, 20, 40]] {
        let after = llama.forward(&mut new(), &other, NONE()).unwrap();
        assert!(distance(&after, &before) > 1e-3, "{other:?}");
    }
}

#[test]
fn a_later_token_changes_nothing_before_it() {
    let llama = llama(Shape::default());
    let one = llama.forward_all(&mut new(), &[10, 20, 30], NONE()).unwrap();
    let other = llama.forward_all(&mut new(), &[10, 20, 99], NONE()).unwrap();
    assert_eq!(one[..2], other[..2]);
    assert_ne!(one[2], other[2]);
}

#[test]
fn going_back_forgets_what_came_after() {
    let llama = llama(Shape::default());
    let mut sequence = new();
    llama.feed(&mut sequence, &ids(70), NONE()).unwrap();
    let mut other = sequence.clone();
    other.truncate(20);
    let again = llama.forward(&mut other, &[7, 8], NONE()).unwrap();
    assert_eq!((sequence.len(), other.len()), (70, 22));
    let mut fresh = new();
    llama.feed(&mut fresh, &ids(20), NONE()).unwrap();
    assert_eq!(again, llama.forward(&mut fresh, &[7, 8], NONE()).unwrap());
    let whole = [ids(70), vec![9]].concat();
    let after = llama.forward(&mut sequence, &[9], NONE()).unwrap();
    assert_eq!(after, llama.forward(&mut new(), &whole, NONE()).unwrap(), "the copy wrote to the original");
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let ids = ids(100);
    let one = llama(stored(Storage::Q8_0));
    let other = llama(stored(Storage::Q8_0));
    let first = one.forward_all(&mut new(), &ids, NONE()).unwrap();
    assert_eq!(first, other.forward_all(&mut new(), &ids, NONE()).unwrap());
    assert_eq!(first, one.forward_all(&mut new(), &ids, NONE()).unwrap());
}

#[test]
fn positions_and_tokens_have_bounds() {
    let shape = Shape { context_length: 8, ..Shape::default() };
    let llama = llama(shape);
    let mut sequence = new();
    llama.feed(&mut sequence, &ids(8), NONE()).unwrap();
    let full = llama.forward(&mut sequence, &[1], NONE());
    assert!(matches!(full, Err(EngineError::PromptTooLong { tokens: 9, context: 8 })));
    assert!(matches!(llama.forward(&mut new(), &[263], NONE()), Err(EngineError::UnknownToken(263))));
    assert!(matches!(llama.forward(&mut new(), &[], NONE()), Err(EngineError::EmptyPrompt)));
}

#[test]
fn cancelling_is_seen_between_layers() {
    let cancel = CancelToken::new();
    cancel.cancel();
    let cancels = [&cancel];
    let llama = llama(Shape::default());
    let result = llama.forward(&mut new(), &[1, 2], Interrupt::new(&cancels, None));
    assert!(matches!(result, Err(EngineError::Cancelled)));
    assert!(llama.forward(&mut new(), &[1, 2], NONE()).is_ok());
}
