//! Which files of a repository or folder make a model.

use crate::cli::UserError;
use crate::models::installed::is_name;
use swarm_inference::{SHARD_INDEX, ShardIndex};

const WEIGHTS: &str = "model.safetensors";
/// Beside such weights.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const WELCOME: [&str; 1] = ["sentence_bert_config.json"];
/// The longest index of weights that were cut into several files.
pub const MAX_SHARD_INDEX_BYTES: u64 = 8 << 20;
/// Names that are shown of many.
const MAX_SHOWN: usize = 12;

/// The files of one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Of several the index says which.
    pub weights: Vec<String>,
    pub beside: Vec<String>,
}

/// What was chosen.
#[derive(Debug, PartialEq, Eq)]
pub enum Chosen {
    /// Weights in one file.
    Whole(Choice),
    /// Weights that were cut into several, which an index among these files names: [`cut`].
    Cut(Vec<String>),
}

/// Chooses among the files of `place`: the one that was asked for, or the only one that it can be.
pub fn choose(place: &str, names: &[&str], asked: Option<&str>) -> Result<Chosen, UserError> {
    let mut ggufs: Vec<&str> =
        names.iter().copied().filter(|name| name.ends_with(".gguf") && is_name(name)).collect();
    ggufs.sort_unstable();
    let weights = match (asked, &ggufs[..]) {
        (Some(asked), _) if !names.contains(&asked) => {
            return Err(UserError::input(format!("{place} has no file {asked}")).hint(listed(&ggufs)));
        }
        (Some(asked), _) if !asked.ends_with(".gguf") && !asked.ends_with(".safetensors") => {
            return Err(UserError::input(format!("{asked} holds no weights that can be run here"))
                .hint("name a file that ends in .gguf or .safetensors"));
        }
        (Some(asked), _) => asked,
        (None, [one]) => one,
        (None, []) if names.contains(&WEIGHTS) => WEIGHTS,
        (None, []) if names.contains(&SHARD_INDEX) => {
            let index = std::iter::once(SHARD_INDEX.to_owned());
            return Ok(Chosen::Cut(index.chain(beside(place, names, SHARD_INDEX)?).collect()));
        }
        (None, []) => {
            return Err(UserError::input(format!("{place} has neither a GGUF file nor {WEIGHTS}")).hint(
                "models are Llama, Qwen2 and Qwen3 in GGUF or safetensors, and BERT in one file of safetensors",
            ));
        }
        (None, _) => {
            return Err(UserError::input(format!("{place} has {} GGUF files", ggufs.len()))
                .hint(format!("name one behind a slash; {}", listed(&ggufs))));
        }
    };
    whole(weights)?;
    if weights.ends_with(".gguf") {
        return Ok(Chosen::Whole(Choice { weights: vec![weights.to_owned()], beside: Vec::new() }));
    }
    let beside = beside(place, names, weights)?;
    Ok(Chosen::Whole(Choice { weights: vec![weights.to_owned()], beside }))
}

/// The files that an index names, all of which `place` must have.
pub fn cut(place: &str, names: &[&str], beside: Vec<String>, index: &[u8]) -> Result<Choice, UserError> {
    let refused = |what: String| {
        UserError::input(format!("{place} is no whole model: {what}"))
            .hint("ask whoever published it, or take another copy of it")
    };
    let index = ShardIndex::from_json(index).map_err(|error| refused(error.to_string()))?;
    let files = index.files();
    if let Some(odd) = files.iter().find(|file| !is_name(file)) {
        return Err(refused(format!("its {SHARD_INDEX} names {odd:?}, which cannot be installed")));
    }
    if let Some(missing) = files.iter().find(|file| !names.contains(file)) {
        return Err(refused(format!("it has no {missing}, which its {SHARD_INDEX} names")));
    }
    Ok(Choice { weights: files.into_iter().map(str::to_owned).collect(), beside })
}

/// What belongs to weights in safetensors.
fn beside(place: &str, names: &[&str], weights: &str) -> Result<Vec<String>, UserError> {
    if let Some(missing) = NEEDED.iter().find(|needed| !names.contains(needed)) {
        return Err(UserError::input(format!("{place} has no {missing} beside {weights}"))
            .hint("such a model needs config.json and tokenizer.json"));
    }
    let welcome = WELCOME.iter().filter(|file| names.contains(file));
    Ok(NEEDED.iter().chain(welcome).map(|file| (*file).to_owned()).collect())
}

