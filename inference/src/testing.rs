//! Models for tests and benchmarks: generated weights, and an engine that has none.
//!
//! Nothing here is registered as a provider: a node can only run these if a test hands them to it.

mod folder;

pub use folder::changed_folder;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::generate::{Predictor, generate};
use crate::tokenizer::{Pre, Vocabulary, chars_of_bytes};
use crate::{
    CancelToken, Candidate, Engine, EngineError, Flow, GenerateRequest, Generation, Interrupt, LoadError,
    Manifest, Model, Step, TokenSampler, Tokenizer, Weights, Workload,
};

const END: &str = "<|endoftext|>";
/// Merges of the generated tokenizer, each of tokens that are there before it.
const MERGES: [(&str, &str); 6] = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "a"), ("Ã", "©")];
/// How long a slow [`Scripted`] engine sleeps between two looks at its cancel token.
const NAP: Duration = Duration::from_millis(5);

/// How the matrices of a generated model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Blocks of 32 8-bit integers with a 16-bit scale.
    Q8_0,
    /// Blocks of 32 5-bit integers with a 16-bit scale.
    Q5_0,
    /// Blocks of 32 4-bit integers with a 16-bit scale.
    Q4_0,
    /// Blocks of 256 4-bit integers with 6-bit scales; needs widths that are multiples of 256.
    Q4K,
    /// Blocks of 256 6-bit integers with 8-bit scales; needs widths that are multiples of 256.
    Q6K,
}

/// The shape of a generated Llama model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream, a multiple of 32 and of `heads`.
    pub width: usize,
    /// Width inside the feed-forward, a multiple of 32.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: usize,
    /// Most positions.
    pub context_length: usize,
    /// How matrices are stored.
    pub storage: Storage,
    /// What the weights are drawn from.
    pub seed: u64,
}

impl Default for Shape {
    /// About 100,000 parameters: quick enough for any test.
    fn default() -> Self {
        Self {
            layers: 2,
            width: 64,
            hidden: 128,
            heads: 4,
            kv_heads: 2,
            context_length: 512,
            storage: Storage::F32,
            seed: 1,
        }
    }
}

/// A model named `name` with random weights and the tokenizer of [`tokenizer`].
pub fn model(name: &str, shape: Shape) -> Result<Model, candle_core::Error> {
    let bytes = gguf(shape)?;
    let manifest = Manifest {
        file: format!("{name}.gguf"),
        size: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        context_length: shape.context_length as u32,
        ..manifest(name)
    };
    Ok(Model { manifest, weights: Weights::Memory(bytes.into()) })
}

/// What a model is turned into, to be told from what it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Its matrices stored otherwise.
    Stored(Storage),
    /// Only its first blocks.
    Shortened(u32),
    /// Each weight of its matrices multiplied by one plus up to this much, up or down, drawn from the seed.
    Blurred {
        /// The most that is added to one.
        share: f32,
        /// What the factors are drawn from.
        seed: u64,
    },
}

/// A model's own weights changed; its manifest has the new file's size and digest.
pub fn changed(model: &Model, change: Change) -> Result<Model, LoadError> {
    let mut reader = model.open()?;
    let content = gguf_file::Content::read(&mut reader)?;
    let mut random = Random(0);
    let mut tensors = Vec::new();
    let mut names: Vec<&String> = content.tensor_infos.keys().collect();
    names.sort_unstable();
    for name in names.into_iter().filter(|name| is_kept(name, change)) {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu)?;
        tensors.push((name.as_str(), changed_tensor(tensor, change, &mut random)?));
    }
    let mut metadata = content.metadata.clone();
    if let Change::Shortened(blocks) = change {
        metadata.insert(format!("{}.block_count", model.manifest.architecture), Value::U32(blocks));
    }
    let mut metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    metadata.sort_unstable_by_key(|(key, _)| *key);
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors)?;
    let bytes = file.into_inner();
    let manifest = Manifest {
        size: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        ..model.manifest.clone()
    };
    Ok(Model { manifest, weights: Weights::Memory(bytes.into()) })
}

/// A file of safetensors cut into so many, as hubs do, and what each is called; their index is the last.
pub fn cut(bytes: &[u8], parts: usize) -> serde_json::Result<Vec<(String, Vec<u8>)>> {
    let data = 8 + u64::from_le_bytes(std::array::from_fn(|place| bytes[place])) as usize;
    let header: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes[8..data])?;
    let tensors: Vec<_> = header.into_iter().filter(|(name, _)| name != "__metadata__").collect();
    let (mut files, mut map) = (Vec::new(), serde_json::Map::new());
    for (number, tensors) in (1..).zip(tensors.chunks(tensors.len().div_ceil(parts))) {
        let file = format!("model-{number:05}-of-{parts:05}.safetensors");
        let (mut header, mut content) = (serde_json::Map::new(), Vec::new());
        for (name, tensor) in tensors {
            let [begin, end]: [usize; 2] = serde_json::from_value(tensor["data_offsets"].clone())?;
            let mut tensor = tensor.clone();
            tensor["data_offsets"] = serde_json::json!([content.len(), content.len() + end - begin]);
            content.extend_from_slice(&bytes[data + begin..data + end]);
            header.insert(name.clone(), tensor);
            map.insert(name.clone(), file.as_str().into());
        }
        let header = serde_json::to_vec(&header)?;
        files.push((file, [&(header.len() as u64).to_le_bytes()[..], &header, &content].concat()));
    }
    let index = serde_json::json!({ "metadata": { "total_size": bytes.len() - data }, "weight_map": map });
    files.push((crate::SHARD_INDEX.to_owned(), serde_json::to_vec(&index)?));
    Ok(files)
}

