//! Items and region maps in memory, for tests: a free that does not match fails the test.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use crate::base::{BlockAddr, SegmentId};
use crate::block::Run;
use crate::catalog::error::CatalogError;
use crate::catalog::keys::Key;
use crate::catalog::storage::{Items, Storage, Visit};

/// Blocks in a region.
pub(in crate::catalog) const REGION: u64 = 64;

/// A pool in memory.
#[derive(Default)]
pub(in crate::catalog) struct Memory {
    /// The catalog tree.
    pub items: BTreeMap<Key, Vec<u8>>,
    /// The region maps.
    pub blocks: BTreeMap<u64, SegmentId>,
    /// Blocks freed so far.
    pub freed: u64,
    /// A region whose map cannot be read.
    pub rotten: Option<u32>,
    /// Items read, written and visited so far.
    pub ops: Cell<u64>,
}

impl Items for Memory {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>, CatalogError> {
        self.ops.set(self.ops.get() + 1);
        Ok(self.items.get(&key).cloned())
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<(), CatalogError> {
        for (key, value) in self.items.range(from..=to) {
            self.ops.set(self.ops.get() + 1);
            if let ControlFlow::Break(()) = visit(*key, value) {
                break;
            }
        }
        Ok(())
    }
}

impl Storage for Memory {
    fn put(&mut self, key: Key, value: &[u8]) -> Result<(), CatalogError> {
        self.ops.set(self.ops.get() + 1);
        self.items.insert(key, value.to_vec());
        Ok(())
    }
    fn remove(&mut self, key: Key) -> Result<(), CatalogError> {
        self.items.remove(&key);
        Ok(())
    }
    fn free(&mut self, run: Run, segment: SegmentId) -> Result<(), CatalogError> {
        for addr in run.addr.0..run.end().0 {
            assert_eq!(self.blocks.remove(&addr), Some(segment), "double or wrong free of {addr}");
            self.freed += 1;
        }
        Ok(())
    }
    fn regions(&self) -> Vec<u32> {
        let mut regions: Vec<u32> = self.blocks.keys().map(|addr| (addr / REGION) as u32).collect();
        regions.dedup();
        regions
    }
    fn runs_of(
        &mut self,
        region: u32,
        segments: &HashSet<SegmentId>,
    ) -> Result<Vec<(Run, SegmentId)>, CatalogError> {
        if self.rotten == Some(region) {
            return Err(CatalogError::Inconsistent("a region map cannot be read"));
        }
        let range = u64::from(region) * REGION..u64::from(region + 1) * REGION;
        let found = self.blocks.range(range).filter(|(_, id)| segments.contains(id));
        Ok(found.map(|(addr, id)| (Run { addr: BlockAddr(*addr), blocks: 1 }, *id)).collect())
    }
}
