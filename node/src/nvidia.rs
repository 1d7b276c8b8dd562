//! GPUs of NVIDIA's, as its own program `nvidia-smi` tells of them.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = "nvidia-smi";
pub(crate) const PLAIN: &str = "--format=csv,noheader,nounits";
const COLUMNS: &str = "--query-gpu=index,uuid,memory.total,memory.free,driver_version,name";
/// The most GPUs of one machine that are looked at.
const MAX_GPUS: usize = 64;
/// How long a question to the program may take, and how often the end is looked for.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What chooses among them, for everything that uses CUDA.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, in the order of the bus.
    pub index: u32,
    pub uuid: String,
    pub name: String,
    pub driver: String,
    /// Its own memory, in MiB.
    pub memory_mib: u32,
    /// What of it is free now, in MiB, if that is told.
    pub free_mib: Option<u32>,
}

/// Those of this machine; none where there is no such program, or it does not answer.
pub fn gpus() -> Vec<Gpu> {
    gpus_by(PROGRAM.as_ref())
}

/// The same, told by another program.
pub fn gpus_by(program: &OsStr) -> Vec<Gpu> {
    match ask(program, &[COLUMNS, PLAIN]) {
        Ok(told) => told.lines().take(MAX_GPUS).filter_map(gpu).collect(),
        Err(why) => {
            tracing::debug!("{why}");
            Vec::new()
        }
    }
}

/// Those that this process's environment shows to CUDA, in its order.
pub fn visible(gpus: Vec<Gpu>) -> Vec<Gpu> {
    match std::env::var(VISIBLE) {
        Ok(shown) => shown_by(&shown, gpus),
        Err(_) => gpus,
    }
}

/// As NVIDIA's driver has it, what comes after a name of nothing is not shown.
fn shown_by(shown: &str, gpus: Vec<Gpu>) -> Vec<Gpu> {
    let named = |name: &str| {
        let is_it = |gpu: &&Gpu| match name.parse::<u32>() {
            Ok(index) => gpu.index == index,
            Err(_) => name.starts_with("GPU-") && gpu.uuid.starts_with(name),
        };
        gpus.iter().find(is_it).cloned()
    };
    shown.split(',').map_while(|name| named(name.trim())).take(MAX_GPUS).collect()
}

fn gpu(line: &str) -> Option<Gpu> {
    let mut cells = line.splitn(6, ',').map(str::trim);
    let mut next = || cells.next().filter(|cell| !cell.is_empty());
    let (index, uuid) = (next()?.parse().ok()?, next()?.to_owned());
    let (memory_mib, free_mib) = (next()?.parse().ok()?, next()?.parse().ok());
    let (driver, name) = (next()?.to_owned(), next()?.to_owned());
    Some(Gpu { index, uuid, name, driver, memory_mib, free_mib })
}

/// What the program answers, or why it does not.
pub(crate) fn ask(program: &OsStr, args: &[&str]) -> Result<String, String> {
    let shown = program.to_string_lossy();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut asked = command.spawn().map_err(|error| format!("{shown} is not here: {error}"))?;
    let until = Instant::now() + PATIENCE;
    while matches!(asked.try_wait(), Ok(None)) {
        if Instant::now() >= until {
            // It may end just now.
            let _ = asked.kill();
            let _ = asked.wait();
            return Err(format!("{shown} does not answer"));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let output = asked.wait_with_output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(said),
        false => Err(said + &String::from_utf8_lossy(&output.stderr)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    /// A stand-in for a program.
    pub(crate) fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Two GPUs, as NVIDIA's program tells of them.
    pub(crate) const TWO: &str = "\
0, GPU-5f0d1e2a-aa, 143771, 143162, 580.65.06, NVIDIA H200
1, GPU-77c3b9d4-bb, 81559, [N/A], 580.65.06, NVIDIA H100, PCIe";

    pub(crate) fn two() -> Vec<Gpu> {
        TWO.lines().filter_map(gpu).collect()
    }

    #[test]
    fn what_the_program_tells_is_read_and_what_it_does_not_tell_is_not_guessed() {
        let folder = tempfile::tempdir().unwrap();
        let asked = folder.path().join("asked");
        let tells =
            format!("echo \"$@\" > '{}'\ncat <<'END'\n{TWO}\ngarbage\n, , 1, 1, ,\nEND", asked.display());
        let gpus = gpus_by(script(folder.path(), "tells", &tells).as_os_str());
        assert_eq!(std::fs::read_to_string(asked).unwrap().trim(), format!("{COLUMNS} {PLAIN}"));
        assert_eq!(gpus, two());
        let short = |gpu: &Gpu| (gpu.index, gpu.memory_mib, gpu.free_mib, gpu.name.clone());
        let expected = [
            (0, 143_771, Some(143_162), "NVIDIA H200".to_owned()),
            (1, 81_559, None, "NVIDIA H100, PCIe".to_owned()),
        ];
        assert_eq!(gpus.iter().map(short).collect::<Vec<_>>(), expected);
        for silent in ["echo 'NVIDIA-SMI has failed'; exit 9", "echo '[N/A], x, [N/A], 1, 2, 3'", ":"] {
            assert_eq!(gpus_by(script(folder.path(), "silent", silent).as_os_str()), [], "{silent}");
        }
        assert_eq!(gpus_by("/nowhere/nvidia-smi".as_ref()), []);
    }

    #[test]
    fn the_environment_chooses_among_them_as_it_does_for_cuda() {
        let shown = |text| shown_by(text, two()).iter().map(|gpu| gpu.index).collect::<Vec<_>>();
        assert_eq!(shown("1,0"), [1, 0]);
        assert_eq!(shown("GPU-77c3, 0"), [1, 0]);
        assert_eq!(shown("0,7,1"), [0], "as for CUDA, what comes after is hidden too");
        assert_eq!(shown(""), [0; 0]);
        assert_eq!(shown("MIG-5f0d1e2a"), [0; 0]);
    }
}
