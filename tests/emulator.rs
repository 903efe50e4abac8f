//! The emulator's checker finds planted bugs and names them. (Its fragments: tests/fragments.rs.)

#![cfg(feature = "emulator")]

use cudarc::driver::{CudaContext, CudaStream, result, sys};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// The checking library's driver, one stream, and the text of the last failure.
struct Emulator {
    stream: Arc<CudaStream>,
    module: usize,
    last_error: extern "C" fn() -> *const c_char,
}

/// One test at a time: the last error belongs to the process.
fn emulator() -> MutexGuard<'static, Emulator> {
    static EMULATOR: OnceLock<Mutex<Emulator>> = OnceLock::new();
    let make = || {
        // SAFETY: our own library, never unloaded; set before any thread reads the environment through it.
        unsafe {
            std::env::set_var("SIMT_QUIET", "1");
            let library = libloading::Library::new(env!("GHOSTBIT_EMULATOR_CHECK")).unwrap();
            let last_error = *library.get(b"simt_last_error").unwrap();
            std::mem::forget(library);
            let context = CudaContext::new(0).unwrap();
            context.disable_event_tracking();
            let module = result::module::load_data([0u8; 64].as_ptr().cast()).unwrap() as usize;
            Mutex::new(Emulator { stream: context.new_stream().unwrap(), module, last_error })
        }
    };
    EMULATOR.get_or_init(make).lock().unwrap_or_else(|e| e.into_inner())
}

impl Emulator {
    fn launch(
        &self,
        kernel: &str,
        blocks: u32,
        threads: u32,
        smem: u32,
        args: &mut [*mut c_void],
    ) -> Result<(), String> {
        let name = CString::new(kernel).unwrap();
        let grid = (blocks, 1, 1);
        // SAFETY: the tests pass what the kernels declare.
        unsafe {
            let f = result::module::get_function(self.module as sys::CUmodule, name).unwrap();
            result::launch_kernel(f, grid, (threads, 1, 1), smem, self.stream.cu_stream(), args)
                .map_err(|_| CStr::from_ptr((self.last_error)()).to_string_lossy().into_owned())
        }
    }

    /// Runs `kernel(inputs..., output)` with one warp and returns the output.
    fn warp<T: cudarc::driver::DeviceRepr + Clone + Default>(
        &self,
        kernel: &str,
        threads: u32,
        inputs: &[&[u32]],
        output: Vec<T>,
    ) -> Vec<T> {
        use cudarc::driver::DevicePtr;
        let inputs: Vec<_> = inputs.iter().map(|x| self.stream.clone_htod(*x).unwrap()).collect();
        let output = self.stream.clone_htod(&output).unwrap();
        let mut pointers: Vec<u64> = inputs.iter().map(|x| x.device_ptr(&self.stream).0).collect();
        pointers.push(output.device_ptr(&self.stream).0);
        let mut args: Vec<*mut c_void> = pointers.iter_mut().map(|p| (p as *mut u64).cast()).collect();
        self.launch(kernel, 1, threads, 0, &mut args).unwrap();
        self.stream.clone_dtoh(&output).unwrap()
    }
}

/// Runs a planted or fixed kernel: blocks of 64 threads (a warpgroup of 128) on a buffer of 128 zeros.
fn bug(kernel: &str) -> Result<(), String> {
    use cudarc::driver::DevicePtr;
    let emulator = emulator();
    let y = emulator.stream.clone_htod(&[0f32; 128]).unwrap();
    let (mut pointer, mut n) = (y.device_ptr(&emulator.stream).0, 128i32);
    let mut args: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut n).cast()];
    let blocks = match kernel.split_once('_').unwrap().1 {
        "global_bounds" => 3,
        "block_race" | "missing_fence" | "early_arrival" => 2,
        _ => 1,
    };
    let (threads, smem) = if kernel.contains("wgmma") { (128, 1024 + 144 * 128) } else { (64, 256) };
    emulator.launch(kernel, blocks, threads, smem, &mut args)
}

/// The bug must be found, at its line, with `words` in the text; the corrected twin must run silently.
#[track_caller]
fn found(name: &str, words: &[&str]) {
    let kernel = format!("planted_{name}");
    let error = bug(&kernel).expect_err(&kernel);
    let source = include_str!("../kernels/emu/planted/bugs.cu");
    let line = source.lines().position(|l| l.ends_with(&format!("BUG {kernel}"))).expect("a marked line") + 1;
    let place = format!("bugs.cu:{line}");
    for word in [&kernel, "block (", "thread (", &place].into_iter().chain(words.iter().copied()) {
        assert!(error.contains(word), "{kernel}: no {word:?} in: {error}");
    }
    if let Err(e) = bug(&format!("fixed_{name}")) {
        panic!("fixed_{name}: {e}");
    }
}

