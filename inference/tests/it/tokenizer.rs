use std::io::Cursor;

use proptest::prelude::*;
use swarm_inference::testing::{Shape, gguf, tokenizer};
use swarm_inference::{MAX_TEXT_BYTES, Tokenizer, TokenizerError};

#[test]
fn merges_are_applied_in_order_within_words() {
    let tokenizer = tokenizer();
    let pieces = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        let piece = |id: &u32| String::from_utf8(tokenizer.piece(*id).to_vec()).unwrap();
        ids.iter().map(piece).collect()
    };
    assert_eq!(pieces("the thin cat"), ["the", " ", "th", "in", " ", "c", "a", "t"]);
    assert_eq!(pieces("in the café"), ["in", " the", " ", "c", "a", "f", "é"]);
}

#[test]
fn names_of_control_tokens_are_text() {
    let tokenizer = tokenizer();
    let text = "a<|endoftext|>b";
    let ids = tokenizer.encode(text).unwrap();
    assert!(!ids.contains(&tokenizer.eos().unwrap()));
    assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    assert_eq!(tokenizer.decode(&[97, 262, 98, 263, u32::MAX]), b"ab");
}

#[test]
fn a_file_gives_the_same_tokenizer_without_its_weights() {
    let file = gguf(Shape::default()).unwrap();
    let header = &file[..file.len() - 300_000];
    let read = Tokenizer::from_gguf(&mut Cursor::new(header)).unwrap();
    let built = tokenizer();
    let text = "the end of the thing in ünicode";
    assert_eq!(read.encode(text).unwrap(), built.encode(text).unwrap());
    assert_eq!((read.vocab_size(), read.eos(), read.bos()), (263, Some(262), None));
}

#[test]
fn a_text_beyond_the_limit_is_refused() {
    let long = " ".repeat(MAX_TEXT_BYTES + 1);
    assert!(matches!(tokenizer().encode(&long), Err(TokenizerError::TooLong(_))));
    assert_eq!(tokenizer().encode(&long[1..]).unwrap().len(), MAX_TEXT_BYTES);
}

proptest! {
    #[test]
    fn every_text_survives(text in any::<String>()) {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
        let pieces: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.piece(id).to_vec()).collect();
        prop_assert_eq!(pieces, text.as_bytes());
    }

    #[test]
    fn spaces_and_letters_survive(text in "[ the\\n\\t\u{a0}é's1]{0,40}") {
        let tokenizer = tokenizer();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()), text.as_bytes());
    }
}
