//! Jobs that are not text: embeddings against figures of sentence-transformers, pictures against those of diffusers,
//! benchmarks against their own count.

use crate::harness::{Site, text};
use crate::terminal::Terminal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `{text, ids, vector}` for each text, as sentence-transformers computes it.
fn figures() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bert/figures.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn manifest() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bert/manifest.json"))
}

pub fn job(job_type: &str, model: &str, input: Value) -> Value {
    let payment = json!({ "amount": "0.10", "currency": "USDC" });
    json!({ "job_type": job_type, "model": model, "input": input, "payment": payment })
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn texts_are_embedded_as_by_another_implementation_and_an_epoch_of_them_verifies() {
    let site = Site::new();
    let operator = site.operator(&["--model", &manifest(), "--epoch", "5s"]);
    let miner = site.miner("bob.eth", &["--model", &manifest()]);
    let figures = figures();
    let texts: Vec<&Value> = figures.iter().map(|figure| &figure["text"]).collect();
    let path = site.job("texts", &job("embed", "tiny-bert", json!({ "texts": texts })));
    let answered = site.submit(&path).good().json();
    let vectors = answered["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), figures.len());
    for (vector, figure) in vectors.iter().zip(&figures) {
        for (found, due) in numbers(vector).into_iter().zip(numbers(&figure["vector"])) {
            assert!((found - due).abs() < 1e-6, "{}: {found} is not {due}", figure["text"]);
        }
    }
    let ids: usize = figures.iter().map(|figure| figure["ids"].as_array().unwrap().len()).sum();
    assert_eq!(
        answered["receipt"]["work_units"],
        ids + figures.len(),
        "a unit for each token, one for each text"
    );

    let lines: String =
        figures.iter().map(|figure| format!("{}\n\n", figure["text"].as_str().unwrap())).collect();
    let file = site.home().join("texts.txt");
    std::fs::write(&file, lines).unwrap();
    let path = site.job("file", &job("embed", "tiny-bert", json!({ "file": text(&file) })));
    let told = site.client(&["submit", &text(&path)]).good();
    let again: Vec<Value> = told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(&again, vectors, "a vector to a line, the same from a file");

    let receipt = answered["receipt_file"].as_str().unwrap();
    operator.expect("sealed");
    site.client(&["verify", receipt]).good();
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn a_benchmark_is_measured_and_its_figures_are_those_of_its_own_count() {
    let site = Site::new();
    let operator = site.operator(&[]);
    let miner = site.miner("bob.eth", &[]);
    for dtype in ["f32", "f16", "bf16"] {
        let product = json!({ "product": { "dtype": dtype, "m": 96, "n": 64, "k": 200, "repeats": 3 } });
        let path = site.job(dtype, &job("torch_bench", "matmul", product));
        let answered = site.submit(&path).good().json();
        let figures = &answered["figures"];
        let operations = 2u64 * 96 * 64 * 200 * 3;
        assert_eq!(figures["operations"], operations, "{dtype}");
        assert_eq!(answered["receipt"]["work_units"], operations.div_ceil(1_000_000), "{dtype}");
        let (total, best) = (figures["total_ns"].as_u64().unwrap(), figures["best_ns"].as_u64().unwrap());
        assert!(best > 0 && 3 * best <= total, "{figures}");
        let rate = figures["gflop_per_s"].as_f64().unwrap();
        assert!((rate - operations as f64 / total as f64).abs() < 1e-9 * rate, "{figures}");
    }
    let product = json!({ "product": { "dtype": "f32", "m": 1, "n": 512, "k": 512, "repeats": 2 } });
    let told =
        site.client(&["submit", &text(&site.job("line", &job("torch_bench", "matmul", product)))]).good();
    assert!(
        told.stdout.starts_with("f32, 1×512 by 512×512, 2 times: ") && told.stdout.contains("GB/s"),
        "{told:?}"
    );
    miner.terminate().good();
    operator.terminate().good();
}

pub fn picture_manifest() -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion/manifest.json"))
}

/// Width, height, and red, green and blue of each pixel.
fn pixels(file: &Path) -> (u32, u32, Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(file).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    (info.width, info.height, pixels)
}

/// The fixture's picture of that name as diffusers paints it, and the job that asks for it.
pub fn drawn(name: &str) -> (PathBuf, Value, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/diffusion");
    let figures: Value =
        serde_json::from_slice(&std::fs::read(folder.join("figures.json")).unwrap()).unwrap();
    let figure = figures.as_array().unwrap().iter().find(|figure| figure["name"] == name).unwrap().clone();
    let guidance = figure["guidance"].as_f64().unwrap() / 1000.0;
    let picture = json!({
        "prompt": figure["prompt"], "width": figure["width"], "height": figure["height"],
        "steps": figure["steps"], "guidance": guidance,
    });
    let mut job = job("sd_infer", "tiny-diffusion", json!({ "picture": picture }));
    job["params"] = json!({ "seed": figure["seed"].as_str().unwrap().parse::<u64>().unwrap() });
    (folder.join(format!("{name}.png")), figure, job)
}

#[test]
fn pictures_are_those_of_another_implementation_and_an_epoch_of_them_verifies() {
    let site = Site::new();
    let operator = site.operator(&["--model", &picture_manifest(), "--epoch", "5s"]);
    let miner = site.miner("bob.eth", &["--model", &picture_manifest()]);
    for name in ["bee", "nothing", "honey"] {
        let (due, figure, job) = drawn(name);
        let out = site.home().join(format!("{name}.png"));
        let path = site.job(name, &job);
        let answered = site.client(&["submit", "--json", "--out", &text(&out), &text(&path)]).good().json();
        let ((wide, high, found), (width, height, due)) = (pixels(&out), pixels(&due));
        assert_eq!((wide, high), (width, height), "{name}");
        let worst = found.iter().zip(&due).map(|(found, due)| found.abs_diff(*due)).max().unwrap();
        assert!(worst <= 2, "{name}: a colour is off by {worst} of 255");
        let told = json!({ "format": "png", "width": width, "height": height });
        assert_eq!((&answered["picture"], &answered["answer_file"]), (&told, &json!(text(&out))));
        let steps = figure["steps"].as_u64().unwrap() * u64::from(width / 8 * (height / 8));
        let tokens = figure["ids"].as_array().unwrap().len() as u64;
        assert_eq!(
            answered["receipt"]["work_units"],
            steps + tokens,
            "a unit for a step of a latent, and a token"
        );
        let output = answered["receipt"]["output"].as_str().unwrap();
        let fetched = site.home().join("fetched.png");
        site.client(&["get", output, "--out", &text(&fetched)]).good();
        assert_eq!(std::fs::read(&fetched).unwrap(), std::fs::read(&out).unwrap(), "it is behind its CID");
        if name == "honey" {
            operator.expect("sealed");
            site.client(&["verify", answered["receipt_file"].as_str().unwrap()]).good();
        }
    }
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn a_picture_goes_to_a_pipe_as_it_is_and_else_to_a_file() {
    let site = Site::new();
    let operator = site.operator(&["--model", &picture_manifest()]);
    let miner = site.miner("bob.eth", &["--model", &picture_manifest()]);
    let (_, _, mut job) = drawn("bee");
    let path = text(&site.job("bee", &job));
    let answered = site.submit(Path::new(&path)).good().json();
    let kept = PathBuf::from(answered["answer_file"].as_str().unwrap());
    assert!(kept.starts_with(site.home()) && kept.extension().is_some_and(|e| e == "png"), "{kept:?}");
    let piped = site.command("swarm-client").args(["submit", &path]).output().unwrap();
    assert!(piped.status.success());
    assert_eq!(piped.stdout, std::fs::read(&kept).unwrap(), "the same seed, the same picture");
    let out = site.home().join("named.png");
    let named = site.client(&["submit", "--out", &text(&out), &path]).good();
    assert_eq!(named.stdout, format!("{}\n", out.display()));
    assert_eq!(std::fs::read(&out).unwrap(), piped.stdout);
    let terminal = Terminal::open(&site, 200, 24);
    terminal.type_line(&format!("swarm-client submit '{path}'; echo \"left with $?\""));
    let screen = terminal.expect("left with 0");
    assert!(screen.contains("/pictures/") && !screen.contains("IHDR"), "{screen}");
    job["params"] = json!({});
    let path = text(&site.job("own", &job));
    let own = site.command("swarm-client").args(["submit", &path]).output().unwrap();
    let again = site.command("swarm-client").args(["submit", &path]).output().unwrap();
    assert!(own.status.success() && again.status.success());
    assert_ne!(own.stdout, again.stdout, "without a seed each run has noise of its own");
    miner.terminate().good();
    operator.terminate().good();
}

#[test]
fn a_model_that_is_for_another_workload_is_refused_by_name() {
    let site = Site::new();
    let operator = site.operator(&["--model", &manifest()]);
    let refused = [
        (job("embed", "matmul", json!({ "text": "a text" })), "the model matmul is for torch_bench"),
        (job("llm_gen", "tiny-bert", json!({ "text": "a text" })), "the model tiny-bert is for embed"),
        (
            job("embed", "queenbee-nano", json!({ "text": "a text" })),
            "the model queenbee-nano is for llm_gen",
        ),
    ];
    for (n, (job, why)) in refused.iter().enumerate() {
        let told = site.submit(&site.job(&n.to_string(), job));
        assert!(told.code() == Some(1) && told.stderr.contains(why), "{why}: {told:?}");
    }
    operator.terminate().good();
}
