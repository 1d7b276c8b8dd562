//! Models that were pulled: below the home a folder for each, whole or absent.

use super::published::{INDEX_FILE, Published};
use crate::cli::{FileArgs, UserError};
use crate::home::home_root;
use crate::storage::disk::{DiskError, sync_parent};
use anyhow::{Context, Result};
use cid::Cid;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use swarm_inference::Manifest;

/// The most models that are listed.
pub const MAX_INSTALLED: usize = 1024;
/// The longest name of a model or of a file of one, in bytes.
const MAX_NAME_BYTES: usize = 128;
/// In a model's folder, beside its files.
pub const MANIFEST_FILE: &str = "manifest.json";
/// What the folders of pulls begin with that are under way or were broken off.
pub const PULL_PREFIX: &str = ".pull-";
const REMOVED_PREFIX: &str = ".removed-";
const FOLDER: &str = "models";
const PRIVATE_FOLDER: u32 = 0o700;
/// What every build has.
const BUILT_IN: [&str; 2] = ["queenbee-nano", "matmul"];

/// The folder of all of them.
#[derive(Debug, Clone)]
pub struct Installed {
    root: PathBuf,
}

impl Installed {
    /// That of this home; it may not be there yet.
    pub fn of(files: &FileArgs) -> Result<Self> {
        Ok(Self { root: home_root(files)?.join(FOLDER) })
    }

    /// Where they are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder.
    pub fn create(&self) -> Result<(), DiskError> {
        let made = DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(&self.root);
        made.map_err(|cause| DiskError::io("create", &self.root, cause))
    }

    /// The folder of a model that is installed.
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        let folder = self.root.join(name);
        (is_name(name) && folder.join(MANIFEST_FILE).is_file()).then_some(folder)
    }

    /// The manifests of all, by name.
    pub fn manifests(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| self.folder(name).is_some()).collect();
        names.sort_unstable();
        names.truncate(MAX_INSTALLED);
        names.iter().map(|name| self.root.join(name).join(MANIFEST_FILE)).collect()
    }

    /// Puts the manifests of installed models where `--model` has their names.
    pub fn resolve(&self, given: &mut [PathBuf]) {
        for path in given {
            let folder = path.to_str().filter(|_| !path.exists()).and_then(|name| self.folder(name));
            if let Some(folder) = folder {
                *path = folder.join(MANIFEST_FILE);
            }
        }
    }

    /// Puts a folder that is whole among them, under the name of its model.
    pub fn take(&self, whole: &Path, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        std::fs::rename(whole, &folder).map_err(|cause| DiskError::io("create", &folder, cause))?;
        sync_parent(&folder)?;
        Ok(folder)
    }

    /// Removes one and says how many bytes that frees; refused while a node has it open.
    pub fn remove(&self, name: &str) -> Result<u64> {
        let Some(folder) = self.folder(name) else { return Err(self.absent(name).into()) };
        let manifest = File::open(folder.join(MANIFEST_FILE)).context("opening the manifest")?;
        match flock(&manifest, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(served(name, &manifest).into()),
            Err(errno) => return Err(DiskError::io("lock", &folder, errno.into()).into()),
        }
        let bytes = bytes_in(&folder);
        // First out of the list, so that half of it is never there.
        let leaving = self.root.join(format!("{REMOVED_PREFIX}{}-{name}", std::process::id()));
        std::fs::rename(&folder, &leaving).map_err(|cause| DiskError::io("remove", &folder, cause))?;
        for leaving in self.folders(REMOVED_PREFIX) {
            std::fs::remove_dir_all(&leaving).map_err(|cause| DiskError::io("remove", &leaving, cause))?;
        }
        Ok(bytes)
    }

    /// The folders of pulls that have not ended, and the bytes in them.
    pub fn unfinished(&self) -> Vec<(PathBuf, u64)> {
        let folders = self.folders(PULL_PREFIX).into_iter();
        folders
            .map(|folder| {
                let bytes = bytes_in(&folder);
                (folder, bytes)
            })
            .collect()
    }

    fn folders(&self, prefix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let fitting =
            entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()));
        fitting.map(|entry| entry.path()).collect()
    }

    fn absent(&self, name: &str) -> UserError {
        let names: Vec<String> = self.manifests().iter().filter_map(|path| name_of(path)).collect();
        let hint = match names.is_empty() {
            true => "nothing is installed; --model names files that are yours to remove".to_owned(),
            false => format!("there is {}", names.join(", ")),
        };
        UserError::input(format!("no model '{name}' is installed")).hint(hint)
    }
}