/// Refuses a part of a model that was cut.
fn whole(weights: &str) -> Result<(), UserError> {
    let stem = weights.trim_end_matches(".gguf").trim_end_matches(".safetensors");
    let is_part = stem.rsplit_once("-of-").is_some_and(|(before, count)| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        is_number(count) && before.rsplit_once('-').is_some_and(|(_, number)| is_number(number))
    });
    match is_part {
        true => Err(UserError::input(format!("{weights} is one part of a model that was cut into several"))
            .hint(
                "of safetensors name the repository or folder alone; join the parts of a GGUF with llama.cpp's llama-gguf-split",
            )),
        false => Ok(()),
    }
}

fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(MAX_SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = if names.len() > MAX_SHOWN { ", …" } else { "" };
    format!("there is {}{more}", if shown.is_empty() { "no GGUF file" } else { &shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_is_chosen_or_the_choice_is_shown() {
        let told = |names: &[&str], asked| choose("a/b", names, asked).map_err(|error| error.message);
        let whole = |name: &str, beside| Ok(Chosen::Whole(Choice { weights: vec![name.to_owned()], beside }));
        let gguf = |name: &str| whole(name, Vec::new());
        assert_eq!(told(&["README.md", "x-q8_0.gguf", "model.safetensors"], None), gguf("x-q8_0.gguf"));
        let two = ["x-q4.gguf", "x-q8.gguf"];
        assert_eq!(told(&two, Some("x-q8.gguf")), gguf("x-q8.gguf"));
        assert_eq!(told(&two, None), Err("a/b has 2 GGUF files".to_owned()));
        assert_eq!(told(&two, Some("y.gguf")), Err("a/b has no file y.gguf".to_owned()));
        let bert = ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt"];
        let beside = vec!["config.json".to_owned(), "tokenizer.json".to_owned()];
        assert_eq!(told(&bert, None), whole("model.safetensors", beside));
        assert_eq!(told(&bert[1..], None), Err("a/b has no config.json beside model.safetensors".to_owned()));
        assert!(told(&["../x.gguf", "pytorch_model.bin"], None).is_err());
        assert!(told(&["x-00001-of-00002.gguf"], None).unwrap_err().contains("one part of a model"));
    }
    #[test]
    fn the_files_of_a_model_that_was_cut_are_those_of_its_index() {
        let names = ["config.json", "tokenizer.json", SHARD_INDEX, "a.safetensors", "b.safetensors"];
        let Chosen::Cut(beside) = choose("a/b", &names, None).unwrap() else { panic!("it was cut") };
        assert_eq!(beside, [SHARD_INDEX, "config.json", "tokenizer.json"]);
        let told = |names: &[&str], map: &str| {
            let index = format!("{{\"weight_map\": {map}}}");
            cut("a/b", names, beside.clone(), index.as_bytes()).map_err(|error| error.message)
        };
        let map = r#"{"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}"#;
        let weights = ["a.safetensors", "b.safetensors"].map(str::to_owned).into();
        assert_eq!(told(&names, map), Ok(Choice { weights, beside: beside.clone() }));
        let refused = |what: &str| Err(format!("a/b is no whole model: {what}"));
        let missing = "it has no b.safetensors, which its model.safetensors.index.json names";
        assert_eq!(told(&names[..4], map), refused(missing));
        for (map, what) in [
            (
                r#"{"x": "../x.safetensors"}"#,
                "names \"../x.safetensors\", which is no safetensors file beside it",
            ),
            (r#"{"x": "config.json"}"#, "names \"config.json\", which is no safetensors file beside it"),
            ("{}", "names no file"),
        ] {
            assert_eq!(told(&names, map), refused(&format!("the model.safetensors.index.json {what}")));
        }
        assert!(told(&names, "[]").unwrap_err().contains("is malformed"));
        let without = choose("a/b", &names[1..], None).unwrap_err().message;
        assert_eq!(without, "a/b has no config.json beside model.safetensors.index.json");
        assert!(choose("a/b", &["model-00001-of-00002.safetensors"], None).is_err());
    }
}
