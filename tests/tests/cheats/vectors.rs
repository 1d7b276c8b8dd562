//! Embeddings against an honest auditor: a model of random weights, and the real MiniLM where `scripts/minilm.sh` has fetched
//! it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use swarm_inference::testing::{Change, Storage, changed_folder};
use swarm_inference::{CancelToken, Candle, EmbedRequest, EngineConfig, Flow, Model, Provider};
use swarm_protocol::distance::{Distances, Tolerance, vectors};

const TOLERANCE: Tolerance = Tolerance::EMBEDDINGS;
/// Texts of one job.
const TEXTS: usize = 8;

/// Which weights a cheat runs in place of the model's own.
const WEIGHTS: [(&str, Change); 4] = [
    ("Q8_0", Change::Stored(Storage::Q8_0)),
    ("Q4_0", Change::Stored(Storage::Q4_0)),
    ("weights off by up to 10 %", Change::Blurred { share: 0.1, seed: 1 }),
    ("one layer of all", Change::Shortened(1)),
];

struct World {
    name: String,
    model: Model,
    /// The texts of each job.
    jobs: Vec<Vec<String>>,
    /// What another implementation computes for the first of them.
    figures: Vec<(String, Vec<f32>)>,
}

impl World {
    fn of(manifest: &Path, figures: &Path) -> Self {
        let model = Model::from_manifest_file(manifest).unwrap();
        let figures: Vec<Value> = serde_json::from_slice(&std::fs::read(figures).unwrap()).unwrap();
        let vector = |figure: &Value| {
            let numbers = figure["vector"].as_array().unwrap().iter();
            numbers.map(|number| number.as_f64().unwrap() as f32).collect()
        };
        let figures: Vec<(String, Vec<f32>)> = figures
            .iter()
            .map(|figure| (figure["text"].as_str().unwrap().to_owned(), vector(figure)))
            .collect();
        let words: Vec<&str> = super::world::TEXT.split_whitespace().collect();
        let texts: Vec<String> = words.windows(9).step_by(2).map(|words| words.join(" ")).collect();
        let jobs = texts.chunks_exact(TEXTS).map(<[String]>::to_vec).collect();
        Self { name: model.manifest.name.clone(), model, jobs, figures }
    }

    fn run(&self, model: &Model, texts: &[String]) -> Vec<f32> {
        let tokenizer = self.model.text_tokenizer().unwrap();
        let texts = texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        let config = EngineConfig { model: model.clone(), max_memory_bytes: None };
        let mut engine = Candle::default().start(&config).unwrap();
        let mut found = Vec::new();
        let request = EmbedRequest { texts, ..EmbedRequest::default() };
        let mut sink = |vector: &[f32]| {
            found.extend_from_slice(vector);
            Flow::Continue
        };
        engine.embed(&request, &CancelToken::new(), &mut sink).unwrap();
        found
    }

    fn compare(&self, signed: &[f32], own: &[f32]) -> Distances {
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        vectors(&bytes(signed), &bytes(own), self.model.manifest.dimensions).unwrap()
    }

    fn honest(&self) -> Vec<Vec<f32>> {
        self.jobs.iter().map(|texts| self.run(&self.model, texts)).collect()
    }

    /// Each vector moved this far in a direction of its own, and of unit length again.
    fn moved(&self, numbers: &[f32], by: f32) -> Vec<f32> {
        let width = self.model.manifest.dimensions as usize;
        let moved = |vector: &[f32]| {
            let sign = |n: usize| if (n * n / 3 + n).is_multiple_of(2) { by } else { -by };
            let raw: Vec<f32> = vector
                .iter()
                .enumerate()
                .map(|(n, number)| number + sign(n) / (width as f32).sqrt())
                .collect();
            let length = raw.iter().map(|number| number * number).sum::<f32>().sqrt();
            raw.into_iter().map(|number| number / length).collect::<Vec<_>>()
        };
        numbers.chunks_exact(width).flat_map(moved).collect()
    }
}

