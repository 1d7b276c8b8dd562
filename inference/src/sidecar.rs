//! The sidecar: which providers run and where, in one file beside the node, for whoever looks from outside.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Registry;

/// The largest sidecar that is read, in bytes.
pub const MAX_SIDECAR_BYTES: u64 = 64 * 1024;

/// A provider that runs.
///
/// With an `endpoint` its engines are clients of the server there, and whoever wants to know more asks the server;
/// without one they compute in processes of the node. The provider's name says neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningProvider {
    /// The provider's name.
    pub provider: String,
    /// Engines running.
    pub engines: u32,
    /// Memory of their weights, in bytes; 0 where a server has them.
    pub weight_bytes: u64,
    /// The names of the devices that they compute on, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// URL of the server that they use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// Why a sidecar cannot be read.
#[derive(Debug, Error)]
pub enum SidecarError {
    /// The file cannot be read.
    #[error("the sidecar cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The file is not one.
    #[error("the sidecar is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes which providers run, in place of what `path` said before; only its owner may read it.
///
/// Readers see the file as it was or as it is, never a part.
pub fn write_sidecar(path: &Path, registry: &Registry) -> io::Result<()> {
    let running: Vec<RunningProvider> = registry
        .providers()
        .filter(|provider| provider.is_running())
        .map(|p| {
            let stats = p.stats();
            RunningProvider {
                provider: p.name().to_owned(),
                engines: stats.engines,
                weight_bytes: stats.weight_bytes,
                devices: p
                    .devices()
                    .into_iter()
                    .map(|device| device.name)
                    .filter(|name| !name.is_empty())
                    .collect(),
                endpoint: p.endpoint(),
            }
        })
        .collect();
    let fresh = path.with_extension("new");
    // A file that a crash left may have other permissions.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(&running)?)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

/// The providers that run; none where there is no file.
pub fn read_sidecar(path: &Path) -> Result<Vec<RunningProvider>, SidecarError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let mut json = Vec::new();
    file.take(MAX_SIDECAR_BYTES).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
