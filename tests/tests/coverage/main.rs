//! The decoders of the stable fuzzer under libFuzzer, which keeps whatever input reaches new code. `FUZZ_TARGET` names
//! the decoder; `scripts/coverage-fuzz.sh` builds this with coverage and runs all of them.

#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the stable fuzzer mutates and keeps by itself")]

#[path = "../fuzz/core.rs"]
mod core;
#[path = "../fuzz/corpus.rs"]
mod corpus;
#[path = "../fuzz/files.rs"]
mod files;
#[path = "../fuzz/ipfs.rs"]
mod ipfs;
#[path = "../fuzz/mutate.rs"]
mod mutate;
#[path = "../fuzz/protocol.rs"]
mod protocol;
#[path = "../fuzz/target.rs"]
mod target;

use libfuzzer_sys::{Corpus, fuzz_target};
use std::cell::RefCell;
use std::sync::LazyLock;
use target::Target;

/// Counts what is taken from the system's allocator.
#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

thread_local!(static TARGET: RefCell<Target> = RefCell::new(named()));

fn targets() -> Vec<Target> {
    let mut targets = protocol::targets();
    targets.extend(ipfs::targets());
    targets.extend(files::targets(FOLDER.path()));
    targets.push(core::target());
    targets
}

/// The decoder that `FUZZ_TARGET` names. Without one, prints each one's name, share and longest input, and ends.
fn named() -> Target {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    if let Some(found) = targets().into_iter().find(|target| target.name == wanted) {
        return found;
    }
    for target in targets() {
        println!("{} {} {}", target.name, target.share, target.max_bytes);
    }
    std::process::exit(if wanted.is_empty() { 0 } else { 2 });
}

fuzz_target!(
    init: TARGET.with_borrow(|_| ()),
    |input: &[u8]| -> Corpus {
        TARGET.with_borrow_mut(|target| {
            if input.len() > target.max_bytes {
                return Corpus::Reject;
            }
            let (_, taken) = target.execute(input, &MEMORY);
            assert!(taken <= target.allowed(input.len()), "it takes {taken} bytes of memory");
            Corpus::Keep
        })
    }
);
