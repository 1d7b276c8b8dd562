//! Fetching a model and installing it: from a path, a hub, or other nodes. Whatever the source, every byte goes through the
//! digests while it comes, what has come survives the process, and the model is installed whole or not at all.

mod choice;
mod from_path;
mod hub;
mod pace;
mod part;
mod source;
mod swarm;

use super::installed::{Installed, MANIFEST_FILE, PULL_PREFIX, check_names, cid, is_name};
use super::published::{FileBlocks, Index};
use crate::cli::{Exit, NodeArgs, PullArgs, UserError};
use crate::network::Network;
use crate::storage::disk::{DiskError, MIN_FREE_BYTES, available_bytes, write_atomic};
use crate::words::clean;
use anyhow::Result;
use from_path::FromPath;
use hub::Hub;
use indicatif::BinaryBytes;
use pace::Pace;
pub use part::{Check, Part};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use source::Source;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use swarm::Swarm;
use swarm_inference::{
    Found, MAX_MODEL_BYTES, MAX_MODEL_FILE_BYTES, Manifest, Model, ModelFile, slow_format,
};
use tokio_util::sync::CancellationToken;

const PRIVATE_FOLDER: u32 = 0o700;
/// In the folder of a pull: where the model is put together.
const WHOLE: &str = "whole";

/// A file that is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub size: u64,
    pub check: Check,
    /// Whether its source reads again by blocks what came before.
    pub by_blocks: bool,
}

impl Wanted {
    /// Names what has come of it: another content has another name.
    fn key(&self) -> String {
        let text = format!("{} {} {:?}", self.name, self.size, self.check);
        blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
    }
}

/// What a source has.
#[derive(Debug)]
pub struct Plan {
    /// The manifest, and the bytes of it, where the source has one.
    manifest: Option<(Manifest, Vec<u8>)>,
    /// The weights first.
    files: Vec<Wanted>,
    /// How many of them hold weights.
    weights: usize,
    licence: Option<String>,
    /// What the model may be called, if its file has no name of its own.
    called: Option<String>,
}

/// Where the files of a model come from.
trait Origin: Send {
    /// Finds out what there is.
    fn plan(&mut self, stop: &CancellationToken) -> Result<Plan>;

    /// Brings what is missing of one file.
    fn fetch(&mut self, wanted: &Wanted, part: &mut Part, pace: &mut Pace) -> Result<()>;
}

/// A pull that is to be done.
struct Pull {
    installed: Installed,
    source: Source,
    name: Option<String>,
    json: bool,
    stop: CancellationToken,
}

/// Pulls a model.
pub async fn run(args: &NodeArgs, pull: &PullArgs, stop: CancellationToken) -> Result<Exit> {
    let source = Source::parse(&pull.source)?;
    let name = args.files.name.clone();
    if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
        return Err(UserError::misuse(format!("a model cannot be called '{}'", clean(name)))
            .hint("use letters, digits, and . _ - + behind the first")
            .into());
    }
    let patience = Duration::from_millis(pull.patience.0);
    let mut network: Option<Network> = None;
    let origin: Box<dyn Origin> = match &source {
        Source::Path(path) => Box::new(FromPath::new(path.clone())),
        Source::Hub(repository) => {
            let hub = Hub::new(repository.clone(), patience)?;
            let (agent, stop) = (hub.agent(), stop.clone());
            tokio::spawn(async move {
                stop.cancelled().await;
                agent.shutdown();
            });
            Box::new(hub)
        }
        Source::Swarm(cid) => {
            let swarm = Swarm::join(args, *cid, patience).await?;
            network = Some(swarm.network());
            Box::new(swarm)
        }
    };
    let work = Pull { installed: Installed::of(&args.files)?, source, name, json: pull.json, stop };
    let done = tokio::task::spawn_blocking(move || work.run(origin)).await?;
    if let Some(network) = network {
        network.shutdown().await;
    }
    done
}

