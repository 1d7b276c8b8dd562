//! Pictures against an honest auditor, by a small Stable Diffusion of random weights.

use std::path::{Path, PathBuf};

use serde_json::Value;
use swarm_inference::testing::{Change, Storage, changed_folder};
use swarm_inference::{CancelToken, Candle, EngineConfig, Flow, Model, PaintRequest, Provider};
use swarm_protocol::distance::{Distances, Tolerance, pictures};
use swarm_protocol::workload::image::Spec;

const TOLERANCE: Tolerance = Tolerance::PICTURES;

/// Which weights a cheat runs in place of the model's own.
const WEIGHTS: [(&str, Change); 3] = [
    ("Q8_0", Change::Stored(Storage::Q8_0)),
    ("Q4_0", Change::Stored(Storage::Q4_0)),
    ("weights off by up to 10 %", Change::Blurred { share: 0.1, seed: 1 }),
];

/// Steps and picture.
type Run = (Vec<Vec<i32>>, Vec<u8>);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion")
}

fn model() -> Model {
    Model::from_manifest_file(&fixtures().join("manifest.json")).unwrap()
}

fn figures() -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(fixtures().join("figures.json")).unwrap()).unwrap()
}

fn number(figure: &Value, field: &str) -> u32 {
    u32::try_from(figure[field].as_u64().unwrap()).unwrap()
}

/// What a figure was painted from.
fn request(figure: &Value) -> PaintRequest {
    let ids = figure["ids"].as_array().unwrap().iter();
    let seed = hex::decode(figure["noise_seed"].as_str().unwrap()).unwrap();
    PaintRequest {
        prompt_ids: ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect(),
        width: number(figure, "width"),
        height: number(figure, "height"),
        steps: number(figure, "steps"),
        guidance: number(figure, "guidance"),
        seed: seed.try_into().unwrap(),
        deadline: None,
        max_memory_bytes: None,
    }
}

/// Jobs of few steps and of more, with guidance.
fn requests() -> Vec<PaintRequest> {
    let all: Vec<PaintRequest> = figures().iter().map(request).collect();
    let guided = |request: &PaintRequest| PaintRequest { guidance: 7_500, steps: 12, ..request.clone() };
    all.iter().map(guided).chain(all.iter().cloned()).collect()
}

fn paint(model: &Model, request: &PaintRequest) -> Run {
    let config = EngineConfig { model: model.clone(), max_memory_bytes: None };
    let mut steps = Vec::new();
    let painted =
        Candle::default().start(&config).unwrap().paint(request, &CancelToken::new(), &mut |step| {
            steps.push(step.to_vec());
            Flow::Continue
        });
    (steps, painted.unwrap())
}

fn compare(request: &PaintRequest, signed: &Run, own: &Run) -> Distances {
    let PaintRequest { width, height, steps, guidance, .. } = *request;
    let spec = Spec { width, height, steps, guidance };
    pictures(&spec, (&signed.0, &signed.1), (&own.0, &own.1)).unwrap()
}

fn told(what: &str, found: &[Distances]) -> usize {
    let missed = found.iter().filter(|found| found.judge(&TOLERANCE).is_err()).count();
    let each: Vec<_> = found.iter().map(|found| (found.mean, found.worst)).collect();
    println!("{what}: {missed} of {} pictures differ; mean and worst {each:?}", found.len());
    missed
}

fn rgb(file: &[u8]) -> (u32, u32, Vec<u8>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    (info.width, info.height, pixels)
}

/// The same steps, every shade changed.
fn retouched(run: &Run, change: impl Fn(usize, u8) -> u8) -> Run {
    let (width, height, pixels) = rgb(&run.1);
    let changed: Vec<u8> = pixels.into_iter().enumerate().map(|(at, shade)| change(at, shade)).collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&changed).unwrap();
    writer.finish().unwrap();
    (run.0.clone(), file)
}

/// A run of fewer steps, told as if there had been all of them.
fn stretched(run: &Run, steps: usize) -> Run {
    let told = (1..=steps).map(|step| run.0[(step * run.0.len()).div_ceil(steps) - 1].clone());
    (told.collect(), run.1.clone())
}

