//! Formats of weights that this program computes slower than others do.

use candle_core::quantized::GgmlDType;

use crate::gguf::Gguf;
use crate::{GgufError, Model, Workload};

/// Below this share of llama.cpp's speed a format is called slow.
const SLOW_PERCENT: u32 = 70;

/// Tokens per second on a processor over llama.cpp's for the same file, in percent: reading a prompt and writing, one job at
/// a time (docs/benchmarks.md). Of other formats nothing was measured.
const MEASURED: [(GgmlDType, u32, u32); 3] =
    [(GgmlDType::Q8_0, 96, 73), (GgmlDType::Q4K, 63, 35), (GgmlDType::Q4_0, 14, 49)];

/// A warning for whoever offers this model on a processor, if the format of most of its weights is slow there.
pub fn slow_format(model: &Model) -> Result<Option<String>, GgufError> {
    if model.manifest.workload != Workload::LlmGen || !model.manifest.file.ends_with(".gguf") {
        return Ok(None);
    }
    let Ok(file) = model.open() else { return Ok(None) };
    let gguf = Gguf::open(file)?;
    let slow =
        gguf.main_format().and_then(|format| MEASURED.into_iter().find(|(known, ..)| *known == format));
    Ok(slow.filter(|(_, prompt, text)| *prompt.min(text) < SLOW_PERCENT).map(|(format, prompt, text)| {
        format!(
            "most of its weights are {format:?}, which a processor computes slowly here: {prompt} % of llama.cpp's speed for \
             prompts and {text} % for answers; the same model in Q8_0 does better, and --server takes llama.cpp's own"
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Change, Storage, changed};

    #[test]
    fn what_is_slow_here_is_told_and_what_is_not_is_not() {
        let stored = |storage| changed(&crate::queenbee(), Change::Stored(storage)).unwrap();
        let told = |storage| slow_format(&stored(storage)).unwrap();
        assert_eq!((told(Storage::Q8_0), told(Storage::F16)), (None, None));
        let slow = told(Storage::Q4_0).unwrap();
        assert!(slow.contains("Q4_0") && slow.contains("14 % of llama.cpp's"), "{slow}");
    }
}
