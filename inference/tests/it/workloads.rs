//! Engines that do not generate text: embeddings against sentence-transformers, products against their checksums.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use swarm_inference::testing::{Scripted, Shape, model};
use swarm_inference::{
    BenchRequest, CancelToken, Candle, DType, EmbedRequest, Engine, EngineConfig, EngineError, Flow,
    GenerateRequest, Greedy, Lap, LoadError, Manifest, ManifestError, Model, Provider, Workload, matmul,
};

#[derive(Deserialize)]
struct Figure {
    text: String,
    ids: Vec<u32>,
    vector: Vec<f32>,
}

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/bert")
}

fn figures(file: &str) -> Vec<Figure> {
    serde_json::from_slice(&std::fs::read(fixtures().join(file)).unwrap()).unwrap()
}

fn tiny() -> Model {
    Model::from_manifest_file(&fixtures().join("manifest.json")).unwrap()
}

fn start(model: &Model) -> Result<Box<dyn Engine>, EngineError> {
    Candle::default().start(&EngineConfig { model: model.clone(), max_memory_bytes: None })
}

fn request(texts: &[Vec<u32>]) -> EmbedRequest {
    EmbedRequest { texts: texts.to_vec(), ..EmbedRequest::default() }
}

fn embed(engine: &mut dyn Engine, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut vectors = Vec::new();
    engine.embed(&request(texts), &CancelToken::new(), &mut |vector| {
        vectors.push(vector.to_vec());
        Flow::Continue
    })?;
    Ok(vectors)
}

/// The largest difference from the figures, after the tokens were found to be theirs.
fn differs(model: &Model, figures: &[Figure]) -> f32 {
    let tokenizer = model.text_tokenizer().unwrap();
    let texts: Vec<Vec<u32>> = figures.iter().map(|figure| tokenizer.encode(&figure.text).unwrap()).collect();
    for (ids, figure) in texts.iter().zip(figures) {
        assert_eq!(*ids, figure.ids, "{}", figure.text);
    }
    let vectors = embed(start(model).unwrap().as_mut(), &texts).unwrap();
    let pairs = vectors.iter().zip(figures).flat_map(|(found, due)| {
        assert_eq!(found.len(), due.vector.len());
        found.iter().zip(&due.vector)
    });
    pairs.map(|(found, due)| (found - due).abs()).fold(0.0, f32::max)
}

#[test]
fn a_small_bert_gives_the_vectors_of_sentence_transformers() {
    let figures = figures("figures.json");
    assert!(figures.iter().any(|figure| figure.ids.len() == 32), "one is cut at the longest");
    let worst = differs(&tiny(), &figures);
    assert!(worst < 1e-6, "{worst}");
}

/// The real thing: `scripts/minilm.sh` fetches it.
#[test]
fn minilm_gives_the_vectors_of_sentence_transformers() {
    let folder = std::env::var_os("SWARMPOOL_MINILM").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/tools/minilm"),
        PathBuf::from,
    );
    let manifest = folder.join("manifest.json");
    if !manifest.exists() {
        eprintln!("skipped: {} is not there; scripts/minilm.sh fetches it", manifest.display());
        return;
    }
    let (model, figures) = (Model::from_manifest_file(&manifest).unwrap(), figures("minilm.json"));
    assert!(figures.iter().any(|figure| figure.ids.len() == 256), "one is cut at the longest");
    let worst = differs(&model, &figures);
    eprintln!("the largest difference of {} vectors of 384 numbers is {worst:e}", figures.len());
    assert!(worst < 1e-6, "{worst}");
}

