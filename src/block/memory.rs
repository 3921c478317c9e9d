//! A node store in memory, for tests of what stands on one.

use std::collections::HashMap;

use zeroize::Zeroizing;

use crate::base::{BLOCK_SIZE, BlockAddr, Generation, SegmentId};
use crate::block::{BlockError, NodeStore, Pointer};
use crate::crypto::{BlockKey, Tag};
use crate::sys::sync::{Mutex, MutexGuard, Rank};

/// Keeps nodes in memory, unencrypted, and counts them. Addresses are never used again, so that a
/// read of a freed node is an error and not somebody else's node.
#[derive(Debug)]
pub struct MemoryStore {
    node_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    nodes: HashMap<u64, Vec<u8>>,
    written: u64,
    read: u64,
    fail_after: Option<u64>,
}

impl MemoryStore {
    /// An empty store of nodes of `node_bytes`. Less than a block makes high trees of few items.
    #[must_use]
    pub fn new(node_bytes: usize) -> Self {
        let inner = Inner { next: 1, ..Inner::default() };
        Self { node_bytes, inner: Mutex::new(Rank::MemoryStore, inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Nodes held now, each once.
    #[must_use]
    pub fn live(&self) -> usize {
        self.inner().nodes.len()
    }
    /// Nodes written since the store was made.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner().written
    }
    /// Nodes read since the store was made.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.inner().read
    }
    /// Lets `writes` more writes pass and refuses those after them with [`BlockError::Full`].
    pub fn fail_after(&self, writes: Option<u64>) {
        self.inner().fail_after = writes;
    }
    /// Forgets a node.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] where it is not held: freed twice, or never written.
    pub fn free(&self, pointer: &Pointer) -> Result<(), BlockError> {
        let missing = BlockError::OutOfRange { addr: pointer.addr };
        self.inner().nodes.remove(&pointer.addr.get()).map(|_| ()).ok_or(missing)
    }
}

impl NodeStore for MemoryStore {
    fn node_bytes(&self) -> usize {
        self.node_bytes
    }

    fn read_node(&self, pointer: &Pointer) -> Result<Zeroizing<Vec<u8>>, BlockError> {
        let mut inner = self.inner();
        inner.read += 1;
        let found = inner.nodes.get(&pointer.addr.get()).cloned();
        found.map(Zeroizing::new).ok_or(BlockError::OutOfRange { addr: pointer.addr })
    }

    fn write_node(
        &self,
        plain: &[u8],
        birth: Generation,
        _segment: SegmentId,
        twice: bool,
    ) -> Result<Pointer, BlockError> {
        assert_eq!(plain.len(), self.node_bytes, "a node of another size");
        let blocks = u32::try_from(self.node_bytes.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
        let mut inner = self.inner();
        match &mut inner.fail_after {
            Some(0) => return Err(BlockError::Full),
            Some(left) => *left -= 1,
            None => {}
        }
        let addr = BlockAddr(inner.next);
        let second = twice.then(|| addr.plus(u64::from(blocks)));
        inner.next += u64::from(blocks) * 2;
        inner.written += 1;
        inner.nodes.insert(addr.get(), plain.to_vec());
        let (key, tag) = (BlockKey([0; 32]), Tag([0; 16]));
        Ok(Pointer { addr, second, blocks, birth, key, tag })
    }
}
