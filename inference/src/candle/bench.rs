//! Matrix products on the device, timed.

use std::time::{Duration, Instant};

use candle_core::{DType as Stored, Tensor};

use super::Place;
use crate::bench::{Factors, cells};
use crate::device::device;
use crate::{
    BenchRequest, CancelToken, DType, Engine, EngineError, Flow, Interrupt, Lap, LoadError, MAX_BENCH_SIDE,
    Manifest, Model,
};

/// What a benchmark's manifest calls itself.
pub(super) const ARCHITECTURE: &str = "matmul";

pub(super) struct Bench {
    manifest: Manifest,
    place: Place,
}

impl Bench {
    pub(super) fn new(model: &Model, place: Place) -> Result<Self, LoadError> {
        // Its text is what its digest stands for.
        model.open()?;
        Ok(Self { manifest: model.manifest.clone(), place })
    }

    fn run(
        &self,
        request: &BenchRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(Lap) -> Flow,
    ) -> Result<(), EngineError> {
        check(request)?;
        let cancels = [cancel, &self.place.stopped];
        let interrupt = Interrupt::new(&cancels, request.deadline);
        let (device, [m, n, k]) = (device(), sides(request));
        let stored = stored(request.dtype);
        let matrix = |stream, rows: usize, columns: usize| {
            let cells = cells(&request.seed, stream, rows * columns);
            Tensor::from_vec(cells, (rows, columns), device)?.to_dtype(stored)
        };
        let (a, b) = (matrix(0, m, k)?, matrix(1, k, n)?);
        let mut factors = Factors::new(&request.seed);
        for _ in 0..request.repeats {
            interrupt.check()?;
            let begun = Instant::now();
            let product = multiply(&a, &b)?;
            device.synchronize()?;
            let time = begun.elapsed().max(Duration::from_nanos(1));
            interrupt.check()?;
            let cells: Vec<f32> = product.to_dtype(Stored::F32)?.flatten_all()?.to_vec1()?;
            if sink(Lap { time, checksum: factors.checksum(&cells, m) }) == Flow::Stop {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    }
}

impl Engine for Bench {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn benchmark(
        &mut self,
        request: &BenchRequest,
        cancel: &CancelToken,
        sink: &mut dyn FnMut(Lap) -> Flow,
    ) -> Result<(), EngineError> {
        let begun = Instant::now();
        let result = self.run(request, cancel, sink);
        self.place.count(&result, 0, begun.elapsed());
        result
    }
}

fn stored(dtype: DType) -> Stored {
    match dtype {
        DType::F32 => Stored::F32,
        DType::F16 => Stored::F16,
        DType::Bf16 => Stored::BF16,
    }
}

fn sides(request: &BenchRequest) -> [usize; 3] {
    [request.m, request.n, request.k].map(|side| side as usize)
}

fn check(request: &BenchRequest) -> Result<(), EngineError> {
    if [request.m, request.n, request.k].iter().any(|side| !(1..=MAX_BENCH_SIDE).contains(side)) {
        return Err(EngineError::Request("a side of a matrix is 1 to 4096"));
    }
    let [m, n, k] = sides(request);
    // The widest form of each while it is made, and the product twice.
    let needed = 4 * (2 * m * k + 2 * k * n + 2 * m * n) as u64;
    match request.max_memory_bytes {
        Some(allowed) if needed > allowed => Err(EngineError::Memory { needed, allowed }),
        _ => Ok(()),
    }
}

/// A product in the tensors' own format. candle has none of bf16 on processors: there widening is part of the product.
fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor, candle_core::Error> {
    if a.dtype() == Stored::BF16 && a.device().is_cpu() {
        return a.to_dtype(Stored::F32)?.matmul(&b.to_dtype(Stored::F32)?)?.to_dtype(Stored::BF16);
    }
    a.matmul(b)
}
