//! Pictures against diffusers: a tiny Stable Diffusion of random weights, whose figures `scripts/train/diffusion.py`
//! makes.

use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use swarm_inference::{
    CancelToken, Candle, Engine, EngineConfig, EngineError, Flow, GenerateRequest, Greedy, LoadError,
    Manifest, ManifestError, Model, PaintRequest, Provider, SUMMARY_NUMBERS, Workload, noise,
};

/// How far the means of the latents' parts may be from diffusers' own, after the last step of a few.
///
/// candle's GELU is the approximation by tanh where diffusers has the exact one, which alone makes 1.2e-3 of it.
const TOLERANCE: f64 = 3e-3;
/// How far from diffusers' with that approximation: rounding, and half of the 1/4096 in which means are told.
const CLOSE: f64 = 2e-4;
/// How far a colour of a pixel may be from diffusers' own, of 255.
const COLOUR_TOLERANCE: u8 = 2;
/// How many of a hundred colours have to be the same.
const SAME_COLOURS: usize = 97;

#[derive(Deserialize)]
struct Figure {
    name: String,
    prompt: String,
    width: u32,
    height: u32,
    steps: u32,
    guidance: u32,
    ids: Vec<u32>,
    noise_seed: String,
    noise: Vec<f64>,
    means: Vec<Vec<f64>>,
    means_tanh: Vec<Vec<f64>>,
}

impl Figure {
    fn request(&self) -> PaintRequest {
        let byte = |at: usize| u8::from_str_radix(&self.noise_seed[2 * at..2 * at + 2], 16).unwrap();
        PaintRequest {
            prompt_ids: self.ids.clone(),
            width: self.width,
            height: self.height,
            steps: self.steps,
            guidance: self.guidance,
            seed: std::array::from_fn(byte),
            deadline: None,
            max_memory_bytes: None,
        }
    }
}

pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/diffusion")
}

fn figures() -> Vec<Figure> {
    serde_json::from_slice(&std::fs::read(fixtures().join("figures.json")).unwrap()).unwrap()
}

pub fn tiny() -> Model {
    Model::from_manifest_file(&fixtures().join("manifest.json")).unwrap()
}

fn start(model: &Model) -> Result<Box<dyn Engine>, EngineError> {
    Candle::default().start(&EngineConfig { model: model.clone(), max_memory_bytes: None })
}

pub fn paint(
    engine: &mut dyn Engine,
    request: &PaintRequest,
) -> Result<(Vec<Vec<i32>>, Vec<u8>), EngineError> {
    let mut steps = Vec::new();
    let png = engine.paint(request, &CancelToken::new(), &mut |summary| {
        steps.push(summary.to_vec());
        Flow::Continue
    })?;
    Ok((steps, png))
}

/// A small picture of few steps.
pub fn request() -> PaintRequest {
    PaintRequest { steps: 2, ..figures()[0].request() }
}

fn pixels(file: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    (info.width, info.height, pixels)
}

fn worst(found: &[Vec<i32>], due: &[Vec<f64>]) -> f64 {
    assert_eq!(found.len(), due.len());
    let pairs = found.iter().flatten().zip(due.iter().flatten());
    pairs.map(|(found, due)| (f64::from(*found) / 4096.0 - due).abs()).fold(0.0, f64::max)
}

