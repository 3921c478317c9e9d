//! Clusters: making and deleting them, and what a checkpoint brings of their heads.

use crate::base::{ClusterId, ClusterName, Generation, SegmentId, Timestamp};
use crate::block::Run;
use crate::catalog::error::CatalogError;
use crate::catalog::header::{ClusterRecord, Header, Origin};
use crate::catalog::kills;
use crate::catalog::state::{Edit, Index};
use crate::catalog::storage::Storage;

/// A cluster to be made.
pub struct NewCluster {
    /// Its identity: random, never used before.
    pub id: ClusterId,
    /// Its name, not in use.
    pub name: ClusterName,
    /// Now.
    pub created_at: Timestamp,
    /// Its keys; of a clone: with the snapshot's root, sealed anew under them.
    pub header: Header,
}

/// That a cluster of that name and id can be made.
///
/// # Errors
/// [`CatalogError::ClusterExists`]
pub(in crate::catalog) fn check_new(index: &Index, new: &NewCluster) -> Result<(), CatalogError> {
    // Two ids that begin alike share a place in the tree; with random ids that never happens.
    let same_place = |id: &ClusterId| id.as_bytes().first_chunk::<8>() == new.id.0.first_chunk();
    if index.names.contains_key(&new.name) || index.clusters.keys().any(same_place) {
        return Err(CatalogError::ClusterExists(new.name.clone()));
    }
    Ok(())
}

/// What a checkpoint brings of one head.
pub(in crate::catalog) struct HeadChange<'a, K> {
    pub cluster: ClusterId,
    /// Version of the cluster key that sealed the root.
    pub ck_id: u32,
    /// A new sealed root, if the tree changed.
    pub root: Option<&'a [u8]>,
    pub root_generation: Generation,
    pub referenced_blocks: u64,
    pub allocated: &'a [(SegmentId, u64)],
    /// Runs let go, with their births.
    pub kills: K,
}

impl<S: Storage> Edit<'_, S> {
    /// Makes a cluster, empty or a clone.
    ///
    /// # Errors
    /// [`CatalogError::ClusterExists`]; the storage's errors.
    pub fn create_cluster(
        &mut self,
        new: NewCluster,
        origin: Option<(Origin, SegmentId, ClusterId, u64)>,
    ) -> Result<(), CatalogError> {
        check_new(self.index, &new)?;
        let (origin, segment, lineage, next_inode_floor) = match origin {
            Some((origin, segment, lineage, floor)) => {
                (Some(origin), Some(segment), lineage, floor)
            }
            None => (None, None, new.id, 0),
        };
        self.table.create_head(new.id, segment, self.at)?;
        self.put_cluster(&ClusterRecord {
            id: new.id,
            name: new.name,
            lineage,
            created_at: new.created_at,
            origin,
            next_inode_floor,
            header: new.header,
            staged: None,
        })
    }

    /// Deletes a cluster; its snapshots stay. `uncounted`: a log that was never replayed holds
    /// blocks under its segment that the table does not count.
    ///
    /// # Errors
    /// [`CatalogError::ClusterGone`]; the storage's errors.
    pub fn delete_cluster(&mut self, id: ClusterId, uncounted: bool) -> Result<(), CatalogError> {
        let record = self.cluster(id)?;
        if uncounted {
            let current = self.table.current(id)?;
            self.table.set_uncounted(current)?;
        }
        self.table.end_head(id, self.at)?;
        self.remove_cluster(&record)
    }

    /// Takes over what one head brings to this checkpoint.
    ///
    /// # Errors
    /// [`CatalogError::Table`], [`CatalogError::ClusterGone`]; the storage's errors.
    pub fn settle_head<K>(&mut self, change: HeadChange<'_, K>) -> Result<(), CatalogError>
    where
        K: IntoIterator<Item = (Run, Generation)>,
    {
        for (segment, blocks) in change.allocated {
            self.table.add_blocks(*segment, *blocks)?;
        }
        kills::apply(self.table, self.storage, change.cluster, change.kills)?;
        let Some(root) = change.root else {
            return Ok(());
        };
        let mut record = self.cluster(change.cluster)?;
        if record.header.keys.ck_id != change.ck_id {
            // The head went over to its new key: its keys come into force with this very root.
            let staged = record.staged.take().filter(|s| s.keys.ck_id == change.ck_id);
            let unknown = CatalogError::Inconsistent("a root is sealed under an unknown key");
            record.header.keys = staged.ok_or(unknown)?.keys;
        }
        record.header.sealed_root = Some(root.to_vec());
        record.header.root_generation = change.root_generation;
        record.header.referenced_blocks = change.referenced_blocks;
        self.put_cluster(&record)
    }
}
