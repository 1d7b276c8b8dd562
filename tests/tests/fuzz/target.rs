//! One decoder, what it must be seen to do, and what a run of it showed.

use crate::corpus;
use crate::mutate::{Rng, mutate};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a decoder made of bytes: the name of its answer, or of its error.
pub type Outcome = Cow<'static, str>;

/// Decodes, and asserts what must hold of what it got.
pub type Decoder = Box<dyn FnMut(&[u8]) -> Outcome>;

/// Longer words in an error are no names.
const MAX_NAME_BYTES: usize = 24;
/// Faults of one decoder that are told.
const MAX_FAULTS: usize = 8;
/// Outcomes of which an input is kept to be changed further.
const MAX_KEPT: usize = 512;

pub struct Target {
    pub name: &'static str,
    /// Its part of all executions, in thousandths.
    pub share: u64,
    /// The longest input.
    pub max_bytes: usize,
    /// Memory that may be taken at once: for each byte of input, and beyond.
    pub memory: (usize, usize),
    /// Outcomes that a run must reach.
    pub must: Vec<&'static str>,
    pub run: Decoder,
}

/// What a run showed.
pub struct Shown {
    pub name: &'static str,
    pub executions: u64,
    pub outcomes: BTreeMap<Outcome, u64>,
    /// The most memory that one input took, in bytes.
    pub peak: usize,
    pub missed: Vec<&'static str>,
    pub faults: Vec<String>,
}

/// The names of an error and of what is in it, without what is particular: `Malformed(NotCanonical)`.
pub fn name(of: &dyn Debug) -> Outcome {
    let text = format!("{of:?}");
    let mut end = 0;
    for part in text.split_inclusive(['(', ' ']) {
        let word = part.trim_end_matches(['(', ' ', ')', ',']);
        let is_name = word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == ')');
        if !is_name || word.len() > MAX_NAME_BYTES {
            break;
        }
        end += part.len();
        if !part.ends_with('(') {
            break;
        }
    }
    text[..end].trim_end_matches(['(', ' ', '{', ')', ',']).replace('(', ".").into()
}

impl Target {
    /// Decodes one input: its outcome, and the most memory that it took at once.
    pub fn execute(&mut self, input: &[u8], memory: &peak_alloc::PeakAlloc) -> (Outcome, usize) {
        let before = memory.current_usage();
        memory.reset_peak_usage();
        let outcome = (self.run)(input);
        (outcome, memory.peak_usage().saturating_sub(before))
    }

    /// The most memory that an input of so many bytes may take.
    pub fn allowed(&self, bytes: usize) -> usize {
        bytes * self.memory.0 + self.memory.1
    }

    pub fn fuzz(mut self, executions: u64, seed: u64, memory: &peak_alloc::PeakAlloc) -> Shown {
        let mut pool = corpus::read(self.name);
        assert!(!pool.is_empty(), "no corpus for {}", self.name);
        let mut shown = Shown {
            name: self.name,
            executions,
            outcomes: BTreeMap::new(),
            peak: 0,
            missed: Vec::new(),
            faults: Vec::new(),
        };
        let mut rng = Rng(seed);
        let committed = pool.len() as u64;
        for n in 0..executions.max(committed) {
            let input = match pool.get(usize::try_from(n).expect("few")) {
                Some(input) if n < committed => input.clone(),
                _ => {
                    let (of, other) = (rng.below(pool.len()), rng.below(pool.len()));
                    mutate(&mut rng, &pool[of], &pool[other], self.max_bytes)
                }
            };
            let executed = catch_unwind(AssertUnwindSafe(|| self.execute(&input, memory)));
            let (outcome, taken) = executed.unwrap_or_else(|_| (shown.fault("it panics", &input), 0));
            shown.peak = shown.peak.max(taken);
            if taken > self.allowed(input.len()) {
                shown.fault(&format!("it takes {taken} bytes of memory"), &input);
            }
            let times = shown.outcomes.entry(outcome.clone()).or_default();
            *times += 1;
            if *times == 1 && n >= committed {
                corpus::keep(self.name, &outcome, &input);
                if pool.len() < MAX_KEPT {
                    pool.push(input);
                }
            }
        }
        let reached = |must: &str| {
            let inside =
                |outcome: &Outcome| outcome.strip_prefix(must).is_some_and(|rest| rest.starts_with('.'));
            shown.outcomes.keys().any(|outcome| outcome == must || inside(outcome))
        };
        self.must.retain(|must| !reached(must));
        shown.missed = self.must;
        shown
    }
}

impl Shown {
    fn fault(&mut self, what: &str, input: &[u8]) -> Outcome {
        if self.faults.len() < MAX_FAULTS {
            let path = std::env::temp_dir().join(format!("fuzz-{}-{}", self.name, self.faults.len()));
            std::fs::write(&path, input).expect("the input can be kept");
            self.faults.push(format!(
                "{}: {what}, given {} bytes: {}",
                self.name,
                input.len(),
                path.display()
            ));
        }
        "fault".into()
    }

    /// Lines of the table.
    pub fn lines(&self) -> Vec<String> {
        let title = format!(
            "{} ({} executions, at most {} KiB at once)",
            self.name,
            self.executions,
            self.peak / 1024
        );
        let outcomes = self.outcomes.iter().map(|(outcome, times)| format!("    {times:>8}  {outcome}"));
        let missed = self.missed.iter().map(|missed| format!("       never  {missed}"));
        std::iter::once(title).chain(outcomes).chain(missed).collect()
    }
}
