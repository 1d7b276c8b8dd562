//! Many runs at once, and which of them failed.

use crate::plan::Plan;
use crate::world::{Tally, World};
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use swarm_protocol::planted::{self, Bug};

/// A run in which a law was broken.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    at: u64,
    pub(crate) what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} ms: {}", self.seed, self.at, self.what)
    }
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
static HOOK: Once = Once::new();

/// Assertions of the machines are failures of the run, told by its seed and not by the hook.
fn quietly<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                usual(panic);
            }
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(run));
    QUIET.set(false);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned())).unwrap_or_default()
    })
}

/// One run, on this thread.
pub(crate) fn run(plan: Plan, trace: bool) -> Result<Tally, Failure> {
    let seed = plan.seed;
    planted::plant(plan.bug);
    let outcome =
        if trace { Ok(World::new(plan, trace).run()) } else { quietly(|| World::new(plan, trace).run()) };
    planted::plant(None);
    match outcome {
        Ok(Ok(tally)) => Ok(tally),
        Ok(Err((at, what))) => Err(Failure { seed, at, what }),
        Err(panic) => Err(Failure { seed, at: 0, what: format!("assertion: {panic}") }),
    }
}

/// All these seeds, on all cores; the first failure that is met ends it.
pub(crate) fn run_many(seeds: Range<u64>, bug: Option<Bug>) -> Result<Tally, Failure> {
    let next = AtomicU64::new(seeds.start);
    let (sum, failed) = (Mutex::new(Tally::default()), Mutex::new(None));
    let (started, told) = (Instant::now(), Mutex::new(Instant::now()));
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().min(16));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end || failed.lock().unwrap().is_some() {
                        return;
                    }
                    match run(Plan::of(seed, bug), false) {
                        Ok(tally) => sum.lock().unwrap().add(&tally),
                        Err(failure) if number("SIM_GO_ON").is_some() => eprintln!("{failure}"),
                        Err(failure) => *failed.lock().unwrap() = Some(failure),
                    }
                    let mut told = told.lock().unwrap();
                    if told.elapsed() > Duration::from_secs(10) {
                        *told = Instant::now();
                        eprintln!("{} seeds in {} s", seed - seeds.start, started.elapsed().as_secs());
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap() {
        Some(failure) => Err(failure),
        None => Ok(sum.into_inner().unwrap()),
    }
}
