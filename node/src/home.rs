//! From arguments to files and addresses.

use crate::cli::{FileArgs, NetworkArgs, UserError};
use crate::network::addresses::runtime_directory;
use crate::network::{AddressFile, NetworkConfig};
use crate::storage::home::{DataDir, HomeError, read_secret, root};
use anyhow::Result;
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
    let mut config = NetworkConfig::new(*directory.peer_key()?.expose(), pool);
    if !network.listen.is_empty() {
        config.listen = network.listen.clone();
    }
    config.bootstrap = network.bootstrap.clone();
    config.announce = network.announce.clone();
    config.mdns = !network.no_mdns;
    config.address_file = Some(AddressFile { directory: runtime_directory(), role: role.to_owned() });
    config.agent = format!("swarm-node/{} ({agent})", env!("CARGO_PKG_VERSION"));
    Ok(config)
}
