//! What the rules of this room stand on: items of the catalog tree, and the region maps.
//!
//! The pool's catalog transaction implements [`Storage`]; so does a map in memory, under which the
//! property tests run the very code that runs over a pool.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::base::SegmentId;
use crate::block::Run;
use crate::catalog::error::CatalogError;
use crate::catalog::keys::Key;

/// What is called for each item of a range, in order, until it says stop.
pub(in crate::catalog) type Visit<'a> = dyn FnMut(Key, &[u8]) -> ControlFlow<()> + 'a;

/// Reads items.
pub(in crate::catalog) trait Items {
    /// The item's value.
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, CatalogError>;
    /// Visits the items from `from` to `to`, both included.
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<(), CatalogError>;
}

/// Changes items, and frees blocks.
pub(in crate::catalog) trait Storage: Items {
    /// Puts an item in, or another value in its place.
    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), CatalogError>;
    /// Takes an item out; that there is none is no error.
    fn remove(&mut self, key: Key) -> Result<(), CatalogError>;
    /// Frees a run; the region's map must hold it under `segment`.
    fn free(&mut self, run: Run, segment: SegmentId) -> Result<(), CatalogError>;
    /// The regions that may hold blocks, ascending.
    fn regions(&self) -> Vec<u32>;
    /// The runs of one region that belong to any of `segments` and are not freed yet.
    fn runs_of(
        &mut self,
        region: u32,
        segments: &HashSet<SegmentId>,
    ) -> Result<Vec<(Run, SegmentId)>, CatalogError>;
}