fn is_kept(name: &str, change: Change) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match (change, block) {
        (Change::Shortened(blocks), Some(block)) => block < blocks,
        _ => true,
    }
}

fn changed_tensor(
    tensor: QTensor,
    change: Change,
    random: &mut Random,
) -> Result<QTensor, candle_core::Error> {
    if tensor.shape().rank() < 2 {
        return Ok(tensor);
    }
    match change {
        Change::Shortened(_) => Ok(tensor),
        Change::Stored(storage) => QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, storage.into()),
        Change::Blurred { share, seed } => {
            random.0 ^= seed;
            let factors = (0..tensor.shape().elem_count()).map(|_| 1.0 + share * random.next()).collect();
            let factors = Tensor::from_vec(factors, tensor.shape().clone(), &Device::Cpu)?;
            QTensor::quantize(&(tensor.dequantize(&Device::Cpu)? * factors)?, GgmlDType::F32)
        }
    }
}

/// A manifest for engines without weights; its digest is that of the name.
pub fn manifest(name: &str) -> Manifest {
    Manifest {
        name: name.to_owned(),
        workload: Workload::LlmGen,
        file: "none.gguf".to_owned(),
        size: 1,
        blake3: blake3::hash(name.as_bytes()).to_hex().to_string(),
        shards: Vec::new(),
        files: Vec::new(),
        architecture: "llama".to_owned(),
        dimensions: 0,
        context_length: 4_096,
        vocab_size: tokens().len() as u32,
        top_k: 32,
        weight_in: 1,
        weight_out: 4,
        licence: "Apache-2.0".to_owned(),
        tolerance: None,
    }
}

/// A tokenizer of all bytes, a few merges and an end token.
pub fn tokenizer() -> Tokenizer {
    let tokens = tokens();
    let merges: Vec<String> = merges().collect();
    Tokenizer::new(&Vocabulary {
        types: types(tokens.len()),
        tokens: tokens.iter().map(String::as_str).collect(),
        merges: merges.iter().map(String::as_str).collect(),
        eos: Some(tokens.len() as u32 - 1),
        bos: None,
        pre: Pre::Gpt2,
    })
    .expect("the generated vocabulary is whole")
}

/// The same tokenizer as the `tokenizer.json` of a model.
pub fn tokenizer_json() -> String {
    let tokens = tokens();
    let end = tokens.len() - 1;
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens[..end].iter().cloned().zip((0u32..).map(serde_json::Value::from)).collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [{ "id": end, "content": tokens[end], "special": true }],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "model": { "type": "BPE", "vocab": vocab, "merges": merges().collect::<Vec<_>>() },
    })
    .to_string()
}

fn tokens() -> Vec<String> {
    let bytes = chars_of_bytes().into_iter().map(String::from);
    let merged = MERGES.iter().map(|(left, right)| [*left, *right].concat());
    bytes.chain(merged).chain([END.to_owned()]).collect()
}

fn merges() -> impl Iterator<Item = String> {
    MERGES.iter().map(|(left, right)| format!("{left} {right}"))
}

fn types(tokens: usize) -> Vec<i32> {
    let mut types = vec![1; tokens - 1];
    types.push(3);
    types
}

/// The bytes of a GGUF file with random weights.
pub fn gguf(shape: Shape) -> Result<Vec<u8>, candle_core::Error> {
    let metadata = metadata(&shape);
    let tensors = tensors(&shape)?;
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors)?;
    Ok(file.into_inner())
}

