//! The narrow seam: allocate, copy, fill, launch, synchronise. Knows nothing of tensors, shapes or ops.
//!
//! Two devices: [`Cpu`] (plain Rust, the embedded default and the oracle) and [`Gpu`] (CUDA through the driver
//! API: NVIDIA's `libcuda`, or the emulator's, see `kernels/emu/README.md`).

mod census;
mod counters;
mod cpu;
pub mod driver;
mod gpu;
mod gpu_buffer;
mod guard;
mod launch;
mod pool;

pub use census::KernelWork;
pub use counters::Counters;
pub use cpu::{Cpu, HostBuffer, VectorWidth};
pub use gpu::{Captured, Gpu};
pub use gpu_buffer::GpuBuffer;
pub use launch::Launch;
pub use pool::MemoryStats;

use crate::{Error, Result};
use std::sync::Arc;

/// Where tensors live and ops run. Cheap to clone.
#[derive(Clone)]
pub enum Device {
    Cpu(Arc<Cpu>),
    Gpu(Arc<Gpu>),
}

impl Device {
    /// A CPU device with its own memory pool.
    pub fn cpu() -> Self {
        Self::Cpu(Arc::new(Cpu::new(false)))
    }

    /// A CPU device whose fresh memory is filled with NaN, so that a read of something never written shows.
    pub fn cpu_poisoned() -> Self {
        Self::Cpu(Arc::new(Cpu::new(true)))
    }

    /// Opens `cpu`, `cuda`, `cuda:I`, `emulator` or `auto`, and says why that device was taken.
    ///
    /// `auto` takes the first CUDA device if a driver is present and this build holds device code for it, else the CPU.
    pub fn open(spec: &str) -> Result<(Self, String)> {
        match spec {
            "cpu" => Ok((Self::cpu(), "asked for with --device cpu".into())),
            "emulator" => {
                Ok((Self::emulator()?, "asked for with --device emulator; slow, for tests and counts".into()))
            }
            "auto" => match driver::availability() {
                Ok(()) => match Gpu::open(0) {
                    Ok(g) => Ok((Self::Gpu(Arc::new(g)), "a CUDA driver and device were found".into())),
                    Err(e) => Ok((Self::cpu(), format!("the CUDA device could not be opened: {e}"))),
                },
                Err(why) => Ok((Self::cpu(), why)),
            },
            _ => {
                let ordinal = match spec.strip_prefix("cuda") {
                    Some("") => Some(0),
                    Some(rest) => rest.strip_prefix(':').and_then(|i| i.parse::<usize>().ok()),
                    None => None,
                };
                let Some(ordinal) = ordinal else {
                    let known = "cpu, cuda, cuda:INDEX, emulator, auto";
                    return Err(Error::config("--device", format!("'{spec}' is none of {known}")));
                };
                driver::availability()
                    .map_err(|why| Error::Device { device: spec.into(), detail: format!("{why}; use --device cpu") })?;
                Ok((Self::Gpu(Arc::new(Gpu::open(ordinal)?)), format!("asked for with --device {spec}")))
            }
        }
    }

    /// Another device on the same hardware, for work that goes on beside this one's: a memory pool of its own and, on a GPU,
    /// a stream of its own.
    pub fn beside(&self) -> Result<Self> {
        match self {
            Self::Cpu(_) => Ok(Self::cpu()),
            Self::Gpu(g) => Ok(Self::Gpu(Arc::new(Gpu::open(g.ordinal())?))),
        }
    }

    /// [`Device::beside`] that counts work by kernel on a GPU, see [`Gpu::take_census`].
    pub fn counting(&self) -> Result<Self> {
        match self {
            Self::Cpu(_) => Ok(Self::cpu()),
            Self::Gpu(g) => Ok(Self::Gpu(Arc::new(Gpu::open_counting(g.ordinal())?))),
        }
    }

    /// The emulated CUDA device of this build (tests). Errors if the build has no emulator or another driver is loaded.
    /// `GHOSTBIT_TEST_DRIVER=check` takes the library that checks for races and bounds (much slower).
    pub fn emulator() -> Result<Self> {
        Ok(Self::Gpu(Arc::new(Gpu::open(load_emulator()?)?)))
    }

    /// Whether this is the emulated device: its times say nothing.
    pub fn is_emulated(&self) -> bool {
        !self.is_cpu() && driver::emulated().is_some()
    }
    /// [`Device::emulator`] with guard bands around every buffer and NaN in fresh memory; [`Device::synchronize`] reports
    /// writes that missed their buffer. On the checking library only the memory is NaN: it knows the bounds itself.
    pub fn emulator_guarded() -> Result<Self> {
        Ok(Self::Gpu(Arc::new(Gpu::open_guarded(load_emulator()?)?)))
    }

    /// The first CUDA device, guarded in the same way (tests on a GPU).
    pub fn cuda_guarded() -> Result<Self> {
        driver::availability().map_err(|detail| Error::Device { device: "cuda".into(), detail })?;
        Ok(Self::Gpu(Arc::new(Gpu::open_guarded(0)?)))
    }

    /// Human name, e.g. `cpu (AVX-512, 2 threads)` or `cuda:0 NVIDIA H200`.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu(c) => c.name(),
            Self::Gpu(g) => g.name().to_string(),
        }
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(g) => Some(g),
        }
    }

    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu(_))
    }

    /// Waits for all launched work; surfaces an asynchronous kernel error and, on a guarded device, writes outside of
    /// buffers.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(g) => g.synchronize().and_then(|()| g.check_guards()),
        }
    }

    /// Seconds from the start to the end of `work`: by the clock on the CPU, by events of the stream on a GPU, where gaps
    /// in which it waits for the host count too. Waits before and after.
    pub fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        match self {
            Self::Cpu(_) => {
                let start = std::time::Instant::now();
                work()?;
                Ok(start.elapsed().as_secs_f64())
            }
            Self::Gpu(g) => g.timed(work),
        }
    }

    /// Bytes in use, high-water mark, and bytes reserved by the pool.
    pub fn memory(&self) -> MemoryStats {
        match self {
            Self::Cpu(c) => c.pool.stats(),
            Self::Gpu(g) => g.pool.stats(),
        }
    }
}

/// Loads the emulator that `GHOSTBIT_TEST_DRIVER` asks for; its one device is number 0.
fn load_emulator() -> Result<usize> {
    let check = std::env::var("GHOSTBIT_TEST_DRIVER").is_ok_and(|v| v == "check");
    driver::load_emulator(if check { driver::EMULATOR_CHECK } else { driver::EMULATOR })?;
    Ok(0)
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cpu(_), Self::Cpu(_)) => true,
            (Self::Gpu(a), Self::Gpu(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}
