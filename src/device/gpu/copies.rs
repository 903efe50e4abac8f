//! Copies, fills, and numbers that travel with a launch.

use super::{Gpu, describe};
use crate::Result;
use crate::device::Launch;
use cudarc::driver::{result, sys};

/// Kernel parameters, mirrored in `kernels/control.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Words {
    words: [u32; WORDS],
    n: i32,
}

/// Words per launch.
const WORDS: usize = 511;

impl Gpu {
    /// Counts a copy or fill.
    fn copied(&self, what: &'static str, bytes: usize) {
        if let Some(census) = &self.census {
            census.add(what, bytes, 0.0);
        }
        let mut queue = self.queue.lock().unwrap();
        let recording = queue.recording;
        let c = &mut queue.counters;
        if recording { c.recorded += 1 } else { c.copies += 1 }
    }

    /// Copies `bytes` to the device; returns when the source may be reused.
    pub fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.not_recorded(|| format!("an upload of {} bytes", bytes.len()))?;
        self.bind()?;
        // SAFETY: the caller's buffer is at least that long; we wait before `bytes` can go away.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error(describe(&e)))?;
        self.synchronize()
    }

    /// Copies device memory to the host, after all queued work.
    pub fn download(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        self.not_recorded(|| format!("a download of {} bytes", bytes.len()))?;
        self.bind()?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) }
            .map_err(|e| self.error(describe(&e)))?;
        self.synchronize()
    }

    /// Queues a copy within the device.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        self.copied("(copy)", 2 * bytes);
        // SAFETY: both ranges are live allocations of at least `bytes`.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error(describe(&e)))
    }

    /// Queues a byte fill.
    pub fn fill(&self, at: u64, byte: u8, bytes: usize) -> Result<()> {
        self.bind()?;
        self.copied("(fill)", bytes);
        // SAFETY: the range is a live allocation.
        unsafe { result::memset_d8_async(at, byte, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error(describe(&e)))
    }

    /// Queues a fill with `count` copies of a 32-bit word.
    pub fn fill_words(&self, at: u64, word: u32, count: usize) -> Result<()> {
        self.bind()?;
        self.copied("(fill)", 4 * count);
        // SAFETY: the range is a live allocation, aligned to 4 bytes.
        unsafe { sys::cuMemsetD32Async(at, word, count, self.stream.cu_stream()) }
            .result()
            .map_err(|e| self.error(describe(&e)))
    }

    /// Queues 32-bit words to be written at `to`: they travel as the parameters of a launch, so nobody waits and no host
    /// memory must stay. For the few numbers of a step.
    pub fn write_queued(&self, to: u64, words: &[u32]) -> Result<()> {
        self.not_recorded(|| format!("numbers of a step, {} words,", words.len()))?;
        for (i, piece) in words.chunks(WORDS).enumerate() {
            let mut p = Words { words: [0; WORDS], n: piece.len() as i32 };
            p.words[..piece.len()].copy_from_slice(piece);
            let at = to + (4 * i * WORDS) as u64;
            Launch::over("control_write_u32", piece.len(), 128).ptr(at).val(p).run(self)?;
        }
        Ok(())
    }
}