#[test]
fn a_small_model_paints_the_pictures_of_diffusers() {
    let tokenizer = tiny().text_tokenizer().unwrap();
    let mut engine = start(&tiny()).unwrap();
    let figures = figures();
    assert!(figures.iter().any(|figure| figure.ids.len() == 24), "one prompt is cut at the longest");
    for figure in figures {
        let name = &figure.name;
        assert_eq!(tokenizer.encode(&figure.prompt).unwrap(), figure.ids, "{name}");
        let begun = noise(&figure.request().seed, 16);
        let pairs = begun.iter().zip(&figure.noise);
        let off = pairs.map(|(found, due)| (f64::from(*found) - due).abs()).fold(0.0, f64::max);
        assert!(off < 1e-6, "{name}: noise by {off}");
        let (steps, png) = paint(engine.as_mut(), &figure.request()).unwrap();
        let (exact, approximate) = (worst(&steps, &figure.means), worst(&steps, &figure.means_tanh));
        let due = std::fs::read(fixtures().join(format!("{name}.png"))).unwrap();
        let ((width, height, found), (wide, high, due)) = (pixels(&png), pixels(&due));
        assert_eq!((width, height), (wide, high), "{name}");
        let colour = found.iter().zip(&due).map(|(found, due)| found.abs_diff(*due)).max().unwrap();
        let same = found.iter().zip(&due).filter(|(found, due)| found == due).count() * 100 / due.len();
        eprintln!(
            "{name}: means by {exact:.1e}, by {approximate:.1e} with GELU alike; colours by {colour}, {same} % the same"
        );
        assert!(exact < TOLERANCE && approximate < CLOSE, "{name}: {exact} {approximate}");
        assert!(colour <= COLOUR_TOLERANCE && same >= SAME_COLOURS, "{name}: {colour} of 255, {same} %");
    }
}

#[test]
fn a_picture_depends_on_all_that_is_asked_and_on_nothing_else() {
    let mut engine = start(&tiny()).unwrap();
    let (steps, png) = paint(engine.as_mut(), &request()).unwrap();
    assert_eq!((steps.len(), steps[0].len()), (2, SUMMARY_NUMBERS));
    assert_eq!(paint(engine.as_mut(), &request()).unwrap(), (steps.clone(), png.clone()));
    let others = [
        PaintRequest { seed: [1; 32], ..request() },
        PaintRequest { guidance: 1000, ..request() },
        PaintRequest { steps: 3, ..request() },
        PaintRequest { prompt_ids: vec![89, 5, 90], ..request() },
    ];
    for other in others {
        let (_, another) = paint(engine.as_mut(), &other).unwrap();
        assert_ne!(another, png, "{other:?}");
    }
}

#[test]
fn pictures_that_cannot_be_painted_are_refused_and_the_engine_goes_on() {
    let mut engine = start(&tiny()).unwrap();
    let mut refused = |request: PaintRequest| paint(engine.as_mut(), &request).unwrap_err();
    assert!(matches!(refused(PaintRequest { prompt_ids: vec![], ..request() }), EngineError::EmptyPrompt));
    let unknown = PaintRequest { prompt_ids: vec![91], ..request() };
    assert!(matches!(refused(unknown), EngineError::UnknownToken(91)));
    let odd = [
        PaintRequest { prompt_ids: vec![1; 25], ..request() },
        PaintRequest { width: 65, ..request() },
        PaintRequest { width: 0, ..request() },
        PaintRequest { height: 1088, ..request() },
        PaintRequest { steps: 0, ..request() },
        PaintRequest { steps: 101, ..request() },
        PaintRequest { guidance: 999, ..request() },
    ];
    for odd in odd {
        assert!(matches!(refused(odd.clone()), EngineError::Request(_)), "{odd:?}");
    }
    let small = PaintRequest { max_memory_bytes: Some(100_000), ..request() };
    assert!(matches!(refused(small), EngineError::Memory { allowed: 100_000, .. }));
    let late = PaintRequest { deadline: Some(Instant::now()), ..request() };
    assert!(matches!(refused(late), EngineError::Deadline));
    let (cancel, mut seen) = (CancelToken::new(), 0);
    let told = engine.paint(&request(), &cancel, &mut |_| {
        seen += 1;
        cancel.cancel();
        Flow::Continue
    });
    assert!(matches!(told, Err(EngineError::Cancelled)) && seen == 1, "after {seen}");
    assert!(paint(engine.as_mut(), &request()).is_ok());
    let text = GenerateRequest { prompt_ids: vec![2], max_tokens: 1, ..GenerateRequest::default() };
    let told = engine.generate(&text, &mut Greedy, &CancelToken::new(), &mut |_| Flow::Continue);
    assert!(matches!(told, Err(EngineError::Unsupported(Workload::LlmGen))), "{told:?}");
}

