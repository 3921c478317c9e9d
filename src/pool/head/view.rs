//! Reading a tree and the data it points to: a head's at one moment, or a snapshot's.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::base::units::BlockAddr;
use crate::block::{BlockRef, ReadGuard, Run};
use crate::pool::PoolError;
use crate::pool::core::Core;
use crate::tree::{Key, Part, Tree};

/// An immutable tree. While it lives, no block that it reaches is given out again.
pub struct View {
    core: Arc<Core>,
    tree: Tree,
    _guard: ReadGuard,
}

impl View {
    pub(super) const fn new(core: Arc<Core>, tree: Tree, guard: ReadGuard) -> Self {
        Self { core, tree, _guard: guard }
    }

    /// The item of that key.
    ///
    /// # Errors
    /// Corruption, device errors.
    pub fn get(&self, key: Key) -> Result<Option<Vec<u8>>, PoolError> {
        Ok(self.tree.get(&self.core.nodes, key)?)
    }

    /// Calls `f` with each item from `from` to `to`, both inclusive, in order, until it breaks.
    ///
    /// # Errors
    /// Corruption, device errors.
    pub fn range(
        &self,
        from: Key,
        to: Key,
        f: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PoolError> {
        Ok(self.tree.range(&self.core.nodes, from, to, f)?)
    }

    /// As [`View::range`], going on behind what cannot be read. Whether all was read.
    pub fn range_with_gaps(
        &self,
        from: Key,
        to: Key,
        f: &mut dyn FnMut(Part<'_>) -> ControlFlow<()>,
    ) -> bool {
        self.tree.range_with_gaps(&self.core.nodes, from, to, f)
    }

    /// The item with the greatest key that is not above `key`.
    ///
    /// # Errors
    /// Corruption, device errors.
    pub fn last_before(&self, key: Key) -> Result<Option<(Key, Vec<u8>)>, PoolError> {
        Ok(self.tree.last_before(&self.core.nodes, key)?)
    }

    /// Reads, verifies and decrypts the consecutive blocks from `addr` on, one for each reference;
    /// `out` takes 4 KiB for each.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] naming the block, device errors.
    pub fn read_blocks(
        &self,
        addr: BlockAddr,
        refs: &[BlockRef],
        out: &mut [u8],
    ) -> Result<(), PoolError> {
        let blocks =
            u32::try_from(refs.len()).map_err(|_| PoolError::Corrupt { what: "extent", addr })?;
        Ok(self.core.data.read(Run { addr, blocks }, refs, out)?)
    }

    /// The tree itself, for walks that check it.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }
    /// Free space that ordinary writes may use, and the pool's size.
    #[must_use]
    pub fn space(&self) -> crate::block::SpaceReport {
        self.core.space.report()
    }
}
