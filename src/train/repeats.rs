//! Work that is done again and again on a GPU: launch by launch the first time (which fills the memory pool), recorded as one
//! graph the second time, and replayed from then on. What differs between two times must lie in device memory.

use crate::Result;
use crate::device::{Captured, Device};
use std::collections::HashMap;
use std::hash::Hash;

/// The kinds of work that have been done, and their graphs once they are recorded.
pub(super) struct Repeats<K> {
    graphs: HashMap<K, Option<Captured>>,
    /// Why nothing is recorded, if nothing is.
    eager: Option<String>,
    /// A recording has failed, which nobody has asked about yet.
    failed: bool,
}

impl<K: Copy + Eq + Hash> Repeats<K> {
    /// Records nothing if there is a reason, `eager`.
    pub fn new(eager: Option<String>) -> Self {
        Self { graphs: HashMap::new(), eager, failed: false }
    }

    /// Why nothing is recorded, if nothing is.
    pub fn eager(&self) -> Option<&str> {
        self.eager.as_deref()
    }

    /// Why nothing is recorded any more, once after a recording has failed.
    pub fn failure(&mut self) -> Option<String> {
        if std::mem::take(&mut self.failed) { self.eager.clone() } else { None }
    }

    /// Forgets all graphs: what they write to is about to be replaced.
    pub fn forget(&mut self) {
        self.graphs.clear();
    }

    /// Number of graphs recorded.
    pub fn recorded(&self) -> usize {
        self.graphs.values().flatten().count()
    }

    /// Does `work`, which is of this kind, or replays what it did. If it cannot be recorded it is done, and so is all that
    /// comes after it. On the CPU it is simply done. `name` is what errors call the graph.
    pub fn run(
        &mut self,
        device: &Device,
        kind: K,
        name: impl Fn() -> String,
        mut work: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let (Some(gpu), None) = (device.gpu(), &self.eager) else { return work() };
        let Some(known) = self.graphs.get(&kind) else {
            work()?;
            self.graphs.insert(kind, None);
            return Ok(());
        };
        if !gpu.may_replay() {
            // An evaluation's result, say, lies where graphs would write.
            self.graphs.values_mut().for_each(|g| *g = None);
        } else if let Some(graph) = known {
            return gpu.replay(graph);
        }
        match gpu.capture(&name(), &mut work) {
            Ok(graph) => {
                gpu.replay(&graph)?;
                self.graphs.insert(kind, Some(graph));
                Ok(())
            }
            Err(e) => {
                (self.eager, self.failed) = (Some(format!("recording failed: {e}")), true);
                self.graphs.clear();
                work()
            }
        }
    }
}
