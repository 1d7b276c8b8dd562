//! Which files of a repository or folder make a model.

use crate::cli::UserError;
use crate::models::installed::is_name;

const WEIGHTS: &str = "model.safetensors";
/// Beside such weights.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const WELCOME: [&str; 1] = ["sentence_bert_config.json"];
/// Names that are shown of many.
const MAX_SHOWN: usize = 12;

/// The files of one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    pub weights: String,
    pub beside: Vec<String>,
}

/// Chooses among the files of `place`: the one that was asked for, or the only one that it can be.
pub fn choose(place: &str, names: &[&str], asked: Option<&str>) -> Result<Choice, UserError> {
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
        (None, []) => {
            return Err(UserError::input(format!("{place} has neither a GGUF file nor {WEIGHTS}")).hint(
                "models are Llama, Qwen2 and Qwen3 in GGUF, and these and BERT in one file of safetensors",
            ));
        }
        (None, _) => {
            return Err(UserError::input(format!("{place} has {} GGUF files", ggufs.len()))
                .hint(format!("name one behind a slash; {}", listed(&ggufs))));
        }
    };
    whole(weights)?;
    if weights.ends_with(".gguf") {
        return Ok(Choice { weights: weights.to_owned(), beside: Vec::new() });
    }
    if let Some(missing) = NEEDED.iter().find(|needed| !names.contains(needed)) {
        return Err(UserError::input(format!("{place} has no {missing} beside {weights}"))
            .hint("such a model needs config.json and tokenizer.json"));
    }
    let welcome = WELCOME.iter().filter(|file| names.contains(file));
    let beside = NEEDED.iter().chain(welcome).map(|file| (*file).to_owned()).collect();
    Ok(Choice { weights: weights.to_owned(), beside })
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
                "take one that is a single file, or join the parts of a GGUF with llama.cpp's llama-gguf-split",
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
        let gguf = |name: &str| Ok(Choice { weights: name.to_owned(), beside: Vec::new() });
        assert_eq!(told(&["README.md", "x-q8_0.gguf", "model.safetensors"], None), gguf("x-q8_0.gguf"));
        let two = ["x-q4.gguf", "x-q8.gguf"];
        assert_eq!(told(&two, Some("x-q8.gguf")), gguf("x-q8.gguf"));
        assert_eq!(told(&two, None), Err("a/b has 2 GGUF files".to_owned()));
        assert_eq!(told(&two, Some("y.gguf")), Err("a/b has no file y.gguf".to_owned()));
        let bert = ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt"];
        let beside = vec!["config.json".to_owned(), "tokenizer.json".to_owned()];
        assert_eq!(told(&bert, None), Ok(Choice { weights: "model.safetensors".to_owned(), beside }));
        assert_eq!(told(&bert[1..], None), Err("a/b has no config.json beside model.safetensors".to_owned()));
        assert!(told(&["../x.gguf", "pytorch_model.bin"], None).is_err());
        assert!(told(&["x-00001-of-00002.gguf"], None).unwrap_err().contains("one part of a model"));
    }
}