/// A copy of the model whose `config.json` was changed, with a manifest that names it as it is.
fn changed(change: impl Fn(&mut serde_json::Value)) -> Result<(), LoadError> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixtures().join(name), folder.path().join(name)).unwrap();
    }
    let read = |name| std::fs::read(fixtures().join(name)).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&read("config.json")).unwrap();
    change(&mut config);
    let bytes = config.to_string().into_bytes();
    let mut manifest: Manifest = serde_json::from_slice(&read("manifest.json")).unwrap();
    manifest.files[0].size = bytes.len() as u64;
    manifest.files[0].blake3 = blake3::hash(&bytes).to_string();
    std::fs::write(folder.path().join("config.json"), bytes).unwrap();
    let json = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(folder.path().join("manifest.json"), json).unwrap();
    let model = Model::from_manifest_file(&folder.path().join("manifest.json")).unwrap();
    match start(&model) {
        Ok(_) => Ok(()),
        Err(EngineError::Load(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn what_candle_s_model_is_not_is_refused_by_name() {
    assert!(changed(|_| {}).is_ok());
    for (pointer, value) in [
        ("/text_encoder/hidden_act", serde_json::json!("gelu")),
        ("/text_encoder/num_attention_heads", serde_json::json!(0)),
        ("/unet/block_out_channels", serde_json::json!([])),
        ("/unet/attention_head_dim", serde_json::json!(3)),
        ("/unet/attention_head_dim", serde_json::json!([2])),
        ("/unet/up_block_types/0", serde_json::json!("CrossAttnUpBlock2D")),
        ("/unet/down_block_types/0", serde_json::json!("AttnDownBlock2D")),
        ("/unet/norm_num_groups", serde_json::json!(16)),
        ("/unet/cross_attention_dim", serde_json::json!(32)),
        ("/vae/block_out_channels", serde_json::json!([8, 8])),
        ("/vae/latent_channels", serde_json::json!(16)),
        ("/vae/shift_factor", serde_json::json!(0.1)),
        ("/scheduler/prediction_type", serde_json::json!("sample")),
        ("/scheduler/num_train_timesteps", serde_json::json!(50)),
        ("/scheduler/timestep_spacing", serde_json::json!("trailing")),
        ("/pad_token_id", serde_json::json!(91)),
    ] {
        let told = changed(|config| *config.pointer_mut(pointer).unwrap() = value.clone());
        assert!(matches!(told, Err(LoadError::Unsupported(_))), "{pointer}: {told:?}");
    }
    // What is of another shape than the weights, and what the manifest says otherwise.
    let told = changed(|config| config["unet"]["block_out_channels"][1] = 64.into());
    assert!(matches!(told, Err(LoadError::Prepare(_))), "{told:?}");
    let told = changed(|config| config["text_encoder"]["max_position_embeddings"] = 77.into());
    assert!(matches!(told, Err(LoadError::Contradiction { .. })), "{told:?}");
}

#[test]
fn damaged_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["manifest.json", "model.safetensors", "config.json", "tokenizer.json"] {
        std::fs::copy(fixtures().join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let model = Model::from_manifest_file(&folder.path().join("manifest.json")).unwrap();
    let told = start(&model).map(|_| ()).unwrap_err();
    let EngineError::Load(LoadError::Manifest(ManifestError::Digest { .. })) = told else { panic!("{told}") };
}

#[derive(Deserialize)]
struct Vectors {
    image: Pictured,
}

#[derive(Deserialize)]
struct Pictured {
    noise: Vec<Noise>,
}

#[derive(Deserialize)]
struct Noise {
    digest: String,
    numbers: Vec<f64>,
}

#[test]
fn noise_is_that_of_another_implementation() {
    let path = fixtures().join("../../vectors/workloads.json");
    let vectors: Vectors = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(vectors.image.noise.len(), 3);
    for Noise { digest, numbers } in vectors.image.noise {
        let byte = |at: usize| u8::from_str_radix(&digest[2 * at..2 * at + 2], 16).unwrap();
        let found = noise(&std::array::from_fn(byte), numbers.len());
        let pairs = found.iter().zip(&numbers);
        let off = pairs.map(|(found, due)| (f64::from(*found) - due).abs()).fold(0.0, f64::max);
        assert!(off < 3e-7, "{digest}: {off}");
    }
}
