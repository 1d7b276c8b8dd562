//! The index of weights that were cut into several safetensors files:
//! <https://huggingface.co/docs/transformers/big_models#sharded-checkpoints>.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek};

use serde::Deserialize;

use crate::manifest::is_shard;
use crate::safetensors::{MAX_SAFETENSORS_FILES, Safetensors, SafetensorsError};

/// Characters of a stranger's name that are shown.
const MAX_SHOWN: usize = 64;

/// Which tensor lies in which file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads a `model.safetensors.index.json`; files elsewhere than beside it, and more than a model may have, are errors.
    pub fn from_json(json: &[u8]) -> Result<Self, SafetensorsError> {
        let index: Self =
            serde_json::from_slice(json).map_err(|error| odd(format!("is malformed: {error}")))?;
        let files = index.files();
        if let Some(file) = files.iter().find(|file| !is_shard(file)) {
            return Err(odd(format!("names {:?}, which is no safetensors file beside it", shown(file))));
        }
        match files.len() {
            0 => Err(odd("names no file".to_owned())),
            count if count > MAX_SAFETENSORS_FILES => Err(SafetensorsError::Files(count)),
            _ => Ok(index),
        }
    }

    /// The files, by their names.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Whether exactly the tensors that it names are in the files that it says, whose `names` stand in the order of `files`.
    pub(crate) fn check<R: Read + Seek>(
        &self,
        names: &[&str],
        files: &Safetensors<R>,
    ) -> Result<(), SafetensorsError> {
        let mut stated = self.weight_map.clone();
        for (tensor, place) in files.places() {
            let Some(file) = stated.remove(tensor) else {
                return Err(odd(format!("does not name the tensor {} of {}", shown(tensor), names[place])));
            };
            if file != names[place] {
                let (tensor, file, place) = (shown(tensor), shown(&file), names[place]);
                return Err(odd(format!("says that the tensor {tensor} is in {file}, and it is in {place}")));
            }
        }
        match stated.first_key_value() {
            Some((tensor, file)) => Err(odd(format!(
                "says that the tensor {} is in {}, and no file has it",
                shown(tensor),
                shown(file)
            ))),
            None => Ok(()),
        }
    }
}

fn odd(what: String) -> SafetensorsError {
    SafetensorsError::Index(what)
}

fn shown(name: &str) -> String {
    name.chars().take(MAX_SHOWN).collect()
}
