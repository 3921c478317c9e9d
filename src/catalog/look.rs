//! Looking at clusters, snapshots, keys and sizes, as of the last checkpoint.

use crate::base::{ClusterId, ClusterName, SegmentId, SnapshotId};
use crate::catalog::error::CatalogError;
use crate::catalog::front::Catalog;
use crate::catalog::header::{Header, Tombstone};
use crate::catalog::info::{self, ClusterInfo, KeyRef, SnapshotInfo};
use crate::catalog::key_usage::{self, KeyUse};
use crate::catalog::rewrap::{self, Target};
use crate::catalog::segments::Segment;
use crate::catalog::{sizes, state};

/// Work that deletions left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkLeft {
    /// Stretches of history whose blocks nothing reaches any more.
    pub segments: usize,
    /// Their blocks.
    pub blocks: u64,
    /// Cuts that were let go inside a line of history; how many blocks hang on them is not known
    /// before they are looked at.
    pub cuts: usize,
}

impl WorkLeft {
    /// Whether there is none.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.segments == 0 && self.cuts == 0
    }
}

impl Catalog {
    /// Every cluster, by name.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn clusters(&self) -> Result<Vec<ClusterInfo>, CatalogError> {
        let items = self.items();
        let state = self.state.lock();
        let mut found = Vec::new();
        info::for_each_cluster(&items, &mut |record| found.push(state.cluster_info(record)))?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// One cluster.
    ///
    /// # Errors
    /// [`CatalogError::ClusterNotFound`]; corruption; the pool's errors.
    pub fn cluster(&self, name: &ClusterName) -> Result<ClusterInfo, CatalogError> {
        let items = self.items();
        let state = self.state.lock();
        let record = state::cluster_record(&items, state.index.cluster(name)?)?;
        Ok(state.cluster_info(record))
    }

    /// Snapshots, oldest first: all, or those of one cluster, deleted ones too.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn snapshots(&self, of: Option<ClusterId>) -> Result<Vec<SnapshotInfo>, CatalogError> {
        let items = self.items();
        let state = self.state.lock();
        let mut found = Vec::new();
        info::for_each_snapshot(&items, &mut |record| {
            if of.is_none_or(|cluster| record.cluster == cluster) {
                found.push(state.snapshot_info(record));
            }
        })?;
        found.sort_by_key(|s| (s.created_at, s.generation, s.id));
        Ok(found)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`]; corruption; the pool's errors.
    pub fn snapshot(&self, id: SnapshotId) -> Result<SnapshotInfo, CatalogError> {
        let record = state::snapshot_record(&self.items(), id)?;
        Ok(self.state.lock().snapshot_info(record))
    }

    /// The id of every snapshot, ascending.
    #[must_use]
    pub fn snapshot_ids(&self) -> Vec<SnapshotId> {
        self.state.lock().index.snapshots.keys().copied().collect()
    }

    /// What opens a cluster or a snapshot.
    ///
    /// # Errors
    /// [`CatalogError::ClusterGone`], [`CatalogError::SnapshotNotFound`]; corruption; the pool's.
    pub fn header(&self, target: Target) -> Result<Header, CatalogError> {
        Ok(rewrap::headers_of(&self.items(), target)?.0)
    }

    /// Blocks that deleting each of these snapshots alone would free.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`]; corruption; the pool's errors.
    pub fn unique_blocks(&self, ids: &[SnapshotId]) -> Result<Vec<u64>, CatalogError> {
        let mut state = self.state.lock();
        let items = self.items();
        let mut sizes = Vec::with_capacity(ids.len());
        for id in ids {
            let segment = state.index.snapshot(*id)?.segment;
            sizes.push(sizes::unique_blocks(&mut state.table, &items, segment)?);
        }
        Ok(sizes)
    }

    /// Blocks that deleting all of these snapshots together would free.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`]; corruption; the pool's errors.
    pub fn blocks_freed_by_deleting(&self, ids: &[SnapshotId]) -> Result<u64, CatalogError> {
        let mut state = self.state.lock();
        let items = self.items();
        let find = |id: &SnapshotId| state.index.snapshot(*id).map(|s| s.segment);
        let segments = ids.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        sizes::dry_run(&mut state.table, &items, |table| {
            segments.into_iter().try_for_each(|segment| table.release(segment))
        })
    }

    /// Blocks that deleting the cluster, and none of its snapshots, would free.
    ///
    /// # Errors
    /// [`CatalogError::ClusterGone`]; corruption; the pool's errors.
    pub fn cluster_unique_blocks(&self, id: ClusterId) -> Result<u64, CatalogError> {
        let mut state = self.state.lock();
        state.index.name(id)?;
        let items = self.items();
        let at = self.pool.generation();
        sizes::dry_run(&mut state.table, &items, |table| table.end_head(id, at.next()))
    }

    /// Blocks that what was deleted holds still, until the work in the background gives them back.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn blocks_being_freed(&self) -> Result<u64, CatalogError> {
        let state = self.state.lock();
        sizes::being_freed(&state.table, &self.items())
    }

    /// Every header and the keys that open it.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn key_usage(&self) -> Result<Vec<KeyUse>, CatalogError> {
        key_usage::all(&self.items())
    }

    /// The headers of a family that other keys open than `keys`, or none: they reach blocks that
    /// are shared.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn relatives(
        &self,
        lineage: ClusterId,
        keys: &[KeyRef],
    ) -> Result<Vec<KeyUse>, CatalogError> {
        key_usage::relatives(&self.items(), lineage, keys)
    }

    /// The customer keys known to be deleted.
    ///
    /// # Errors
    /// Corruption; the pool's errors.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>, CatalogError> {
        key_usage::tombstones(&self.items())
    }

    /// What deletions left to do; without what lies in regions whose map cannot be read, which stays
    /// until the pool is opened again.
    #[must_use]
    pub fn work_left(&self) -> WorkLeft {
        let state = self.state.lock();
        let table = &state.table;
        let blocks = |id: &SegmentId| table.segment(*id).map_or(0, |s| s.allocated_blocks);
        let dead = || table.dead().iter().filter(|id| !state.progress.is_stuck(**id));
        WorkLeft {
            segments: dead().count(),
            blocks: dead().map(blocks).sum(),
            cuts: table.released().len(),
        }
    }

    /// Blocks that the table counts for every segment, for comparison with the region maps; `None`
    /// for one that a log which was never replayed left uncounted.
    #[must_use]
    pub fn blocks_by_segment(&self) -> Vec<(SegmentId, Option<u64>)> {
        let state = self.state.lock();
        let count = |s: &Segment| (!s.uncounted).then_some(s.allocated_blocks);
        state.table.segments().map(|(id, s)| (id, count(s))).collect()
    }
}
