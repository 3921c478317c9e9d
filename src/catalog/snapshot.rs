//! Snapshots: taking several at one cut, deleting, holding, dating.

use std::collections::BTreeSet;

use crate::base::limits::DESCRIPTION_BYTES_MAX;
use crate::base::{ClusterId, SegmentId, SnapshotId, Timestamp};
use crate::catalog::error::CatalogError;
use crate::catalog::header::{ClusterRecord, SnapshotKind, SnapshotRecord};
use crate::catalog::state::{Edit, Index};
use crate::catalog::storage::Storage;

/// A snapshot to be taken.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Its identity: random, not in use.
    pub id: SnapshotId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Now.
    pub created_at: Timestamp,
    /// When retention may delete it.
    pub expires_at: Option<Timestamp>,
    /// Who asks.
    pub kind: SnapshotKind,
    /// For people.
    pub description: String,
}

/// That these snapshots can be taken in one cut.
///
/// # Errors
/// [`CatalogError::Twice`], [`CatalogError::ClusterGone`], [`CatalogError::SnapshotExists`],
/// [`CatalogError::TooLong`]
pub(in crate::catalog) fn check_new(
    index: &Index,
    new: &[NewSnapshot],
) -> Result<(), CatalogError> {
    let mut clusters = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for snapshot in new {
        let name = index.name(snapshot.cluster)?;
        if !clusters.insert(snapshot.cluster) {
            return Err(CatalogError::Twice(format!("cluster '{name}'")));
        }
        if index.snapshots.contains_key(&snapshot.id) || !ids.insert(snapshot.id) {
            return Err(CatalogError::SnapshotExists(snapshot.id));
        }
        if snapshot.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(CatalogError::TooLong("description"));
        }
    }
    Ok(())
}

/// That these snapshots can be deleted: they exist, none is held.
///
/// # Errors
/// [`CatalogError::Twice`], [`CatalogError::SnapshotNotFound`], [`CatalogError::Held`]
pub(in crate::catalog) fn check_delete(
    index: &Index,
    ids: &[SnapshotId],
) -> Result<(), CatalogError> {
    let mut seen = BTreeSet::new();
    for id in ids {
        if index.snapshot(*id)?.held {
            return Err(CatalogError::Held(*id));
        }
        if !seen.insert(*id) {
            return Err(CatalogError::Twice(id.to_string()));
        }
    }
    Ok(())
}

impl<S: Storage> Edit<'_, S> {
    /// Writes the snapshot whose cut this checkpoint made by closing `segment`: the head's own
    /// header, as it is now.
    ///
    /// # Errors
    /// [`CatalogError::Table`] where the segment was not closed by this checkpoint; the storage's.
    pub fn take_snapshot(
        &mut self,
        new: &NewSnapshot,
        segment: SegmentId,
    ) -> Result<(), CatalogError> {
        let cluster = self.cluster(new.cluster)?;
        self.record_snapshot(new, &cluster, segment)?;
        self.table.hold(segment)?;
        Ok(())
    }

    /// The snapshot's record: its cluster's header, copied.
    ///
    /// # Errors
    /// [`CatalogError::Inconsistent`]; the storage's errors.
    pub fn record_snapshot(
        &mut self,
        new: &NewSnapshot,
        cluster: &ClusterRecord,
        segment: SegmentId,
    ) -> Result<(), CatalogError> {
        if self.table.segment(segment)?.closed != Some(self.at) {
            return Err(CatalogError::Inconsistent("a snapshot without a cut"));
        }
        self.put_snapshot(&SnapshotRecord {
            id: new.id,
            cluster: cluster.id,
            cluster_name: cluster.name.clone(),
            lineage: cluster.lineage,
            segment,
            generation: self.at,
            created_at: new.created_at,
            expires_at: new.expires_at,
            kind: new.kind,
            held: false,
            description: new.description.clone(),
            next_inode_floor: cluster.next_inode_floor,
            header: cluster.header.dup(),
            staged: None,
        })
    }

    /// Deletes snapshots: names and keys at once, space in later steps.
    ///
    /// # Errors
    /// As [`check_delete`]; the storage's errors.
    pub fn delete_snapshots(&mut self, ids: &[SnapshotId]) -> Result<(), CatalogError> {
        check_delete(self.index, ids)?;
        for id in ids {
            let segment = self.index.snapshot(*id)?.segment;
            self.table.release(segment)?;
            self.remove_snapshot(*id)?;
        }
        Ok(())
    }

    /// Changes fields of a snapshot's record.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`]; the storage's errors.
    pub fn change_snapshot(
        &mut self,
        id: SnapshotId,
        change: impl FnOnce(&mut SnapshotRecord),
    ) -> Result<(), CatalogError> {
        let mut record = self.snapshot(id)?;
        change(&mut record);
        self.put_snapshot(&record)
    }
}
