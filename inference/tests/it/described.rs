//! Manifests that are made of files without one, and text models that come as safetensors.

use std::path::{Path, PathBuf};

use swarm_inference::testing::{self, tokenizer_json};
use swarm_inference::{Found, LoadError, Manifest, Model, ModelFile, Registry, Workload, spdx, validate};

const TEXT: &str = "the thin thing in the end is the thing that the others in the inn have been thinking of then and there; \
    and then the others, in the end, think of the thin thing that is in the inn, and of the end of the thing.";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn file(folder: &Path, name: &str) -> ModelFile {
    let bytes = std::fs::read(folder.join(name)).unwrap();
    ModelFile {
        file: name.into(),
        size: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
    }
}

fn describe(folder: &Path, name: &str, files: &[&str]) -> Result<Manifest, LoadError> {
    let mut files = files.iter().map(|name| file(folder, name));
    let weights = files.next().unwrap();
    Manifest::describe(Found {
        name,
        folder,
        weights,
        shards: Vec::new(),
        files: files.collect(),
        licence: None,
    })
}

fn safetensors(kind: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixtures().join("decoders").join(kind).join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json()).unwrap();
    folder
}

#[test]
fn the_manifest_that_is_made_of_weights_is_the_one_that_was_written_by_hand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/queenbee-nano");
    let made = describe(&folder, "queenbee-nano", &["queenbee-nano-q8_0.gguf"]).unwrap();
    assert_eq!(made, swarm_inference::queenbee().manifest);
    let folder = fixtures().join("bert");
    let written = Model::from_manifest_file(&folder.join("manifest.json")).unwrap().manifest;
    let made =
        describe(&folder, &written.name, &["model.safetensors", "config.json", "tokenizer.json"]).unwrap();
    assert_eq!(Manifest { licence: written.licence.clone(), ..made }, written);
    assert_eq!((spdx("apache-2.0"), spdx("llama3.2")), ("Apache-2.0".into(), "LicenseRef-llama3.2".into()));
}

#[test]
fn text_models_of_safetensors_run_as_those_of_gguf_do() {
    for kind in ["llama", "qwen2", "qwen3"] {
        let folder = safetensors(kind);
        let manifest =
            describe(folder.path(), "bee", &["model.safetensors", "config.json", "tokenizer.json"]).unwrap();
        let stated =
            (manifest.workload, manifest.architecture.as_str(), manifest.context_length, manifest.vocab_size);
        assert_eq!(stated, (Workload::LlmGen, kind, 128, 272));
        let path = folder.path().join("manifest.json");
        std::fs::write(&path, serde_json::to_string(&manifest).unwrap()).unwrap();
        let model = Model::from_manifest_file(&path).unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert_eq!(tokenizer.encode(TEXT).unwrap(), testing::tokenizer().encode(TEXT).unwrap());
        // Random weights know no text.
        let found = validate(&Registry::standard(), &model, TEXT).unwrap();
        let failed: Vec<_> = found.checks.iter().filter(|item| !item.passed).map(|item| item.check).collect();
        assert!(failed.is_empty() || failed == ["perplexity"], "{kind}: {:?}", found.checks);
    }
}

#[test]
fn what_cannot_be_run_is_refused_in_words() {
    let folder = safetensors("llama");
    let files = ["model.safetensors", "config.json", "tokenizer.json"];
    let told = |file: &str, content: &str| {
        let folder = safetensors("llama");
        std::fs::write(folder.path().join(file), content).unwrap();
        describe(folder.path(), "bee", &files).unwrap_err().to_string()
    };
    assert!(describe(folder.path(), "bee", &files).is_ok());
    assert!(told("config.json", r#"{"model_type": "mamba"}"#).contains("config.json is not usable"));
    assert!(told("config.json", "{}").contains("missing field `model_type`"));
    assert!(told("tokenizer.json", "{}").contains("the tokenizer is malformed"));
    let with = |from: &str, to: &str| {
        let json = tokenizer_json();
        assert!(json.contains(from));
        json.replace(from, to)
    };
    assert!(
        told("tokenizer.json", &with("\"normalizer\":null", r#""normalizer":{"type":"Prepend"}"#))
            .contains("normalizer")
    );
    assert!(told("tokenizer.json", &with("\"use_regex\":true", "\"use_regex\":false")).contains("words"));
    assert!(told("tokenizer.json", &with("\"id\":262", "\"id\":272")).contains("token 272 is outside"));
}
