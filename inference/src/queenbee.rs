//! The first model, compiled in.

use crate::{Manifest, Model, Weights};

/// `queenbee-nano`: a small Llama that continues English prose, so that nobody needs a download to begin.
pub fn queenbee() -> Model {
    let manifest = include_str!("../../models/queenbee-nano/manifest.json");
    Model {
        manifest: Manifest::from_json(manifest).expect("a test reads the compiled-in manifest"),
        weights: Weights::Embedded(include_bytes!("../../models/queenbee-nano/queenbee-nano-q8_0.gguf")),
    }
}
