//! Changing the catalog at a checkpoint, and reading it at any time.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::base::{ClusterId, Generation, SegmentId};
use crate::block::{Book, ReadGuard, Run, Space, SpaceEntry};
use crate::pool::log::LogItem;
use crate::pool::{PoolError, items};
use crate::tree::{Key, NodeKills, Nodes, Part, Tree};

/// The catalog at a checkpoint: changed by the keeper and by the checkpoint's edit.
pub struct CatalogTxn<'a> {
    pub(in crate::pool) nodes: &'a Nodes,
    pub(in crate::pool) space: &'a Space,
    pub(in crate::pool) generation: Generation,
    pub(in crate::pool) tree: Tree,
    pub(in crate::pool) kills: NodeKills,
    /// Promised node blocks that are no longer needed.
    pub(in crate::pool) unreserve: u64,
    frees: Vec<(Run, SegmentId)>,
}

/// Where the catalog stood, to go back to.
pub(in crate::pool) struct Savepoint {
    tree: Tree,
    kills: usize,
    frees: usize,
    unreserve: u64,
}

impl<'a> CatalogTxn<'a> {
    pub(in crate::pool) fn new(
        nodes: &'a Nodes,
        space: &'a Space,
        generation: Generation,
        tree: Tree,
    ) -> Self {
        let (kills, frees) = (NodeKills::new(), Vec::new());
        Self { nodes, space, generation, tree, kills, unreserve: 0, frees }
    }

    pub(in crate::pool) fn savepoint(&self) -> Savepoint {
        let (kills, frees) = (self.kills.len(), self.frees.len());
        Savepoint { tree: self.tree.clone(), kills, frees, unreserve: self.unreserve }
    }

    pub(in crate::pool) fn roll_back(&mut self, to: Savepoint) {
        self.tree = to.tree;
        self.kills.truncate(to.kills);
        self.frees.truncate(to.frees);
        self.unreserve = to.unreserve;
    }

    /// Books the frees asked for so far.
    pub(in crate::pool) fn apply_frees(&mut self, book: &Book) -> Result<(), PoolError> {
        for (run, segment) in self.frees.drain(..) {
            book.push(SpaceEntry::Free { run, segment })?;
        }
        Ok(())
    }

    /// The checkpoint.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// An item's value.
    ///
    /// # Errors
    /// The tree's.
    pub fn get(&self, key: Key) -> Result<Option<Vec<u8>>, PoolError> {
        Ok(self.tree.get(self.nodes, key)?)
    }

