//! Which devices of this machine engines compute on.

use crate::cli::{AccelMode, UserError};
use crate::nvidia::{self, Gpu};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use swarm_inference::{DeviceChoice, Program};

/// The most devices of one miner.
pub const MAX_DEVICES: usize = 64;
/// What the program that runs models says where it computes on a GPU of NVIDIA's, of Apple's, and on a processor.
pub const CUDA: &str = "cuda";
const METAL: &str = "metal";
const PROCESSOR: &str = "cpu";
const USE_ANOTHER: &str =
    "name a build for your GPU with --engine (docs/nvidia-validation.md), or leave --accel-mode at auto";

/// What `--devices` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devices {
    /// All GPUs, else the processor.
    Auto,
    /// These.
    Listed(Vec<Listed>),
}

/// A device that was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    /// The GPU of NVIDIA's with this index.
    Gpu(u32),
    /// A share of the processor.
    Processor,
}

impl FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let named = |name: &str| {
            match name.trim() {
            PROCESSOR => Ok(Listed::Processor),
            index => index.parse().map(Listed::Gpu).map_err(|_| {
                format!("write auto, or a list such as 0,2 or cpu,cpu: '{index}' is neither a GPU's number nor cpu")
            }),
        }
        };
        let listed = text.split(',').map(named).collect::<Result<Vec<_>, _>>()?;
        let mut gpus = BTreeSet::new();
        for device in &listed {
            if let Listed::Gpu(index) = device
                && !gpus.insert(index)
            {
                return Err(format!(
                    "GPU {index} is named twice, and one process of it does for all its jobs"
                ));
            }
        }
        match listed.len() {
            ..=MAX_DEVICES => Ok(Self::Listed(listed)),
            many => Err(format!("{many} devices are more than a miner may have: {MAX_DEVICES}")),
        }
    }
}

/// A device that engines compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What people call it: `gpu 0`, `cpu`, or `cpu 1` where there are several.
    pub name: String,
    /// What engines on it say that they compute on: `cuda`, `metal` or `cpu`.
    pub kind: String,
    /// How an engine is given it.
    pub choice: DeviceChoice,
    /// What NVIDIA's program tells of it.
    pub gpu: Option<Gpu>,
}

impl Device {
    /// The processor, whole.
    pub fn processor() -> Self {
        let choice = DeviceChoice::Processor { threads: None };
        Self { name: PROCESSOR.to_owned(), kind: PROCESSOR.to_owned(), choice, gpu: None }
    }

    /// Whether it is a GPU.
    pub fn is_gpu(&self) -> bool {
        [CUDA, METAL].contains(&self.kind.as_str())
    }

