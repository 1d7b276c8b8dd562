//! Tokenizers of models that people use, which `scripts/tokenizers.sh` fetches, against the ids that the library `tokenizers`
//! gives in Python. No model of theirs is needed.

use std::path::Path;

use serde::Deserialize;
use swarm_inference::Tokenizer;

#[derive(Deserialize)]
struct Figures {
    tokenizer: String,
    vocab_size: u32,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

fn figures() -> Vec<Figures> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn tokenizers_of_llama_3_and_qwen_give_the_ids_of_the_library() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/tokenizers");
    let figures = figures();
    assert_eq!(figures.len(), 2);
    for Figures { tokenizer, vocab_size, texts } in figures {
        let path = folder.join(format!("{tokenizer}.json"));
        let Ok(json) = std::fs::read(&path) else {
            eprintln!("skipped: {} is not there; scripts/tokenizers.sh fetches it", path.display());
            return;
        };
        let ours = Tokenizer::from_json(&json, vocab_size, None).unwrap();
        for Text { text, ids } in texts {
            assert_eq!(ours.encode(&text).unwrap(), ids, "{tokenizer}: {text:?}");
            assert_eq!(ours.decode(&ids), text.as_bytes(), "{tokenizer}: {text:?}");
        }
    }
}
