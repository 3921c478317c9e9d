//! Decoded nodes by address, bounded in bytes, in shards with a clock each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::{BlockAddr, Generation};
use crate::block::Pointer;
use crate::sys::sync::{Rank, RwLock};
use crate::tree::node::Node;

/// Shards of a large cache.
const SHARDS_MAX: usize = 16;
/// A shard has at least this many nodes, so small caches have fewer shards.
const SHARD_NODES_MIN: usize = 64;
/// Memory that a cached node takes beside its bytes: counts, table, tag.
const OVERHEAD_BYTES: usize = 256;

/// The cache. A node stands in it under its address and is found only by a pointer with the same
/// birth and tag: addresses are used again.
pub(in crate::tree) struct Cache {
    shards: Vec<RwLock<Shard>>,
    shard_nodes_max: usize,
    node_bytes: usize,
}

#[derive(Default)]
struct Shard {
    /// Address to index in `entries`.
    index: HashMap<BlockAddr, usize>,
    entries: Vec<Entry>,
    hand: usize,
}

struct Entry {
    addr: BlockAddr,
    birth: Generation,
    tag: [u8; 16],
    node: Arc<Node>,
    /// Used since the hand last passed.
    used: AtomicBool,
}

impl Cache {
    /// A cache of at most `max_bytes`, but of at least one node.
    pub fn new(max_bytes: usize, node_bytes: usize) -> Self {
        let nodes_max = (max_bytes / (node_bytes + OVERHEAD_BYTES)).max(1);
        let shards = (nodes_max / SHARD_NODES_MIN).clamp(1, SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| RwLock::new(Rank::NodeCache, Shard::default())).collect(),
            shard_nodes_max: nodes_max / shards,
            node_bytes,
        }
    }

    fn shard(&self, addr: BlockAddr) -> &RwLock<Shard> {
        // Nodes stand some blocks apart: a multiplicative hash spreads them.
        let hash = addr.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[hash as usize % self.shards.len()]
    }

    /// The node that this pointer leads to.
    pub fn get(&self, pointer: &Pointer) -> Option<Arc<Node>> {
        let shard = self.shard(pointer.addr).read();
        let entry = &shard.entries[*shard.index.get(&pointer.addr)?];
        if entry.birth != pointer.birth || entry.tag != pointer.tag.0 {
            return None;
        }
        entry.used.store(true, Ordering::Relaxed);
        Some(entry.node.clone())
    }

    /// Keeps a node, in place of one at the same address or of one not used for long.
    pub fn insert(&self, pointer: &Pointer, node: Arc<Node>) {
        let entry = Entry {
            addr: pointer.addr,
            birth: pointer.birth,
            tag: pointer.tag.0,
            node,
            used: AtomicBool::new(false),
        };
        let displaced = self.shard(pointer.addr).write().insert(entry, self.shard_nodes_max);
        drop(displaced); // erased without the lock
    }

    /// Lets the node at an address go.
    pub fn forget(&self, addr: BlockAddr) {
        let displaced = self.shard(addr).write().take(addr);
        drop(displaced);
    }

    /// Lets every node go.
    pub fn clear(&self) {
        for shard in &self.shards {
            drop(std::mem::take(&mut *shard.write()));
        }
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        let nodes: usize = self.shards.iter().map(|shard| shard.read().entries.len()).sum();
        nodes * (self.node_bytes + OVERHEAD_BYTES)
    }
}

impl Shard {
    /// Returns what made room.
    fn insert(&mut self, entry: Entry, nodes_max: usize) -> Option<Entry> {
        if let Some(&at) = self.index.get(&entry.addr) {
            return Some(std::mem::replace(&mut self.entries[at], entry));
        }
        if self.entries.len() < nodes_max {
            self.index.insert(entry.addr, self.entries.len());
            self.entries.push(entry);
            return None;
        }
        let at = self.victim();
        self.index.remove(&self.entries[at].addr);
        self.index.insert(entry.addr, at);
        Some(std::mem::replace(&mut self.entries[at], entry))
    }

    /// The first entry from the hand on that was not used since the hand last passed it.
    fn victim(&mut self) -> usize {
        loop {
            let at = self.hand % self.entries.len();
            self.hand = at + 1;
            if !std::mem::replace(self.entries[at].used.get_mut(), false) {
                return at;
            }
        }
    }

    fn take(&mut self, addr: BlockAddr) -> Option<Entry> {
        let at = self.index.remove(&addr)?;
        let entry = self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.index.insert(moved.addr, at);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SegmentId;
    use crate::block::NodeStore;
    use crate::block::memory::MemoryStore;

    fn pointer(addr: u64, birth: u64) -> Pointer {
        let store = MemoryStore::new(512);
        let pointer = store.write_node(&[0; 512], Generation(birth), SegmentId::POOL, false);
        Pointer { addr: BlockAddr(addr), ..pointer.unwrap() }
    }

    fn node() -> Arc<Node> {
        Arc::new(Node::new(512, 0))
    }

    #[test]
    fn stays_within_its_bytes_and_keeps_what_is_used() {
        let max_bytes = 100 * (512 + OVERHEAD_BYTES);
        let cache = Cache::new(max_bytes, 512);
        let hot = pointer(1, 1);
        cache.insert(&hot, node());
        for addr in 2..10_000 {
            cache.insert(&pointer(addr, 1), node());
            assert!(cache.get(&hot).is_some(), "evicted after {addr}");
        }
        assert!(cache.held_bytes() <= max_bytes);
        assert!(cache.held_bytes() > max_bytes / 2);
    }

    #[test]
    fn an_address_used_again_does_not_show_what_was_there() {
        let cache = Cache::new(1 << 20, 512);
        cache.insert(&pointer(5, 1), node());
        assert!(cache.get(&pointer(5, 2)).is_none(), "another birth");
        let mut other = pointer(5, 1);
        other.tag.0[0] ^= 1;
        assert!(cache.get(&other).is_none(), "another tag");
        cache.insert(&pointer(5, 2), node());
        assert!(cache.get(&pointer(5, 1)).is_none() && cache.get(&pointer(5, 2)).is_some());
    }

    #[test]
    fn forgets_one_and_clears_all() {
        let cache = Cache::new(1 << 20, 512);
        for addr in 1..200 {
            cache.insert(&pointer(addr, 1), node());
        }
        for addr in (1..200).step_by(3) {
            cache.forget(BlockAddr(addr));
        }
        for addr in 1..200 {
            assert_eq!(cache.get(&pointer(addr, 1)).is_some(), addr % 3 != 1, "{addr}");
        }
        let kept = cache.get(&pointer(2, 1)).unwrap();
        cache.clear();
        assert_eq!(cache.held_bytes(), 0);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
