//! Recorded graphs.

use super::{Gpu, describe};
use crate::Result;
use cudarc::driver::{CudaGraph, sys};
use std::sync::Arc;

/// A recorded sequence of launches and copies.
pub struct Captured {
    graph: CudaGraph,
    name: String,
    _holds: Holds,
}

/// One graph's claim on the pool's recorded blocks.
struct Holds(Arc<Gpu>);

impl Drop for Holds {
    fn drop(&mut self) {
        self.0.pool.graph_dropped();
    }
}

impl Gpu {
    /// Records what `work` queues instead of running it. `name` is what errors call the graph.
    ///
    /// The graph writes to the very blocks that `work` was given. They go back to the pool, so that other work may use
    /// them between two replays; see [`Gpu::may_replay`]. Errors, naming the call, where `work` uploads, downloads or waits
    /// (nothing has run then), and if a buffer made by `work` outlives it.
    pub fn capture(self: &Arc<Self>, name: &str, work: impl FnOnce() -> Result<()>) -> Result<Captured> {
        // Relaxed: the pool may grow while recording. Calls that a graph cannot hold are refused above.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(|e| self.error(describe(&e)))?;
        self.queue.lock().unwrap().recording = true;
        self.pool.start_recording();
        let done = work();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags);
        self.queue.lock().unwrap().recording = false;
        let kept = self.pool.end_recording();
        // From here on the blocks are the graph's; dropped early, it hands them back.
        let holds = Holds(self.clone());
        done?;
        let graph = graph.map_err(|e| self.error(format!("graph '{name}': {}", describe(&e))))?;
        let graph = graph.ok_or_else(|| self.error(format!("graph '{name}': nothing was recorded")))?;
        if kept > 0 {
            return Err(self.error(format!("graph '{name}': {kept} buffers made in it outlive its recording")));
        }
        Ok(Captured { graph, name: name.into(), _holds: holds })
    }

    /// Whether graphs may be replayed: not while a buffer made since lies in memory that they write to. Record them anew
    /// then; the buffer keeps its place.
    pub fn may_replay(&self) -> bool {
        !self.pool.graphs_disturbed()
    }

    /// Queues a captured graph.
    pub fn replay(&self, graph: &Captured) -> Result<()> {
        graph.graph.launch().map_err(|e| self.error(format!("graph '{}': {}", graph.name, describe(&e))))?;
        let mut queue = self.queue.lock().unwrap();
        queue.counters.graphs += 1;
        queue.last = Some(format!("graph '{}'", graph.name));
        Ok(())
    }
}
