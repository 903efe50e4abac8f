//! What was asked of a GPU's driver: the cost of a step that no clock shows.

/// Calls since the device was opened. Differences of two readings are the cost of what lay between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Kernels launched one by one, not those inside graphs.
    pub launches: u64,
    /// Captured graphs launched.
    pub graphs: u64,
    /// Kernels, copies and fills recorded into graphs instead of being run.
    pub recorded: u64,
    /// Copies within the device and fills.
    pub copies: u64,
    /// Times the host waited for the device.
    pub waits: u64,
    /// Allocations that the pool could not serve, and their bytes.
    pub allocations: u64,
    pub allocated: u64,
}

impl std::ops::Sub for Counters {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            launches: self.launches - before.launches,
            graphs: self.graphs - before.graphs,
            recorded: self.recorded - before.recorded,
            copies: self.copies - before.copies,
            waits: self.waits - before.waits,
            allocations: self.allocations - before.allocations,
            allocated: self.allocated - before.allocated,
        }
    }
}
