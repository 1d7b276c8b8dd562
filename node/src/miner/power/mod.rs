//! The energy that jobs use, as far as the machine tells it: of processors by the kernel's powercap counters, of GPUs by
//! `nvidia-smi`.

mod gpu;
mod processors;

use gpu::Gpus;
pub use gpu::Limit;
use processors::Processors;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Where the kernel shows its counters.
const POWERCAP: &str = "/sys/class/powercap";
/// How often the counters are read while jobs run: they overflow within minutes.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// Who used how much of it. What is used while several jobs run is theirs in equal parts.
#[derive(Debug, Clone, Default)]
pub struct Power(Arc<Mutex<Accounts>>);

#[derive(Debug, Default)]
struct Accounts {
    processors: Option<Processors>,
    gpus: Option<Gpus>,
    /// Joules of each job that runs.
    running: BTreeMap<u64, f64>,
    next: u64,
}

impl Power {
    /// What this machine tells, of GPUs those with these indices, which compute.
    pub fn probe(gpus: &[u32]) -> Self {
        Self::of(Processors::probe(Path::new(POWERCAP)), Gpus::probe(gpus))
    }

    fn of(processors: Option<Processors>, gpus: Option<Gpus>) -> Self {
        Self(Arc::new(Mutex::new(Accounts { processors, gpus, ..Accounts::default() })))
    }

    /// What tells it, in words.
    pub fn sources(&self) -> Option<String> {
        let accounts = self.accounts();
        let processors = accounts.processors.is_some().then_some("the processors");
        let gpus = accounts.gpus.is_some().then_some("GPUs");
        let sources: Vec<_> = processors.into_iter().chain(gpus).collect();
        (!sources.is_empty()).then(|| sources.join(" and "))
    }

    /// A job begins.
    pub fn begin(&self) -> Usage {
        let mut accounts = self.accounts();
        accounts.read();
        let job = accounts.next;
        accounts.next += 1;
        accounts.running.insert(job, 0.0);
        Usage { power: self.clone(), job }
    }

    /// Reads the counters now and then.
    pub async fn watch(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(READ_INTERVAL) => self.accounts().read(),
            }
        }
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn read(&mut self) {
        let processors = self.processors.as_mut().map_or(0.0, Processors::used);
        let gpus = self.gpus.as_mut().map_or(0.0, Gpus::used);
        let each = (processors + gpus) / self.running.len().max(1) as f64;
        self.running.values_mut().for_each(|joules| *joules += each);
    }
}

/// What a job uses; it ends when this is dropped.
#[derive(Debug)]
pub struct Usage {
    power: Power,
    job: u64,
}

impl Usage {
    /// Joules so far; nothing if the machine does not tell.
    pub fn joules(&self) -> Option<f64> {
        let mut accounts = self.power.accounts();
        accounts.read();
        let joules = accounts.running.get(&self.job).copied().unwrap_or_default();
        (joules > 0.0).then_some(joules)
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        let mut accounts = self.power.accounts();
        accounts.read();
        accounts.running.remove(&self.job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};

    fn machine(packages: &[(&str, u64)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, energy) in packages {
            create_dir(root.path().join(name)).unwrap();
            write(root.path().join(name).join("max_energy_range_uj"), "1000000000\n").unwrap();
            set(root.path(), name, *energy);
        }
        root
    }

    fn set(root: &Path, name: &str, energy: u64) {
        write(root.join(name).join("energy_uj"), format!("{energy}\n")).unwrap();
    }

    fn power(root: &tempfile::TempDir) -> Power {
        Power::of(Processors::probe(root.path()), None)
    }

    #[test]
    fn what_two_jobs_use_at_once_is_shared() {
        let root = machine(&[("intel-rapl:0", 5_000_000)]);
        let power = power(&root);
        assert_eq!(power.sources().as_deref(), Some("the processors"));
        let first = power.begin();
        set(root.path(), "intel-rapl:0", 8_000_000);
        let second = power.begin();
        set(root.path(), "intel-rapl:0", 12_000_000);
        assert_eq!((first.joules(), second.joules()), (Some(5.0), Some(2.0)));
        drop(first);
        set(root.path(), "intel-rapl:0", 13_000_000);
        assert_eq!(second.joules(), Some(3.0));
    }

    #[test]
    fn all_packages_count_and_a_counter_may_begin_anew() {
        let root = machine(&[("intel-rapl:0", 999_000_000), ("intel-rapl:1", 0), ("intel-rapl:0:0", 0)]);
        let power = power(&root);
        let job = power.begin();
        set(root.path(), "intel-rapl:0", 2_000_000);
        set(root.path(), "intel-rapl:1", 4_000_000);
        set(root.path(), "intel-rapl:0:0", 50_000_000);
        assert_eq!(job.joules(), Some(7.0), "a part of a package is in it already");
    }

    #[test]
    fn a_machine_that_does_not_tell_is_not_guessed_at() {
        let root = machine(&[]);
        assert_eq!(power(&root).sources(), None);
        assert_eq!(power(&root).begin().joules(), None);
        let root = machine(&[("intel-rapl:0", 7)]);
        write(root.path().join("intel-rapl:0/energy_uj"), "secret").unwrap();
        assert_eq!(power(&root).begin().joules(), None);
    }
}
