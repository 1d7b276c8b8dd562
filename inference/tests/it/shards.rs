//! Weights in several files: the same model, to the bit, or a refusal in words.

use std::path::{Path, PathBuf};

use swarm_inference::testing::{cut, tokenizer_json};
use swarm_inference::{
    CancelToken, Compute, Decoder, EngineConfig, Flow, Found, GenerateRequest, Greedy, Hardware, Interrupt,
    LoadError, Manifest, ManifestError, Model, ModelFile, Registry, SHARD_INDEX, Sequence, ShardIndex, Step,
};

const BESIDE: [&str; 3] = [SHARD_INDEX, "config.json", "tokenizer.json"];
const PARTS: usize = 3;

fn fixture(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/decoders").join(kind)
}

fn stated(folder: &Path, name: &str) -> ModelFile {
    let bytes = std::fs::read(folder.join(name)).unwrap();
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    ModelFile { file: name.into(), size: bytes.len() as u64, blake3 }
}

/// The files of a model beside its weights.
fn folder(kind: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(kind).join("config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json()).unwrap();
    folder
}

fn weights(kind: &str) -> Vec<u8> {
    std::fs::read(fixture(kind).join("model.safetensors")).unwrap()
}

/// A shipped model, cut into three files.
fn in_parts(kind: &str) -> (tempfile::TempDir, Vec<String>) {
    let folder = folder(kind);
    let files = cut(&weights(kind), PARTS).unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.path().join(name), bytes).unwrap());
    (folder, files.into_iter().map(|(name, _)| name).take(PARTS).collect())
}

fn describe(folder: &Path, weights: &[String], beside: &[&str]) -> Result<Manifest, LoadError> {
    let mut weights = weights.iter().map(|name| stated(folder, name));
    let (first, shards) = (weights.next().unwrap(), weights.collect());
    let files = beside.iter().map(|name| stated(folder, name)).collect();
    Manifest::describe(Found { name: "hive", folder, weights: first, shards, files, licence: None })
}

fn installed(folder: &Path, manifest: &Manifest) -> Model {
    let path = folder.join("manifest.json");
    std::fs::write(&path, serde_json::to_string(manifest).unwrap()).unwrap();
    Model::from_manifest_file(&path).unwrap()
}

fn cut_model(kind: &str) -> (tempfile::TempDir, Model) {
    let (folder, names) = in_parts(kind);
    let manifest = describe(folder.path(), &names, &BESIDE).unwrap();
    let model = installed(folder.path(), &manifest);
    (folder, model)
}

fn whole_model(kind: &str) -> (tempfile::TempDir, Model) {
    let folder = folder(kind);
    std::fs::write(folder.path().join("model.safetensors"), weights(kind)).unwrap();
    let manifest = describe(folder.path(), &["model.safetensors".to_owned()], &BESIDE[1..]).unwrap();
    let model = installed(folder.path(), &manifest);
    (folder, model)
}

fn bits(decoder: &Decoder, ids: &[u32]) -> Vec<u32> {
    let logits = decoder.forward_all(&mut Sequence::default(), ids, Interrupt::default()).unwrap();
    logits.concat().into_iter().map(f32::to_bits).collect()
}

/// Tokens, and of each position all candidates with their costs.
fn written(model: &Model) -> Vec<Step> {
    let provider = Registry::standard().find(&Hardware::probe(), &model.manifest).unwrap();
    let mut engine = provider.start(&EngineConfig { model: model.clone(), max_memory_bytes: None }).unwrap();
    let prompt_ids = model.tokenizer().unwrap().encode("the thing in the end").unwrap();
    let request = GenerateRequest { prompt_ids, max_tokens: 40, ..GenerateRequest::default() };
    let mut steps = Vec::new();
    let mut keep = |step: &Step| {
        steps.push(step.clone());
        Flow::Continue
    };
    engine.generate(&request, &mut Greedy, &CancelToken::new(), &mut keep).unwrap();
    steps
}

#[test]
fn a_model_in_three_files_computes_what_it_does_in_one_to_the_bit() {
    for kind in ["llama", "qwen2", "qwen3"] {
        let ((_in_one, one), (_in_three, three)) = (whole_model(kind), cut_model(kind));
        assert_eq!(three.manifest.weight_files().count(), PARTS);
        let ids: Vec<u32> = (0..100).map(|n| n * 7 % 272).collect();
        for compute in [Compute::AllCores, Compute::OneCore] {
            let [found, right] = [&three, &one].map(|model| model.decoder(Some(compute), None).unwrap());
            assert_eq!(bits(&found, &ids), bits(&right, &ids), "{kind} on {compute:?}");
            let [found, right] = [found, right].map(|decoder| {
                let said = decoder.log_probabilities(&ids, Interrupt::default()).unwrap();
                said.into_iter().map(f64::to_bits).collect::<Vec<_>>()
            });
            assert_eq!(found, right, "{kind} on {compute:?}");
        }
        let (found, right) = (written(&three), written(&one));
        assert_eq!(found, right, "{kind}");
    }
}

#[test]
fn the_digest_is_of_all_files_and_that_of_one_file_is_what_it_was() {
    let ((_in_one, one), (_in_three, three)) = (whole_model("qwen3"), cut_model("qwen3"));
    let lines = |manifest: &Manifest| {
        let lines = manifest.all_files().map(|(file, _, digest)| format!("{digest}  {file}\n"));
        blake3::hash(lines.collect::<String>().as_bytes()).to_hex().to_string()
    };
    assert_eq!(
        (one.manifest.digest(), three.manifest.digest()),
        (lines(&one.manifest), lines(&three.manifest))
    );
    let alone = swarm_inference::queenbee().manifest;
    assert_eq!(alone.digest(), "4a83651f6ff7d957c191e664be1cb6dc56913a055527efb2c41e192e5d6f7992");
    assert!(!serde_json::to_string(&one.manifest).unwrap().contains("shards"));
    let mut other = three.manifest.clone();
    other.shards.swap(0, 1);
    assert_ne!(other.digest(), three.manifest.digest());
    let bytes: u64 = three.manifest.shards.iter().map(|shard| shard.size).sum();
    assert_eq!(three.manifest.weight_bytes(), three.manifest.size + bytes);
}

