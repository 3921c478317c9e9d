//! Space promised to an operation before it is accepted (engine.md, rule 13), so that what was
//! accepted can be written out later. What is promised to all heads together fits.

use std::sync::Arc;
use std::time::Duration;

use super::Head;
use crate::block::{Class, Urgency};
use crate::pool::core::{Checkpointing, Core};
use crate::pool::{Pool, PoolError};
use crate::sys::clock;

/// Nodes that an operation may dirty beside one leaf for each item: a path, and two splits.
const NODES_BESIDE: u64 = 6;
/// Levels of a tree that are dirtied once for all that waits in buffers: the root, and the leaves
/// that are counted by items.
const LEVELS_COUNTED: usize = 2;
/// Longest that an operation which adds waits for what deletions left to be freed.
const FREEING_WAIT_MAX: Duration = Duration::from_secs(5);
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
    /// the question asked again; so it is for `patience` at most while what deletions left is freed.
    fn promise(
        self: &Arc<Self>,
        data_blocks: u64,
        held: u64,
        beside: u64,
        urgency: Urgency,
        patience: Duration,
    ) -> Result<Reservation, PoolError> {
        let ask = || self.promise_now(data_blocks, held, beside, urgency);
        match ask() {
            Err(PoolError::Full) => {}
            answer => return answer,
        }
        if patience > Duration::ZERO && !Checkpointing::by_this_thread() {
            match self.wait_for_freeing(patience, &ask)? {
                Some(promise) => return Ok(promise),
                None => self.check_writable()?,
            }
        }
        if !self.space.may_gain() {
            return Err(PoolError::Full);
        }
        let generation = self.gate.read().generation;
        self.wait_durable(generation)?;
        ask()
    }

    /// While what deletions left is freed: asks again and again, after checkpoints that give out what
    /// was freed. Nothing where that was in vain.
    fn wait_for_freeing(
        &self,
        patience: Duration,
        ask: &dyn Fn() -> Result<Reservation, PoolError>,
    ) -> Result<Option<Reservation>, PoolError> {
        let Some(_waiting) = self.freeing.enter() else { return Ok(None) };
        let end = clock::monotonic() + patience;
        while self.freeing.is_under_way()
            && clock::monotonic() < end
            && self.check_writable().is_ok()
        {
            clock::sleep(FREEING_PAUSE);
            if self.space.report().pending_free > 0 {
                let generation = self.gate.read().generation;
                self.wait_durable(generation)?;
            }
            match ask() {
                Err(PoolError::Full) => {}
                answer => return answer.map(Some),
            }
        }
        Ok(None)
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
    /// checkpoint may give something back, one is awaited and the question asked again; so is, for
    /// what adds, the freeing of what deletions left, for 5 s at most. Not to be called inside
    /// [`Head::transact`].
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
        let patience = match urgency {
            Urgency::Ordinary => FREEING_WAIT_MAX,
            _ => Duration::ZERO,
        };
        self.core.promise(data_blocks, items + 2 * levels, NODES_BESIDE, urgency, patience)
    }
}

impl Pool {
    /// Promises room for `nodes` nodes, for a change of the catalog that adds to it. The freeing of
    /// what deletions left, which is such a change itself, is not waited for.
    ///
    /// # Errors
    /// [`PoolError::Full`]; those of a checkpoint.
    pub fn reserve_nodes(&self, nodes: u64) -> Result<Reservation, PoolError> {
        self.core().promise(0, nodes, 0, Urgency::Ordinary, Duration::ZERO)
    }
}
