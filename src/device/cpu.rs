//! The CPU as a device: a pool of aligned host memory. Ops compute on it in plain Rust over rayon.

use super::pool::{GRANULE, Pool, block_bytes};
use crate::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::{Arc, OnceLock};

/// The environment variable that keeps loops from using the widest vectors of this CPU: `avx512`, `avx2` or `portable`.
pub const VECTORS: &str = "GHOSTBIT_VECTORS";

/// Vector instructions of a CPU, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VectorWidth {
    Portable,
    /// With FMA.
    Avx2,
    Avx512,
}

impl VectorWidth {
    /// What loops use: the widest that this CPU has and [`VECTORS`] allows. Read once.
    pub fn here() -> Self {
        static HERE: OnceLock<VectorWidth> = OnceLock::new();
        *HERE.get_or_init(|| Self::asked().ok().flatten().map_or(Self::found(), |most| most.min(Self::found())))
    }

    fn found() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// What [`VECTORS`] asks for; errors on a value that it does not know.
    pub fn asked() -> Result<Option<Self>> {
        let Some(text) = std::env::var_os(VECTORS) else { return Ok(None) };
        match &*text.to_string_lossy() {
            "avx512" => Ok(Some(Self::Avx512)),
            "avx2" => Ok(Some(Self::Avx2)),
            "portable" => Ok(Some(Self::Portable)),
            other => Err(Error::config(VECTORS, format!("'{other}' is not avx512, avx2 or portable"))),
        }
    }
}

/// Host memory pool and settings.
pub struct Cpu {
    pub(super) pool: Pool,
    poison: bool,
}

impl Cpu {
    pub(super) fn new(poison: bool) -> Self {
        Self { pool: Pool::default(), poison }
    }

    /// E.g. `cpu (AVX-512, 2 threads)`.
    pub fn name(&self) -> String {
        let isa = match VectorWidth::here() {
            VectorWidth::Avx512 => "AVX-512",
            VectorWidth::Avx2 => "AVX2",
            VectorWidth::Portable => "portable",
        };
        format!("cpu ({isa}, {} threads)", rayon::current_num_threads())
    }

    /// Uninitialised memory of `bytes` (zero or stale or, on a poisoned device, NaN). Aborts like `Vec` when the
    /// system has none left.
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> HostBuffer {
        let block = block_bytes(bytes);
        let address = self.pool.take(block).unwrap_or_else(|| {
            let layout = Layout::from_size_align(block, GRANULE).expect("block sizes are valid layouts");
            // SAFETY: the layout has a non-zero size. Zeroed, so that no byte is ever uninitialised for Rust.
            let p = unsafe { alloc_zeroed(layout) };
            if p.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            self.pool.grew(block, p as u64);
            p as u64
        });
        if self.poison {
            // SAFETY: the block is ours and `block` bytes long.
            unsafe { std::ptr::write_bytes(address as *mut u8, 0xFF, block) };
        }
        HostBuffer { address, block, device: self.clone() }
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.pool.drain(|block, address| {
            let layout = Layout::from_size_align(block, GRANULE).expect("block sizes are valid layouts");
            // SAFETY: every free block came from `alloc_zeroed` with this layout.
            unsafe { dealloc(address as *mut u8, layout) };
        });
    }
}

/// One block of host memory; goes back to the pool when dropped.
pub struct HostBuffer {
    address: u64,
    block: usize,
    device: Arc<Cpu>,
}

impl HostBuffer {
    pub fn address(&self) -> u64 {
        self.address
    }
    pub fn device(&self) -> &Arc<Cpu> {
        &self.device
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        self.device.pool.put(self.block, self.address);
    }
}
