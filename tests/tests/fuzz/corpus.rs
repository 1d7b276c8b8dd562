//! The inputs from which mutation starts: committed in `tests/corpus`, a folder for each decoder.
//!
//! `FUZZ_KEEP=1` adds an input for every outcome that none of them has; the seeds are written by the ignored test
//! `write_seeds`.

use std::path::PathBuf;

/// The longest input that is kept.
const MAX_KEPT_BYTES: usize = 40 * 1024;

fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", name].iter().collect()
}

/// All inputs of a decoder, in the order of their names.
pub fn read(name: &str) -> Vec<Vec<u8>> {
    let Ok(files) = std::fs::read_dir(folder(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("the corpus can be read")).collect()
}

/// Adds an input, if that is asked for.
pub fn keep(name: &str, outcome: &str, input: &[u8]) {
    if std::env::var_os("FUZZ_KEEP").is_some() && input.len() <= MAX_KEPT_BYTES {
        write(name, &format!("found-{outcome}"), input);
    }
}

pub fn write(name: &str, title: &str, input: &[u8]) {
    let folder = folder(name);
    std::fs::create_dir_all(&folder).expect("a folder for the corpus");
    let title: String =
        title.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
    std::fs::write(folder.join(title), input).expect("an input of the corpus");
}
