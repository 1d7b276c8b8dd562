//! The models that a node here would know, seen one by one before they are offered.

mod calibrate;
mod installed;
mod lookup;
mod published;
mod pull;

use self::calibrate::{Calibration, Pair, calibrate};
pub use self::installed::hold;
use self::installed::{Installed, cid};
pub use self::lookup::Lookup;
pub use self::published::Shelf;
use crate::cli::{Exit, ModelsCommand, NodeArgs, UserError};
use crate::storage::disk::write_atomic;
use crate::tables::{Column, column, table};
use crate::words::{clean, size};
use crate::workload::{tolerance, too_wide};
use anyhow::Result;
use indicatif::BinaryBytes;
use serde_json::json;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use swarm_inference::{
    Hardware, Item, Manifest, Model, Registry, Validation, Weights, matmul, queenbee, slow_format, validate,
};
use swarm_protocol::distance::Tolerance;
use swarm_protocol::finding::WIDEST_TOLERANCE;
use tokio_util::sync::CancellationToken;

const LIST: [Column; 6] = [
    column("model", 40, 0),
    column("size", 10, 0),
    column("context", 8, 1),
    column("licence", 20, 2),
    column("runs on", 80, 0),
    column("CID", 60, 1),
];
const PAIRS: [Column; 7] = [
    column("run", 24, 0),
    column("checked", 24, 0),
    column("mean", 10, 0),
    column("largest", 10, 0),
    column("worst", 10, 0),
    column("strangers", 10, 1),
    column("strays", 16, 0),
];
const CHECKS: [Column; 3] = [column("check", 12, 0), column("", 4, 0), column("found", 100, 0)];
/// The longest text that is scored; more is not read.
const MAX_TEXT_BYTES: u64 = 64 * 1024;
/// The opening of *Pride and Prejudice*, 1813.
const TEXT: &str = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want \
    of a wife. However little known the feelings or views of such a man may be on his first entering a neighbourhood, this \
    truth is so well fixed in the minds of the surrounding families, that he is considered as the rightful property of \
    some one or other of their daughters. \"My dear Mr. Bennet,\" said his lady to him one day, \"have you heard that \
    Netherfield Park is let at last?\" Mr. Bennet replied that he had not. \"But it is,\" returned she; \"for Mrs. Long has \
    just been here, and she told me all about it.\" Mr. Bennet made no answer.";

/// Puts the manifests of pulled models where the user has written their names.
pub fn resolve(args: &mut NodeArgs) -> Result<()> {
    if args.models.is_empty() {
        return Ok(());
    }
    Installed::of(&args.files)?.resolve(&mut args.models);
    Ok(())
}

/// Carries out one command; engines keep the caller's thread busy, so it has one of its own.
pub async fn run(args: &NodeArgs, command: &ModelsCommand, stop: CancellationToken) -> Result<Exit> {
    if let ModelsCommand::Pull(pull) = command {
        return pull::run(args, pull, stop).await;
    }
    let installed = Installed::of(&args.files)?;
    let (manifests, command) = (known(args, &installed), command.clone());
    tokio::task::spawn_blocking(move || match command {
        ModelsCommand::Pull(_) => Ok(Exit::Done),
        ModelsCommand::Remove { model } => remove(&installed, &model),
        ModelsCommand::List { json } => {
            tell_unfinished(&installed);
            list(&manifests, json)
        }
        ModelsCommand::Inspect { model } => inspect(&find(&manifests, &model)?),
        ModelsCommand::Validate { model, text, out, json } => {
            check(&find(&manifests, &model)?, text.as_deref(), out.as_deref(), json)
        }
        ModelsCommand::Calibrate { model, text, jobs, out, json } => {
            spread(&find(&manifests, &model)?, text.as_deref(), jobs, out.as_deref(), json)
        }
    })
    .await?
}

/// The manifests of `--model`, and of what was pulled, each once.
fn known(args: &NodeArgs, installed: &Installed) -> Vec<PathBuf> {
    let pulled = installed.manifests().into_iter().filter(|path| !args.models.contains(path));
    args.models.iter().cloned().chain(pulled).collect()
}

