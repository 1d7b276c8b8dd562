//! Llama, Qwen2 and Qwen3 against transformers and llama.cpp, on the files in `tests/fixtures/decoders`.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};
use swarm_inference::{Compute, Decoder, EngineError, Interrupt, LoadError, Sequence, candidates};

const BOTH: [Compute; 2] = [Compute::AllCores, Compute::OneCore];
const NONE: fn() -> Interrupt<'static> = Interrupt::default;
const WHOLE: [&str; 3] = ["llama", "qwen2", "qwen3"];

#[derive(Deserialize)]
struct Figures {
    prompt: Vec<u32>,
    sections: Vec<Section>,
}

#[derive(Deserialize)]
struct Section {
    model: String,
    engine: String,
    what: String,
    shape: Vec<usize>,
    offset_bytes: usize,
}

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/decoders");
    std::fs::read(folder.join(name)).unwrap()
}

fn figures() -> Figures {
    serde_json::from_slice(&file("figures.json")).unwrap()
}

impl Section {
    fn values(&self) -> Vec<f32> {
        let count: usize = self.shape.iter().product();
        let bytes = &file("figures.bin")[self.offset_bytes..][..4 * count];
        Tensor::from_raw_buffer(bytes, DType::F32, &[count], &Device::Cpu).unwrap().to_vec1().unwrap()
    }
}

impl Figures {
    fn logits(&self, model: &str) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(move |section| section.model == model && section.what == "logits")
    }
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&file(&format!("{name}/config.json"))).unwrap()
}

fn from_parts(config: &Value, weights: Vec<Vec<u8>>, compute: Compute) -> Result<Decoder, LoadError> {
    let readers = weights.into_iter().map(Cursor::new).collect();
    Decoder::from_safetensors(config.to_string().as_bytes(), readers, compute, None)
}

fn load(model: &str, compute: Compute) -> Decoder {
    if model.ends_with(".gguf") {
        return Decoder::from_gguf(&mut Cursor::new(file(model)), compute).unwrap();
    }
    from_parts(&config(model), vec![file(&format!("{model}/model.safetensors"))], compute).unwrap()
}

fn logits(decoder: &Decoder, prompt: &[u32]) -> Vec<f32> {
    decoder.forward_all(&mut Sequence::default(), prompt, NONE()).unwrap().concat()
}

fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

/// How far apart f32 engines may be.
const WHOLE_LIMIT: f64 = 1e-5;
/// How far apart engines may be that multiply quantised weights with rounded activations, each in its own way.
const QUANTISED_LIMIT: f64 = 2e-2;

#[test]
fn logits_equal_those_of_transformers_and_llama_cpp() {
    let figures = figures();
    let sections: Vec<_> = figures.sections.iter().filter(|section| section.what == "logits").collect();
    assert_eq!(sections.len(), 3 + 4 * 2);
    for section in sections {
        let Section { model, engine, .. } = section;
        for compute in [BOTH[0], BOTH[1], Compute::Device] {
            let apart = distance(&logits(&load(model, compute), &figures.prompt), &section.values());
            println!("{model} on {compute:?} against {engine}: {apart:.2e}");
            let whole =
                engine.starts_with("transformers") && (compute == BOTH[1] || !model.ends_with(".gguf"));
            let limit = if whole { WHOLE_LIMIT } else { QUANTISED_LIMIT };
            assert!(apart <= limit, "{model} on {compute:?} against {engine}: {apart}");
        }
    }
}

#[test]
fn hidden_states_equal_those_of_transformers() {
    let figures = figures();
    let sections = figures.sections.iter().filter(|section| section.what == "hidden states");
    for (section, compute) in sections.flat_map(|section| [(section, BOTH[0]), (section, Compute::Device)]) {
        let decoder = load(&section.model, compute);
        let [states, positions, width] = section.shape[..] else { panic!("three dimensions") };
        assert_eq!(states, decoder.config().layers + 1);
        for (layers, expected) in section.values().chunks_exact(positions * width).enumerate() {
            let found = decoder.hidden_states(&figures.prompt, layers, NONE()).unwrap().concat();
            let apart = distance(&found, expected);
            assert!(apart <= WHOLE_LIMIT, "{} after {layers}: {apart}", section.model);
        }
        let beyond = decoder.hidden_states(&figures.prompt, states, NONE());
        assert!(matches!(beyond, Err(EngineError::Request(_))));
    }
}

#[test]
fn one_pass_gives_the_log_probabilities_of_every_position() {
    let figures = figures();
    let decoder = load("qwen3", Compute::AllCores);
    let all = decoder.forward_all(&mut Sequence::default(), &figures.prompt, NONE()).unwrap();
    let expected = figures.logits("qwen3").next().unwrap().values();
    let found = decoder.log_probabilities(&figures.prompt, NONE()).unwrap();
    assert_eq!(found.len(), figures.prompt.len() - 1);
    for (position, found) in found.iter().enumerate() {
        let row = &expected[position * 272..][..272];
        let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let right = f64::from(row[figures.prompt[position + 1] as usize]) - sum.ln();
        assert!((found - right).abs() < 1e-4, "position {position}: {found} instead of {right}");
    }
    let offered = decoder.candidates_from(&figures.prompt, 40, 7, NONE()).unwrap();
    let right: Vec<_> = all[40..].iter().map(|logits| candidates(logits, 7).unwrap()).collect();
    assert_eq!(offered, right);
}

/// A safetensors file's tensors: dtype, shape and bytes by name.
type Tensors = BTreeMap<String, (String, Value, Vec<u8>)>;

