//! Models that are on this machine already.

use super::choice::{Chosen, MAX_SHARD_INDEX_BYTES, choose, cut};
use super::part::PIECE_BYTES;
use super::{Check, Origin, Pace, Part, Plan, Wanted};
use crate::cli::UserError;
use crate::models::installed::MANIFEST_FILE;
use crate::models::read;
use anyhow::Result;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use swarm_inference::{MAX_MANIFEST_BYTES, Manifest, SHARD_INDEX};
use tokio_util::sync::CancellationToken;

/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4096;

/// A model in a folder.
#[derive(Debug)]
pub struct FromPath {
    path: PathBuf,
    folder: PathBuf,
}

impl FromPath {
    pub fn new(path: PathBuf) -> Self {
        let folder = match path.is_dir() {
            true => path.clone(),
            false => path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(".".as_ref())
                .to_owned(),
        };
        Self { path, folder }
    }

    fn described(&self, manifest: &Path) -> Result<Plan> {
        let model = read(manifest)?;
        let mut json = Vec::new();
        File::open(manifest)?.take(MAX_MANIFEST_BYTES).read_to_end(&mut json)?;
        Ok(Plan::of(model.manifest, json, false))
    }

    fn chosen(&self) -> Result<Plan> {
        let place = self.path.display().to_string();
        let entries = std::fs::read_dir(&self.folder).map_err(|error| unreadable(&self.folder, &error))?;
        let names: Vec<String> = entries
            .take(MAX_ENTRIES)
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let asked = self.path.file_name().and_then(|name| name.to_str()).filter(|_| !self.path.is_dir());
        let choice = match choose(&place, &names, asked)? {
            Chosen::Whole(choice) => choice,
            Chosen::Cut(beside) => cut(&place, &names, beside, &self.index()?)?,
        };
        let wanted = |name: &String| {
            let path = self.folder.join(name);
            let size = std::fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.len();
            anyhow::Ok(Wanted { name: name.clone(), size, check: Check::Nothing, by_blocks: false })
        };
        let files = choice.weights.iter().chain(&choice.beside).map(wanted).collect::<Result<_>>()?;
        let folder_name =
            self.folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_str()?.to_owned()));
        let weights = choice.weights.len();
        Ok(Plan { manifest: None, files, weights, licence: None, called: folder_name })
    }

    fn index(&self) -> Result<Vec<u8>> {
        let (path, mut json) = (self.folder.join(SHARD_INDEX), Vec::new());
        let read = File::open(&path).and_then(|file| file.take(MAX_SHARD_INDEX_BYTES).read_to_end(&mut json));
        read.map_err(|error| unreadable(&path, &error))?;
        Ok(json)
    }
}

impl Origin for FromPath {
    fn plan(&mut self, _: &CancellationToken) -> Result<Plan> {
        let inside = self.folder.join(MANIFEST_FILE);
        match self.path.extension().is_some_and(|kind| kind == "json") {
            true => self.described(&self.path),
            false if self.path.is_dir() && inside.is_file() => self.described(&inside),
            false => self.chosen(),
        }
    }

    fn fetch(&mut self, wanted: &Wanted, part: &mut Part, pace: &mut Pace) -> Result<()> {
        let path = self.folder.join(&wanted.name);
        let failed = |error: std::io::Error| unreadable(&path, &error);
        let mut file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        if size != wanted.size {
            return Err(UserError::input(format!(
                "{} has {size} bytes, its manifest says {}; nothing was installed",
                path.display(),
                wanted.size
            ))
            .hint("fetch the file again")
            .into());
        }
        file.seek(SeekFrom::Start(part.length())).map_err(failed)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = file.read(&mut piece).map_err(failed)?;
            if read == 0 {
                return Ok(());
            }
            part.append(&piece[..read])?;
            pace.took(read as u64)?;
        }
    }
}

impl Plan {
    /// The files that a manifest names, each by its digest.
    pub fn of(manifest: Manifest, json: Vec<u8>, by_blocks: bool) -> Self {
        let wanted = |(name, size, blake3): (&str, u64, &str)| Wanted {
            name: name.to_owned(),
            size,
            check: Check::Blake3(blake3.to_owned()),
            by_blocks,
        };
        let (files, weights) = (manifest.all_files().map(wanted).collect(), manifest.weight_files().count());
        Self { manifest: Some((manifest, json)), files, weights, licence: None, called: None }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> UserError {
    UserError::input(format!("{} cannot be read: {error}", path.display()))
        .hint("correct the path, or its permissions")
}