#[test]
fn honest_pictures_are_within_the_tolerance_whatever_painted_them() {
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (model, requests) = (model(), requests());
    let own: Vec<Run> = requests.iter().map(|request| paint(&model, request)).collect();
    let alone: Vec<Distances> = requests
        .iter()
        .zip(&own)
        .map(|(request, own)| compare(request, &one_thread.install(|| paint(&model, request)), own))
        .collect();
    assert_eq!(told("honest, on one thread", &alone), 0);
    let figures = figures();
    for (what, means) in [("exact GELU", "means"), ("GELU by tanh", "means_tanh")] {
        let foreign = figures.iter().map(|figure| {
            let numbers = |step: &Value| {
                let means = step.as_array().unwrap().iter();
                means.map(|mean| (mean.as_f64().unwrap() * 4096.0).round() as i32).collect()
            };
            let steps = figure[means].as_array().unwrap().iter().map(numbers).collect();
            let name = figure["name"].as_str().unwrap();
            let picture = std::fs::read(fixtures().join(format!("{name}.png"))).unwrap();
            compare(&request(figure), &(steps, picture), &paint(&model, &request(figure)))
        });
        let found: Vec<Distances> = foreign.collect();
        assert_eq!(told(&format!("honest, by diffusers with {what}"), &found), 0);
    }
}

#[test]
fn pictures_of_other_weights_prompts_seeds_or_steps_are_not() {
    let (model, requests) = (model(), requests());
    let own: Vec<Run> = requests.iter().map(|request| paint(&model, request)).collect();
    let compared = |signed: &dyn Fn(usize) -> Run| -> Vec<Distances> {
        (0..own.len()).map(|n| compare(&requests[n], &signed(n), &own[n])).collect()
    };
    let caught = |what: &str, signed: &dyn Fn(usize) -> Run| {
        assert_eq!(told(what, &compared(signed)), own.len(), "{what}");
    };
    for (what, change) in WEIGHTS {
        let folder = tempfile::tempdir().unwrap();
        let other = changed_folder(&model, change, folder.path()).unwrap();
        caught(what, &|n| paint(&other, &requests[n]));
    }
    caught("another seed", &|n| paint(&model, &PaintRequest { seed: [7; 32], ..requests[n].clone() }));
    let half = |n: usize| {
        let request = &requests[n];
        let steps = request.steps.div_ceil(2);
        stretched(&paint(&model, &PaintRequest { steps, ..request.clone() }), request.steps as usize)
    };
    caught("half of the steps", &half);
    let prompt = |n: usize| {
        let mut ids = requests[n].prompt_ids.clone();
        ids.insert(1, 40);
        ids.truncate(24);
        paint(&model, &PaintRequest { prompt_ids: ids, ..requests[n].clone() })
    };
    caught("a word more in the prompt", &prompt);
    let plain = |n: usize| paint(&model, &PaintRequest { guidance: 1_000, ..requests[n].clone() });
    let plain = compared(&plain);
    told("without guidance", &plain);
    for (request, found) in requests.iter().zip(plain) {
        // Of no prompt it is the same picture.
        let is_guided = request.guidance > 1_000 && request.prompt_ids.len() > 2;
        assert_eq!(found.judge(&TOLERANCE).is_err(), is_guided, "{request:?}");
    }
    let mirrored = |n: usize| retouched(&own[n], |_, shade| 255 - shade);
    caught("right steps, another picture", &mirrored);
    let noise = |by: u8| {
        let own = &own;
        move |n: usize| {
            retouched(&own[n], |at, shade| if at % 2 == 0 { shade.saturating_add(by) } else { shade })
        }
    };
    caught("half of the colours off by four shades", &noise(4));
    told("half of the colours off by one shade", &compared(&noise(1)));
    let folder = tempfile::tempdir().unwrap();
    let same = changed_folder(&model, Change::Stored(Storage::F32), folder.path()).unwrap();
    assert_eq!(told("honest, its weights stored as f32", &compared(&|n| paint(&same, &requests[n]))), 0);
}
