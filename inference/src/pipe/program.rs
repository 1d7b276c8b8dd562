//! The program whose processes run models.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long an engine may be silent, or take to end a job, before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to find its GPU, which a driver has to wake first.
const DEVICE_PATIENCE: Duration = Duration::from_secs(60);
/// The longest name of a device.
const MAX_DEVICE_NAME: u64 = 64;

/// The program that runs models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it is: `swarm-engine`.
    pub path: PathBuf,
    /// The most memory that one process of it may take for data, in bytes.
    pub max_memory_bytes: Option<u64>,
    /// How long a process may be silent, or take to end a job, before it is ended.
    pub patience: Duration,
    /// Whether it is to compute on the processor also where there is a GPU of NVIDIA's.
    pub hides_gpus: bool,
}

impl Program {
    /// The program at `path`, with any memory, any GPU and a patience of 10 seconds.
    pub fn at(path: PathBuf) -> Self {
        Self { path, max_memory_bytes: None, patience: PATIENCE, hides_gpus: false }
    }

    /// What it computes on here, as [`crate::device_name`] says it there, or why it does not say; waits up to a minute.
    pub fn device_name(&self) -> Result<String, String> {
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
        if self.hides_gpus {
            command.env("CUDA_VISIBLE_DEVICES", "");
        }
        command
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
