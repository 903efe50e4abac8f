//! Device memory as it is handed out.

use super::Gpu;
use std::sync::Arc;

/// One block of device memory; goes back to the pool when dropped (later work on the stream is ordered after it).
pub struct GpuBuffer {
    pub(super) address: u64,
    /// Start of the block.
    pub(super) base: u64,
    pub(super) block: usize,
    pub(super) device: Arc<Gpu>,
    /// Another device's block on the same hardware, see [`Gpu::borrow`].
    pub(super) borrowed: bool,
}

impl GpuBuffer {
    pub fn address(&self) -> u64 {
        self.address
    }
    pub fn device(&self) -> &Arc<Gpu> {
        &self.device
    }
    /// `bytes` at `address`, in this buffer, are about to be given to a kernel.
    pub fn asked(&self, address: u64, bytes: usize) {
        if let Some(census) = self.device.census() {
            census.asked(address, bytes);
        }
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        if self.borrowed {
            return;
        }
        if let Some(guards) = &self.device.guards {
            guards.close(&self.device, self.address);
        }
        super::driver::uncarve(self.base);
        self.device.pool.put(self.block, self.base);
    }
}
