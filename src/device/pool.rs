//! Free lists of equally sized blocks. A training step asks for the same sizes in the same order every time, so after
//! the first step nothing is allocated any more: no page faults on the CPU, no driver calls on a GPU, and addresses
//! that repeat from step to step (which a captured graph needs).

use std::collections::{HashMap, HashSet};
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
    graphs: Graphs,
}

/// Blocks that recorded graphs write to when they are replayed.
#[derive(Default)]
struct Graphs {
    /// How many graphs there are.
    count: usize,
    blocks: HashSet<u64>,
    /// Those of them that are free: handed out first while recording, so that graphs share them, and else last, so that
    /// what is made between two replays and stays does not lie in a graph's way.
    free: HashMap<usize, Vec<u64>>,
    /// How many of them are in use.
    live: usize,
    recording: Option<Recording>,
}

/// Blocks handed out since the recording began, with their sizes, and those of them not yet taken back.
#[derive(Default)]
struct Recording {
    taken: HashMap<u64, usize>,
    live: HashSet<u64>,
}

impl Pool {
    /// A free block of exactly `block` bytes, if there is one; counts it as live.
    pub fn take(&self, block: usize) -> Option<u64> {
        let mut guard = self.0.lock().unwrap();
        let p = &mut *guard;
        let mut lists = [&mut p.free, &mut p.graphs.free];
        if p.graphs.recording.is_some() {
            lists.reverse();
        }
        let found = lists.into_iter().find_map(|list| list.get_mut(&block).and_then(Vec::pop))?;
        p.stats.live += block;
        p.stats.peak = p.stats.peak.max(p.stats.live);
        p.handed_out(block, found);
        Some(found)
    }

    /// Counts a block that was newly taken from the system.
    pub fn grew(&self, block: usize, address: u64) {
        let mut p = self.0.lock().unwrap();
        p.stats.reserved += block;
        p.stats.live += block;
        p.stats.peak = p.stats.peak.max(p.stats.live);
        p.handed_out(block, address);
    }

    /// Takes a block back.
    pub fn put(&self, block: usize, address: u64) {
        let mut guard = self.0.lock().unwrap();
        let p = &mut *guard;
        p.stats.live -= block;
        if let Some(r) = &mut p.graphs.recording {
            r.live.remove(&address);
        }
        let list = if p.graphs.blocks.contains(&address) {
            p.graphs.live -= 1;
            &mut p.graphs.free
        } else {
            &mut p.free
        };
        list.entry(block).or_default().push(address);
    }

    /// From here on blocks that are handed out belong to a graph.
    pub fn start_recording(&self) {
        self.0.lock().unwrap().graphs.recording = Some(Recording::default());
    }

    /// Ends it, counts one graph more, and tells how many of its blocks are still in use, which they should not be.
    pub fn end_recording(&self) -> usize {
        let mut guard = self.0.lock().unwrap();
        let p = &mut *guard;
        p.graphs.count += 1;
        let Some(Recording { taken, live }) = p.graphs.recording.take() else { return 0 };
        for (address, block) in taken {
            if p.graphs.blocks.insert(address) {
                if live.contains(&address) {
                    p.graphs.live += 1;
                } else if let Some(list) = p.free.get_mut(&block) {
                    list.retain(|a| *a != address);
                    p.graphs.free.entry(block).or_default().push(address);
                }
            }
        }
        live.len()
    }

    /// Whether a block that graphs write to is in use.
    pub fn graphs_disturbed(&self) -> bool {
        self.0.lock().unwrap().graphs.live > 0
    }

    /// Counts one graph less; after the last one its blocks are like all others.
    pub fn graph_dropped(&self) {
        let mut guard = self.0.lock().unwrap();
        let p = &mut *guard;
        p.graphs.count -= 1;
        if p.graphs.count > 0 {
            return;
        }
        for (block, list) in std::mem::take(&mut p.graphs.free) {
            p.free.entry(block).or_default().extend(list);
        }
        p.graphs.blocks.clear();
        p.graphs.live = 0;
    }

    /// Empties the free lists, handing each block to `release`. There are no graphs any more.
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

impl Inner {
    fn handed_out(&mut self, block: usize, address: u64) {
        if let Some(r) = &mut self.graphs.recording {
            r.taken.insert(address, block);
            r.live.insert(address);
        }
        if self.graphs.blocks.contains(&address) {
            self.graphs.live += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` blocks of 256 bytes in use.
    fn fill(pool: &Pool, addresses: &[u64]) {
        for a in addresses {
            pool.grew(256, *a);
        }
    }

    #[test]
    fn what_is_made_between_replays_stays_out_of_the_graph_s_way_or_is_noticed() {
        let pool = Pool::default();
        fill(&pool, &[1, 2]);
        (pool.put(256, 1), pool.put(256, 2));
        pool.start_recording();
        let mine = pool.take(256).unwrap();
        pool.put(256, mine);
        assert_eq!(pool.end_recording(), 0);
        let other = pool.take(256).unwrap();
        assert_ne!(other, mine, "a free block of no graph comes first");
        assert!(!pool.graphs_disturbed());
        assert_eq!(pool.take(256), Some(mine), "and a graph's before the system is asked");
        assert!(pool.graphs_disturbed());
        pool.put(256, mine);
        assert!(!pool.graphs_disturbed());
        pool.start_recording();
        assert_eq!(pool.take(256), Some(mine), "graphs share their blocks");
        assert_eq!(pool.end_recording(), 1, "one outlives the recording");
        pool.put(256, mine);
        (pool.graph_dropped(), pool.graph_dropped());
        assert!(pool.take(256).is_some() && pool.take(256).is_none() && !pool.graphs_disturbed());
    }
}
