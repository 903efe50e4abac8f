//! Which `libcuda` is used, and why.
//!
//! cudarc loads `libcuda.so` at run time. Loading the emulator's library first, under the same SONAME, makes every
//! later driver call land in it: the code above this module cannot tell the two apart.

use crate::{Error, Result};
use std::sync::{Mutex, OnceLock};

/// The emulator's driver library of this build; empty when built without the `emulator` feature.
pub const EMULATOR: &str = env!("GHOSTBIT_EMULATOR");
/// The same with the race, bounds and initialisation checker compiled in.
pub const EMULATOR_CHECK: &str = env!("GHOSTBIT_EMULATOR_CHECK");

static EMULATED: Mutex<Option<String>> = Mutex::new(None);

/// The emulator's `simt_carve` and `simt_uncarve`: buffers are pieces of larger allocations, and the checking library
/// then knows their exact bounds.
struct Carve {
    carve: extern "C" fn(u64, usize),
    uncarve: extern "C" fn(u64),
}
static CARVE: OnceLock<Carve> = OnceLock::new();

/// Tells the emulator, if it is in use, that `bytes` at `address` are a buffer of their own.
pub(super) fn carve(address: u64, bytes: usize) {
    if let Some(c) = CARVE.get() {
        (c.carve)(address, bytes);
    }
}
pub(super) fn uncarve(address: u64) {
    if let Some(c) = CARVE.get() {
        (c.uncarve)(address);
    }
}

/// Makes `library` the process's `libcuda`. Must come before any other use of the driver.
pub fn load_emulator(library: &str) -> Result<()> {
    let fail = |detail: String| Error::Device { device: "emulator".into(), detail };
    let mut loaded = EMULATED.lock().unwrap();
    if let Some(old) = loaded.as_ref() {
        return if old == library {
            Ok(())
        } else {
            Err(fail(format!("{old} is already loaded in this process, so {library} cannot be")))
        };
    }
    if library.is_empty() {
        return Err(fail("this build has no emulator; build with the default features".into()));
    }
    // SAFETY: our own library; its constructors only set up tables.
    let lib = unsafe { libloading::Library::new(library) }.map_err(|e| fail(e.to_string()))?;
    // SAFETY: the types are those of kernels/emu/memory.cpp; the library stays loaded.
    if let (Ok(carve), Ok(uncarve)) = unsafe { (lib.get(b"simt_carve"), lib.get(b"simt_uncarve")) } {
        let _ = CARVE.set(Carve { carve: *carve, uncarve: *uncarve });
    }
    std::mem::forget(lib);
    *loaded = Some(library.to_string());
    Ok(())
}

/// The emulator library in use, if any.
pub fn emulated() -> Option<String> {
    EMULATED.lock().unwrap().clone()
}

/// `Err(reason)` when no CUDA device can serve this build.
pub fn availability() -> std::result::Result<(), String> {
    if !super::gpu::driver_present() {
        return Err("no CUDA driver (libcuda) on this machine".into());
    }
    if emulated().is_none() && super::gpu::MODULES.is_empty() {
        return Err("this build holds no device code (nvcc was not found when it was built)".into());
    }
    match super::gpu::device_count() {
        Ok(0) => Err("the CUDA driver reports no device".into()),
        Ok(_) => Ok(()),
        Err(e) => Err(format!("the CUDA driver does not start: {e}")),
    }
}
