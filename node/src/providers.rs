//! Who runs models here.

use crate::cli::{MinerArgs, UserError};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm_inference::{Candle, Isolated, OpenAi, Program, Registry, ServerAt, ServerConfig, write_sidecar};
use tokio::sync::watch;

/// The providers of a node, and the names of models that nothing runs for the moment.
#[derive(Debug, Clone)]
pub struct Providers {
    /// The providers.
    pub registry: Registry,
    /// Changes as engines end and are started again.
    pub gone: watch::Receiver<BTreeSet<String>>,
}

impl Providers {
    /// Engines that are processes, as a miner has them.
    pub fn of(args: &MinerArgs) -> Result<Self> {
        let path = match &args.engine {
            Some(path) => path.clone(),
            None => beside_this_program()?,
        };
        check(&path)?;
        let memory = args.engine_memory.map(|mebibytes| u64::from(mebibytes) << 20);
        let program = Program { max_memory_bytes: memory, ..Program::at(path) };
        let (tell, gone) = watch::channel(BTreeSet::new());
        let watcher = move |model: &str, gone: Option<&str>| {
            tell.send_modify(|all| {
                match gone {
                    Some(_) => all.insert(model.to_owned()),
                    None => all.remove(model),
                };
            });
        };
        let mut registry = Registry::empty();
        // First: it runs only what its owner has named.
        if let Some(server) = server(args) {
            registry.register(Arc::new(OpenAi::new(server)));
        }
        registry.register(Arc::new(Isolated::new(Arc::new(Candle::default()), program, watcher)));
        Ok(Self { registry, gone })
    }

    /// Writes down which of them run and where, until what is returned is dropped.
    pub fn list(&self, path: PathBuf) -> std::io::Result<Listed> {
        write_sidecar(&path, &self.registry)?;
        Ok(Listed(path))
    }

    /// Providers whose engines never go.
    pub fn lasting(registry: Registry) -> Self {
        Self { registry, gone: watch::channel(BTreeSet::new()).1 }
    }
}

/// The file that says what runs; it goes with the node.
#[derive(Debug)]
pub struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        // Whoever removed it first has done the same.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn server(args: &MinerArgs) -> Option<ServerConfig> {
    let url = args.server.clone()?;
    let at = match &args.server_command {
        Some(command) => {
            ServerAt::Command { command: command.split_whitespace().map(str::to_owned).collect(), url }
        }
        None => ServerAt::Url(url),
    };
    let names = |text: &String| {
        let (model, name) = text.split_once('=').unwrap_or((text, text));
        (model.to_owned(), name.to_owned())
    };
    let models = args.server_models.iter().map(names).collect();
    Some(ServerConfig { models, ..ServerConfig::new(at, "") })
}

fn beside_this_program() -> Result<PathBuf> {
    let this = std::env::current_exe().context("where this program is")?;
    Ok(this.with_file_name("swarm-engine"))
}

fn check(path: &Path) -> Result<(), UserError> {
    if path.is_file() {
        return Ok(());
    }
    Err(UserError::misuse(format!("there is no program {} to run models with", path.display()))
        .hint("swarm-engine comes with swarm-node: keep both in one folder, or name it with --engine"))
}