impl Pull {
    fn run(&self, mut origin: Box<dyn Origin>) -> Result<Exit> {
        let mut plan = origin.plan(&self.stop).map_err(|error| self.unless_stopped(error))?;
        let name = self.call(&mut plan)?;
        check_sizes(&plan)?;
        if let Some(folder) = self.installed.folder(&name) {
            return self.there_already(&name, &folder, &plan);
        }
        self.installed.create()?;
        let staging = Staging::open(&self.installed, &self.source)?;
        let total: u64 = plan.files.iter().map(|wanted| wanted.size).sum();
        staging.check_space(&plan, total)?;
        let mut pace = Pace::new(total, self.stop.clone());
        pace.note(&format!("pulling {name}, {}, from {}", BinaryBytes(total), self.source));
        let whole = staging.whole()?;
        let (mut files, mut blocks) = (Vec::new(), Vec::new());
        for wanted in &plan.files {
            let (file, indexed) = fetch(origin.as_mut(), &staging, wanted, &whole, &mut pace)
                .map_err(|error| self.unless_stopped(error))?;
            files.push(file);
            blocks.push(indexed);
        }
        pace.finish();
        if let Err(error) = finish(&whole, &name, plan, files, blocks) {
            // What cannot be run is no use to anybody; a disk that is full may be mended.
            if error.is::<UserError>() {
                staging.remove();
            }
            return Err(error);
        }
        pace.go_on()?;
        let folder = self.installed.take(&whole, &name)?;
        staging.remove();
        self.tell(&name, &folder, total)
    }

    /// Whatever fails once the user has said stop fails because of that.
    fn unless_stopped(&self, error: anyhow::Error) -> anyhow::Error {
        if self.stop.is_cancelled() { pace::interrupted().into() } else { error }
    }

    /// What the model is called: as the user says, as its manifest says, or after its file.
    fn call(&self, plan: &mut Plan) -> Result<String> {
        if let Some((manifest, json)) = &mut plan.manifest {
            if let Some(name) = self.name.as_ref().filter(|name| **name != manifest.name) {
                manifest.name.clone_from(name);
                *json = pretty(manifest)?;
            }
            check_names(manifest)?;
            return Ok(manifest.name.clone());
        }
        let weights =
            plan.files.first().and_then(|weights| weights.name.strip_suffix(".gguf")).map(str::to_owned);
        let name = self.name.clone().or(weights).or_else(|| plan.called.clone()).unwrap_or_default();
        let file = plan.files.first().map_or_else(String::new, |weights| weights.name.clone());
        check_names(&Manifest { name: name.clone(), file, ..swarm_inference::queenbee().manifest })?;
        Ok(name)
    }

    fn there_already(&self, name: &str, folder: &Path, plan: &Plan) -> Result<Exit> {
        let there = Model::from_manifest_file(&folder.join(MANIFEST_FILE))?.manifest;
        let is_same = plan.manifest.as_ref().is_some_and(|(manifest, _)| *manifest == there);
        if !is_same {
            return Err(UserError::input(format!("a model {name} is installed already"))
                .hint(format!("swarm-node models remove {name}, or give this one another --name"))
                .into());
        }
        eprintln!("{name} is installed already, the same");
        self.tell(name, folder, there.all_files().map(|(_, size, _)| size).sum())
    }

    fn tell(&self, name: &str, folder: &Path, bytes: u64) -> Result<Exit> {
        let cid = cid(&folder.join(MANIFEST_FILE)).map(|cid| cid.to_string()).unwrap_or_default();
        let text = match self.json {
            true => format!("{}\n", json!({ "model": name, "folder": folder, "bytes": bytes, "cid": cid })),
            false => format!(
                "{name} is installed: {} in {}\n  CID   {cid}\n  next  swarm-node models validate {name}\n",
                BinaryBytes(bytes),
                folder.display()
            ),
        };
        let model = Model::from_manifest_file(&folder.join(MANIFEST_FILE))?;
        if let Ok(Some(slow)) = slow_format(&model) {
            eprintln!("warning: {slow}");
        }
        super::print(&text);
        Ok(Exit::Done)
    }
}

/// Sizes come from strangers.
fn check_sizes(plan: &Plan) -> Result<(), UserError> {
    for (number, wanted) in plan.files.iter().enumerate() {
        let max = if number < plan.weights { MAX_MODEL_BYTES } else { MAX_MODEL_FILE_BYTES };
        if !(1..=max).contains(&wanted.size) {
            return Err(UserError::input(format!(
                "{} has {} bytes, a file of its kind has 1 to {max}",
                clean(&wanted.name),
                wanted.size
            ))
            .hint("choose another model"));
        }
    }
    let weights: u64 = plan.files.iter().take(plan.weights).map(|wanted| wanted.size).sum();
    match weights > MAX_MODEL_BYTES {
        true => Err(UserError::input(format!(
            "its weights have {weights} bytes, a model has {MAX_MODEL_BYTES} at most"
        ))
        .hint("choose another model")),
        false => Ok(()),
    }
}

