//! With its folder all that names cudarc: a CUDA context, one stream, pooled memory, kernels by name; copies and captured graphs.

mod copies;
mod graph;

pub use graph::Captured;

use super::census::{Census, KernelWork};
use super::counters::Counters;
use super::gpu_buffer::GpuBuffer;
use super::guard::{Guarded, Guards};
use super::pool::{Pool, block_bytes};
use crate::{Error, Result};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Whether a `libcuda` can be loaded. cudarc panics without one, so everything asks this first.
pub(super) fn driver_present() -> bool {
    // SAFETY: only looks for the library.
    unsafe { sys::is_culib_present() }
}

pub(super) fn device_count() -> std::result::Result<i32, String> {
    CudaContext::device_count().map_err(|e| describe(&e))
}

fn describe(e: &DriverError) -> String {
    let name = e.error_name().ok().map(|n| n.to_string_lossy().into_owned());
    let text = e.error_string().ok().map(|n| n.to_string_lossy().into_owned());
    match (name, text) {
        (Some(n), Some(t)) => format!("{n}: {t}"),
        _ => format!("{e:?}"),
    }
}

/// Counters of [`Gpu::arrivals`].
const ARRIVALS: usize = 1 << 14;

/// One CUDA device with one stream. Launches are asynchronous and ordered.
pub struct Gpu {
    ctx: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    ordinal: usize,
    pub(super) pool: Pool,
    /// Kernel name -> function address; modules stay loaded as long as the device.
    functions: Mutex<HashMap<&'static str, usize>>,
    modules: Mutex<HashMap<&'static str, usize>>,
    sync_launches: bool,
    pub(super) guards: Option<Guards>,
    census: Option<Census>,
    queue: Mutex<Queue>,
    /// Address of the counters.
    arrivals: u64,
    /// Keeps what was borrowed until this device is gone.
    lenders: Mutex<Vec<Arc<dyn Send + Sync>>>,
    wgmma: bool,
}

/// What the stream has been given so far.
#[derive(Default)]
struct Queue {
    counters: Counters,
    /// The kernel or graph queued last: errors that surface while waiting can name no more.
    last: Option<String>,
    /// Whether a graph is being recorded.
    recording: bool,
}

impl Gpu {
    /// Opens CUDA device `ordinal`. `GHOSTBIT_SYNC_LAUNCHES=1` waits after every launch, so that an error names its kernel.
    pub fn open(ordinal: usize) -> Result<Self> {
        let device = format!("cuda:{ordinal}");
        let fail = |detail: String| Error::Device { device: device.clone(), detail };
        if !driver_present() {
            return Err(fail("no CUDA driver (libcuda) on this machine; use --device cpu".into()));
        }
        let count = device_count().map_err(&fail)?;
        if ordinal as i32 >= count {
            return Err(fail(format!("the driver reports {count} devices")));
        }
        let ctx = CudaContext::new(ordinal).map_err(|e| fail(describe(&e)))?;
        // SAFETY: slices' own events are not used; all work goes through one stream in program order.
        unsafe { ctx.disable_event_tracking() };
        let stream = ctx.new_stream().map_err(|e| fail(describe(&e)))?;
        let name = format!("cuda:{ordinal} {}", ctx.name().map_err(|e| fail(describe(&e)))?);
        // Kernels for it are compiled for sm_90a, whose code no other architecture takes.
        let wgmma = ctx.compute_capability().map_err(|e| fail(describe(&e)))? == (9, 0);
        // SAFETY: a plain allocation, freed in `Drop`, and a fill inside it.
        let arrivals = unsafe {
            result::malloc_sync(4 * ARRIVALS)
                .and_then(|a| result::memset_d8_async(a, 0, 4 * ARRIVALS, stream.cu_stream()).map(|()| a))
        };
        let arrivals = arrivals.map_err(|e| fail(describe(&e)))?;
        super::driver::carve(arrivals, 4 * ARRIVALS);
        let sync_launches = std::env::var_os("GHOSTBIT_SYNC_LAUNCHES").is_some_and(|v| v != "0");
        Ok(Self {
            ctx,
            stream,
            name,
            ordinal,
            pool: Pool::default(),
            functions: Mutex::default(),
            modules: Mutex::default(),
            sync_launches,
            guards: None,
            census: None,
            queue: Mutex::default(),
            arrivals,
            lenders: Mutex::default(),
            wgmma,
        })
    }

    /// [`Gpu::open`] for tests: buffers lie between guard bands (see [`Gpu::check_guards`]), and fresh memory is NaN.
    pub fn open_guarded(ordinal: usize) -> Result<Self> {
        let mut gpu = Self::open(ordinal)?;
        // The checking library reports every access outside of a buffer, so the bands must stay out of its way.
        let checked = super::driver::emulated().is_some_and(|l| l == super::driver::EMULATOR_CHECK);
        gpu.guards = Some(Guards::new(!checked));
        Ok(gpu)
    }

