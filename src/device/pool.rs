//! Free lists of equally sized blocks. A training step asks for the same sizes in the same order every time, so after
//! the first step nothing is allocated any more: no page faults on the CPU, no driver calls on a GPU, and addresses
//! that repeat from step to step (which a captured graph needs).

use std::collections::HashMap;
use std::sync::Mutex;

/// What a device's pool holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use now.
    pub live: usize,
    /// Most ever in use at one time.
    pub peak: usize,
    /// Taken from the system (in use or kept for reuse).
    pub reserved: usize,
}

/// Blocks are whole multiples of this, which also is their alignment.
pub(super) const GRANULE: usize = 256;

/// Size of the block that serves a request of `bytes`.
pub(super) fn block_bytes(bytes: usize) -> usize {
    bytes.max(1).div_ceil(GRANULE) * GRANULE
}

/// Free blocks by size; an address is the block.
#[derive(Default)]
pub(super) struct Pool(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    free: HashMap<usize, Vec<u64>>,
    stats: MemoryStats,
}

impl Pool {
    /// A free block of exactly `block` bytes, if there is one; counts it as live.
    pub fn take(&self, block: usize) -> Option<u64> {
        let mut p = self.0.lock().unwrap();
        let found = p.free.get_mut(&block).and_then(Vec::pop)?;
        p.stats.live += block;
        p.stats.peak = p.stats.peak.max(p.stats.live);
        Some(found)
    }

    /// Counts a block that was newly taken from the system.
    pub fn grew(&self, block: usize) {
        let mut p = self.0.lock().unwrap();
        p.stats.reserved += block;
        p.stats.live += block;
        p.stats.peak = p.stats.peak.max(p.stats.live);
    }

    /// Takes a block back.
    pub fn put(&self, block: usize, address: u64) {
        let mut p = self.0.lock().unwrap();
        p.stats.live -= block;
        p.free.entry(block).or_default().push(address);
    }

    /// Empties the free lists, handing each block to `release`.
    pub fn drain(&self, mut release: impl FnMut(usize, u64)) {
        let mut p = self.0.lock().unwrap();
        for (block, list) in std::mem::take(&mut p.free) {
            for address in list {
                p.stats.reserved -= block;
                release(block, address);
            }
        }
    }

    pub fn stats(&self) -> MemoryStats {
        self.0.lock().unwrap().stats
    }
}
