//! Space promised to an operation before it is accepted (engine.md, rule 13), so that what was
//! accepted can be written out later. What is promised to all heads together fits.

use std::sync::Arc;
use std::time::Duration;

use super::Head;
use crate::block::{Class, Urgency};
use crate::pool::core::Core;
use crate::pool::{Pool, PoolError};
use crate::sys::clock;

/// Nodes that an operation may dirty beside one leaf for each item: a path, and two splits.
const NODES_BESIDE: u64 = 6;
/// Levels of a tree that are dirtied once for all that waits in buffers: the root, and the leaves
/// that are counted by items.
const LEVELS_COUNTED: usize = 2;
/// Between two looks at what was freed.
const FREEING_PAUSE: Duration = Duration::from_millis(50);

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

impl Core {
    /// Promises room for `data_blocks` of data and `held` nodes, where there is room for `beside`
    /// nodes more. Where it is refused, and a checkpoint may give something back, one is awaited and
    /// the question asked again.
    fn promise(
        self: &Arc<Self>,
        data_blocks: u64,
        held: u64,
        beside: u64,
        urgency: Urgency,
    ) -> Result<Reservation, PoolError> {
        match self.promise_now(data_blocks, held, beside, urgency) {
            Err(PoolError::Full) => {}
            other => return other,
        }
        let generation = self.gate.read().generation;
        if !self.space.may_gain() {
            return Err(PoolError::Full);
        }
        self.wait_durable(generation)?;
        self.promise_now(data_blocks, held, beside, urgency)
    }

    /// While what deletions left is freed: waits until the pool has more room, `end` at the latest.
    /// Whether it has. A checkpoint gives out what was freed.
    fn wait_for_room(&self, end: Duration) -> bool {
        let Some(_waiting) = self.freeing.enter() else { return false };
        let before = self.space.report().free;
        let mut held = 0;
        while self.freeing.is_under_way() && clock::monotonic() < end {
            clock::sleep(FREEING_PAUSE);
            let pending = self.space.report().pending_free;
            // What a reader holds does not come by another checkpoint.
            if pending > held {
                let generation = self.gate.read().generation;
                if self.wait_durable(generation).is_err() {
                    return false;
                }
            }
            let report = self.space.report();
            if report.free > before {
                return true;
            }
            held = report.pending_free;
        }
        // Once all is freed, the next question decides.
        !self.freeing.is_under_way()
    }

    fn promise_now(
        self: &Arc<Self>,
        data_blocks: u64,
        held: u64,
        beside: u64,
        urgency: Urgency,
    ) -> Result<Reservation, PoolError> {
        let space = &self.space;
        let (held, beside) = (held * self.node_blocks(), beside * self.node_blocks());
        space.reserve(Class::Node, held + beside, urgency)?;
        if let Err(error) = space.reserve(Class::Data, data_blocks, urgency) {
            space.unreserve(Class::Node, held + beside);
            return Err(error.into());
        }
        space.unreserve(Class::Node, beside);
        Ok(Reservation { core: Arc::clone(self), data_blocks, node_blocks: held })
    }
}

impl Head {
    /// Promises room for `data_blocks` of data and for the nodes that `items` edits may dirty,
    /// beside all that is promised and dirty in the pool already. Where it is refused, and a
    /// checkpoint may give something back, one is awaited and the question asked again. Not to be
    /// called inside [`Head::transact`].
    ///
    /// # Errors
    /// [`PoolError::Full`]; [`PoolError::ReadOnly`], so that nothing is accepted that can not be kept;
    /// those of a checkpoint.
    pub fn reserve(
        &self,
        data_blocks: u64,
        items: u64,
        urgency: Urgency,
    ) -> Result<Reservation, PoolError> {
        self.core.check_writable()?;
        // Between the leaves and the root each level may get a node more, kept twice.
        let levels = self.state.read().levels.saturating_sub(LEVELS_COUNTED) as u64;
        self.core.promise(data_blocks, items + 2 * levels, NODES_BESIDE, urgency)
    }

    /// For whoever adds and was refused for want of room: waits, until `end` at the latest, while what
    /// deletions left is freed. Whether it is worth another try. To be called without any lock.
    #[must_use]
    pub fn wait_for_room(&self, end: Duration) -> bool {
        self.core.wait_for_room(end)
    }
}

impl Pool {
    /// Promises room for `nodes` nodes, for a change of the catalog that adds to it.
    ///
    /// # Errors
    /// [`PoolError::Full`]; those of a checkpoint.
    pub fn reserve_nodes(&self, nodes: u64) -> Result<Reservation, PoolError> {
        self.core().promise(0, nodes, 0, Urgency::Ordinary)
    }
}
