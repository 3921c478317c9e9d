//! Where trees get their nodes: the store, with a cache of decoded nodes before it.

use std::sync::Arc;

use crate::base::{BlockAddr, counters};
use crate::block::{NodeStore, Pointer};
use crate::tree::TreeError;
use crate::tree::cache::Cache;
use crate::tree::key::Key;
use crate::tree::node::Node;
use crate::tree::page::{NODE_BYTES_MAX, NODE_BYTES_MIN, NodeDefect};

/// The store and the cache that all trees of a pool share. Used from many threads at once; no lock
/// is held while the store reads.
pub struct Nodes {
    store: Arc<dyn NodeStore>,
    cache: Cache,
}

/// What a parent says of a child: its level (the root's parent says nothing), and the range that
/// its keys lie in.
#[derive(Clone, Copy)]
pub(in crate::tree) struct Expected {
    pub level: Option<u8>,
    pub lower: Key,
    /// The first key behind the range; `None`: no end.
    pub upper: Option<Key>,
}

impl Expected {
    pub const ROOT: Self = Self { level: None, lower: Key::MIN, upper: None };

    /// What the inner node `node`, of which this is expected, says of its child `i`.
    pub fn of_child(&self, node: &Node, i: usize) -> Self {
        debug_assert!(!node.is_leaf());
        // The first child also takes the keys below its separator.
        let lower = if i == 0 { self.lower } else { node.key(i) };
        let upper = if i + 1 < node.count() { Some(node.key(i + 1)) } else { self.upper };
        Self { level: node.level().checked_sub(1), lower, upper }
    }

    fn check_level(&self, node: &Node) -> Result<(), NodeDefect> {
        match self.level {
            Some(level) if level != node.level() => Err(NodeDefect::Level),
            _ => Ok(()),
        }
    }

    pub fn check(&self, node: &Node) -> Result<(), NodeDefect> {
        self.check_level(node)?;
        let Some(last) = node.count().checked_sub(1) else { return Err(NodeDefect::Count) };
        let above = self.upper.is_some_and(|upper| node.key(last) >= upper);
        if node.key(0) < self.lower || above { Err(NodeDefect::Bounds) } else { Ok(()) }
    }
}

impl Nodes {
    /// Nodes of `store`, of which at most `cache_bytes` stay decoded in memory (at least one
    /// node).
    ///
    /// # Errors
    /// [`TreeError::NodeSize`]
    pub fn new(store: Arc<dyn NodeStore>, cache_bytes: usize) -> Result<Self, TreeError> {
        let node_bytes = store.node_bytes();
        if !(NODE_BYTES_MIN..=NODE_BYTES_MAX).contains(&node_bytes) {
            return Err(TreeError::NodeSize { node_bytes });
        }
        Ok(Self { cache: Cache::new(cache_bytes, node_bytes), store })
    }

    /// Where nodes are read from and written to.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn NodeStore> {
        &self.store
    }
    /// Bytes of every node.
    #[must_use]
    pub fn node_bytes(&self) -> usize {
        self.store.node_bytes()
    }
    /// Longest value of an item, in bytes.
    #[must_use]
    pub fn value_bytes_max(&self) -> usize {
        super::page::value_bytes_max(self.node_bytes())
    }
    /// Bytes that the cache holds now.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.cache.held_bytes()
    }
    /// Erases every cached node. Nodes that a reader holds at this moment are erased when it lets
    /// them go; dirty nodes belong to their trees.
    pub fn wipe(&self) {
        self.cache.clear();
    }
    /// Lets the node at `addr` go: its block is free.
    pub fn forget(&self, addr: BlockAddr) {
        self.cache.forget(addr);
    }

    pub(in crate::tree) fn load(
        &self,
        pointer: &Pointer,
        expected: &Expected,
    ) -> Result<Arc<Node>, TreeError> {
        if let Some(node) = self.cache.get(pointer) {
            counters::NODE_CACHE_HITS.increment();
            // The range was checked when the node was read; the level also ends every descent.
            return match expected.check_level(&node) {
                Ok(()) => Ok(node),
                Err(defect) => Err(TreeError::Corrupt { addr: pointer.addr, defect }),
            };
        }
        counters::NODE_CACHE_MISSES.increment();
        let node = Arc::new(self.read_uncached(pointer, expected)?);
        self.cache.insert(pointer, node.clone());
        Ok(node)
    }

    /// The node from the store, whether it is cached or not.
    pub(in crate::tree) fn read_uncached(
        &self,
        pointer: &Pointer,
        expected: &Expected,
    ) -> Result<Node, TreeError> {
        let bytes = self.store.read_node(pointer)?;
        let corrupt = |defect| TreeError::Corrupt { addr: pointer.addr, defect };
        let node = Node::decode(&bytes, self.node_bytes()).map_err(corrupt)?;
        expected.check(&node).map_err(corrupt)?;
        Ok(node)
    }

    /// Keeps a node that was just written.
    pub(in crate::tree) fn keep(&self, pointer: &Pointer, node: Arc<Node>) {
        self.cache.insert(pointer, node);
    }
}