    /// Memory for models in MiB, of which the host has so much: 0 where nobody tells what a GPU has.
    fn memory_mib(&self, host: u32) -> u32 {
        match &self.gpu {
            Some(gpu) => gpu.memory_mib,
            None if self.is_gpu() => 0,
            None => host,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.gpu.as_ref().map_or(Ok(()), |gpu| write!(f, " ({})", gpu.name))
    }
}

/// What is said of all of them to others: `cuda`, or `2 cuda, 1 cpu`.
pub fn in_words(devices: &[Device]) -> String {
    let kinds: Vec<&str> = devices.iter().map(|device| device.kind.as_str()).collect();
    if let [kind] = kinds[..] {
        return kind.to_owned();
    }
    let count = |kind| kinds.iter().filter(|other| **other == kind).count();
    let known: BTreeSet<&str> = kinds.iter().copied().collect();
    known.into_iter().rev().map(|kind| format!("{} {kind}", count(kind))).collect::<Vec<_>>().join(", ")
}

/// The memory in MiB that any job can count on, as it runs on one of them: that of the smallest.
pub fn memory_mib(devices: &[Device], host: u32) -> u32 {
    // Each that shares the processor has its own copy of the weights.
    let shares = devices.iter().filter(|device| !device.is_gpu()).count().max(1);
    let share = host / u32::try_from(shares).unwrap_or(u32::MAX);
    devices.iter().map(|device| device.memory_mib(share)).min().unwrap_or(host)
}

/// The devices that are wanted, each of which the program says to compute on; or a refusal, if that is not so.
pub fn find(program: &Program, mode: AccelMode, wanted: &Devices) -> Result<Vec<Device>, UserError> {
    find_among(program, mode, wanted, nvidia::gpus)
}

fn find_among(
    program: &Program,
    mode: AccelMode,
    wanted: &Devices,
    gpus: impl Fn() -> Vec<Gpu>,
) -> Result<Vec<Device>, UserError> {
    match wanted {
        Devices::Auto if mode == AccelMode::Cpu => Ok(vec![Device::processor()]),
        Devices::Auto => auto(program, mode, || nvidia::visible(gpus())),
        Devices::Listed(listed) => these(program, mode, listed, gpus),
    }
}

/// All GPUs that the program can use, if it is built for them; else what it finds.
fn auto(program: &Program, mode: AccelMode, gpus: impl Fn() -> Vec<Gpu>) -> Result<Vec<Device>, UserError> {
    let found = program.computes_on();
    if mode == AccelMode::Gpu {
        let why = match &found {
            Ok(kind) if [CUDA, METAL].contains(&kind.as_str()) => None,
            Ok(_) => Some("swarm-engine computes on the processor here"),
            Err(why) => Some(why.as_str()),
        };
        why.map_or(Ok(()), |why| {
            Err(UserError::misuse(format!("a GPU is wanted, and {why}")).hint(USE_ANOTHER))
        })?;
    }
    // What is wrong with it shows when it is to load a model.
    let kind = found.unwrap_or_else(|_| PROCESSOR.to_owned());
    let mut gpus = if kind == CUDA { gpus() } else { Vec::new() };
    if gpus.len() < 2 {
        let gpu = gpus.pop();
        let name = match &gpu {
            Some(gpu) => format!("gpu {}", gpu.index),
            None if kind == PROCESSOR => PROCESSOR.to_owned(),
            None => "gpu".to_owned(),
        };
        return Ok(vec![Device { name, kind, choice: DeviceChoice::Found, gpu }]);
    }
    let listed = gpus.into_iter().map(|gpu| of_gpu(gpu.index, Some(gpu))).collect();
    let (usable, others): (Vec<_>, Vec<_>) = asked(program, listed).into_iter().partition(Result::is_ok);
    for why in others.into_iter().filter_map(Result::err) {
        tracing::warn!("{why}; it is left out");
    }
    match usable.into_iter().filter_map(Result::ok).collect::<Vec<_>>() {
        none if none.is_empty() => {
            Err(UserError::misuse("swarm-engine can use none of the GPUs by itself").hint(USE_ANOTHER))
        }
        usable => Ok(usable),
    }
}

fn these(
    program: &Program,
    mode: AccelMode,
    listed: &[Listed],
    gpus: impl Fn() -> Vec<Gpu>,
) -> Result<Vec<Device>, UserError> {
    let processors = listed.iter().filter(|device| **device == Listed::Processor).count();
    if mode == AccelMode::Cpu && processors < listed.len() {
        return Err(
            UserError::misuse("--devices names a GPU, and --accel-mode is cpu").hint("change one of them")
        );
    }
    if mode == AccelMode::Gpu && processors > 0 {
        return Err(
            UserError::misuse("--devices names cpu, and --accel-mode is gpu").hint("change one of them")
        );
    }
    let known = if processors < listed.len() { gpus() } else { Vec::new() };
    let (mut devices, mut shares) = (Vec::new(), shares(processors));
    for device in listed {
        devices.push(match *device {
            Listed::Gpu(index) => of_gpu(index, named(index, &known)?),
            Listed::Processor => shares.next().unwrap_or_else(Device::processor),
        });
    }
    let asked: Result<Vec<_>, String> = asked(program, devices).into_iter().collect();
    asked.map_err(|why| {
        UserError::misuse(why)
            .hint("name devices that it can use with --devices, or another build with --engine")
    })
}

/// What is told of a GPU; nothing where nothing is told of any.
fn named(index: u32, known: &[Gpu]) -> Result<Option<Gpu>, UserError> {
    let found = known.iter().find(|gpu| gpu.index == index).cloned();
    if found.is_some() || known.is_empty() {
        return Ok(found);
    }
    let there: Vec<_> = known.iter().map(|gpu| gpu.index.to_string()).collect();
    Err(UserError::misuse(format!("there is no GPU {index}")).hint(format!("there are {}", there.join(", "))))
}

fn of_gpu(index: u32, gpu: Option<Gpu>) -> Device {
    let choice = DeviceChoice::Gpu(index);
    Device { name: format!("gpu {index}"), kind: CUDA.to_owned(), choice, gpu }
}

/// The processor in equal parts.
fn shares(parts: usize) -> impl Iterator<Item = Device> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (parts > 1).then(|| u32::try_from((cores / parts).max(1)).unwrap_or(u32::MAX));
    (0..parts).map(move |number| Device {
        name: if parts > 1 { format!("{PROCESSOR} {number}") } else { PROCESSOR.to_owned() },
        choice: DeviceChoice::Processor { threads },
        ..Device::processor()
    })
}

