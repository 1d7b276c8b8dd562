//! Which device computes.

use std::panic::catch_unwind;
use std::sync::OnceLock;

use candle_core::utils::{cuda_is_available, metal_is_available};
use candle_core::{Device, Error};

/// A variable by which a node keeps an engine to the processor.
pub(crate) const PROCESSOR_ONLY: &str = "SWARM_ENGINE_PROCESSOR_ONLY";

/// The first GPU of NVIDIA's or Apple's where this program was built for one (features `cuda` and `metal`) and there is
/// one; else the processor.
///
/// `CUDA_VISIBLE_DEVICES`, which NVIDIA's driver reads, chooses another one, or none.
pub(crate) fn device() -> &'static Device {
    static CHOSEN: OnceLock<Device> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let found = if std::env::var_os(PROCESSOR_ONLY).is_some() {
            return Device::Cpu;
        } else if cuda_is_available() {
            // One stream for all threads: products share scratch memory, which only the order of one stream keeps apart.
            Device::new_cuda_with_stream(0)
        } else if metal_is_available() {
            metal()
        } else {
            return Device::Cpu;
        };
        found.unwrap_or_else(|error| {
            tracing::warn!("no GPU is used: {error}");
            Device::Cpu
        })
    })
}

/// candle panics where macOS shows no GPU, as on some virtual machines.
fn metal() -> candle_core::Result<Device> {
    let found = catch_unwind(|| Device::new_metal(0));
    found.unwrap_or_else(|_| Err(Error::msg("macOS shows none")))
}

/// What computes models and benchmarks in this process: `cuda`, `metal`, or `cpu`.
pub fn device_name() -> &'static str {
    name_of(device())
}

/// What [`device_name`] calls a device.
pub(crate) fn name_of(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}
