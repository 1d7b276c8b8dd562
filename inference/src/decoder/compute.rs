//! How a loaded model computes, and where.

use candle_core::Device;
use candle_core::quantized::GgmlDType;

use crate::PREFILL_CHUNK;
use crate::device::{device, name_of};

/// The most parameters with which [`Compute::for_parameters`] keeps to one core.
pub const MAX_ONE_CORE_PARAMETERS: u64 = 16 << 20;
/// Prompt tokens that a device computes together: as many rows as candle's kernels for quantised weights take at a time.
const DEVICE_CHUNK: usize = 128;

static PROCESSOR: Device = Device::Cpu;

/// How a loaded model computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// With quantised weights as the file has them, and others as f32, on all cores.
    AllCores,
    /// With all weights as f32, on one core.
    ///
    /// A small model is quickest so: a layer takes less time than waking another core, and much less than waiting
    /// for one that is busy.
    OneCore,
    /// With quantised weights as the file has them, and others as f32, on this process's GPU: weights, keys, values and
    /// all between a token and its logits stay there.
    ///
    /// Where there is no GPU, the processor does the same operations.
    Device,
}

impl Compute {
    /// What suits a model of so many parameters here: the GPU, if there is one.
    pub fn for_parameters(parameters: u64) -> Self {
        match device() {
            Device::Cpu if parameters <= MAX_ONE_CORE_PARAMETERS => Self::OneCore,
            Device::Cpu => Self::AllCores,
            Device::Cuda(_) | Device::Metal(_) => Self::Device,
        }
    }

    /// What computes so in this process: `cuda`, `metal`, or `cpu`.
    pub fn device_name(self) -> &'static str {
        name_of(self.device())
    }

    pub(crate) fn device(self) -> &'static Device {
        match self {
            Self::AllCores | Self::OneCore => &PROCESSOR,
            Self::Device => device(),
        }
    }

    /// Prompt tokens of one pass, at most.
    pub(crate) fn chunk(self) -> usize {
        match self {
            Self::AllCores | Self::OneCore => PREFILL_CHUNK,
            Self::Device => DEVICE_CHUNK,
        }
    }

    /// Whether matrices of this format stay as they are; the others become f32.
    pub(super) fn keeps(self, format: GgmlDType) -> bool {
        match self {
            Self::AllCores => !is_whole(format),
            Self::OneCore => false,
            // candle has kernels of CUDA and of Metal for products and rows of these, and of no others.
            Self::Device => matches!(
                format,
                GgmlDType::Q4_0
                    | GgmlDType::Q4_1
                    | GgmlDType::Q5_0
                    | GgmlDType::Q5_1
                    | GgmlDType::Q8_0
                    | GgmlDType::Q2K
                    | GgmlDType::Q3K
                    | GgmlDType::Q4K
                    | GgmlDType::Q5K
                    | GgmlDType::Q6K
            ),
        }
    }
}

fn is_whole(format: GgmlDType) -> bool {
    matches!(format, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16)
}
