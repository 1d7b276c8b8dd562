use std::io::Cursor;

use swarm_inference::testing::{Shape, gguf};
use swarm_inference::{Compute, Decoder, LoadError, Tokenizer};

fn load(bytes: impl AsRef<[u8]>) -> Result<Decoder, LoadError> {
    Decoder::from_gguf(&mut Cursor::new(bytes), Compute::AllCores)
}

fn refusal(bytes: Vec<u8>) -> String {
    match load(bytes) {
        Err(LoadError::Gguf(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn small() -> Vec<u8> {
    let shape = Shape { layers: 1, width: 32, hidden: 32, heads: 2, kv_heads: 1, ..Shape::default() };
    gguf(shape).unwrap()
}

fn header(tensors: u64, metadata: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(metadata.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

#[test]
fn absurd_counts_are_refused_before_anything_is_allocated() {
    assert_eq!(
        refusal(header(u64::MAX, 0, b"")),
        format!("the GGUF header states {} tensors, the limit is 16384", u64::MAX)
    );
    assert!(refusal(header(0, 1 << 40, b"")).contains("metadata entries, the limit is 1024"));
    assert!(refusal(header(0, 1, &(1u64 << 40).to_le_bytes())).contains("bytes of a string"));
    let array = [
        string("a"),
        9u32.to_le_bytes().to_vec(),
        0u32.to_le_bytes().to_vec(),
        (1u64 << 30).to_le_bytes().to_vec(),
    ];
    assert!(refusal(header(0, 1, &array.concat())).contains("array elements"));
    let nested =
        [string("a"), 9u32.to_le_bytes().to_vec(), 9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()];
    assert!(refusal(header(0, 1, &nested.concat())).contains("arrays of arrays"));
    let dimensions = [1u64 << 20, 1 << 20].map(u64::to_le_bytes).concat();
    let tensor = [string("t"), 2u32.to_le_bytes().to_vec(), dimensions];
    assert!(refusal(header(1, 0, &tensor.concat())).contains("elements of a tensor"));
    let five = [string("t"), 5u32.to_le_bytes().to_vec()];
    assert!(refusal(header(1, 0, &five.concat())).contains("5 dimensions"));
}

#[test]
fn an_alignment_that_would_divide_by_zero_is_refused() {
    for key in ["general.alignment", "general.alignment\0"] {
        let entry = [string(key), 4u32.to_le_bytes().to_vec(), 0u32.to_le_bytes().to_vec()].concat();
        assert!(refusal(header(0, 1, &entry)).contains("alignment"));
    }
}

#[test]
fn other_files_are_refused() {
    assert_eq!(refusal(b"PK\x03\x04 and so on".to_vec()), "not a GGUF file of version 2 or 3");
    assert_eq!(refusal(b"GGUF\x01\0\0\0".to_vec()), "not a GGUF file of version 2 or 3");
    assert!(refusal(Vec::new()).contains("cannot be read"));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = small();
    for length in (0..whole.len()).step_by(97) {
        let cut = whole[..length].to_vec();
        assert!(load(cut).is_err(), "{length} bytes");
    }
    assert!(load(whole).is_ok());
}

#[test]
fn a_damaged_header_never_panics() {
    let whole = small();
    for position in 0..1_200 {
        for flip in [0xFF, 0x01, 0x80] {
            let mut damaged = whole.clone();
            damaged[position] ^= flip;
            let _ = Tokenizer::from_gguf(&mut Cursor::new(&damaged));
            let _ = load(&damaged);
        }
    }
}