fn refusal(model: &Model) -> String {
    model.decoder(Some(Compute::OneCore), None).map(drop).unwrap_err().to_string()
}

#[test]
fn a_file_that_is_missing_damaged_or_another_is_refused_in_one_line() {
    let (folder, model) = cut_model("llama");
    let second = folder.path().join("model-00002-of-00003.safetensors");
    let bytes = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    let told = refusal(&model);
    assert!(told.starts_with("cannot read ") && told.contains("model-00002-of-00003.safetensors"), "{told}");
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (bytes, what) in [(damaged, "blake3 digest"), (bytes[1..].to_vec(), "bytes, the manifest says")] {
        std::fs::write(&second, bytes).unwrap();
        let told = refusal(&model);
        assert!(told.contains("the weights of hive in model-00002-of-00003.safetensors have"), "{told}");
        assert!(told.contains(what) && !told.contains('\n'), "{told}");
    }
}

/// An index that says of the first tensor that it is in this file.
fn misplaced(folder: &Path, file: &str) -> Vec<u8> {
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join(SHARD_INDEX)).unwrap()).unwrap();
    let map = index["weight_map"].as_object_mut().unwrap();
    *map.values_mut().next().unwrap() = file.into();
    serde_json::to_vec(&index).unwrap()
}

#[test]
fn an_index_that_says_otherwise_than_the_files_is_refused_in_one_line() {
    const INDEX: &str = "the model.safetensors.index.json ";
    let last = "model-00003-of-00003.safetensors";
    let (first, outside) = ("lm_head.weight", "\"../x.safetensors\", which is no safetensors file beside it");
    for (file, told) in [
        (
            last,
            format!(
                "{INDEX}says that the tensor {first} is in {last}, and it is in model-00001-of-00003.safetensors"
            ),
        ),
        (
            "other.safetensors",
            format!(
                "{INDEX}says that the tensor {first} is in other.safetensors, and it is in model-00001-of-00003.safetensors"
            ),
        ),
        ("../x.safetensors", format!("{INDEX}names {outside}")),
    ] {
        let (folder, names) = in_parts("llama");
        let index = misplaced(folder.path(), file);
        let good = describe(folder.path(), &names, &BESIDE).unwrap();
        std::fs::write(folder.path().join(SHARD_INDEX), &index).unwrap();
        // When the manifest is made, and when somebody has made one that says so.
        assert_eq!(describe(folder.path(), &names, &BESIDE).unwrap_err().to_string(), told);
        let mut manifest = good;
        manifest.files[0] = stated(folder.path(), SHARD_INDEX);
        assert_eq!(refusal(&installed(folder.path(), &manifest)), told);
    }
    let index = |map: &str| ShardIndex::from_json(format!("{{\"weight_map\": {map}}}").as_bytes());
    assert_eq!(index("{}").unwrap_err().to_string(), format!("{INDEX}names no file"));
    let many: Vec<String> = (0..257).map(|n| format!("\"{n}\": \"{n}.safetensors\"")).collect();
    assert!(
        index(&format!("{{{}}}", many.join(","))).unwrap_err().to_string().contains("257 safetensors files")
    );
}

#[test]
fn tensors_that_only_the_index_or_only_a_file_has_are_refused() {
    for (change, told) in [
        (true, "says that the tensor wing is in model-00001-of-00003.safetensors, and no file has it"),
        (false, "does not name the tensor lm_head.weight of model-00001-of-00003.safetensors"),
    ] {
        let (folder, names) = in_parts("llama");
        let mut index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.path().join(SHARD_INDEX)).unwrap()).unwrap();
        match change {
            true => index["weight_map"]["wing"] = names[0].as_str().into(),
            false => _ = index["weight_map"].as_object_mut().unwrap().remove("lm_head.weight"),
        }
        std::fs::write(folder.path().join(SHARD_INDEX), index.to_string()).unwrap();
        let found = describe(folder.path(), &names, &BESIDE).unwrap_err().to_string();
        assert_eq!(found, format!("the model.safetensors.index.json {told}"));
    }
}

#[test]
fn manifests_whose_files_cannot_be_one_model_are_refused() {
    let (_folder, model) = cut_model("llama");
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = model.manifest.clone();
        change(&mut manifest);
        Manifest::from_json(&serde_json::to_string(&manifest).unwrap())
    };
    assert!(with(&|_| {}).is_ok());
    let changes: [&dyn Fn(&mut Manifest); 7] = [
        &|manifest| manifest.shards[0].file = "../x.safetensors".into(),
        &|manifest| manifest.shards[0].file = "x.gguf".into(),
        &|manifest| manifest.shards[0].size = 0,
        &|manifest| manifest.shards[0].size = 1 << 40,
        &|manifest| manifest.shards[0].blake3 = "no".into(),
        &|manifest| manifest.shards[0] = manifest.shards[1].clone(),
        &|manifest| _ = manifest.files.remove(0),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        match with(change) {
            Err(ManifestError::Field { field, .. }) => assert_eq!(field, "shards", "{number}"),
            other => panic!("{number}: {other:?}"),
        }
    }
}
