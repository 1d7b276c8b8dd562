//! Who runs models here.

use crate::cli::{MinerArgs, UserError};
use crate::devices::{self, Device};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm_inference::{Candle, Isolated, OpenAi, Program, Registry, ServerAt, ServerConfig, write_sidecar};
use swarm_protocol::statement::MAX_SLOTS;
use tokio::sync::watch;

/// By model, the devices on which nothing runs it for the moment.
pub type Gone = BTreeMap<String, BTreeSet<usize>>;

/// The providers of a node, and what of them is gone.
#[derive(Debug, Clone)]
pub struct Providers {
    /// The providers.
    pub registry: Registry,
    /// Changes as engines end and are started again.
    pub gone: watch::Receiver<Gone>,
    /// What engines compute on, by the numbers that [`Gone`] has; at least one.
    pub devices: Vec<Device>,
}

impl Providers {
    /// Engines that are processes, as a miner has them.
    pub fn of(args: &MinerArgs) -> Result<Self> {
        let path = match &args.engine {
            Some(path) => path.clone(),
            None => beside_this_program()?,
        };
        check(&path)?;
        let max_memory_bytes = args.engine_memory.map(|mebibytes| u64::from(mebibytes) << 20);
        let program = Program { max_memory_bytes, ..Program::at(path) };
        let devices = devices::find(&program, args.accel_mode, &args.devices)?;
        let slots = args.slots as usize * devices.len();
        if slots > MAX_SLOTS as usize {
            let told =
                format!("{slots} jobs at once on {} devices are more than a miner may run", devices.len());
            return Err(UserError::misuse(told)
                .hint(format!("lower --slots: {MAX_SLOTS} are the most"))
                .into());
        }
        let (tell, gone) = watch::channel(Gone::new());
        let watcher = move |model: &str, device: usize, gone: Option<&str>| {
            tell.send_modify(|all| {
                let devices = all.entry(model.to_owned()).or_default();
                match gone {
                    Some(_) => devices.insert(device),
                    None => devices.remove(&device),
                };
            });
        };
        let programs = devices.iter().map(|device| on(&program, device, devices.len() > 1)).collect();
        let mut registry = Registry::empty();
        // First: it runs only what its owner has named.
        if let Some(server) = server(args) {
            registry.register(Arc::new(OpenAi::new(server)));
        }
        registry.register(Arc::new(Isolated::new(Arc::new(Candle::default()), programs, watcher)));
        Ok(Self { registry, gone, devices })
    }

    /// Writes down which of them run and where, until what is returned is dropped.
    pub fn list(&self, path: PathBuf) -> std::io::Result<Listed> {
        write_sidecar(&path, &self.registry)?;
        Ok(Listed(path))
    }

    /// Providers whose engines never go.
    pub fn lasting(registry: Registry) -> Self {
        Self { registry, gone: watch::channel(Gone::new()).1, devices: vec![Device::processor()] }
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

/// The program as it is started for a device, which it names if there are others.
fn on(program: &Program, device: &Device, among_others: bool) -> Program {
    let device_name = if among_others { device.name.clone() } else { String::new() };
    Program { device: device.choice, device_name, ..program.clone() }
}

fn check(path: &Path) -> Result<(), UserError> {
    if path.is_file() {
        return Ok(());
    }
    Err(UserError::misuse(format!("there is no program {} to run models with", path.display()))
        .hint("swarm-engine comes with swarm-node: keep both in one folder, or name it with --engine"))
}