#[test]
fn a_text_s_vector_is_of_unit_length_and_depends_on_no_other() {
    let mut engine = start(&tiny()).unwrap();
    let texts = [vec![2, 87, 3], vec![2, 88, 89, 90, 3]];
    let both = embed(engine.as_mut(), &texts).unwrap();
    assert_eq!(both[1], embed(engine.as_mut(), &texts[1..]).unwrap()[0]);
    for vector in both {
        let length: f32 = vector.iter().map(|number| number * number).sum();
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
}

#[test]
fn texts_that_cannot_be_embedded_are_refused_and_the_engine_goes_on() {
    let mut engine = start(&tiny()).unwrap();
    let refused = |engine: &mut dyn Engine, ids: Vec<u32>| embed(engine, &[ids]).unwrap_err();
    assert!(matches!(refused(engine.as_mut(), vec![]), EngineError::EmptyPrompt));
    assert!(matches!(refused(engine.as_mut(), vec![100]), EngineError::UnknownToken(100)));
    assert!(matches!(refused(engine.as_mut(), vec![2; 33]), EngineError::Request(_)));
    let small = EmbedRequest { max_memory_bytes: Some(1000), ..request(&[vec![2, 3]]) };
    let told = engine.embed(&small, &CancelToken::new(), &mut |_| Flow::Continue);
    assert!(matches!(told, Err(EngineError::Memory { allowed: 1000, .. })));
    let late = EmbedRequest { deadline: Some(Instant::now()), ..request(&[vec![2, 3]]) };
    assert!(matches!(
        engine.embed(&late, &CancelToken::new(), &mut |_| Flow::Continue),
        Err(EngineError::Deadline)
    ));
    let (cancel, mut seen) = (CancelToken::new(), 0);
    let told = engine.embed(&request(&[vec![2, 3], vec![2, 3]]), &cancel, &mut |_| {
        seen += 1;
        cancel.cancel();
        Flow::Continue
    });
    assert!(matches!(told, Err(EngineError::Cancelled)) && seen == 1, "after {seen}");
    assert!(embed(engine.as_mut(), &[vec![2, 3]]).is_ok());
}

#[test]
fn a_file_that_the_manifest_does_not_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["manifest.json", "model.safetensors", "config.json", "tokenizer.json"];
    for damaged in &names[1..] {
        for name in names {
            std::fs::copy(fixtures().join(name), folder.path().join(name)).unwrap();
        }
        let path = folder.path().join(damaged);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let model = Model::from_manifest_file(&folder.path().join("manifest.json")).unwrap();
        let told = match *damaged {
            "tokenizer.json" => model.text_tokenizer().map(|_| ()),
            _ => start(&model).map(|_| ()).map_err(|error| match error {
                EngineError::Load(error) => error,
                other => panic!("{damaged}: {other}"),
            }),
        };
        match told {
            Err(LoadError::Manifest(ManifestError::File { file, .. })) => assert_eq!(file, *damaged),
            Err(LoadError::Manifest(ManifestError::Digest { .. })) => {
                assert_eq!(*damaged, "model.safetensors")
            }
            other => panic!("{damaged}: {other:?}"),
        }
    }
}

#[test]
fn a_model_of_several_files_is_named_by_all_of_them() {
    let manifest = tiny().manifest;
    let lines = |manifest: &Manifest| {
        let files = manifest.files.iter().map(|file| format!("{}  {}\n", file.blake3, file.file));
        format!("{}  {}\n", manifest.blake3, manifest.file) + &files.collect::<String>()
    };
    assert_eq!(manifest.digest(), blake3::hash(lines(&manifest).as_bytes()).to_hex().as_str());
    let mut other = manifest.clone();
    other.files[1].blake3 = "0".repeat(64);
    assert_ne!(other.digest(), manifest.digest());
    let single = Manifest { files: Vec::new(), ..manifest.clone() };
    assert_eq!(single.digest(), single.blake3);
    let json = serde_json::to_value(&manifest).unwrap();
    for (pointer, value) in [
        ("/files/0/file", serde_json::json!("../config.json")),
        ("/files/0/file", serde_json::json!("tokenizer.json")),
        ("/files/0/file", serde_json::json!("model.safetensors")),
        ("/files/1/size", serde_json::json!(0)),
        ("/files/1/blake3", serde_json::json!("")),
        ("/dimensions", serde_json::json!(0)),
        ("/dimensions", serde_json::json!(1025)),
        ("/context_length", serde_json::json!(513)),
    ] {
        let mut json = json.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        let told = Manifest::from_json(&json.to_string());
        assert!(matches!(told, Err(ManifestError::Field { .. })), "{pointer}: {told:?}");
    }
}

#[derive(Deserialize)]
struct Vectors {
    bench: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    spec: String,
    seed: String,
    checksums: Vec<u32>,
}

fn bench(vector: &Vector) -> BenchRequest {
    let words: Vec<&str> = vector.spec.split(' ').collect();
    let [m, n, k, repeats] = [1, 2, 3, 4].map(|word: usize| words[word].parse().unwrap());
    let dtype = match words[0] {
        "f32" => DType::F32,
        "f16" => DType::F16,
        _ => DType::Bf16,
    };
    let byte = |at: usize| u8::from_str_radix(&vector.seed[2 * at..2 * at + 2], 16).unwrap();
    let seed = std::array::from_fn(byte);
    BenchRequest { dtype, m, n, k, repeats, seed, deadline: None, max_memory_bytes: None }
}

fn measure(request: &BenchRequest) -> Result<Vec<Lap>, EngineError> {
    let mut laps = Vec::new();
    start(&matmul()).unwrap().benchmark(request, &CancelToken::new(), &mut |lap| {
        laps.push(lap);
        Flow::Continue
    })?;
    Ok(laps)
}