fn remove(installed: &Installed, name: &str) -> Result<Exit> {
    let bytes = installed.remove(name)?;
    print(&format!("{name} is removed, {} are free again\n", BinaryBytes(bytes)));
    Ok(Exit::Done)
}

/// Says what pulls that were broken off take of the disk.
fn tell_unfinished(installed: &Installed) {
    for (folder, bytes) in installed.unfinished() {
        let (bytes, folder) = (BinaryBytes(bytes), folder.display());
        eprintln!(
            "{bytes} of a pull that has not ended are in {folder}: pull again to go on, or remove that folder"
        );
    }
}

/// The CID of a model that others can have from here.
fn cid_of(model: &Model) -> Option<String> {
    let Weights::File(weights) = &model.weights else { return None };
    cid(&weights.with_file_name(installed::MANIFEST_FILE)).map(|cid| cid.to_string())
}

fn all(manifests: &[PathBuf]) -> Result<Vec<Model>> {
    let named = manifests.iter().map(|path| read(path));
    [queenbee(), matmul()].into_iter().map(Ok).chain(named).collect()
}

fn read(path: &Path) -> Result<Model> {
    Model::from_manifest_file(path).map_err(|error| {
        UserError::input(format!("{} is no model: {error}", path.display()))
            .hint("name the manifest.json of a model, its file of weights beside it")
            .into()
    })
}

fn find(manifests: &[PathBuf], wanted: &str) -> Result<Model> {
    let mut all = all(manifests)?;
    if let Some(place) = all.iter().position(|model| model.manifest.name == wanted) {
        return Ok(all.swap_remove(place));
    }
    let path = Path::new(wanted);
    if path.is_file() {
        return read(path);
    }
    let names: Vec<_> = all.iter().map(|model| model.manifest.name.as_str()).collect();
    Err(UserError::input(format!("there is no model '{wanted}'"))
        .hint(format!("there is {}; pull another, or name its manifest.json", names.join(", ")))
        .into())
}

fn list(manifests: &[PathBuf], json: bool) -> Result<Exit> {
    let (registry, hardware) = (Registry::standard(), Hardware::probe());
    let all = all(manifests)?;
    let runs_on = |manifest: &Manifest| match registry.find(&hardware, manifest) {
        Ok(provider) => Ok(provider.name()),
        Err(none) => Err(none.reasons.join("; ")),
    };
    if json {
        let entry = |model: &Model| {
            let provider = runs_on(&model.manifest);
            let reason = provider.as_ref().err();
            json!({ "manifest": model.manifest, "provider": provider.as_ref().ok(), "reason": reason, "cid": cid_of(model) })
        };
        print(&format!("{}\n", json!({ "models": all.iter().map(entry).collect::<Vec<_>>() })));
        return Ok(Exit::Done);
    }
    let row = |model: &Model| {
        let manifest = &model.manifest;
        let provider = runs_on(manifest).map_or_else(|why| format!("nothing here: {why}"), str::to_owned);
        vec![
            clean(&manifest.name),
            size(manifest.weight_bytes()),
            manifest.context_length.to_string(),
            clean(&manifest.licence),
            clean(&provider),
            cid_of(model).unwrap_or_default(),
        ]
    };
    print(&table(&LIST, &all.iter().map(row).collect::<Vec<_>>()));
    Ok(Exit::Done)
}

fn inspect(model: &Model) -> Result<Exit> {
    if let Ok(Some(slow)) = slow_format(model) {
        eprintln!("warning: {slow}");
    }
    warn_if_wide(&model.manifest.name, &tolerance(&model.manifest));
    print(&format!("{}\n", serde_json::to_string_pretty(&model.manifest)?));
    Ok(Exit::Done)
}

fn warn_if_wide(name: &str, tolerance: &Tolerance) {
    if let Some(wide) = too_wide(tolerance) {
        eprintln!("warning: {} {wide}", clean(name));
    }
}

