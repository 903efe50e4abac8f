//! Guard bands, for tests: every buffer lies between two bands of a known pattern, and fresh memory is NaN. The bands are
//! looked at when a buffer is freed and when the device is asked, so that a kernel that writes a little too far is found
//! on any driver, a GPU's included, and to the byte (the emulator's own guards lie around whole pool blocks).

use super::Gpu;
use super::pool::GRANULE;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Bytes of the band before a buffer, and at least those of the band behind it: keeps buffers aligned.
const BAND: usize = GRANULE;
const PATTERN: u8 = 0xA5;
/// NaN as f32, f64 and bf16, -1 as an integer.
const POISON: u8 = 0xFF;

/// A guarded buffer: `bytes` at `address`, from `BAND` bytes into a block of `block` bytes.
#[derive(Clone, Copy)]
pub(super) struct Guarded {
    pub address: u64,
    pub bytes: usize,
    pub block: usize,
}

impl Guarded {
    /// Start and length of the bands before and behind the buffer.
    fn bands(&self) -> [(u64, usize); 2] {
        let behind = self.block - BAND - self.bytes;
        [(self.address - BAND as u64, BAND), (self.address + self.bytes as u64, behind)]
    }
}

/// Buffers in use, and the damage found so far.
pub(super) struct Guards {
    /// Bytes before each buffer: [`BAND`], or 0 where only fresh memory is poisoned.
    pub band: usize,
    live: Mutex<BTreeMap<u64, Guarded>>,
    faults: Mutex<Vec<String>>,
}

impl Guards {
    /// `bands` may be left out on a driver that knows the bounds of every buffer itself.
    pub fn new(bands: bool) -> Self {
        Self { band: if bands { BAND } else { 0 }, live: Mutex::default(), faults: Mutex::default() }
    }

    /// Poisons a buffer that is handed out and draws its bands.
    pub fn open(&self, gpu: &Gpu, b: Guarded) -> Result<()> {
        if b.bytes > 0 {
            gpu.fill(b.address, POISON, b.bytes)?;
        }
        if self.band > 0 {
            for (at, length) in b.bands() {
                gpu.fill(at, PATTERN, length)?;
            }
            self.live.lock().unwrap().insert(b.address, b);
        }
        Ok(())
    }

    /// Looks at a buffer's bands a last time.
    pub fn close(&self, gpu: &Gpu, address: u64) {
        let closed = self.live.lock().unwrap().remove(&address);
        // While a graph is recorded nothing has been written yet.
        if let Some(b) = closed.filter(|_| !gpu.recording()) {
            self.inspect(gpu, b);
        }
    }

    /// Looks at all bands. The error names the buffers that were written past since the last call, freed ones included.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let live: Vec<Guarded> = self.live.lock().unwrap().values().copied().collect();
        for b in live {
            self.inspect(gpu, b);
        }
        let faults = std::mem::take(&mut *self.faults.lock().unwrap());
        if faults.is_empty() {
            return Ok(());
        }
        Err(Error::Device { device: gpu.name().into(), detail: format!("guard bands: {}", faults.join("; ")) })
    }

    fn inspect(&self, gpu: &Gpu, b: Guarded) {
        if let Err(e) = self.compare(gpu, b) {
            self.faults.lock().unwrap().push(e.to_string());
        }
    }

    /// Compares both bands with what was drawn, and draws them again: damage is reported once.
    fn compare(&self, gpu: &Gpu, b: Guarded) -> Result<()> {
        let [before, behind] = b.bands();
        let damaged = |(at, length): (u64, usize)| -> Result<Option<(usize, usize)>> {
            let mut bytes = vec![0u8; length];
            gpu.download(at, &mut bytes)?;
            let first = bytes.iter().position(|v| *v != PATTERN);
            if first.is_some() {
                gpu.fill(at, PATTERN, length)?;
            }
            Ok(first.zip(bytes.iter().rposition(|v| *v != PATTERN)))
        };
        let before = damaged(before)?.map(|(first, last)| (BAND - last, BAND - first, "before"));
        let behind = damaged(behind)?.map(|(first, last)| (first + 1, last + 1, "past the end of"));
        let mut faults = self.faults.lock().unwrap();
        for (near, far, place) in [before, behind].into_iter().flatten() {
            faults.push(format!("bytes {near} to {far} {place} a buffer of {} bytes were written", b.bytes));
        }
        Ok(())
    }
}
