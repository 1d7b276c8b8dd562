//! Files that people and other programs write: jobs, manifests, models, the addresses of a machine's nodes.

use crate::target::{Decoder, Outcome, Target, name};
use std::fs;
use std::io::Cursor;
use std::path::Path;
use swarm_inference::{GgufError, Manifest, ManifestError, Tokenizer, TokenizerError};
use swarm_node::job_file::JobFile;
use swarm_node::network::addresses;

pub fn targets(folder: &Path) -> Vec<Target> {
    // candle's errors carry one if it is asked for, and it takes fifty mebibytes.
    let backtraces = std::env::var_os("RUST_BACKTRACE").is_some_and(|asked| asked != "0");
    vec![
        Target {
            name: "manifest",
            share: 40,
            max_bytes: 2_000,
            memory: (64, 64 * 1024),
            must: MANIFEST.to_vec(),
            run: Box::new(manifest),
        },
        Target {
            name: "tokenizer",
            share: 6,
            max_bytes: 30_000,
            memory: (256, if backtraces { 256 << 20 } else { 16 << 20 }),
            must: TOKENIZER.to_vec(),
            run: Box::new(tokenizer),
        },
        Target {
            name: "job-file",
            share: 3,
            max_bytes: 4_000,
            memory: (256, 4 * 1024 * 1024),
            must: JOB_FILE.to_vec(),
            run: job_file(folder),
        },
        Target {
            name: "address-file",
            share: 1,
            max_bytes: 2_000,
            memory: (64, 256 * 1024),
            must: vec!["a node", "no node"],
            run: address_file(folder),
        },
    ]
}

const MANIFEST: [&str; 9] = [
    "read",
    "Json",
    "name must have",
    "file must be",
    "size must be",
    "blake3 must be",
    "context_length must be",
    "vocab_size must be",
    "top_k must be",
];

fn manifest(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else { return "not UTF-8".into() };
    match Manifest::from_json(text) {
        Ok(manifest) => {
            let again = Manifest::from_json(&serde_json::to_string(&manifest).expect("it is JSON"));
            assert_eq!(again.ok(), Some(manifest), "it does not come back");
            "read".into()
        }
        Err(ManifestError::Field { field, rule }) => {
            let rule: Vec<&str> = rule.split(' ').take(2).collect();
            format!("{field} {}", rule.join(" ")).into()
        }
        Err(_) => "Json".into(),
    }
}

const TOKENIZER: [&str; 15] = [
    "a tokenizer",
    "Format",
    "too many tensors",
    "too many metadata entries",
    "too many bytes of a string",
    "too many array elements",
    "too many dimensions",
    "too many elements of a tensor",
    "malformed: an unknown type of value",
    "malformed: arrays of arrays",
    "malformed: the alignment is not a power of two",
    "malformed: the file ends inside the header",
    "Read",
    "Unsupported",
    "the vocabulary is malformed",
];

/// A GGUF header and the tokenizer in it.
fn tokenizer(bytes: &[u8]) -> Outcome {
    match Tokenizer::from_gguf(&mut Cursor::new(bytes)) {
        Ok(tokenizer) => {
            let text = "Once upon a time\u{1F41D}";
            if let Ok(ids) = tokenizer.encode(text) {
                assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&ids)), text, "text does not come back");
            }
            "a tokenizer".into()
        }
        Err(TokenizerError::Gguf(GgufError::TooMany { what, .. })) => format!("too many {what}").into(),
        Err(TokenizerError::Gguf(GgufError::Malformed(what))) => format!("malformed: {what}").into(),
        Err(TokenizerError::Gguf(error)) => name(&error),
        Err(TokenizerError::Malformed(_)) => "the vocabulary is malformed".into(),
        Err(error) => name(&error),
    }
}

const JOB_FILE: [&str; 11] = [
    "a job",
    "is given twice",
    "is missing",
    "is not a field",
    "must have exactly one",
    "must not be empty",
    "must be",
    "bytes",
    "is not built",
    "is not UTF-8",
    "line",
];

/// What a refusal is about: its field, or what is wrong with it.
fn job_file(folder: &Path) -> Decoder {
    let path = folder.join("job.json");
    Box::new(move |bytes| {
        fs::write(&path, bytes).expect("a file can be written");
        match JobFile::read(&path) {
            Ok(_) => "a job".into(),
            Err(error) => {
                assert!(error.message.len() < 4096, "nobody reads so long a message");
                said(&error.message)
            }
        }
    })
}

fn said(problem: &str) -> Outcome {
    let word = JOB_FILE[1..].iter().find(|words| problem.contains(**words));
    word.map_or("otherwise refused".into(), |word| (*word).into())
}

fn address_file(folder: &Path) -> Decoder {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder.join("nodes");
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
    Box::new(move |bytes| {
        // The corpus cannot know the number of this process.
        let own = std::process::id().to_string();
        let text = String::from_utf8_lossy(bytes).replace("PID", &own);
        fs::write(folder.join("node.json"), &text).expect("a file can be written");
        match addresses::scan(&folder, "swarmpool.eth").as_deref() {
            Ok([]) => "no node".into(),
            Ok(entries) => {
                assert!(entries.iter().all(|entry| entry.addresses.len() <= 16), "too many addresses");
                "a node".into()
            }
            Err(error) => name(error),
        }
    })
}
