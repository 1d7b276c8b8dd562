//! Models of several files, changed: to tell vectors and pictures of other weights from those of a model's own.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Device, Tensor, safetensors};

use super::{Change, Random, changed_tensor};
use crate::{LoadError, Model, ModelFile, Weights};

/// Writes a model whose weights are safetensors into a folder, its weights changed, with a `manifest.json` that has the new
/// files' sizes and digests. Only a BERT can be shortened.
pub fn changed_folder(model: &Model, change: Change, folder: &Path) -> Result<Model, LoadError> {
    let failed = |error: std::io::Error| LoadError::Prepare(error.to_string());
    let mut bytes = Vec::new();
    model.open()?.read_to_end(&mut bytes).map_err(failed)?;
    let mut tensors: Vec<(String, Tensor)> =
        safetensors::load_buffer(&bytes, &Device::Cpu)?.into_iter().collect();
    tensors.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let mut random = Random(0);
    let changed = tensors.into_iter().map(|(name, tensor)| Ok((name, other(&tensor, change, &mut random)?)));
    let changed = changed.collect::<Result<HashMap<_, _>, candle_core::Error>>()?;
    let mut manifest = model.manifest.clone();
    let path = folder.join(&manifest.file);
    safetensors::save(&changed, &path)?;
    let written = std::fs::read(&path).map_err(failed)?;
    (manifest.size, manifest.blake3) = (written.len() as u64, blake3::hash(&written).to_hex().to_string());
    for file in &mut manifest.files {
        let bytes = other_file(&file.file, model.file(&file.file)?, change)?;
        std::fs::write(folder.join(&file.file), &bytes).map_err(failed)?;
        let (size, blake3) = (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string());
        *file = ModelFile { file: file.file.clone(), size, blake3 };
    }
    let text = serde_json::to_string(&manifest).map_err(|error| LoadError::Prepare(error.to_string()))?;
    std::fs::write(folder.join("manifest.json"), text).map_err(failed)?;
    Ok(Model { manifest, weights: Weights::File(path) })
}

/// What cannot be stored in blocks, as it has another length, is left as it is.
fn other(tensor: &Tensor, change: Change, random: &mut Random) -> Result<Tensor, candle_core::Error> {
    let whole = tensor.to_dtype(DType::F32)?;
    if tensor.rank() < 2 || matches!(change, Change::Shortened(_)) {
        return Ok(whole);
    }
    let row = whole.reshape((1, tensor.elem_count()))?;
    let kept = candle_core::quantized::QTensor::quantize(&row, candle_core::quantized::GgmlDType::F32)?;
    match changed_tensor(kept, change, random) {
        Ok(changed) => changed.dequantize(&Device::Cpu)?.reshape(tensor.shape()),
        Err(_) => Ok(whole),
    }
}

fn other_file(name: &str, bytes: Vec<u8>, change: Change) -> Result<Vec<u8>, LoadError> {
    let Change::Shortened(layers) = change else { return Ok(bytes) };
    let mut config: serde_json::Value = match name {
        "config.json" => serde_json::from_slice(&bytes).map_err(|e| LoadError::Prepare(e.to_string()))?,
        _ => return Ok(bytes),
    };
    config["num_hidden_layers"] = layers.into();
    Ok(config.to_string().into_bytes())
}
