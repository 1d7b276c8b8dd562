//! A model on each of a node's devices, and which of them a request goes to.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::frame::Described;
use super::host::{Host, Ready};
use super::isolated::Watcher;
use super::process::Process;
use super::program::Program;
use crate::lock::lock;
use crate::{EngineError, Interrupt, Manifest, Tokenizer};

/// How long a request waits for a process that is being started.
const MAX_START_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at a request's cancel token, and at which processes are up.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a device that failed a request is passed over, doubling with each that it fails after such a pause. One whose
/// engine is up and fails everything is always the least busy, and would be given everything.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What processes are to run.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) manifest: Manifest,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) described: Described,
}

/// A model that a process on each device runs; dropping it ends them.
#[derive(Debug)]
pub(super) struct Hosts {
    subject: Arc<Subject>,
    hosts: Vec<Host>,
    tallies: Tallies,
}

/// Requests of all models, by device.
#[derive(Debug, Clone)]
pub(super) struct Tallies(Arc<Mutex<Vec<Tally>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    running: u32,
    begun: u64,
    /// Requests in a row that its engines failed, but for those that failed during a pause.
    failed: u32,
    /// When its last pause ends; nothing once a request was carried out.
    rests_until: Option<Instant>,
}

/// In which order devices are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// Its pause is over, and one request says whether it is well again.
    Trial,
    Well,
    /// It fails what it is given, or is being tried: only where there is no other, whose pause ends first.
    Rests(Instant),
}

impl Tally {
    fn turn(&self, now: Instant) -> Turn {
        match self.rests_until {
            None => Turn::Well,
            Some(until) if until <= now && self.running == 0 => Turn::Trial,
            Some(until) => Turn::Rests(until),
        }
    }
}

/// A request on a device, until it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    tallies: Tallies,
    device: usize,
}

impl Hosts {
    /// Starts a process on each device, all at once, and waits until they have loaded the model.
    pub(super) fn start(
        programs: &[Program],
        subject: Subject,
        tallies: Tallies,
        watcher: &Watcher,
    ) -> Result<Self, String> {
        let subject = Arc::new(subject);
        let start = |device: usize| {
            let (program, subject, watcher) = (&programs[device], subject.clone(), watcher.clone());
            Host::start(program, device, subject, watcher).map_err(|why| program.says(&why))
        };
        let started: Vec<_> = std::thread::scope(|threads| {
            let starting: Vec<_> =
                (0..programs.len()).map(|device| threads.spawn(move || start(device))).collect();
            let ended = |_| Err("its supervisor ended".to_owned());
            starting.into_iter().map(|host| host.join().unwrap_or_else(ended)).collect()
        });
        let hosts = started.into_iter().collect::<Result<_, _>>()?;
        Ok(Self { subject, hosts, tallies })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.subject.manifest
    }

    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        self.subject.tokenizer.as_ref()
    }

    /// A process that can take a request, on the device with the fewest; waits a little while none can.
    pub(super) fn process(&self, interrupt: Interrupt<'_>) -> Result<(Arc<Process>, Running), EngineError> {
        let until = Instant::now() + MAX_START_WAIT;
        loop {
            interrupt.check()?;
            let (mut up, mut why_not) = (Vec::new(), "there is no device".to_owned());
            for (device, host) in self.hosts.iter().enumerate() {
                match host.ready() {
                    Ready::Up(process) => up.push((device, process)),
                    Ready::NotYet(why) => why_not = host.program().says(&why),
                    Ready::Stopped => return Err(EngineError::Cancelled),
                }
            }
            match (self.tallies.begin(up, Instant::now()), self.hosts.first()) {
                (Some(begun), _) => return Ok(begun),
                (None, Some(first)) if Instant::now() < until => first.wait(LOOK_INTERVAL),
                (None, _) => return Err(EngineError::Process(why_not)),
            }
        }
    }

    /// A request has failed by its device, which others are spared for a while.
    pub(super) fn failed(&self, on: &Running) {
        let pause = on.failed(Instant::now());
        let host = self.hosts.get(on.device).filter(|_| self.hosts.len() > 1);
        if let (Some(pause), Some(host)) = (pause, host) {
            let pause = format!("a request failed there; others go elsewhere for {} s", pause.as_secs());
            tracing::warn!("{}", host.program().says(&pause));
        }
    }

    /// What a request was told on its device, with the name of that.
    pub(super) fn says(&self, on: &Running, why: &str) -> String {
        self.hosts.get(on.device).map_or_else(|| why.to_owned(), |host| host.program().says(why))
    }

    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    pub(super) fn stop(&self) {
        self.hosts.iter().for_each(Host::stop);
    }
}

impl Tallies {
    pub(super) fn of(devices: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Tally::default(); devices])))
    }

    /// Begins a request on the device whose [`Turn`] it is with the fewest, of several the one that has had the fewest so far.
    fn begin<T>(&self, devices: Vec<(usize, T)>, now: Instant) -> Option<(T, Running)> {
        let mut tallies = lock(&self.0);
        let least = |(device, _): &(usize, T)| {
            tallies.get(*device).map(|tally| (tally.turn(now), tally.running, tally.begun))
        };
        let (device, chosen) = devices.into_iter().min_by_key(least)?;
        let tally = tallies.get_mut(device)?;
        tally.running += 1;
        tally.begun += 1;
        Some((chosen, Running { tallies: self.clone(), device }))
    }

    /// How many run on each device, and how many were begun there.
    pub(super) fn read(&self) -> Vec<(u32, u64)> {
        lock(&self.0).iter().map(|tally| (tally.running, tally.begun)).collect()
    }
}