fn tensors(bytes: &[u8]) -> Tensors {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensor = |(name, value): (String, Value)| {
        let offsets: [usize; 2] = serde_json::from_value(value.get("data_offsets")?.clone()).unwrap();
        let data = bytes[8 + length..][offsets[0]..offsets[1]].to_vec();
        Some((name, (value["dtype"].as_str()?.to_owned(), value["shape"].clone(), data)))
    };
    header.into_iter().filter_map(tensor).collect()
}

fn written(tensors: &Tensors) -> Vec<u8> {
    let mut data = Vec::new();
    let mut header = serde_json::Map::new();
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn every_tensor_matters() {
    let figures = figures();
    for model in WHOLE {
        let expected = figures.logits(model).next().unwrap().values();
        let whole = tensors(&file(&format!("{model}/model.safetensors")));
        assert!(whole.len() >= 20);
        for name in whole.keys() {
            let mut changed = whole.clone();
            let (dtype, _, bytes) = changed.get_mut(name).unwrap();
            bytes.rotate_left(if dtype == "F32" { 4 } else { 2 });
            let decoder = from_parts(&config(model), vec![written(&changed)], Compute::OneCore).unwrap();
            let apart = distance(&logits(&decoder, &figures.prompt), &expected);
            assert!(apart > 100.0 * WHOLE_LIMIT, "{model} {name}: {apart}");
        }
    }
}

#[test]
fn a_model_of_several_files_is_one_model() {
    let figures = figures();
    let mut first = tensors(&file("qwen3/model.safetensors"));
    let second = first.split_off("model.layers.1");
    let files = vec![written(&first), written(&second)];
    let decoder = from_parts(&config("qwen3"), files, Compute::AllCores).unwrap();
    let right = logits(&load("qwen3", Compute::AllCores), &figures.prompt);
    assert_eq!(logits(&decoder, &figures.prompt), right);
    let twice = vec![written(&first), written(&second), written(&second)];
    let refusal = from_parts(&config("qwen3"), twice, Compute::AllCores).unwrap_err().to_string();
    assert!(refusal.ends_with("is there twice"), "{refusal}");
}

fn refusal(config: &Value, weights: Vec<u8>) -> String {
    from_parts(config, vec![weights], Compute::OneCore).unwrap_err().to_string()
}

#[test]
fn hostile_safetensors_are_refused_before_anything_is_allocated() {
    let config = config("qwen2");
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        let header =
            format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}");
        refusal(&config, with_header(&header, &[0; 16]))
    };
    let long = refusal(&config, u64::MAX.to_le_bytes().to_vec());
    assert_eq!(long, format!("the safetensors header states {} bytes, the limit is 0", u64::MAX));
    assert!(refusal(&config, vec![1, 2]).contains("cannot be read"));
    assert!(refusal(&config, with_header("[]", &[])).contains("malformed"));
    assert!(entry("F32", "[4]", "[0,17]").ends_with("lies beyond the file"));
    assert!(entry("F32", "[4]", "[16,0]").ends_with("lies beyond the file"));
    assert!(
        entry("F32", "[4]", "[18446744073709551600,18446744073709551615]").ends_with("lies beyond the file")
    );
    assert!(entry("F32", "[3]", "[0,16]").ends_with("has another length than its shape"));
    assert!(
        entry("F32", "[4294967296,4294967296,4]", "[0,0]").ends_with("has another length than its shape")
    );
    assert!(entry("I8", "[16]", "[0,16]").ends_with("is neither F32 nor F16 nor BF16"));
    assert!(entry("F32", "[4]", "[0,16]").contains("no tensor model.embed_tokens.weight"));
    let whole = file("qwen2/model.safetensors");
    for length in (0..whole.len()).step_by(1_997) {
        assert!(from_parts(&config, vec![whole[..length].to_vec()], Compute::OneCore).is_err());
    }
    let max = Some(100_000);
    let readers = vec![Cursor::new(whole)];
    let result = Decoder::from_safetensors(config.to_string().as_bytes(), readers, Compute::OneCore, max);
    assert!(matches!(result, Err(LoadError::Memory { allowed: 100_000, .. })));
}

#[test]
fn variants_that_would_be_computed_wrong_are_refused() {
    let weights = || file("llama/model.safetensors");
    let changed = |key: &str, value: Value| {
        let mut config = config("llama");
        config[key] = value;
        refusal(&config, weights())
    };
    let unsupported = |what: &str| format!("the model cannot be run: {what} is not supported");
    assert_eq!(changed("model_type", json!("mamba")), unsupported("architecture \"mamba\""));
    assert_eq!(changed("hidden_act", json!("gelu")), unsupported("activation \"gelu\""));
    assert_eq!(changed("attention_bias", json!(true)), unsupported("attention_bias \"true\""));
    assert_eq!(changed("num_key_value_heads", json!(3)), unsupported("number of heads \"4 and 3\""));
    assert_eq!(
        changed("num_hidden_layers", json!(1u64 << 40)),
        unsupported("number of layers \"1099511627776\"")
    );
    assert_eq!(changed("head_dim", json!(15)), unsupported("width of a head \"15\""));
    let yarn = json!({"rope_type": "yarn", "rope_theta": 1.0});
    assert_eq!(changed("rope_parameters", yarn), unsupported("rope scaling \"yarn\""));
    assert!(changed("hidden_size", json!(null)).contains("the config.json is not usable"));
    assert!(changed("num_hidden_layers", json!(1)).contains("the tensor \"blk.1.attn_k.weight\" is unknown"));
    assert!(changed("num_hidden_layers", json!(3)).contains("no tensor model.layers.2."));
    let too_long =
        Decoder::from_safetensors(&vec![b' '; 2 << 20], vec![Cursor::new(weights())], BOTH[1], None);
    assert!(too_long.unwrap_err().to_string().contains("is too long"));
}
