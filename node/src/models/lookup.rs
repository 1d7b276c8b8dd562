//! Models as somebody asks for them who checks answers: built in, or pulled into the home, each loaded when it is first named.

use super::installed::{Installed, MANIFEST_FILE};
use crate::cli::FileArgs;
use crate::words::clean;
use crate::workload::{KnownModel, Models};
use anyhow::{Result, anyhow, bail};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex;

/// What came of loading a model: its files are read through their digests, once.
type Loaded = Result<Arc<KnownModel>, String>;

/// The models that are here, by name.
#[derive(Debug)]
pub struct Lookup {
    installed: Installed,
    /// Only of names that are installed or built in.
    loaded: Mutex<BTreeMap<String, Loaded>>,
}

impl Lookup {
    /// The built-in ones, and those in this home.
    pub fn of(files: &FileArgs) -> Result<Self> {
        let built_in = Models::load(&[])?;
        let known = |name: &String| Some((name.clone(), Ok(Arc::new(built_in.get(name)?.clone()))));
        let loaded = built_in.names().filter_map(known).collect();
        Ok(Self { installed: Installed::of(files)?, loaded: Mutex::new(loaded) })
    }

    /// The model of this name; an error in one line if it is not here.
    pub async fn get(&self, name: &str) -> Result<Arc<KnownModel>> {
        let mut loaded = self.loaded.lock().await;
        if let Some(known) = loaded.get(name) {
            return known.clone().map_err(|why| anyhow!(why));
        }
        let Some(folder) = self.installed.folder(name) else {
            let name = clean(name);
            bail!(
                "the model {name} is not here: install it with swarm-node models pull (--name {name}), then run this again"
            )
        };
        let (manifest, wanted) = (folder.join(MANIFEST_FILE), name.to_owned());
        let load = move || -> Result<KnownModel> {
            let models = Models::load(std::slice::from_ref(&manifest))?;
            let other = || anyhow!("{} describes another model than {wanted}", manifest.display());
            models.get(&wanted).cloned().ok_or_else(other)
        };
        let found = tokio::task::spawn_blocking(load).await?.map(Arc::new).map_err(|error| error.to_string());
        loaded.insert(name.to_owned(), found.clone());
        found.map_err(|why| anyhow!(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::path::Path;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        files: FileArgs,
    }

    #[tokio::test]
    async fn models_of_the_home_are_found_by_name_and_what_to_do_about_others_is_said() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("models/worker");
        std::fs::create_dir_all(&folder).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/queenbee-nano");
        let manifest = std::fs::read_to_string(source.join(MANIFEST_FILE)).unwrap();
        std::fs::write(folder.join(MANIFEST_FILE), manifest.replace("\"queenbee-nano\"", "\"worker\""))
            .unwrap();
        let weights = folder.join("queenbee-nano-q8_0.gguf");
        std::fs::copy(source.join("queenbee-nano-q8_0.gguf"), &weights).unwrap();
        let args = Args::parse_from(["test", "--home", home.path().to_str().unwrap()]);
        let models = Lookup::of(&args.files).unwrap();
        assert_eq!(
            models.get("worker").await.unwrap().piece(5),
            models.get("queenbee-nano").await.unwrap().piece(5)
        );
        let told = models.get("wasp").await.unwrap_err().to_string();
        let due = "the model wasp is not here: install it with swarm-node models pull (--name wasp), then run this again";
        assert_eq!(told, due);
        assert!(models.get("../models/worker").await.is_err());
        // Files that are not what the manifest says are read once.
        std::fs::write(&weights, b"no").unwrap();
        assert!(models.get("worker").await.is_ok(), "it is loaded");
        let models = Lookup::of(&args.files).unwrap();
        let told = models.get("worker").await.unwrap_err().to_string();
        std::fs::remove_file(&weights).unwrap();
        assert_eq!(models.get("worker").await.unwrap_err().to_string(), told);
    }
}