#[test]
fn products_have_the_checksums_of_another_implementation_in_every_format() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/workloads.json");
    let vectors: Vectors = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for vector in &vectors.bench {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let laps = measure(&BenchRequest { dtype, ..bench(vector) }).unwrap();
            let found: Vec<u32> = laps.iter().map(|lap| lap.checksum).collect();
            assert_eq!(found, vector.checksums, "{} in {dtype:?}", vector.spec);
            assert!(laps.iter().all(|lap| lap.time > Duration::ZERO));
        }
    }
}

#[test]
fn large_products_are_exact_in_every_format() {
    let request = |dtype| BenchRequest {
        dtype,
        m: 64,
        n: 96,
        k: 4096,
        repeats: 2,
        seed: *blake3::hash(b"large").as_bytes(),
        deadline: None,
        max_memory_bytes: None,
    };
    let sums = |dtype| measure(&request(dtype)).unwrap().iter().map(|lap| lap.checksum).collect::<Vec<_>>();
    let exact = sums(DType::F32);
    assert_ne!(exact[0], exact[1], "each lap has factors of its own");
    assert_eq!((sums(DType::F16), sums(DType::Bf16)), (exact.clone(), exact));
}

#[test]
fn a_benchmark_obeys_its_bounds() {
    let good = BenchRequest {
        dtype: DType::F32,
        m: 8,
        n: 8,
        k: 8,
        repeats: 4,
        seed: [7; 32],
        deadline: None,
        max_memory_bytes: None,
    };
    assert!(matches!(measure(&BenchRequest { m: 4097, ..good.clone() }), Err(EngineError::Request(_))));
    assert!(matches!(measure(&BenchRequest { k: 0, ..good.clone() }), Err(EngineError::Request(_))));
    let small = BenchRequest { max_memory_bytes: Some(100), ..good.clone() };
    assert!(matches!(measure(&small), Err(EngineError::Memory { needed: 1536, allowed: 100 })));
    let late = BenchRequest { deadline: Some(Instant::now()), ..good.clone() };
    assert!(matches!(measure(&late), Err(EngineError::Deadline)));
    let mut laps = 0;
    let told = start(&matmul()).unwrap().benchmark(&good, &CancelToken::new(), &mut |_| {
        laps += 1;
        if laps == 2 { Flow::Stop } else { Flow::Continue }
    });
    assert!(matches!(told, Err(EngineError::Cancelled)) && laps == 2);
}

#[test]
fn an_engine_refuses_by_name_what_its_model_is_not_for() {
    let cancel = CancelToken::new();
    let text = GenerateRequest { prompt_ids: vec![2], max_tokens: 1, ..GenerateRequest::default() };
    for mut engine in [start(&tiny()).unwrap(), start(&matmul()).unwrap()] {
        let told = engine.generate(&text, &mut Greedy, &cancel, &mut |_| Flow::Continue);
        assert!(matches!(told, Err(EngineError::Unsupported(Workload::LlmGen))), "{told:?}");
    }
    let mut writer: Box<dyn Engine> = Box::new(Scripted::letters("letters"));
    let told = writer.embed(&request(&[vec![2]]), &cancel, &mut |_| Flow::Continue);
    assert_eq!(told.unwrap_err().to_string(), "the engine does not serve embed");
}

#[test]
fn engines_of_all_workloads_count_and_stop_together() {
    let provider = Candle::default();
    let start = |model: Model| provider.start(&EngineConfig { model, max_memory_bytes: None }).unwrap();
    let (mut first, second) = (start(tiny()), start(tiny()));
    let (third, fourth) = (start(matmul()), start(model("text", Shape::default()).unwrap()));
    assert_eq!(provider.stats().engines, 4);
    let with_text = provider.stats().weight_bytes;
    drop(fourth);
    let shared = provider.stats().weight_bytes;
    assert!(
        shared == tiny().manifest.size && shared < with_text,
        "weights of two engines count once: {shared}"
    );
    embed(first.as_mut(), &[vec![2, 87, 3]]).unwrap();
    assert_eq!((provider.stats().finished, provider.stats().prompt_tokens), (1, 3));
    drop((second, third));
    assert_eq!(provider.stats().engines, 1);
    provider.stop();
    assert!(!provider.is_running());
    assert!(matches!(embed(first.as_mut(), &[vec![2, 3]]), Err(EngineError::Cancelled)));
    assert_eq!(provider.stats().failed, 1);
    drop(first);
    assert_eq!(provider.stats().engines, 0);
}