/// How many of the jobs are beyond the tolerance.
fn told(world: &World, what: &str, found: &[Distances]) -> usize {
    let missed = found.iter().filter(|found| found.judge(&TOLERANCE).is_err()).count();
    let (mean, worst) = (found.iter().map(|f| f.mean), found.iter().map(|f| f.worst));
    let means = (mean.clone().min().unwrap(), mean.max().unwrap());
    println!(
        "{}, {what}: {missed} of {} jobs differ; mean {} to {}, worst {} to {}",
        world.name,
        found.len(),
        means.0,
        means.1,
        worst.clone().min().unwrap(),
        worst.max().unwrap()
    );
    missed
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bert")
}

fn worlds() -> Vec<World> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/minilm");
    let minilm = std::env::var_os("SWARMPOOL_MINILM").map_or(tools, PathBuf::from).join("manifest.json");
    let mut worlds = vec![World::of(&fixtures().join("manifest.json"), &fixtures().join("figures.json"))];
    if minilm.exists() {
        worlds.push(World::of(&minilm, &fixtures().join("minilm.json")));
    } else {
        println!("skipped: {} is not there; scripts/minilm.sh fetches it", minilm.display());
    }
    worlds
}

#[test]
fn honest_vectors_are_within_the_tolerance_whatever_computed_them() {
    for world in worlds() {
        let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let compared = |jobs: &[Vec<f32>]| -> Vec<Distances> {
            jobs.iter().zip(world.honest()).map(|(signed, own)| world.compare(signed, &own)).collect()
        };
        let alone = one_thread.install(|| world.honest());
        assert_eq!(told(&world, "honest, on one thread", &compared(&alone)), 0);
        let foreign: Vec<Distances> = world
            .figures
            .iter()
            .map(|(text, vector)| world.compare(vector, &world.run(&world.model, std::slice::from_ref(text))))
            .collect();
        assert_eq!(told(&world, "honest, by sentence-transformers", &foreign), 0);
        // bfloat16 is what other devices may round to; it is told, and not promised.
        let rounded = |number: &f32| f32::from_bits((number.to_bits() + 0x8000) & 0xffff_0000);
        let rounded: Vec<Vec<f32>> =
            world.honest().iter().map(|job| job.iter().map(rounded).collect()).collect();
        told(&world, "vectors rounded to bfloat16", &compared(&rounded));
    }
}

#[test]
fn vectors_of_other_weights_or_other_texts_are_not() {
    for world in worlds() {
        let own = world.honest();
        let compared = |signed: &[Vec<f32>]| -> Vec<Distances> {
            signed.iter().zip(&own).map(|(signed, own)| world.compare(signed, own)).collect()
        };
        let caught = |what: &str, signed: &[Vec<f32>]| {
            assert_eq!(told(&world, what, &compared(signed)), own.len(), "{what}");
        };
        for (what, change) in WEIGHTS {
            let folder = tempfile::tempdir().unwrap();
            let other = changed_folder(&world.model, change, folder.path()).unwrap();
            let signed: Vec<_> = world.jobs.iter().map(|texts| world.run(&other, texts)).collect();
            caught(what, &signed);
        }
        let width = world.model.manifest.dimensions as usize;
        let mut copied = own.clone();
        copied.iter_mut().for_each(|job| job.copy_within(width..2 * width, 0));
        caught("one text of eight has another's vector", &copied);
        let cut = |text: &String| text.rsplit_once(' ').unwrap().0.to_owned();
        let cut: Vec<Vec<f32>> = world
            .jobs
            .iter()
            .map(|texts| world.run(&world.model, &texts.iter().map(cut).collect::<Vec<_>>()))
            .collect();
        caught("cached for the text without its last word", &cut);
        let moved = |by| own.iter().map(|job| world.moved(job, by)).collect::<Vec<_>>();
        caught("noise of a hundredth", &moved(0.01));
        let folder = tempfile::tempdir().unwrap();
        let half = changed_folder(&world.model, Change::Stored(Storage::F16), folder.path()).unwrap();
        let half: Vec<_> = world.jobs.iter().map(|texts| world.run(&half, texts)).collect();
        told(&world, "not promised: weights stored as F16", &compared(&half));
        told(&world, "not promised: noise of a thousandth", &compared(&moved(0.001)));
    }
}
