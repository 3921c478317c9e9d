//! Restoring: a snapshot becomes a new cluster, or its own cluster's head. Constant time.

use crate::base::{Generation, SnapshotId};
use crate::catalog::cluster::NewCluster;
use crate::catalog::error::CatalogError;
use crate::catalog::header::{Header, Origin};
use crate::catalog::snapshot::NewSnapshot;
use crate::catalog::state::Edit;
use crate::catalog::storage::Storage;

/// An in-place restore.
pub struct InPlace {
    /// The snapshot that its cluster goes back to.
    pub snapshot: SnapshotId,
    /// What keeps the state that is replaced.
    pub safety: NewSnapshot,
    /// The cluster's present keys, with the snapshot's root sealed anew under them.
    pub header: Header,
    /// The root that it replaces.
    pub replaced: Generation,
    /// Above every inode number that the cluster gave out up to that root: none may come back.
    pub next_inode_floor: u64,
}

impl<S: Storage> Edit<'_, S> {
    /// Makes a cluster from a snapshot.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::ClusterExists`],
    /// [`CatalogError::RootChanged`]; the storage's errors.
    pub fn clone_snapshot(&mut self, id: SnapshotId, new: NewCluster) -> Result<(), CatalogError> {
        let snapshot = self.snapshot(id)?;
        check_same_tree(&snapshot.header, &new.header)?;
        let origin =
            Origin { snapshot: id, cluster: snapshot.cluster, cluster_name: snapshot.cluster_name };
        let floor = snapshot.next_inode_floor;
        self.create_cluster(new, Some((origin, snapshot.segment, snapshot.lineage, floor)))
    }

    /// The cluster's head becomes the snapshot; a safety snapshot keeps what it was.
    ///
    /// # Errors
    /// [`CatalogError::SnapshotNotFound`], [`CatalogError::ClusterGone`],
    /// [`CatalogError::RootChanged`]; the storage's errors.
    pub fn restore_in_place(&mut self, restore: InPlace) -> Result<(), CatalogError> {
        let snapshot = self.snapshot(restore.snapshot)?;
        check_same_tree(&snapshot.header, &restore.header)?;
        let mut cluster = self.cluster(snapshot.cluster)?;
        let same_keys = restore.header.keys.ck_id == cluster.header.keys.ck_id;
        // Mounted and written to since the floor was read.
        if !same_keys || restore.replaced != cluster.header.root_generation {
            return Err(CatalogError::RootChanged);
        }
        let (safety, _) =
            self.table.restore_in_place(snapshot.cluster, snapshot.segment, self.at)?;
        self.record_snapshot(&restore.safety, &cluster, safety)?;
        cluster.header = restore.header;
        cluster.staged = None;
        cluster.next_inode_floor = cluster.next_inode_floor.max(restore.next_inode_floor);
        self.put_cluster(&cluster)
    }
}

/// That a header made outside still speaks of the tree that it was made for.
///
/// # Errors
/// [`CatalogError::RootChanged`]
pub(in crate::catalog) fn check_same_tree(old: &Header, new: &Header) -> Result<(), CatalogError> {
    let same = old.root_generation == new.root_generation
        && old.sealed_root.is_some() == new.sealed_root.is_some()
        && old.referenced_blocks == new.referenced_blocks;
    if same { Ok(()) } else { Err(CatalogError::RootChanged) }
}