fn metadata(shape: &Shape) -> Vec<(&'static str, Value)> {
    let number = |n: usize| Value::U32(n as u32);
    let strings = |strings: Vec<String>| Value::Array(strings.into_iter().map(Value::String).collect());
    let tokens = tokens();
    let types = types(tokens.len()).into_iter().map(Value::I32).collect();
    vec![
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", number(shape.layers)),
        ("llama.embedding_length", number(shape.width)),
        ("llama.feed_forward_length", number(shape.hidden)),
        ("llama.attention.head_count", number(shape.heads)),
        ("llama.attention.head_count_kv", number(shape.kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.context_length", number(shape.context_length)),
        ("llama.rope.dimension_count", number(shape.width / shape.heads)),
        ("tokenizer.ggml.model", Value::String("gpt2".into())),
        ("tokenizer.ggml.pre", Value::String("gpt-2".into())),
        ("tokenizer.ggml.eos_token_id", number(tokens.len() - 1)),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.merges", strings(merges().collect())),
        ("tokenizer.ggml.token_type", Value::Array(types)),
    ]
}

fn tensors(shape: &Shape) -> Result<Vec<(String, QTensor)>, candle_core::Error> {
    let kv_width = shape.kv_heads * shape.width / shape.heads;
    let mut random = Random(shape.seed);
    let mut matrix = |name: String, rows: usize, columns: usize| {
        let scale = (3.0 / columns as f32).sqrt();
        let cells = (0..rows * columns).map(|_| random.next() * scale).collect();
        let tensor = Tensor::from_vec(cells, (rows, columns), &Device::Cpu)?;
        Ok::<_, candle_core::Error>((name, QTensor::quantize(&tensor, shape.storage.into())?))
    };
    let mut tensors = vec![matrix("token_embd.weight".into(), tokens().len(), shape.width)?];
    tensors.push(matrix("output.weight".into(), tokens().len(), shape.width)?);
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.push(matrix(name("attn_q"), shape.width, shape.width)?);
        tensors.push(matrix(name("attn_k"), kv_width, shape.width)?);
        tensors.push(matrix(name("attn_v"), kv_width, shape.width)?);
        tensors.push(matrix(name("attn_output"), shape.width, shape.width)?);
        tensors.push(matrix(name("ffn_gate"), shape.hidden, shape.width)?);
        tensors.push(matrix(name("ffn_up"), shape.hidden, shape.width)?);
        tensors.push(matrix(name("ffn_down"), shape.width, shape.hidden)?);
        tensors.push((name("attn_norm"), ones(shape.width)?));
        tensors.push((name("ffn_norm"), ones(shape.width)?));
    }
    tensors.push(("output_norm.weight".into(), ones(shape.width)?));
    Ok(tensors)
}

fn ones(length: usize) -> Result<QTensor, candle_core::Error> {
    let ones = Tensor::ones(length, candle_core::DType::F32, &Device::Cpu)?;
    QTensor::quantize(&ones, GgmlDType::F32)
}

impl From<Storage> for GgmlDType {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::F32 => Self::F32,
            Storage::F16 => Self::F16,
            Storage::Q8_0 => Self::Q8_0,
            Storage::Q5_0 => Self::Q5_0,
            Storage::Q4_0 => Self::Q4_0,
            Storage::Q4K => Self::Q4K,
            Storage::Q6K => Self::Q6K,
        }
    }
}

/// SplitMix64, <https://doi.org/10.1145/2714064.2660195>, as numbers from -1 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// An engine that offers the same candidates at every position, at once and without weights.
///
/// It measures what surrounds an engine, and stands in for one where the text does not matter.
#[derive(Debug, Clone)]
pub struct Scripted {
    manifest: Manifest,
    tokenizer: Tokenizer,
    candidates: Arc<[Candidate]>,
    step_time: Duration,
}

impl Scripted {
    /// Offers `candidates`, of which there is at least one, in the order of their costs and tokens.
    pub fn new(manifest: Manifest, tokenizer: Tokenizer, mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_unstable();
        Self { manifest, tokenizer, candidates: candidates.into(), step_time: Duration::ZERO }
    }

    /// Offers the letters `a` to `p` with one sixteenth each, over [`tokenizer`].
    pub fn letters(name: &str) -> Self {
        let offered = |byte: u8| Candidate { token: byte.into(), cost: 4 * 4096 };
        Self::new(manifest(name), tokenizer(), (b'a'..=b'p').map(offered).collect())
    }

    /// Takes this long for each token.
    #[must_use]
    pub fn with_step_time(self, step_time: Duration) -> Self {
        Self { step_time, ..self }
    }
}

impl Engine for Scripted {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        Some(&self.tokenizer)
    }

    fn samples_itself(&self) -> bool {
        false
    }

    fn generate(
        &mut self,
        request: &GenerateRequest,
        sampler: &mut dyn TokenSampler,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Generation, EngineError> {
        let tokenizer = self.tokenizer.clone();
        let context = self.manifest.context_length;
        let cancels = [cancel];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        generate(self, &tokenizer, context, request, interrupt, sampler, sink)
    }
}

impl Predictor for Scripted {
    fn begin(&mut self, _: &[u32], _: u32, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        self.next(0, interrupt)
    }

    fn next(&mut self, _: u32, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        let ready_at = Instant::now() + self.step_time;
        while let Some(left) = ready_at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            interrupt.check()?;
            std::thread::sleep(left.min(NAP));
        }
        Ok(self.candidates.to_vec())
    }
}
