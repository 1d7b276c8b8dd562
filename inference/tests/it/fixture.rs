//! Logits against transformers and llama.cpp, on the files in `tests/fixtures/llama`.

use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use swarm_inference::{Compute, Decoder, Interrupt, Sequence};

#[derive(Deserialize)]
struct Reference {
    shape: [usize; 3],
    sections: Vec<Section>,
    prompts: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Section {
    model: String,
    engine: String,
    offset_bytes: usize,
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
    std::fs::read(folder.join(name)).unwrap()
}

fn reference() -> Reference {
    serde_json::from_slice(&fixture("logits.json")).unwrap()
}

/// All logits of a section, in the order prompt, position, token.
fn logits(reference: &Reference, section: &Section) -> Vec<f32> {
    let count: usize = reference.shape.iter().product();
    let bytes = &fixture("logits.bin")[section.offset_bytes..][..2 * count];
    let halves = Tensor::from_raw_buffer(bytes, DType::F16, &[count], &Device::Cpu).unwrap();
    halves.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

fn run(file: &[u8], compute: Compute, prompts: &[Vec<u32>]) -> Vec<f32> {
    let decoder = Decoder::from_gguf(&mut Cursor::new(file), compute).unwrap();
    let of = |prompt: &Vec<u32>| {
        decoder.forward_all(&mut Sequence::default(), prompt, Interrupt::default()).unwrap()
    };
    prompts.iter().flat_map(|prompt| of(prompt).concat()).collect()
}

fn relative_l2(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = found.iter().zip(expected).map(|(f, e)| square(f - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

fn limit(file: &str) -> f64 {
    if file.contains("f16") { 1e-3 } else { 2e-2 }
}

/// The file with two rows of a matrix exchanged.
fn exchange(mut file: Vec<u8>, tensor: &str, one: usize, other: usize) -> Vec<u8> {
    let content = Content::read(&mut Cursor::new(&file)).unwrap();
    let info = &content.tensor_infos[tensor];
    let (_, columns) = info.shape.dims2().unwrap();
    let row = columns / info.ggml_dtype.block_size() * info.ggml_dtype.type_size();
    let start = (content.tensor_data_offset + info.offset) as usize;
    for byte in 0..row {
        file.swap(start + one * row + byte, start + other * row + byte);
    }
    file
}

#[test]
fn logits_equal_those_of_transformers_and_llama_cpp() {
    let reference = reference();
    assert_eq!((reference.prompts.len(), reference.sections.len()), (8, 4));
    for section in &reference.sections {
        let expected = logits(&reference, section);
        for compute in [Compute::AllCores, Compute::OneCore, Compute::Device] {
            let found = run(&fixture(&section.model), compute, &reference.prompts);
            let distance = relative_l2(&found, &expected);
            let Section { model, engine, .. } = section;
            println!("{model} on {compute:?} against {engine}: {distance:.2e}");
            assert!(distance <= limit(model), "{model} on {compute:?} against {engine}: {distance}");
        }
    }
}

#[test]
fn exchanged_rows_of_any_matrix_are_noticed() {
    let reference = reference();
    let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    let tensors = parts.map(|part| format!("blk.0.{part}.weight"));
    for section in reference.sections.iter().filter(|section| section.engine.contains("llama")) {
        let expected = logits(&reference, section);
        for tensor in &tensors {
            let file = exchange(fixture(&section.model), tensor, 0, 1);
            let distance = relative_l2(&run(&file, Compute::AllCores, &reference.prompts), &expected);
            println!("{} {tensor}: {distance:.2e}", section.model);
            assert!(distance > limit(&section.model), "{tensor}: {distance}");
        }
    }
}
