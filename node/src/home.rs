//! From arguments to files and addresses.

use crate::cli::{FileArgs, NetworkArgs, PoolArgs, UserError};
use crate::network::addresses::runtime_directory;
use crate::network::{AddressFile, NetworkConfig};
use crate::session::JoinTerms;
use crate::storage::home::{DataDir, HomeError, read_secret, root};
use crate::storage::pins::KNOWN_OPERATORS_FILE;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use swarm_crypto::key::SecretKey;

/// The folder of everything.
pub fn home_root(files: &FileArgs) -> Result<PathBuf, HomeError> {
    files.home.clone().map_or_else(root, Ok)
}

/// A node's own folder, locked.
pub fn data_dir(files: &FileArgs, pool: &str, role: &str, name: Option<&str>) -> Result<DataDir> {
    Ok(DataDir::open(&home_root(files)?, pool, role, name)?)
}

/// The wallet: the file that was named, or the folder's own.
pub fn wallet(files: &FileArgs, directory: &DataDir) -> Result<SecretKey> {
    let missing = |path: &Path| {
        UserError::misuse(format!("there is no key file {}", path.display()))
            .hint("correct --key, or leave it out to get a key of this node's own")
    };
    let secret = match &files.key {
        Some(path) => read_secret(path)?.ok_or_else(|| missing(path))?,
        None => directory.key()?,
    };
    let path = files.key.clone().unwrap_or_else(|| directory.file("key"));
    Ok(SecretKey::from_bytes(secret.expose()).map_err(|_| {
        UserError::misuse(format!("{} holds no key of secp256k1", path.display()))
            .hint("restore it from a copy: no wallet has this key")
    })?)
}

/// How a node's network is set up.
pub fn network_config(
    network: &NetworkArgs,
    directory: &DataDir,
    pool: &str,
    role: &str,
    agent: &str,
) -> Result<NetworkConfig> {
    let config = NetworkConfig::new(*directory.peer_key()?.expose(), pool);
    let agent = format!("swarm-node/{} ({agent})", env!("CARGO_PKG_VERSION"));
    Ok(configured(config, network, role, agent))
}

/// The network of somebody who comes, asks and goes: its identity is for this once.
pub fn visitor_config(network: &NetworkArgs, pool: &str, agent: String) -> Result<NetworkConfig> {
    let mut identity = [0; 32];
    getrandom::fill(&mut identity).context("the system gives no random bytes")?;
    Ok(configured(NetworkConfig::new(identity, pool), network, "client", agent))
}

fn configured(config: NetworkConfig, network: &NetworkArgs, role: &str, agent: String) -> NetworkConfig {
    let listen = if network.listen.is_empty() { config.listen.clone() } else { network.listen.clone() };
    NetworkConfig {
        listen,
        bootstrap: network.bootstrap.clone(),
        announce: network.announce.clone(),
        mdns: !network.no_mdns,
        address_file: Some(AddressFile { directory: runtime_directory(), role: role.to_owned() }),
        agent,
        ..config
    }
}

/// Which operator is joined, remembered for all programs of this home.
pub fn join_terms(files: &FileArgs, pool: &PoolArgs) -> Result<JoinTerms> {
    Ok(JoinTerms {
        pool: pool.pool.clone(),
        operator: pool.operator,
        accept: pool.accept_operator,
        known_operators: Some(home_root(files)?.join(KNOWN_OPERATORS_FILE)),
    })
}