#[test]
fn global_bounds() {
    found("global_bounds", &["out-of-bounds write of 4 bytes", "block (2,0,0), thread (0,0,0)", "512 bytes"]);
}
#[test]
fn shared_bounds() {
    found("shared_bounds", &["out-of-bounds write", "offset 256 of an array of 256", "thread (63,0,0)"]);
}
#[test]
fn dynamic_bounds() {
    found("dynamic_bounds", &["out-of-bounds write", "256 dynamic bytes"]);
}
#[test]
fn divergent_barrier() {
    found("divergent_barrier", &["deadlock", "at a barrier", "in a warp operation"]);
}
#[test]
fn missing_barrier() {
    found("missing_barrier", &["race: ", "the other access", "bugs.cu"]);
}
#[test]
fn write_after_read() {
    found("write_after_read", &["race: read after an unordered write", "the other access"]);
}
#[test]
fn missing_syncwarp() {
    found("missing_syncwarp", &["race: "]);
}
#[test]
fn block_race() {
    found("block_race", &["race: write after an unordered write", "block (1,0,0)", "other access: block (0,0,0)"]);
}
#[test]
fn missing_fence() {
    found("missing_fence", &["race: read after an unordered write"]);
}
/// Another warp's write is not behind a barrier when the block is counted.
#[test]
fn early_arrival() {
    found("early_arrival", &["race: read after an unordered write", "thread (32,0,0)"]);
}
#[test]
fn uninitialised() {
    found("uninitialised", &["uninitialised shared memory", "+0"]);
}
#[test]
fn missing_wait() {
    found("missing_wait", &["cp.async destination before the wait"]);
}
#[test]
fn misaligned() {
    found("misaligned", &["misaligned"]);
}

#[test]
fn wgmma_proxy() {
    found("wgmma_proxy", &["without fence.proxy.async"]);
}
#[test]
fn wgmma_fence() {
    found("wgmma_fence", &["without wgmma.fence"]);
}
#[test]
fn wgmma_operands() {
    found("wgmma_operands", &["threads of a warpgroup differ"]);
}
/// An operand is read until the wait.
#[test]
fn wgmma_overwrite() {
    found("wgmma_overwrite", &["race: write after an unordered read", "wgmma.cuh"]);
}

