//! Space promised to an operation before it is accepted (engine.md, rule 13), so that what was
//! accepted can be written out later.

use std::sync::Arc;

use super::Head;
use crate::base::units::BLOCK_SIZE;
use crate::block::{Class, Urgency};
use crate::pool::PoolError;
use crate::pool::core::Core;

/// Nodes that an operation may dirty beside one leaf for each item: a path, and two splits.
const NODES_BESIDE: u64 = 6;
/// Dirty nodes that are worth a checkpoint before the pool is called full.
const MANY_DIRTY: usize = 32;

/// Space promised; given back when dropped, by when the data is claimed and the nodes are counted
/// as dirty ones.
pub struct Reservation {
    core: Arc<Core>,
    data_blocks: u64,
    node_blocks: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.core.space.unreserve(Class::Data, self.data_blocks);
        self.core.space.unreserve(Class::Node, self.node_blocks);
    }
}

impl Head {
    /// Promises room for `data_blocks` of data and for the nodes that `items` edits may dirty,
    /// beside all that are dirty already. Where it is refused, and frees or many dirty nodes wait
    /// for a checkpoint, one is awaited and the question asked again. Not to be called inside
    /// [`Head::transact`].
    ///
    /// # Errors
    /// [`PoolError::Full`]; those of a checkpoint.
    pub fn reserve(
        &self,
        data_blocks: u64,
        items: u64,
        urgency: Urgency,
    ) -> Result<Reservation, PoolError> {
        match self.promise(data_blocks, items, urgency) {
            Err(PoolError::Full) => {}
            other => return other,
        }
        let generation = self.core.gate.read().generation;
        let state = self.state.read();
        let frees = !state.kills.is_empty() || self.core.space.report().pending_free > 0;
        // Dirty nodes need room until they are written: a checkpoint gives most of it back.
        let dirty = state.tree.dirty_nodes() >= MANY_DIRTY;
        drop(state);
        if !frees && !dirty {
            return Err(PoolError::Full);
        }
        self.core.wait_durable(generation)?;
        self.promise(data_blocks, items, urgency)
    }

    fn promise(
        &self,
        data_blocks: u64,
        items: u64,
        urgency: Urgency,
    ) -> Result<Reservation, PoolError> {
        let space = &self.core.space;
        let node_blocks = (self.core.nodes.node_bytes() / BLOCK_SIZE).max(1) as u64;
        let dirty = self.state.read().tree.dirty_nodes() as u64;
        // Inner nodes are written twice: a quarter more than one block for each covers them.
        let nodes = dirty + dirty / 4 + items + NODES_BESIDE;
        space.reserve(Class::Node, nodes * node_blocks, urgency)?;
        if let Err(error) = space.reserve(Class::Data, data_blocks, urgency) {
            space.unreserve(Class::Node, nodes * node_blocks);
            return Err(error.into());
        }
        // What is dirty is counted anew by whoever asks next; held as well by each write that is
        // buffered, it would fill a small pool by itself.
        space.unreserve(Class::Node, (nodes - items) * node_blocks);
        let core = Arc::clone(&self.core);
        Ok(Reservation { core, data_blocks, node_blocks: items * node_blocks })
    }
}
