//! The program whose processes run models.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use crate::device::PROCESSOR_ONLY;

/// How long an engine may be silent, or take to end a job, before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to find its GPU, which a driver has to wake first.
const DEVICE_PATIENCE: Duration = Duration::from_secs(60);
/// Settings of GNU's C library, by environment.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// The longest name of a device.
const MAX_DEVICE_NAME: u64 = 64;

/// What a process of the program is to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// What it finds: the first GPU that its environment shows it, else the processor.
    Found,
    /// The GPU of NVIDIA's with this index, as `nvidia-smi` numbers them.
    Gpu(u32),
    /// The processor, with so many threads; with one for each core where none are named.
    Processor {
        /// Threads.
        threads: Option<u32>,
    },
}

/// The program that runs models, as it is started for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it is: `swarm-engine`.
    pub path: PathBuf,
    /// The most memory that one process of it may take for data, in bytes.
    pub max_memory_bytes: Option<u64>,
    /// How long a process may be silent, or take to end a job, before it is ended.
    pub patience: Duration,
    /// What it is to compute on.
    pub device: DeviceChoice,
    /// What people call that device, such as `gpu 1`; empty where there is no other.
    pub device_name: String,
}

impl Program {
    /// The program at `path`, with any memory, on what it finds, with a patience of 10 seconds.
    pub fn at(path: PathBuf) -> Self {
        let (device, device_name) = (DeviceChoice::Found, String::new());
        Self { path, max_memory_bytes: None, patience: PATIENCE, device, device_name }
    }

    /// What it computes on here, as [`crate::device_name`] says it there, or why it does not say; waits up to a minute.
    pub fn computes_on(&self) -> Result<String, String> {
        let path = self.path.display();
        let mut child = self
            .command()
            .arg("--device")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{path} cannot be started: {error}"))?;
        let said = first_words(&mut child, DEVICE_PATIENCE);
        // It has said what it was asked for, or is of no use.
        let _ = child.kill();
        let _ = child.wait();
        let name = said.as_deref().and_then(|said| said.strip_suffix('\n')).map(str::trim_end);
        let name = name.filter(|name| !name.is_empty() && !name.contains('\n'));
        name.map(str::to_owned).ok_or_else(|| format!("{path} does not say what it computes on"))
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        // As NVIDIA's own tools number them, so that everybody means the same GPU.
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        // Weights, keys and values in large pages, where the C library is GNU's and the system gives them to who asks.
        if std::env::var_os(TUNABLES).is_none() {
            command.env(TUNABLES, "glibc.malloc.hugetlb=1");
        }
        match self.device {
            DeviceChoice::Found => {}
            DeviceChoice::Gpu(index) => _ = command.env("CUDA_VISIBLE_DEVICES", index.to_string()),
            DeviceChoice::Processor { threads } => {
                command.env("CUDA_VISIBLE_DEVICES", "").env(PROCESSOR_ONLY, "1");
                if let Some(threads) = threads {
                    command.env("RAYON_NUM_THREADS", threads.to_string());
                }
            }
        }
        command
    }

    /// Where it computes, for the end of a clause.
    pub(super) fn on(&self) -> String {
        if self.device_name.is_empty() { String::new() } else { format!(" on {}", self.device_name) }
    }

    /// What became of a process, and of which.
    pub(super) fn says(&self, why: &str) -> String {
        if self.device_name.is_empty() { why.to_owned() } else { format!("{}: {why}", self.device_name) }
    }
}

/// What a process writes until it ends its output, if it does so in time.
fn first_words(child: &mut Child, patience: Duration) -> Option<String> {
    let output = child.stdout.take()?;
    let (tell, said) = sync_channel(1);
    std::thread::spawn(move || {
        let mut text = String::new();
        if output.take(MAX_DEVICE_NAME).read_to_string(&mut text).is_ok() {
            // Who asked may have lost patience.
            let _ = tell.send(text);
        }
    });
    said.recv_timeout(patience).ok()
}