    /// [`Gpu::open`], counting work by kernel.
    pub fn open_counting(ordinal: usize) -> Result<Self> {
        let mut gpu = Self::open(ordinal)?;
        gpu.census = Some(Census::default());
        Ok(gpu)
    }

    /// Work by kernel since the last call, copies and fills as `(copy)` and `(fill)`; empty unless this device counts. What is
    /// replayed as a graph was counted when it was recorded.
    pub fn take_census(&self) -> BTreeMap<&'static str, KernelWork> {
        self.census.as_ref().map_or(BTreeMap::new(), Census::take)
    }

    pub(super) fn census(&self) -> Option<&Census> {
        self.census.as_ref()
    }

    /// Waits, then reports writes just outside of a buffer; always `Ok` on a device without guards.
    pub fn check_guards(&self) -> Result<()> {
        self.guards.as_ref().map_or(Ok(()), |g| g.check(self))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the device multiplies by warpgroups (`kernels/include/wgmma.cuh`).
    pub fn has_wgmma(&self) -> bool {
        self.wgmma
    }

    fn error(&self, detail: impl Into<String>) -> Error {
        Error::Device { device: self.name.clone(), detail: detail.into() }
    }

    fn bind(&self) -> Result<()> {
        self.ctx.bind_to_thread().map_err(|e| self.error(describe(&e)))
    }

    /// Uninitialised device memory.
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<GpuBuffer> {
        let band = self.guards.as_ref().map_or(0, |g| g.band);
        let block = block_bytes(bytes + 2 * band);
        let base = match self.pool.take(block) {
            Some(a) => a,
            None => {
                self.bind()?;
                // SAFETY: a plain allocation; freed in `Drop` of the device.
                let a = unsafe { result::malloc_sync(block) }.map_err(|e| {
                    if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                        let held = self.pool.stats().reserved;
                        Error::OutOfMemory { device: self.name.clone(), asked: block, held }
                    } else {
                        self.error(describe(&e))
                    }
                })?;
                self.pool.grew(block, a);
                let c = &mut self.queue.lock().unwrap().counters;
                (c.allocations, c.allocated) = (c.allocations + 1, c.allocated + block as u64);
                a
            }
        };
        let address = base + band as u64;
        // Bands must stay within reach of copies: with them the whole block is the emulator's piece.
        super::driver::carve(base, if band > 0 { block } else { bytes });
        // Made first: it gives the block back should drawing the bands fail.
        let buffer = GpuBuffer { address, base, block, device: self.clone(), borrowed: false };
        if let Some(guards) = &self.guards {
            guards.open(self, Guarded { address, bytes, block })?;
        }
        Ok(buffer)
    }

    /// `buffer` of another [`Gpu`] on the same hardware, for reading by this one's kernels; nobody may write to it from then on.
    /// `keeper` is what frees the buffer when it is dropped: it is kept until this device is gone and its stream has come to an
    /// end, so that nothing of it is freed under a kernel. Waits for all work queued on the buffer's own stream, which may be
    /// what fills it. Errors between two GPUs.
    pub fn borrow(self: &Arc<Self>, buffer: &GpuBuffer, keeper: Arc<dyn Send + Sync>) -> Result<GpuBuffer> {
        let from = buffer.device();
        if from.ordinal != self.ordinal {
            return Err(self.error(format!("memory of {} cannot be read from here", from.name)));
        }
        // Both contexts are the process's one for that GPU, so addresses are the same in both.
        from.synchronize()?;
        self.lenders.lock().unwrap().push(keeper);
        let GpuBuffer { address, base, block, .. } = *buffer;
        Ok(GpuBuffer { address, base, block, device: self.clone(), borrowed: true })
    }

    /// The address of `count` counters at zero, for kernels whose last block goes on (`kernels/include/last_block.cuh`). All
    /// launches use the same, one after the other as the stream runs them, and leave zeros. Errors beyond 16,384.
    pub fn arrivals(&self, count: usize) -> Result<u64> {
        if count > ARRIVALS {
            return Err(self.error(format!("{count} counters of blocks asked for, there are {ARRIVALS}")));
        }
        Ok(self.arrivals)
    }

    /// Calls so far.
    pub fn counters(&self) -> Counters {
        self.queue.lock().unwrap().counters
    }

    /// Refuses what a graph cannot hold while one is recorded; the driver would spoil the recording without saying where.
    fn not_recorded(&self, what: impl Fn() -> String) -> Result<()> {
        let queue = self.queue.lock().unwrap();
        if !queue.recording {
            return Ok(());
        }
        let after = queue.last.as_deref().unwrap_or("nothing");
        Err(self.error(format!("{} while a graph is recorded (after {after})", what())))
    }

    /// Whether a graph is being recorded.
    pub(super) fn recording(&self) -> bool {
        self.queue.lock().unwrap().recording
    }

    /// Waits for all queued work. An error of a kernel that surfaces here names what was queued last.
    pub fn synchronize(&self) -> Result<()> {
        self.not_recorded(|| "a wait".into())?;
        let last = {
            let mut queue = self.queue.lock().unwrap();
            queue.counters.waits += 1;
            queue.last.clone()
        };
        self.stream.synchronize().map_err(|e| {
            let after = last.map_or(String::new(), |last| format!("; queued last: {last}"));
            self.error(format!("{}{after}", describe(&e)))
        })
    }

    /// Seconds between two events of the stream, around what `work` queues.
    pub(super) fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.synchronize()?;
        let mark = || self.stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let start = mark().map_err(|e| self.error(describe(&e)))?;
        work()?;
        let end = mark().map_err(|e| self.error(describe(&e)))?;
        self.synchronize()?;
        let ms = start.elapsed_ms(&end).map_err(|e| self.error(describe(&e)))?;
        Ok(f64::from(ms) * 1e-3)
    }

    fn function(&self, kernel: &'static str) -> Result<sys::CUfunction> {
        if let Some(f) = self.functions.lock().unwrap().get(kernel) {
            return Ok(*f as sys::CUfunction);
        }
        let missing = |detail: String| Error::Kernel { kernel: kernel.into(), grid: [0; 3], block: [0; 3], detail };
        let file = KERNELS
            .iter()
            .find(|(k, _)| *k == kernel)
            .map(|(_, f)| *f)
            .ok_or_else(|| missing("no kernel of that name in kernels/*.cu".into()))?;
        let module = {
            let mut modules = self.modules.lock().unwrap();
            match modules.get(file) {
                Some(m) => *m as sys::CUmodule,
                None => {
                    // The emulator finds kernels by name and ignores the image.
                    let image = MODULES.iter().find(|(f, _)| *f == file).map_or(&[0u8; 64][..], |(_, i)| i);
                    self.bind()?;
                    // SAFETY: a fatbin that nvcc wrote (or any bytes, for the emulator).
                    let m = unsafe { result::module::load_data(image.as_ptr().cast()) }
                        .map_err(|e| missing(format!("kernels/{file}.cu does not load: {}", describe(&e))))?;
                    modules.insert(file, m as usize);
                    m
                }
            }
        };
        let name = CString::new(kernel).expect("kernel names hold no NUL");
        // SAFETY: a live module.
        let f = unsafe { result::module::get_function(module, name) }.map_err(|e| missing(describe(&e)))?;
        self.functions.lock().unwrap().insert(kernel, f as usize);
        Ok(f)
    }

    pub(super) fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 3],
        block: [u32; 3],
        smem: u32,
        args: &mut [*mut c_void],
    ) -> Result<()> {
        let fail = |e: DriverError| Error::Kernel { kernel: kernel.into(), grid, block, detail: describe(&e) };
        let f = self.function(kernel)?;
        self.bind()?;
        if smem > 48 * 1024 {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a live function.
            unsafe { result::function::set_function_attribute(f, attribute, smem as i32) }.map_err(fail)?;
        }
        // SAFETY: `args` point at values laid out as the kernel's parameters (the ops' contract, tested per op).
        unsafe {
            result::launch_kernel(f, grid.into(), block.into(), smem, self.stream.cu_stream(), args).map_err(fail)?;
        }
        let recording = {
            let mut queue = self.queue.lock().unwrap();
            let recording = queue.recording;
            let c = &mut queue.counters;
            if recording {
                c.recorded += 1
            } else {
                c.launches += 1
            }
            match &mut queue.last {
                Some(last) => {
                    last.clear();
                    last.push_str(kernel);
                }
                last => *last = Some(kernel.into()),
            }
            recording
        };
        if self.sync_launches && !recording {
            self.stream.synchronize().map_err(fail)?;
        }
        Ok(())
    }

    pub fn ordinal(&self) -> usize {
        self.ordinal
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.ctx.bind_to_thread();
        let _ = self.stream.synchronize();
        self.pool.drain(|_, address| {
            // SAFETY: free blocks came from `malloc_sync` and nothing uses them. Errors at exit help nobody.
            let _ = unsafe { result::free_sync(address) };
        });
        super::driver::uncarve(self.arrivals);
        // SAFETY: as above; the last launch is done.
        let _ = unsafe { result::free_sync(self.arrivals) };
        for (_, m) in self.modules.lock().unwrap().drain() {
            // SAFETY: loaded by this device, and no launch is pending.
            let _ = unsafe { result::module::unload(m as sys::CUmodule) };
        }
    }
}