fn fetch(
    origin: &mut dyn Origin,
    staging: &Staging,
    wanted: &Wanted,
    whole: &Path,
    pace: &mut Pace,
) -> Result<(ModelFile, FileBlocks)> {
    let mut part = Part::open(&staging.folder, wanted, |read| pace.found(read))?;
    if !part.is_full() {
        origin.fetch(wanted, &mut part, pace)?;
    }
    if !part.is_full() {
        return Err(UserError::input(format!("{} became shorter while it was read", wanted.name))
            .hint("pull it again")
            .into());
    }
    let (path, file, blocks) = part.finish()?;
    let target = whole.join(&file.file);
    // What is there twice can still be gone on with after a crash.
    std::fs::hard_link(&path, &target)
        .or_else(|_| std::fs::rename(&path, &target))
        .map_err(|cause| DiskError::io("create", &target, cause))?;
    Ok((file, blocks))
}

/// Writes manifest and index beside the files, which then are a model.
fn finish(
    whole: &Path,
    name: &str,
    plan: Plan,
    mut files: Vec<ModelFile>,
    blocks: Vec<FileBlocks>,
) -> Result<()> {
    let json = match plan.manifest {
        Some((_, json)) => json,
        None => {
            let beside = files.split_off(plan.weights);
            let (weights, shards) = (files.remove(0), files);
            let found = Found { name, folder: whole, weights, shards, files: beside, licence: plan.licence };
            let made = Manifest::describe(found).map_err(|error| {
                UserError::input(format!("{name} cannot be run here: {error}; nothing was installed"))
                    .hint("docs/model-enablement.md says what a model needs")
            })?;
            pretty(&made)?
        }
    };
    write_atomic(&whole.join(MANIFEST_FILE), &json)?;
    Index::of(blocks).write(whole)?;
    Ok(())
}

fn pretty(manifest: &Manifest) -> Result<Vec<u8>> {
    Ok(format!("{}\n", serde_json::to_string_pretty(manifest)?).into_bytes())
}

/// The folder of a pull, which one process at a time has.
struct Staging {
    folder: PathBuf,
    _lock: File,
}

impl Staging {
    fn open(installed: &Installed, source: &Source) -> Result<Self> {
        let key = blake3::hash(format!("{source:?}").as_bytes()).to_hex();
        let folder = installed.root().join(format!("{PULL_PREFIX}{}", &key[..16]));
        let failed = |cause| DiskError::io("create", &folder, cause);
        DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(&folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            UserError::input(format!("{source} is being pulled by another process"))
                .hint("wait for it, or end it; what it has fetched stays")
        })?;
        Ok(Self { folder, _lock: lock })
    }

    /// Refuses before anything is fetched what cannot be kept.
    fn check_space(&self, plan: &Plan, total: u64) -> Result<()> {
        let there = |wanted: &Wanted| {
            let part = self.folder.join(format!("{}.part", wanted.key()));
            part.metadata().map_or(0, |part| part.len().min(wanted.size))
        };
        let needed = total - plan.files.iter().map(there).sum::<u64>() + MIN_FREE_BYTES;
        let free =
            available_bytes(&self.folder).map_err(|cause| DiskError::io("measure", &self.folder, cause))?;
        if needed <= free {
            return Ok(());
        }
        let root = self.folder.parent().unwrap_or(&self.folder);
        Err(UserError::input(format!(
            "{} needs {} on the disk, {} are free in {}; nothing was fetched",
            self.source_name(plan),
            BinaryBytes(needed),
            BinaryBytes(free),
            root.display()
        ))
        .hint("free some, or choose a folder on another disk with --home")
        .into())
    }

    fn source_name(&self, plan: &Plan) -> String {
        plan.files.first().map_or_else(String::new, |weights| clean(&weights.name))
    }

    /// An empty folder in which the model is put together.
    fn whole(&self) -> Result<PathBuf, DiskError> {
        let whole = self.folder.join(WHOLE);
        // Of a pull that was broken off; there may be none.
        let _ = std::fs::remove_dir_all(&whole);
        let made = DirBuilder::new().mode(PRIVATE_FOLDER).create(&whole);
        made.map_err(|cause| DiskError::io("create", &whole, cause))?;
        Ok(whole)
    }

    /// Nothing of it is needed any more.
    fn remove(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!("{} is left behind: {error}", self.folder.display());
        }
    }
}

impl Drop for Staging {
    /// What came stays for the next time; if nothing did, there is nothing to go on with.
    fn drop(&mut self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let came = entries.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "part"));
        if came.flat_map(|part| part.metadata()).all(|part| part.len() == 0) {
            // It is gone after a pull that went well.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}
