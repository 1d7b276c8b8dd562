//! The process itself, under the names that Prometheus' own libraries use.

use super::{RealCounter, RealGauge, Source, Subsystem, whole};
use async_trait::async_trait;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// What Linux counts the time of processes in, for all programs and on all common machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the system says of this process.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessSource {
    resident: Gauge,
    threads: Gauge,
    handles: Gauge,
    max_handles: Gauge,
    started_at: RealGauge,
    cpu: RealCounter,
    tasks: Gauge,
}

struct Status {
    resident_bytes: i64,
    threads: i64,
    cpu_seconds: f64,
}

impl ProcessSource {
    /// None where the system does not say it as Linux does.
    pub(super) fn of_this_process() -> Option<Self> {
        read_status()?;
        let process = Self::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        process.started_at.set(now.as_secs_f64());
        // No limit is no number.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        process.max_handles.set(whole(limit));
        Some(process)
    }
}

impl Subsystem for ProcessSource {
    fn register(&self, registry: &mut Registry) {
        let process = registry.sub_registry_with_prefix("process");
        process.register("resident_memory_bytes", "Resident memory", self.resident.clone());
        process.register("threads", "Threads", self.threads.clone());
        process.register("open_fds", "Open file handles, connections among them", self.handles.clone());
        process.register("max_fds", "The most file handles that may be open", self.max_handles.clone());
        process.register("cpu_seconds", "Time on processors", self.cpu.clone());
        let help = "When the metrics began, in seconds since 1970";
        process.register("start_time_seconds", help, self.started_at.clone());
        registry.register("swarmpool_runtime_tasks", "Tasks of the runtime", self.tasks.clone());
    }
}

#[async_trait]
impl Source for ProcessSource {
    async fn sample(&self) {
        if let Some(status) = read_status() {
            self.resident.set(status.resident_bytes);
            self.threads.set(status.threads);
            self.cpu.inner().store(status.cpu_seconds.to_bits(), Ordering::Relaxed);
        }
        if let Ok(handles) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder that is being read.
            self.handles.set(whole(handles.count().saturating_sub(1)));
        }
        self.tasks.set(whole(tokio::runtime::Handle::current().metrics().num_alive_tasks()));
    }
}

fn read_status() -> Option<Status> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<i64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th word after it.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || words.next()?.parse::<f64>().ok();
    Some(Status {
        resident_bytes: field("VmRSS:")? * 1024,
        threads: field("Threads:")?,
        cpu_seconds: (ticks()? + ticks()?) / TICKS_PER_SECOND,
    })
}
