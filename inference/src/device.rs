//! Which device computes.

use std::sync::OnceLock;

use candle_core::Device;
use candle_core::utils::cuda_is_available;

/// The first GPU of NVIDIA's where this program was built for one (feature `cuda`) and there is one; else the processor.
///
/// `CUDA_VISIBLE_DEVICES`, which the driver reads, chooses another one, or none.
pub(crate) fn device() -> &'static Device {
    static CHOSEN: OnceLock<Device> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        if !cuda_is_available() {
            return Device::Cpu;
        }
        // One stream for all threads: products share scratch memory, which only the order of one stream keeps apart.
        Device::new_cuda_with_stream(0).unwrap_or_else(|error| {
            tracing::warn!("no GPU is used: {error}");
            Device::Cpu
        })
    })
}

/// What computes models and benchmarks in this process: `cuda`, or `cpu`.
pub fn device_name() -> &'static str {
    name_of(device())
}

/// What [`device_name`] calls a device.
pub(crate) fn name_of(device: &Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}