    /// The items from `from` to `to`, both included, in order.
    ///
    /// # Errors
    /// The tree's.
    pub fn range(
        &self,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PoolError> {
        Ok(self.tree.range(self.nodes, from, to, visit)?)
    }

    /// The last item at or before `key`.
    ///
    /// # Errors
    /// The tree's.
    pub fn last_before(&self, key: Key) -> Result<Option<(Key, Vec<u8>)>, PoolError> {
        Ok(self.tree.last_before(self.nodes, key)?)
    }

    /// Sets an item; what it was.
    ///
    /// # Errors
    /// The tree's.
    pub fn put(&mut self, key: Key, value: &[u8]) -> Result<Option<Vec<u8>>, PoolError> {
        Ok(self.tree.put(self.nodes, self.generation, key, value, &mut self.kills)?)
    }

    /// Removes an item; what it was.
    ///
    /// # Errors
    /// The tree's.
    pub fn remove(&mut self, key: Key) -> Result<Option<Vec<u8>>, PoolError> {
        Ok(self.tree.remove(self.nodes, self.generation, key, &mut self.kills)?)
    }

    /// Frees a run of `segment`. It becomes reusable once this checkpoint is durable and no reader
    /// that entered before is left. Freed twice in one checkpoint, it makes the checkpoint fail.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where the region's map, as far as it is in memory, names another
    /// segment; what is not in memory is checked before the space is used again.
    pub fn free(&mut self, run: Run, segment: SegmentId) -> Result<(), PoolError> {
        self.space.check_free(run, segment)?;
        self.frees.push((run, segment));
        Ok(())
    }

    /// Gives up what a crash left in a cluster's log: its cluster is deleted. Whether there was a
    /// log.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] where the cluster is mounted; [`PoolError::Corrupt`]; the tree's.
    pub fn drop_log(&mut self, cluster: ClusterId) -> Result<bool, PoolError> {
        let Some((owner, item)) = self.log_item(cluster)? else { return Ok(false) };
        let Some(outstanding) = item.outstanding.filter(|_| owner == cluster) else {
            return Err(PoolError::Invalid("the log of a mounted cluster"));
        };
        self.unreserve += outstanding.need_blocks;
        self.free(item.area, SegmentId::POOL)?;
        self.remove(items::log_key(cluster))?;
        Ok(true)
    }

    /// What is left of a cluster's damaged log is to be replayed. Whether there was such a log.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`]; the tree's.
    pub fn accept_log_loss(&mut self, cluster: ClusterId) -> Result<bool, PoolError> {
        let Some((owner, mut item)) = self.log_item(cluster)? else { return Ok(false) };
        match &mut item.outstanding {
            Some(outstanding) if owner == cluster && outstanding.damaged => {
                outstanding.damaged = false;
            }
            _ => return Ok(false),
        }
        self.put(items::log_key(cluster), &items::encode_log(cluster, &item))?;
        Ok(true)
    }

    fn log_item(&self, cluster: ClusterId) -> Result<Option<(ClusterId, LogItem)>, PoolError> {
        let Some(value) = self.get(items::log_key(cluster))? else { return Ok(None) };
        items::decode_log(&value).map(Some).map_err(|_| PoolError::undecodable("log item"))
    }

    /// Frees asked for and not yet booked: an upper bound of what this transaction adds.
    #[must_use]
    pub const fn pending_frees(&self) -> usize {
        self.frees.len()
    }

    /// Every region that anything was ever done with: what a sweep has to visit.
    #[must_use]
    pub fn regions(&self) -> Vec<u32> {
        self.space.regions()
    }

    /// The runs of a region that belong to one of `segments`, except what this transaction has
    /// freed already.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where the region's map is rotten; the device's.
    pub fn sweep_region(
        &self,
        region: u32,
        segments: &HashSet<SegmentId>,
    ) -> Result<Vec<(Run, SegmentId)>, PoolError> {
        let map = self.space.region_map(region)?;
        let runs = map.runs().into_iter().filter(|run| segments.contains(&run.segment));
        let mut found = Vec::new();
        for run in runs {
            let whole = self.space.run_of(region, &run);
            let mut rest = vec![whole];
            for (freed, _) in self.frees.iter().filter(|(freed, _)| freed.overlaps(&whole)) {
                rest = rest.into_iter().flat_map(|piece| without(piece, *freed)).collect();
            }
            found.extend(rest.into_iter().map(|piece| (piece, run.segment)));
        }
        Ok(found)
    }
}

/// What is left of `run` without `hole`.
fn without(run: Run, hole: Run) -> impl Iterator<Item = Run> {
    let (start, end) = (run.addr.get(), run.end().get());
    let before = (start, hole.addr.get().min(end));
    let behind = (hole.end().get().max(start), end);
    [before, behind]
        .into_iter()
        .filter(|(from, to)| from < to)
        .map(|(from, to)| Run { addr: crate::base::BlockAddr(from), blocks: (to - from) as u32 })
}

/// The catalog as the last durable checkpoint left it.
pub struct CatalogView {
    pub(in crate::pool) nodes: Arc<Nodes>,
    pub(in crate::pool) tree: Tree,
    pub(in crate::pool) generation: Generation,
    pub(in crate::pool) _guard: ReadGuard,
}

impl CatalogView {
    /// The checkpoint.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// An item's value.
    ///
    /// # Errors
    /// The tree's.
    pub fn get(&self, key: Key) -> Result<Option<Vec<u8>>, PoolError> {
        Ok(self.tree.get(&self.nodes, key)?)
    }

    /// The items from `from` to `to`, both included, in order.
    ///
    /// # Errors
    /// The tree's.
    pub fn range(
        &self,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PoolError> {
        Ok(self.tree.range(&self.nodes, from, to, visit)?)
    }

    /// As [`CatalogView::range`], going on behind what cannot be read. Whether all was read.
    pub fn range_with_gaps(
        &self,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(Part<'_>) -> ControlFlow<()>,
    ) -> bool {
        self.tree.range_with_gaps(&self.nodes, from, to, visit)
    }

    /// The last item at or before `key`.
    ///
    /// # Errors
    /// The tree's.
    pub fn last_before(&self, key: Key) -> Result<Option<(Key, Vec<u8>)>, PoolError> {
        Ok(self.tree.last_before(&self.nodes, key)?)
    }

    /// The tree itself, for whoever walks its nodes.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockAddr;

    #[test]
    fn a_run_without_a_hole_keeps_the_rest() {
        let run = |addr, blocks| Run { addr: BlockAddr(addr), blocks };
        let left = |hole| without(run(10, 10), hole).collect::<Vec<_>>();
        assert_eq!(left(run(12, 3)), [run(10, 2), run(15, 5)]);
        assert_eq!(left(run(10, 10)), []);
        assert_eq!(left(run(5, 7)), [run(12, 8)]);
        assert_eq!(left(run(18, 9)), [run(10, 8)]);
    }
}