/// The CID under which nodes that run the model give it to others, if it was pulled.
pub fn cid(manifest: &Path) -> Option<Cid> {
    let folder = manifest.parent()?;
    folder
        .join(INDEX_FILE)
        .is_file()
        .then(|| Published::open(folder).ok().map(|model| model.root()))
        .flatten()
}

/// Keeps the model from being removed until what is returned is dropped; nothing if it is on its way out.
pub fn hold(manifest: &Path) -> std::io::Result<File> {
    let file = File::open(manifest)?;
    flock(&file, FlockOperation::NonBlockingLockShared)?;
    Ok(file)
}

/// Whether a model, or a file of one, can have this name in a folder.
pub fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.starts_with(['.', '-']) && name.chars().all(is_plain)
}

/// Refuses a manifest whose names cannot stand in a folder, or stand for something else.
pub fn check_names(manifest: &Manifest) -> Result<(), UserError> {
    let name = &manifest.name;
    if !is_name(name) {
        return Err(UserError::misuse(format!(
            "a model cannot be installed as '{}'",
            crate::words::clean(name)
        ))
        .hint("give it another name with --name: letters, digits, and . _ - + behind the first"));
    }
    if BUILT_IN.contains(&name.as_str()) {
        return Err(UserError::misuse(format!("{name} is built in")).hint("give it another name with --name"));
    }
    let mut files = manifest.all_files().map(|(file, ..)| file);
    match files.find(|file| !is_name(file) || [MANIFEST_FILE, INDEX_FILE].contains(file)) {
        Some(file) => Err(UserError::input(format!(
            "the manifest of {name} names a file '{}', which cannot be installed",
            crate::words::clean(file)
        ))
        .hint("whoever made it has to call that file otherwise")),
        None => Ok(()),
    }
}

fn name_of(manifest: &Path) -> Option<String> {
    Some(manifest.parent()?.file_name()?.to_str()?.to_owned())
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

fn served(name: &str, manifest: &File) -> UserError {
    let by = match holder(manifest) {
        Some(process) => format!("process {process}"),
        None => "a node".to_owned(),
    };
    UserError::input(format!("{name} is in use by {by}, which runs it or checks answers with it"))
        .hint("end that node first: Ctrl-C in its terminal, kill, or systemctl stop swarmpool-miner; swarm-node status lists it")
}

/// Which process has the lock, where the system says so.
fn holder(file: &File) -> Option<u32> {
    let inode = file.metadata().ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let line = locks.lines().find(|line| {
        line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&format!(":{inode}")))
    })?;
    line.split_whitespace().find_map(|word| word.parse::<u32>().ok().filter(|id| *id > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        for good in ["queenbee-nano", "qwen2.5-0.5b-instruct-q8_0", "Llama-3.2-1B+x", "a"] {
            assert!(is_name(good), "{good}");
        }
        let long = "x".repeat(129);
        for bad in
            ["", ".", "..", "../x", "a/b", "/etc", ".pull", "-x", "a b", "a\0", "ü", "a\\b", long.as_str()]
        {
            assert!(!is_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_a_node_holds_is_not_removed_and_what_nobody_holds_is_gone_whole() {
        let home = tempfile::tempdir().unwrap();
        let installed = Installed { root: home.path().join(FOLDER) };
        installed.create().unwrap();
        let whole = home.path().join("whole");
        std::fs::create_dir(&whole).unwrap();
        std::fs::write(whole.join(MANIFEST_FILE), [b' '; 10]).unwrap();
        std::fs::write(whole.join("weights"), [0; 90]).unwrap();
        let folder = installed.take(&whole, "bee").unwrap();
        assert_eq!(installed.manifests(), [folder.join(MANIFEST_FILE)]);
        let mut given = ["bee".into(), "wasp".into(), "../models/bee".into()];
        installed.resolve(&mut given);
        assert_eq!(given, [folder.join(MANIFEST_FILE), "wasp".into(), "../models/bee".into()]);

        let held = hold(&folder.join(MANIFEST_FILE)).unwrap();
        let told = installed.remove("bee").unwrap_err().to_string();
        assert!(told.contains(&format!("in use by process {}", std::process::id())), "{told}");
        assert!(folder.join("weights").exists());
        drop(held);
        assert_eq!(installed.remove("bee").unwrap(), 100);
        assert_eq!(std::fs::read_dir(installed.root()).unwrap().count(), 0);
        let told = installed.remove("bee").unwrap_err().to_string();
        assert_eq!(told, "no model 'bee' is installed");
    }
}