/// Whether its tolerance suits a pool that audits, which is a rule of the pool and no measurement.
fn suits_audits(tolerance: &Tolerance) -> Item {
    let Tolerance { mean, worst, .. } = tolerance;
    let passed = too_wide(tolerance).is_none();
    let found = format!("mean {mean}, worst {worst}, {WIDEST_TOLERANCE} allowed where proofs are audited");
    Item { check: "tolerance", passed, found }
}

fn check(model: &Model, text: Option<&Path>, out: Option<&Path>, json: bool) -> Result<Exit> {
    let text = text.map_or_else(|| Ok(TEXT.to_owned()), read_text)?;
    tracing::info!("running {}; a large model takes minutes", model.manifest.name);
    let mut found = validate(&Registry::standard(), model, &text).map_err(|error| {
        UserError::input(format!("{} cannot be offered: {error}", model.manifest.name))
            .hint("swarm-node doctor says what this machine has; docs/model-enablement.md what a model needs")
    })?;
    found.checks.push(suits_audits(&tolerance(&model.manifest)));
    found.passed = found.checks.iter().all(|check| check.passed);
    let artifact = serde_json::to_string_pretty(&found)?;
    if let Some(out) = out {
        write_atomic(out, format!("{artifact}\n").as_bytes())?;
    }
    print(&if json { format!("{artifact}\n") } else { page(&found) });
    Ok(if found.passed { Exit::Done } else { Exit::Failed })
}

fn spread(model: &Model, text: Option<&Path>, jobs: u32, out: Option<&Path>, json: bool) -> Result<Exit> {
    let text = text.map_or_else(|| Ok(TEXT.to_owned()), read_text)?;
    let found = calibrate(model, &text, jobs, &mut |stage| tracing::info!("{stage}")).map_err(|error| {
        UserError::input(format!("{} cannot be calibrated: {error}", model.manifest.name))
            .hint("swarm-node models validate says whether it can be run; --text names a longer text")
    })?;
    let artifact = serde_json::to_string_pretty(&found)?;
    if let Some(out) = out {
        write_atomic(out, format!("{artifact}\n").as_bytes())?;
    }
    warn_if_wide(&model.manifest.name, &found.tolerance);
    print(&if json { format!("{artifact}\n") } else { calibration(&found) });
    Ok(Exit::Done)
}

fn calibration(found: &Calibration) -> String {
    let row = |pair: &Pair| {
        vec![
            pair.run.to_owned(),
            pair.checked.to_owned(),
            pair.median.to_string(),
            pair.largest.to_string(),
            pair.worst.to_string(),
            pair.strangers.to_string(),
            format!("{} of {}", pair.strays, pair.tokens),
        ]
    };
    let text = table(&PAIRS, &found.pairs.iter().map(row).collect::<Vec<_>>());
    let tolerance = json!({ "tolerance": found.tolerance });
    format!(
        "{text}  costs in 1/4096 bit; {} false alarms in {} jobs that did not make the tolerance, below {:.2} % for sure\n  \
         a check takes {:.0} % of the time of the run\n  {tolerance}\n",
        found.false_alarms,
        found.tried,
        100.0 * found.false_alarms_below,
        100.0 * found.audit_share,
    )
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_TEXT_BYTES).read_to_string(&mut text));
    read.map_err(|error| {
        UserError::misuse(format!("{} is no text: {error}", path.display()))
            .hint("--text names a file of plain UTF-8, of at least a few sentences")
    })?;
    Ok(text)
}

fn page(found: &Validation) -> String {
    let row = |item: &Item| {
        vec![item.check.to_owned(), if item.passed { "OK" } else { "FAIL" }.to_owned(), clean(&item.found)]
    };
    let rows: Vec<_> = found.checks.iter().map(row).collect();
    let verdict = if found.passed { "can be offered" } else { "is not to be offered" };
    let text = table(&CHECKS, &rows);
    format!(
        "{text}  {} {verdict}; {:.0} tokens a second on {}\n",
        clean(&found.model),
        found.tokens_per_s,
        found.provider
    )
}

fn print(text: &str) {
    // A closed pipe is no reason to complain.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
