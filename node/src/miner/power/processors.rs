//! Counters of energy of whole processors, as in the kernel's `Documentation/power/powercap/powercap.rst`.

use std::fs;
use std::path::{Path, PathBuf};

/// The most packages that are read.
const MAX_PACKAGES: usize = 64;

/// The processors of a machine. Most kernels show their counters to root only.
#[derive(Debug)]
pub(super) struct Processors(Vec<Package>);

#[derive(Debug)]
struct Package {
    counter: PathBuf,
    /// Where the counter begins anew, in microjoules.
    range: u64,
    last: u64,
}

impl Processors {
    /// The packages below a folder whose counters can be read.
    pub(super) fn probe(root: &Path) -> Option<Self> {
        let entries = fs::read_dir(root).ok()?.filter_map(Result::ok);
        let packages: Vec<_> =
            entries.filter_map(|entry| Package::open(&entry.path())).take(MAX_PACKAGES).collect();
        (!packages.is_empty()).then_some(Self(packages))
    }

    /// Joules since they were asked the last time.
    pub(super) fn used(&mut self) -> f64 {
        self.0.iter_mut().map(Package::used).sum::<u64>() as f64 / 1e6
    }
}

impl Package {
    fn open(folder: &Path) -> Option<Self> {
        // `intel-rapl:0` is a package, also of AMD's; `intel-rapl:0:0` is a part of it.
        let name = folder.file_name()?.to_str()?;
        name.strip_prefix("intel-rapl:")?.parse::<u32>().ok()?;
        let counter = folder.join("energy_uj");
        let (range, last) = (number(&folder.join("max_energy_range_uj"))?, number(&counter)?);
        Some(Self { counter, range, last })
    }

    fn used(&mut self) -> u64 {
        let Some(now) = number(&self.counter) else { return 0 };
        let before = std::mem::replace(&mut self.last, now);
        if now >= before { now - before } else { self.range.saturating_sub(before) + now }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
