//! Who runs models here.

use crate::cli::{AccelMode, MinerArgs, UserError};
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
    /// What engines compute on, as the program that runs models says it: `cuda` or `cpu`.
    pub device: String,
}

/// What that program says where it computes on a GPU, and on a processor.
pub const GPU: &str = "cuda";
const PROCESSOR: &str = "cpu";

impl Providers {
    /// Engines that are processes, as a miner has them.
    pub fn of(args: &MinerArgs) -> Result<Self> {
        let path = match &args.engine {
            Some(path) => path.clone(),
            None => beside_this_program()?,
        };
        check(&path)?;
        let max_memory_bytes = args.engine_memory.map(|mebibytes| u64::from(mebibytes) << 20);
        let hides_gpus = args.accel_mode == AccelMode::Cpu;
        let program = Program { max_memory_bytes, hides_gpus, ..Program::at(path) };
        let device = device(&program, args.accel_mode)?;
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
        Ok(Self { registry, gone, device })
    }

    /// Writes down which of them run and where, until what is returned is dropped.
    pub fn list(&self, path: PathBuf) -> std::io::Result<Listed> {
        write_sidecar(&path, &self.registry)?;
        Ok(Listed(path))
    }

    /// Providers whose engines never go.
    pub fn lasting(registry: Registry) -> Self {
        Self { registry, gone: watch::channel(BTreeSet::new()).1, device: PROCESSOR.to_owned() }
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

/// What the program computes on, or a refusal if that is not what is wanted.
fn device(program: &Program, wanted: AccelMode) -> Result<String, UserError> {
    let found = program.device_name();
    match wanted {
        AccelMode::Gpu if found.as_deref() == Ok(GPU) => {}
        AccelMode::Gpu => {
            let why = match found {
                Ok(_) => "swarm-engine computes on the processor here".to_owned(),
                Err(why) => why,
            };
            return Err(UserError::misuse(format!("a GPU is wanted, and {why}")).hint(
                "name a build for your GPU with --engine (docs/nvidia-validation.md), or leave --accel-mode at auto",
            ));
        }
        AccelMode::Auto | AccelMode::Cpu => {}
    }
    // What is wrong with it shows when it is to load a model.
    Ok(found.unwrap_or_else(|_| PROCESSOR.to_owned()))
}

fn check(path: &Path) -> Result<(), UserError> {
    if path.is_file() {
        return Ok(());
    }
    Err(UserError::misuse(format!("there is no program {} to run models with", path.display()))
        .hint("swarm-engine comes with swarm-node: keep both in one folder, or name it with --engine"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_gpu_that_is_wanted_has_to_be_computed_on() {
        let folder = tempfile::tempdir().unwrap();
        let says = |name: &str, script: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            Program::at(path)
        };
        let [gpu, cpu] = [GPU, PROCESSOR].map(|name| says(name, &format!("echo {name}")));
        for wanted in [AccelMode::Auto, AccelMode::Gpu, AccelMode::Cpu] {
            assert_eq!(device(&gpu, wanted).as_deref(), Ok(GPU));
        }
        assert_eq!(device(&cpu, AccelMode::Auto).as_deref(), Ok(PROCESSOR));
        let refused = |program: &Program| device(program, AccelMode::Gpu).unwrap_err().message;
        assert_eq!(refused(&cpu), "a GPU is wanted, and swarm-engine computes on the processor here");
        let silent = says("silent", "exit 1");
        assert!(refused(&silent).ends_with("silent does not say what it computes on"));
        assert_eq!(device(&silent, AccelMode::Auto).as_deref(), Ok(PROCESSOR));
    }
}