#[test]
fn saxpy_and_its_launch_bounds() {
    use cudarc::driver::DevicePtr;
    let e = emulator();
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let (dx, dy) = (e.stream.clone_htod(&x).unwrap(), e.stream.clone_htod(&vec![1f32; 1000]).unwrap());
    let (mut px, mut py) = (dx.device_ptr(&e.stream).0, dy.device_ptr(&e.stream).0);
    let (mut a, mut n) = (2f32, 1000i32);
    let mut args: [*mut c_void; 4] =
        [(&raw mut py).cast(), (&raw mut px).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
    e.launch("selftest_saxpy", 4, 256, 0, &mut args).unwrap();
    let y = e.stream.clone_dtoh(&dy).unwrap();
    assert!(y.iter().zip(&x).all(|(y, x)| *y == 2.0 * x + 1.0));
    let error = e.launch("selftest_saxpy", 2, 512, 0, &mut args).unwrap_err();
    assert!(error.contains("__launch_bounds__ says 256"), "{error}");
}

#[test]
fn block_reductions_reach_every_thread() {
    let x: Vec<f32> = (0..96).map(|i| ((i * 37) % 96) as f32).collect();
    let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    let out = emulator().warp("selftest_reduce", 96, &[&bits], vec![0f32; 288]);
    assert!(out[..96].iter().all(|v| *v == 95.0 * 48.0));
    assert!(out[96..192].iter().all(|v| *v == 95.0));
    assert!(out[192..].iter().all(|v| *v == 0.0));
}

/// What the driver's own promises are: failures on demand, limits, capture, bounds of copies.
mod driver {
    use super::*;
    use cudarc::driver::DevicePtr;

    fn symbol<T: Copy>(name: &str) -> T {
        // SAFETY: the library is loaded for good, and the callers name the function's type.
        unsafe {
            let library = libloading::Library::new(env!("GHOSTBIT_EMULATOR_CHECK")).unwrap();
            let f = *library.get::<T>(name.as_bytes()).unwrap();
            std::mem::forget(library);
            f
        }
    }

    fn saxpy(e: &Emulator, y: u64, x: u64, n: i32) -> Result<(), String> {
        let (mut y, mut x, mut a, mut n) = (y, x, 2f32, n);
        let mut args: [*mut c_void; 4] =
            [(&raw mut y).cast(), (&raw mut x).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
        e.launch("selftest_saxpy", 1, 256, 0, &mut args)
    }

    #[test]
    fn launches_and_allocations_fail_on_demand() {
        let e = emulator();
        let x = e.stream.clone_htod(&[1f32; 256]).unwrap();
        let p = x.device_ptr(&e.stream).0;
        let fail_at: extern "C" fn(i64) = symbol("simt_set_fail_at");
        fail_at(2);
        saxpy(&e, p, p, 256).unwrap();
        assert!(saxpy(&e, p, p, 256).unwrap_err().contains("injected failure"));
        saxpy(&e, p, p, 256).unwrap();

        let limit: extern "C" fn(usize) = symbol("simt_set_mem_limit");
        limit(1 << 20);
        let error = e.stream.alloc_zeros::<u8>(2 << 20).unwrap_err();
        limit(0);
        assert_eq!(error.0, sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    }

    #[test]
    fn a_graph_replays_with_the_arguments_of_its_capture() {
        let e = emulator();
        let (x, y) = (e.stream.clone_htod(&[1f32; 256]).unwrap(), e.stream.clone_htod(&[0f32; 256]).unwrap());
        let (px, py) = (x.device_ptr(&e.stream).0, y.device_ptr(&e.stream).0);
        e.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        saxpy(&e, py, px, 256).unwrap();
        let graph = e
            .stream
            .end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .unwrap()
            .unwrap();
        assert_eq!(e.stream.clone_dtoh(&y).unwrap()[0], 0.0, "a capture runs nothing");
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(e.stream.clone_dtoh(&y).unwrap(), vec![4f32; 256]);
    }

    #[test]
    fn pieces_of_an_arena_have_bounds_of_their_own() {
        let e = emulator();
        let arena = e.stream.clone_htod(&[1f32; 512]).unwrap();
        let p = arena.device_ptr(&e.stream).0;
        let carve: extern "C" fn(u64, usize) = symbol("simt_carve");
        let uncarve: extern "C" fn(u64) = symbol("simt_uncarve");
        carve(p, 800);
        carve(p + 1024, 1024);
        saxpy(&e, p, p + 1024, 200).unwrap();
        let error = saxpy(&e, p, p + 1024, 201).unwrap_err();
        assert!(error.contains("offset 800 of an arena piece of 800 bytes"), "{error}");
        uncarve(p);
        uncarve(p + 1024);
        assert!(saxpy(&e, p, p + 1024, 256).unwrap_err().contains("in no piece of it in use"));
    }

    #[test]
    fn copies_stay_inside_their_allocation() {
        let e = emulator();
        let x = e.stream.clone_htod(&[1f32; 16]).unwrap();
        let mut host = [0f32; 17];
        // SAFETY: the driver is expected to refuse.
        let r = unsafe { result::memcpy_dtoh_sync(&mut host, x.device_ptr(&e.stream).0) };
        assert_eq!(r.unwrap_err().0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    }
}

/// The orders in which threads run, and late or early asynchronous copies, change no correct kernel's result.
#[test]
fn scheduling_changes_nothing() {
    let x: Vec<u32> = (0..96).map(|i| (i as f32 * 0.37).sin().to_bits()).collect();
    let e = emulator();
    let run = || e.warp("selftest_reduce", 96, &[&x], vec![0u32; 288]);
    let expected = run();
    for (variable, value) in
        [("SIMT_ORDER", "reverse"), ("SIMT_ORDER", "1"), ("SIMT_ORDER", "2"), ("SIMT_ASYNC", "eager")]
    {
        // SAFETY: the emulator's lock is held; nobody else reads the environment meanwhile.
        unsafe { std::env::set_var(variable, value) };
        let result = run();
        unsafe { std::env::remove_var(variable) };
        assert_eq!(result, expected, "{variable}={value}");
    }
}