/// Each device, or why the program does not compute on it. All are asked at once, as a driver takes its time.
fn asked(program: &Program, devices: Vec<Device>) -> Vec<Result<Device, String>> {
    let ask = |device: Device| {
        let found = Program { device: device.choice, ..program.clone() }.computes_on();
        match found {
            Ok(kind) if kind == device.kind => Ok(device),
            Ok(_) if device.is_gpu() => {
                Err(format!("{}: swarm-engine computes on the processor there", device.name))
            }
            Ok(kind) => Err(format!("{}: swarm-engine computes on {kind} there", device.name)),
            // What is wrong with it shows when it is to load a model.
            Err(_) if !device.is_gpu() => Ok(device),
            Err(why) => Err(format!("{}: {why}", device.name)),
        }
    };
    std::thread::scope(|threads| {
        let asking: Vec<_> = devices.into_iter().map(|device| threads.spawn(|| ask(device))).collect();
        let ended = |_| Err("it could not be asked".to_owned());
        asking.into_iter().map(|asked| asked.join().unwrap_or_else(ended)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvidia::tests::{script, two};

    #[test]
    fn devices_are_named_by_their_numbers_or_as_processors() {
        let listed = |text: &str| text.parse::<Devices>();
        assert_eq!(listed("auto"), Ok(Devices::Auto));
        assert_eq!(listed("2, 0"), Ok(Devices::Listed(vec![Listed::Gpu(2), Listed::Gpu(0)])));
        assert_eq!(listed("cpu,cpu"), Ok(Devices::Listed(vec![Listed::Processor; 2])));
        assert_eq!(listed("cpu,0"), Ok(Devices::Listed(vec![Listed::Processor, Listed::Gpu(0)])));
        for (text, why) in [
            ("", "neither"),
            ("0,,1", "neither"),
            ("all", "'all' is neither a GPU's number nor cpu"),
            ("0,auto", "'auto' is neither"),
            ("-1", "neither"),
            ("1,0,1", "GPU 1 is named twice"),
            (&vec!["cpu"; MAX_DEVICES + 1].join(","), "65 devices"),
        ] {
            let told = listed(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    /// A program that can use these of two GPUs, and what is found with it.
    fn found(usable: &str, mode: AccelMode, wanted: &str) -> Result<Vec<Device>, String> {
        let folder = tempfile::tempdir().unwrap();
        let says =
            format!("case \"${{CUDA_VISIBLE_DEVICES-any}}\" in {usable}) echo cuda;; *) echo cpu;; esac");
        let program = Program::at(script(folder.path(), "engine", &says));
        let among = |gpus: fn() -> Vec<Gpu>| find_among(&program, mode, &wanted.parse().unwrap(), gpus);
        among(two).map_err(|error| error.message)
    }

    fn names(devices: Vec<Device>) -> Vec<String> {
        devices.into_iter().map(|device| device.name).collect()
    }

    #[test]
    fn all_gpus_that_engines_can_use_are_taken_or_those_that_are_named() {
        let auto = |usable| found(usable, AccelMode::Auto, "auto").map(names);
        assert_eq!(auto("any|0|1").unwrap(), ["gpu 0", "gpu 1"]);
        assert_eq!(auto("any|1").unwrap(), ["gpu 1"], "one that cannot be used is left out");
        assert_eq!(auto("none").unwrap(), ["cpu"]);
        assert_eq!(found("any|0|1", AccelMode::Cpu, "auto").unwrap(), [Device::processor()]);

        let listed = |wanted| found("any|0|1", AccelMode::Auto, wanted).map(names);
        assert_eq!(listed("1").unwrap(), ["gpu 1"]);
        assert_eq!(listed("1,cpu,0").unwrap(), ["gpu 1", "cpu", "gpu 0"]);
        assert_eq!(listed("2").unwrap_err(), "there is no GPU 2");
        let refused = |usable, mode, wanted| found(usable, mode, wanted).unwrap_err();
        let there = "gpu 1: swarm-engine computes on the processor there";
        assert_eq!(refused("0", AccelMode::Auto, "0,1"), there);
        assert!(refused("none", AccelMode::Gpu, "auto").ends_with("computes on the processor here"));
        assert!(refused("any|0", AccelMode::Cpu, "0").contains("--accel-mode is cpu"));
        assert!(refused("any|0", AccelMode::Gpu, "0,cpu").contains("--accel-mode is gpu"));
    }

    #[test]
    fn processors_share_the_cores() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let two = found("none", AccelMode::Auto, "cpu,cpu").unwrap();
        let threads = Some(u32::try_from(cores / 2).unwrap().max(1));
        let expected = |name: &str| Device {
            name: name.to_owned(),
            choice: DeviceChoice::Processor { threads },
            ..Device::processor()
        };
        assert_eq!(two, ["cpu 0", "cpu 1"].map(expected));
        assert_eq!(found("none", AccelMode::Auto, "cpu").unwrap(), [Device::processor()]);
    }

    #[test]
    fn the_smallest_memory_is_what_a_job_can_count_on_and_a_gpu_s_is_its_own() {
        let memory = |wanted| memory_mib(&found("any|0|1", AccelMode::Auto, wanted).unwrap(), 90_000);
        assert_eq!(
            [memory("0"), memory("0,1"), memory("cpu,0"), memory("cpu")],
            [143_771, 81_559, 90_000, 90_000]
        );
        let untold = Device { gpu: None, ..of_gpu(0, None) };
        assert_eq!(memory_mib(&[untold], 90_000), 0, "the host's memory is not the GPU's");
    }

    #[test]
    fn others_are_told_kinds_and_how_many() {
        let words = |wanted| in_words(&found("any|0|1", AccelMode::Auto, wanted).unwrap());
        assert_eq!([words("0"), words("cpu,cpu"), words("cpu,0,1")], ["cuda", "2 cpu", "2 cuda, 1 cpu"]);
    }
}
