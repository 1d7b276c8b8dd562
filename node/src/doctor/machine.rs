//! The machine: processor, memory, GPU, disk and keys.

use super::{Check, fail, failed, none, ok};
use crate::cli::{AccelMode, NodeArgs, NodeRole};
use crate::home::home_root;
use crate::providers::GPU;
use crate::storage::disk::{MIN_FREE_BYTES, available_bytes};
use crate::storage::home::read_secret;
use crate::words::size;
use anyhow::Result;
use rustix::fs::{Access, access};
use std::path::{Path, PathBuf};
use swarm_crypto::key::SecretKey;
use swarm_inference::Hardware;

/// What NVIDIA's kernel module says of itself.
const NVIDIA_VERSION: &str = "/proc/driver/nvidia/version";

/// `device` is what engines compute on, if there are any.
pub(super) fn checks(args: &NodeArgs, device: Option<&str>) -> Result<Vec<Check>> {
    let folder = home_root(&args.files)?.join(&args.pool.pool);
    let hardware = Hardware::probe();
    Ok(vec![
        ok("processor", format!("{} cores", hardware.cores)),
        memory(hardware.memory_bytes),
        gpu(std::fs::read_to_string(NVIDIA_VERSION).ok().as_deref(), device, args.miner.accel_mode),
        disk(&folder),
        key(&key_file(args, &folder), args.files.key.is_some()),
    ])
}

fn memory(free: u64) -> Check {
    if free == u64::MAX {
        none("memory", "the system does not say what is free")
    } else {
        ok("memory", format!("{} free", size(free)))
    }
}

/// The driver, if there is one, and whether engines use it.
fn gpu(version: Option<&str>, device: Option<&str>, wanted: AccelMode) -> Check {
    let driver = version.and_then(|text| text.lines().next());
    match (device, driver) {
        (Some(GPU), driver) => {
            ok("gpu", format!("{}; models run on it", driver.unwrap_or("a GPU of NVIDIA's")))
        }
        (_, None) => none("gpu", "no NVIDIA driver; models run on the processor"),
        (_, Some(driver)) if wanted == AccelMode::Cpu => {
            none("gpu", format!("{driver}; not used, as --accel-mode says"))
        }
        (_, Some(driver)) => none("gpu", format!("{driver}; this swarm-engine does not use it")),
    }
}

fn disk(folder: &Path) -> Check {
    let Some(there) = folder.ancestors().find(|path| path.exists()) else {
        return fail(
            "disk",
            format!("{} cannot be reached", folder.display()),
            "name another folder with --home",
        );
    };
    if let Err(error) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!("{} is not yours to write: {error}", there.display());
        return fail("disk", found, "name another folder with --home, or run as the user whose it is");
    }
    match available_bytes(there) {
        Ok(free) if free < MIN_FREE_BYTES => {
            let found = format!("{} free at {}", size(free), there.display());
            fail("disk", found, format!("free at least {}", size(MIN_FREE_BYTES)))
        }
        Ok(free) => ok("disk", format!("{} free at {}", size(free), folder.display())),
        Err(error) => fail("disk", format!("{}: {error}", there.display()), "check that the disk is healthy"),
    }
}

/// The key of the node that was named, which is a miner unless said otherwise.
fn key_file(args: &NodeArgs, folder: &Path) -> PathBuf {
    let role = args.role.unwrap_or(NodeRole::Miner);
    let name = match role {
        NodeRole::Operator => args.data_name(),
        NodeRole::Miner => args.files.name.as_deref().or(args.miner.ens.as_deref()),
    };
    let own = name.map_or(role.name().to_owned(), |name| format!("{}-{name}", role.name()));
    args.files.key.clone().unwrap_or_else(|| folder.join(own).join("key"))
}

fn key(path: &Path, is_named: bool) -> Check {
    match read_secret(path) {
        Ok(Some(secret)) => match SecretKey::from_bytes(secret.expose()) {
            Ok(key) => ok("wallet", format!("{} in {}", key.address(), path.display())),
            Err(_) => fail(
                "wallet",
                format!("{} holds no key of secp256k1", path.display()),
                "restore it from a copy",
            ),
        },
        Ok(None) if is_named => fail(
            "wallet",
            format!("there is no key file {}", path.display()),
            "correct --key, or leave it out",
        ),
        Ok(None) => none("wallet", "none yet; the first start of a miner makes one"),
        Err(error) => failed("wallet", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_driver_is_named_and_its_absence_too() {
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\nGCC version: 12\n";
        let driver = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15; ";
        let found = |device, wanted| {
            let check = gpu(Some(version), device, wanted);
            (check.state, check.found.strip_prefix(driver).map(str::to_owned))
        };
        let told = |state, words: &str| (state, Some(words.to_owned()));
        assert_eq!(found(Some(GPU), AccelMode::Auto), told(State::Ok, "models run on it"));
        let unused = told(State::None, "this swarm-engine does not use it");
        assert_eq!(
            [found(Some("cpu"), AccelMode::Auto), found(None, AccelMode::Gpu)],
            [unused.clone(), unused]
        );
        let hidden = found(Some("cpu"), AccelMode::Cpu);
        assert_eq!(hidden, told(State::None, "not used, as --accel-mode says"));
        assert!(gpu(None, Some("cpu"), AccelMode::Cpu).found.contains("processor"));
        assert_eq!(gpu(None, Some(GPU), AccelMode::Gpu).found, "a GPU of NVIDIA's; models run on it");
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_not_there_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert_eq!(key(&path, false).state, State::None);
        assert_eq!(key(&path, true).state, State::Fail);
        std::fs::write(&path, "11".repeat(32)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(key(&path, false).state, State::Fail);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let address = SecretKey::from_bytes(&[0x11; 32]).unwrap().address().to_string();
        assert!(key(&path, false).found.starts_with(&address));
        std::fs::write(&path, "00".repeat(32)).unwrap();
        assert_eq!(key(&path, false).state, State::Fail);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_it_will_be_in() {
        let folder = tempfile::tempdir().unwrap();
        let check = disk(&folder.path().join("a/b/c"));
        assert_eq!(check.state, State::Ok, "{check:?}");
        assert!(!folder.path().join("a").exists(), "nothing was made");
    }
}
