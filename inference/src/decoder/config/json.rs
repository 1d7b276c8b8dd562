//! `config.json` as transformers writes it, <https://huggingface.co/docs/transformers/main_classes/configuration>.

use serde::Deserialize;

use super::{Architecture, DecoderConfig, Llama3Scaling, RotaryPairs, unsupported};
use crate::LoadError;

/// The longest `config.json` that is read, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Json {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    vocab_size: usize,
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    rope_theta: Option<f64>,
    /// The newer place of theta and scaling.
    rope_parameters: Option<Rope>,
    rope_scaling: Option<Rope>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
}

#[derive(Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

impl DecoderConfig {
    /// The shape that a `config.json` of at most [`MAX_CONFIG_BYTES`] states.
    pub fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        if json.len() > MAX_CONFIG_BYTES {
            return Err(LoadError::Unsupported(format!("a config.json of {} bytes is too long", json.len())));
        }
        let json: Json = serde_json::from_slice(json)
            .map_err(|error| LoadError::Unsupported(format!("the config.json is not usable: {error}")))?;
        let architecture = Architecture::named(&json.model_type)
            .ok_or_else(|| unsupported("architecture", &json.model_type))?;
        json.refuse_variants(architecture)?;
        let head_width = match json.head_dim {
            Some(width) => width,
            None if json.num_attention_heads > 0 => json.hidden_size / json.num_attention_heads,
            None => return Err(unsupported("number of heads", "0")),
        };
        Self {
            architecture,
            layers: json.num_hidden_layers,
            width: json.hidden_size,
            hidden: json.intermediate_size,
            heads: json.num_attention_heads,
            kv_heads: json.num_key_value_heads.unwrap_or(json.num_attention_heads),
            head_width,
            context_length: json.max_position_embeddings,
            vocab_size: json.vocab_size,
            rms_epsilon: json.rms_norm_eps,
            rope_base: json.rope_base(),
            rope_pairs: RotaryPairs::Halves,
            rope_scaling: json.scaling()?,
            tied: json.tie_word_embeddings.unwrap_or(false),
        }
        .checked()
    }
}

impl Json {
    fn refuse_variants(&self, architecture: Architecture) -> Result<(), LoadError> {
        if let Some(act) = self.hidden_act.as_deref()
            && act != "silu"
        {
            return Err(unsupported("activation", act));
        }
        // Qwen2 always has biases on queries, keys and values; the field says nothing there.
        let bias = architecture != Architecture::Qwen2 && self.attention_bias == Some(true);
        let variants = [
            ("attention_bias", bias),
            ("mlp_bias", self.mlp_bias == Some(true)),
            ("use_sliding_window", self.use_sliding_window == Some(true)),
        ];
        match variants.iter().find(|(_, used)| *used) {
            Some((name, _)) => Err(unsupported(name, "true")),
            None => Ok(()),
        }
    }

    fn rope_base(&self) -> f64 {
        let newer = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        newer.or(self.rope_theta).unwrap_or(10_000.0)
    }

    fn scaling(&self) -> Result<Option<Llama3Scaling>, LoadError> {
        let Some(rope) = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()) else {
            return Ok(None);
        };
        match rope.rope_type.as_deref() {
            None | Some("default") => Ok(None),
            Some("llama3") => rope.llama3().map(Some),
            Some(other) => Err(unsupported("rope scaling", other)),
        }
    }
}

impl Rope {
    fn llama3(&self) -> Result<Llama3Scaling, LoadError> {
        let number = |name: &str, value: Option<f64>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            other => Err(unsupported(name, &format!("{other:?}"))),
        };
        let scaling = Llama3Scaling {
            factor: number("factor", self.factor)?,
            low_frequency: number("low_freq_factor", self.low_freq_factor)?,
            high_frequency: number("high_freq_factor", self.high_freq_factor)?,
            original_context: number(
                "original_max_position_embeddings",
                self.original_max_position_embeddings,
            )?,
        };
        if scaling.high_frequency <= scaling.low_frequency {
            return Err(unsupported("high_freq_factor", &scaling.high_frequency.to_string()));
        }
        Ok(scaling)
    }
}
