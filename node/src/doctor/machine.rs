//! The machine: processor, memory, GPU, disk and keys.

use super::{Check, fail, failed, none, ok};
use crate::cli::{AccelMode, NodeArgs, NodeRole};
use crate::devices::Device;
use crate::home::home_root;
use crate::nvidia::{self, Gpu};
use crate::storage::disk::{MIN_FREE_BYTES, available_bytes};
use crate::storage::home::read_secret;
use crate::words::size;
use anyhow::Result;
use rustix::fs::{Access, access};
use std::path::{Path, PathBuf};
use swarm_crypto::key::SecretKey;
use swarm_inference::{DeviceChoice, Hardware};

/// What NVIDIA's kernel module says of itself.
const NVIDIA_VERSION: &str = "/proc/driver/nvidia/version";

/// `devices` are what engines compute on; none if there are no engines.
pub(super) fn checks(args: &NodeArgs, devices: &[Device]) -> Result<Vec<Check>> {
    let folder = home_root(&args.files)?.join(&args.pool.pool);
    let hardware = Hardware::probe();
    let mut checks =
        vec![ok("processor", format!("{} cores", hardware.cores)), memory(hardware.memory_bytes)];
    let gpus = nvidia::gpus();
    if gpus.is_empty() {
        let version = std::fs::read_to_string(NVIDIA_VERSION).ok();
        checks.push(driver(version.as_deref(), devices, args.miner.accel_mode));
    }
    checks.extend(gpus.iter().map(|told| gpu(told, devices)));
    checks.extend(shares(devices));
    checks.push(disk(&folder));
    checks.push(key(&key_file(args, &folder), args.files.key.is_some()));
    Ok(checks)
}

fn memory(free: u64) -> Check {
    if free == u64::MAX {
        none("memory", "the system does not say what is free")
    } else {
        ok("memory", format!("{} free", size(free)))
    }
}

/// A GPU, and whether engines use it.
fn gpu(gpu: &Gpu, devices: &[Device]) -> Check {
    let check = format!("gpu {}", gpu.index);
    let memory = size(u64::from(gpu.memory_mib) << 20);
    let free = gpu.free_mib.map_or(String::new(), |free| format!(", {} free", size(u64::from(free) << 20)));
    let found = format!("{}, {memory}{free}, driver {}", gpu.name, gpu.driver);
    match devices.iter().any(|device| device.gpu.as_ref().is_some_and(|used| used.index == gpu.index)) {
        true => ok(check, format!("{found}; models run on it")),
        false => none(check, format!("{found}; not used: see --devices, --accel-mode and --engine")),
    }
}

/// Where nothing tells of single GPUs: the driver, if there is one, and whether engines use it.
fn driver(version: Option<&str>, devices: &[Device], wanted: AccelMode) -> Check {
    let driver = version.and_then(|text| text.lines().next());
    let used = devices.iter().find(|device| device.is_gpu());
    match (used, driver) {
        (Some(used), driver) => {
            ok("gpu", format!("{}; models run on it, by {}", driver.unwrap_or("a GPU"), used.kind))
        }
        (None, None) => none("gpu", "no NVIDIA driver; models run on the processor"),
        (None, Some(driver)) if wanted == AccelMode::Cpu => {
            none("gpu", format!("{driver}; not used, as --accel-mode says"))
        }
        (None, Some(driver)) => none("gpu", format!("{driver}; this swarm-engine does not use it")),
    }
}

/// Processors that were named as devices of their own.
fn shares(devices: &[Device]) -> impl Iterator<Item = Check> {
    let told = |device: &Device| match device.choice {
        DeviceChoice::Processor { threads: Some(threads) } => {
            let many = if threads == 1 { "" } else { "s" };
            Some(ok(device.name.clone(), format!("{threads} thread{many}; models run on it")))
        }
        DeviceChoice::Processor { threads: None } | DeviceChoice::Gpu(_) | DeviceChoice::Found => None,
    };
    devices.iter().filter_map(told)
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
    use crate::nvidia::tests::two;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_driver_is_named_and_its_absence_too() {
        let version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\nGCC version: 12\n";
        let told = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15; ";
        let used = |kind: &str| vec![Device { kind: kind.to_owned(), ..Device::processor() }];
        let found = |devices: &[Device], wanted| {
            let check = driver(Some(version), devices, wanted);
            (check.state, check.found.strip_prefix(told).map(str::to_owned))
        };
        let says = |state, words: &str| (state, Some(words.to_owned()));
        assert_eq!(found(&used("cuda"), AccelMode::Auto), says(State::Ok, "models run on it, by cuda"));
        let unused = says(State::None, "this swarm-engine does not use it");
        assert_eq!(
            [found(&used("cpu"), AccelMode::Auto), found(&[], AccelMode::Gpu)],
            [unused.clone(), unused]
        );
        let hidden = found(&used("cpu"), AccelMode::Cpu);
        assert_eq!(hidden, says(State::None, "not used, as --accel-mode says"));
        assert!(driver(None, &used("cpu"), AccelMode::Cpu).found.contains("processor"));
        assert_eq!(driver(None, &used("metal"), AccelMode::Gpu).found, "a GPU; models run on it, by metal");
    }

    #[test]
    fn each_gpu_has_a_row_and_each_share_of_the_processor() {
        let [first, second] = two().try_into().unwrap();
        let used = Device { gpu: Some(first.clone()), ..Device::processor() };
        let rows = [gpu(&first, std::slice::from_ref(&used)), gpu(&second, &[used])];
        let expected = [
            ok("gpu 0", "NVIDIA H200, 140.4 GiB, 139.8 GiB free, driver 580.65.06; models run on it"),
            none(
                "gpu 1",
                "NVIDIA H100, PCIe, 79.6 GiB, driver 580.65.06; not used: see --devices, --accel-mode and --engine",
            ),
        ];
        assert_eq!(rows, expected);
        let choice = DeviceChoice::Processor { threads: Some(8) };
        let share = Device { name: "cpu 1".to_owned(), choice, ..Device::processor() };
        let rows: Vec<_> = shares(&[Device::processor(), share]).collect();
        assert_eq!(rows, [ok("cpu 1", "8 threads; models run on it")]);
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