impl Running {
    /// The device carried it out, and is well.
    pub(super) fn worked(&self) {
        if let Some(tally) = lock(&self.tallies.0).get_mut(self.device) {
            (tally.failed, tally.rests_until) = (0, None);
        }
    }

    /// The device failed it; gives how long it is passed over, unless it is already.
    fn failed(&self, now: Instant) -> Option<Duration> {
        let mut tallies = lock(&self.tallies.0);
        let tally = tallies.get_mut(self.device)?;
        // Those that ran together fail together, by one fault.
        if tally.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        let pause = MIN_PAUSE.saturating_mul(1 << tally.failed.min(16)).min(MAX_PAUSE);
        tally.failed = tally.failed.saturating_add(1);
        tally.rests_until = Some(now + pause);
        Some(pause)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(tally) = lock(&self.tallies.0).get_mut(self.device) {
            tally.running -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: [(usize, usize); 2] = [(0, 0), (1, 1)];

    struct Clock {
        tallies: Tallies,
        started: Instant,
    }

    impl Clock {
        fn of_two() -> Self {
            Self { tallies: Tallies::of(2), started: Instant::now() }
        }

        fn at(&self, millis: u64) -> Instant {
            self.started + Duration::from_millis(millis)
        }

        fn begin(&self, millis: u64) -> Running {
            self.tallies.begin(TWO.to_vec(), self.at(millis)).unwrap().1
        }

        /// The device of a request that is carried out at once, or fails at once if the device is sick.
        fn run(&self, millis: u64, sick: &[usize]) -> usize {
            let running = self.begin(millis);
            match sick.contains(&running.device) {
                true => _ = running.failed(self.at(millis)),
                false => running.worked(),
            }
            running.device
        }

        fn runs(&self, times: impl IntoIterator<Item = u64>, sick: &[usize]) -> Vec<usize> {
            times.into_iter().map(|millis| self.run(millis, sick)).collect()
        }
    }

    #[test]
    fn a_device_that_fails_everything_gets_one_request_after_each_pause() {
        let clock = Clock::of_two();
        let busy = clock.begin(0);
        assert_eq!(busy.device, 0);
        // Each pause twice as long, up to a minute, however idle it is meanwhile.
        let ends = [0, 1, 3, 7, 15, 31, 63, 123, 183].map(|second| second * 1000);
        for (nth, end) in ends.into_iter().enumerate() {
            let next = ends.get(nth + 1).copied().unwrap_or(end + 60_000);
            assert_eq!(clock.run(end, &[1]), 1, "tried after {end} ms");
            assert_eq!(clock.runs([end, end + 1, next - 1], &[1]), [0, 0, 0], "passed over after {end} ms");
        }
    }

    #[test]
    fn one_that_is_well_again_is_tried_though_others_are_idle_and_then_takes_its_share() {
        let clock = Clock::of_two();
        assert_eq!(clock.runs([0, 0, 0, 999], &[0]), [0, 1, 1, 1]);
        // It has had more than the other, and is tried all the same: with one.
        for _ in 0..10 {
            let (first, second) = (clock.begin(500), clock.begin(500));
            assert_eq!((first.device, second.device), (1, 1));
        }
        let (trial, other, third) = (clock.begin(1000), clock.begin(1000), clock.begin(1000));
        assert_eq!((trial.device, other.device, third.device), (0, 1, 1));
        trial.worked();
        let next = clock.begin(1000);
        assert_eq!(next.device, 0);
        drop((trial, other, third, next));
        // Its next pause is the shortest again.
        assert_eq!(clock.run(1000, &[0]), 0);
        assert_eq!(clock.runs([1999, 2000], &[]), [1, 0]);
    }

    #[test]
    fn those_that_fail_together_are_one_fault_and_what_was_cancelled_says_nothing() {
        let clock = Clock::of_two();
        let together = [clock.begin(0), clock.begin(0), clock.begin(0), clock.begin(0)];
        let on_first: Vec<_> = together.iter().filter(|running| running.device == 0).collect();
        let pauses: Vec<_> = on_first.iter().map(|running| running.failed(clock.at(10))).collect();
        assert_eq!(pauses, [Some(MIN_PAUSE), None]);
        drop(together);
        drop(clock.begin(1010));
        let again = clock.begin(1010);
        assert_eq!((again.device, again.failed(clock.at(1010))), (0, Some(2 * MIN_PAUSE)));
    }

    #[test]
    fn where_all_rest_the_one_whose_pause_ends_first_is_taken() {
        let clock = Clock::of_two();
        assert_eq!(clock.runs([0, 500], &[0, 1]), [0, 1]);
        assert_eq!(clock.runs([600, 601], &[0, 1]), [0, 0], "and is given no longer pause for it");
        assert_eq!(clock.runs([1000, 1001, 1500], &[0, 1]), [0, 1, 1]);
        assert_eq!(clock.run(1600, &[]), 0, "its pause ends at 3000, the other's at 3500");
    }
}
